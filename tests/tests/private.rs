//! A user's own orders and positions: everyone gets all of it, once, across reconnects and the death of a server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeMap;

use bawaba_tests::client::{Client, Connect};
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};
use toml::Table;

/// Servers of one exchange that play the same streams, behind an edge without filters.
struct Market {
    keys: Keys,
    edge: Edge,
    servers: Vec<ChannelServer>,
    scratch: Scratch,
}

impl Market {
    fn of(servers: Vec<ChannelServer>, change: impl FnOnce(&mut Table)) -> Self {
        let (keys, scratch) = (Keys::generate(), Scratch::new());
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &addresses)]);
        change(&mut config);
        let edge = Edge::start(&scratch, &config);
        Self { keys, edge, servers, scratch }
    }

    fn start(count: usize) -> Self {
        Self::of((0..count).map(|_| ChannelServer::live("EGX")).collect(), |_| {})
    }

    fn user(&self, user: &str) -> Client {
        let mut client = self.edge.connect(&self.keys.unscreened(user));
        client.until_type("welcome");
        client
    }

    /// The server that a session's orders go to: the one that has the edge's trunk.
    fn take_the_one_in_use(&mut self) -> ChannelServer {
        let used = self.servers.iter().position(|server| {
            let load = bawaba_tests::http::get(server.address, "/load").unwrap().json();
            load["sessions"].as_u64().unwrap_or_default() > 0
        });
        self.servers.remove(used.expect("one is in use"))
    }

    fn kill_the_one_in_use(&mut self) {
        self.take_the_one_in_use().process.kill();
    }
}

fn subscribe(id: u64, channel: &str, symbols: &[&str], resume: Value) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": symbols, "resume": resume})
}

/// An order far below the market: it rests.
fn place(id: u64, key: Option<&str>) -> Value {
    let mut order = json!({"type": "order", "id": id, "op": "place", "exchange": "EGX", "symbol": "COMI", "side": "buy",
        "order_type": "limit", "price": "70.00", "quantity": "100"});
    if let Some(key) = key {
        order["client_order_id"] = key.into();
    }
    order
}

fn order_update(client: &mut Client) -> Value {
    client.until(|event| event["type"] == "order_update" && event["id"].is_null(), by(PATIENCE))
}

/// Everything that the server said before it answers one more request of this session.
fn up_to_now(client: &mut Client) -> Vec<Value> {
    client.send(json!({"type": "order", "id": 4711, "op": "cancel", "exchange": "EGX", "order_id": "none"}));
    let mut events = Vec::new();
    loop {
        let event = client.event();
        if event["id"] == 4711 {
            assert_eq!(event["code"], "order.unknown", "{event}");
            return events;
        }
        events.push(event);
    }
}

/// Places orders; what was said up to the last of their updates.
fn place_all(client: &mut Client, ids: std::ops::Range<u64>) -> Vec<Value> {
    for id in ids.clone() {
        client.send(place(id, None));
    }
    let events = up_to_now(client);
    for id in ids {
        let answers: Vec<_> = events.iter().filter(|event| event["id"] == id).collect();
        assert!(matches!(&answers[..], [answer] if answer["status"] == "open"), "{id}: {events:?}");
    }
    events
}

