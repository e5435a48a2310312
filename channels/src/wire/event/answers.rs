//! Welcome, and the answers to requests.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Metadata, record};
use crate::wire::time::{nanos, nanos_option};

record! {
    /// How much of a quota is used.
    QuotaUse {
        /// In use now.
        #[prost(uint64, tag = "1")]
        used: u64,
        /// The most allowed; absent for no limit.
        #[prost(uint64, optional, tag = "2")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
    }
}

record! {
    /// How a session is screened.
    Islamic {
        /// `off`, `annotate` or `filter`.
        #[prost(string, tag = "1")]
        mode: String,
        /// The boards that judge.
        #[prost(string, repeated, tag = "2")]
        #[serde(default)]
        boards: Vec<String>,
        /// `named`, `all_of` or `any_of`.
        #[prost(string, optional, tag = "3")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// The list (or lists, by commas) in force: `egx33@2024-06-12`.
        #[prost(string, optional, tag = "4")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        list: Option<String>,
    }
}

record! {
    /// A market's phase.
    Market {
        /// Such as `continuous` or `closed`.
        #[prost(string, tag = "1")]
        phase: String,
        /// When the phase ends.
        #[prost(int64, optional, tag = "2")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        until: Option<i64>,
        /// When trading next opens, if it is closed.
        #[prost(int64, optional, tag = "3")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        next_open: Option<i64>,
    }
}

record! {
    /// `welcome`.
    Welcome {
        /// The session's id.
        #[prost(string, tag = "1")]
        session: String,
        /// `tradsys.v3`.
        #[prost(string, tag = "2")]
        protocol: String,
        /// The server's clock.
        #[prost(int64, tag = "3")]
        #[serde(with = "nanos")]
        server_time: i64,
        /// How often the edge pings, in milliseconds.
        #[prost(uint32, tag = "4")]
        heartbeat_ms: u32,
        /// The licence tier.
        #[prost(string, optional, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<String>,
        /// Licensed features.
        #[prost(string, repeated, tag = "6")]
        #[serde(default)]
        features: Vec<String>,
        /// Quotas by name.
        #[prost(btree_map = "string, message", tag = "7")]
        #[serde(default)]
        quota: BTreeMap<String, QuotaUse>,
        /// How the session is screened.
        #[prost(message, optional, tag = "8")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        islamic: Option<Islamic>,
        /// Phases by exchange.
        #[prost(btree_map = "string, message", tag = "9")]
        #[serde(default)]
        markets: BTreeMap<String, Market>,
    }
}

record! {
    /// A symbol that was accepted.
    Accepted {
        /// The symbol.
        #[prost(string, tag = "1")]
        symbol: String,
        /// The epoch of its stream.
        #[prost(string, tag = "2")]
        #[serde(default)]
        epoch: String,
        /// The newest sequence number at this moment.
        #[prost(uint64, tag = "3")]
        #[serde(default)]
        seq: u64,
        /// On resume: whether every update since the position asked for follows. On a first subscribe: false.
        #[prost(bool, tag = "4")]
        #[serde(default)]
        recovered: bool,
        /// The compliance verdict, when the session is screened.
        #[prost(message, optional, boxed, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Box<Metadata>>,
    }
}

record! {
    /// A symbol that was refused, and why.
    Refused {
        /// The symbol.
        #[prost(string, tag = "1")]
        symbol: String,
        /// The refusal word.
        #[prost(string, tag = "2")]
        code: String,
        /// The sentence for people.
        #[prost(string, tag = "3")]
        #[serde(default)]
        reason: String,
        /// The compliance verdict, where that is why.
        #[prost(message, optional, boxed, tag = "4")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Box<Metadata>>,
    }
}

record! {
    /// `subscribed`.
    Subscribed {
        /// The request's id.
        #[prost(uint64, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The subscription's name; absent when everything was refused.
        #[prost(string, optional, tag = "2")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
        /// What was accepted.
        #[prost(message, repeated, tag = "3")]
        #[serde(default)]
        accepted: Vec<Accepted>,
        /// What was refused.
        #[prost(message, repeated, tag = "4")]
        #[serde(default)]
        refused: Vec<Refused>,
        /// The market, while it is not in continuous trading: its phase, and when it next opens.
        #[prost(message, optional, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        market: Option<Market>,
    }
}

record! {
    /// `unsubscribed`.
    Unsubscribed {
        /// The request's id.
        #[prost(uint64, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    }
}
