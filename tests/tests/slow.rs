//! A reader that stops reading: a slower rate and back, a gap, or the end with a way back; and nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::HashMap;

use bawaba_tests::client::{Client, Connect, End};
use bawaba_tests::keys::Keys;
use bawaba_tests::place::{Scratch, root};
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, set};
use bawaba_tests::{PATIENCE, by, until};
use serde_json::{Value, json};
use toml::Table;

/// One busy instrument behind an edge without filters.
struct Busy {
    keys: Keys,
    edge: Edge,
    _server: ChannelServer,
    _scratch: Scratch,
}

impl Busy {
    fn start(change: impl FnOnce(&mut Table)) -> Self {
        let (keys, scratch) = (Keys::generate(), Scratch::new());
        let listing = std::fs::read(root().join("channels/data/egx.json")).unwrap();
        let mut listing: Value = serde_json::from_slice(&listing).unwrap();
        listing["instruments"].as_array_mut().unwrap().retain(|instrument| instrument["symbol"] == "COMI");
        let file = scratch.write("one.json", listing.to_string()).display().to_string();
        let mut arguments = ChannelServer::live_arguments("EGX").map(str::to_owned).to_vec();
        arguments.extend(["--data".into(), file]);
        let rate = arguments.iter().position(|argument| argument == "500").unwrap();
        arguments[rate] = "2000".into();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = ChannelServer::start(&arguments);
        let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &[server.address])]);
        change(&mut config);
        let edge = Edge::start(&scratch, &config);
        Self { keys, edge, _server: server, _scratch: scratch }
    }

    /// A session that follows these channels. The slow have a small buffer of their own, so that they are soon behind.
    fn follow(&self, user: &str, channels: &[&str]) -> Client {
        let mut client = self.edge.connect(&self.keys.unscreened(user));
        // And the quick one's is large, so that it is not slow when the machine is.
        let bytes = if user == "quick" { 1 << 20 } else { 4096 };
        socket2::SockRef::from(client.stream()).set_recv_buffer_size(bytes).unwrap();
        client.until_type("welcome");
        for (id, channel) in (1..).zip(channels) {
            client.request(
                json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": ["COMI"]}),
            );
        }
        client
    }
}

/// Where a client stands in each channel: in sequence, folded, or told what is missing.
#[derive(Default)]
struct Places {
    last: HashMap<String, (String, u64)>,
    gaps: usize,
    folded: usize,
    degraded: Vec<u64>,
}

