//! What a channel is and how it is spoken: names, frames, messages, close codes, refusal words, logs.
//!
//! Pure and sans-io: nothing here opens a socket or reads a clock. The edge, the channel server and the
//! filter kit (compiled to WebAssembly) all speak through this one crate.

extern crate alloc;

pub mod claims;
pub mod close;
pub mod decimal;
pub mod frame;
pub mod log;
pub mod message;
pub mod name;
pub mod reason;
pub mod wire;
