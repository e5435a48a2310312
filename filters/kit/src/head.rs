//! Where the fields that policies ask for lie in a message, in both encodings.
//!
//! Found in one pass, nothing built. A known field that stands twice makes the message unreadable: parsers
//! differ in which of the two they take. Knows no policy.

use std::borrow::Cow;

use crate::json::{self, NotJson, Span};
use crate::kind::{Kind, UPDATE_TAG};
use crate::proto::{self, NotProto};

/// The fields that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Field {
    Type,
    Id,
    Channel,
    Exchange,
    Symbol,
    Symbols,
    Subscription,
    Data,
    Metadata,
    Accepted,
    Refused,
    Resume,
    Flags,
    Op,
    Side,
    OrderType,
    Islamic,
    Code,
    Reason,
    Snapshot,
    Tier,
    Features,
    Quota,
    UpdateRate,
    Token,
}

const FIELDS: usize = 25;

impl Field {
    /// By its JSON name.
    fn of_name(name: &[u8]) -> Option<Self> {
        // By length first: most keys of an update are none of these, and this is on every message's path.
        let candidates: &[(&[u8], Self)] = match name.len() {
            2 => &[(b"id", Self::Id), (b"op", Self::Op)],
            4 => &[
                (b"type", Self::Type),
                (b"data", Self::Data),
                (b"code", Self::Code),
                (b"side", Self::Side),
                (b"tier", Self::Tier),
            ],
            5 => &[(b"flags", Self::Flags), (b"quota", Self::Quota), (b"token", Self::Token)],
            6 => &[(b"symbol", Self::Symbol), (b"reason", Self::Reason), (b"resume", Self::Resume)],
            7 => &[
                (b"symbols", Self::Symbols),
                (b"channel", Self::Channel),
                (b"refused", Self::Refused),
                (b"islamic", Self::Islamic),
            ],
            8 => &[
                (b"exchange", Self::Exchange),
                (b"snapshot", Self::Snapshot),
                (b"metadata", Self::Metadata),
                (b"accepted", Self::Accepted),
                (b"features", Self::Features),
            ],
            10 => &[(b"order_type", Self::OrderType)],
            12 => &[(b"subscription", Self::Subscription)],
            14 => &[(b"update_rate_ms", Self::UpdateRate)],
            _ => return None,
        };
        candidates.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Id => "id",
            Self::Channel => "channel",
            Self::Exchange => "exchange",
            Self::Symbol => "symbol",
            Self::Symbols => "symbols",
            Self::Subscription => "subscription",
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Resume => "resume",
            Self::Flags => "flags",
            Self::Op => "op",
            Self::Side => "side",
            Self::OrderType => "order_type",
            Self::Islamic => "islamic",
            Self::Code => "code",
            Self::Reason => "reason",
            Self::Snapshot => "snapshot",
            Self::Tier => "tier",
            Self::Features => "features",
            Self::Quota => "quota",
            Self::UpdateRate => "update_rate_ms",
            Self::Token => "token",
        }
    }

    /// By protobuf number in a body of this kind, and whether it repeats (`channels/proto/tradsys_v3.proto`).
    pub(crate) const fn of_number(kind: Kind, number: u32) -> Option<(Self, bool)> {
        Some(match (kind, number) {
            (
                Kind::Subscribe
                | Kind::Unsubscribe
                | Kind::Order
                | Kind::Refresh
                | Kind::Ping
                | Kind::Subscribed
                | Kind::Unsubscribed
                | Kind::OrderUpdate
                | Kind::Refreshed
                | Kind::Pong
                | Kind::Error,
                1,
            ) => (Self::Id, false),
            (Kind::Quote | Kind::Book | Kind::Trade | Kind::News, 1) => (Self::Subscription, false),
            (Kind::Quote | Kind::Book | Kind::Trade | Kind::News, 2) => (Self::Exchange, false),
            (Kind::Quote | Kind::Book | Kind::Trade | Kind::News, 3) => (Self::Symbol, false),
            (Kind::Quote | Kind::Book | Kind::Trade | Kind::News, 7) => (Self::Snapshot, false),
            (Kind::Quote | Kind::Book | Kind::Trade | Kind::News, 9) => (Self::Metadata, false),
            (Kind::Quote | Kind::Book | Kind::Trade | Kind::News, 10..=13) => (Self::Data, false),
            (Kind::Subscribe, 2) => (Self::Channel, false),
            (Kind::Subscribe, 3) => (Self::Exchange, false),
            (Kind::Subscribe, 4) => (Self::Symbols, true),
            (Kind::Subscribe, 5) => (Self::UpdateRate, false),
            (Kind::Subscribe, 6) => (Self::Snapshot, false),
            (Kind::Subscribe, 8) => (Self::Resume, true),
            (Kind::Unsubscribe, 2) => (Self::Subscription, false),
            (Kind::Unsubscribe, 3) => (Self::Symbols, true),
            (Kind::Order, 2) => (Self::Op, false),
            (Kind::Order, 3) => (Self::Exchange, false),
            (Kind::Order, 4) => (Self::Symbol, false),
            (Kind::Order, 5) => (Self::Side, false),
            (Kind::Order, 6) => (Self::OrderType, false),
            (Kind::Order, 11) => (Self::Flags, true),
            (Kind::Refresh, 2) => (Self::Token, false),
            (Kind::Welcome, 5) => (Self::Tier, false),
            (Kind::Welcome, 6) => (Self::Features, true),
            (Kind::Welcome, 7) => (Self::Quota, true),
            (Kind::Welcome, 8) => (Self::Islamic, false),
            (Kind::Subscribed, 2) => (Self::Subscription, false),
            (Kind::Subscribed, 3) => (Self::Accepted, true),
            (Kind::Subscribed, 4) => (Self::Refused, true),
            (Kind::OrderUpdate, 4) => (Self::Exchange, false),
            (Kind::OrderUpdate, 5) => (Self::Symbol, false),
            (Kind::OrderUpdate, 6) => (Self::Side, false),
            (Kind::OrderUpdate, 17) => (Self::Subscription, false),
            (Kind::PositionUpdate, 1) => (Self::Exchange, false),
            (Kind::PositionUpdate, 2) => (Self::Symbol, false),
            (Kind::PositionUpdate, 8) => (Self::Subscription, false),
            (Kind::Alert, 1) => (Self::Code, false),
            (Kind::Alert, 2) => (Self::Reason, false),
            (Kind::Alert, 3) => (Self::Exchange, false),
            (Kind::Alert, 4) => (Self::Symbol, false),
            (Kind::Alert, 5) => (Self::Subscription, false),
            (Kind::MarketStatus, 1) => (Self::Exchange, false),
            (Kind::MarketStatus, 5) => (Self::Symbol, false),
            (Kind::MarketStatus, 6) => (Self::Subscription, false),
            (Kind::MarketStatus, 10) => (Self::Reason, false),
            (Kind::Gap, 1) => (Self::Subscription, false),
            (Kind::Gap, 2) => (Self::Symbol, false),
            (Kind::Gap, 5) => (Self::Exchange, false),
            (Kind::Degraded, 1) => (Self::Subscription, false),
            (Kind::Revoked, 1) => (Self::Subscription, false),
            (Kind::Revoked, 2) => (Self::Symbols, true),
            (Kind::Revoked, 3) => (Self::Code, false),
            (Kind::Revoked, 4) => (Self::Reason, false),
            (Kind::Error, 2) => (Self::Code, false),
            (Kind::Error, 3) => (Self::Reason, false),
            _ => return None,
        })
    }
}

