//! What a channel is and how it is spoken: names, frames, messages, close codes, refusal words, logs; and what an
//! exchange is: its calendar, its rules, the state of its market.
//!
//! Pure and sans-io: nothing here opens a socket or reads a clock. The edge, the channel server and the
//! filter kit (compiled to WebAssembly) all speak through this one crate.

extern crate alloc;

pub mod calendar;
pub mod claims;
pub mod close;
pub mod decimal;
pub mod filter;
pub mod frame;
pub mod listing;
pub mod log;
pub mod market;
pub mod message;
pub mod name;
pub mod price;
pub mod reason;
pub mod rules;
pub mod wire;
