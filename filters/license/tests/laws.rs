//! What a licence opens, tried on whole streams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/policy.rs"]
mod policy;

use bawaba_filter_kit::channels::frame::{self, Opcode};
use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::handshake::{Answer, Handshake};
use bawaba_filter_kit::stream::Stream;
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
