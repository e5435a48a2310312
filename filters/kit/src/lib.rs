//! Write a rule over WebSocket messages; run it in Bawaba and in Envoy.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[doc(hidden)]
pub mod export;
pub mod handshake;
mod head;
mod json;
mod kind;
mod limits;
mod message;
mod pings;
mod policy;
mod proto;
mod reply;
mod rng;
mod session;
#[doc(hidden)]
pub mod shell;
mod stamp;
pub mod stream;

pub use kind::Kind;
pub use limits::{Limits, configure};
pub use message::{Message, Metadata, PreparedMetadata};
pub use policy::{End, Policy, Refusal, Verdict, reason_of};
pub use session::{Audience, Session, restrict};

pub use bawaba_channels as channels;
