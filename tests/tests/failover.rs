//! An endpoint dies, hangs, or is the last to go: nobody is disconnected, nothing is missing without word of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bawaba_tests::client::Client;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, set};
use bawaba_tests::{PATIENCE, by, http, until};
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

/// A market with these servers, and a client that follows one instrument.
struct Following {
    keys: Keys,
    edge: Edge,
    client: Client,
    places: Places,
    _scratch: Scratch,
}

impl Following {
    fn start(servers: &[ChannelServer], change: impl FnOnce(&mut toml::Table)) -> Self {
        let (keys, scratch) = (Keys::generate(), Scratch::new());
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &addresses)]);
        change(&mut config);
        let edge = Edge::start(&scratch, &config);
        let mut client = edge.connect(&keys.unscreened("mona"));
        client.until_type("welcome");
        let subscribe =
            json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX", "symbols": ["COMI"]});
        assert_eq!(client.request(subscribe)["type"], "subscribed");
        let mut following = Self { keys, edge, client, places: Places::default(), _scratch: scratch };
        following.read(3);
        following
    }

    fn read(&mut self, count: usize) {
        for _ in 0..count {
            self.places.take(&self.client.event());
        }
    }

    /// An update that was made after now comes, in sequence.
    fn goes_on(&mut self) {
        let now = format_now();
        loop {
            let event = self.client.try_event(by(PATIENCE)).expect("updates go on");
            self.places.take(&event);
            if event["time"].as_str().is_some_and(|time| time > now.as_str()) {
                return;
            }
        }
    }
}

fn used(servers: &[ChannelServer]) -> usize {
    let sessions = |server: &ChannelServer| http::get(server.address, "/load").unwrap().json()["sessions"].as_u64();
    servers.iter().position(|server| sessions(server) > Some(0)).expect("one has the edge's trunk")
}

#[test]
fn a_server_that_hangs_is_left_like_one_that_died() {
    let servers = [ChannelServer::live("EGX"), ChannelServer::live("EGX")];
    let mut following = Following::start(&servers, |config| {
        set(config, "cluster.egx.health.interval", "50ms");
        set(config, "cluster.egx.health.timeout", "100ms");
    });
    // It takes connections and answers nothing: its sockets stay open.
    let hung = &servers[used(&servers)];
    hung.process.signal(rustix::process::Signal::STOP);
    let order = |id: u64, key: Option<&str>| {
        json!({"type": "order", "id": id, "op": "place", "exchange": "EGX", "symbol": "COMI", "side": "buy",
        "order_type": "limit", "price": "70.00", "quantity": "1", "client_order_id": key})
    };
    let mut unsafe_twice = order(3, None);
    unsafe_twice.as_object_mut().unwrap().remove("client_order_id");
    following.client.send(order(2, Some("key")));
    following.client.send(unsafe_twice);
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let event = following.client.event();
        match event["id"].as_u64() {
            Some(id) => answers.push((id, event["status"].clone(), event["code"].clone())),
            None => following.places.take(&event),
        }
    }
    answers.sort_by_key(|(id, ..)| *id);
    assert_eq!(answers[0], (2, json!("open"), Value::Null), "sent again, as it may be");
    assert_eq!(answers[1], (3, Value::Null, json!("edge.no_endpoint")), "nobody knows, and that is said");
    following.goes_on();
}

#[test]
fn when_every_server_is_gone_sessions_stay_and_are_told_to_wait() {
    let mut servers = [ChannelServer::live("EGX")];
    let mut following = Following::start(&servers, |_| {});
    servers[0].process.kill();
    let ask =
        |id: u64| json!({"type": "subscribe", "id": id, "channel": "trades", "exchange": "EGX", "symbols": ["TMGH"]});
    let refusal = until("new subscriptions are refused", by(PATIENCE), || {
        let answer = following.client.request(ask(2));
        (answer["type"] == "error").then_some(answer)
    });
    assert_eq!(refusal["code"], "edge.no_endpoint", "{refusal}");
    assert!(refusal["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0), "{refusal}");
    let cancel = json!({"type": "order", "id": 3, "op": "cancel", "exchange": "EGX", "order_id": "none"});
    assert_eq!(following.client.request(cancel)["code"], "edge.no_endpoint");
    assert_eq!(http::get(following.edge.admin, "/readyz").unwrap().status, 503);
    // A newcomer is let in and told the same.
    let mut newcomer = following.edge.connect(&following.keys.unscreened("omar"));
    newcomer.until_type("welcome");
    assert_eq!(newcomer.request(ask(1))["code"], "edge.no_endpoint");
    servers[0] = ChannelServer::start_at(servers[0].address, &ChannelServer::live_arguments("EGX"));
    following.goes_on();
    until("it is ready again", by(PATIENCE), || (newcomer.request(ask(2))["type"] == "subscribed").then_some(()));
}

/// Now, as times are written on the wire.
fn format_now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    bawaba_channels::wire::Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap()).to_string()
}
