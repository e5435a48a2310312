//! Client to edge.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{
    Body, Encoding, Malformed, SYMBOLS_PER_REQUEST_MAX, body_from_json, envelope, put_envelope, tag, to_json_tagged,
};
use crate::decimal::Decimal;
use crate::name::{Channel, Exchange, Symbol};

/// A request; each with an `id` gets exactly one answer with that `id`.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Start receiving a channel.
    Subscribe(Subscribe),
    /// Stop, wholly or for some symbols.
    Unsubscribe(Unsubscribe),
    /// Place or cancel an order.
    Order(Order),
    /// Present a new token of the same subject.
    Refresh(Refresh),
    /// Application-level ping.
    Ping(Ping),
}

/// Where a subscriber left off in one instrument's stream.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub struct Position {
    /// The stream's epoch.
    #[prost(string, tag = "1")]
    pub epoch: String,
    /// The last sequence number received.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// What to leave out of updates.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message, Serialize, Deserialize)]
pub struct Filters {
    /// Only these fields of `data`; empty for all.
    #[prost(string, repeated, tag = "1")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// On `market_data`: only when last, bid or ask moved at least so far since what was sent before.
    #[prost(message, optional, tag = "2")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_change: Option<Decimal>,
    /// Only these sides: `bid`, `ask` of an `order_book`, `buy`, `sell` of `trades`; empty for both.
    #[prost(string, repeated, tag = "3")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sides: Vec<String>,
    /// On `order_book`: at most so many levels of a side.
    #[prost(uint32, optional, tag = "4")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

/// `subscribe`: a channel of an exchange, for some symbols.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Subscribe {
    /// The request's id.
    #[prost(uint64, optional, tag = "1")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The channel's name (see [`Channel`]).
    #[prost(string, tag = "2")]
    pub channel: String,
    /// The exchange.
    #[prost(string, tag = "3")]
    pub exchange: String,
    /// Symbols; `["*"]` for all that are licensed; empty on channels without symbols.
    #[prost(string, repeated, tag = "4")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub symbols: Vec<String>,
    /// Shortest time between two updates of one instrument, in milliseconds; 0 or absent for every update.
    #[prost(uint32, optional, tag = "5")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_rate_ms: Option<u32>,
    /// Whether to begin with a snapshot; absent means yes.
    #[prost(bool, optional, tag = "6")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
    /// What to leave out of updates.
    #[prost(message, optional, tag = "7")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filters>,
    /// By symbol: where an earlier subscription left off.
    #[prost(btree_map = "string, message", tag = "8")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resume: BTreeMap<String, Position>,
    /// On a trunk: the user for whom a private channel is subscribed. Ignored from clients.
    #[prost(string, optional, tag = "15")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Subscribe {
    /// The channel, if there is such a one.
    pub fn channel(&self) -> Option<Channel> {
        self.channel.parse().ok()
    }

    /// The exchange, if the name has the right form.
    pub fn exchange(&self) -> Option<Exchange> {
        self.exchange.parse().ok()
    }

    /// Whether all symbols are asked for.
    pub fn is_wildcard(&self) -> bool {
        self.symbols.iter().any(|symbol| symbol == "*")
    }
}

/// `unsubscribe`: end a subscription, or take symbols out of it.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// The request's id.
    #[prost(uint64, optional, tag = "1")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The subscription, as named in `subscribed`.
    #[prost(string, tag = "2")]
    pub subscription: String,
    /// Only these symbols; empty for the whole subscription.
    #[prost(string, repeated, tag = "3")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub symbols: Vec<String>,
}

/// `order`: place or cancel.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Order {
    /// The request's id.
    #[prost(uint64, optional, tag = "1")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// `place` or `cancel`.
    #[prost(string, tag = "2")]
    pub op: String,
    /// The exchange (place).
    #[prost(string, tag = "3")]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exchange: String,
    /// The symbol (place).
    #[prost(string, tag = "4")]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub symbol: String,
    /// `buy` or `sell` (place).
    #[prost(string, tag = "5")]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub side: String,
    /// `limit` or `market` (place).
    #[prost(string, tag = "6")]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub order_type: String,
    /// Limit price (place, limit).
    #[prost(message, optional, tag = "7")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Decimal>,
    /// Quantity in units of the instrument (place).
    #[prost(message, optional, tag = "8")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<Decimal>,
    /// The client's own key; the same key twice is the same order (place).
    #[prost(string, optional, tag = "9")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_order_id: Option<String>,
    /// The order to cancel (cancel).
    #[prost(string, optional, tag = "10")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// `short_sale` or `margin`, if the order asks for it (place).
    #[prost(string, repeated, tag = "11")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// On a trunk: the user who orders. Ignored from clients.
    #[prost(string, optional, tag = "15")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// `refresh`: a new token of the same subject, without reconnecting.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Refresh {
    /// The request's id.
    #[prost(uint64, optional, tag = "1")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The new JWT.
    #[prost(string, tag = "2")]
    pub token: String,
}

/// `ping`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub struct Ping {
    /// The request's id.
    #[prost(uint64, optional, tag = "1")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

impl Request {
    /// The request's id, if it has one.
    pub const fn id(&self) -> Option<u64> {
        match self {
            Self::Subscribe(r) => r.id,
            Self::Unsubscribe(r) => r.id,
            Self::Order(r) => r.id,
            Self::Refresh(r) => r.id,
            Self::Ping(r) => r.id,
        }
    }

    /// Sets the request's id.
    pub const fn set_id(&mut self, id: Option<u64>) {
        match self {
            Self::Subscribe(r) => r.id = id,
            Self::Unsubscribe(r) => r.id = id,
            Self::Order(r) => r.id = id,
            Self::Refresh(r) => r.id = id,
            Self::Ping(r) => r.id = id,
        }
    }

