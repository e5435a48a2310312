//! See the crate description.

#![allow(dead_code, missing_docs, unreachable_pub)]

mod answer;
mod chain;
mod cluster;
mod config;
mod context;
mod control;
mod counters;
mod downstream;
mod drain;
mod generation;
mod health;
mod hub;
mod jitter;
mod outbox;
mod session;
mod shared;
mod sticky;
mod trunk;
mod worker;

fn main() {}
