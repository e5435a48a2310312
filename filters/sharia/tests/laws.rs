//! What a screened session may see, stated as laws and tried from bytes to bytes.

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

use std::collections::BTreeSet;

use bawaba_filter_kit::channels::frame;
use bawaba_filter_kit::channels::wire::{Encoding, Event, Timestamp};
use bawaba_filter_kit::handshake::Handshake;
use bawaba_filter_kit::stream::Stream;
use bawaba_filter_kit::{Policy as _, Verdict, configure};
use bawaba_policies::sharia::{Register, Screening, Settings};
use bawaba_policies::{InstrumentRef, UnixNanos};
use policy::Sharia;
use proptest::prelude::*;

use support::{LAUNCH, NOW, SCREENED, base64url, connect, event, screened, update};

#[test]
fn subscribing_is_judged_symbol_by_symbol() {
    let mut session = screened(Encoding::Json);
    let (seen, heard) = session.up(
        r#"{"type":"subscribe","id":1,"channel":"market_data","exchange":"EGX","symbols":["ABUK","EAST","COMI","NOSUCH"]}"#,
    );
    assert_eq!(seen[0]["symbols"], serde_json::json!(["ABUK"]));
    assert_eq!(heard, []);
    let answers = session.down(&[event(
        r#"{"type":"subscribed","id":1,"subscription":"s1","accepted":[{"symbol":"ABUK","epoch":"e","seq":1}],"refused":[]}"#,
    )]);
    let [Event::Subscribed(answer)] = &answers[..] else { panic!("{answers:?}") };
    let refused: BTreeSet<_> = answer.refused.iter().map(|r| r.symbol.as_str()).collect();
    assert_eq!(refused, BTreeSet::from(["COMI", "EAST", "NOSUCH"]));
    // They never flowed, so nothing is revoked if the backend sends one all the same.
    assert_eq!(session.down(&[update("market_data_update", "EGX", "EAST", false)]), []);
}

#[test]
fn a_channel_without_symbols_is_not_screened_away() {
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut session = screened(encoding);
        let answer = event(
            r#"{"type":"subscribed","id":1,"subscription":"s1","accepted":[{"symbol":"","epoch":"e","seq":1,"recovered":false}],"refused":[]}"#,
        );
        assert_eq!(session.down(std::slice::from_ref(&answer)), [answer]);
    }
}

