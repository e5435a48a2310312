use super::*;
use alloc::string::ToString;
use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage};

const REQUESTS: &str = include_str!("../../golden/requests.jsonl");
const EVENTS: &str = include_str!("../../golden/events.jsonl");

fn schema() -> prost_reflect::MessageDescriptor {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = protox::compile(["tradsys_v3.proto"], [directory]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    pool.get_message_by_name("tradsys.v3.Envelope").unwrap()
}

/// `bytes` under the published schema: no unknown field anywhere, and the same bytes when written again.
fn agrees_with_schema(bytes: &[u8]) {
    fn no_unknown(message: &DynamicMessage) {
        assert_eq!(
            message.unknown_fields().count(),
            0,
            "{} has a field that the schema lacks",
            message.descriptor().name()
        );
        for (_, value) in message.fields() {
            visit(value);
        }
    }
    fn visit(value: &prost_reflect::Value) {
        match value {
            prost_reflect::Value::Message(message) => no_unknown(message),
            prost_reflect::Value::List(values) => values.iter().for_each(visit),
            prost_reflect::Value::Map(values) => values.values().for_each(visit),
            _ => {}
        }
    }
    let read = DynamicMessage::decode(schema(), bytes).unwrap();
    no_unknown(&read);
    let mut again = Vec::new();
    read.encode(&mut again).unwrap();
    assert_eq!(again.len(), bytes.len());
}

#[test]
fn every_golden_message_is_the_same_in_both_forms_and_under_the_schema() {
    for line in REQUESTS.lines() {
        let request = Request::from_json(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
        let (mut json, mut proto) = (Vec::new(), Vec::new());
        request.to_json(&mut json);
        assert_eq!(core::str::from_utf8(&json).unwrap(), line);
        request.encode_proto(&mut proto);
        assert_eq!(Request::decode_proto(&proto).unwrap(), request);
        agrees_with_schema(&proto);
    }
    for line in EVENTS.lines() {
        let event = Event::from_json(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
        let (mut json, mut proto) = (Vec::new(), Vec::new());
        event.to_json(&mut json);
        assert_eq!(core::str::from_utf8(&json).unwrap(), line);
        event.encode_proto(&mut proto);
        assert_eq!(Event::decode_proto(&proto).unwrap(), event);
        agrees_with_schema(&proto);
    }
}

#[test]
fn a_message_that_cannot_be_read_says_what_is_wrong_and_keeps_the_id() {
    let table = [
        ("", None, "not a JSON message"),
        ("[]", None, "not a JSON message"),
        ("{\"id\":3}", Some(3), "\"type\" is missing"),
        ("{\"type\":\"buy\",\"id\":3}", Some(3), "type \"buy\" is unknown"),
        ("{\"type\":\"subscribe\",\"id\":3,\"channel\":\"trades\"}", Some(3), "missing field `exchange`"),
        ("{\"type\":\"subscribe\",\"id\":3,\"channel\":\"trades\",\"exchange\":\"egx\"}", Some(3), "exchange"),
        ("{\"type\":\"order\",\"id\":3,\"op\":\"swap\"}", Some(3), "op is"),
        ("{\"type\":\"order\",\"id\":3,\"op\":\"place\"}", Some(3), "exchange and symbol"),
        (
            "{\"type\":\"order\",\"id\":3,\"op\":\"place\",\"exchange\":\"EGX\",\"symbol\":\"COMI\",\"price\":84.5}",
            Some(3),
            "order",
        ),
        ("{\"type\":\"ping\",\"id\":-1}", None, "not a JSON message"),
    ];
    for (text, id, detail) in table {
        let error = Request::from_json(text.as_bytes()).unwrap_err();
        assert_eq!(error.id, id, "{text}");
        assert!(error.detail.contains(detail), "{text}: {}", error.detail);
    }
    assert!(Request::decode_proto(b"\xFF\xFF").is_err());
    assert!(Request::decode_proto(b"").is_err());
    let mut event = Vec::new();
    Event::Pong(Pong { id: None }).encode_proto(&mut event);
    assert!(Request::decode_proto(&event).unwrap_err().detail.contains("only a server sends"));
}

#[test]
fn more_symbols_than_the_limit_are_refused() {
    let symbols: Vec<String> = (0..=SYMBOLS_PER_REQUEST_MAX).map(|i| alloc::format!("S{i}")).collect();
    let request = Request::Subscribe(Subscribe {
        channel: "trades".into(),
        exchange: "EGX".into(),
        symbols,
        ..Default::default()
    });
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut bytes = Vec::new();
        request.encode(encoding, &mut bytes);
        assert!(Request::decode(encoding, &bytes).unwrap_err().detail.contains("at most 1000"));
    }
}

#[test]
fn instants_are_rfc_3339_with_milliseconds() {
    for text in ["1970-01-01T00:00:00.000Z", "2026-11-22T08:00:00.125Z", "2100-02-28T23:59:59.999Z"] {
        let instant: Timestamp = text.parse().unwrap();
        assert_eq!(instant.to_string(), text);
    }
    assert_eq!("2026-11-22T10:00:00+02:00".parse::<Timestamp>().unwrap().to_string(), "2026-11-22T08:00:00.000Z");
    assert_eq!(Timestamp(1_999_999).to_string(), "1970-01-01T00:00:00.001Z", "cut, never rounded into the future");
    for bad in ["", "2026-11-22", "yesterday", "2026-13-01T00:00:00Z"] {
        assert!(bad.parse::<Timestamp>().is_err());
    }
}

proptest! {
    /// No input makes a reader panic.
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for encoding in [Encoding::Json, Encoding::Proto] {
            let _ = Request::decode(encoding, &bytes);
            if let Ok(event) = Event::decode(encoding, &bytes) {
                let mut out = Vec::new();
                event.encode(Encoding::Json, &mut out);
            }
        }
    }

    /// A golden message with any one byte changed is a message or an error, never a panic.
    #[test]
    fn a_damaged_message_is_a_message_or_an_error(line in 0usize..19, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let text = EVENTS.lines().nth(line).unwrap_or_default();
        let mut json = text.as_bytes().to_vec();
        let mut proto = Vec::new();
        Event::from_json(&json).unwrap().encode_proto(&mut proto);
        for (encoding, bytes) in [(Encoding::Json, &mut json), (Encoding::Proto, &mut proto)] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(event) = Event::decode(encoding, bytes) {
                let mut out = Vec::new();
                event.encode(Encoding::Json, &mut out);
                event.encode(Encoding::Proto, &mut out);
            }
        }
    }
}
