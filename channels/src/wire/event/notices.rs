//! What a session is told unasked: its own orders and positions, the state of markets, and of the session itself.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::record;
use crate::decimal::Decimal;
use crate::wire::time::{nanos, nanos_option};

record! {
    /// `order_update`: the state of an order; with an `id` when it answers the request.
    OrderUpdate {
        /// The request's id, on the answer to it.
        #[prost(uint64, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The exchange's id of the order.
        #[prost(string, tag = "2")]
        order_id: String,
        /// The client's key.
        #[prost(string, optional, tag = "3")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_order_id: Option<String>,
        /// The exchange.
        #[prost(string, tag = "4")]
        exchange: String,
        /// The symbol.
        #[prost(string, tag = "5")]
        symbol: String,
        /// `buy` or `sell`.
        #[prost(string, tag = "6")]
        side: String,
        /// `limit` or `market`.
        #[prost(string, tag = "7")]
        order_type: String,
        /// `open`, `partially_filled`, `filled`, `cancelled` or `rejected`.
        #[prost(string, tag = "8")]
        status: String,
        /// Limit price.
        #[prost(message, optional, tag = "9")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        price: Option<Decimal>,
        /// Ordered quantity.
        #[prost(message, required, tag = "10")]
        quantity: Decimal,
        /// Filled so far.
        #[prost(message, required, tag = "11")]
        filled_quantity: Decimal,
        /// Average price of what was filled.
        #[prost(message, optional, tag = "12")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        average_price: Option<Decimal>,
        /// The epoch of the user's order stream.
        #[prost(string, tag = "13")]
        #[serde(default)]
        epoch: String,
        /// Its sequence number, by one per update of this user.
        #[prost(uint64, tag = "14")]
        #[serde(default)]
        seq: u64,
        /// On a trunk: whose order. Removed before a client sees it.
        #[prost(string, optional, tag = "15")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// When.
        #[prost(int64, tag = "16")]
        #[serde(with = "nanos")]
        time: i64,
        /// The subscription it belongs to, if it came through one.
        #[prost(string, optional, tag = "17")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
    }
}

