//! Refusals without the backend's help, against servers that are legal but not kind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::VecDeque;

use bawaba_filter_kit::channels::frame::{Opcode, Sender};
use bawaba_filter_kit::channels::wire::Encoding;
use proptest::prelude::*;
use support::*;

/// How a legal server may answer Pings and orders.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// Answers only the newest of the Pings it read together (RFC 6455, 5.5.3).
    merges_pongs: bool,
    /// Sends every answer in two fragments, and Pongs between them.
    fragments: bool,
}

impl Server {
    /// What it writes after reading `bytes` (already parsed).
    fn answer(self, read: &[Got]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut pings: VecDeque<&Vec<u8>> =
            read.iter().filter_map(|got| if let Got::Ping(p) = got { Some(p) } else { None }).collect();
        if self.merges_pongs {
            while pings.len() > 1 {
                pings.pop_front();
            }
        }
        for got in read {
            if let Got::Text(text) = got {
                let id = serde_json::from_str::<serde_json::Value>(text).unwrap()["id"].as_u64().unwrap();
                let answer = format!(r#"{{"type":"pong","id":{id}}}"#);
                if self.fragments {
                    let (a, b) = answer.as_bytes().split_at(9);
                    out.extend(fragment(false, Opcode::Text, a, None));
                    if let Some(ping) = pings.pop_front() {
                        out.extend(plain(Opcode::Pong, ping));
                    }
                    out.extend(fragment(true, Opcode::Continuation, b, None));
                } else {
                    out.extend(plain(Opcode::Text, answer.as_bytes()));
                }
            }
        }
        for ping in pings {
            out.extend(plain(Opcode::Pong, ping));
        }
        out
    }
}

#[derive(Clone, Debug)]
enum Act {
    Order {
        refused: bool,
    },
    Ping,
    /// Bytes reach the server and its answers come back.
    Flow,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => any::<bool>().prop_map(|refused| Act::Order { refused }),
        1 => Just(Act::Ping),
        2 => Just(Act::Flow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_request_gets_exactly_one_answer_and_no_private_ping_shows(
        acts in prop::collection::vec(act(), 1..60),
        merges_pongs in any::<bool>(),
        fragments in any::<bool>(),
        same_payload in any::<bool>(),
        chunk in 1usize..40,
    ) {
        let server = Server { merges_pongs, fragments };
        let mut stream = open(Encoding::Json);
        let mut backend = Peer::reading(Sender::Client);
        let mut client = Peer::reading(Sender::Server);
        let (mut sent_ids, mut pings) = (Vec::new(), Vec::new());
        let (mut up, mut answers, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut pongs = Vec::new();
        let mut read = Vec::new();
        for act in acts.iter().chain(&[Act::Flow]) {
            match act {
                Act::Order { refused } => {
                    let id = sent_ids.len() as u64;
                    sent_ids.push((id, *refused));
                    up.extend(masked(Opcode::Text, order(id, if *refused { "EAST" } else { "COMI" }).as_bytes()));
                }
                Act::Ping => {
                    pings.push(if same_payload { Vec::new() } else { vec![pings.len() as u8] });
                    up.extend(masked(Opcode::Ping, pings.last().unwrap()));
                }
                Act::Flow => {
                    let up = std::mem::take(&mut up);
                    for part in up.chunks(chunk) {
                        read.extend(backend.read(&stream.request(&Table, NOW, part.to_vec()).into_bytes()));
                    }
                    let down = server.answer(&std::mem::take(&mut read));
                    for part in down.chunks(chunk) {
                        for got in client.read(&stream.response(&Table, NOW, part.to_vec()).into_bytes()) {
                            match got {
                                Got::Text(text) => {
                                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                                    let id = value["id"].as_u64().unwrap();
                                    if value["type"] == "error" {
                                        prop_assert_eq!(&value["code"], "sharia.not_listed");
                                        refused.push(id);
                                    } else {
                                        answers.push(id);
                                    }
                                }
                                Got::Pong(payload) => pongs.push(payload),
                                other => prop_assert!(false, "{:?}", other),
                            }
                        }
                    }
                }
            }
        }
        let expect = |wanted: bool| -> Vec<u64> { sent_ids.iter().filter(|(_, r)| *r == wanted).map(|(id, _)| *id).collect() };
        prop_assert_eq!(answers, expect(false), "order of answers");
        prop_assert_eq!(refused, expect(true), "order of refusals");
        // Every Pong is to a Ping of the client, in order; the last Ping of all has its Pong.
        prop_assert!(pongs.iter().all(|pong| pings.contains(pong)), "{:?} {:?}", pongs, pings);
        prop_assert!(pongs.is_sorted());
        prop_assert_eq!(pongs.last(), pings.last());
        if !merges_pongs {
            prop_assert_eq!(pongs, pings);
        }
    }
}

#[test]
fn a_refusal_comes_before_the_servers_close() {
    let mut stream = open(Encoding::Json);
    stream.request(&Table, NOW, masked(Opcode::Text, order(5, "EAST").as_bytes()));
    let out = stream.response(&Table, NOW, plain(Opcode::Close, &1001u16.to_be_bytes())).into_bytes();
    let got = read_all(Sender::Server, &out);
    assert!(
        matches!(&got[..], [Got::Text(refusal), Got::Close(Some(1001))] if refusal.contains(r#""id":5"#)),
        "{got:?}"
    );
}

#[test]
fn a_flood_of_refused_requests_is_answered_and_bounded() {
    let mut stream = open(Encoding::Json);
    let chunk: Vec<u8> = (0..1000).flat_map(|id| masked(Opcode::Text, order(id, "EAST").as_bytes())).collect();
    let up = read_all(Sender::Client, &stream.request(&Table, NOW, chunk.clone()).into_bytes());
    let [Got::Ping(payload)] = &up[..] else { panic!("one Ping stands for all: {up:?}") };
    let down = read_all(Sender::Server, &stream.response(&Table, NOW, plain(Opcode::Pong, payload)).into_bytes());
    assert_eq!(down.len(), 1000);
    for _ in 0..20 {
        stream.request(&Table, NOW, chunk.clone());
    }
    let down = read_all(Sender::Server, &stream.response(&Table, NOW, plain(Opcode::Ping, b"")).into_bytes());
    assert_eq!(down.last(), Some(&Got::Close(Some(1008))));
}

#[test]
fn a_subscribe_that_is_refused_whole_is_answered_without_the_backend() {
    let mut stream = open(Encoding::Json);
    let ask = br#"{"type":"subscribe","id":3,"channel":"trades","exchange":"EGX","symbols":["EAST"]}"#;
    let up = read_all(Sender::Client, &stream.request(&Table, NOW, masked(Opcode::Text, ask)).into_bytes());
    let [Got::Ping(payload)] = &up[..] else { panic!("{up:?}") };
    let down = read_all(Sender::Server, &stream.response(&Table, NOW, plain(Opcode::Pong, payload)).into_bytes());
    let [Got::Text(answer)] = &down[..] else { panic!("{down:?}") };
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    assert_eq!((&answer["type"], &answer["id"]), (&"subscribed".into(), &3.into()));
    assert_eq!(answer["accepted"], serde_json::json!([]));
    assert_eq!(answer["refused"][0]["code"], "sharia.not_listed");
}

#[test]
fn malformed_requests_are_refused_before_any_parser_can_differ() {
    let mut stream = open(Encoding::Json);
    for (bad, id) in [
        (&br#"{"type":"order","id":4,"symbol":"COMI","symbol":"EAST"}"#[..], "null"),
        (br#"{"type":"subscribe","id":4,"symbols":["COMI",7]}"#, "4"),
        (br#"{"type":"order","id":4} x"#, "null"),
        (br#"{"type":"order","id":"4"}"#, "null"),
        (b"[]", "null"),
    ] {
        let up = stream.request(&Table, NOW, masked(Opcode::Text, bad)).into_bytes();
        assert!(!read_all(Sender::Client, &up).iter().any(|got| matches!(got, Got::Text(_))));
        let down = read_all(Sender::Server, &stream.response(&Table, NOW, plain(Opcode::Ping, b"")).into_bytes());
        let Got::Text(answer) = &down[0] else { panic!("{down:?}") };
        let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer["code"], "protocol.malformed");
        assert_eq!(answer["id"].to_string(), id, "{}", String::from_utf8_lossy(bad));
    }
}
