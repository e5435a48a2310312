//! The channel server as a process, over real sockets.
//!
//! Nothing sleeps: every wait is for a message, a line or the end of a process, with a deadline.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "tests fail loudly")]

mod client;
mod handshakes;
mod limits;
mod market;
mod operators;
mod process;
mod trading;
