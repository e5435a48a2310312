//! The stream, from bytes to bytes: what passes, in which form, however the bytes were cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use bawaba_filter_kit::Limits;
use bawaba_filter_kit::channels::frame::{Opcode, Sender};
use bawaba_filter_kit::channels::wire::{Encoding, Event, Request};
use bawaba_filter_kit::stream::Flow;
use proptest::prelude::*;
use support::*;

#[test]
fn a_chunk_of_whole_frames_that_all_pass_is_not_touched() {
    let mut stream = open(Encoding::Json);
    let chunk = [
        plain(Opcode::Text, quote("COMI", 1).as_bytes()),
        plain(Opcode::Ping, b"p"),
        plain(Opcode::Text, quote("TMGH", 2).as_bytes()),
    ]
    .concat();
    assert_eq!(stream.response(&Table, NOW, chunk.clone()), Flow::Unchanged(chunk));
    let chunk = [masked(Opcode::Text, order(1, "COMI").as_bytes()), masked(Opcode::Pong, b"p")].concat();
    assert_eq!(stream.request(&Table, NOW, chunk.clone()), Flow::Unchanged(chunk));
}

#[test]
fn a_frame_is_held_until_it_is_whole() {
    let mut stream = open(Encoding::Json);
    let frame = plain(Opcode::Text, quote("COMI", 1).as_bytes());
    let (head, tail) = frame.split_at(40);
    assert_eq!(stream.response(&Table, NOW, head.to_vec()), Flow::Replace(Vec::new()));
    assert_eq!(stream.response(&Table, NOW, tail.to_vec()), Flow::Replace(frame.clone()));
}

#[test]
fn refused_updates_vanish_and_noted_ones_keep_what_nobody_knows() {
    let mut stream = open(Encoding::Json);
    let chunk =
        [quote("COMI", 1), quote("EAST", 2), quote("NOTE", 3)].map(|q| plain(Opcode::Text, q.as_bytes())).concat();
    let out = stream.response(&Table, NOW, chunk).into_bytes();
    let got = read_all(Sender::Server, &out);
    assert_eq!(got[0], text(&quote("COMI", 1)));
    let Got::Text(noted) = &got[1] else { panic!("{got:?}") };
    let (noted, original): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(noted).unwrap(), serde_json::from_str(&quote("NOTE", 3)).unwrap());
    assert_eq!(noted["metadata"]["list"], "egx33@2024-06-12");
    assert_eq!(noted["metadata"]["filtered_at"], NOW.to_string());
    for (key, value) in original.as_object().unwrap() {
        assert_eq!(&noted[key], value, "{key}");
    }
    assert_eq!(got.len(), 2);
}

#[test]
fn reserved_bits_long_messages_and_unmasked_frames_close_with_their_codes() {
    let mut rsv = masked(Opcode::Text, b"{}");
    rsv[0] |= 0x40;
    let long = vec![b' '; 2000];
    for (bad, code) in [
        (rsv, 1002),
        (masked(Opcode::Text, &long), 1009),
        (plain(Opcode::Text, b"{}"), 1002),
        (masked(Opcode::Text, b"\xff\xfe"), 1007),
        (masked(Opcode::Binary, b"{}"), 1003),
    ] {
        let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
        let mut stream = open_with(&limits, Some("tradsys.v3.json"));
        let to_backend = stream.request(&Table, NOW, bad).into_bytes();
        let seen = read_all(Sender::Client, &to_backend);
        assert!(matches!(seen[..], [Got::Ping(_), Got::Close(Some(1001))]), "{seen:?}");
        assert_eq!(stream.request(&Table, NOW, masked(Opcode::Text, b"{}")), Flow::Replace(vec![]));
        // Whatever the backend says next is the chance to tell the client.
        let to_client = stream.response(&Table, NOW, plain(Opcode::Text, quote("COMI", 1).as_bytes())).into_bytes();
        assert_eq!(read_all(Sender::Server, &to_client), [Got::Close(Some(code))]);
        assert_eq!(stream.response(&Table, NOW, plain(Opcode::Ping, b"")), Flow::Replace(vec![]));
    }
}

