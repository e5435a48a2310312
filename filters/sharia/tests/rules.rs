//! Filter rules, from bytes to bytes: what they take away does not reach the client in any message of either encoding.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/judged.rs"]
mod judged;
#[path = "../src/memory.rs"]
mod memory;
#[path = "../src/policy.rs"]
mod policy;
#[path = "../src/settings.rs"]
mod settings;
mod support;
#[path = "../src/words.rs"]
mod words;

use bawaba_filter_kit::channels::wire::{Encoding, Event};
use serde_json::{Value, json};
use support::{Session, connect, event, update};

/// ALPHA: GOOD is listed, DOUBT doubtful, BAD not compliant, FUND a listed ETF.
fn settings(rules: Value) -> String {
    let row = |symbol: &str, kind: &str| json!({"symbol": symbol, "asset_type": kind});
    let entry = |symbol: &str, status: &str| json!({"exchange": "EGX", "symbol": symbol, "status": status});
    let mut good = entry("GOOD", "compliant");
    good["purification"] = json!("1.2345");
    json!({
        "base": "empty",
        "boards": [{"name": "ALPHA"}],
        "markets": [{"exchange": "EGX", "instruments": [row("GOOD", "STOCK"), row("DOUBT", "STOCK"), row("BAD", "STOCK"), row("FUND", "ETF")]}],
        "lists": [{"id": "alpha@2026-11-01", "board": "ALPHA", "exchanges": ["EGX"], "effective_from": "2026-11-01T00:00:00+02:00",
            "review_by": "2027-11-01T00:00:00+02:00", "source": "made up", "confidence": "low", "entry_count": 4,
            "entries": [good, entry("DOUBT", "doubtful"), entry("BAD", "not_compliant"), entry("FUND", "compliant")]}],
        "rules": rules,
    })
    .to_string()
}

fn session(rules: &Value, mode: &str, encoding: Encoding) -> Session {
    let claims = json!({"sub": "amina", "islamic": {"mode": mode, "boards": ["ALPHA"]}}).to_string();
    connect(&settings(rules.clone()), Some(&claims), encoding, false).unwrap()
}

fn asked(session: &mut Session, channel: &str, symbols: &[&str]) -> Value {
    let request = json!({"type": "subscribe", "id": 1, "channel": channel, "exchange": "EGX", "symbols": symbols});
    let (seen, heard) = session.up(&request.to_string());
    let accepted: Vec<Value> = (seen.first().into_iter())
        .flat_map(|request| request["symbols"].as_array().unwrap())
        .map(|symbol| json!({"symbol": symbol, "epoch": "e", "seq": 1, "recovered": false}))
        .collect();
    let answer = if accepted.is_empty() {
        heard
    } else {
        let answer = json!({"type": "subscribed", "id": 1, "subscription": "s1", "accepted": accepted, "refused": []});
        session.down(&[event(&answer.to_string())])
    };
    text(&answer[0])
}

fn text(event: &Event) -> Value {
    let mut json = Vec::new();
    event.to_json(&mut json);
    serde_json::from_slice(&json).unwrap()
}

fn doubt_without_figures() -> Value {
    json!([{"id": "doubt", "priority": 1, "match": {"modes": ["filter"], "results": ["doubtful"],
        "kinds": ["market_data_update", "market_status", "alert"]}, "action": {"redact": ["prices", "sizes"]}}])
}

#[test]
fn an_answer_carries_the_verdict_on_each_symbol_with_its_board_list_and_purification() {
    for mode in ["filter", "annotate"] {
        let mut session = session(&json!([]), mode, Encoding::Json);
        let answer = asked(&mut session, "market_data", &["GOOD", "BAD"]);
        let of = |symbol: &str| {
            let all = ["accepted", "refused"].map(|key| answer[key].as_array().unwrap().clone()).concat();
            all.into_iter().find(|entry| entry["symbol"] == symbol).unwrap()["metadata"].clone()
        };
        let good = json!({"sharia_compliant": true, "compliance_board": "ALPHA", "compliance_level": "strict",
            "screening_result": "listed", "list": "alpha@2026-11-01", "effective_from": "2026-10-31T22:00:00.000Z",
            "purification": "1.2345", "filtered_at": support::NOW.to_string()});
        assert_eq!(of("GOOD"), good, "{mode}");
        let bad = json!({"sharia_compliant": false, "compliance_board": "ALPHA", "compliance_level": "strict",
            "screening_result": "not_compliant", "list": "alpha@2026-11-01", "effective_from": "2026-10-31T22:00:00.000Z",
            "reason": "sharia.not_compliant", "filtered_at": support::NOW.to_string()});
        assert_eq!(of("BAD"), bad, "{mode}");
    }
}

