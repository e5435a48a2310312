//! What a session may use, tried on whole streams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/memory.rs"]
mod memory;
#[path = "../src/policy.rs"]
mod policy;

use std::rc::Rc;

use bawaba_filter_kit::channels::frame::{self, Opcode};
use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::handshake::Handshake;
use bawaba_filter_kit::stream::Stream;
use bawaba_filter_kit::{Limits, configure};
use policy::Quota;

const NOW: Timestamp = Timestamp(1_795_334_400_000_000_000);

/// What a refused request is answered with; warnings are no errors.
const ERROR: &str = r#""type":"error""#;

struct Session {
    policy: Rc<Quota>,
    stream: Stream<Quota>,
}

/// Two subscriptions, four symbols, ten messages a second, two orders a minute.
fn open(policy: &Quota) -> Stream<Quota> {
    // {"sub":"u","tier":"professional","quota":{"subscriptions":2,"symbols":4,"messages_per_second":10,"messages_burst":30,"orders_per_minute":2}}
    let claims = "eyJzdWIiOiJ1IiwidGllciI6InByb2Zlc3Npb25hbCIsInF1b3RhIjp7InN1YnNjcmlwdGlvbnMiOjIsInN5bWJvbHMiOjQsIm1lc3NhZ2VzX3Blcl9zZWNvbmQiOjEwLCJtZXNzYWdlc19idXJzdCI6MzAsIm9yZGVyc19wZXJfbWludXRlIjoyfX0";
    let headers = vec![("x-bawaba-claims".to_owned(), claims.as_bytes().to_vec())];
    let limits = Limits::default();
    let handshake = Handshake::read(&headers).unwrap();
    let mut stream = Stream::open(policy, &limits, handshake.session, handshake.offered, NOW, 1).ok().unwrap();
    stream.accepted(Some("tradsys.v3.json"), &limits);
    stream
}

impl Session {
    fn new() -> Self {
        let (policy, _) = configure::<Quota>(b"{}").unwrap();
        let policy = Rc::new(policy);
        let stream = open(&policy);
        Self { policy, stream }
    }

    /// Another session of the same user, on the same worker.
    fn another(&self) -> Self {
        Self { policy: Rc::clone(&self.policy), stream: open(&self.policy) }
    }

