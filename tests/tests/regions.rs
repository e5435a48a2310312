//! An edge before an edge: what clients of the near one get is what those of the far one get, each user its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use bawaba_tests::client::Client;
use bawaba_tests::keys::{Keys, trader};
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, path, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

/// Two regions: a near edge before a far one, which stands before the channel servers.
struct Regions {
    keys: Keys,
    near: Edge,
    far: Edge,
    servers: Vec<ChannelServer>,
    _scratch: [Scratch; 2],
}

impl Regions {
    fn start(servers: usize) -> Self {
        let (keys, scratch) = (Keys::generate(), [Scratch::new(), Scratch::new()]);
        let servers: Vec<ChannelServer> = (0..servers).map(|_| ChannelServer::live("EGX")).collect();
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let far = Edge::start(&scratch[0], &edge_config(&scratch[0], &keys, &[], &[("EGX", &addresses)]));
        let mut claims = trader("edge:near");
        claims["role"] = "edge".into();
        let token = scratch[1].write("token", keys.token(claims));
        let mut config = edge_config(&scratch[1], &keys, &[], &[("EGX", &[far.address])]);
        set(&mut config, "cluster.egx.token_file", path(&token));
        set(&mut config, "cluster.egx.health.path", "");
        let near = Edge::start(&scratch[1], &config);
        Self { keys, near, far, servers, _scratch: scratch }
    }

    fn user(&self, edge: &Edge, user: &str) -> Client {
        let mut client = edge.connect(&self.keys.unscreened(user));
        let welcome = client.until_type("welcome");
        assert_eq!(welcome["markets"]["EGX"]["phase"], "continuous", "{welcome}");
        client
    }
}

fn subscribe(id: u64, channel: &str, symbols: &[&str]) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": "EGX", "symbols": symbols})
}

/// With the name of another user beside it, which counts for nothing from a client.
fn place(id: u64) -> Value {
    json!({"type": "order", "id": id, "op": "place", "exchange": "EGX", "symbol": "COMI", "side": "buy", "user": "laila",
        "order_type": "limit", "price": "70.00", "quantity": "100"})
}

fn in_sequence(client: &mut Client, last: &mut Option<u64>, count: usize) {
    for _ in 0..count {
        let update = client.until(|event| event["type"] != "order_update", by(PATIENCE));
        assert_eq!(update["type"], "market_data_update", "{update}");
        let seq = update["seq"].as_u64().unwrap();
        assert!(last.is_none_or(|last| last + 1 == seq), "behind {last:?}: {update}");
        *last = Some(seq);
    }
}

#[test]
fn an_edge_stands_before_an_edge_and_its_users_are_who_they_are() {
    // One server, as it is the server that has the accounts.
    let regions = Regions::start(1);
    let mut mona = regions.user(&regions.near, "mona");
    let mut omar = regions.user(&regions.near, "omar");
    let mut direct = regions.user(&regions.far, "mona");
    let mut laila = regions.user(&regions.far, "laila");
    for client in [&mut mona, &mut omar, &mut direct, &mut laila] {
        let answer = client.request(subscribe(1, "orders", &[]));
        assert_eq!(answer["refused"], json!([]), "{answer}");
    }
    let order = mona.request(place(2));
    assert_eq!(order["status"], "open", "{order}");
    assert_eq!(order.get("user"), None, "{order}");
    for client in [&mut mona, &mut direct] {
        let update = client.until(|event| event["type"] == "order_update" && event["id"].is_null(), by(PATIENCE));
        assert_eq!((&update["order_id"], update.get("user")), (&order["order_id"], None), "{update}");
    }
    let cancel = json!({"type": "order", "id": 3, "op": "cancel", "exchange": "EGX", "order_id": order["order_id"]});
    for client in [&mut omar, &mut laila] {
        // Nobody else's order; and nothing of it came before this answer.
        client.send(cancel.clone());
        assert_eq!(client.event()["code"], "order.unknown");
    }
    assert_eq!(mona.request(cancel)["status"], "cancelled");
}

#[test]
fn the_near_edge_does_not_notice_that_the_far_one_lost_a_server() {
    let mut regions = Regions::start(2);
    let mut omar = regions.user(&regions.near, "omar");
    let mut last = None;
    assert_eq!(omar.request(subscribe(4, "market_data", &["COMI"]))["accepted"].as_array().map(Vec::len), Some(1));
    in_sequence(&mut omar, &mut last, 5);
    let used = regions.servers.iter().position(|server| {
        let load = bawaba_tests::http::get(server.address, "/load").unwrap().json();
        load["sessions"].as_u64() > Some(0)
    });
    regions.servers.remove(used.unwrap()).process.kill();
    in_sequence(&mut omar, &mut last, 10);
}

#[test]
fn what_the_far_edge_revokes_is_revoked_by_the_near_one() {
    let regions = Regions::start(1);
    let mut client = regions.user(&regions.near, "mona");
    client.request(subscribe(1, "market_data", &["COMI"]));
    let mut config: toml::Table =
        std::fs::read_to_string(regions._scratch[0].path().join("edge.toml")).unwrap().parse().unwrap();
    config["route"][0]["channel"] = toml::Value::Table(toml::toml! { ADX = "egx" });
    regions.far.reload(&regions._scratch[0], &config.to_string());
    let revoked = client.until_type("revoked");
    assert_eq!((&revoked["symbols"], &revoked["code"]), (&json!(["COMI"]), &json!("channel.unknown")), "{revoked}");
}

#[test]
fn an_order_is_cancelled_where_it_is_though_two_exchanges_number_alike() {
    let stack = bawaba_tests::stack::Stack::start(&[]);
    let mut client = stack.connect(&stack.keys.unscreened("mona"));
    client.until_type("welcome");
    let order = |id: u64, exchange: &str, symbol: &str, price: &str| {
        json!({"type": "order", "id": id, "op": "place", "exchange": exchange, "symbol": symbol, "side": "buy",
        "order_type": "limit", "price": price, "quantity": "100"})
    };
    let cancel = |id: u64, order: &Value| json!({"type": "order", "id": id, "op": "cancel", "order_id": order});
    let first = client.request(order(1, "EGX", "COMI", "70.00"));
    assert_eq!(client.request(cancel(2, &first["order_id"]))["status"], "cancelled");
    let second = client.request(order(3, "ADX", "FAB", "15.00"));
    assert_eq!(second["order_id"], first["order_id"], "each exchange counts from one: {second}");
    let error = client.request(cancel(4, &second["order_id"]));
    assert!(error["reason"].as_str().unwrap_or_default().contains("name it in \"exchange\""), "{error}");
    let mut named = cancel(5, &second["order_id"]);
    named["exchange"] = "ADX".into();
    assert_eq!(client.request(named)["status"], "cancelled");
}
