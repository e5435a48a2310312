//! Edge to client.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::time::{nanos, nanos_option};
use super::{
    Body, Encoding, Malformed, Timestamp, body_from_json, envelope, put_envelope, tag,
    to_json_tagged,
};
use crate::decimal::Decimal;

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type ),* }
    };
}

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

record! {
    /// Quotes and the day's figures of an instrument.
    Quote {
        /// Last traded price.
        #[prost(message, optional, tag = "1")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<Decimal>,
        /// Best bid.
        #[prost(message, optional, tag = "2")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bid: Option<Decimal>,
        /// Best ask.
        #[prost(message, optional, tag = "3")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ask: Option<Decimal>,
        /// Quantity at the best bid.
        #[prost(message, optional, tag = "4")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bid_size: Option<Decimal>,
        /// Quantity at the best ask.
        #[prost(message, optional, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ask_size: Option<Decimal>,
        /// Quantity traded today.
        #[prost(message, optional, tag = "6")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<Decimal>,
        /// First price of the day.
        #[prost(message, optional, tag = "7")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        open: Option<Decimal>,
        /// Highest price of the day.
        #[prost(message, optional, tag = "8")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        high: Option<Decimal>,
        /// Lowest price of the day.
        #[prost(message, optional, tag = "9")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        low: Option<Decimal>,
        /// Closing price of the previous session.
        #[prost(message, optional, tag = "10")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        close: Option<Decimal>,
    }
}

record! {
    /// One price level.
    Level {
        /// Price.
        #[prost(message, required, tag = "1")]
        price: Decimal,
        /// Quantity there.
        #[prost(message, required, tag = "2")]
        size: Decimal,
    }
}

record! {
    /// An order book, best levels first, always whole.
    Book {
        /// Bids, highest first.
        #[prost(message, repeated, tag = "1")]
        #[serde(default)]
        bids: Vec<Level>,
        /// Asks, lowest first.
        #[prost(message, repeated, tag = "2")]
        #[serde(default)]
        asks: Vec<Level>,
    }
}

record! {
    /// One trade.
    Trade {
        /// Price.
        #[prost(message, required, tag = "1")]
        price: Decimal,
        /// Quantity.
        #[prost(message, required, tag = "2")]
        size: Decimal,
        /// Side of the order that took liquidity: `buy` or `sell`.
        #[prost(string, tag = "3")]
        #[serde(default)]
        side: String,
        /// The exchange's id of the trade.
        #[prost(string, tag = "4")]
        #[serde(default)]
        trade_id: String,
    }
}

record! {
    /// One piece of news.
    News {
        /// Headline.
        #[prost(string, tag = "1")]
        headline: String,
        /// Text.
        #[prost(string, tag = "2")]
        #[serde(default)]
        body: String,
        /// Every symbol it names, on the update's exchange.
        #[prost(string, repeated, tag = "3")]
        #[serde(default)]
        symbols: Vec<String>,
    }
}

record! {
    /// The compliance verdict that travels with an update.
    Metadata {
        /// Whether the boards allow the instrument.
        #[prost(bool, tag = "1")]
        sharia_compliant: bool,
        /// The board or boards that judged.
        #[prost(string, tag = "2")]
        compliance_board: String,
        /// `strict`, `moderate` or `flexible`.
        #[prost(string, tag = "3")]
        compliance_level: String,
        /// How the verdict was reached: `listed`, `not_listed`, …
        #[prost(string, tag = "4")]
        screening_result: String,
        /// The list and version that was read.
        #[prost(string, tag = "5")]
        #[serde(default, skip_serializing_if = "String::is_empty")]
        list: String,
        /// When it was judged.
        #[prost(int64, tag = "6")]
        #[serde(with = "nanos")]
        filtered_at: i64,
    }
}

/// What an [`Update`] carries; it decides the JSON `type`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Data {
    /// `market_data_update`.
    #[prost(message, tag = "10")]
    Quote(Quote),
    /// `order_book_update`.
    #[prost(message, tag = "11")]
    Book(Book),
    /// `trade_update`.
    #[prost(message, tag = "12")]
    Trade(Trade),
    /// `news_update`.
    #[prost(message, tag = "13")]
    News(News),
}

impl Data {
    /// The `type` of the JSON form.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Quote(_) => "market_data_update",
            Self::Book(_) => "order_book_update",
            Self::Trade(_) => "trade_update",
            Self::News(_) => "news_update",
        }
    }
}

