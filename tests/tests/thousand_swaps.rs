//! A thousand new filters under load: no session is lost, no message passes unjudged, and nothing grows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::sync::atomic::{AtomicBool, Ordering};

use bawaba_tests::client::{Client, Connect};
use bawaba_tests::lab::Lab;
use bawaba_tests::{PATIENCE, by};
use serde_json::json;
use tungstenite::Message;

const SWAPS: usize = 1000;
const SESSIONS: usize = 50;
/// After so many swaps all that is kept is there: what grows later grows with each swap.
const WARM_SWAPS: usize = 200;
/// A VM of this filter alone has a mebibyte; 800 of them kept would be 25 times this.
const GROWTH_BYTES_MAX: u64 = 32 << 20;

/// The next message. A Pong that nobody asked for may come before it (RFC 6455, 5.5.3): that of a Ping by which a filter
/// asked the service for its turn, and which is no longer there to hear it.
fn text(client: &mut Client) -> String {
    loop {
        match client.message(by(PATIENCE)).unwrap() {
            Message::Text(text) => return text.as_str().to_owned(),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// One round: what is licensed comes back, what is not is answered by the filter and by nobody else.
fn round(client: &mut Client, n: u64) {
    let ping = json!({"type": "ping", "id": n}).to_string();
    client.send_message(Message::text(&ping));
    assert_eq!(text(client), ping);
    let forbidden = json!({"type": "subscribe", "id": n, "channel": "order_book", "exchange": "EGX", "symbols": ["*"]});
    client.send_message(Message::text(forbidden.to_string()));
    let answer: serde_json::Value = serde_json::from_str(&text(client)).unwrap();
    assert_eq!((&answer["type"], &answer["id"]), (&json!("error"), &json!(n)), "unjudged: {answer}");
}

#[test]
fn a_thousand_swaps_under_load_lose_no_session_and_no_verdict_and_nothing_grows() {
    let lab = Lab::start();
    let basic = |n: usize| {
        lab.keys.token(json!({"sub": format!("user-{n}"), "tenant": "example", "tier": "basic", "exchanges": ["EGX"]}))
    };
    let mut clients: Vec<Client> =
        (0..SESSIONS).map(|n| Connect::with_token(&basic(n)).accepted(lab.edge.address)).collect();
    let swapping = AtomicBool::new(true);
    let (mut warm, mut rounds) = (0, 0);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut n = 0;
            while swapping.load(Ordering::Relaxed) {
                for client in &mut clients {
                    n += 1;
                    round(client, n);
                }
            }
            n
        });
        for swap in 0..SWAPS {
            let settings = json!({"tiers": {"id": format!("edition-{swap}")}}).to_string();
            let put = lab.put("/settings", settings.as_bytes());
            assert_eq!(put["changed"], true, "{put}");
            if swap == WARM_SWAPS {
                warm = lab.edge.process.resident_bytes();
            }
        }
        swapping.store(false, Ordering::Relaxed);
        rounds = load.join().unwrap();
    });
    assert!(rounds as usize >= 2 * SESSIONS, "there was load: {rounds} rounds");
    // Every session is still there, and is judged by the last of them.
    for client in &mut clients {
        round(client, u64::from(u32::MAX));
    }
    assert_eq!(lab.edge.metric("bawaba_generation"), Some((SWAPS + 1) as f64));
    assert_eq!(lab.edge.metric("bawaba_sessions{route=\"quotes\"}"), Some(SESSIONS as f64));
    assert_eq!(lab.edge.metric("bawaba_filter_vms{filter=\"license\"}"), Some(1.0), "the old VMs are gone");
    assert_eq!((lab.counter("passed_unjudged"), lab.counter("denied"), lab.counter("traps")), (0, 0, 0));
    let grown = lab.edge.process.resident_bytes().saturating_sub(warm);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than after {WARM_SWAPS} swaps");
}
