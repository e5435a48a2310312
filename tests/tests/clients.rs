//! Clients in other languages: Python's `websockets` and Node's `ws`, as their users write them, through our edge.
//! What they get is what `docs/protocol.md` writes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use bawaba_tests::place::{on_path, python, root};
use bawaba_tests::process::Process;
use bawaba_tests::stack::{Stack, launch_list, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

/// A client program in some language.
type Program = fn() -> Command;

fn python_websockets() -> Command {
    let mut command = Command::new(python());
    command.arg(root().join("tests/python/client.py"));
    command
}

fn node_ws() -> Command {
    let node = on_path("node").expect("no Node.js: run scripts/setup node");
    let packages = root().join("tests/node/node_modules");
    assert!(packages.is_dir(), "run scripts/setup node");
    let mut command = Command::new(node);
    command.arg(root().join("tests/node/client.mjs"));
    command
}

const LANGUAGES: [(&str, Program); 2] = [("python", python_websockets), ("node", node_ws)];

fn stack() -> Stack {
    Stack::start_with(&["license", "quota", "sharia"], |config| {
        set(config, "filter.sharia.settings", launch_list());
    })
}

/// Runs a client to its end: what it printed.
fn run(stack: &Stack, program: Program, token: &str, credential: &str, symbols: &[&str]) -> Vec<Value> {
    let mut command = program();
    command.arg(format!("ws://{}/ws", stack.edge.address));
    command.args([token, credential]).args(symbols);
    let mut process = Process::spawn("client", &mut command);
    let (status, output) = process.ended(by(2 * PATIENCE));
    assert!(status.success(), "{status}\n{output}");
    output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn only<'a>(lines: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = lines.iter().filter(|line| line["type"] == kind).collect();
    assert_eq!(found.len(), 1, "one {kind}: {lines:#?}");
    found[0]
}

#[test]
fn a_client_in_any_language_gets_welcome_snapshots_updates_and_refusals() {
    let stack = stack();
    let token = stack.keys.screened("mona");
    for (language, program) in LANGUAGES {
        for credential in ["header", "subprotocol", "query"] {
            let lines = run(&stack, program, &token, credential, &["ABUK", "COMI", "EAST"]);
            let law = format!("{language}, token in the {credential}");
            assert_eq!(lines[0], json!({"subprotocol": "tradsys.v3.json"}), "{law}");
            assert_eq!(lines[1]["type"], "welcome", "{law}: the first message");
            assert_eq!(lines.last(), Some(&json!({"closed": 1000})), "{law}");
            check_welcome(&lines[1]);
            check_subscribed(only(&lines, "subscribed"));
            let updates: Vec<&Value> = lines.iter().filter(|line| line["type"] == "market_data_update").collect();
            check_updates(&updates);
        }
    }
}

fn check_welcome(welcome: &Value) {
    assert_eq!(welcome["protocol"], "tradsys.v3");
    assert_eq!(welcome["tier"], "enterprise");
    assert_eq!(welcome["islamic"]["mode"], "filter");
    assert_eq!(welcome["islamic"]["boards"], json!(["EGX33"]));
    assert!(welcome["session"].as_str().is_some_and(|s| s.len() >= 16), "{welcome}");
    assert!(welcome["heartbeat_ms"].is_u64());
    assert!(is_time(&welcome["server_time"]), "{welcome}");
    assert!(welcome["markets"]["EGX"]["phase"].is_string(), "{welcome}");
}

fn check_subscribed(answer: &Value) {
    assert_eq!(answer["id"], 7);
    assert!(answer["subscription"].is_string());
    assert_eq!(answer["accepted"][0]["symbol"], "ABUK");
    assert_eq!(answer["accepted"].as_array().map(Vec::len), Some(1), "{answer}");
    let mut refused: Vec<&str> = answer["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| {
            assert!(refused["code"].as_str().unwrap().starts_with("sharia."), "{answer}");
            assert!(!refused["reason"].as_str().unwrap().is_empty(), "{answer}");
            refused["symbol"].as_str().unwrap()
        })
        .collect();
    refused.sort_unstable();
    assert_eq!(refused, ["COMI", "EAST"]);
}

fn check_updates(updates: &[&Value]) {
    let (snapshot, live) = updates.split_first().expect("at least a snapshot");
    assert_eq!(snapshot["snapshot"], true, "the snapshot comes first: {snapshot}");
    assert!(live.len() >= 3);
    let first = snapshot["seq"].as_u64().unwrap() + 1;
    for (sequence, update) in (first..).zip(live) {
        assert_eq!(update["snapshot"], false);
        assert_eq!(update["seq"], sequence, "no gap: {update}");
    }
    for update in updates {
        assert_eq!(update["exchange"], "EGX");
        assert_eq!(update["symbol"], "ABUK");
        assert!(is_time(&update["time"]), "{update}");
        assert!(update["epoch"].is_string());
        let last = update["data"]["last"].as_str().expect("prices are decimal strings");
        assert!(last.parse::<f64>().is_ok_and(|price| price > 0.0), "{update}");
        let metadata = &update["metadata"];
        assert_eq!(metadata["sharia_compliant"], true, "{update}");
        assert_eq!(metadata["compliance_board"], "EGX33");
        assert_eq!(metadata["list"], "egx33@2024-06-12");
        assert!(is_time(&metadata["filtered_at"]), "{update}");
    }
}

/// RFC 3339, UTC, milliseconds: `2026-11-22T08:00:00.000Z`.
fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let form = text.bytes().map(|b| if b.is_ascii_digit() { b'0' } else { b });
    form.eq(*b"0000-00-00T00:00:00.000Z")
}

#[test]
fn a_client_in_any_language_reads_why_it_is_refused() {
    let stack = stack();
    let screened = stack.keys.screened("mona");
    let other = bawaba_tests::keys::Keys::generate().screened("mona");
    for (language, program) in LANGUAGES {
        let lines = run(&stack, program, &screened, "header", &["COMI"]);
        assert_eq!(only(&lines, "subscribed")["accepted"], json!([]), "{language}");
        let lines = run(&stack, program, &other, "header", &["COMI"]);
        assert_eq!(lines[0]["status"], 401, "{language}");
        assert_eq!(lines[0]["body"]["code"], "auth.invalid", "{language}");
    }
}
