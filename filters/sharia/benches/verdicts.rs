//! What a message costs natively: parse, judge, annotate. Run with `cargo bench -p filter-sharia`.
//!
//! Figures are printed, not asserted: they belong to the machine that printed them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../src/judged.rs"]
mod judged;
#[path = "../src/memory.rs"]
mod memory;
#[path = "../src/policy.rs"]
mod policy;
#[path = "../src/settings.rs"]
mod settings;
#[path = "../src/words.rs"]
mod words;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bawaba_filter_kit::channels::frame;
use bawaba_filter_kit::channels::wire::{Encoding, Event, Timestamp};
use bawaba_filter_kit::handshake::Handshake;
use bawaba_filter_kit::stream::Stream;
use bawaba_filter_kit::{Limits, configure};
use policy::Sharia;

const NOW: i64 = 1_795_334_400_000_000_000;
const QUOTE: &str = r#"{"type":"market_data_update","subscription":"s1","exchange":"EGX","symbol":"ABUK","epoch":"e1","seq":1043,"snapshot":false,"time":"2026-11-22T08:00:00.125Z","data":{"last":"84.50","bid":"84.49","ask":"84.52"}}"#;

/// Nanoseconds per message, best of five rounds.
fn measure(claims: &str, encoding: Encoding, symbol: &str, per_chunk: usize) -> f64 {
    let (policy, limits) = configure::<Sharia>(br#"{"historical":["egx33@2024-06-12"]}"#).unwrap();
    let headers = vec![("x-bawaba-claims".to_owned(), claims.as_bytes().to_vec())];
    let handshake = Handshake::read(&headers).unwrap();
    let mut stream = Stream::open(&policy, &limits, handshake.session, None, Timestamp(NOW), 1).ok().unwrap();
    stream.accepted(Some(encoding.subprotocol()), &Limits::default());
    let mut payload = Vec::new();
    Event::from_json(QUOTE.replace("ABUK", symbol).as_bytes()).unwrap().encode(encoding, &mut payload);
    let mut chunk = Vec::new();
    for _ in 0..per_chunk {
        frame::encode(&mut chunk, true, encoding.opcode(), &payload, None);
    }
    let mut best = Duration::MAX;
    let rounds = 200_000 / per_chunk;
    for _ in 0..5 {
        let start = Instant::now();
        for round in 0..rounds {
            let now = Timestamp(NOW + round as i64 * 50_000);
            black_box(stream.response(&policy, now, black_box(chunk.clone())));
        }
        best = best.min(start.elapsed());
    }
    best.as_nanos() as f64 / (rounds * per_chunk) as f64
}

fn main() {
    // {"sub":"u"} and {"sub":"u","islamic":{"mode":"filter","boards":["EGX33"],"rule":"named"}}
    let (off, on) = (
        "eyJzdWIiOiJ1In0",
        "eyJzdWIiOiJ1IiwiaXNsYW1pYyI6eyJtb2RlIjoiZmlsdGVyIiwiYm9hcmRzIjpbIkVHWDMzIl0sInJ1bGUiOiJuYW1lZCJ9fQ",
    );
    println!("{} bytes a message as JSON; ns per message", QUOTE.len());
    for encoding in [Encoding::Json, Encoding::Proto] {
        for (what, claims, symbol) in [("passes", off, "ABUK"), ("annotated", on, "ABUK"), ("dropped", on, "EAST")] {
            let (one, many) = (measure(claims, encoding, symbol, 1), measure(claims, encoding, symbol, 80));
            println!("{encoding:?} {what:<9}  {one:6.0} alone  {many:6.0} in a chunk of 80");
        }
    }
}
