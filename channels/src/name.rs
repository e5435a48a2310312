//! Names: exchanges, channels, symbols, and the channel name `egx/market_data/COMI`.
//!
//! An instrument is (exchange, symbol): ADIB and TAQA are different issuers on EGX and ADX.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A short upper-case code of 1 to [`Code::BYTES_MAX`] characters from `A-Z 0-9 . _ -`, held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code {
    len: u8,
    bytes: [u8; Self::BYTES_MAX],
}

/// The text is no code of the allowed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, too long, or with characters outside `A-Z 0-9 . _ -`.
    #[error("a symbol or exchange has 1 to 12 characters from A-Z, 0-9, '.', '_' and '-'")]
    Code,
    /// No such channel.
    #[error("no such channel: use market_data, order_book, trades, news, alerts, market_status, orders or positions")]
    Channel,
    /// Not of the form `exchange/channel/SYMBOL`.
    #[error("a channel name is exchange/channel/SYMBOL or exchange/channel")]
    Form,
}

impl Code {
    /// Longest symbol (`protocol.md`: up to 12 characters).
    pub const BYTES_MAX: usize = 12;

    /// The text.
    pub fn as_str(&self) -> &str {
        // The bytes were ASCII when the code was made; the fallback is never taken.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl FromStr for Code {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let legal = |b: u8| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > Self::BYTES_MAX || !text.bytes().all(legal) {
            return Err(NameError::Code);
        }
        let mut bytes = [0; Self::BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { len: text.len() as u8, bytes })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// An exchange, by its short name (`EGX`, `ADX`).
pub type Exchange = Code;
/// A symbol on an exchange; may begin with a digit (`2POINTZERO`).
pub type Symbol = Code;

/// What can be subscribed to (`protocol.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Quotes: last, best bid and ask, volume, day's range. Conflatable.
    MarketData,
    /// Price levels. Conflatable.
    OrderBook,
    /// Every trade. Never conflated.
    Trades,
    /// News, which may name several instruments.
    News,
    /// Alerts.
    Alerts,
    /// Phases and halts of an exchange.
    MarketStatus,
    /// A user's own orders. Private, lossless.
    Orders,
    /// A user's own positions. Private, lossless.
    Positions,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 8] = [
        Self::MarketData,
        Self::OrderBook,
        Self::Trades,
        Self::News,
        Self::Alerts,
        Self::MarketStatus,
        Self::Orders,
        Self::Positions,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MarketData => "market_data",
            Self::OrderBook => "order_book",
            Self::Trades => "trades",
            Self::News => "news",
            Self::Alerts => "alerts",
            Self::MarketStatus => "market_status",
            Self::Orders => "orders",
            Self::Positions => "positions",
        }
    }

    /// Only the newest state matters: a slow reader may skip to a snapshot.
    pub const fn is_state(self) -> bool {
        matches!(self, Self::MarketData | Self::OrderBook | Self::MarketStatus)
    }

    /// Belongs to one user.
    pub const fn is_private(self) -> bool {
        matches!(self, Self::Orders | Self::Positions)
    }

    /// Subscribed to by symbol.
    pub const fn is_per_symbol(self) -> bool {
        matches!(self, Self::MarketData | Self::OrderBook | Self::Trades)
    }
}

impl FromStr for Channel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == text).ok_or(NameError::Channel)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = alloc::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Code, Channel);

/// One instrument: a symbol on an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instrument {
    /// Where it is listed.
    pub exchange: Exchange,
    /// Its symbol there.
    pub symbol: Symbol,
}

/// A channel name: `egx/market_data/COMI`, or `egx/market_status` where the channel has no symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName {
    /// The exchange.
    pub exchange: Exchange,
    /// What of it.
    pub channel: Channel,
    /// The symbol, for per-symbol channels.
    pub symbol: Option<Symbol>,
}

impl ChannelName {
    /// Parses `exchange/channel[/SYMBOL]`; the exchange is written in lower case there.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = text.split('/');
        let (Some(exchange), Some(channel)) = (parts.next(), parts.next()) else {
            return Err(NameError::Form);
        };
        let symbol = parts.next();
        if parts.next().is_some() || exchange.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NameError::Form);
        }
        let exchange = exchange.to_ascii_uppercase().parse()?;
        let channel: Channel = channel.parse()?;
        let symbol = symbol.map(str::parse).transpose()?;
        if channel.is_per_symbol() != symbol.is_some() {
            return Err(NameError::Form);
        }
        Ok(Self { exchange, channel, symbol })
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.exchange.as_str().to_ascii_lowercase(), self.channel)?;
        match self.symbol {
            Some(symbol) => write!(f, "/{symbol}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_channel_name_reads_back_as_it_was_written() {
        for good in ["egx/market_data/COMI", "adx/order_book/2POINTZERO", "adx/market_status", "egx/trades/EGX30ETF"] {
            assert_eq!(ChannelName::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "egx", "EGX/market_data/COMI", "egx/market_data", "egx/market_status/COMI", "egx/quotes/COMI"] {
            assert!(ChannelName::parse(bad).is_err(), "{bad}");
        }
        for bad in ["egx/market_data/comi", "egx/market_data/COMI/", "egx/market_data/THIRTEENCHARS"] {
            assert!(ChannelName::parse(bad).is_err(), "{bad}");
        }
    }
}
