//! The rules of Bawaba: licensing, quota and Sharia screening. Facts in, verdict out.
//!
//! Nothing here knows a socket, a wasm host, a clock or a file: claims and data come as JSON values, time comes as
//! [`UnixNanos`], and what comes back says what was decided, by which list or tier, and why. Missing, stale,
//! malformed or ambiguous facts are always a refusal; every refusal is one [`Reason`], whose word is the same in
//! the reply, the log and the metric.
//!
//! * [`sharia`]: boards, dated screening lists, and the rule that joins several boards.
//! * [`license`]: tiers as sets of features, and what they open.
//! * [`quota`]: exact integer limits for one session.
//! * [`instrument`]: what trades where, under which ISIN; shared by the first two.

#![no_std]

extern crate alloc;

mod claims;
pub mod data;
pub mod instrument;
pub mod license;
pub mod quota;
pub mod reason;
pub mod sharia;
pub mod time;

pub use data::DataError;
pub use instrument::{AssetType, Directory, InstrumentRef};
pub use reason::Reason;
pub use time::UnixNanos;