    /// Sends a request and the backend's answers to it; returns all that the client hears.
    fn turn(&mut self, request: &str, answers: &[&str]) -> String {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        frame::encode(&mut up, true, Opcode::Text, request.as_bytes(), Some([1, 2, 3, 4]));
        self.stream.request(&self.policy, NOW, up);
        for answer in answers.iter().chain(&[r#"{"type":"drain","retry_after_ms":1}"#]) {
            frame::encode(&mut down, true, Opcode::Text, answer.as_bytes(), None);
        }
        String::from_utf8_lossy(&self.stream.response(&self.policy, NOW, down).into_bytes()).into_owned()
    }

    fn subscribe(&mut self, id: u64, subscription: &str, symbols: &[&str]) -> String {
        let request = serde_json::json!({"type": "subscribe", "id": id, "channel": "trades", "exchange": "EGX", "symbols": symbols});
        let accepted: Vec<_> = symbols.iter().map(|symbol| serde_json::json!({"symbol": symbol})).collect();
        let answer = serde_json::json!({"type": "subscribed", "id": id, "subscription": subscription, "accepted": accepted, "refused": []});
        self.turn(&request.to_string(), &[&answer.to_string()])
    }
}

#[test]
fn subscriptions_and_symbols_are_counted_and_given_back() {
    let mut session = Session::new();
    assert!(!session.subscribe(1, "s1", &["COMI", "TMGH"]).contains(ERROR));
    assert!(session.subscribe(2, "s2", &["ABUK", "EAST", "JUFO"]).contains("quota.symbols"));
    assert!(!session.subscribe(3, "s2", &["COMI"]).contains(ERROR));
    assert!(session.subscribe(4, "s3", &["ABUK"]).contains("quota.subscriptions"));
    // Asking again for what is held, in the same subscription, takes nothing... once there is room to ask.
    session.turn(r#"{"type":"unsubscribe","id":5,"subscription":"s2"}"#, &[r#"{"type":"unsubscribed","id":5}"#]);
    for id in 10..13 {
        assert!(!session.subscribe(id, "s1", &["COMI", "TMGH"]).contains(ERROR), "{id}");
    }
    assert!(!session.subscribe(6, "s4", &["ABUK", "EAST"]).contains(ERROR));
    // Partial and revoked symbols are room again; a refused request takes none.
    session.turn(
        r#"{"type":"unsubscribe","id":7,"subscription":"s4","symbols":["ABUK"]}"#,
        &[
            r#"{"type":"unsubscribed","id":7}"#,
            r#"{"type":"revoked","subscription":"s4","symbols":["EAST"],"code":"sharia.delisted"}"#,
        ],
    );
    let request = r#"{"type":"subscribe","id":8,"channel":"trades","exchange":"EGX","symbols":["ABUK"]}"#;
    for _ in 0..4 {
        let heard = session.turn(request, &[r#"{"type":"error","id":8,"code":"channel.closed","reason":"r"}"#]);
        assert!(!heard.contains(r#""id":8,"code":"quota"#), "{heard}");
    }
    assert!(!session.subscribe(9, "s5", &["ABUK", "EAST"]).contains(ERROR));
}

#[test]
fn messages_and_orders_are_refused_with_the_time_to_wait() {
    let mut session = Session::new();
    let order = |id: u64| format!(r#"{{"type":"order","id":{id},"op":"place","exchange":"EGX","symbol":"COMI"}}"#);
    assert!(!session.turn(&order(1), &[]).contains(ERROR));
    assert!(!session.turn(&order(2), &[]).contains(ERROR));
    let heard = session.turn(&order(3), &[]);
    assert!(heard.contains(ERROR) && heard.contains("quota.orders") && heard.contains("retry_after_ms"), "{heard}");
    for _ in 3..30 {
        assert!(!session.turn(r#"{"type":"ping"}"#, &[]).contains(ERROR));
    }
    let heard = session.turn(r#"{"type":"ping","id":99}"#, &[]);
    assert!(
        heard.contains(r#""id":99,"code":"quota.messages""#) && heard.contains(r#""retry_after_ms":100"#),
        "{heard}"
    );
}

#[test]
fn a_wildcard_takes_as_many_symbols_as_it_stands_for() {
    let mut session = Session::new();
    let all = r#"{"type":"subscribe","id":1,"channel":"trades","exchange":"EGX","symbols":["*"]}"#;
    assert!(session.turn(all, &[]).contains("quota.symbols"));
}

#[test]
fn a_channel_without_symbols_takes_a_subscription_and_no_symbol() {
    let mut session = Session::new();
    assert!(!session.subscribe(1, "s1", &["COMI", "TMGH", "ABUK", "EAST"]).contains(ERROR));
    let request = r#"{"type":"subscribe","id":2,"channel":"news","exchange":"EGX"}"#;
    let answer = r#"{"type":"subscribed","id":2,"subscription":"s2","accepted":[{"symbol":""}],"refused":[]}"#;
    assert!(!session.turn(request, &[answer]).contains(ERROR));
    assert!(session.turn(request, &[answer]).contains("quota.subscriptions"));
    session.turn(r#"{"type":"unsubscribe","id":5,"subscription":"s2"}"#, &[r#"{"type":"unsubscribed","id":5}"#]);
    assert!(!session.turn(request, &[answer]).contains(ERROR));
}

#[test]
fn at_80_hundredths_of_a_limit_the_client_is_warned_once() {
    let mut session = Session::new();
    let heard = session.subscribe(1, "s1", &["COMI", "TMGH", "ABUK"]);
    assert!(!heard.contains("alert"), "{heard}");
    let heard = session.subscribe(2, "s1", &["EAST"]);
    assert!(heard.contains(r#""type":"alert","code":"quota.symbols""#), "{heard}");
    let heard = session.turn(r#"{"type":"ping","id":3}"#, &[]);
    assert!(!heard.contains("alert"), "{heard}");
}

#[test]
fn what_a_session_holds_is_given_back_when_it_ends() {
    let mut first = Session::new();
    assert!(!first.subscribe(1, "s1", &["COMI", "TMGH", "ABUK", "EAST"]).contains(ERROR));
    // The same user's second session, at the same desk.
    let mut second = first.another();
    assert!(second.subscribe(1, "s1", &["JUFO"]).contains(ERROR), "four symbols are the user's, not the session's");
    assert!(!second.subscribe(2, "s1", &["COMI"]).contains(ERROR), "the same symbol counts once");
    first.stream.close(&first.policy, None, NOW);
    assert!(!second.subscribe(3, "s2", &["JUFO", "TMGH"]).contains(ERROR));
}

/// What the module is held to in a host holds without one.
#[test]
fn the_cases_that_the_module_brings_hold() {
    bawaba_filter_kit::trial::hold::<Quota>(include_str!("../cases.json"));
}
