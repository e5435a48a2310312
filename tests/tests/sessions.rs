//! The life of a session: its token is refreshed or ends, a newer connection takes its place, its heart stops.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::io::Read as _;
use std::time::Duration;

use bawaba_channels::wire::Encoding;
use bawaba_tests::client::{Client, Connect};
use bawaba_tests::keys::{Keys, now_s, trader};
use bawaba_tests::place::Scratch;
use bawaba_tests::relay::Door;
use bawaba_tests::stack::{ChannelServer, Edge, Stack, edge_config, launch_list, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};
use toml::Table;

/// One exchange behind an edge without filters: quick to start.
struct Plain {
    keys: Keys,
    edge: Edge,
    _server: ChannelServer,
    _scratch: Scratch,
}

impl Plain {
    fn start(change: impl FnOnce(&mut Table)) -> Self {
        let (keys, scratch, server) = (Keys::generate(), Scratch::new(), ChannelServer::live("EGX"));
        let mut config = edge_config(&scratch, &keys, &[], &[("EGX", &[server.address])]);
        change(&mut config);
        let edge = Edge::start(&scratch, &config);
        Self { keys, edge, _server: server, _scratch: scratch }
    }

    fn token(&self, user: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = trader(user);
        change(&mut claims);
        self.keys.token(claims)
    }
}

fn welcomed(edge: &Edge, token: &str) -> Client {
    let mut client = edge.connect(token);
    client.until_type("welcome");
    client
}

fn subscribe(id: u64, exchange: &str, channel: &str, symbols: &[&str]) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": exchange, "symbols": symbols})
}

fn lives(client: &mut Client) {
    assert_eq!(client.request(json!({"type": "ping", "id": 4711}))["type"], "pong");
}

/// Whatever the policies can judge is judged by the new claims: what flows, what is asked for, when it ends.
fn refreshed_claims_rule(stack: &Stack, encoding: Encoding) {
    let mut client =
        Connect::with_token(&stack.keys.unscreened("mona")).encoding(encoding).accepted(stack.edge.address);
    client.until_type("welcome");
    for (id, exchange, channel, symbols) in [
        (1, "EGX", "market_data", &["ABUK", "COMI"][..]),
        (2, "EGX", "order_book", &["ABUK"][..]),
        (3, "ADX", "market_data", &["FAB"][..]),
        (4, "EGX", "orders", &[][..]),
    ] {
        let answer = client.request(subscribe(id, exchange, channel, symbols));
        assert_eq!(answer["refused"], json!([]), "{answer}");
    }
    // Screened now, without depth, and of one exchange only.
    let mut claims = trader("mona");
    claims["islamic"] = json!({"mode": "filter", "boards": ["EGX33"], "rule": "named"});
    claims["exchanges"] = json!(["EGX"]);
    claims["features"] = json!(["market_data", "trading"]);
    claims["tier"] = "islamic".into();
    client.send(json!({"type": "refresh", "id": 5, "token": stack.keys.token(claims)}));
    assert_eq!(client.answer(5)["type"], "refreshed");
    let mut revoked: Vec<(String, Value)> = Vec::new();
    while !revoked.iter().any(|(_, symbols)| *symbols == json!(["FAB"]))
        || !revoked.iter().any(|(_, symbols)| *symbols == json!(["COMI"]))
    {
        let event = client.until_type("revoked");
        revoked.push((event["code"].as_str().unwrap().to_owned(), event["symbols"].clone()));
    }
    let code_of = |symbol: &str| revoked.iter().find(|(_, s)| *s == json!([symbol])).map(|(code, _)| code.as_str());
    assert_eq!(code_of("COMI"), Some("sharia.delisted"), "{revoked:?}");
    assert_eq!(code_of("FAB"), Some("license.exchange"), "{revoked:?}");
    // From here on nothing of what was revoked comes, and what is left is screened.
    for _ in 0..5 {
        let update = client.until(|event| event["type"] == "market_data_update", by(PATIENCE));
        assert_eq!(update["symbol"], "ABUK", "{update}");
        assert_eq!(update["metadata"]["sharia_compliant"], true, "{update}");
    }
    let answer = client.request(subscribe(6, "EGX", "market_data", &["COMI"]));
    assert_eq!(answer["refused"][0]["code"], "sharia.not_listed", "{answer}");
    let answer = client.request(subscribe(7, "ADX", "market_data", &["FAB"]));
    assert!(answer.to_string().contains("license.exchange"), "{answer}");
}

#[test]
fn a_refreshed_token_rules_over_what_flows_already() {
    let stack = Stack::start_with(&["license", "quota", "sharia"], |config| {
        set(config, "filter.sharia.settings", launch_list());
    });
    refreshed_claims_rule(&stack, Encoding::Json);
    refreshed_claims_rule(&stack, Encoding::Proto);
}

#[test]
fn a_refreshed_token_rules_where_each_session_is_judged_for_itself() {
    let stack = Stack::start_with(&["license", "quota", "sharia"], |config| {
        set(config, "filter.sharia.settings", launch_list());
        set(config, "filter.sharia.scope", "session");
    });
    refreshed_claims_rule(&stack, Encoding::Json);
}

