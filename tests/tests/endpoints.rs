//! Endpoints come and go while sessions are open: relays stay where they are, channels go on elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::net::SocketAddr;

use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::relay::{Door, Service};
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, free_address};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::{Value, json};

fn announce(admin: SocketAddr, cluster: &str, endpoints: &Value) -> http::Answer {
    let body = endpoints.to_string();
    let head = format!(
        "PUT /endpoints/{cluster} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    http::ask(admin, head.as_bytes()).unwrap().0
}

fn retract(admin: SocketAddr, cluster: &str) {
    let head = format!("DELETE /endpoints/{cluster} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    assert_eq!(http::ask(admin, head.as_bytes()).unwrap().0.status, 200);
}

/// What admin says of the endpoint at an address.
fn endpoint(admin: SocketAddr, cluster: &str, address: SocketAddr) -> Option<Value> {
    let all = http::get(admin, "/endpoints").unwrap().json();
    all[cluster].as_array().unwrap().iter().find(|at| at["address"] == address.to_string()).cloned()
}

#[test]
fn an_endpoint_that_is_no_longer_named_keeps_its_relays_and_gets_no_more() {
    let door = Door::plain();
    let admin = door.edge.admin;
    let other = Service::start();
    let refused = announce(admin, "quotes", &json!(["no endpoint"]));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(announce(admin, "nowhere", &json!([])).status, 404);
    let heavy = json!([{ "address": other.address.to_string(), "weight": 1000, "region": "eg" }]);
    assert_eq!(announce(admin, "quotes", &heavy).status, 200);
    until("it serves", by(PATIENCE), || {
        endpoint(admin, "quotes", other.address).filter(|at| at["state"] == "serving" && at["latency_ms"].is_number())
    });
    // It warms up from a tenth: a hundred beside one.
    let mut open = Vec::new();
    until("a session there", by(PATIENCE), || {
        open.push(door.connect().accepted(door.edge.address));
        endpoint(admin, "quotes", other.address).filter(|at| at["sessions"] != 0)
    });
    retract(admin, "quotes");
    let left = endpoint(admin, "quotes", other.address).unwrap();
    assert_eq!((left["state"].as_str(), left["sessions"].as_u64() > Some(0)), (Some("draining"), true), "{left}");
    let before = left["sessions"].clone();
    for _ in 0..8 {
        open.push(door.connect().accepted(door.edge.address));
    }
    assert_eq!(endpoint(admin, "quotes", other.address).unwrap()["sessions"], before);
    drop(open);
    until("it is forgotten with its last session", by(PATIENCE), || {
        endpoint(admin, "quotes", other.address).is_none().then_some(())
    });
}

#[test]
fn a_channel_goes_on_at_another_endpoint_when_its_own_is_no_longer_named() {
    let (keys, scratch) = (Keys::generate(), Scratch::new());
    let arguments = ["--exchange", "EGX", "--round-the-clock", "--updates-per-second", "500"];
    let servers = [ChannelServer::start(&arguments), ChannelServer::start(&arguments)];
    // The one of the configuration never answers.
    let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &[free_address()])]);
    config["edge"]["workers"] = 1.into();
    let edge = Edge::spawn(&scratch, &config);
    until("the edge lives", by(PATIENCE), || http::get(edge.admin, "/livez").ok());
    let cluster = config["cluster"].as_table().unwrap().keys().next().unwrap().clone();
    let name = |n: usize| servers[n].address.to_string();
    announce(edge.admin, &cluster, &json!([name(0)]));
    edge.wait_ready();
    let mut client = edge.connect(&keys.unscreened("amina"));
    client.until_type("welcome");
    let answer = client.request(
        json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX", "symbols": ["COMI"]}),
    );
    assert_eq!(answer["accepted"].as_array().map(Vec::len), Some(1), "{answer}");
    let sessions = |n: usize| endpoint(edge.admin, &cluster, servers[n].address).map(|at| at["sessions"].clone());
    assert_eq!(sessions(0), Some(json!(1)));
    announce(edge.admin, &cluster, &json!([name(0), name(1)]));
    until("the second serves", by(PATIENCE), || {
        endpoint(edge.admin, &cluster, servers[1].address).filter(|at| at["state"] == "serving")
    });
    assert_eq!(sessions(0), Some(json!(1)), "who is open stays where it is");
    announce(edge.admin, &cluster, &json!([name(1)]));
    until("its session counts at the second", by(PATIENCE), || (sessions(1) == Some(json!(1))).then_some(()));
    // The same seed: the second serves the same stream, and nothing of it is missing.
    let mut last = None;
    for _ in 0..50 {
        let update =
            client.until(|event| event["type"] == "market_data_update" || event["type"] == "gap", by(PATIENCE));
        let seq = update["seq"].as_u64().unwrap_or_else(|| panic!("a gap: {update}"));
        assert!(last.is_none_or(|last| seq == last + 1) || update["snapshot"] == true, "{last:?} then {update}");
        last = Some(seq);
    }
    client.request(json!({"type": "ping", "id": 2}));
}