record! {
    /// `position_update`.
    PositionUpdate {
        /// The exchange.
        #[prost(string, tag = "1")]
        exchange: String,
        /// The symbol.
        #[prost(string, tag = "2")]
        symbol: String,
        /// Net quantity held.
        #[prost(message, required, tag = "3")]
        quantity: Decimal,
        /// Average price paid.
        #[prost(message, optional, tag = "4")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        average_price: Option<Decimal>,
        /// The epoch of the user's position stream.
        #[prost(string, tag = "5")]
        #[serde(default)]
        epoch: String,
        /// Its sequence number.
        #[prost(uint64, tag = "6")]
        #[serde(default)]
        seq: u64,
        /// When.
        #[prost(int64, tag = "7")]
        #[serde(with = "nanos")]
        time: i64,
        /// The subscription it belongs to.
        #[prost(string, optional, tag = "8")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
        /// On a trunk: whose position. Removed before a client sees it.
        #[prost(string, optional, tag = "15")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    }
}

record! {
    /// `alert`.
    Alert {
        /// A refusal word or the alert's own stable word.
        #[prost(string, tag = "1")]
        code: String,
        /// The sentence for people.
        #[prost(string, tag = "2")]
        #[serde(default)]
        reason: String,
        /// The exchange, if it is about one.
        #[prost(string, optional, tag = "3")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exchange: Option<String>,
        /// The symbol, if it is about one.
        #[prost(string, optional, tag = "4")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        symbol: Option<String>,
        /// The subscription it belongs to; absent when every session is told.
        #[prost(string, optional, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
        /// When it was said.
        #[prost(int64, optional, tag = "6")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        time: Option<i64>,
    }
}

record! {
    /// Who says otherwise of a phase.
    Conflict {
        /// `calendar` or `upstream`.
        #[prost(string, tag = "1")]
        source: String,
        /// The phase that it says.
        #[prost(string, tag = "2")]
        phase: String,
    }
}

record! {
    /// `market_status`.
    MarketStatus {
        /// The exchange.
        #[prost(string, tag = "1")]
        exchange: String,
        /// The phase.
        #[prost(string, tag = "2")]
        phase: String,
        /// Who says so: `calendar`, `upstream`, `override` or `simulation`.
        #[prost(string, tag = "3")]
        source: String,
        /// When the phase next changes.
        #[prost(int64, optional, tag = "4")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        next: Option<i64>,
        /// One instrument only (a halt).
        #[prost(string, optional, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        symbol: Option<String>,
        /// The subscription it belongs to.
        #[prost(string, optional, tag = "6")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
        /// When continuous trading next begins, unless it is on.
        #[prost(int64, optional, tag = "7")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        next_open: Option<i64>,
        /// When the phase may end at the earliest, where its end is random; `next` is the latest.
        #[prost(int64, optional, tag = "8")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        ends_from: Option<i64>,
        /// How sure the calendar is, where it is the source: `high`, `medium` or `low`.
        #[prost(string, optional, tag = "9")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certainty: Option<String>,
        /// Why, for people: a holiday's name, an operator's words.
        #[prost(string, optional, tag = "10")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Who says otherwise.
        #[prost(message, repeated, tag = "11")]
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        conflicts: Vec<Conflict>,
    }
}

record! {
    /// `gap`: the updates `from_seq..=to_seq` were not, and will not be, delivered.
    Gap {
        /// The subscription.
        #[prost(string, tag = "1")]
        subscription: String,
        /// The symbol.
        #[prost(string, tag = "2")]
        symbol: String,
        /// First missing sequence number.
        #[prost(uint64, tag = "3")]
        from_seq: u64,
        /// Last missing sequence number; below `from_seq` when the epoch changed and the number is unknown.
        #[prost(uint64, tag = "4")]
        to_seq: u64,
        /// The exchange.
        #[prost(string, tag = "5")]
        #[serde(default)]
        exchange: String,
    }
}

record! {
    /// `degraded`: the subscription goes on at another rate: slower, because the client reads slowly; and then the one
    /// that it asked for, when it keeps up again.
    Degraded {
        /// The subscription.
        #[prost(string, tag = "1")]
        subscription: String,
        /// The new rate.
        #[prost(uint32, tag = "2")]
        update_rate_ms: u32,
    }
}

record! {
    /// `revoked`: these may no longer be seen.
    Revoked {
        /// The subscription.
        #[prost(string, tag = "1")]
        subscription: String,
        /// The symbols.
        #[prost(string, repeated, tag = "2")]
        #[serde(default)]
        symbols: Vec<String>,
        /// The refusal word.
        #[prost(string, tag = "3")]
        code: String,
        /// The sentence for people.
        #[prost(string, tag = "4")]
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    }
}

record! {
    /// `drain`: this connection will close; come back after `retry_after_ms`.
    Drain {
        /// When to come back.
        #[prost(uint32, tag = "1")]
        retry_after_ms: u32,
        /// The sticky token to come back with (`?resume=`).
        #[prost(string, tag = "2")]
        #[serde(default, skip_serializing_if = "String::is_empty")]
        resume: String,
    }
}

record! {
    /// `refreshed`.
    Refreshed {
        /// The request's id.
        #[prost(uint64, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    }
}

record! {
    /// `pong`.
    Pong {
        /// The request's id.
        #[prost(uint64, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    }
}

record! {
    /// `error`: the request with this `id` is refused.
    ErrorEvent {
        /// The request's id, if it could be read.
        #[prost(uint64, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The refusal word.
        #[prost(string, tag = "2")]
        code: String,
        /// The sentence for people.
        #[prost(string, tag = "3")]
        #[serde(default)]
        reason: String,
        /// When trying again may help.
        #[prost(uint32, optional, tag = "4")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u32>,
    }
}
