//! What a licence opens, tried on whole streams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/policy.rs"]
mod policy;

use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::trial::Trial;
use policy::License;

fn claims(tier: &str) -> String {
    format!(r#"{{"sub":"u","tier":"{tier}","exp":1795338000}}"#)
}

/// What the client hears for one request to a backend that accepts everything.
fn heard(settings: &str, tier: &str, request: &str) -> String {
    let mut trial = Trial::<License>::connect(settings, &claims(tier)).unwrap();
    let mut heard = trial.client_sends(request).client;
    let accepted = r#"{"type":"subscribed","id":1,"subscription":"s1","accepted":[],"refused":[]}"#;
    heard.extend(trial.backend_sends(accepted).client);
    serde_json::Value::from(heard).to_string()
}

#[test]
fn a_handshake_is_refused_with_the_status_of_its_reason() {
    for (claims, status, code) in [
        (r#"{"sub":"u","exp":1795338000}"#, 403, "license.not_found"),
        (r#"{"sub":"u","tier":"gold","exp":1795338000}"#, 403, "license.not_found"),
        (r#"{"sub":"u","tier":"basic"}"#, 401, "auth.invalid"),
        (r#"{"sub":"u","tier":"basic","exp":1795334400}"#, 403, "license.expired"),
    ] {
        let answer = Trial::<License>::connect("{}", claims).err().unwrap();
        assert_eq!(answer.status, status, "{claims}");
        assert!(String::from_utf8(answer.body).unwrap().contains(code), "{claims}");
    }
    assert!(Trial::<License>::connect("{}", &claims("basic")).is_ok());
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
            r#""code":"channel.symbol_unknown""#,
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
    let mut trial = Trial::<License>::connect("{}", &claims("professional")).unwrap();
    let status = r#"{"type":"market_status","exchange":"EGX","phase":"continuous","source":"calendar"}"#;
    trial.now = Timestamp(1_795_337_999_999_999_999);
    assert_eq!(trial.backend_sends(status).client.len(), 1);
    trial.now = Timestamp(1_795_338_000_000_000_000);
    let turn = trial.backend_sends(status);
    assert_eq!((turn.client.len(), turn.closed), (0, Some(4401)));
    assert_eq!(trial.backend_sends(status).closed, None, "nothing after the Close");
}

#[test]
fn an_idle_session_that_speaks_after_its_end_is_closed_with_the_same_code() {
    let mut trial = Trial::<License>::connect("{}", &claims("professional")).unwrap();
    trial.now = Timestamp(1_795_338_000_000_000_000);
    let turn = trial.client_sends(r#"{"type":"ping","id":1}"#);
    assert_eq!((turn.backend.len(), turn.closed), (0, Some(4401)));
}
