//! What a licence opens, tried on whole streams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/followed.rs"]
mod followed;
#[path = "../src/policy.rs"]
mod policy;

use bawaba_filter_kit::channels::frame::{self, Opcode};
use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::handshake::{Answer, Handshake};
use bawaba_filter_kit::stream::Stream;
use bawaba_filter_kit::trial::Trial;
use bawaba_filter_kit::{Limits, configure};
use policy::License;

const NOW: Timestamp = Timestamp(1_795_334_400_000_000_000);

fn base64url(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = Vec::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        out.extend((0..=chunk.len()).map(|at| ALPHABET[(word >> (18 - 6 * at)) as usize & 63]));
    }
    out
}

fn open(policy: &License, claims: Option<&str>) -> Result<Stream<License>, Answer> {
    let mut headers = vec![(":path".to_owned(), b"/ws".to_vec()), ("upgrade".to_owned(), b"websocket".to_vec())];
    headers.extend(claims.map(|claims| ("x-bawaba-claims".to_owned(), base64url(claims.as_bytes()))));
    let handshake = Handshake::read(&headers).map_err(|refusal| Answer::refuse(&refusal))?;
    let limits = Limits::default();
    let mut stream = Stream::open(policy, &limits, handshake.session, handshake.offered, NOW, 1).map_err(Answer::to)?;
    stream.accepted(Some("tradsys.v3.json"), &limits);
    Ok(stream)
}

fn claims(tier: &str) -> String {
    format!(r#"{{"sub":"u","tier":"{tier}","exp":1795338000}}"#)
}

/// The refusals that the client hears for one request, as JSON.
fn heard(settings: &str, tier: &str, request: &str) -> String {
    let (policy, _) = configure::<License>(settings.as_bytes()).unwrap();
    let mut stream = open(&policy, Some(&claims(tier))).unwrap();
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, true, Opcode::Text, request.as_bytes(), Some([1, 2, 3, 4]));
    stream.request(&policy, NOW, bytes);
    let mut answer = Vec::new();
    // The answer of a backend that accepts everything.
    let accepted = br#"{"type":"subscribed","id":1,"subscription":"s1","accepted":[],"refused":[]}"#;
    frame::encode(&mut answer, true, Opcode::Text, accepted, None);
    String::from_utf8_lossy(&stream.response(&policy, NOW, answer).into_bytes()).into_owned()
}

