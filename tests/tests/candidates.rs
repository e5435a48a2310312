//! What is tried in a filter's place: a canary judges a stable part of the sessions, and is taken back when it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeSet;

use bawaba_tests::http;
use bawaba_tests::lab::{Lab, NOBODY, license};
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{Stack, launch_list, path, set};
use bawaba_tests::{PATIENCE, by, until};
use serde_json::json;
use tungstenite::Message;

const USERS: usize = 100;

/// A module that starts, and traps on every handshake.
const TRAPS: &str = r#"(module (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable))"#;

fn users() -> impl Iterator<Item = String> {
    (0..USERS).map(|n| format!("user-{n}"))
}

/// Who may not connect.
fn refused(lab: &Lab) -> BTreeSet<String> {
    users().filter(|user| lab.connect_as(user).is_err()).collect()
}

#[test]
fn a_canary_judges_the_same_users_each_time_also_those_who_were_there_before() {
    let lab = Lab::start();
    let mut open: Vec<_> = users().map(|user| (user.clone(), lab.connect_as(&user).unwrap())).collect();
    let put = lab.put("/settings?mode=canary&percent=20", NOBODY);
    assert_eq!(put["outcome"], "canary", "{put}");
    assert!(put["after_a_restart"].as_str().unwrap().contains("is tried over restarts"), "{put}");

    let on_it = refused(&lab);
    assert!((8..=35).contains(&on_it.len()), "about 20 of {USERS}: {}", on_it.len());
    assert_eq!(refused(&lab), on_it, "the same users again");
    let ping = Message::text(r#"{"type":"ping","id":1}"#);
    for (user, client) in &mut open {
        client.send_message(ping.clone());
        if on_it.contains(user) {
            assert_eq!(client.close_code(), Some(1008), "{user} moved at a message boundary");
        } else {
            assert_eq!(client.message(by(PATIENCE)).unwrap(), ping, "{user}");
        }
    }
    let shown = lab.ask("GET", "/canary", &[], b"").json();
    assert_eq!((&shown["canary"]["percent"], &shown["canary"]["failures"]), (&json!(20), &json!(0)), "{shown}");
    assert!(shown["canary"]["calls"].as_u64().unwrap() > 0, "{shown}");
    assert!(lab.edge.metric("bawaba_filter_calls_total{filter=\"license@canary\"}").unwrap() > 0.0);

    assert_eq!(lab.ask("POST", "/abort", &[], b"").json()["outcome"], "taken_back");
    assert_eq!(refused(&lab), BTreeSet::new());
    let before = lab.state()["revision"].clone();
    let tried = lab.put("?mode=canary&percent=1", &license(1));
    assert_eq!(lab.state()["revision"], before);
    let promoted = lab.ask("POST", "/promote", &[], b"").json();
    assert_eq!((&promoted["revision"], &promoted["outcome"]), (&tried["revision"], &json!("in_force")), "{promoted}");
    let state = lab.state();
    assert_eq!((&state["revision"], &state["candidate"]), (&tried["revision"], &json!(null)));
}

#[test]
fn a_canary_that_fails_is_taken_back_by_itself_and_does_not_come_again() {
    let mut lab = Lab::start_with(|config, files| {
        files.write("traps.wasm", wat::parse_str(TRAPS).unwrap());
        set(config, "filter.license.canary.module", "traps.wasm");
        set(config, "filter.license.canary.settings", toml::Table::new());
        set(config, "filter.license.canary.percent", 50);
        set(config, "filter.license.canary.calls_min", 20);
    });
    let mut healthy = 0;
    until("the canary is taken back", by(PATIENCE), || {
        healthy += users().filter(|user| lab.connect_as(user).is_ok()).count();
        (lab.history()[0]["outcome"] == "taken_back").then_some(())
    });
    assert!(healthy > 0, "those who are not on it connect");
    let line = lab.history()[0].clone();
    assert_eq!(line["how"], "canary", "{line}");
    assert!(line["detail"].as_str().unwrap().contains("callbacks failed"), "{line}");
    assert_eq!(refused(&lab), BTreeSet::new(), "at once for everybody");
    assert_eq!(
        lab.edge.metric("bawaba_filter_changes_total{filter=\"license\",how=\"canary\",outcome=\"taken_back\"}"),
        Some(1.0)
    );
    lab.restart();
    assert_eq!(refused(&lab), BTreeSet::new(), "the file that names it does not bring it back");
    assert_eq!(http::get(lab.edge.admin, "/filters/license/canary").unwrap().status, 404);
}

/// Settings under which all symbols at once need a feature that no tier has.
const NO_WILDCARD: &[u8] = br#"{"tiers": {"features": [{"name": "FLOOR"}], "wildcard": ["FLOOR"]}}"#;

/// A module that starts and opens, and then does this with each message from a client.
fn misbehaves(how: &str) -> Vec<u8> {
    let text = TRAPS.replace("(result i32) unreachable))", "(result i32) (i32.const 0))")
        + &format!(
            "(func (export \"proxy_on_request_body\") (param i32 i32 i32) (result i32)
          (if (local.get 1) (then {how})) (i32.const 0)))"
        );
    wat::parse_str(&text).unwrap()
}

