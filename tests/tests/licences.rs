//! A licence that changes under open sockets ends exactly what it no longer opens, within a second, and gives it back
//! without a new connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;
use std::time::{Duration, Instant};

use bawaba_channels::wire::Timestamp;
use bawaba_tests::client::Client;
use bawaba_tests::keys::{Keys, now_ms, now_s};
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, Stack, edge_config, path, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

/// Within which a change must have been told.
const AT_ONCE: Duration = Duration::from_secs(1);

struct Licensed {
    stack: Stack,
    files: Scratch,
}

impl Licensed {
    /// An edge behind the license and quota filters, with these licences.
    fn start(rows: &Value) -> Self {
        let files = Scratch::new();
        for filter in ["license", "quota"] {
            files.write(&format!("{filter}.json"), settings(rows).to_string());
        }
        let stack = Stack::start_with(&["license", "quota"], |config| {
            for filter in ["license", "quota"] {
                let file = files.path().join(format!("{filter}.json"));
                set(config, &format!("filter.{filter}.settings_file"), path(&file));
            }
        });
        Self { stack, files }
    }

    fn change(&self, rows: &Value) {
        for filter in ["license", "quota"] {
            self.files.write(&format!("{filter}.json"), settings(rows).to_string());
        }
    }

    fn connect(&self, user: &str) -> Client {
        let claims = json!({"sub": user, "tenant": "acme", "tier": "basic"});
        let mut client = self.stack.connect(&self.stack.keys.token(claims));
        client.until_type("welcome");
        client
    }
}

fn settings(rows: &Value) -> Value {
    json!({ "licenses": { "id": "licenses@test", "rows": rows } })
}

fn instant(seconds: i64) -> String {
    Timestamp(seconds * 1_000_000_000).to_string()
}

fn subscribe(client: &mut Client, id: u64, exchange: &str, symbol: &str) -> Value {
    client.request(
        json!({"type": "subscribe", "id": id, "channel": "market_data", "exchange": exchange, "symbols": [symbol]}),
    )
}

fn accepted(answer: &Value) -> &Value {
    &answer["accepted"][0]["symbol"]
}

#[test]
fn time_alone_ends_a_licence_on_open_sockets_within_a_second_and_gives_it_back() {
    let start = now_s();
    let (gone, back) = (start + 6, start + 9);
    // ADX goes with the second licence; from `back` on the third has it again.
    let row = |id: &str, from: i64, to: Option<i64>, without: &[&str]| json!({"id": id, "tenant": "acme", "tier": "professional", "from": instant(from), "to": to.map(instant), "without": without});
    let licensed = Licensed::start(&json!([
        row("L-1", start - 60, Some(gone), &[]),
        row("L-2", gone, Some(back), &["ADX_ACCESS"]),
        row("L-3", back, None, &[]),
    ]));
    let mut clients: Vec<Client> = (0..20).map(|n| licensed.connect(&format!("user-{n}"))).collect();
    for client in &mut clients {
        assert_eq!(accepted(&subscribe(client, 1, "EGX", "COMI")), "COMI");
        assert_eq!(accepted(&subscribe(client, 2, "ADX", "FAB")), "FAB");
    }
    assert!(now_s() < gone, "this machine is too slow for the test's clock");
    for client in &mut clients {
        let revoked = client.until_type("revoked");
        assert_eq!(revoked["code"], "license.exchange", "{revoked}");
        assert_eq!(revoked["symbols"], json!(["FAB"]), "exactly what the licence no longer opens: {revoked}");
        let told = Timestamp::from_millis(now_ms());
        let late = told.0 - gone * 1_000_000_000;
        assert!((0..AT_ONCE.as_nanos() as i64).contains(&late), "told {late} ns after the licence ended");
    }
    // COMI goes on, FAB does not: of ten updates each none is of ADX.
    for client in &mut clients {
        for _ in 0..10 {
            assert_eq!(client.until_type("market_data_update")["exchange"], "EGX");
        }
        assert_eq!(subscribe(client, 3, "ADX", "FAB")["code"], "license.exchange");
    }
    let deadline = by(PATIENCE);
    while now_s() < back {
        assert!(deadline.left().is_some());
        // The clock is what is waited for; EGX's messages tell that it moves.
        clients[0].until_type("market_data_update");
    }
    for client in &mut clients {
        assert_eq!(accepted(&subscribe(client, 4, "ADX", "FAB")), "FAB", "back, on the same connection");
    }
}