#[test]
fn a_handshake_is_refused_with_the_status_of_its_reason() {
    let (policy, _) = configure::<License>(b"{}").unwrap();
    for (claims, status, code) in [
        (None, 401, "auth.missing"),
        (Some(r#"{"sub":"u","exp":1795338000}"#), 403, "license.not_found"),
        (Some(r#"{"sub":"u","tier":"gold","exp":1795338000}"#), 403, "license.not_found"),
        (Some(r#"{"sub":"u","tier":"basic"}"#), 401, "auth.invalid"),
        (Some(r#"{"sub":"u","tier":"basic","exp":1795334400}"#), 403, "license.expired"),
    ] {
        let answer = open(&policy, claims).err().unwrap();
        assert_eq!(answer.status, status, "{claims:?}");
        assert!(String::from_utf8(answer.body).unwrap().contains(code), "{claims:?}");
    }
    assert!(open(&policy, Some(&claims("basic"))).is_ok());
}

#[test]
fn subscribes_and_orders_are_judged_by_the_licence() {
    let subscribe = |channel: &str, exchange: &str, symbols: &str| {
        format!(r#"{{"type":"subscribe","id":1,"channel":"{channel}","exchange":"{exchange}","symbols":{symbols}}}"#)
    };
    let delayed = r#"{"delayed":"pass"}"#;
    for (settings, tier, request, says) in [
        ("{}", "professional", subscribe("market_data", "EGX", r#"["COMI"]"#), r#""refused":[]"#),
        (
            "{}",
            "professional",
            subscribe("market_data", "EGX", r#"["COMI","NOSUCH"]"#),
            r#"{"symbol":"NOSUCH","code":"channel.symbol_unknown""#,
        ),
        ("{}", "professional", subscribe("market_data", "NYSE", r#"["IBM"]"#), "license.exchange"),
        ("{}", "professional", subscribe("candles", "EGX", r#"["COMI"]"#), "channel.unknown"),
        ("{}", "basic", subscribe("market_data", "EGX", r#"["COMI"]"#), "license.feature"),
        (delayed, "basic", subscribe("market_data", "EGX", r#"["COMI"]"#), r#""refused":[]"#),
        (delayed, "basic", subscribe("order_book", "EGX", r#"["COMI"]"#), "license.depth"),
        (delayed, "basic", subscribe("market_data", "ADX", r#"["FAB"]"#), "license.exchange"),
        (
            "{}",
            "basic",
            r#"{"type":"order","id":1,"op":"place","exchange":"ADX","symbol":"FAB"}"#.into(),
            "license.exchange",
        ),
        ("{}", "basic", r#"{"type":"order","id":1,"op":"cancel","order_id":"o"}"#.into(), r#""refused":[]"#),
    ] {
        let heard = heard(settings, tier, &request);
        assert!(heard.contains(says), "{tier} {request}: {heard}");
    }
}

#[test]
fn an_open_session_ends_with_its_token() {
    let (policy, _) = configure::<License>(b"{}").unwrap();
    let mut stream = open(&policy, Some(&claims("professional"))).unwrap();
    let end = stream.end().unwrap().clone();
    assert_eq!(end.at, Timestamp(1_795_338_000_000_000_000));
    let mut quote = Vec::new();
    frame::encode(&mut quote, true, Opcode::Text, b"{}", None);
    assert_eq!(stream.response(&policy, NOW, quote.clone()).into_bytes(), quote);
    let last = stream.response(&policy, end.at, quote.clone()).into_bytes();
    assert_eq!((last[0], &last[2..4]), (0x88, &4401u16.to_be_bytes()[..]));
    assert_eq!(stream.response(&policy, end.at, quote).into_bytes(), b"");
}

/// In Envoy nobody judges a session anew: its filter does, with the next message in any direction.
#[test]
fn a_licence_that_ends_on_an_open_session_ends_its_subscriptions_and_comes_back() {
    let settings = r#"{"licenses": {"id": "e", "rows": [
        {"id": "L-1", "tenant": "acme", "tier": "professional", "from": "2026-01-01T00:00:00Z",
         "suspended": [{"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T10:00:00Z"}]},
        {"id": "L-2", "tenant": "half", "tier": "professional", "from": "2026-01-01T00:00:00Z", "to": "2026-11-22T09:00:00Z"},
        {"id": "L-3", "tenant": "half", "tier": "professional", "from": "2026-11-22T09:00:00Z", "without": ["ADX_ACCESS"]}]}}"#;
    // 2026-11-22T08:00:00Z, and one, one and a half and two hours later.
    let start = 1_795_334_400_000_000_000;
    let (nine, ten) = (start + 3_600_000_000_000, start + 7_200_000_000_000);
    for (tenant, ended, word) in
        [("acme", &["EGX", "ADX"][..], "license.inactive"), ("half", &["ADX"], "license.exchange")]
    {
        let claims = format!(r#"{{"sub":"u","tenant":"{tenant}","exp":1795420800}}"#);
        let mut trial = Trial::<License>::connect(settings, &claims).unwrap();
        trial.now = Timestamp(start);
        for (id, exchange, symbol) in [(1, "EGX", "COMI"), (2, "ADX", "FAB")] {
            let turn = trial.client_sends(&format!(
                r#"{{"type":"subscribe","id":{id},"channel":"market_data","exchange":"{exchange}","symbols":["{symbol}"]}}"#
            ));
            assert_eq!(turn.backend.len(), 1);
            trial.backend_sends(&format!(
                r#"{{"type":"subscribed","id":{id},"subscription":"{exchange}","accepted":[{{"symbol":"{symbol}","epoch":"e","seq":1,"recovered":false}}],"refused":[]}}"#
            ));
        }
        let update = |exchange: &str, symbol: &str| {
            format!(
                r#"{{"type":"market_data_update","subscription":"{exchange}","exchange":"{exchange}","symbol":"{symbol}","epoch":"e","seq":2,"snapshot":false,"time":"2026-11-22T08:00:00.000Z","data":{{"last":"1.00"}}}}"#
            )
        };
        trial.now = Timestamp(nine - 1);
        for (exchange, symbol) in [("EGX", "COMI"), ("ADX", "FAB")] {
            assert_eq!(trial.backend_sends(&update(exchange, symbol)).client.len(), 1, "before its end");
        }
        trial.now = Timestamp(nine);
        let turn = trial.backend_sends(&update("ADX", "FAB"));
        let revoked: Vec<&str> = turn.client.iter().filter_map(|event| event["subscription"].as_str()).collect();
        assert_eq!(revoked.len(), ended.len(), "{:?}", turn.client);
        assert!(ended.iter().all(|name| revoked.contains(name)));
        assert!(
            turn.client.iter().all(|event| event["type"] == "revoked" && event["code"] == word),
            "{:?}",
            turn.client
        );
        let egx = trial.backend_sends(&update("EGX", "COMI")).client.len();
        assert_eq!(egx, usize::from(!ended.contains(&"EGX")), "{tenant}");
        let again = r#"{"type":"subscribe","id":3,"channel":"market_data","exchange":"ADX","symbols":["FAB"]}"#;
        assert_eq!(trial.client_sends(again).client[0]["code"], word);
        if tenant == "acme" {
            trial.now = Timestamp(ten);
            assert_eq!(trial.client_sends(again).backend.len(), 1, "re-granted without a new connection");
            trial.backend_sends(r#"{"type":"subscribed","id":3,"subscription":"ADX","accepted":[{"symbol":"FAB","epoch":"e","seq":2,"recovered":false}],"refused":[]}"#);
            assert_eq!(trial.backend_sends(&update("ADX", "FAB")).client.len(), 1);
        }
    }
}

/// What the module is held to in a host holds without one.
#[test]
fn the_cases_that_the_module_brings_hold() {
    bawaba_filter_kit::trial::hold::<License>(include_str!("../cases.json"));
}