#[test]
fn a_close_from_the_outbound_side_ends_both_directions() {
    let mut stream = open(Encoding::Json);
    let chunk =
        [quote("COMI", 1), quote("SHUT", 2), quote("COMI", 3)].map(|q| plain(Opcode::Text, q.as_bytes())).concat();
    let got = read_all(Sender::Server, &stream.response(&Table, NOW, chunk).into_bytes());
    assert_eq!(got, [text(&quote("COMI", 1)), Got::Close(Some(4451))]);
    let to_backend = stream.request(&Table, NOW, masked(Opcode::Close, &4451u16.to_be_bytes())).into_bytes();
    assert_eq!(read_all(Sender::Client, &to_backend), [Got::Close(Some(1001))]);
    assert_eq!(stream.request(&Table, NOW, masked(Opcode::Ping, b"")), Flow::Replace(vec![]));
}

#[test]
fn an_opaque_dialect_passes_through_the_same_path() {
    let mut stream = open_with(&Limits::default(), None);
    let chunk = [plain(Opcode::Text, b"not json"), plain(Opcode::Binary, &[0xFF; 300])].concat();
    assert_eq!(stream.response(&Table, NOW, chunk.clone()), Flow::Unchanged(chunk));
}

#[test]
fn a_partly_refused_subscribe_is_answered_in_one_piece() {
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut stream = open(encoding);
        let ask = Request::from_json(
            br#"{"type":"subscribe","id":7,"channel":"market_data","exchange":"EGX","symbols":["COMI","EAST","ABUK"],"resume":{"EAST":{"epoch":"e","seq":1},"COMI":{"epoch":"e","seq":2}}}"#,
        )
        .unwrap();
        let mut payload = Vec::new();
        ask.encode(encoding, &mut payload);
        let to_backend = stream.request(&Table, NOW, masked(encoding.opcode(), &payload)).into_bytes();
        let seen = read_all(Sender::Client, &to_backend);
        let Request::Subscribe(subscribe) = decode_request(encoding, &seen[0]) else { panic!() };
        assert_eq!(subscribe.symbols, ["COMI", "ABUK"]);
        assert_eq!(subscribe.resume.keys().collect::<Vec<_>>(), ["COMI"]);
        assert_eq!((seen.len(), subscribe.id), (1, Some(7)));

        let answer = Event::from_json(
            br#"{"type":"subscribed","id":7,"subscription":"s1","accepted":[{"symbol":"COMI","epoch":"e","seq":3,"recovered":true}],"refused":[{"symbol":"ABUK","code":"channel.symbol_unknown","reason":"no"}]}"#,
        )
        .unwrap();
        let mut payload = Vec::new();
        answer.encode(encoding, &mut payload);
        let to_client = stream.response(&Table, NOW, plain(encoding.opcode(), &payload)).into_bytes();
        let Event::Subscribed(answer) = decode_event(encoding, &read_all(Sender::Server, &to_client)[0]) else {
            panic!()
        };
        let refused: Vec<_> = answer.refused.iter().map(|r| (r.symbol.as_str(), r.code.as_str())).collect();
        assert_eq!(refused, [("ABUK", "channel.symbol_unknown"), ("EAST", "sharia.not_listed")]);
        assert_eq!(answer.accepted.len(), 1);
    }
}

#[test]
fn a_wildcard_answer_is_filtered_on_the_way_out() {
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut stream = open(encoding);
        let answer = Event::from_json(
            br#"{"type":"subscribed","id":7,"subscription":"s1","accepted":[{"symbol":"EAST","epoch":"e","seq":3},{"symbol":"COMI","epoch":"e","seq":3}],"refused":[]}"#,
        )
        .unwrap();
        let mut payload = Vec::new();
        answer.encode(encoding, &mut payload);
        let to_client = stream.response(&Table, NOW, plain(encoding.opcode(), &payload)).into_bytes();
        let Event::Subscribed(answer) = decode_event(encoding, &read_all(Sender::Server, &to_client)[0]) else {
            panic!()
        };
        assert_eq!(answer.accepted.iter().map(|a| a.symbol.as_str()).collect::<Vec<_>>(), ["COMI"]);
        assert_eq!(answer.refused.iter().map(|a| a.symbol.as_str()).collect::<Vec<_>>(), ["EAST"]);
    }
}