fn shadow(lab: &Lab) -> serde_json::Value {
    lab.ask("GET", "/shadow", &[], b"").json()["shadow"].clone()
}

#[test]
fn a_shadow_is_counted_and_shown_and_changes_nothing() {
    let lab = Lab::start();
    let mut open = lab.connect();
    let wildcard = |id: u32| {
        json!({"type": "subscribe", "id": id, "channel": "market_data", "exchange": "EGX", "symbols": ["*"]})
            .to_string()
    };
    // The service echoes: what comes back has reached it.
    let mut passes = |text: &str| {
        open.send_message(Message::text(text));
        assert_eq!(open.message(by(PATIENCE)).unwrap(), Message::text(text));
    };
    let ping = r#"{"type":"ping","id":1}"#;
    passes(ping);
    let put = lab.put("/settings?mode=shadow", NO_WILDCARD);
    assert_eq!(put["outcome"], "shadow", "{put}");
    passes(ping);
    passes(&wildcard(2));
    passes(ping);
    let shown = shadow(&lab);
    assert_eq!(
        (&shown["state"], &shown["failures"], &shown["skipped"]),
        (&json!("on"), &json!(0), &json!(0)),
        "{shown}"
    );
    assert_eq!(shown["differences"]["refused"], 1, "{shown}");
    assert_eq!(shown["differences"]["passed"], 0, "the candidate's answer is no second difference: {shown}");
    assert!(shown["samples"]["refused"][0]["input"].as_str().unwrap().contains("\"*\""), "{shown}");
    let (compared, same) = (shown["compared"].as_u64().unwrap(), shown["same"].as_u64().unwrap());
    assert!(same + 1 == compared && compared >= 4, "{shown}");
    assert!(
        shown["cost_ns"]["candidate"].as_u64().unwrap() > 0 && shown["cost_ns"]["active"].as_u64().unwrap() > 0,
        "{shown}"
    );
    let metric = "bawaba_shadow_differences_total{filter=\"license\",reason=\"refused\"}";
    assert_eq!(lab.edge.metric(metric), Some(1.0));

    // Another one in its place: it refuses the session that is open, and those that come, and nobody notices.
    lab.put("/settings?mode=shadow", NOBODY);
    passes(ping);
    drop(lab.connect());
    assert_eq!(shadow(&lab)["differences"]["handshake"], 1, "{}", shadow(&lab));
    // Once it is in force it would be as said.
    assert_eq!(lab.ask("POST", "/promote", &[], b"").status, 200);
    assert_eq!(lab.connect_as("mona").err().map(|answer| answer.status), Some(403));
    // And what it refuses, the one before would open.
    lab.put("/settings?mode=shadow", b"{}");
    assert_eq!(lab.connect_as("mona").err().map(|answer| answer.status), Some(403));
    assert_eq!(shadow(&lab)["differences"]["handshake"], 1, "{}", shadow(&lab));
}

#[test]
fn a_shadow_that_traps_or_never_ends_is_switched_off_and_harms_nobody() {
    for (how, cause) in [("unreachable", "trap"), ("(loop $for_ever (br $for_ever))", "cpu_budget")] {
        let lab = Lab::start();
        let mut open = lab.connect();
        lab.put("?mode=shadow", &misbehaves(how));
        let ping = Message::text(r#"{"type":"ping","id":1}"#);
        let off = until("it is switched off", by(PATIENCE), || {
            open.send_message(ping.clone());
            assert_eq!(open.message(by(PATIENCE)).unwrap(), ping);
            let shown = shadow(&lab);
            (shown["state"] == "off").then_some(shown)
        });
        assert_eq!((&off["newest_failure"], &off["failures"]), (&json!(cause), &json!(10)), "{off}");
        assert_eq!(lab.edge.metric("bawaba_shadow_off{filter=\"license\"}"), Some(1.0));
        open.send_message(ping.clone());
        assert_eq!(open.message(by(PATIENCE)).unwrap(), ping);
        assert_eq!(shadow(&lab)["failures"], 10, "it is left alone");
        assert_eq!((lab.counter("traps"), lab.counter("denied")), (0, 0), "the filter in force is another");
    }
}

#[test]
fn a_shadow_judges_for_cohorts_what_the_filter_judges_for_cohorts() {
    let scratch = Scratch::new();
    let stack = Stack::start_with(&["sharia"], |config| {
        set(config, "edge.state_directory", path(scratch.path()));
        set(config, "filter.sharia.settings", launch_list());
    });
    let mut client = stack.connect(&stack.keys.screened("amina"));
    client.until_type("welcome");
    client.request(
        json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX", "symbols": ["ABUK"]}),
    );
    client.until_type("market_data_update");
    // Without the historical list nothing may be seen: the shadow says so, and the client sees on.
    let put = http::send(stack.edge.admin, "PUT", "/filters/sharia/settings?mode=shadow", &[], b"{}").unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    let differs = "bawaba_shadow_differences_total{filter=\"sharia\",reason=\"refused\"}";
    until("the shadow differs", by(PATIENCE), || {
        assert_eq!(client.until_type("market_data_update")["symbol"], "ABUK");
        stack.edge.metric(differs).filter(|count| *count >= 3.0)
    });
    assert_eq!(stack.edge.metric("bawaba_shadow_failures_total{filter=\"sharia\"}"), Some(0.0));
}
