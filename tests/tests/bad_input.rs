//! Bad input, tried against the edge: each gets its clear error, and nobody else notices.
//!
//! The handshake's own errors are in `door.rs`; here is what comes behind it, before it, and what an operator
//! may get wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::{Command, Output};

use bawaba_channels::wire::Encoding;
use bawaba_tests::client::{BINARY, Client, Connect, End, LAST, PING, TEXT, TEXT_FIRST, frame, unmasked_frame};
use bawaba_tests::http::ask;
use bawaba_tests::keys::{Keys, now_s, trader};
use bawaba_tests::place::{Scratch, binary, filter};
use bawaba_tests::stack::{Stack, edge_config, path, set};
use bawaba_tests::{PATIENCE, by};
use serde_json::{Value, json};

const FILTERS: [&str; 3] = ["license", "quota", "sharia"];

/// The connection still answers.
fn lives(client: &mut Client, law: &str) {
    let pong = client.request(json!({"type": "ping", "id": 4711}));
    assert_eq!(pong["type"], "pong", "{law}");
}

#[test]
fn a_frame_that_breaks_the_protocol_ends_its_connection_with_the_right_code() {
    let stack = Stack::start(&FILTERS);
    let token = stack.keys.unscreened("mona");
    let mut bystander = stack.connect(&token);
    let split_character = [frame(TEXT_FIRST, &[0xe2, 0x82]), frame(LAST, b"x")].concat();
    let table: [(&str, Vec<u8>, u16); 14] = [
        ("not masked", unmasked_frame(TEXT, b"{}"), 1002),
        ("a reserved bit", frame(0xc1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a reserved control opcode", frame(0x8b, b""), 1002),
        ("a fragment of nothing", frame(LAST, b"{}"), 1002),
        ("a message inside a message", [frame(TEXT_FIRST, b"{"), frame(TEXT, b"{}")].concat(), 1002),
        ("a Ping in fragments", frame(0x09, b"x"), 1002),
        ("a long Ping", frame(PING, &[0; 126]), 1002),
        ("a Close of one byte", frame(0x88, &[3]), 1002),
        ("a Close with a code that can't be sent", frame(0x88, &1005u16.to_be_bytes()), 1002),
        ("text that is not UTF-8", frame(TEXT, &[b'"', 0xc3, 0x28, b'"']), 1007),
        ("text that is not UTF-8 where it is split", split_character, 1007),
        ("a message over the limit", frame(TEXT, &vec![b' '; 64 * 1024 + 1]), 1009),
        ("a frame that says it will be 2^62 bytes", [&[TEXT, 0xff, 0x40][..], &[0; 11]].concat(), 1009),
    ];
    for (law, bytes, code) in table {
        let mut client = stack.connect(&token);
        client.until_type("welcome");
        client.send_bytes(&bytes).unwrap();
        let end = client.end(by(PATIENCE));
        assert!(matches!(end, End::Close(Some(found), _) if found == code), "{law}: {end:?}, expected {code}");
    }
    lives(&mut bystander, "a bystander");
}

#[test]
fn a_message_that_cannot_be_read_is_refused_and_the_connection_stays() {
    let stack = Stack::start(&FILTERS);
    let token = stack.keys.unscreened("mona");
    let table: [(&str, Encoding, Vec<u8>, Option<u64>); 12] = [
        ("half a JSON object", Encoding::Json, frame(TEXT, br#"{"type":"subscribe","id":3"#), None),
        ("no JSON", Encoding::Json, frame(TEXT, b"hello"), None),
        ("an empty message", Encoding::Json, frame(TEXT, b""), None),
        ("a JSON array", Encoding::Json, frame(TEXT, b"[1,2]"), None),
        ("no type", Encoding::Json, frame(TEXT, br#"{"id":3}"#), Some(3)),
        ("an unknown type", Encoding::Json, frame(TEXT, br#"{"type":"dance","id":3}"#), Some(3)),
        (
            "a field of the wrong type",
            Encoding::Json,
            frame(TEXT, br#"{"type":"subscribe","id":3,"symbols":7}"#),
            Some(3),
        ),
        ("deep nesting", Encoding::Json, frame(TEXT, "[".repeat(50_000).as_bytes()), None),
        ("random bytes", Encoding::Proto, frame(BINARY, &[0xff; 64]), None),
        ("an empty envelope", Encoding::Proto, frame(BINARY, b""), None),
        ("a length beyond the end", Encoding::Proto, frame(BINARY, &[0x0a, 0x7f, 1]), None),
        ("an event, which only a server sends", Encoding::Proto, frame(BINARY, &[0xea, 0x01, 0]), None),
    ];
    for (law, encoding, bytes, id) in table {
        let mut client = Connect::with_token(&token).encoding(encoding).accepted(stack.edge.address);
        client.until_type("welcome");
        client.send_bytes(&bytes).unwrap();
        let error = client.event();
        assert_eq!(error["type"], "error", "{law}: {error}");
        assert_eq!(error["code"], "protocol.malformed", "{law}: {error}");
        assert_eq!(error["id"].as_u64(), id, "{law}: {error}");
        assert!(!error["reason"].as_str().unwrap_or_default().is_empty(), "{law}: {error}");
        lives(&mut client, law);
    }
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let stack = Stack::start(&FILTERS);
    let mut client = stack.connect(&stack.keys.unscreened("mona"));
    let subscribe = |id: u64, channel: &str, exchange: &str, symbol: &str| json!({"type": "subscribe", "id": id, "channel": channel, "exchange": exchange, "symbols": [symbol]});
    let answer = client.request(subscribe(1, "market_data", "EGX", "NOPE"));
    assert_eq!(answer["accepted"], json!([]), "{answer}");
    assert_eq!(answer["refused"][0]["symbol"], "NOPE", "{answer}");
    assert_eq!(answer["refused"][0]["code"], "channel.symbol_unknown", "{answer}");
    for (id, channel, exchange) in [(2, "rumours", "EGX"), (3, "market_data", "LSE")] {
        let answer = client.request(subscribe(id, channel, exchange, "COMI"));
        let code = answer["code"].as_str().or(answer["refused"][0]["code"].as_str());
        assert!(matches!(code, Some("channel.unknown" | "license.exchange")), "{answer}");
    }
    lives(&mut client, "after three refusals");
}

#[test]
fn each_of_a_thousand_subscribes_at_once_gets_its_one_answer() {
    const COUNT: u64 = 1000;
    let stack = Stack::start(&FILTERS);
    let mut client = stack.connect(&stack.keys.screened("mona"));
    let symbols = ["COMI", "EAST", "ABUK", "NOPE", "SWDY"];
    let mut burst = Vec::new();
    for id in 1..=COUNT {
        let symbol = symbols[id as usize % symbols.len()];
        let request = json!({"type": "subscribe", "id": id, "channel": "market_data", "exchange": "EGX",
            "symbols": [symbol], "snapshot": false});
        burst.extend(frame(TEXT, request.to_string().as_bytes()));
    }
    // The burst is written beside the reading: neither side may have to wait for the other.
    let mut writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &burst));
    let mut answered = BTreeSet::new();
    while answered.len() < COUNT as usize {
        let Some(answer) = client.try_event(by(PATIENCE)) else {
            panic!("no answer to {:?}", (1..=COUNT).filter(|id| !answered.contains(id)).collect::<Vec<_>>());
        };
        if !answer["id"].is_u64() {
            continue;
        }
        let id = answer["id"].as_u64().unwrap();
        assert!(answered.insert(id), "a second answer: {answer}");
        assert!(matches!(answer["type"].as_str(), Some("subscribed" | "error")), "{answer}");
    }
    writing.join().unwrap().unwrap();
    lives(&mut client, "after the burst");
}

#[test]
fn a_token_that_does_not_hold_opens_nothing() {
    let stack = Stack::start(&FILTERS);
    let with = |change: Value| {
        let mut claims = trader("mona");
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Connect::with_token(&stack.keys.token(claims))
    };
    let good = stack.keys.unscreened("mona");
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (_, payload) = head.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let claims = base64url(&json!({"sub": "mallory", "tier": "enterprise"}));
    let table = [
        ("none", Connect::default(), "auth.missing"),
        ("expired", with(json!({"exp": now_s() - 60})), "auth.expired"),
        ("not yet valid", with(json!({"nbf": now_s() + 600})), "auth.invalid"),
        ("for another audience", with(json!({"aud": "another"})), "auth.invalid"),
        ("by another issuer", with(json!({"iss": "https://another.example"})), "auth.invalid"),
        ("signed by another key", Connect::with_token(&Keys::generate().unscreened("mona")), "auth.invalid"),
        ("not signed", Connect::with_token(&unsigned), "auth.invalid"),
        ("changed", Connect::with_token(&format!("{head}x.{signature}")), "auth.invalid"),
        ("rubbish", Connect::with_token("rubbish"), "auth.invalid"),
        ("forged claims instead", Connect::default().header("x-bawaba-claims", &claims), "auth.missing"),
    ];
    for (law, connect, code) in table {
        let answer = connect.refused(stack.edge.address);
        assert_eq!(answer.status, 401, "{law}");
        assert_eq!(answer.json()["code"], code, "{law}: {}", answer.text());
        assert!(answer.json()["reason"].is_string(), "{law}");
    }
}

#[test]
fn forged_claims_beside_a_token_are_not_seen() {
    let stack = Stack::start(&FILTERS);
    let forged = base64url(&json!({"sub": "mallory", "islamic": {"mode": "off"}}));
    for name in ["x-bawaba-claims", "X-Bawaba-Claims", "x-bawaba-cohort", "X_Bawaba_Claims"] {
        let token = stack.keys.screened("mona");
        let mut client = Connect::with_token(&token).header(name, &forged).accepted(stack.edge.address);
        assert_eq!(client.event()["islamic"]["mode"], "filter", "{name}");
    }
}

#[test]
fn an_unfinished_or_giant_request_is_turned_away() {
    let stack = Stack::start_with(&[], |config| set(config, "timeouts.request_head", "300ms"));
    let half = b"GET /ws HTTP/1.1\r\nhost: edge\r\nupgrade: webso";
    match ask(stack.edge.address, half) {
        Ok((answer, _)) => assert_eq!(answer.status, 408),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "still open"),
    }
    let giant = Connect::default().header("x-filler", &"a".repeat(64 * 1024));
    assert_eq!(giant.refused(stack.edge.address).status, 431);
    let mut client = stack.connect(&stack.keys.unscreened("mona"));
    lives(&mut client, "afterwards");
}

fn bawaba(arguments: &[&str]) -> Output {
    Command::new(binary("bawaba")).args(arguments).output().expect("bawaba runs")
}

/// Runs `check` and `serve` on a file that neither may accept; what both say.
fn rejected(file: &str) -> String {
    let said: Vec<String> = ["check", "serve"]
        .map(|command| {
            let output = bawaba(&[command, file]);
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!output.status.success(), "{command} {file}: {said}");
            assert!(!said.contains("panicked"), "{command} {file}: {said}");
            said
        })
        .into();
    said.join("\n---\n")
}

#[test]
fn a_module_that_is_not_wasm_is_named_by_check_and_serve() {
    let (scratch, keys) = (Scratch::new(), Keys::generate());
    let endpoint = ["127.0.0.1:9".parse().unwrap()];
    let whole = std::fs::read(filter("sharia")).unwrap();
    let table: [(&str, Option<&[u8]>); 4] = [
        ("text", Some(b"this is not a module")),
        ("empty", Some(b"")),
        ("truncated", Some(&whole[..whole.len() / 2])),
        ("missing", None),
    ];
    for (law, bytes) in table {
        let module = scratch.path().join(format!("{law}.wasm"));
        if let Some(bytes) = bytes {
            std::fs::write(&module, bytes).unwrap();
        }
        let mut config = edge_config(&scratch, &keys, &["sharia"], &[("EGX", &endpoint)]);
        set(&mut config, "filter.sharia.module", path(&module));
        let file = scratch.write("edge.toml", config.to_string());
        let said = rejected(&path(&file));
        assert!(said.contains(&path(&module)), "{law}: {said}");
        assert!(said.contains("edge.toml:"), "{law}: the line is not named: {said}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_rejected_with_the_place_and_a_hint() {
    let (scratch, keys) = (Scratch::new(), Keys::generate());
    let missing = path(&scratch.path().join("nowhere.toml"));
    assert!(rejected(&missing).contains("nowhere.toml"));
    assert!(rejected(&path(scratch.path())).contains(&path(scratch.path())));
    let good = edge_config(&scratch, &keys, &[], &[("EGX", &["127.0.0.1:9".parse().unwrap()])]).to_string();
    let table: [(&str, String, &[&str]); 5] = [
        ("no TOML", "listener = [[[\n".into(), &["edge.toml", "1:"]),
        ("an unknown key", format!("{good}\n[limits]\nsession_max = 3\n"), &["session_max", "sessions_max"]),
        ("a wrong type", format!("{good}\n[limits]\nsessions_max = \"many\"\n"), &["edge.toml:", "many"]),
        ("an unknown cluster", good.replace("EGX = \"egx\"", "EGX = \"egxx\""), &["egxx", "egx"]),
        ("no unit", format!("{good}\n[timeouts]\nheartbeat = \"60\"\n"), &["edge.toml:", "\"60\"", "10s"]),
    ];
    for (law, text, wanted) in table {
        let file = scratch.write("edge.toml", &text);
        let said = rejected(&path(&file));
        for word in wanted {
            assert!(said.contains(word), "{law}: no {word:?} in:\n{said}");
        }
    }
    let file = scratch.write("edge.toml", [0xff, 0xfe, 0x00]);
    assert!(rejected(&path(&file)).contains("UTF-8"));
}

fn base64url(claims: &Value) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
}