fn seqs(events: &[Value]) -> Vec<u64> {
    let updates = events.iter().filter(|event| event["type"] == "order_update" && event["id"].is_null());
    updates.map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn each_session_of_a_user_begins_with_what_stands_and_gets_what_is_new_once() {
    let market = Market::start(1);
    let mut first = market.user("mona");
    let answer = first.request(subscribe(1, "orders", &[], json!({})));
    assert_eq!(answer["accepted"][0]["recovered"], false, "{answer}");
    assert_eq!(seqs(&place_all(&mut first, 2..5)), [1, 2, 3]);
    // Another session while the first is open: what stands is for it alone.
    let mut second = market.user("mona");
    let answer = second.request(subscribe(1, "orders", &[], json!({})));
    assert_eq!(answer["accepted"][0]["seq"], 3, "{answer}");
    assert_eq!(seqs(&up_to_now(&mut second)), [1, 2, 3]);
    assert_eq!(seqs(&up_to_now(&mut first)), [0u64; 0]);
    // Someone else sees nothing of it.
    let mut other = market.user("omar");
    other.request(subscribe(1, "orders", &[], json!({})));
    assert_eq!(seqs(&place_all(&mut second, 5..6)), [4]);
    assert_eq!(seqs(&up_to_now(&mut first)), [4]);
    assert_eq!(seqs(&up_to_now(&mut other)), [0u64; 0]);
}

#[test]
fn a_session_that_comes_back_gets_what_it_missed_and_nothing_twice() {
    let market = Market::start(1);
    let mut stays = market.user("mona");
    let mut goes = market.user("mona");
    for client in [&mut stays, &mut goes] {
        client.request(subscribe(1, "orders", &[], json!({})));
        client.request(subscribe(2, "positions", &[], json!({})));
    }
    assert_eq!(seqs(&place_all(&mut stays, 3..4)), [1]);
    let seen = order_update(&mut goes);
    let position = |update: &Value| json!({"": {"epoch": update["epoch"], "seq": update["seq"]}});
    drop(goes);
    assert_eq!(seqs(&place_all(&mut stays, 4..6)), [2, 3]);
    let mut back = market.user("mona");
    let answer = back.request(subscribe(1, "orders", &[], position(&seen)));
    assert_eq!(answer["accepted"][0]["recovered"], true, "{answer}");
    assert_eq!(seqs(&up_to_now(&mut back)), [2, 3]);
    assert_eq!(seqs(&place_all(&mut stays, 6..7)), [4]);
    assert_eq!(seqs(&up_to_now(&mut back)), [4]);
    // A place that nobody has been at: word of it, and what stands.
    let mut lost = market.user("mona");
    let ahead = json!({"": {"epoch": seen["epoch"], "seq": 100}});
    let elsewhere = json!({"": {"epoch": "acct-elsewhere", "seq": 1}});
    for (id, from) in [(1, ahead), (2, elsewhere)] {
        let answer = lost.request(subscribe(id, "orders", &[], from));
        assert_eq!(answer["accepted"][0]["recovered"], false, "{answer}");
        let events = up_to_now(&mut lost);
        assert_eq!(events[0]["type"], "gap", "{events:?}");
        assert_eq!(seqs(&events), [1, 2, 3, 4]);
    }
    assert_eq!(seqs(&up_to_now(&mut stays)), [0u64; 0]);
}

#[test]
fn own_channels_go_on_behind_a_gap_when_the_server_with_the_account_dies() {
    let mut market = Market::start(2);
    let mut clients = [market.user("mona"), market.user("mona")];
    for client in &mut clients {
        client.request(subscribe(1, "orders", &[], json!({})));
    }
    clients[0].request(place(2, None));
    for client in &mut clients {
        assert_eq!(order_update(client)["seq"], 1);
    }
    market.kill_the_one_in_use();
    // Accounts are simulated in one process and end with it: that is said, and what comes is the new server's.
    for client in &mut clients {
        let gap = client.until_type("gap");
        assert!(gap["to_seq"].as_u64() < gap["from_seq"].as_u64(), "the number is not known: {gap}");
    }
    let answer = clients[1].request(place(3, None));
    assert_eq!(answer["status"], "open", "{answer}");
    for client in &mut clients {
        let events = [order_update(client)];
        assert_eq!(seqs(&events), [1], "{events:?}");
        assert_eq!(up_to_now(client).len(), 0);
    }
}

#[test]
fn an_order_in_flight_when_its_server_dies_gets_one_answer() {
    const ORDERS: u64 = 200;
    let mut market = Market::start(2);
    let mut client = market.user("mona");
    client.request(subscribe(1, "orders", &[], json!({})));
    // Half of them with a key of the client's, and so safe to be sent twice.
    let key = |id: u64| format!("key-{id}");
    for id in 2..2 + ORDERS {
        client.send(place(id, (id % 2 == 0).then(|| key(id)).as_deref()));
        if id == 2 + ORDERS / 2 {
            market.kill_the_one_in_use();
        }
    }
    let mut answers: BTreeMap<u64, Value> = BTreeMap::new();
    while answers.len() < ORDERS as usize {
        let event = client.until(|event| event["id"].is_u64(), by(PATIENCE));
        let id = event["id"].as_u64().unwrap();
        if let Some(earlier) = answers.insert(id, event.clone()) {
            panic!("two answers: {earlier} and {event}");
        }
    }
    for (id, answer) in &answers {
        match answer["type"].as_str() {
            Some("order_update") => assert_eq!(answer["status"], "open", "{answer}"),
            // Only an order that may not be sent twice can be left unknown, and it says what to do.
            Some("error") => {
                assert_eq!((id % 2, &answer["code"]), (1, &json!("edge.no_endpoint")), "{answer}");
                assert!(answer["reason"].as_str().unwrap().contains("client_order_id"), "{answer}");
            }
            _ => panic!("{answer}"),
        }
    }
    assert_eq!(up_to_now(&mut client).iter().filter(|event| event["id"].is_u64()).count(), 0);
    // The same key again is the same order.
    let again = client.request(place(1000, Some(&key(2 + ORDERS - 2))));
    assert_eq!(again["order_id"], answers[&(2 + ORDERS - 2)]["order_id"], "{again}");
}

#[test]
fn a_server_that_is_told_to_end_costs_no_order_its_answer() {
    let servers = vec![ChannelServer::live("EGX"), ChannelServer::live("EGX")];
    let mut market = Market::of(servers, |config| set(config, "cluster.egx.health.interval", "50ms"));
    let mut client = market.user("mona");
    client.request(subscribe(1, "orders", &[], json!({})));
    client.request(place(2, None));
    let mut old = market.take_the_one_in_use();
    old.process.terminate();
    // Ten requests that may not be sent twice are always under way, until the trunk has moved.
    let cancel = |id: u64| json!({"type": "order", "id": id, "op": "cancel", "exchange": "EGX", "order_id": "none"});
    let (mut asked, mut answered, mut moved) = (2, 2, false);
    while answered < asked || !moved {
        while !moved && asked < answered + 10 {
            asked += 1;
            client.send(cancel(asked));
        }
        let event = client.event();
        moved |= event["type"] == "gap";
        if event["id"].is_u64() {
            answered += 1;
            assert_eq!((&event["code"], &event["id"]), (&json!("order.unknown"), &json!(answered)), "{event}");
        }
    }
    old.process.ended(by(PATIENCE));
}

#[test]
fn a_client_goes_on_at_another_edge_where_it_left_the_first() {
    let market = Market::start(2);
    let secret = bawaba_tests::stack::path(&market.scratch.write("sticky", [7; 32]));
    let other = Scratch::new();
    let edge = |scratch: &Scratch, servers: &[ChannelServer]| {
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let mut config = edge_config(scratch, &market.keys, &[], &[("EGX", &addresses)]);
        set(&mut config, "sticky.key_file", &*secret);
        set(&mut config, "edge.drain_window", "200ms");
        set(&mut config, "timeouts.close", "200ms");
        Edge::start(scratch, &config)
    };
    // The first knows one server only: half of its users would be the other's, without their tokens.
    let mut first = edge(&market.scratch, &market.servers[1..]);
    let second = edge(&other, &market.servers);
    let mut users: Vec<(String, Client, Value, Value)> = Vec::new();
    for n in 0..6 {
        let token = market.keys.unscreened(&format!("user-{n}"));
        let mut client = first.connect(&token);
        client.until_type("welcome");
        client.request(subscribe(1, "orders", &[], json!({})));
        client.request(subscribe(2, "market_data", &["COMI"], json!({})));
        let quote = client.until_type("market_data_update");
        client.send(place(3, None));
        let order = order_update(&mut client);
        users.push((token, client, order, quote));
    }
    first.process.terminate();
    for (token, mut client, order, mut quote) in users {
        let drain = loop {
            let event = client.event();
            match event["type"].as_str() {
                Some("drain") => break event,
                Some("market_data_update") => quote = event,
                _ => {}
            }
        };
        let path = format!("/ws?resume={}", drain["resume"].as_str().unwrap());
        let mut client = Connect::with_token(&token).path(&path).accepted(second.address);
        client.until_type("welcome");
        let at = |event: &Value| json!({"epoch": event["epoch"], "seq": event["seq"]});
        let answer = client.request(subscribe(1, "orders", &[], json!({"": at(&order)})));
        assert_eq!(answer["accepted"][0]["recovered"], true, "the account is where it was: {answer}");
        let answer = client.request(subscribe(2, "market_data", &["COMI"], json!({"COMI": at(&quote)})));
        assert_eq!(answer["accepted"][0]["recovered"], true, "{answer}");
        let place = (quote["epoch"].as_str().unwrap().to_owned(), quote["seq"].as_u64().unwrap());
        follow(&mut client, &mut BTreeMap::from([("COMI".to_owned(), place)]), 3);
    }
    first.process.ended(by(PATIENCE));
}

#[test]
fn what_the_next_server_refuses_is_revoked() {
    // The second has the same exchange with fewer instruments.
    let full = ChannelServer::live("EGX");
    let scratch = Scratch::new();
    let listing = std::fs::read(bawaba_tests::place::root().join("channels/data/egx.json")).unwrap();
    let mut listing: Value = serde_json::from_slice(&listing).unwrap();
    listing["instruments"].as_array_mut().unwrap().retain(|instrument| instrument["symbol"] != "COMI");
    let file = scratch.write("fewer.json", listing.to_string());
    let mut arguments = ChannelServer::live_arguments("EGX").to_vec();
    let file = file.display().to_string();
    arguments.extend(["--data", &file]);
    // It is not there until the first has died, so that all begin there.
    let address = bawaba_tests::stack::free_address();
    let keys = Keys::generate();
    let addresses = [full.address, address];
    let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &addresses)]);
    set(&mut config, "cluster.egx.health.interval", "50ms");
    let edge = Edge::start(&scratch, &config);
    let mut market = Market { keys, edge, servers: vec![full], scratch };
    let mut client = market.user("mona");
    let answer = client.request(subscribe(1, "market_data", &["COMI", "TMGH"], json!({})));
    assert_eq!(answer["accepted"].as_array().map(Vec::len), Some(2), "{answer}");
    market.kill_the_one_in_use();
    market.servers.push(ChannelServer::start_at(address, &arguments));
    let revoked = client.until_type("revoked");
    assert_eq!(revoked["symbols"], json!(["COMI"]), "{revoked}");
    assert_eq!(revoked["code"], "channel.symbol_unknown", "{revoked}");
    assert_eq!(revoked["subscription"], answer["subscription"], "{revoked}");
    for _ in 0..3 {
        assert_eq!(client.until_type("market_data_update")["symbol"], "TMGH");
    }
    let answer = client.request(json!({"type": "unsubscribe", "id": 2, "subscription": answer["subscription"]}));
    assert_eq!(answer["type"], "unsubscribed");
}

