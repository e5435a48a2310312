//! The reader of fields against the full decoders, over every golden message of the protocol.

use bawaba_channels::wire::{Encoding, Event, Request};

use super::*;
use crate::message::Message;
use crate::policy::Refusal;
use crate::stamp::Stamp;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Timestamp;

const REQUESTS: &str = include_str!("../../../../channels/golden/requests.jsonl");
const EVENTS: &str = include_str!("../../../../channels/golden/events.jsonl");

fn golden() -> impl Iterator<Item = (serde_json::Value, Vec<u8>, Vec<u8>)> {
    let lines = |text: &'static str| text.lines().filter(|line| !line.trim().is_empty());
    let requests = lines(REQUESTS).map(|line| {
        let mut proto = Vec::new();
        Request::from_json(line.as_bytes()).unwrap().encode(Encoding::Proto, &mut proto);
        (line, proto)
    });
    let events = lines(EVENTS).map(|line| {
        let mut proto = Vec::new();
        Event::from_json(line.as_bytes()).unwrap().encode(Encoding::Proto, &mut proto);
        (line, proto)
    });
    let all: Vec<_> = requests.chain(events).collect();
    all.into_iter().map(|(line, proto)| (serde_json::from_str(line).unwrap(), line.as_bytes().to_vec(), proto))
}

#[test]
fn every_golden_message_reads_the_same_in_both_encodings() {
    let stamp = Stamp::new(Timestamp(0));
    for (value, json, proto) in golden() {
        for (encoding, bytes) in [(Encoding::Json, &json), (Encoding::Proto, &proto)] {
            let message = Message::read(Some(encoding), bytes, stamp);
            let says = |key: &str| value[key].as_str().filter(|text| !text.is_empty());
            let context = format!("{encoding:?} {value}");
            assert_eq!(message.kind().name(), value["type"], "{context}");
            assert_eq!(message.id(), value["id"].as_u64(), "{context}");
            assert_eq!(message.exchange().as_deref(), says("exchange"), "{context}");
            assert_eq!(message.symbol().as_deref(), says("symbol"), "{context}");
            assert_eq!(message.subscription().as_deref(), says("subscription"), "{context}");
            assert_eq!(message.code().as_deref(), says("code"), "{context}");
            assert_eq!(message.op().as_deref(), says("op"), "{context}");
            assert_eq!(
                message.update_rate_ms(),
                value["update_rate_ms"].as_u64().filter(|_| message.kind() == Kind::Subscribe)
            );
            let list = ["symbols", "accepted"].map(|key| value[key].as_array().cloned().unwrap_or_default()).concat();
            let list =
                if message.kind() == Kind::News { value["data"]["symbols"].as_array().cloned().unwrap() } else { list };
            let list: Vec<_> =
                list.iter().map(|entry| entry["symbol"].as_str().or(entry.as_str()).unwrap().to_owned()).collect();
            assert_eq!(message.symbols(), list, "{context}");
            let flags = value["flags"].as_array().cloned().unwrap_or_default();
            assert_eq!(
                message.flags().unwrap(),
                flags.iter().map(|f| f.as_str().unwrap()).collect::<Vec<_>>(),
                "{context}"
            );
        }
    }
}

#[test]
fn a_message_that_is_not_edited_is_written_as_it_came_and_one_that_is_still_decodes() {
    let stamp = Stamp::new(Timestamp(1_795_334_400_000_000_000));
    for (value, json, proto) in golden() {
        for (encoding, bytes) in [(Encoding::Json, &json), (Encoding::Proto, &proto)] {
            let mut message = Message::read(Some(encoding), bytes, stamp);
            let mut out = Vec::new();
            message.write(&mut out);
            assert_eq!(&out, bytes);

            for symbol in message.symbols().to_vec() {
                message.refuse_symbol(&symbol, Refusal::new(Reason::ShariaNotListed));
                message.remove_symbol(&symbol);
            }
            message.set_reason("so");
            message.set_metadata(&crate::PreparedMetadata::of(&crate::Metadata {
                sharia_compliant: true,
                compliance_board: "B\"".into(),
                ..crate::Metadata::default()
            }));
            let mut out = Vec::new();
            message.write(&mut out);
            let context = format!("{encoding:?} {value}");
            if message.kind().is_request() {
                Request::decode(encoding, &out).expect(&context);
            } else {
                let event = Event::decode(encoding, &out).expect(&context);
                match event {
                    Event::Subscribed(answer) => {
                        assert!(answer.accepted.is_empty() && !answer.refused.is_empty(), "{context}");
                    }
                    Event::Update(update) => match update.metadata {
                        Some(metadata) => assert_eq!(metadata.compliance_board, "B\"", "{context}"),
                        None => panic!("{context}"),
                    },
                    Event::Error(error) => assert_eq!(error.reason, "so", "{context}"),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn what_two_parsers_could_read_differently_is_unreadable() {
    for text in [
        r#"{"type":"order","symbol":"ABUK","symbol":"EAST"}"#,
        r#"{"type":"order","symbol":"ABUK","symb\u006fl":"EAST"}"#,
        r#"{"type":"order","type":"ping"}"#,
        r#"{"type":"subscribe","symbols":["ABUK",{}]}"#,
        r#"{"type":"subscribe","symbols":"EAST"}"#,
        r#"{"type":"subscribed","accepted":[{"symbol":"ABUK","symbol":"EAST"}]}"#,
        r#"{"type":"subscribed","accepted":[{}]}"#,
        r#"{"type":"news_update","data":{"symbols":["ABUK"],"symbols":["EAST"]}}"#,
        r#"{"type":7}"#,
        r#"{"type":"order","id":-1}"#,
    ] {
        assert_eq!(Head::of_json(text.as_bytes()).kind, Kind::Unreadable, "{text}");
    }
    assert_eq!(Head::of_json(br#"{"type":"later"}"#).kind, Kind::Unknown);
    // An escaped name is the same name.
    let text = br#"{"type":"order","symb\u006fl":"EA\u0053T"}"#;
    assert_eq!(Message::read(Some(Encoding::Json), text, Stamp::new(Timestamp(0))).symbol().as_deref(), Some("EAST"));

    let mut order = Vec::new();
    Request::from_json(br#"{"type":"order","op":"place","exchange":"EGX","symbol":"ABUK"}"#)
        .unwrap()
        .encode(Encoding::Proto, &mut order);
    assert_eq!(Head::of_proto(&order).kind, Kind::Order);
    let twice = [order.clone(), order.clone()].concat();
    assert_eq!(Head::of_proto(&twice).kind, Kind::Unreadable, "two bodies in one envelope");
    let mut inside = order[2..].to_vec();
    inside.extend_from_slice(b"\x22\x04EAST");
    let mut hidden = Vec::new();
    proto::put_bytes(&mut hidden, 3, &inside);
    assert_eq!(Head::of_proto(&hidden).kind, Kind::Unreadable, "a symbol that stands twice");
    assert_eq!(Head::of_proto(b"").kind, Kind::Unreadable);
}
