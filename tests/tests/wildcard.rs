//! Many symbols at once: all of an exchange behind a board, a thousand by name, and leaving part of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeSet;

use bawaba_tests::client::Client;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, launch_list, set};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::{Value, json};
use toml::Table;

/// One exchange behind an edge with these filters.
struct Market {
    keys: Keys,
    edge: Edge,
    server: ChannelServer,
    _scratch: Scratch,
}

impl Market {
    fn of(server: ChannelServer, filters: &[&str], change: impl FnOnce(&mut Table)) -> Self {
        let (keys, scratch) = (Keys::generate(), Scratch::new());
        let mut config = edge_config(&scratch, &keys, filters, &[("EGX", &[server.address])]);
        change(&mut config);
        let edge = Edge::start(&scratch, &config);
        Self { keys, edge, server, _scratch: scratch }
    }

    fn screened(server: ChannelServer) -> Self {
        Self::of(server, &["sharia"], |config| set(config, "filter.sharia.settings", launch_list()))
    }
}

fn welcomed(edge: &Edge, token: &str) -> Client {
    let mut client = edge.connect(token);
    client.until_type("welcome");
    client
}

fn subscribe(id: u64, channel: &str, symbols: &[String]) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": symbols})
}

fn all(id: u64, channel: &str) -> Value {
    subscribe(id, channel, &["*".to_owned()])
}

fn symbols(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|entry| entry["symbol"].as_str().unwrap().to_owned()).collect()
}

/// What the edge itself answers; what it has sent before is read.
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
fn all_symbols_behind_a_board_are_the_allowed_ones_each_with_what_stands_once() {
    let market = Market::screened(ChannelServer::still("EGX"));
    let mut first: Vec<Client> = Vec::new();
    for n in 0..3 {
        let mut client = welcomed(&market.edge, &market.keys.screened(&format!("user-{n}")));
        for (id, channel) in [(1, "market_data"), (2, "order_book")] {
            let answer = client.request(all(id, channel));
            let (accepted, refused) = (symbols(&answer["accepted"]), symbols(&answer["refused"]));
            assert!(accepted.contains("ABUK") && refused.contains("COMI"), "{answer}");
            assert!(accepted.is_disjoint(&refused), "{answer}");
            let stands = up_to_now(&mut client);
            let named: Vec<_> = stands.iter().map(|event| event["symbol"].as_str().unwrap().to_owned()).collect();
            assert!(stands.iter().all(|event| event["snapshot"] == true), "{stands:?}");
            assert_eq!(named.len(), accepted.len(), "{channel}: {named:?}");
            assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), accepted, "{channel}");
        }
        // Whoever was there before hears nothing of it: no state again, and no `revoked` of what it never had.
        for earlier in &mut first {
            assert_eq!(up_to_now(earlier), [] as [Value; 0]);
        }
        first.push(client);
    }
    // Without a board everything is there, and the screened ones still see theirs only.
    let mut unscreened = welcomed(&market.edge, &market.keys.unscreened("everyone"));
    let answer = unscreened.request(all(1, "market_data"));
    assert!(symbols(&answer["accepted"]).contains("COMI"), "{answer}");
    assert_eq!(answer["refused"], json!([]), "{answer}");
    assert_eq!(up_to_now(&mut unscreened).len(), symbols(&answer["accepted"]).len());
    assert_eq!(up_to_now(&mut first[0]), [] as [Value; 0]);
}

