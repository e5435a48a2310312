//! What trades where: exchange and symbol, ISIN, asset type. Knows no board and no licence.
//!
//! An instrument is (exchange, symbol): ADIB and TAQA are different issuers on EGX and ADX. A verdict belongs to
//! the ISIN behind it, so that it survives a change of ticker.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod directory;

pub use directory::{Directory, Found, InstrumentId};

/// Longest exchange name and longest symbol (`protocol.md`: up to 12 characters).
pub const CODE_BYTES_MAX: usize = 12;

/// An instrument as a message names it. Nothing is checked yet; the directory refuses what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstrumentRef<'a> {
    /// Exchange, `EGX` or `ADX`; empty when the message names none.
    pub exchange: &'a str,
    /// Symbol, upper case.
    pub symbol: &'a str,
}

impl<'a> InstrumentRef<'a> {
    /// The instrument `symbol` on `exchange`.
    pub const fn new(exchange: &'a str, symbol: &'a str) -> Self {
        Self { exchange, symbol }
    }
}

macro_rules! asset_types {
    ($($variant:ident = $word:literal, $doc:literal;)*) => {
        /// What kind of thing is traded: TradSys's fourteen strings and those that exchanges list besides.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum AssetType { $(#[doc = $doc] $variant,)* }

        impl AssetType {
            /// Every asset type.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word in claims and data.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

asset_types! {
    Stock = "STOCK", "Ordinary share.";
    Bond = "BOND", "Conventional bond.";
    Bill = "BILL", "Treasury bill.";
    Etf = "ETF", "Exchange-traded fund.";
    Reit = "REIT", "Real-estate fund.";
    MutualFund = "MUTUAL_FUND", "Mutual fund.";
    Crypto = "CRYPTO", "Crypto asset.";
    Forex = "FOREX", "Currency pair.";
    Commodity = "COMMODITY", "Commodity.";
    Sukuk = "SUKUK", "Sukuk: its own committee approved it.";
    IslamicFund = "ISLAMIC_FUND", "Islamic fund.";
    ShariaStock = "SHARIA_STOCK", "Share that its exchange labels compliant; a label is no verdict.";
    IslamicEtf = "ISLAMIC_ETF", "Islamic exchange-traded fund.";
    IslamicReit = "ISLAMIC_REIT", "Islamic real-estate fund.";
    Takaful = "TAKAFUL", "Takaful operator.";
    Preference = "PREFERENCE", "Preference share.";
    Right = "RIGHT", "Subscription right.";
    Index = "INDEX", "Index: an aggregate of members of any status.";
    Option = "OPTION", "Option.";
    Future = "FUTURE", "Future.";
}

impl AssetType {
    /// The type of this word, if there is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }
}

impl Serialize for AssetType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for AssetType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::parse(&word).ok_or_else(|| serde::de::Error::custom(alloc::format!("{word:?} is no asset type")))
    }
}

/// An ISIN whose check digit is right (ISO 6166). A right digit does not prove that the name belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isin([u8; 12]);

impl Isin {
    /// Parses twelve characters: two letters, nine letters or digits, one check digit.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 12] = text.as_bytes().try_into().ok()?;
        let shape = bytes[..2].iter().all(u8::is_ascii_uppercase)
            && bytes[2..11].iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && bytes[11].is_ascii_digit();
        (shape && luhn(&bytes)).then_some(Self(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // ASCII by construction; the fallback is never taken.
        core::str::from_utf8(&self.0).unwrap_or("")
    }
}

/// Letters count as two digits (A = 10 … Z = 35); from the right, every second digit is doubled.
fn luhn(bytes: &[u8; 12]) -> bool {
    let mut double = false;
    let mut sum = 0_u32;
    let mut add = |digit: u8| {
        let value = u32::from(digit) * if double { 2 } else { 1 };
        sum += value / 10 + value % 10;
        double = !double;
    };
    for &byte in bytes.iter().rev() {
        if byte.is_ascii_digit() {
            add(byte - b'0');
        } else {
            let value = byte - b'A' + 10;
            add(value % 10);
            add(value / 10);
        }
    }
    sum.is_multiple_of(10)
}

impl fmt::Debug for Isin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Isin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Isin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(alloc::format!(
                "{text:?} is no ISIN: twelve characters, the last a right check digit"
            ))
        })
    }
}

/// How sure the data is of itself (`docs` give the meaning: several texts agree, one credible source, inference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Several independent or official texts agree.
    High,
    /// One credible source.
    Medium,
    /// Inference, or a weak source.
    Low,
}

/// The instruments of one exchange: one data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Market {
    /// Exchange name in messages: `EGX`, `ADX`.
    pub exchange: String,
    /// Market identifier code (ISO 10383).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mic: Option<String>,
    /// What this file is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How sure it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// What trades here.
    pub instruments: Vec<Instrument>,
    /// Tickers that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renames: Vec<Rename>,
}

/// One instrument of a [`Market`]. The descriptive fields do not bear on any verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instrument {
    /// Ticker in use.
    pub symbol: String,
    /// ISIN, where one was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isin: Option<Isin>,
    /// Kind.
    pub asset_type: AssetType,
    /// Name of the issuer or fund.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Sector, in the exchange's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sector: Option<String>,
    /// Trading currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// What a reader of the data should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Where the row comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How sure the row is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

/// A ticker that changed while the security stayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The former ticker.
    pub from: String,
    /// The ticker in [`Market::instruments`].
    pub to: String,
    /// First instant of the new ticker; without it, a former ticker that someone else uses now is ambiguous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<crate::UnixNanos>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How sure it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_isin_with_a_wrong_check_digit_is_none() {
        assert_eq!(Isin::parse("EGS60121C018").unwrap().as_str(), "EGS60121C018");
        assert!(Isin::parse("US0378331005").is_some());
        for text in ["EGS60121C019", "EGS60121C01", "egs60121C018", "EGS60121C01A", "1GS60121C018", ""] {
            assert!(Isin::parse(text).is_none(), "{text}");
        }
    }
}
