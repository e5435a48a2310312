//! An endpoint dies under 200 subscribed clients: nobody is disconnected, nothing is missing without word of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bawaba_tests::client::Client;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

const CLIENTS: usize = 200;
const SYMBOLS: [&str; 3] = ["COMI", "TMGH", "EAST"];

/// Where a client stands in each instrument's stream.
#[derive(Default)]
struct Places(HashMap<String, (String, u64)>);

impl Places {
    /// Takes an event; fails on a hole that no `gap` announced.
    fn take(&mut self, event: &Value) {
        let symbol = event["symbol"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str() {
            Some("market_data_update") => {
                let (epoch, seq) = (event["epoch"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap());
                if let Some((known, last)) = self.0.get(&symbol)
                    && event["snapshot"] != true
                {
                    assert_eq!(*known, epoch, "another epoch without a gap: {event}");
                    assert_eq!(seq, last + 1, "a hole without a gap: {event}");
                }
                self.0.insert(symbol, (epoch, seq));
            }
            Some("gap") => drop(self.0.remove(&symbol)),
            _ => panic!("not expected here: {event}"),
        }
    }
}

#[test]
fn an_endpoint_that_dies_costs_no_client_its_connection_and_no_update() {
    let keys = Keys::generate();
    let scratch = Scratch::new();
    // The same seed and anchor: both serve the same streams.
    let arguments = ["--exchange", "EGX", "--round-the-clock", "--updates-per-second", "500"];
    let mut servers = [ChannelServer::start(&arguments), ChannelServer::start(&arguments)];
    let addresses = [servers[0].address, servers[1].address];
    let edge = Edge::start(&scratch, &edge_config(&scratch, &keys, &[], &[("EGX", &addresses)]));

    let mut clients: Vec<(Client, Places)> = (0..CLIENTS)
        .map(|n| {
            let mut client = edge.connect(&keys.unscreened(&format!("user-{n}")));
            client.until_type("welcome");
            let subscribe =
                json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX", "symbols": SYMBOLS});
            let answer = client.request(subscribe);
            assert_eq!(answer["accepted"].as_array().map(Vec::len), Some(SYMBOLS.len()), "{answer}");
            (client, Places::default())
        })
        .collect();
    for (client, places) in &mut clients {
        for _ in 0..5 {
            places.take(&client.event());
        }
    }

    servers[0].process.kill();
    let killed_at = Instant::now();
    // What was sent before the kill is read first; the update that proves the move was made after it.
    let made_after = format_now();
    for (n, (client, places)) in clients.iter_mut().enumerate() {
        let deadline = by(PATIENCE);
        loop {
            let event = client.try_event(deadline).expect("updates go on");
            places.take(&event);
            if event["time"].as_str().is_some_and(|time| time > made_after.as_str()) {
                break;
            }
        }
        // The socket of a killed process closes at once: detection is immediate, the rest is the move. The others
        // had theirs at the same moment, but are read one after the other here.
        if n == 0 {
            assert!(killed_at.elapsed() < Duration::from_secs(1), "{:?}", killed_at.elapsed());
        }
    }
    for (client, _) in &mut clients {
        assert_eq!(client.request(json!({"type": "ping", "id": 2}))["type"], "pong");
    }
}

/// Now, as times are written on the wire.
fn format_now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    bawaba_channels::wire::Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap()).to_string()
}
