//! The laws of the host, tried with guests that the tests build themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

#[path = "laws/caller.rs"]
mod caller;
#[path = "laws/calls.rs"]
mod calls;
#[path = "laws/confined.rs"]
mod confined;
#[path = "laws/exchange.rs"]
mod exchange;
#[path = "laws/guest.rs"]
mod guest;
