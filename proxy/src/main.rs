//! See the crate description.

#![allow(dead_code, missing_docs, unreachable_pub)]

mod answer;
mod chain;
mod cluster;
mod config;
mod context;
mod downstream;
mod drain;
mod generation;
mod health;
mod jitter;
mod shared;
mod sticky;
mod worker;

fn main() {}
