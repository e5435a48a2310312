//! Unrest: clients that come, go, ask, leave and stop reading at random, servers that die and return, reloads in
//! between. Nothing in the edge falls over, and whoever just listens misses nothing without word of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::HashMap;
use std::time::Duration;

use bawaba_channels::wire::Encoding;
use bawaba_tests::client::{Client, Connect};
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, launch_list, set};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::{Value, json};

/// xorshift: the same unrest in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }
}

/// A client that does what comes to its mind.
struct Restless {
    client: Client,
    id: u64,
    subscriptions: Vec<Value>,
}

impl Restless {
    fn open(edge: &Edge, keys: &Keys, dice: &mut Dice) -> Self {
        let user = format!("user-{}", dice.roll(6));
        let token = if dice.roll(2) == 0 { keys.screened(&user) } else { keys.unscreened(&user) };
        let encoding = if dice.roll(3) == 0 { Encoding::Proto } else { Encoding::Json };
        let client = Connect::with_token(&token).encoding(encoding).accepted(edge.address);
        if dice.roll(4) == 0 {
            socket2::SockRef::from(client.stream()).set_recv_buffer_size(4096).unwrap();
        }
        Self { client, id: 0, subscriptions: Vec::new() }
    }

    /// One step; false when it is over.
    fn act(&mut self, dice: &mut Dice) -> bool {
        const SYMBOLS: [&str; 6] = ["COMI", "ABUK", "TMGH", "SWDY", "NOPE", "*"];
        const CHANNELS: [&str; 7] =
            ["market_data", "order_book", "trades", "news", "market_status", "orders", "positions"];
        self.id += 1;
        let request = match dice.roll(10) {
            0..=4 => {
                let channel = *dice.pick(&CHANNELS);
                let symbols: Vec<&str> = (0..=dice.roll(3)).map(|_| *dice.pick(&SYMBOLS)).collect();
                let rate = *dice.pick(&[0, 0, 20, 1500]);
                let resume = if dice.roll(3) == 0 { json!({"COMI": {"epoch": "x", "seq": 1}}) } else { json!({}) };
                json!({"type": "subscribe", "id": self.id, "channel": channel, "exchange": "EGX",
                    "symbols": symbols, "update_rate_ms": rate, "resume": resume})
            }
            5 if !self.subscriptions.is_empty() => {
                let subscription = self.subscriptions.swap_remove(dice.roll(self.subscriptions.len()));
                let symbols: Vec<&str> = (0..dice.roll(2)).map(|_| *dice.pick(&SYMBOLS)).collect();
                json!({"type": "unsubscribe", "id": self.id, "subscription": subscription, "symbols": symbols})
            }
            6 => json!({"type": "order", "id": self.id, "op": "place", "exchange": "EGX", "symbol": "ABUK",
                "side": "buy", "order_type": "limit", "price": "45.00", "quantity": "1"}),
            // It just leaves, in the middle of whatever is under way.
            7 => return dice.roll(3) > 0,
            // It reads nothing for a while.
            8 => return true,
            _ => {
                self.read(dice.roll(40));
                return true;
            }
        };
        let mut bytes = Vec::new();
        let first = match self.client.encoding() {
            Encoding::Json => {
                bytes.extend_from_slice(request.to_string().as_bytes());
                bawaba_tests::client::TEXT
            }
            Encoding::Proto => {
                let request = bawaba_channels::wire::Request::from_json(request.to_string().as_bytes()).unwrap();
                request.encode_proto(&mut bytes);
                bawaba_tests::client::BINARY
            }
        };
        self.client.send_bytes(&bawaba_tests::client::frame(first, &bytes)).is_ok()
    }