impl Places {
    fn take(&mut self, event: &Value) {
        match event["type"].as_str().unwrap() {
            kind if kind.ends_with("_update") => {
                let place = (event["epoch"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap());
                let first = event["first_seq"].as_u64().unwrap_or(place.1);
                self.folded += usize::from(first < place.1);
                if let Some((epoch, last)) = self.last.get(kind)
                    && event["snapshot"] != true
                {
                    assert_eq!(*epoch, place.0, "another epoch without a gap: {event}");
                    assert!(first <= last + 1, "a hole behind {last} without a gap: {event}");
                    assert!(place.1 > *last, "nothing new behind {last}: {event}");
                }
                self.last.insert(kind.to_owned(), place);
            }
            "gap" => {
                self.gaps += 1;
                self.last.clear();
            }
            "degraded" => self.degraded.push(event["update_rate_ms"].as_u64().unwrap()),
            other => panic!("{other} is not expected: {event}"),
        }
    }

    /// Reads `count` events.
    fn read(&mut self, client: &mut Client, count: usize) {
        for _ in 0..count {
            self.take(&client.event());
        }
    }
}

#[test]
fn slow_readers_get_a_slower_rate_and_their_own_again_and_nobody_else_notices() {
    const SLOW: usize = 20;
    let busy = Busy::start(|config| {
        set(config, "limits.outbox_bytes_max", 64 * 1024);
        set(config, "timeouts.degraded", "300ms");
    });
    drop(busy.follow("first", &["market_data"]));
    let before = busy.edge.process.resident_bytes();
    let mut slow: Vec<Client> = (0..SLOW).map(|n| busy.follow(&format!("slow-{n}"), &["market_data"])).collect();
    let mut quick = busy.follow("quick", &["market_data"]);
    let mut place = Places::default();
    until("all of them are slowed down", by(PATIENCE), || {
        place.read(&mut quick, 50);
        busy.edge.metric("bawaba_degraded_total").filter(|count| *count >= SLOW as f64)
    });
    // The buffers of one worker, and for each slow session a bounded rest.
    let grown = busy.edge.process.resident_bytes().saturating_sub(before);
    assert!(grown < (2 + SLOW as u64 / 4) << 20, "{grown} bytes");
    assert_eq!((place.gaps, place.folded, place.degraded.len()), (0, 0, 0), "the quick one noticed");
    for client in slow.iter_mut().take(3) {
        // From now on it keeps up.
        socket2::SockRef::from(client.stream()).set_recv_buffer_size(1 << 20).unwrap();
        let mut place = Places::default();
        while place.degraded.len() < 2 {
            place.take(&client.event());
        }
        assert_eq!(place.degraded, [1000, 0], "slower, and then what was asked for");
        let folded = place.folded;
        place.read(client, 200);
        assert!(
            place.folded <= folded + 1,
            "every update comes again: {} folded, {:?}",
            place.folded - folded,
            place.degraded
        );
        assert_eq!(place.gaps, 0, "folded, so nothing is missing");
    }
}

#[test]
fn a_reader_that_its_log_overtakes_skips_to_what_stands_behind_a_gap() {
    let busy = Busy::start(|config| {
        set(config, "limits.outbox_bytes_max", 64 << 20);
        set(config, "limits.log_bytes_max", 4 * 1024);
    });
    let mut slow = busy.follow("slow", &["market_data", "order_book"]);
    let mut quick = busy.follow("quick", &["market_data"]);
    let mut place = Places::default();
    // Until far more was made than all buffers between here and there can hold.
    place.read(&mut quick, 2000);
    let mut behind = Places::default();
    while behind.gaps < 2 {
        behind.take(&slow.event());
    }
    behind.read(&mut slow, 100);
    assert!(behind.degraded.is_empty());
}

#[test]
fn a_reader_too_slow_for_what_may_lose_nothing_is_sent_away_with_a_way_back() {
    let busy = Busy::start(|config| {
        set(config, "limits.log_bytes_max", 4 * 1024);
        set(config, "limits.outbox_bytes_max", 64 * 1024);
    });
    let mut slow = busy.follow("slow", &["market_data", "trades"]);
    let mut quick = busy.follow("quick", &["market_data", "trades"]);
    let (mut place, mut trades) = (Places::default(), 0);
    while trades < 400 {
        let event = quick.event();
        trades += usize::from(event["type"] == "trade_update");
        place.take(&event);
    }
    let mut behind = Places::default();
    let drain = loop {
        let event = slow.event();
        if event["type"] == "drain" {
            break event;
        }
        behind.take(&event);
    };
    let End::Close(code, reason) = slow.end(by(PATIENCE)) else { panic!("cut") };
    assert_eq!((code, reason.starts_with("slow")), (Some(4008), true), "{reason}");
    // The way back: to where it was, from where it was.
    let token = drain["resume"].as_str().unwrap();
    let back = Connect::with_token(&busy.keys.unscreened("slow")).path(&format!("/ws?resume={token}"));
    let mut back = back.accepted(busy.edge.address);
    back.until_type("welcome");
    let (epoch, seq) = behind.last["trade_update"].clone();
    let answer = back.request(json!({"type": "subscribe", "id": 1, "channel": "trades", "exchange": "EGX",
        "symbols": ["COMI"], "resume": {"COMI": {"epoch": epoch, "seq": seq}}}));
    if answer["accepted"][0]["recovered"] != true {
        assert_eq!(back.event()["type"], "gap");
        behind.last.clear();
    }
    behind.read(&mut back, 50);
    place.read(&mut quick, 50);
}

#[test]
fn a_reader_that_takes_nothing_at_all_is_closed() {
    let busy = Busy::start(|config| {
        set(config, "timeouts.write_stall", "500ms");
        set(config, "timeouts.close", "100ms");
    });
    let mut quick = busy.follow("quick", &["market_data"]);
    let mut stuck = busy.follow("stuck", &["market_data", "order_book"]);
    let mut place = Places::default();
    until("the stuck one is closed", by(PATIENCE), || {
        place.read(&mut quick, 50);
        busy.edge.metric("bawaba_closes_total{code=\"slow\"}").filter(|closed| *closed >= 1.0)
    });
    assert!(matches!(stuck.end(by(PATIENCE)), End::Cut | End::Close(Some(4008), _)));
    place.read(&mut quick, 50);
}
