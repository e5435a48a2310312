//! One table of conversations, spoken with both hosts of the same modules: our edge, and a stock Envoy that runs
//! `envoy/envoy.yaml`. What the client receives must be the same, message by message.
//!
//! Both stand before one channel server whose market stands still, so that a conversation has one right outcome.
//! Live updates are compared by instrument and sequence number in `live_updates_are_the_same_in_both_hosts`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bawaba_tests::client::Connect;
use bawaba_tests::keys::{Keys, now_s, trader};
use bawaba_tests::place::Scratch;
use bawaba_tests::scenario::Scenario;
use bawaba_tests::stack::{ChannelServer, Edge, Envoy, EnvoyOptions, edge_config, launch_list, set};
use bawaba_tests::transcript::Transcript;
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

#[path = "conformance/table.rs"]
mod table;

const FILTERS: [&str; 3] = ["license", "quota", "sharia"];

/// Two hosts before one channel server.
struct Hosts {
    edge: Edge,
    envoy: Envoy,
    keys: Keys,
    _server: ChannelServer,
    _scratch: Scratch,
}

impl Hosts {
    fn before(server: ChannelServer) -> Self {
        let keys = Keys::generate();
        let scratch = Scratch::new();
        let egx = [server.address];
        let mut config = edge_config(&scratch, &keys, &FILTERS, &[("EGX", &egx)]);
        set(&mut config, "filter.sharia.settings", launch_list());
        // Late data is each host's own matter: the edge delays it, in Envoy only a backend can.
        set(&mut config, "filter.license.settings.delayed", "pass");
        let sharia = serde_json::to_value(launch_list()).unwrap();
        let filters = [("license", json!({"delayed": "pass"})), ("quota", json!({})), ("sharia", sharia)];
        let options = EnvoyOptions {
            filters: filters.map(|(name, settings)| (name.into(), settings)).into(),
            clusters: [("egx".into(), egx.to_vec()), ("adx".into(), egx.to_vec())].into(),
            ..EnvoyOptions::default()
        };
        let edge = Edge::start(&scratch, &config);
        let envoy = Envoy::start(&scratch, &keys, &options);
        Self { edge, envoy, keys, _server: server, _scratch: scratch }
    }