#[test]
fn a_refresh_that_does_not_hold_is_refused_and_the_session_goes_on() {
    let plain = Plain::start(|_| {});
    let mut client = welcomed(&plain.edge, &plain.keys.unscreened("mona"));
    let table = [
        ("of another user", plain.keys.unscreened("omar"), "auth.invalid"),
        ("of another tenant", plain.token("mona", |claims| claims["tenant"] = "other".into()), "auth.invalid"),
        ("no token", "nonsense".into(), "auth.invalid"),
        ("signed by another key", Keys::generate().unscreened("mona"), "auth.invalid"),
        ("ended", plain.token("mona", |claims| claims["exp"] = (now_s() - 60).into()), "auth.expired"),
        ("for another audience", plain.token("mona", |claims| claims["aud"] = "other".into()), "auth.invalid"),
    ];
    for (id, (law, token, code)) in (1..).zip(table) {
        let error = client.request(json!({"type": "refresh", "id": id, "token": token}));
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{law}: {error}");
        lives(&mut client);
    }
}

#[test]
fn a_token_that_ends_ends_its_session_and_one_refreshed_in_time_does_not() {
    let plain = Plain::start(|_| {});
    let soon = |user: &str| plain.token(user, |claims| claims["exp"] = (now_s() + 2).into());
    let mut kept = welcomed(&plain.edge, &soon("kept"));
    let mut left = welcomed(&plain.edge, &soon("left"));
    let answer = kept.request(json!({"type": "refresh", "id": 1, "token": plain.keys.unscreened("kept")}));
    assert_eq!(answer["type"], "refreshed");
    assert_eq!(left.close_code(), Some(4401));
    lives(&mut kept);
    // And by a refresh it may be made shorter too.
    let answer = kept.request(json!({"type": "refresh", "id": 2, "token": soon("kept")}));
    assert_eq!(answer["type"], "refreshed");
    assert_eq!(kept.close_code(), Some(4401));
}

#[test]
fn a_newer_connection_of_the_same_session_takes_the_place_of_the_old_one_alone() {
    let plain = Plain::start(|config| set(config, "edge.workers", 2));
    let of = |user: &str, sid: &str| plain.token(user, |claims| claims["sid"] = sid.into());
    let mut bystanders: Vec<Client> = [("mona", "tablet"), ("omar", "phone")]
        .iter()
        .map(|(user, sid)| welcomed(&plain.edge, &of(user, sid)))
        .chain([welcomed(&plain.edge, &plain.keys.unscreened("mona"))])
        .collect();
    let mut newest = welcomed(&plain.edge, &of("mona", "phone"));
    for _ in 0..4 {
        let newer = welcomed(&plain.edge, &of("mona", "phone"));
        assert_eq!(newest.close_code(), Some(4409));
        newest = newer;
    }
    lives(&mut newest);
    bystanders.iter_mut().for_each(lives);
}

#[test]
fn a_newer_connection_takes_the_place_of_the_old_one_on_a_relay_too() {
    let door = Door::plain();
    let open = |user: &str, sid: &str| {
        let mut claims = trader(user);
        claims["sid"] = sid.into();
        let connect = Connect::with_token(&door.keys.token(claims)).path("/quotes/live").protocols(&["soup.v1"]);
        connect.accepted(door.edge.address)
    };
    let (mut old, mut other) = (open("mona", "phone"), open("mona", "tablet"));
    let mut newer = open("mona", "phone");
    assert_eq!(old.close_code(), Some(4409));
    for client in [&mut newer, &mut other] {
        client.send_message(tungstenite::Message::text("still here"));
        assert_eq!(client.message(by(PATIENCE)).unwrap(), tungstenite::Message::text("still here"));
    }
}

#[test]
fn a_client_whose_heart_stops_is_closed_and_no_other() {
    let plain = Plain::start(|config| {
        set(config, "timeouts.ping_interval", "100ms");
        set(config, "timeouts.heartbeat", "500ms");
    });
    // It takes whatever it is sent, and says nothing.
    let mut silent = welcomed(&plain.edge, &plain.keys.unscreened("silent"));
    silent.send(subscribe(1, "EGX", "market_data", &["COMI"]));
    let mut bytes = silent.stream().try_clone().unwrap();
    let listening = std::thread::spawn(move || {
        let mut heard = Vec::new();
        bytes.set_read_timeout(Some(PATIENCE)).unwrap();
        let close = [&4408u16.to_be_bytes()[..], b"no traffic"].concat();
        let mut buffer = [0; 4096];
        while !heard.windows(close.len()).any(|window| window == close) {
            match bytes.read(&mut buffer) {
                Ok(count @ 1..) => heard.extend_from_slice(&buffer[..count]),
                other => panic!("{other:?} before the Close, after {:?}", String::from_utf8_lossy(&heard)),
            }
        }
    });
    let mut answers = welcomed(&plain.edge, &plain.keys.unscreened("answers"));
    let mut speaks = welcomed(&plain.edge, &plain.keys.unscreened("speaks"));
    let mut pings = 0;
    while !listening.is_finished() {
        // A Pong to each Ping and no word of its own; and the other way round.
        if let Ok(Some(tungstenite::Message::Ping(_))) = answers.try_message(by(Duration::from_millis(20))) {
            pings += 1;
        }
        speaks.send(json!({"type": "ping"}));
    }
    listening.join().unwrap();
    assert!(pings >= 2, "{pings} Pings in half a second");
    lives(&mut answers);
    lives(&mut speaks);
}
