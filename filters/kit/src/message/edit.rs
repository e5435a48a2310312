//! Edits spliced into the original bytes.
//!
//! What is not edited is copied as it came: member order, unknown members, spacing, unknown protobuf fields.

use bawaba_channels::wire::{Encoding, Islamic, Metadata};

use super::{Message, PreparedMetadata};
use crate::head::{Field, inner_text};
use crate::json::{self, Span, put_string};
use crate::kind::Kind;
use crate::policy::Refusal;
use crate::proto::{self, put_bytes, put_number, put_text};
use crate::stamp::{Stamp, TEXT_BYTES};

/// A replacement: the bytes of the span give way to these.
type Splice = (Span, Vec<u8>);

impl Message<'_> {
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        if let Some(metadata) = self.only_new_metadata() {
            let (head, tail) = self.bytes.split_at(self.head.body.end as usize);
            for part in [head, b",\"metadata\":", metadata, tail] {
                out.extend_from_slice(part);
            }
            return;
        }
        let mut splices: Vec<Splice> = Vec::with_capacity(2);
        let mut added = Vec::new();
        let mut set = |field: Field, value: Vec<u8>| {
            let span = self.head.span(field);
            if span.is_some() {
                splices.push((span, value));
            } else {
                added.push(b',');
                put_string(&mut added, field.name());
                added.push(b':');
                added.extend_from_slice(&value);
            }
        };
        let edits = &self.edits;
        if let Some(metadata) = &edits.metadata {
            set(Field::Metadata, metadata.clone());
        }
        if let Some(islamic) = &edits.islamic {
            set(Field::Islamic, islamic_json(islamic));
        }
        if let Some(reason) = &edits.reason {
            let mut value = Vec::new();
            put_string(&mut value, reason);
            set(Field::Reason, value);
        }
        if self.kind() == Kind::Subscribed {
            let known = self.head.span(Field::Refused);
            set(Field::Refused, self.refused_json(known));
        }
        if !edits.refused.is_empty() || !edits.removed.is_empty() || !edits.screened.is_empty() {
            let list = if self.kind() == Kind::Subscribed { Field::Accepted } else { Field::Symbols };
            let span = self.head.span(list);
            if span.is_some() {
                splices.push((span, self.kept_json(span)));
            }
            if self.kind() == Kind::Subscribe && self.head.span(Field::Resume).is_some() {
                let span = self.head.span(Field::Resume);
                splices.push((span, self.kept_members(span)));
            }
        }
        splices.sort_unstable_by_key(|(span, _)| span.start);
        let mut at = 0;
        for (span, value) in &splices {
            out.extend_from_slice(&self.bytes[at..span.start as usize]);
            out.extend_from_slice(value);
            at = span.end as usize;
        }
        let close = self.head.body.end as usize;
        out.extend_from_slice(&self.bytes[at..close]);
        out.extend_from_slice(&added);
        out.extend_from_slice(&self.bytes[close..]);
    }

    /// The metadata, if that is the only edit and the message has none yet: what is done to most updates.
    fn only_new_metadata(&self) -> Option<&[u8]> {
        let edits = &self.edits;
        let alone = self.kind() != Kind::News && !self.head.span(Field::Metadata).is_some();
        // Of an update (other than news) nothing else can be edited.
        edits.metadata.as_deref().filter(|_| alone)
    }

    /// The elements of a list, in their own bytes, without the symbols that go. They stand in the same order as
    /// `head.symbols`, which was read from them.
    fn kept_json(&self, span: Span) -> Vec<u8> {
        let mut symbols = self.head.symbols.iter();
        let mut list = vec![b'['];
        let walked = json::elements(self.bytes, span, |element| {
            let Some(symbol) = symbols.next().filter(|symbol| !self.goes(symbol)) else { return Ok(()) };
            match self.screened(symbol) {
                Some(metadata) => put_element(&mut list, &self.entry_json(element, metadata)),
                None => put_element(&mut list, element.of(self.bytes)),
            }
            Ok(())
        });
        debug_assert!(walked.is_ok(), "read once already");
        list.push(b']');
        list
    }

    fn screened(&self, symbol: &str) -> Option<&[u8]> {
        self.edits.screened.iter().find(|(known, _)| known == symbol).map(|(_, metadata)| metadata.as_slice())
    }

    /// An entry of `accepted` with its verdict, in the place of one that it had.
    fn entry_json(&self, element: Span, metadata: &[u8]) -> Vec<u8> {
        let mut entry = vec![b'{'];
        let _ = json::members_at(self.bytes, element, |key, value| {
            if json::unescaped(key).is_none_or(|key| key != "metadata") {
                if entry.len() > 1 {
                    entry.push(b',');
                }
                entry.push(b'"');
                entry.extend_from_slice(key);
                entry.extend_from_slice(b"\":");
                entry.extend_from_slice(value.of(self.bytes));
            }
            Ok(())
        });
        entry.extend_from_slice(b",\"metadata\":");
        entry.extend_from_slice(metadata);
        entry.push(b'}');
        entry
    }

    /// The members of `resume`, without the symbols that go.
    fn kept_members(&self, span: Span) -> Vec<u8> {
        let mut map = vec![b'{'];
        // A `resume` that is no object is dropped: the backend would refuse the request, not the symbol.
        let _ = json::members_at(self.bytes, span, |key, value| {
            if !json::unescaped(key).is_none_or(|symbol| self.goes(&symbol)) {
                if map.len() > 1 {
                    map.push(b',');
                }
                map.push(b'"');
                map.extend_from_slice(key);
                map.extend_from_slice(b"\":");
                map.extend_from_slice(value.of(self.bytes));
            }
            Ok(())
        });
        map.push(b'}');
        map
    }

    fn goes(&self, symbol: &str) -> bool {
        self.edits.refused.iter().any(|(known, _)| known == symbol)
            || self.edits.removed.iter().any(|known| known == symbol)
    }

    /// `refused` as it stands, and the new entries behind.
    fn refused_json(&self, known: Span) -> Vec<u8> {
        let mut list = vec![b'['];
        if known.is_some() {
            let _ = json::elements(self.bytes, known, |element| {
                put_element(&mut list, element.of(self.bytes));
                Ok(())
            });
        }
        for (symbol, refusal) in self.edits.refused.iter().chain(&self.edits.merged) {
            let mut entry = b"{\"symbol\":".to_vec();
            put_string(&mut entry, symbol);
            entry.extend_from_slice(b",\"code\":");
            put_string(&mut entry, refusal.reason.word());
            entry.extend_from_slice(b",\"reason\":");
            put_string(&mut entry, refusal.sentence());
            if let Some(metadata) = &refusal.metadata {
                entry.extend_from_slice(b",\"metadata\":");
                // A plain struct always serialises.
                entry.extend_from_slice(&serde_json::to_vec(metadata).unwrap_or_else(|_| b"null".to_vec()));
            }
            entry.push(b'}');
            put_element(&mut list, &entry);
        }
        list.push(b']');
        list
    }

    pub(super) fn write_proto(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(self.bytes.len() + 128);
        let edits = &self.edits;
        let walked = proto::fields(self.bytes, self.head.body, |field| {
            let name = Field::of_number(self.kind(), field.number).map(|(name, _)| name);
            let gone = match name {
                Some(Field::Metadata) => edits.metadata.is_some(),
                Some(Field::Islamic) => edits.islamic.is_some(),
                Some(Field::Reason) => edits.reason.is_some(),
                Some(Field::Symbols) => core::str::from_utf8(field.value.of(self.bytes)).is_ok_and(|s| self.goes(s)),
                Some(Field::Accepted | Field::Resume) => {
                    let symbol = inner_text(self.bytes, field.value, 1).unwrap_or_default();
                    let goes = self.goes(&symbol);
                    match self.screened(&symbol).filter(|_| !goes && name == Some(Field::Accepted)) {
                        Some(metadata) => {
                            put_bytes(&mut body, field.number, &self.entry_proto(field.value, metadata));
                            true
                        }
                        None => goes,
                    }
                }
                Some(Field::Data) if self.kind() == Kind::News && !edits.removed.is_empty() => {
                    put_bytes(&mut body, field.number, &self.kept_news(field.value));
                    true
                }
                _ => false,
            };
            if !gone {
                body.extend_from_slice(field.whole.of(self.bytes));
            }
            Ok(())
        });
        debug_assert!(walked.is_ok(), "read once already");
        if let Some(metadata) = &edits.metadata {
            put_bytes(&mut body, 9, metadata);
        }
        if let Some(islamic) = &edits.islamic {
            put_bytes(&mut body, 8, &islamic_proto(islamic));
        }
        if let Some(reason) = &edits.reason {
            let number = match self.kind() {
                Kind::Alert => 2,
                Kind::Revoked => 4,
                _ => 3,
            };
            put_text(&mut body, number, reason);
        }
        if self.kind() == Kind::Subscribed {
            for (symbol, refusal) in edits.refused.iter().chain(&edits.merged) {
                put_refused_proto(&mut body, symbol, refusal);
            }
        }
        put_bytes(out, self.head.tag, &body);
    }

    fn entry_proto(&self, accepted: Span, metadata: &[u8]) -> Vec<u8> {
        let mut entry = Vec::new();
        let _ = proto::fields(self.bytes, accepted, |field| {
            if field.number != 5 {
                entry.extend_from_slice(field.whole.of(self.bytes));
            }
            Ok(())
        });
        put_bytes(&mut entry, 5, metadata);
        entry
    }

    fn kept_news(&self, data: Span) -> Vec<u8> {
        let mut news = Vec::new();
        let _ = proto::fields(self.bytes, data, |field| {
            let symbol = core::str::from_utf8(field.value.of(self.bytes));
            if field.number != 3 || !symbol.is_ok_and(|symbol| self.goes(symbol)) {
                news.extend_from_slice(field.whole.of(self.bytes));
            }
            Ok(())
        });
        news
    }
}