#[test]
fn a_licence_that_is_suspended_by_new_data_ends_all_its_subscriptions_and_no_others() {
    let start = now_s();
    let row = |id: &str, user: Option<&str>| json!({"id": id, "tenant": "acme", "user": user, "tier": "professional", "from": instant(start - 60)});
    let rows = json!([row("L-1", None), row("V-1", Some("vip"))]);
    let licensed = Licensed::start(&rows);
    let (mut amina, mut vip) = (licensed.connect("amina"), licensed.connect("vip"));
    for client in [&mut amina, &mut vip] {
        assert_eq!(accepted(&subscribe(client, 1, "EGX", "COMI")), "COMI");
        let orders = client.request(json!({"type": "subscribe", "id": 2, "channel": "orders", "exchange": "EGX"}));
        assert!(orders["subscription"].is_string(), "{orders}");
    }
    let mut suspended = rows.clone();
    suspended[0]["suspended"] = json!([{ "from": instant(start - 30) }]);
    licensed.change(&suspended);
    for _ in 0..2 {
        let revoked = amina.until_type("revoked");
        assert_eq!(revoked["code"], "license.inactive", "{revoked}");
    }
    let answer = subscribe(&mut amina, 3, "EGX", "COMI");
    assert_eq!(answer["code"], "license.inactive", "{answer}");
    // The other licence goes on, and nothing of it was revoked meanwhile.
    subscribe(&mut vip, 5, "EGX", "TMGH");
    for _ in 0..20 {
        assert_ne!(vip.event()["type"], "revoked");
    }
    licensed.change(&rows);
    let begun = Instant::now();
    loop {
        let answer = subscribe(&mut amina, 4, "EGX", "COMI");
        if accepted(&answer) == "COMI" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
    }
}

#[test]
fn a_refreshed_token_with_fewer_rights_ends_what_they_no_longer_cover() {
    let stack = Stack::start(&["license", "quota"]);
    let token = |exchanges: &[&str]| {
        stack.keys.token(json!({"sub": "amina", "tenant": "t", "tier": "professional", "exchanges": exchanges}))
    };
    let mut client = stack.connect(&token(&["EGX", "ADX"]));
    client.until_type("welcome");
    subscribe(&mut client, 1, "EGX", "COMI");
    subscribe(&mut client, 2, "ADX", "FAB");
    client.send(json!({"type": "refresh", "id": 3, "token": token(&["EGX"])}));
    client.until_type("refreshed");
    let revoked = client.until_type("revoked");
    assert_eq!((revoked["symbols"].clone(), revoked["code"].clone()), (json!(["FAB"]), json!("license.exchange")));
    for _ in 0..10 {
        assert_eq!(client.until_type("market_data_update")["exchange"], "EGX");
    }
}

/// How late the delayed tier of these tests is.
const DELAY_MS: i64 = 1500;

/// Settings under which `basic` has everything late, and may see books.
fn late(latency: &Value) -> Value {
    let limits = json!({"connections": 10, "subscriptions": 50, "symbols": 200, "messages_per_second": 50,
        "messages_burst": 200, "orders_per_minute": 10});
    json!({ "tiers": { "tiers": [{
        "name": "basic", "depth": 2, "latency": latency, "limits": limits,
        "features": ["BASIC_TRADING", "EGX_ACCESS", "BASIC_ASSETS", "WEBSOCKET_API", "ADVANCED_ANALYTICS"],
    }] } })
}

