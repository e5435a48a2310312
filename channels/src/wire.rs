//! The messages of the TradSys v3 protocol, each in two forms: JSON (`tradsys.v3.json`, text frames) and
//! protobuf (`tradsys.v3.proto`, binary frames, one [`Envelope`] each). Schema: `channels/proto/tradsys_v3.proto`.
//!
//! [`Request`] travels from client to edge, [`Event`] from edge to client; a trunk (edge to channel server)
//! speaks the same. Decoding checks form and bounds, not meaning: an unknown symbol is somebody else's refusal.

mod event;
mod request;
mod time;

use alloc::string::String;
use alloc::vec::Vec;

use prost::Message as _;
use serde::Deserialize;

pub use event::*;
pub use request::*;
pub use time::Timestamp;

/// Subprotocol name of the JSON form.
pub const SUBPROTOCOL_JSON: &str = "tradsys.v3.json";
/// Subprotocol name of the protobuf form.
pub const SUBPROTOCOL_PROTO: &str = "tradsys.v3.proto";
/// Prefix of the subprotocol entry that carries a browser's token; offered last, never selected.
pub const SUBPROTOCOL_BEARER: &str = "bearer.";
/// Header with the verified claims: base64url JSON without padding, written by the edge or by Envoy's `jwt_authn`.
pub const CLAIMS_HEADER: &str = "x-bawaba-claims";
/// Most symbols in one request.
pub const SYMBOLS_PER_REQUEST_MAX: usize = 1000;

/// The two forms of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// Text frames, one JSON object each.
    Json,
    /// Binary frames, one protobuf [`Envelope`] each.
    Proto,
}

impl Encoding {
    /// The encoding that a subprotocol name selects.
    pub fn of_subprotocol(name: &str) -> Option<Self> {
        match name {
            SUBPROTOCOL_JSON => Some(Self::Json),
            SUBPROTOCOL_PROTO => Some(Self::Proto),
            _ => None,
        }
    }

    /// The subprotocol's name.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => SUBPROTOCOL_JSON,
            Self::Proto => SUBPROTOCOL_PROTO,
        }
    }

    /// The opcode of the frames that carry it.
    pub const fn opcode(self) -> crate::frame::Opcode {
        match self {
            Self::Json => crate::frame::Opcode::Text,
            Self::Proto => crate::frame::Opcode::Binary,
        }
    }
}

/// A message that could not be read: what and where, for the `reason` of `protocol.malformed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Malformed {
    /// What is wrong and where.
    pub detail: String,
    /// The request's id, if it could still be read.
    pub id: Option<u64>,
}

impl Malformed {
    pub(crate) fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), id: None }
    }
}

/// One protobuf message on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    /// What it holds. Requests have tags below 16, events from 16.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30")]
    pub body: Option<Body>,
}

/// What an [`Envelope`] holds.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// See [`Subscribe`].
    #[prost(message, tag = "1")]
    Subscribe(Subscribe),
    /// See [`Unsubscribe`].
    #[prost(message, tag = "2")]
    Unsubscribe(Unsubscribe),
    /// See [`Order`].
    #[prost(message, tag = "3")]
    Order(Order),
    /// See [`Refresh`].
    #[prost(message, tag = "4")]
    Refresh(Refresh),
    /// See [`Ping`].
    #[prost(message, tag = "5")]
    Ping(Ping),
    /// See [`Welcome`].
    #[prost(message, tag = "16")]
    Welcome(Welcome),
    /// See [`Subscribed`].
    #[prost(message, tag = "17")]
    Subscribed(Subscribed),
    /// See [`Unsubscribed`].
    #[prost(message, tag = "18")]
    Unsubscribed(Unsubscribed),
    /// See [`Update`].
    #[prost(message, tag = "19")]
    Update(Update),
    /// See [`OrderUpdate`].
    #[prost(message, tag = "20")]
    OrderUpdate(OrderUpdate),
    /// See [`PositionUpdate`].
    #[prost(message, tag = "21")]
    PositionUpdate(PositionUpdate),
    /// See [`Alert`].
    #[prost(message, tag = "22")]
    Alert(Alert),
    /// See [`MarketStatus`].
    #[prost(message, tag = "23")]
    MarketStatus(MarketStatus),
    /// See [`Gap`].
    #[prost(message, tag = "24")]
    Gap(Gap),
    /// See [`Degraded`].
    #[prost(message, tag = "25")]
    Degraded(Degraded),
    /// See [`Revoked`].
    #[prost(message, tag = "26")]
    Revoked(Revoked),
    /// See [`Drain`].
    #[prost(message, tag = "27")]
    Drain(Drain),
    /// See [`Refreshed`].
    #[prost(message, tag = "28")]
    Refreshed(Refreshed),
    /// See [`Pong`].
    #[prost(message, tag = "29")]
    Pong(Pong),
    /// See [`ErrorEvent`].
    #[prost(message, tag = "30")]
    Error(ErrorEvent),
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<alloc::borrow::Cow<'a, str>>,
    #[serde(default)]
    id: Option<u64>,
}

fn tag(text: &[u8]) -> Result<Tag<'_>, Malformed> {
    serde_json::from_slice(text).map_err(|error| Malformed::new(alloc::format!("not a JSON message: {error}")))
}

fn body_from_json<'a, T: Deserialize<'a>>(text: &'a [u8], tag: &Tag<'_>) -> Result<T, Malformed> {
    serde_json::from_slice(text).map_err(|error| Malformed {
        detail: alloc::format!("{}: {error}", tag.kind.as_deref().unwrap_or("?")),
        id: tag.id,
    })
}

fn to_json_tagged<T: serde::Serialize>(out: &mut Vec<u8>, kind: &str, body: &T) {
    #[derive(serde::Serialize)]
    struct Tagged<'a, T> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(flatten)]
        body: &'a T,
    }
    // Writing plain structs to memory fails only for maps with keys that are not strings; there are none.
    let written = serde_json::to_vec(&Tagged { kind, body });
    debug_assert!(written.is_ok());
    out.extend_from_slice(&written.unwrap_or_default());
}

fn envelope(bytes: &[u8]) -> Result<Body, Malformed> {
    let envelope =
        Envelope::decode(bytes).map_err(|error| Malformed::new(alloc::format!("not a protobuf Envelope: {error}")))?;
    envelope.body.ok_or_else(|| Malformed::new("the Envelope holds no message that this version knows"))
}

fn put_envelope(out: &mut Vec<u8>, body: Body) {
    let envelope = Envelope { body: Some(body) };
    out.reserve(envelope.encoded_len());
    // A Vec grows, so encoding into it can't fail.
    let encoded = envelope.encode(out);
    debug_assert!(encoded.is_ok());
}

#[cfg(test)]
mod tests;
