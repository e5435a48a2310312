//! The laws of the host, tried with guests that the tests build themselves.

#[path = "laws/calls.rs"]
mod calls;
#[path = "laws/confined.rs"]
mod confined;
#[path = "laws/guest.rs"]
mod guest;