fn put_element(list: &mut Vec<u8>, element: &[u8]) {
    if list.len() > 1 {
        list.push(b',');
    }
    list.extend_from_slice(element);
}

/// One entry of `subscribed.refused`.
fn put_refused_proto(body: &mut Vec<u8>, symbol: &str, refusal: &Refusal) {
    let mut entry = Vec::new();
    put_text(&mut entry, 1, symbol);
    put_text(&mut entry, 2, refusal.reason.word());
    put_text(&mut entry, 3, refusal.sentence());
    if let Some(metadata) = &refusal.metadata {
        put_bytes(&mut entry, 4, &metadata.to_proto());
    }
    put_bytes(body, 4, &entry);
}

impl PreparedMetadata {
    /// Puts a verdict into both encodings, but for `filtered_at`, which every message gets anew.
    pub fn of(metadata: &Metadata) -> Self {
        let metadata = Metadata { filtered_at: 0, ..metadata.clone() };
        // A plain struct always serialises; its last member is the instant.
        let mut json = serde_json::to_vec(&metadata).unwrap_or_default();
        let key = b"\"filtered_at\":\"";
        let at = json.windows(key.len()).rposition(|window| window == key).map_or(0, |at| at + key.len());
        json.truncate(at);
        // An instant of zero is left out.
        Self { json, proto: metadata.to_proto() }
    }