#[test]
fn of_all_symbols_only_the_allowed_flow_and_those_left_no_more() {
    let market = Market::screened(ChannelServer::live("EGX"));
    let subscriptions = || http::get(market.server.address, "/load").unwrap().json()["subscriptions"].as_u64().unwrap();
    let mut client = welcomed(&market.edge, &market.keys.screened("mona"));
    let mut everyone = welcomed(&market.edge, &market.keys.unscreened("everyone"));
    everyone.request(all(1, "market_data"));
    let answer = client.request(all(1, "market_data"));
    let (name, mut allowed) = (answer["subscription"].clone(), symbols(&answer["accepted"]));
    let flows = |client: &mut Client, allowed: &BTreeSet<String>, count: usize| {
        for _ in 0..count {
            let event = client.event();
            assert_eq!(event["type"], "market_data_update", "{event}");
            assert!(allowed.contains(event["symbol"].as_str().unwrap()), "{event}");
        }
    };
    flows(&mut client, &allowed, 100);
    for id in 2..4 {
        let part: Vec<String> = allowed.iter().take(allowed.len() / 2).cloned().collect();
        client.send(json!({"type": "unsubscribe", "id": id, "subscription": name, "symbols": part}));
        assert_eq!(client.answer(id)["type"], "unsubscribed");
        allowed.retain(|symbol| !part.contains(symbol));
        flows(&mut client, &allowed, 50);
    }
    // Asked for again, they flow again.
    let back = client.request(subscribe(4, "market_data", &["ABUK".to_owned()]));
    assert_eq!(back["subscription"], name, "{back}");
    client.until(|event| event["symbol"] == "ABUK" && event["snapshot"] == true, by(PATIENCE));
    for client in [&mut client, &mut everyone] {
        client.send(json!({"type": "unsubscribe", "id": 9, "subscription": name}));
        assert_eq!(client.answer(9)["type"], "unsubscribed");
        assert_eq!(up_to_now(client), [] as [Value; 0]);
    }
    // The phase of the market is all that the edge still follows.
    until("the server is told", by(PATIENCE), || (subscriptions() == 1).then_some(()));
}

#[test]
fn a_thousand_symbols_in_one_request_are_one_answer() {
    let market = Market::of(ChannelServer::live("EGX"), &[], |_| {});
    let mut client = welcomed(&market.edge, &market.keys.unscreened("mona"));
    let mut bystander = welcomed(&market.edge, &market.keys.unscreened("omar"));
    let mut names: Vec<String> = (0..998).map(|n| format!("NONE{n}")).collect();
    names.extend(["COMI".to_owned(), "TMGH".to_owned()]);
    for id in 1..=20 {
        client.send(subscribe(id, "market_data", &names));
    }
    for id in 1..=20 {
        let answer = client.answer(id);
        assert_eq!(symbols(&answer["accepted"]), BTreeSet::from(["COMI".to_owned(), "TMGH".to_owned()]));
        let refused = answer["refused"].as_array().unwrap();
        assert_eq!((symbols(&answer["refused"]).len(), refused.len()), (998, 998));
        assert!(refused.iter().all(|refused| refused["code"] == "channel.symbol_unknown"));
    }
    assert_eq!(bystander.request(json!({"type": "ping", "id": 1}))["type"], "pong");
    names.push("SWDY".to_owned());
    let error = client.request(subscribe(21, "market_data", &names));
    assert_eq!(error["code"], "protocol.malformed", "{error}");
    assert!(error["reason"].as_str().unwrap().contains("at most 1000"), "{error}");
}

#[test]
fn the_symbols_of_a_session_have_a_limit_and_what_it_has_takes_no_more_room() {
    let market =
        Market::of(ChannelServer::live("EGX"), &[], |config| set(config, "limits.symbols_per_session_max", 30));
    let listed = std::fs::read(bawaba_tests::place::root().join("channels/data/egx.json")).unwrap();
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let listed: Vec<String> = symbols(&listed["instruments"]).into_iter().collect();
    let mut client = welcomed(&market.edge, &market.keys.unscreened("mona"));
    let over = |answer: Value| {
        assert_eq!(answer["code"], "quota.symbols", "{answer}");
        assert!(answer["reason"].as_str().unwrap().contains("at most 30"), "{answer}");
    };
    over(client.request(subscribe(1, "market_data", &listed[..31])));
    over(client.request(all(2, "market_data")));
    assert_eq!(client.request(subscribe(3, "market_data", &listed[..30]))["type"], "subscribed");
    over(client.request(subscribe(4, "market_data", &listed[25..31])));
    over(client.request(subscribe(5, "trades", &listed[..1])));
    let again = client.request(subscribe(6, "market_data", &listed[..30]));
    assert_eq!(again["accepted"].as_array().map(Vec::len), Some(30), "{again}");
    client.request(
        json!({"type": "unsubscribe", "id": 7, "subscription": again["subscription"], "symbols": listed[..10]}),
    );
    assert_eq!(client.request(subscribe(8, "trades", &listed[..10]))["type"], "subscribed");
    over(client.request(subscribe(9, "trades", &listed[10..11])));
}
