//! Edge to client.

mod answers;
mod notices;
mod update;

use alloc::string::String;
use alloc::vec::Vec;

pub use answers::*;
pub use notices::*;
pub use update::*;

use super::{Body, Encoding, Malformed, body_from_json, envelope, put_envelope, tag, to_json_tagged};

/// One struct, both forms: fields with their protobuf tags, and the JSON of the same names.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type ),* }
    };
}

use record;

/// An event; those with an `id` answer the request with that `id`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first message of a session.
    Welcome(Welcome),
    /// Answers `subscribe`.
    Subscribed(Subscribed),
    /// Answers `unsubscribe`.
    Unsubscribed(Unsubscribed),
    /// A public update: quotes, book, trade or news, by its data.
    Update(Update),
    /// The state of an own order.
    OrderUpdate(OrderUpdate),
    /// The state of an own position.
    PositionUpdate(PositionUpdate),
    /// A warning or announcement.
    Alert(Alert),
    /// The phase of an exchange or instrument.
    MarketStatus(MarketStatus),
    /// Updates are missing.
    Gap(Gap),
    /// A slower rate from here on.
    Degraded(Degraded),
    /// Something subscribed to may no longer be seen.
    Revoked(Revoked),
    /// The edge is about to close: reconnect elsewhere.
    Drain(Drain),
    /// Answers `refresh`.
    Refreshed(Refreshed),
    /// Answers `ping`.
    Pong(Pong),
    /// Refuses a request.
    Error(ErrorEvent),
}

macro_rules! each_event {
    ($event:expr, $body:ident => $do:expr) => {
        match $event {
            Event::Welcome($body) => $do,
            Event::Subscribed($body) => $do,
            Event::Unsubscribed($body) => $do,
            Event::Update($body) => $do,
            Event::OrderUpdate($body) => $do,
            Event::PositionUpdate($body) => $do,
            Event::Alert($body) => $do,
            Event::MarketStatus($body) => $do,
            Event::Gap($body) => $do,
            Event::Degraded($body) => $do,
            Event::Revoked($body) => $do,
            Event::Drain($body) => $do,
            Event::Refreshed($body) => $do,
            Event::Pong($body) => $do,
            Event::Error($body) => $do,
        }
    };
}

impl Event {
    /// The `type` of the JSON form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "welcome",
            Self::Subscribed(_) => "subscribed",
            Self::Unsubscribed(_) => "unsubscribed",
            Self::Update(update) => update.data.as_ref().map_or("market_data_update", Data::kind),
            Self::OrderUpdate(_) => "order_update",
            Self::PositionUpdate(_) => "position_update",
            Self::Alert(_) => "alert",
            Self::MarketStatus(_) => "market_status",
            Self::Gap(_) => "gap",
            Self::Degraded(_) => "degraded",
            Self::Revoked(_) => "revoked",
            Self::Drain(_) => "drain",
            Self::Refreshed(_) => "refreshed",
            Self::Pong(_) => "pong",
            Self::Error(_) => "error",
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

    /// Reads the JSON form.
    pub fn from_json(text: &[u8]) -> Result<Self, Malformed> {
        let tag = tag(text)?;
        Ok(match tag.kind.as_deref() {
            Some("welcome") => Self::Welcome(body_from_json(text, &tag)?),
            Some("subscribed") => Self::Subscribed(body_from_json(text, &tag)?),
            Some("unsubscribed") => Self::Unsubscribed(body_from_json(text, &tag)?),
            Some(kind @ ("market_data_update" | "order_book_update" | "trade_update" | "news_update")) => {
                Self::Update(Update::from_json(text, &tag, kind)?)
            }
            Some("order_update") => Self::OrderUpdate(body_from_json(text, &tag)?),
            Some("position_update") => Self::PositionUpdate(body_from_json(text, &tag)?),
            Some("alert") => Self::Alert(body_from_json(text, &tag)?),
            Some("market_status") => Self::MarketStatus(body_from_json(text, &tag)?),
            Some("gap") => Self::Gap(body_from_json(text, &tag)?),
            Some("degraded") => Self::Degraded(body_from_json(text, &tag)?),
            Some("revoked") => Self::Revoked(body_from_json(text, &tag)?),
            Some("drain") => Self::Drain(body_from_json(text, &tag)?),
            Some("refreshed") => Self::Refreshed(body_from_json(text, &tag)?),
            Some("pong") => Self::Pong(body_from_json(text, &tag)?),
            Some("error") => Self::Error(body_from_json(text, &tag)?),
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                return Err(Malformed { detail: format!("event type \"{other}\" is unknown"), id: tag.id });
            }
            None => {
                return Err(Malformed { detail: "the field \"type\" is missing".into(), id: tag.id });
            }
        })
    }

    /// Appends the JSON form.
    pub fn to_json(&self, out: &mut Vec<u8>) {
        let kind = self.kind();
        each_event!(self, body => to_json_tagged(out, kind, body));
    }

    /// Reads the protobuf form.
    pub fn decode_proto(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(match envelope(bytes)? {
            Body::Welcome(e) => Self::Welcome(e),
            Body::Subscribed(e) => Self::Subscribed(e),
            Body::Unsubscribed(e) => Self::Unsubscribed(e),
            Body::Update(e) => Self::Update(e),
            Body::OrderUpdate(e) => Self::OrderUpdate(e),
            Body::PositionUpdate(e) => Self::PositionUpdate(e),
            Body::Alert(e) => Self::Alert(e),
            Body::MarketStatus(e) => Self::MarketStatus(e),
            Body::Gap(e) => Self::Gap(e),
            Body::Degraded(e) => Self::Degraded(e),
            Body::Revoked(e) => Self::Revoked(e),
            Body::Drain(e) => Self::Drain(e),
            Body::Refreshed(e) => Self::Refreshed(e),
            Body::Pong(e) => Self::Pong(e),
            Body::Error(e) => Self::Error(e),
            _ => {
                return Err(Malformed::new("the Envelope holds a request, which only a client sends"));
            }
        })
    }

    /// Appends the protobuf form.
    pub fn encode_proto(&self, out: &mut Vec<u8>) {
        let body = match self.clone() {
            Self::Welcome(e) => Body::Welcome(e),
            Self::Subscribed(e) => Body::Subscribed(e),
            Self::Unsubscribed(e) => Body::Unsubscribed(e),
            Self::Update(e) => Body::Update(e),
            Self::OrderUpdate(e) => Body::OrderUpdate(e),
            Self::PositionUpdate(e) => Body::PositionUpdate(e),
            Self::Alert(e) => Body::Alert(e),
            Self::MarketStatus(e) => Body::MarketStatus(e),
            Self::Gap(e) => Body::Gap(e),
            Self::Degraded(e) => Body::Degraded(e),
            Self::Revoked(e) => Body::Revoked(e),
            Self::Drain(e) => Body::Drain(e),
            Self::Refreshed(e) => Body::Refreshed(e),
            Self::Pong(e) => Body::Pong(e),
            Self::Error(e) => Body::Error(e),
        };
        put_envelope(out, body);
    }
}