/// Where things are. For protobuf the spans of fields that repeat hold their last element: walk the body.
#[derive(Clone, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) kind: Kind,
    /// JSON: up to the closing brace. Protobuf: the body inside the envelope.
    pub(crate) body: Span,
    /// Protobuf: the body's tag in the envelope.
    pub(crate) tag: u32,
    pub(crate) id: Option<u64>,
    /// Symbols of kinds that name several.
    pub(crate) symbols: Vec<Cow<'a, str>>,
    spans: [Span; FIELDS],
}

impl<'a> Head<'a> {
    pub(crate) const fn empty(kind: Kind) -> Self {
        let none = Span { start: 0, end: 0 };
        Self { kind, body: none, tag: 0, id: None, symbols: Vec::new(), spans: [none; FIELDS] }
    }

    pub(crate) const fn span(&self, field: Field) -> Span {
        self.spans[field as usize]
    }

    /// Reads a JSON message; the text must be UTF-8.
    pub(crate) fn of_json(text: &'a [u8]) -> Self {
        let mut head = Self::empty(Kind::Unknown);
        match head.read_json(text) {
            Ok(()) => head,
            Err(NotJson) => Self { id: head.id, ..Self::empty(Kind::Unreadable) },
        }
    }

    fn read_json(&mut self, text: &'a [u8]) -> Result<(), NotJson> {
        let spans = &mut self.spans;
        let close = json::members(text, |key, span| {
            let field = if key.contains(&b'\\') {
                Field::of_name(json::unescaped(key).ok_or(NotJson)?.as_bytes())
            } else {
                Field::of_name(key)
            };
            let Some(field) = field else { return Ok(()) };
            let slot = &mut spans[field as usize];
            if slot.is_some() {
                return Err(NotJson);
            }
            *slot = span;
            Ok(())
        })?;
        self.body = Span::new(0, close);
        if let Some(raw) = self.json_value(text, Field::Id) {
            let digits = core::str::from_utf8(raw).map_err(|_| NotJson)?;
            self.id = Some(digits.parse().map_err(|_| NotJson)?);
        }
        let Some(kind) = self.json_value(text, Field::Type) else { return Ok(()) };
        let name = json::string(kind).ok_or(NotJson)?;
        self.kind = Kind::of_name(name.as_bytes());
        self.json_lists(text)
    }

