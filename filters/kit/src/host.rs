//! What a host that knows more than Envoy says of a session, and what a policy asks of it. In Envoy there is no such
//! host: a session then has none, and what is asked of it is not heard.
//!
//! It travels as properties, which only a host can answer: no client can forge it.

use bawaba_channels::wire::Timestamp;
use serde::{Deserialize, Serialize};

/// Property with a [`Host`] as JSON.
pub(crate) const HOST_PROPERTY: [&str; 2] = ["bawaba", "host"];
/// Property that is there while a request is only repeated after a session was judged anew.
pub(crate) const REPLAY_PROPERTY: [&str; 2] = ["bawaba", "replay"];
/// First part of the property with a [`Grant`] as JSON; the second is the policy's name.
pub(crate) const GRANT_PROPERTY: &str = "bawaba";

/// What the host says of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// The session is open and is judged anew: what it was admitted to is taken over, and it must not be refused
    /// where single subscriptions can be.
    pub again: bool,
    /// It delays what a [`Grant`] says is delayed.
    pub delays: bool,
    /// Messages that were delivered through this stream.
    pub delivered_messages: u64,
    /// Bytes of their frames.
    pub delivered_bytes: u64,
}

/// What a policy asks of the host for a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grant {
    /// From this instant on (nanoseconds since the epoch) the session is to be judged anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// How fresh the public messages may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Messages that may be delivered through this stream before it is judged anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Bytes of frames, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What the verdicts rest on, with versions: `L-1 professional licenses@2026-11 tiers@2026-11-22`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basis: String,
}

/// How late public messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delay {
    /// All of them, by this many milliseconds.
    Ms(u32),
    /// The state at the end of the trading day, and nothing in between.
    EndOfDay,
}

impl Grant {
    /// From this instant on the session is to be judged anew; the earlier of two stands.
    pub fn until(&mut self, at: Timestamp) {
        self.until = Some(self.until.map_or(at.0, |known| known.min(at.0)));
    }
}
