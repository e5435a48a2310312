//! A message without some of its fields.
//!
//! What is left is named, not what goes: a field that no version of the protocol knows could repeat what was taken away.

use bawaba_channels::wire::Encoding;

use super::Message;
use crate::json::{self, Span, put_string};
use crate::kind::Kind;
use crate::proto::{self, put_bytes};

/// Names of fields with their protobuf numbers.
type Table = &'static [(&'static str, u32)];

/// What says what an update is about.
const UPDATE: Table = &[
    ("subscription", 1),
    ("exchange", 2),
    ("symbol", 3),
    ("epoch", 4),
    ("seq", 5),
    ("first_seq", 6),
    ("snapshot", 7),
    ("time", 8),
];
const ALERT: Table = &[("code", 1), ("exchange", 3), ("symbol", 4), ("subscription", 5), ("time", 6)];
const STATUS: Table = &[
    ("exchange", 1),
    ("source", 3),
    ("next", 4),
    ("symbol", 5),
    ("subscription", 6),
    ("next_open", 7),
    ("ends_from", 8),
    ("certainty", 9),
];
const QUOTE: Table = &[
    ("last", 1),
    ("bid", 2),
    ("ask", 3),
    ("bid_size", 4),
    ("ask_size", 5),
    ("volume", 6),
    ("open", 7),
    ("high", 8),
    ("low", 9),
    ("close", 10),
];
const BOOK: Table = &[("bids", 1), ("asks", 2)];
const LEVEL: Table = &[("price", 1), ("size", 2)];
const TRADE: Table = &[("price", 1), ("size", 2), ("side", 3), ("trade_id", 4)];
const DECIMAL: Table = &[("mantissa", 1), ("scale", 2)];

/// Fields around the data that may be left or not.
const fn optional(kind: Kind) -> Table {
    match kind {
        Kind::Alert => &[("reason", 2)],
        Kind::MarketStatus => &[("phase", 2), ("reason", 10)],
        _ => &[("phase", 14)],
    }
}

/// The kinds that can be redacted.
pub(super) const fn is_redacted(kind: Kind) -> bool {
    matches!(kind, Kind::Quote | Kind::Book | Kind::Trade | Kind::Alert | Kind::MarketStatus)
}

const fn around(kind: Kind) -> Table {
    match kind {
        Kind::Alert => ALERT,
        Kind::MarketStatus => STATUS,
        _ => UPDATE,
    }
}

/// The data's own fields, and the tag of the data.
const fn data(kind: Kind) -> (Table, u32) {
    match kind {
        Kind::Quote => (QUOTE, 10),
        Kind::Book => (BOOK, 11),
        Kind::Trade => (TRADE, 12),
        _ => (&[], 0),
    }
}