#[test]
fn orders_for_refused_instruments_short_sales_and_margin_are_refused() {
    let order = |symbol: &str, extra: &str| {
        format!(
            r#"{{"type":"order","id":9,"op":"place","exchange":"EGX","symbol":"{symbol}","side":"sell","order_type":"limit","price":"1","quantity":"1"{extra}}}"#
        )
    };
    for (json, code) in [
        (order("ABUK", ""), None),
        (order("ABUK", r#","flags":["short_sale"]"#), Some("sharia.instrument_barred")),
        (order("ABUK", r#","flags":["margin"]"#), Some("sharia.instrument_barred")),
        (order("EAST", ""), Some("sharia.not_listed")),
        (order("ABUK", r#","flags":"margin""#), Some("protocol.malformed")),
        (r#"{"type":"order","id":9,"op":"cancel","order_id":"o1"}"#.to_owned(), None),
        (r#"{"type":"order","id":9,"op":"amend","order_id":"o1"}"#.to_owned(), Some("protocol.malformed")),
        (r#"{"type":"mystery","id":9}"#.to_owned(), Some("protocol.unsupported")),
    ] {
        let (seen, heard) = screened(Encoding::Json).up(&json);
        match code {
            None => assert!(seen.len() == 1 && heard.is_empty(), "{json}"),
            Some(code) => {
                let [Event::Error(error)] = &heard[..] else { panic!("{json}: {heard:?}") };
                assert_eq!((error.id, error.code.as_str(), seen.len()), (Some(9), code, 0), "{json}");
            }
        }
    }
}

#[test]
fn a_symbol_that_becomes_refused_is_revoked_once_also_in_a_cohort() {
    // Two editions: ABUK leaves at the second.
    let list = |id: &str, from: &str, to: &str, symbols: &[&str]| {
        let entries: Vec<_> = symbols
            .iter()
            .map(|s| serde_json::json!({"exchange": "EGX", "symbol": s, "status": "compliant"}))
            .collect();
        serde_json::json!({"id": id, "board": "EGX33", "exchanges": ["EGX"], "effective_from": from, "effective_to": to,
            "source": "test", "confidence": "high", "entry_count": symbols.len(), "entries": entries})
    };
    let settings = serde_json::json!({"lists": [
        list("egx33@2026-08-01", "2026-08-01T00:00:00+03:00", "2026-11-22T09:00:00Z", &["ABUK", "TMGH"]),
        list("egx33@2026-11-22", "2026-11-22T09:00:00Z", "2027-02-01T00:00:00+02:00", &["TMGH"]),
    ]})
    .to_string();
    let before = Timestamp(1_795_337_999_999_000_000);
    let after = Timestamp(1_795_338_000_000_000_000);
    assert_eq!(after.to_string(), "2026-11-22T09:00:00.000Z");
    for (claims, cohort) in [(SCREENED, false), (&SCREENED.replace(r#""sub":"amina","#, ""), true)] {
        let mut session = connect(&settings, Some(claims), Encoding::Json, cohort).unwrap();
        let quotes = [update("market_data_update", "EGX", "ABUK", false), update("trade_update", "EGX", "TMGH", false)];
        let flowed = session.down_at(before, &quotes);
        assert_eq!(flowed.len(), 2, "{flowed:?}");
        let left = session.down_at(after, &quotes);
        let [Event::Revoked(revoked), Event::Update(rest)] = &left[..] else { panic!("{left:?}") };
        assert_eq!((revoked.code.as_str(), &revoked.symbols[..]), ("sharia.delisted", &["ABUK".to_owned()][..]));
        assert_eq!(rest.metadata.as_ref().unwrap().list, "egx33@2026-11-22");
        assert_eq!(session.down_at(after, &quotes).len(), 1, "told once");
    }
}

#[test]
fn modes_off_and_annotate_let_everything_flow() {
    let east = update("market_data_update", "EGX", "EAST", false);
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut off = connect(LAUNCH, Some(r#"{"sub":"u"}"#), encoding, false).unwrap();
        assert_eq!(off.down(std::slice::from_ref(&east)), std::slice::from_ref(&east));
        let claims = SCREENED.replace("filter", "annotate");
        let mut annotate = connect(LAUNCH, Some(&claims), encoding, false).unwrap();
        let out = annotate.down(std::slice::from_ref(&east));
        let [Event::Update(update)] = &out[..] else { panic!("{out:?}") };
        let metadata = update.metadata.as_ref().unwrap();
        assert_eq!((metadata.sharia_compliant, metadata.screening_result.as_str()), (false, "not_listed"));
        assert_eq!(metadata.filtered_at, NOW.0);
    }
}

#[test]
fn a_session_without_readable_claims_does_not_begin() {
    let code = |claims: Option<&str>| match connect("{}", claims, Encoding::Json, false) {
        Err(Verdict::Refuse(refusal)) => refusal.reason.word(),
        _ => "",
    };
    assert_eq!(code(None), "auth.missing");
    assert_eq!(code(Some(r#"{"sub":"u","islamic":{"mode":"filter","boards":[]}}"#)), "auth.invalid");
    assert_eq!(code(Some(r#"{"sub":"u","islamic":{"mode":"filter","boards":["EGX33"],"x":1}}"#)), "auth.invalid");
    assert_eq!(code(Some(r#"{"sub":"u","islamic":null}"#)), "auth.invalid");
    assert_eq!(code(Some(r#"{"sub":"u"}"#)), "");
}

#[test]
fn the_welcome_names_the_list_that_screens() {
    let welcome = r#"{"type":"welcome","session":"s","protocol":"tradsys.v3","server_time":"2026-11-22T08:00:00.000Z","heartbeat_ms":20000,"islamic":{"mode":"filter","boards":["EGX33"]}}"#;
    for encoding in [Encoding::Json, Encoding::Proto] {
        let out = screened(encoding).down(&[event(welcome)]);
        let [Event::Welcome(welcome)] = &out[..] else { panic!("{out:?}") };
        let islamic = welcome.islamic.as_ref().unwrap();
        assert_eq!((islamic.list.as_deref(), islamic.rule.as_deref()), (Some("egx33@2024-06-12"), Some("named")));
    }
}

#[test]
fn texts_that_name_a_refused_instrument_do_not_leave() {
    [Encoding::Json, Encoding::Proto].into_iter().for_each(texts_are_read);
}

fn texts_are_read(encoding: Encoding) {
    let mut session = screened(encoding);
    let out = session.down(&[
        event(r#"{"type":"alert","code":"x","reason":"EAST halted at 12.30"}"#),
        event(r#"{"type":"alert","code":"x","reason":"ABUK halted","exchange":"EGX","symbol":"ABUK"}"#),
        event(r#"{"type":"alert","code":"x","reason":"halted","exchange":"EGX","symbol":"EAST"}"#),
        event(r#"{"type":"market_status","exchange":"EGX","symbol":"EAST","phase":"halted","source":"upstream"}"#),
        event(r#"{"type":"market_status","exchange":"EGX","phase":"continuous","source":"calendar"}"#),
        event(r#"{"type":"market_status","exchange":"EGX","phase":"halted","source":"operator","reason":"EAST fell"}"#),
        event(r#"{"type":"gap","subscription":"s1","exchange":"EGX","symbol":"EAST","from_seq":1,"to_seq":2}"#),
        event(r#"{"type":"error","id":3,"code":"order.rejected","reason":"EAST is limited to 12.30"}"#),
        event(r#"{"type":"error","id":4,"code":"order.rejected","reason":"ABUK is limited to 12.30"}"#),
    ]);
    let told: Vec<_> = out
        .iter()
        .map(|event| match event {
            Event::Alert(alert) => alert.reason.as_str(),
            Event::MarketStatus(status) => status.phase.as_str(),
            Event::Error(error) => error.reason.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        ["ABUK halted", "continuous", "the exchange's rules refuse this order", "ABUK is limited to 12.30"]
    );
}

#[test]
fn news_keeps_only_the_instruments_that_may_be_seen() {
    let news = |headline: &str, symbols: &[&str]| {
        event(
            &serde_json::json!({"type": "news_update", "subscription": "s4", "exchange": "EGX", "epoch": "e", "seq": 6,
                "time": "2026-11-22T08:00:00.000Z", "data": {"headline": headline, "body": "b", "symbols": symbols}})
            .to_string(),
        )
    };
    for encoding in [Encoding::Json, Encoding::Proto] {
        let out = screened(encoding).down(&[
            news("both", &["ABUK", "EAST"]),
            news("none", &["EAST"]),
            news("EAST leaps", &["ABUK", "EAST"]),
            news("the market", &[]),
            news("EAST again", &[]),
        ]);
        let kept: Vec<_> = out
            .iter()
            .map(|event| serde_json::to_value(json_of(event)).unwrap()["data"].clone())
            .map(|data| (data["headline"].to_string(), data["symbols"].to_string()))
            .collect();
        assert_eq!(
            kept,
            [("\"both\"".into(), "[\"ABUK\"]".to_owned()), ("\"the market\"".to_owned(), "[]".into())],
            "{encoding:?}"
        );
    }
}

#[test]
fn a_dialect_that_cannot_be_read_is_closed() {
    let (policy, limits) = configure::<Sharia>(LAUNCH.as_bytes()).unwrap();
    let headers = vec![("x-bawaba-claims".to_owned(), base64url(SCREENED.as_bytes()).into_bytes())];
    let handshake = Handshake::read(&headers).unwrap();
    let mut stream = Stream::open(&policy, &limits, handshake.session, handshake.offered, NOW, 7).ok().unwrap();
    stream.accepted(Some("graphql-ws"), &limits);
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, true, frame::Opcode::Text, b"EAST 12.30", None);
    let out = stream.response(&policy, NOW, bytes).into_bytes();
    assert_eq!((out[0], &out[2..4]), (0x88, &4451u16.to_be_bytes()[..]));
}

fn json_of(event: &Event) -> serde_json::Value {
    let mut json = Vec::new();
    event.to_json(&mut json);
    serde_json::from_slice(&json).unwrap()
}

/// Everything that can name an instrument, as a backend might send it.
fn anything() -> impl Strategy<Value = (Event, String, String)> {
    let register = Register::builtin().unwrap();
    let mut names: Vec<(String, String)> =
        register.directory().iter().map(|i| (i.exchange.to_owned(), i.symbol.to_owned())).collect();
    names.push(("EGX".into(), "NOSUCH".into()));
    names.push(("NYX".into(), "ABUK".into()));
    let kind = prop::sample::select(vec![
        "market_data_update",
        "order_book_update",
        "trade_update",
        "gap",
        "alert",
        "market_status",
        "news",
    ]);
    (prop::sample::select(names), kind, any::<bool>()).prop_map(|((exchange, symbol), kind, snapshot)| {
        let event = match kind {
            "gap" => event(&format!(
                r#"{{"type":"gap","subscription":"s1","exchange":"{exchange}","symbol":"{symbol}","from_seq":1,"to_seq":2}}"#
            )),
            "alert" => event(&format!(r#"{{"type":"alert","code":"x","reason":"r","exchange":"{exchange}","symbol":"{symbol}"}}"#)),
            "market_status" => event(&format!(
                r#"{{"type":"market_status","exchange":"{exchange}","symbol":"{symbol}","phase":"halted","source":"upstream"}}"#
            )),
            "news" => event(&format!(
                r#"{{"type":"news_update","subscription":"s4","exchange":"{exchange}","epoch":"e","seq":6,"time":"2026-11-22T08:00:00.000Z","data":{{"headline":"h","body":"b","symbols":["{symbol}"]}}}}"#
            )),
            kind => update(kind, &exchange, &symbol, snapshot),
        };
        (event, exchange, symbol)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_of_a_refused_instrument_leaves_and_nothing_else_is_lost(
        sent in prop::collection::vec(anything(), 1..40),
        proto in any::<bool>(),
        boards in prop::sample::subsequence(vec!["EGX33", "FADXI15"], 1..=2),
        any_of in any::<bool>(),
    ) {
        let rule = if any_of { "any_of" } else { "all_of" };
        let claims = serde_json::json!({"sub": "u", "islamic": {"mode": "filter", "boards": boards, "rule": rule}});
        let settings: Settings = serde_json::from_str(LAUNCH).unwrap();
        let register = Register::from_settings(&settings).unwrap();
        let screening = Screening::from_claims(&claims);
        let now = UnixNanos(NOW.0 as u64);
        let flows = |exchange: &str, symbol: &str| {
            bawaba_policies::sharia::judge(&register, &screening, InstrumentRef::new(exchange, symbol), now).flows()
        };
        let encoding = if proto { Encoding::Proto } else { Encoding::Json };
        let mut session = connect(LAUNCH, Some(&claims.to_string()), encoding, false).unwrap();
        let events: Vec<Event> = sent.iter().map(|(event, ..)| event.clone()).collect();
        let out: Vec<Event> = session.down(&events).into_iter().filter(|e| e.kind() != "revoked").collect();
        let expected: Vec<_> = sent.iter().filter(|(_, exchange, symbol)| flows(exchange, symbol)).collect();
        prop_assert_eq!(out.len(), expected.len());
        for (got, (original, ..)) in out.iter().zip(expected) {
            let (mut got, mut original) = (json_of(got), json_of(original));
            if ["market_data_update", "order_book_update", "trade_update"].contains(&original["type"].as_str().unwrap()) {
                prop_assert_eq!(&got["metadata"]["sharia_compliant"], true);
            }
            got.as_object_mut().unwrap().remove("metadata");
            original.as_object_mut().unwrap().remove("metadata");
            prop_assert_eq!(got, original);
        }
    }
}

#[test]
fn the_audience_is_the_whole_claim() {
    assert_eq!(Sharia::AUDIENCE, Some(&["/islamic"][..]));
}

/// What the module is held to in a host holds without one.
#[test]
fn the_cases_that_the_module_brings_hold() {
    bawaba_filter_kit::trial::hold::<Sharia>(include_str!("../cases.json"));
}