#[test]
fn a_delayed_licence_sees_nothing_of_an_instrument_early_and_everything_in_order() {
    let stack = Stack::start_with(&["license"], |config| {
        let settings: toml::Table = serde_json::from_value(late(&json!({ "delayed_ms": DELAY_MS }))).unwrap();
        set(config, "filter.license.settings", settings);
    });
    // Someone with current data makes the sources flow: the newcomer must not see their state before its time.
    let mut current = stack.connect(&stack.keys.unscreened("current"));
    let channels = ["market_data", "order_book", "trades"];
    for (id, channel) in (1..).zip(channels) {
        current
            .request(json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": ["*"]}));
    }
    current.until_type("trade_update");
    let mut delayed = stack.connect(&stack.keys.token(json!({"sub": "delayed", "tenant": "t", "tier": "basic"})));
    let welcome = delayed.until_type("welcome");
    assert_eq!(welcome["markets"], json!({}), "phases come late too: {welcome}");
    let asked = now_ms();
    for (id, channel) in (1..).zip(channels) {
        let symbols = if channel == "trades" { json!(["*"]) } else { json!(["COMI", "TMGH"]) };
        let answer = delayed
            .request(json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": symbols}));
        assert!(answer["subscription"].is_string(), "{answer}");
        for accepted in answer["accepted"].as_array().unwrap() {
            assert_eq!(accepted["seq"], 0, "a current number would tell how much was traded: {accepted}");
        }
    }
    delayed.send(json!({"type": "subscribe", "id": 9, "channel": "market_status", "exchange": "EGX"}));
    let mut newest: std::collections::BTreeMap<(String, String), u64> = std::collections::BTreeMap::new();
    let (mut snapshots, mut updates) = (0, 0);
    while snapshots < 4 || updates < 200 {
        let event = delayed.until(|event| !event["type"].as_str().unwrap().starts_with("subscribed"), by(PATIENCE));
        let kind = event["type"].as_str().unwrap().to_owned();
        if kind == "market_status" {
            assert!(now_ms() - asked >= DELAY_MS, "the phase came early: {event}");
            continue;
        }
        assert!(kind.ends_with("_update"), "{event}");
        let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        let age = now_ms() - time.as_millis();
        assert!(age >= DELAY_MS, "{age} ms old: {event}");
        let (seq, key) = (event["seq"].as_u64().unwrap(), (kind.clone(), event["symbol"].as_str().unwrap().to_owned()));
        match newest.insert(key, seq) {
            None if kind != "trade_update" => {
                assert_eq!(event["snapshot"], true, "a state begins with a late snapshot: {event}");
                snapshots += 1;
            }
            None => {}
            Some(before) => {
                assert_eq!(event["first_seq"].as_u64().unwrap_or(seq), before + 1, "nothing is left out: {event}")
            }
        }
        updates += 1;
    }
    // Who comes now finds the late state at once: it has waited already.
    let mut second = stack.connect(&stack.keys.token(json!({"sub": "second", "tenant": "t", "tier": "basic"})));
    second.request(
        json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX", "symbols": ["COMI"]}),
    );
    let event = second.until_type("market_data_update");
    let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(event["snapshot"], true);
    assert!(now_ms() - time.as_millis() >= DELAY_MS, "{event}");
}

/// An edge before one channel server of EGX, whose `basic` tier has closing data.
fn closing(server: &ChannelServer) -> (Keys, Scratch, Edge) {
    let (keys, scratch) = (Keys::generate(), Scratch::new());
    let mut config = edge_config(&scratch, &keys, &["license"], &[("EGX", &[server.address][..])]);
    let settings: toml::Table = serde_json::from_value(late(&json!("end_of_day"))).unwrap();
    set(&mut config, "filter.license.settings", settings);
    let edge = Edge::start(&scratch, &config);
    (keys, scratch, edge)
}

fn of_comi(id: u64, channel: &str) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": ["COMI"]})
}

#[test]
fn closing_data_says_nothing_while_the_market_is_open() {
    let server = ChannelServer::live("EGX");
    let (keys, _scratch, edge) = closing(&server);
    let mut current = edge.connect(&keys.unscreened("current"));
    current.request(of_comi(1, "market_data"));
    let mut closing = edge.connect(&keys.token(json!({"sub": "closing", "tenant": "t", "tier": "basic"})));
    assert_eq!(accepted(&closing.request(of_comi(1, "market_data"))), "COMI");
    assert_eq!(closing.request(of_comi(2, "trades"))["code"], "license.feature");
    // While the other session reads twenty updates, this one hears nothing but its pong.
    for _ in 0..20 {
        current.until_type("market_data_update");
    }
    closing.send(json!({"type": "ping", "id": 3}));
    while let Some(event) = closing.try_event(by(PATIENCE)) {
        assert!(!event["type"].as_str().unwrap().ends_with("_update"), "{event}");
        if event["type"] == "pong" {
            break;
        }
    }
}

#[test]
fn closing_data_is_the_state_that_the_market_closed_with() {
    const LONG_AGO: &str = "2026-01-04T10:00:00Z";
    let still = ChannelServer::still("EGX");
    let recording = fs::read_to_string(still.recording.as_ref().unwrap().path().join("still.jsonl")).unwrap();
    assert!(recording.contains("continuous"), "a recording says its phases");
    // The same market, after its close.
    let files = Scratch::new();
    let file = path(&files.write("closed.jsonl", recording.replace("continuous", "closed")));
    let server = ChannelServer::start(&["--exchange", "EGX", "--replay", &file, "--anchor", LONG_AGO]);
    let (keys, _scratch, edge) = closing(&server);
    let mut current = edge.connect(&keys.unscreened("current"));
    current.request(of_comi(1, "market_data"));
    let stands = current.until_type("market_data_update");
    let status = current.request(json!({"type": "subscribe", "id": 2, "channel": "market_status", "exchange": "EGX"}));
    assert!(status["subscription"].is_string(), "{status}");
    assert_eq!(current.until_type("market_status")["phase"], "closed");
    let mut closing = edge.connect(&keys.token(json!({"sub": "closing", "tenant": "t", "tier": "basic"})));
    assert_eq!(accepted(&closing.request(of_comi(1, "market_data"))), "COMI");
    let closed = closing.until_type("market_data_update");
    assert_eq!((&closed["snapshot"], &closed["data"]), (&json!(true), &stands["data"]));
}

#[test]
fn what_a_day_allows_to_be_delivered_is_counted_over_a_users_sessions() {
    const MOST: u64 = 128;
    let limits = json!({"connections": 10, "subscriptions": 50, "symbols": 200, "messages_per_second": 50,
        "messages_burst": 200, "orders_per_minute": 10, "delivered_messages_per_day": MOST});
    let features = json!(["EGX_ACCESS", "BASIC_ASSETS", "WEBSOCKET_API"]);
    let tier = json!({"name": "basic", "depth": 1, "latency": "real_time", "limits": limits, "features": features});
    let stack = Stack::start_with(&["license", "quota"], |config| {
        set(config, "edge.workers", 2);
        for filter in ["license", "quota"] {
            let settings: toml::Table = serde_json::from_value(json!({"tiers": {"tiers": [tier]}})).unwrap();
            set(config, &format!("filter.{filter}.settings"), settings);
        }
    });
    let token = stack.keys.token(json!({"sub": "amina", "tenant": "t", "tier": "basic"}));
    let mut total = 0;
    let mut clients: Vec<Client> = (0..2).map(|_| stack.connect(&token)).collect();
    for client in &mut clients {
        assert_eq!(accepted(&subscribe(client, 1, "EGX", "COMI")), "COMI");
    }
    // Each is served until the day's allowance is spent, and then told so; nothing comes after that.
    for client in &mut clients {
        loop {
            let event = client.event();
            match event["type"].as_str().unwrap() {
                "market_data_update" => total += 1,
                "revoked" => break assert_eq!(event["code"], "quota.messages", "{event}"),
                _ => {}
            }
        }
        let refused = subscribe(client, 2, "EGX", "COMI");
        assert_eq!(refused["code"], "quota.messages", "{refused}");
        assert!(refused["retry_after_ms"].as_u64().unwrap() > 0, "{refused}");
    }
    assert!(total <= MOST, "{total} updates were delivered, and {MOST} are allowed");
    assert!(total > MOST / 2, "only {total} of {MOST}: the allowance was lost on the way");
}