/// A public update of one instrument (news: of one exchange).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Update {
    /// The subscription it belongs to.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// The exchange.
    #[prost(string, tag = "2")]
    pub exchange: String,
    /// The symbol; empty for news.
    #[prost(string, tag = "3")]
    pub symbol: String,
    /// The stream's epoch: sequence numbers compare only within one.
    #[prost(string, tag = "4")]
    pub epoch: String,
    /// The sequence number, by one per update.
    #[prost(uint64, tag = "5")]
    pub seq: u64,
    /// When conflated: the first sequence number folded into this update.
    #[prost(uint64, optional, tag = "6")]
    pub first_seq: Option<u64>,
    /// Whether this is the whole state rather than a step.
    #[prost(bool, tag = "7")]
    pub snapshot: bool,
    /// When it happened, in nanoseconds since the epoch.
    #[prost(int64, tag = "8")]
    pub time: i64,
    /// The compliance verdict.
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
    /// What happened.
    #[prost(oneof = "Data", tags = "10, 11, 12, 13")]
    pub data: Option<Data>,
}

impl Serialize for Update {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("subscription", &self.subscription)?;
        map.serialize_entry("exchange", &self.exchange)?;
        if !self.symbol.is_empty() {
            map.serialize_entry("symbol", &self.symbol)?;
        }
        map.serialize_entry("epoch", &self.epoch)?;
        if let Some(first) = self.first_seq {
            map.serialize_entry("first_seq", &first)?;
        }
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("snapshot", &self.snapshot)?;
        map.serialize_entry("time", &Timestamp(self.time))?;
        match &self.data {
            Some(Data::Quote(data)) => map.serialize_entry("data", data)?,
            Some(Data::Book(data)) => map.serialize_entry("data", data)?,
            Some(Data::Trade(data)) => map.serialize_entry("data", data)?,
            Some(Data::News(data)) => map.serialize_entry("data", data)?,
            None => {}
        }
        if let Some(metadata) = &self.metadata {
            map.serialize_entry("metadata", metadata)?;
        }
        map.end()
    }
}

#[derive(Deserialize)]
struct UpdateJson<'a> {
    subscription: String,
    exchange: String,
    #[serde(default)]
    symbol: String,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    seq: u64,
    first_seq: Option<u64>,
    #[serde(default)]
    snapshot: bool,
    #[serde(default, with = "nanos")]
    time: i64,
    metadata: Option<Metadata>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Update {
    fn from_json(text: &[u8], tag: &super::Tag<'_>, kind: &str) -> Result<Self, Malformed> {
        fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue, kind: &str) -> Result<T, Malformed> {
            serde_json::from_str(raw.get())
                .map_err(|error| Malformed::new(format!("{kind}: data: {error}")))
        }
        let json: UpdateJson<'_> = body_from_json(text, tag)?;
        let data = match (json.data, kind) {
            (None, _) => None,
            (Some(raw), "market_data_update") => Some(Data::Quote(read(raw, kind)?)),
            (Some(raw), "order_book_update") => Some(Data::Book(read(raw, kind)?)),
            (Some(raw), "trade_update") => Some(Data::Trade(read(raw, kind)?)),
            (Some(raw), _) => Some(Data::News(read(raw, kind)?)),
        };
        Ok(Self {
            subscription: json.subscription,
            exchange: json.exchange,
            symbol: json.symbol,
            epoch: json.epoch,
            seq: json.seq,
            first_seq: json.first_seq,
            snapshot: json.snapshot,
            time: json.time,
            metadata: json.metadata,
            data,
        })
    }
}

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
        /// The subscription it belongs to.
        #[prost(string, optional, tag = "5")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
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
    /// `degraded`: the subscription goes on at a slower rate, because the client reads slowly.
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
            Self::Update(update) => update
                .data
                .as_ref()
                .map_or("market_data_update", Data::kind),
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
            Some(
                kind
                @ ("market_data_update" | "order_book_update" | "trade_update" | "news_update"),
            ) => Self::Update(Update::from_json(text, &tag, kind)?),
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
                return Err(Malformed {
                    detail: format!("event type \"{other}\" is unknown"),
                    id: tag.id,
                });
            }
            None => {
                return Err(Malformed {
                    detail: "the field \"type\" is missing".into(),
                    id: tag.id,
                });
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
                return Err(Malformed::new(
                    "the Envelope holds a request, which only a client sends",
                ));
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