    /// The value of `metadata` in this encoding, judged at `stamp`.
    pub(super) fn at(&self, encoding: Encoding, stamp: &Stamp) -> Vec<u8> {
        match encoding {
            Encoding::Json => {
                let mut out = Vec::with_capacity(self.json.len() + TEXT_BYTES + 2);
                out.extend_from_slice(&self.json);
                out.extend_from_slice(stamp.text());
                out.extend_from_slice(b"\"}");
                out
            }
            Encoding::Proto => {
                let mut out = Vec::with_capacity(self.proto.len() + 11);
                out.extend_from_slice(&self.proto);
                // To the millisecond, so that both encodings say the same; two's complement, as protobuf writes an int64.
                let at = stamp.now.as_millis().wrapping_mul(1_000_000);
                if at != 0 {
                    put_number(&mut out, 6, at as u64);
                }
                out
            }
        }
    }
}

fn islamic_json(islamic: &Islamic) -> Vec<u8> {
    // A plain struct always serialises.
    serde_json::to_vec(islamic).unwrap_or_default()
}

fn islamic_proto(islamic: &Islamic) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 1, &islamic.mode);
    for board in &islamic.boards {
        put_bytes(&mut out, 2, board.as_bytes());
    }
    if let Some(rule) = &islamic.rule {
        put_bytes(&mut out, 3, rule.as_bytes());
    }
    if let Some(list) = &islamic.list {
        put_bytes(&mut out, 4, list.as_bytes());
    }
    out
}
