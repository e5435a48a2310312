//! Write a rule over WebSocket messages; run it in Bawaba and in Envoy.
//!
//! An author writes a [`Policy`] and hands it to [`policy!`]; the crate is then a proxy-wasm filter. Frames, fragments,
//! control frames, claims, encodings and the answers to refused requests are the kit's business; no knowledge of
//! proxy-wasm is needed. The tutorial is `docs/author-a-policy.md`; [`trial`] is for tests.
//!
//! * [`Message`]: the same questions and edits in JSON and protobuf; what nobody edits passes byte for byte.
//! * [`stream`]: the whole mechanism without a host, from bytes to bytes.
//! * [`handshake`]: from headers to a [`Session`], and the HTTP answer of a refusal.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cells;
#[doc(hidden)]
pub mod export;
pub mod handshake;
mod head;
mod host;
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
pub mod trial;

pub use bawaba_channels::wire::Metadata;
pub use cells::SharedData;
pub use host::{Delay, Grant, Host};
pub use kind::Kind;
pub use limits::{Limits, configure};
pub use message::{Message, PreparedMetadata};
pub use policy::{End, Policy, Refusal, Verdict, reason_of};
pub use session::{Audience, Session, restrict};

pub use bawaba_channels as channels;

/// The tutorial, whose code is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/author-a-policy.md")]
pub struct Tutorial;
