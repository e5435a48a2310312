//! See the crate description.

#![allow(dead_code, missing_docs)]

mod config;
mod context;
mod downstream;
mod worker;

fn main() {}