#[test]
fn the_same_verdict_stands_in_both_encodings_of_updates_and_answers() {
    let (mut json_says, mut proto_says) = (Vec::new(), Vec::new());
    for (encoding, says) in [(Encoding::Json, &mut json_says), (Encoding::Proto, &mut proto_says)] {
        let mut session = session(&json!([]), "annotate", encoding);
        for symbol in ["GOOD", "BAD", "NOSUCH"] {
            says.extend(session.down(&[update("market_data_update", "EGX", symbol, false)]).iter().map(text));
        }
        assert_eq!(says[0]["metadata"]["purification"], "1.2345");
        assert_eq!(says[1]["metadata"]["reason"], "sharia.not_compliant");
    }
    assert_eq!(json_says, proto_says);
}

#[test]
fn what_a_rule_redacts_is_in_no_message_of_either_encoding() {
    let prose = |kind: &str| {
        event(&format!(
            r#"{{"type":"{kind}","exchange":"EGX","symbol":"DOUBT","code":"x","phase":"halted","source":"exchange","reason":"halted at 84.50"}}"#
        ))
    };
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut session = session(&doubt_without_figures(), "filter", encoding);
        let quote = session.down(&[update("market_data_update", "EGX", "DOUBT", true)]);
        let quote = text(&quote[0]);
        assert_eq!(quote["data"], json!({}), "{encoding:?}");
        assert_eq!(quote["metadata"]["rule"], "doubt");
        assert_eq!(quote["metadata"]["screening_result"], "doubtful");
        for kind in ["market_status", "alert"] {
            let out = session.down(&[prose(kind)]);
            assert_eq!(out.len(), 1, "{kind} {encoding:?}");
            assert!(!text(&out[0]).to_string().contains("84.50"), "{out:?}");
        }
        // Kinds that the rule does not name, and other verdicts, stay refused.
        for kind in ["order_book_update", "trade_update"] {
            let out = session.down(&[update(kind, "EGX", "DOUBT", false)]);
            assert!(out.iter().all(|event| event.kind() == "revoked"), "{out:?}");
        }
        let bad = session.down(&[update("market_data_update", "EGX", "BAD", false)]);
        assert!(bad.iter().all(|event| event.kind() == "revoked"), "{bad:?}");
        let news = event(
            r#"{"type":"news_update","subscription":"s1","exchange":"EGX","epoch":"e","seq":1,"snapshot":false,"time":"2026-11-22T08:00:00.000Z","data":{"headline":"DOUBT trades at 84.50","symbols":["DOUBT"]}}"#,
        );
        assert_eq!(session.down(&[news]), []);
    }
}

#[test]
fn a_subscription_to_what_a_rule_drops_is_refused_and_others_of_the_instrument_are_not() {
    let rules = json!([{"id": "no-trades", "priority": 1, "match": {"kinds": ["trade_update"], "asset_types": ["ETF"]}, "action": "drop"}]);
    for mode in ["filter", "annotate"] {
        let mut session = session(&rules, mode, Encoding::Json);
        let answer = asked(&mut session, "trades", &["FUND", "GOOD"]);
        assert_eq!(answer["accepted"][0]["symbol"], "GOOD", "{mode}: {answer}");
        assert_eq!(
            (&answer["refused"][0]["symbol"], &answer["refused"][0]["code"]),
            (&json!("FUND"), &json!("sharia.instrument_barred"))
        );
        assert_eq!(answer["refused"][0]["metadata"]["rule"], "no-trades");
        assert_eq!(answer["refused"][0]["metadata"]["sharia_compliant"], true, "the rule, not the board");
        let answer = asked(&mut session, "market_data", &["FUND"]);
        assert_eq!(answer["accepted"][0]["symbol"], "FUND", "{mode}: {answer}");
        assert_eq!(session.down(&[update("market_data_update", "EGX", "FUND", false)]).len(), 1);
        let trades = session.down(&[update("trade_update", "EGX", "FUND", false)]);
        assert!(trades.iter().all(|event| event.kind() == "revoked"), "{trades:?}");
    }
}

#[test]
fn orders_and_own_records_are_reached_by_name_and_answers_always_arrive() {
    let rules = json!([{"id": "no-funds", "priority": 1, "match": {"asset_types": ["ETF"],
        "kinds": ["order", "order_update", "position_update"]}, "action": "drop"}]);
    let place = r#"{"type":"order","id":9,"op":"place","exchange":"EGX","symbol":"FUND","side":"buy","order_type":"limit","price":"1","quantity":"1"}"#;
    let state = |id: &str| {
        event(&format!(
            r#"{{"type":"order_update",{id}"order_id":"o","exchange":"EGX","symbol":"FUND","side":"buy","order_type":"limit","status":"open","quantity":"1","filled_quantity":"0","time":"2026-11-22T08:00:00.000Z"}}"#
        ))
    };
    for mode in ["filter", "annotate"] {
        let mut session = session(&rules, mode, Encoding::Json);
        let (seen, heard) = session.up(place);
        assert!(seen.is_empty(), "{mode}");
        assert_eq!(text(&heard[0])["code"], "sharia.instrument_barred");
        assert_eq!(session.down(&[state("")]), [], "{mode}");
        assert_eq!(session.down(&[state(r#""id":9,"#)]).len(), 1, "an answer arrives");
        assert_eq!(session.up(&place.replace("FUND", "GOOD")).0.len(), 1);
    }
}