fn number(table: Table, name: &str) -> Option<u32> {
    table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

impl Message<'_> {
    pub(super) fn write_redacted(&self, encoding: Encoding, left: &[&'static str], out: &mut Vec<u8>) {
        match encoding {
            Encoding::Json => self.redacted_json(left, out),
            Encoding::Proto => self.redacted_proto(left, out),
        }
    }

    fn redacted_json(&self, left: &[&'static str], out: &mut Vec<u8>) {
        let kind = self.kind();
        out.extend_from_slice(b"{\"type\":");
        put_string(out, kind.name());
        let _ = json::members(self.bytes, |key, value| {
            let key = json::unescaped(key).unwrap_or_default();
            let stays = left.contains(&&*key) && number(optional(kind), &key).is_some();
            if number(around(kind), &key).is_some() || stays {
                put_scalar(out, &key, value.of(self.bytes));
            }
            Ok(())
        });
        let span = self.head.span(crate::head::Field::Data);
        if span.is_some() {
            out.extend_from_slice(b",\"data\":");
            self.object(span, data(kind).0, left, out);
        }
        if let Some(metadata) = &self.edits.metadata {
            out.extend_from_slice(b",\"metadata\":");
            out.extend_from_slice(metadata);
        }
        out.push(b'}');
    }

    /// An object with those members of the table that are left.
    fn object(&self, span: Span, table: Table, left: &[&'static str], out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        let _ = json::members_at(self.bytes, span, |key, value| {
            let key = json::unescaped(key).unwrap_or_default();
            if number(table, &key).is_none() || !left.contains(&&*key) {
                return Ok(());
            }
            if matches!(&*key, "bids" | "asks") {
                inner.push(b',');
                put_string(&mut inner, &key);
                inner.extend_from_slice(b":[");
                let mut first = true;
                let _ = json::elements(self.bytes, value, |level| {
                    if !std::mem::take(&mut first) {
                        inner.push(b',');
                    }
                    self.object(level, LEVEL, &["price", "size"], &mut inner);
                    Ok(())
                });
                inner.push(b']');
            } else {
                put_scalar(&mut inner, &key, value.of(self.bytes));
            }
            Ok(())
        });
        out.push(b'{');
        out.extend_from_slice(inner.get(1..).unwrap_or_default());
        out.push(b'}');
    }

    fn redacted_proto(&self, left: &[&'static str], out: &mut Vec<u8>) {
        let kind = self.kind();
        let (table, tag) = data(kind);
        let mut body = Vec::with_capacity(self.bytes.len());
        let kept = |table: Table, number: u32| table.iter().find(|(_, known)| *known == number).map(|(name, _)| *name);
        let _ = proto::fields(self.bytes, self.head.body, |field| {
            let stays = kept(optional(kind), field.number).is_some_and(|name| left.contains(&name));
            if kept(around(kind), field.number).is_some() || stays {
                body.extend_from_slice(field.whole.of(self.bytes));
            } else if field.number == tag {
                put_bytes(&mut body, tag, &self.submessage(field.value, table, Some(left)));
            }
            Ok(())
        });
        if let Some(metadata) = &self.edits.metadata {
            put_bytes(&mut body, 9, metadata);
        }
        put_bytes(out, self.head.tag, &body);
    }

    /// A message with those fields of the table that are left (all of it, where nothing is said), and decimals and
    /// levels with no fields but their own.
    fn submessage(&self, span: Span, table: Table, left: Option<&[&'static str]>) -> Vec<u8> {
        let mut inner = Vec::new();
        let _ = proto::fields(self.bytes, span, |field| {
            let Some((name, _)) = table.iter().find(|(_, number)| *number == field.number) else { return Ok(()) };
            if left.is_some_and(|left| !left.contains(name)) {
                return Ok(());
            }
            match (*name, field.wire) {
                ("side" | "trade_id", 2) | ("mantissa" | "scale", 0) => {
                    inner.extend_from_slice(field.whole.of(self.bytes));
                }
                ("bids" | "asks", 2) => put_bytes(&mut inner, field.number, &self.submessage(field.value, LEVEL, None)),
                (_, 2) => put_bytes(&mut inner, field.number, &self.submessage(field.value, DECIMAL, None)),
                _ => {}
            }
            Ok(())
        });
        inner
    }
}

/// A member whose value is no list and no object: in those, more could lie than the name says.
fn put_scalar(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    if !matches!(value.first(), Some(b'[' | b'{')) {
        out.push(b',');
        put_string(out, key);
        out.push(b':');
        out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use bawaba_channels::wire::{Event, Timestamp};
    use serde_json::{Value, json};

    use super::*;
    use crate::stamp::Stamp;

    fn redacted(encoding: Encoding, bytes: &[u8], left: &[&'static str]) -> (Value, Vec<u8>) {
        let mut message = Message::read(Some(encoding), bytes, Stamp::new(Timestamp(0)));
        message.keep_fields(left.iter().copied());
        let mut out = Vec::new();
        message.write(&mut out);
        let event = Event::decode(encoding, &out).unwrap();
        let mut json = Vec::new();
        event.to_json(&mut json);
        (serde_json::from_slice(&json).unwrap(), out)
    }

    #[test]
    fn what_is_left_is_what_was_named_and_what_it_is_about_in_both_encodings() {
        let quote = json!({"type": "market_data_update", "subscription": "s1", "exchange": "EGX", "symbol": "COMI",
            "epoch": "e", "seq": 7, "snapshot": false, "time": "2026-11-22T08:00:00.000Z", "phase": "continuous",
            "data": {"last": "84.50", "bid": "84.49", "bid_size": "100"}});
        let book = json!({"type": "order_book_update", "subscription": "s1", "exchange": "EGX", "symbol": "COMI",
            "epoch": "e", "seq": 7, "snapshot": false, "time": "2026-11-22T08:00:00.000Z",
            "data": {"bids": [{"price": "1.5", "size": "2"}], "asks": [{"price": "1.6", "size": "3"}]}});
        for (event, left, expected) in [
            (&quote, &["bid_size"][..], json!({"bid_size": "100"})),
            (&quote, &["bid_size", "phase"], json!({"bid_size": "100"})),
            (&quote, &[], json!({})),
            (&book, &["asks"], json!({"bids": [], "asks": [{"price": "1.6", "size": "3"}]})),
        ] {
            let decoded = Event::from_json(event.to_string().as_bytes()).unwrap();
            let mut bytes = Vec::new();
            decoded.encode_proto(&mut bytes);
            for (encoding, bytes) in [(Encoding::Json, event.to_string().into_bytes()), (Encoding::Proto, bytes)] {
                let (value, _) = redacted(encoding, &bytes, left);
                let mut whole = event.clone();
                whole["data"] = expected.clone();
                if !left.contains(&"phase") {
                    whole.as_object_mut().unwrap().remove("phase");
                }
                assert_eq!(value, whole, "{encoding:?} {left:?}");
            }
        }
    }

    #[test]
    fn fields_that_nobody_knows_do_not_stay_wherever_they_stand() {
        let text = br#"{"type":"order_book_update","exchange":"EGX","symbol":"COMI","subscription":"s","vwap":"84.1",
            "metadata":{"x":"84.2"},"seq":{"p":"84.3"},"data":{"asks":[{"price":"1.6","size":"3","last":"84.4","n":{"p":"84.5"}}],"mid":"84.6","b\u0069ds":["84.7"]}}"#;
        let mut message = Message::read(Some(Encoding::Json), text, Stamp::new(Timestamp(0)));
        message.keep_fields(["asks"]);
        let mut out = Vec::new();
        message.write(&mut out);
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains("84."), "{out}");
        assert!(out.contains(r#""asks":[{"price":"1.6","size":"3"}]"#), "{out}");

        // Protobuf: an unknown field in the body, in the data and in a decimal.
        let extra = |number: u32| {
            let mut bytes = Vec::new();
            put_bytes(&mut bytes, number, b"84.5");
            bytes
        };
        let decimal = [&[8, 10][..], &extra(9)].concat();
        let mut data = Vec::new();
        put_bytes(&mut data, 4, &decimal);
        data.extend(extra(40));
        let mut body = Vec::new();
        put_bytes(&mut body, 2, b"EGX");
        body.extend(extra(50));
        put_bytes(&mut body, 10, &data);
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 19, &body);
        let (value, out) = redacted(Encoding::Proto, &bytes, &["bid_size"]);
        assert_eq!(value["data"], json!({"bid_size": "5"}));
        assert!(!out.windows(4).any(|window| window == b"84.5"));
    }
}