    /// Reads a message in either form.
    pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Self, Malformed> {
        match encoding {
            Encoding::Json => Self::from_json(bytes),
            Encoding::Proto => Self::decode_proto(bytes),
        }
    }

    /// Appends the message in either form.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        match encoding {
            Encoding::Json => self.to_json(out),
            Encoding::Proto => self.encode_proto(out),
        }
    }

    /// Reads the JSON form; the error says what is wrong and where, and keeps the `id` if it was readable.
    pub fn from_json(text: &[u8]) -> Result<Self, Malformed> {
        let tag = tag(text)?;
        let request = match tag.kind.as_deref() {
            Some("subscribe") => Self::Subscribe(body_from_json(text, &tag)?),
            Some("unsubscribe") => Self::Unsubscribe(body_from_json(text, &tag)?),
            Some("order") => Self::Order(body_from_json(text, &tag)?),
            Some("refresh") => Self::Refresh(body_from_json(text, &tag)?),
            Some("ping") => Self::Ping(body_from_json(text, &tag)?),
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                let detail = format!("type \"{other}\" is unknown: use subscribe, unsubscribe, order, refresh or ping");
                return Err(Malformed { detail, id: tag.id });
            }
            None => {
                return Err(Malformed { detail: "the field \"type\" is missing".into(), id: tag.id });
            }
        };
        request.checked()
    }

    /// Appends the JSON form.
    pub fn to_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Subscribe(r) => to_json_tagged(out, "subscribe", r),
            Self::Unsubscribe(r) => to_json_tagged(out, "unsubscribe", r),
            Self::Order(r) => to_json_tagged(out, "order", r),
            Self::Refresh(r) => to_json_tagged(out, "refresh", r),
            Self::Ping(r) => to_json_tagged(out, "ping", r),
        }
    }

    /// Reads the protobuf form.
    pub fn decode_proto(bytes: &[u8]) -> Result<Self, Malformed> {
        let request = match envelope(bytes)? {
            Body::Subscribe(r) => Self::Subscribe(r),
            Body::Unsubscribe(r) => Self::Unsubscribe(r),
            Body::Order(r) => Self::Order(r),
            Body::Refresh(r) => Self::Refresh(r),
            Body::Ping(r) => Self::Ping(r),
            _ => {
                return Err(Malformed::new("the Envelope holds an event, which only a server sends"));
            }
        };
        request.checked()
    }

    /// Appends the protobuf form.
    pub fn encode_proto(&self, out: &mut Vec<u8>) {
        let body = match self.clone() {
            Self::Subscribe(r) => Body::Subscribe(r),
            Self::Unsubscribe(r) => Body::Unsubscribe(r),
            Self::Order(r) => Body::Order(r),
            Self::Refresh(r) => Body::Refresh(r),
            Self::Ping(r) => Body::Ping(r),
        };
        put_envelope(out, body);
    }

    /// Bounds that hold for both forms.
    fn checked(self) -> Result<Self, Malformed> {
        let id = self.id();
        let fail = |detail: String| Err(Malformed { detail, id });
        match &self {
            Self::Subscribe(r) => {
                if let Err(error) = r.exchange.parse::<Exchange>() {
                    return fail(format!("subscribe: exchange: {error}"));
                }
                if let Some(symbol) = long_list(&r.symbols) {
                    return fail(format!("subscribe: symbols: {symbol}"));
                }
                let long = |f: &Filters| f.fields.len() > 64 || f.sides.len() > 8;
                if r.resume.len() > SYMBOLS_PER_REQUEST_MAX || r.filters.as_ref().is_some_and(long) {
                    return fail("subscribe: too many entries in resume or filters".into());
                }
                if r.filters.as_ref().and_then(|f| f.min_change).is_some_and(|change| !change.is_valid()) {
                    return fail("subscribe: filters.min_change is out of range".into());
                }
                let resume_ok = |(symbol, at): (&String, &Position)| symbol.len() <= 12 && at.epoch.len() <= 64;
                if !r.resume.iter().all(resume_ok) {
                    return fail("subscribe: resume: a symbol has at most 12 characters, an epoch at most 64".into());
                }
            }
            Self::Unsubscribe(r) => {
                if let Some(symbol) = long_list(&r.symbols) {
                    return fail(format!("unsubscribe: symbols: {symbol}"));
                }
            }
            Self::Order(r) => {
                if r.op != "place" && r.op != "cancel" {
                    return fail("order: op is \"place\" or \"cancel\"".into());
                }
                if r.op == "place" && (r.exchange.parse::<Exchange>().is_err() || r.symbol.parse::<Symbol>().is_err()) {
                    return fail("order: exchange and symbol are required, 1 to 12 characters each".into());
                }
                if [r.price, r.quantity].iter().flatten().any(|d| !d.is_valid()) {
                    return fail("order: price or quantity is out of range".into());
                }
                let long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > 64);
                if long(&r.client_order_id) || long(&r.order_id) || r.flags.len() > 8 {
                    return fail("order: an order id has at most 64 characters, and there are at most 8 flags".into());
                }
            }
            Self::Refresh(_) | Self::Ping(_) => {}
        }
        Ok(self)
    }
}

/// What is wrong with a list of symbols, if anything.
fn long_list(symbols: &[String]) -> Option<String> {
    if symbols.len() > SYMBOLS_PER_REQUEST_MAX {
        return Some(format!("{} in one request, at most {SYMBOLS_PER_REQUEST_MAX}", symbols.len()));
    }
    None
}