    fn both(&self) -> [(&'static str, SocketAddr); 2] {
        [("edge", self.edge.address), ("envoy", self.envoy.address)]
    }
}

#[test]
fn both_hosts_say_the_same() {
    let hosts = Hosts::before(ChannelServer::still("EGX"));
    let mut different = Vec::new();
    for scenario in table::scenarios() {
        let [edge, envoy] = hosts.both().map(|(host, address)| scenario.run(address, &hosts.keys, host));
        compare(&scenario, &edge, &envoy, &mut different);
    }
    assert!(different.is_empty(), "\n{}", different.join("\n"));
}

fn compare(scenario: &Scenario, edge: &Transcript, envoy: &Transcript, different: &mut Vec<String>) {
    let lacking = edge.lacks(scenario.says).or(envoy.lacks(scenario.says));
    if edge.lines != envoy.lines || lacking.is_some() {
        let lacking = lacking.map_or(String::new(), |part| format!("\n  missing: {part}"));
        different.push(format!(
            "== {}{lacking}\n  edge:\n    {}\n  envoy:\n    {}",
            scenario.law,
            edge.lines.join("\n    "),
            envoy.lines.join("\n    ")
        ));
    }
}

/// How a handshake fares: status, body, and the subprotocol that was selected.
fn handshake(connect: &Connect, address: SocketAddr) -> String {
    match connect.open(address) {
        Ok(client) => format!("101 {:?}", client.handshake().header("sec-websocket-protocol")),
        Err(answer) => format!("{} {}", answer.status, answer.json()["code"]),
    }
}

#[test]
fn both_hosts_open_and_refuse_the_same_handshakes() {
    let hosts = Hosts::before(ChannelServer::still("EGX"));
    let keys = &hosts.keys;
    let good = keys.screened("mona");
    let with = |change: Value| {
        let mut claims = trader("mona");
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Connect::with_token(&keys.token(claims))
    };
    let forged_claims = base64url(&json!({"sub": "mallory", "islamic": {"mode": "off"}}));
    let bearer = format!("bearer.{good}");
    let table: Vec<(&str, Connect, &str)> = vec![
        ("a good token", Connect::with_token(&good), r#"101 Some("tradsys.v3.json")"#),
        ("no token", Connect::default(), r#"401 "auth.missing""#),
        ("a forged token", Connect::with_token(&Keys::generate().screened("mona")), r#"401 "auth.invalid""#),
        ("no token at all", Connect::with_token("rubbish"), r#"401 "auth.invalid""#),
        ("an expired token", with(json!({"exp": now_s() - 60})), r#"401 "auth.expired""#),
        ("a token for somebody else", with(json!({"aud": "another"})), r#"401 "auth.invalid""#),
        ("a token by somebody else", with(json!({"iss": "https://elsewhere.example"})), r#"401 "auth.invalid""#),
        ("a token of tomorrow", with(json!({"nbf": now_s() + 3600})), r#"401 "auth.invalid""#),
        (
            "claims without a token",
            Connect::default().header("x-bawaba-claims", &forged_claims),
            r#"401 "auth.missing""#,
        ),
        ("the query", Connect::default().path(&format!("/ws?token={good}")), r#"101 Some("tradsys.v3.json")"#),
        ("a query that does not hold", Connect::default().path("/ws?token=rubbish"), r#"401 "auth.invalid""#),
        ("a browser", Connect::default().protocols(&["tradsys.v3.json", &bearer]), r#"101 Some("tradsys.v3.json")"#),
        (
            "protobuf",
            Connect::with_token(&good).protocols(&["tradsys.v3.proto", "tradsys.v3.json"]),
            r#"101 Some("tradsys.v3.proto")"#,
        ),
        ("an unknown path", Connect::with_token(&good).path("/elsewhere"), "404"),
    ];
    let mut different = Vec::new();
    for (law, connect, expected) in table {
        for (host, address) in hosts.both() {
            let found = handshake(&connect, address);
            if !found.starts_with(expected) {
                different.push(format!("{law}: {host}: {found}, expected {expected}"));
            }
        }
    }
    assert!(different.is_empty(), "\n{}", different.join("\n"));
    forged_claims_beside_a_token_change_nothing(&hosts);
}

fn forged_claims_beside_a_token_change_nothing(hosts: &Hosts) {
    let forged = base64url(&json!({"sub": "mallory", "tier": "enterprise", "islamic": {"mode": "off"}}));
    for (host, address) in hosts.both() {
        let token = hosts.keys.screened("mona");
        let mut client = Connect::with_token(&token)
            .header("x-bawaba-claims", &forged)
            .header("X-Bawaba-Cohort", "1")
            .accepted(address);
        assert_eq!(client.event()["islamic"]["mode"], "filter", "{host}");
        let answer = client.request(json!({"type": "subscribe", "id": 1, "channel": "market_data",
            "exchange": "EGX", "symbols": ["COMI"]}));
        assert_eq!(answer["accepted"], json!([]), "{host}");
    }
}

/// The updates of some symbols, by instrument and sequence number, without what must differ.
fn updates(address: SocketAddr, token: &str, count: usize) -> BTreeMap<(String, u64), Value> {
    let mut client = Connect::with_token(token).accepted(address);
    client.send(json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX",
        "symbols": ["ABUK", "AMOC", "SWDY", "COMI", "EAST"]}));
    let mut updates = BTreeMap::new();
    while updates.len() < count {
        let mut event =
            client.until(|event| event["type"] == "market_data_update" && event["snapshot"] != true, by(PATIENCE));
        Transcript::new().normalise(&mut event);
        let symbol = event["symbol"].as_str().unwrap().to_owned();
        updates.insert((symbol, event["seq"].as_u64().unwrap()), event);
    }
    updates
}

#[test]
fn live_updates_are_the_same_in_both_hosts() {
    let hosts = Hosts::before(ChannelServer::live("EGX"));
    let token = hosts.keys.screened("mona");
    let [edge, envoy] = hosts.both().map(|(_, address)| {
        let token = token.clone();
        std::thread::spawn(move || updates(address, &token, 60))
    });
    let (edge, envoy) = (edge.join().unwrap(), envoy.join().unwrap());
    let common: Vec<_> = edge.keys().filter(|key| envoy.contains_key(*key)).collect();
    assert!(common.len() >= 20, "{} updates in common", common.len());
    for key in common {
        assert_eq!(edge[key], envoy[key], "{key:?}");
    }
    for (symbol, _) in edge.keys().chain(envoy.keys()) {
        assert!(symbol != "COMI" && symbol != "EAST", "{symbol} came through");
    }
}

fn base64url(claims: &Value) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
}
