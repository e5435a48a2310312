//! Public updates: quotes, books, trades and news, with the verdict that travels with them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::record;
use crate::decimal::Decimal;
use crate::wire::time::{nanos, nanos_option};
use crate::wire::{Malformed, Tag, Timestamp, body_from_json};

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
        /// The standard by which that list was evaluated, if it came of figures.
        #[prost(string, tag = "10")]
        #[serde(default, skip_serializing_if = "String::is_empty")]
        standard: String,
        /// From when on that list holds.
        #[prost(int64, optional, tag = "9")]
        #[serde(default, with = "nanos_option", skip_serializing_if = "Option::is_none")]
        effective_from: Option<i64>,
        /// The list had ended, and is used all the same.
        #[prost(bool, tag = "12")]
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        historical: bool,
        /// The refusal word, where it is not allowed.
        #[prost(string, tag = "7")]
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        /// Part of the income from it that a holder gives away, per cent, where it is known.
        #[prost(message, optional, tag = "8")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purification: Option<Decimal>,
        /// The rule that decided what is shown, where it was not the verdict alone.
        #[prost(string, tag = "11")]
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rule: String,
        /// When it was judged.
        #[prost(int64, tag = "6")]
        #[serde(with = "nanos")]
        filtered_at: i64,
    }
}

impl Metadata {
    /// The protobuf form, as a field of an update holds it.
    pub fn to_proto(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
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
    #[prost(message, optional, boxed, tag = "9")]
    pub metadata: Option<Box<Metadata>>,
    /// On a snapshot taken outside continuous trading: the phase, such as `closed`.
    #[prost(string, optional, tag = "14")]
    pub phase: Option<String>,
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
        if let Some(phase) = &self.phase {
            map.serialize_entry("phase", phase)?;
        }
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
    metadata: Option<Box<Metadata>>,
    phase: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Update {
    pub(super) fn from_json(text: &[u8], tag: &Tag<'_>, kind: &str) -> Result<Self, Malformed> {
        fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue, kind: &str) -> Result<T, Malformed> {
            serde_json::from_str(raw.get()).map_err(|error| Malformed::new(format!("{kind}: data: {error}")))
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
            phase: json.phase,
            data,
        })
    }
}