#[test]
fn a_cohort_stream_carries_no_requests() {
    let claims = "eyJpc2xhbWljIjp7Im1vZGUiOiJvZmYifX0"; // {"islamic":{"mode":"off"}}
    let handshake = handshake(&[(":path", "/refused"), ("x-bawaba-cohort", "1"), ("x-bawaba-claims", claims)]);
    let limits = Limits::default();
    let mut stream =
        bawaba_filter_kit::stream::Stream::open(&Table, &limits, handshake.session, handshake.offered, NOW, 1)
            .ok()
            .unwrap();
    stream.accepted(Some("tradsys.v3.json"), &limits);
    let out = stream.request(&Table, NOW, masked(Opcode::Text, order(1, "COMI").as_bytes())).into_bytes();
    assert!(!read_all(Sender::Client, &out).iter().any(|got| matches!(got, Got::Text(_))));
    let chunk = plain(Opcode::Text, b"x");
    assert_eq!(read_all(Sender::Server, &stream.response(&Table, NOW, chunk).into_bytes()), [Got::Close(Some(1008))]);
}

fn decode_request(encoding: Encoding, got: &Got) -> Request {
    match got {
        Got::Text(text) => Request::decode(encoding, text.as_bytes()).unwrap(),
        Got::Binary(bytes) => Request::decode(encoding, bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn decode_event(encoding: Encoding, got: &Got) -> Event {
    match got {
        Got::Text(text) => Event::decode(encoding, text.as_bytes()).unwrap(),
        Got::Binary(bytes) => Event::decode(encoding, bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A message for a direction, whole or in fragments with control frames between them.
#[derive(Clone, Debug)]
struct Sent {
    payload: String,
    cuts: usize,
    ping_between: bool,
}

fn sent(server: bool) -> impl Strategy<Value = Sent> {
    let symbol = prop::sample::select(vec!["COMI", "EAST", "NOTE", "DROP", "ABUK"]);
    (symbol, any::<u16>(), 0usize..4, any::<bool>()).prop_map(move |(symbol, n, cuts, ping_between)| Sent {
        payload: if server {
            quote(symbol, n.into())
        } else {
            order(n.into(), if symbol == "EAST" { "NOTE" } else { symbol })
        },
        cuts,
        ping_between,
    })
}

fn on_the_wire(messages: &[Sent], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        let payload = message.payload.as_bytes();
        let size = payload.len().div_ceil(message.cuts + 1);
        let count = payload.chunks(size).count();
        for (n, part) in payload.chunks(size).enumerate() {
            let opcode = if n == 0 { Opcode::Text } else { Opcode::Continuation };
            bytes.extend(fragment(n + 1 == count, opcode, part, mask));
            if message.ping_between {
                bytes.extend(fragment(true, Opcode::Ping, &[n as u8], mask));
            }
        }
    }
    bytes
}

fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn however_the_bytes_are_cut_the_output_is_the_same(
        up in prop::collection::vec(sent(false), 1..12),
        down in prop::collection::vec(sent(true), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (up, down) = (on_the_wire(&up, Some([9, 8, 7, 6])), on_the_wire(&down, None));
        let mut whole = open(Encoding::Json);
        let expected = (
            whole.request(&Table, NOW, up.clone()).into_bytes(),
            whole.response(&Table, NOW, down.clone()).into_bytes(),
        );
        let mut stream = open(Encoding::Json);
        let mut got = (Vec::new(), Vec::new());
        for part in cut(&up, &cuts) {
            got.0.extend(stream.request(&Table, NOW, part).into_bytes());
        }
        for part in cut(&down, &cuts) {
            got.1.extend(stream.response(&Table, NOW, part).into_bytes());
        }
        prop_assert_eq!(&got.0, &expected.0);
        prop_assert_eq!(&got.1, &expected.1);
        // And what came out is legal to a strict reader, with nothing refused in it.
        read_all(Sender::Client, &got.0);
        for message in read_all(Sender::Server, &got.1) {
            if let Got::Text(text) = message {
                prop_assert!(!text.contains("EAST") && !text.contains("DROP"));
            }
        }
    }

    #[test]
    fn no_bytes_whatever_make_the_kit_panic(
        up in prop::collection::vec(any::<u8>(), 0..200),
        down in prop::collection::vec(any::<u8>(), 0..200),
        framed in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        for encoding in [Encoding::Json, Encoding::Proto] {
            let mut stream = open(encoding);
            stream.request(&Table, NOW, masked(encoding.opcode(), &framed));
            stream.response(&Table, NOW, plain(encoding.opcode(), &framed));
            stream.request(&Table, NOW, up.clone());
            stream.response(&Table, NOW, down.clone());
        }
    }
}