    fn read(&mut self, count: usize) {
        for _ in 0..count {
            match self.client.try_message(by(Duration::from_millis(2))) {
                Ok(Some(tungstenite::Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    if event["type"] == "subscribed" && event["subscription"].is_string() {
                        self.subscriptions.push(event["subscription"].clone());
                    }
                }
                Ok(Some(_)) => {}
                _ => return,
            }
        }
    }
}

/// Someone who just listens.
struct Listener {
    client: Client,
    places: HashMap<(String, String), (String, u64)>,
}

impl Listener {
    fn open(edge: &Edge, keys: &Keys) -> Self {
        let mut client = edge.connect(&keys.unscreened("listener"));
        client.until_type("welcome");
        for (id, channel) in [(1, "market_data"), (2, "trades"), (3, "order_book")] {
            let symbols = ["COMI", "ABUK", "TMGH"];
            let answer = client.request(
                json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": symbols}),
            );
            assert_eq!(answer["accepted"].as_array().map(Vec::len), Some(3), "{answer}");
        }
        Self { client, places: HashMap::new() }
    }

    fn hear(&mut self, count: usize) {
        for _ in 0..count {
            let event = self.client.event();
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            let key = (text("subscription"), text("symbol"));
            match event["type"].as_str().unwrap() {
                "gap" => drop(self.places.remove(&key)),
                kind if kind.ends_with("_update") => {
                    let (epoch, seq) = (text("epoch"), event["seq"].as_u64().unwrap());
                    if let Some((known, last)) = self.places.get(&key)
                        && event["snapshot"] != true
                    {
                        assert_eq!((known, last + 1), (&epoch, event["first_seq"].as_u64().unwrap_or(seq)), "{event}");
                    }
                    self.places.insert(key, (epoch, seq));
                }
                other => panic!("{other} is not expected: {event}"),
            }
        }
    }
}

fn unrest(seed: u64, filters: &[&str]) {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 40;
    let (keys, scratch) = (Keys::generate(), Scratch::new());
    let arguments = ChannelServer::live_arguments("EGX");
    let mut servers = [ChannelServer::start(&arguments), ChannelServer::start(&arguments)];
    let addresses = [servers[0].address, servers[1].address];
    let mut config = edge_config(&scratch, &keys, filters, &[("EGX", &addresses)]);
    set(&mut config, "edge.workers", 2);
    set(&mut config, "limits.outbox_bytes_max", 64 * 1024);
    set(&mut config, "limits.log_bytes_max", 4 * 1024);
    set(&mut config, "timeouts.degraded", "100ms");
    set(&mut config, "cluster.egx.health.interval", "50ms");
    if filters.contains(&"sharia") {
        set(&mut config, "filter.sharia.settings", launch_list());
    }
    let edge = Edge::start(&scratch, &config);
    let mut dice = Dice(seed);
    let mut listener = Listener::open(&edge, &keys);
    let mut clients: Vec<Restless> = (0..CLIENTS).map(|_| Restless::open(&edge, &keys, &mut dice)).collect();
    for round in 0..ROUNDS {
        for place in clients.iter_mut() {
            for _ in 0..4 {
                if !place.act(&mut dice) {
                    *place = Restless::open(&edge, &keys, &mut dice);
                }
            }
        }
        listener.hear(10);
        match round % 10 {
            4 => {
                let server = &mut servers[dice.roll(2)];
                server.process.kill();
                *server = ChannelServer::start_at(server.address, &arguments);
            }
            8 => {
                let interval = format!("{}ms", 50 + round);
                set(&mut config, "cluster.egx.health.interval", interval);
                edge.reload(&scratch, &config.to_string());
            }
            _ => {}
        }
        until("one of the two serves", by(PATIENCE), || {
            http::get(edge.admin, "/readyz").ok().filter(|answer| answer.status == 200)
        });
    }
    drop(clients);
    listener.hear(100);
    until("only the listener is left", by(PATIENCE), || {
        edge.metric("bawaba_sessions{route=\"channels\"}").filter(|sessions| *sessions == 1.0)
    });
    assert_eq!(listener.client.request(json!({"type": "ping", "id": 4711}))["type"], "pong");
    let said = edge.process.output();
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn unrest_brings_nothing_down() {
    unrest(0x9E37_79B9_7F4A_7C15, &[]);
}

#[test]
fn unrest_behind_filters_brings_nothing_down() {
    unrest(0xD1B5_4A32_D192_ED03, &["license", "quota", "sharia"]);
}
