//! What a subscription asks for is what it gets: its rate, its fields, its place, its own name; and what stands first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bawaba_tests::client::Client;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

struct Market {
    keys: Keys,
    edge: Edge,
    _server: ChannelServer,
    _scratch: Scratch,
}

impl Market {
    fn of(server: ChannelServer) -> Self {
        let (keys, scratch) = (Keys::generate(), Scratch::new());
        let edge = Edge::start(&scratch, &edge_config(&scratch, &keys, &[], &[("EGX", &[server.address])]));
        Self { keys, edge, _server: server, _scratch: scratch }
    }

    fn user(&self, user: &str) -> Client {
        let mut client = self.edge.connect(&self.keys.unscreened(user));
        client.until_type("welcome");
        client
    }
}

fn subscribe(id: u64, channel: &str, more: Value) -> Value {
    let mut request =
        json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": ["COMI"]});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// Everything that came before the server's answer to one more request.
fn up_to_now(client: &mut Client) -> Vec<Value> {
    client.send(json!({"type": "order", "id": 4711, "op": "cancel", "exchange": "EGX", "order_id": "none"}));
    let mut events = Vec::new();
    loop {
        let event = client.event();
        if event["id"] == 4711 {
            return events;
        }
        events.push(event);
    }
}

#[test]
fn a_rate_folds_updates_without_losing_one_and_is_never_exceeded() {
    const RATE: Duration = Duration::from_millis(200);
    let market = Market::of(ChannelServer::live("EGX"));
    let (mut client, mut other) = (market.user("mona"), market.user("omar"));
    let every = other.request(subscribe(1, "market_data", json!({})))["subscription"].clone();
    let answer = client.request(subscribe(1, "market_data", json!({"update_rate_ms": RATE.as_millis() as u64})));
    assert_ne!(answer["subscription"], every, "another rate is another subscription");
    let snapshot = client.event();
    assert_eq!(snapshot["snapshot"], true, "{snapshot}");
    let (mut last, mut folded) = (snapshot["seq"].as_u64().unwrap(), 0);
    let begun = Instant::now();
    for count in 1..=6 {
        let update = client.event();
        assert_eq!(update["subscription"], answer["subscription"], "{update}");
        let seq = update["seq"].as_u64().unwrap();
        let first = update["first_seq"].as_u64().unwrap_or(seq);
        assert_eq!(first, last + 1, "{update}");
        folded += usize::from(first < seq);
        last = seq;
        // Two may leave at once, at the edges of their windows.
        assert!(begun.elapsed() + RATE >= RATE * (count - 1), "{count} updates in {:?}", begun.elapsed());
    }
    assert!(folded > 0, "nothing was folded");
    // Both at once on one connection, each under its name.
    client.request(subscribe(2, "market_data", json!({})));
    let mut names = BTreeSet::new();
    while names.len() < 2 {
        names.insert(client.until_type("market_data_update")["subscription"].to_string());
    }
}

#[test]
fn only_the_fields_that_were_asked_for_come() {
    let market = Market::of(ChannelServer::live("EGX"));
    let mut client = market.user("mona");
    client.request(subscribe(1, "market_data", json!({"filters": {"fields": ["last", "volume"]}})));
    for _ in 0..5 {
        let update = client.event();
        let fields: BTreeSet<&str> = update["data"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(fields.is_subset(&BTreeSet::from(["last", "volume"])), "{update}");
        if update["snapshot"] == true {
            assert_eq!(fields.len(), 2, "{update}");
        }
    }
}

#[test]
fn every_channel_begins_with_what_stands_for_the_first_and_for_the_second_alike() {
    let market = Market::of(ChannelServer::still("EGX"));
    let mut clients = [market.user("mona"), market.user("omar")];
    for (id, channel) in (1..).zip(["market_data", "order_book", "trades", "market_status"]) {
        let begins = clients.each_mut().map(|client| {
            let answer = client.request(subscribe(id, channel, json!({})));
            assert_eq!(answer["refused"], json!([]), "{channel}: {answer}");
            up_to_now(client)
        });
        assert_eq!(begins[0].len(), 1, "{channel}: {begins:?}");
        assert_eq!(begins[0], begins[1], "{channel}");
        // Asked for again, it begins again; for nobody else.
        let [first, second] = &mut clients;
        first.request(subscribe(id + 100, channel, json!({})));
        assert_eq!(up_to_now(first), begins[0], "{channel}");
        assert_eq!(up_to_now(second), [] as [Value; 0], "{channel}");
    }
    // Who wants no snapshot gets none.
    for channel in ["market_data", "order_book", "trades"] {
        let mut third = market.user("laila");
        third.request(subscribe(1, channel, json!({"snapshot": false})));
        assert_eq!(up_to_now(&mut third), [] as [Value; 0], "{channel}");
    }
    let mut alone = market.user("nour");
    alone.request(subscribe(1, "market_data", json!({"symbols": ["TMGH"], "snapshot": false})));
    assert_eq!(up_to_now(&mut alone), [] as [Value; 0], "the first to ask for it");
}

#[test]
fn a_client_comes_back_to_a_folded_subscription_without_a_hole() {
    let market = Market::of(ChannelServer::live("EGX"));
    let rate = json!({"update_rate_ms": 150});
    let mut client = market.user("mona");
    client.request(subscribe(1, "market_data", rate.clone()));
    let mut last = client.event();
    for _ in 0..4 {
        drop(client);
        client = market.user("mona");
        let mut again = rate.clone();
        again["resume"] = json!({"COMI": {"epoch": last["epoch"], "seq": last["seq"]}});
        let answer = client.request(subscribe(1, "market_data", again));
        assert_eq!(answer["accepted"][0]["recovered"], true, "{answer}");
        for _ in 0..4 {
            let update = client.until(|event| event["type"] == "market_data_update", by(PATIENCE));
            let first = update["first_seq"].as_u64().or(update["seq"].as_u64()).unwrap();
            assert!(first <= last["seq"].as_u64().unwrap() + 1, "a hole behind {last}: {update}");
            assert!(update["seq"].as_u64() > last["seq"].as_u64(), "twice: {update}");
            last = update;
        }
    }
}