/// Reads on until the newest seen of each symbol is at least `count` updates on.
fn follow(client: &mut Client, places: &mut BTreeMap<String, (String, u64)>, count: usize) {
    for _ in 0..count {
        let event = client.until(|event| event["seq"].is_u64(), by(PATIENCE));
        let (symbol, seq) = (event["symbol"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap());
        if let Some((epoch, last)) = places.get(&symbol)
            && event["snapshot"] != true
        {
            assert_eq!((epoch.as_str(), last + 1), (event["epoch"].as_str().unwrap(), seq), "{event}");
        }
        places.insert(symbol, (event["epoch"].as_str().unwrap().to_owned(), seq));
    }
}

#[test]
fn a_client_that_comes_back_is_told_rightly_whether_it_missed_anything() {
    let market = Market::start(1);
    for channel in ["market_data", "order_book", "trades"] {
        let symbols = ["COMI", "TMGH"];
        let mut places = BTreeMap::new();
        let mut client = market.user("mona");
        client.request(subscribe(1, channel, &symbols, json!({})));
        follow(&mut client, &mut places, 6);
        drop(client);
        // Nobody follows meanwhile, and the edge keeps nothing; the server does.
        let mut bystander = market.user("omar");
        bystander.request(subscribe(1, "market_data", &["SWDY"], json!({})));
        follow(&mut bystander, &mut BTreeMap::new(), 4);
        let resume: Value =
            places.iter().map(|(s, (epoch, seq))| (s.clone(), json!({"epoch": epoch, "seq": seq}))).collect();
        let mut client = market.user("mona");
        let answer = client.request(subscribe(1, channel, &symbols, resume));
        for accepted in answer["accepted"].as_array().unwrap() {
            let known = places.contains_key(accepted["symbol"].as_str().unwrap());
            assert_eq!(accepted["recovered"], known, "{channel}: {answer}");
        }
        // In sequence from where it was: nothing missing, nothing twice.
        follow(&mut client, &mut places, 10);
    }
}

#[test]
fn a_client_that_was_away_too_long_or_elsewhere_is_told_of_the_gap() {
    let market = Market::of(vec![ChannelServer::still("EGX")], |_| {});
    let mut client = market.user("mona");
    let answer = client.request(subscribe(1, "market_data", &["COMI"], json!({})));
    let accepted = &answer["accepted"][0];
    let (epoch, seq) = (accepted["epoch"].clone(), accepted["seq"].as_u64().unwrap());
    let table = [
        ("of another epoch", json!({"epoch": "sim-elsewhere", "seq": seq}), false),
        ("ahead of everyone", json!({"epoch": epoch, "seq": seq + 10}), false),
        ("at the newest", json!({"epoch": epoch, "seq": seq}), true),
    ];
    for (law, position, recovered) in table {
        let mut client = market.user("mona");
        let answer = client.request(subscribe(1, "market_data", &["COMI"], json!({"COMI": position})));
        assert_eq!(answer["accepted"][0]["recovered"], recovered, "{law}: {answer}");
        let events = up_to_now(&mut client);
        if recovered {
            assert_eq!(events.len(), 0, "{law}: {events:?}");
        } else {
            assert_eq!(
                (&events[0]["type"], &events[1]["snapshot"]),
                (&json!("gap"), &json!(true)),
                "{law}: {events:?}"
            );
        }
    }
}