    fn json_value(&self, text: &'a [u8], field: Field) -> Option<&'a [u8]> {
        let span = self.span(field);
        span.is_some().then(|| span.of(text)).filter(|raw| *raw != b"null")
    }

    fn json_lists(&mut self, text: &'a [u8]) -> Result<(), NotJson> {
        let list = match self.kind {
            Kind::Subscribe | Kind::Unsubscribe | Kind::Revoked => self.span(Field::Symbols),
            Kind::Subscribed => self.span(Field::Accepted),
            Kind::News => {
                let mut symbols = Span::default();
                let data = self.span(Field::Data);
                if data.is_some() {
                    json::members_at(text, data, |key, span| only_once(&mut symbols, key, b"symbols", span))?;
                }
                self.spans[Field::Symbols as usize] = symbols;
                symbols
            }
            _ => return Ok(()),
        };
        if !list.is_some() {
            return Ok(());
        }
        let of_objects = self.kind == Kind::Subscribed;
        let symbols = &mut self.symbols;
        json::elements(text, list, |span| {
            let raw = if of_objects {
                let mut symbol = Span::default();
                json::members_at(text, span, |key, span| only_once(&mut symbol, key, b"symbol", span))?;
                symbol.is_some().then(|| symbol.of(text)).ok_or(NotJson)?
            } else {
                span.of(text)
            };
            symbols.push(json::string(raw).ok_or(NotJson)?);
            Ok(())
        })
    }

    /// Reads a protobuf message: one envelope.
    pub(crate) fn of_proto(bytes: &'a [u8]) -> Self {
        let mut head = Self::empty(Kind::Unknown);
        match head.read_proto(bytes) {
            Ok(()) => head,
            Err(NotProto) => Self { id: head.id, ..Self::empty(Kind::Unreadable) },
        }
    }

    fn read_proto(&mut self, bytes: &'a [u8]) -> Result<(), NotProto> {
        let mut body = None;
        proto::fields(bytes, Span::new(0, bytes.len()), |field| {
            if body.is_some() || field.wire != 2 {
                return Err(NotProto);
            }
            body = Some(field);
            Ok(())
        })?;
        let body = body.ok_or(NotProto)?;
        self.body = body.value;
        self.tag = body.number;
        self.kind = if body.number == UPDATE_TAG { update_kind(bytes, body.value)? } else { Kind::of_tag(body.number) };
        let kind = self.kind;
        if !kind.is_known() {
            return Ok(());
        }
        let (spans, symbols, id) = (&mut self.spans, &mut self.symbols, &mut self.id);
        proto::fields(bytes, body.value, |field| {
            let Some((name, repeats)) = Field::of_number(kind, field.number) else { return Ok(()) };
            let number = matches!(name, Field::Id | Field::UpdateRate | Field::Snapshot);
            let slot = &mut spans[name as usize];
            if (slot.is_some() && !repeats) || field.wire != if number { 0 } else { 2 } {
                return Err(NotProto);
            }
            *slot = field.value;
            match (name, kind) {
                (Field::Id, _) => *id = Some(proto::varint(bytes, &mut (field.value.start as usize))?),
                (Field::Symbols, _) => symbols.push(utf8(field.value.of(bytes))?),
                (Field::Accepted, _) => symbols.push(inner_text(bytes, field.value, 1)?),
                _ => {}
            }
            Ok(())
        })?;
        if kind == Kind::News {
            let data = self.span(Field::Data);
            let symbols = &mut self.symbols;
            proto::fields(bytes, data, |field| {
                if field.number == 3 {
                    symbols.push(utf8(field.value.of(bytes))?);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn only_once(slot: &mut Span, key: &[u8], name: &[u8], span: Span) -> Result<(), NotJson> {
    let same = if key.contains(&b'\\') { json::unescaped(key).ok_or(NotJson)?.as_bytes() == name } else { key == name };
    if same && core::mem::replace(slot, span).is_some() {
        return Err(NotJson);
    }
    Ok(())
}

fn update_kind(bytes: &[u8], body: Span) -> Result<Kind, NotProto> {
    let mut kind = Kind::Unknown;
    proto::fields(bytes, body, |field| {
        if (10..=13).contains(&field.number) {
            if kind != Kind::Unknown {
                return Err(NotProto);
            }
            kind = Kind::of_tag(1000 + field.number);
        }
        Ok(())
    })?;
    Ok(kind)
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, NotProto> {
    core::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NotProto)
}

/// The string field `number` of the message in `span`; empty when absent, as proto3 has it.
pub(crate) fn inner_text(bytes: &[u8], span: Span, number: u32) -> Result<Cow<'_, str>, NotProto> {
    let mut text = None;
    proto::fields(bytes, span, |field| {
        if field.number == number {
            if text.is_some() || field.wire != 2 {
                return Err(NotProto);
            }
            text = Some(utf8(field.value.of(bytes))?);
        }
        Ok(())
    })?;
    Ok(text.unwrap_or_default())
}

#[cfg(test)]
mod tests;
