//! An exchange as data: its rules, its calendar and what it lists, read from one file each in `channels/data`.
//!
//! Each row carries its source and how sure it is. The reference prices are synthetic: plausible magnitudes for
//! a simulation, not prices that anybody paid. Knows no state of any market.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::calendar::{Calendar, CalendarRow};
use crate::decimal::Decimal;
use crate::name::{Exchange, Symbol};
use crate::price::{DailyLimits, Mils, mils};
use crate::rules::{Facts, Rules, RulesRow};

/// The exchanges that are built in. A new one is its file and one line here; or only its file, read at run time.
pub const EMBEDDED: [(&str, &str); 3] = [
    ("EGX", include_str!("../data/egx.json")),
    ("ADX", include_str!("../data/adx.json")),
    ("DFM", include_str!("../data/dfm.json")),
];

/// Most instruments of an exchange.
const INSTRUMENTS_MAX: usize = 10_000;

/// An exchange: its rules, calendar and instruments.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Short name (`EGX`).
    pub exchange: Exchange,
    /// ISO 10383 code.
    pub mic: String,
    /// What people call it.
    pub name: String,
    /// Ticks, limits, lot.
    pub rules: Rules,
    /// When it trades.
    pub calendar: Calendar,
    /// What it lists, in the order of the file.
    pub instruments: Vec<Instrument>,
    by_symbol: BTreeMap<Symbol, usize>,
}

/// One listed instrument.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instrument {
    /// Its symbol here.
    pub symbol: Symbol,
    /// Its ISIN, where one was found and its check digit holds.
    pub isin: Option<String>,
    /// Its issuer.
    pub name: String,
    /// The exchange's sector.
    pub sector: String,
    /// `STOCK`, `ETF`, `REIT`, ….
    pub asset_type: String,
    /// Trading currency.
    pub currency: String,
    /// The board it trades on.
    pub board: String,
    /// What is worth knowing about it.
    pub note: Option<String>,
    /// Where the row was read.
    pub source: String,
    /// How sure it is.
    pub confidence: String,
    /// Where the simulation starts. Synthetic.
    #[serde(rename = "synthetic_reference_price")]
    reference: Decimal,
}

impl Instrument {
    /// Where a simulation starts, checked when the listing was read.
    pub fn reference(&self) -> Mils {
        mils(self.reference).unwrap_or_default()
    }

    /// Whether every word of `query` (in upper case) begins a word of its symbol, ISIN or name.
    fn matches(&self, query: &[String]) -> bool {
        let name = self.name.to_uppercase();
        let words =
            || name.split(|c: char| !c.is_alphanumeric()).chain([self.symbol.as_str()]).chain(self.isin.as_deref());
        query.iter().all(|wanted| words().any(|word| word.starts_with(wanted.as_str())))
    }
}

/// A data file that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadListing(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListingRow {
    exchange: Exchange,
    mic: String,
    name: String,
    rules: RulesRow,
    calendar: CalendarRow,
    instruments: Vec<Instrument>,
}

impl Listing {
    /// The exchange that is built in under this name.
    ///
    /// # Errors
    /// There is none.
    pub fn embedded(exchange: &str) -> Result<Self, BadListing> {
        let Some((_, json)) = EMBEDDED.iter().find(|(name, _)| *name == exchange) else {
            let names: Vec<&str> = EMBEDDED.iter().map(|(name, _)| *name).collect();
            let text = format!("exchange {exchange:?} is not built in: use {}, or give its file", names.join(", "));
            return Err(BadListing(text));
        };
        Self::parse(json).map_err(|error| BadListing(format!("the built-in data of {exchange}: {error}")))
    }

    /// Reads an exchange's data file.
    ///
    /// # Errors
    /// What is wrong with it, with line and column where it is no JSON of this shape.
    pub fn parse(json: &str) -> Result<Self, BadListing> {
        let fail = |text: String| Err(BadListing(text));
        let row: ListingRow = serde_json::from_str(json).map_err(|error| BadListing(error.to_string()))?;
        if row.instruments.is_empty() || row.instruments.len() > INSTRUMENTS_MAX {
            return fail(format!("instruments: 1 to {INSTRUMENTS_MAX}"));
        }
        let rules = Rules::new(row.rules).map_err(|text| BadListing(format!("rules: {text}")))?;
        let mut by_symbol = BTreeMap::new();
        for (index, instrument) in row.instruments.iter().enumerate() {
            let symbol = instrument.symbol;
            if by_symbol.insert(symbol, index).is_some() {
                return fail(format!("{symbol} is listed twice"));
            }
            if !mils(instrument.reference).is_some_and(|price| rules.ticks.on_grid(price)) {
                return fail(format!(
                    "{symbol}: the reference price {} is off the grid of ticks",
                    instrument.reference
                ));
            }
            if rules.board(&instrument.board).is_none() {
                return fail(format!("{symbol}: there is no board {:?} in the rules", instrument.board));
            }
            if !rules.lists(&instrument.asset_type) {
                return fail(format!("{symbol}: the rules list no asset type {:?}", instrument.asset_type));
            }
        }
        let calendar = Calendar::new(row.calendar).map_err(|error| BadListing(error.to_string()))?;
        Ok(Self {
            exchange: row.exchange,
            mic: row.mic,
            name: row.name,
            rules,
            calendar,
            instruments: row.instruments,
            by_symbol,
        })
    }

    /// The place of a symbol in [`Self::instruments`].
    pub fn index(&self, symbol: &str) -> Option<usize> {
        symbol.parse().ok().and_then(|symbol: Symbol| self.by_symbol.get(&symbol).copied())
    }

    /// The daily limits of an instrument, by its place.
    pub fn limits(&self, index: usize) -> DailyLimits {
        // Every instrument's board was found when the file was read; the narrowest limits stand for none.
        let board = self.instruments.get(index).and_then(|instrument| self.rules.board(&instrument.board));
        board.unwrap_or(DailyLimits { up_percent: 1, down_percent: 1 })
    }

    /// What the rules need to know of an instrument, while the market is in this state.
    pub fn facts(&self, index: usize, market: Facts<'_>) -> Facts<'_> {
        let Some(instrument) = self.instruments.get(index) else {
            return Facts { asset_type: "", board: "", ..market };
        };
        Facts { asset_type: &instrument.asset_type, board: &instrument.board, ..market }
    }

    /// At most `most` instruments whose symbol, ISIN or name begins with the words of `query`: exact symbols first,
    /// then symbols that begin so, then the rest, each in the order of the file. No word: all.
    pub fn search(&self, query: &str, most: usize) -> Vec<&Instrument> {
        let upper = query.to_uppercase();
        let words: Vec<String> = upper
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|w| !w.is_empty())
            .map(ToString::to_string)
            .collect();
        let mut found: Vec<&Instrument> = self.instruments.iter().filter(|i| i.matches(&words)).collect();
        let whole = words.first().map_or("", String::as_str);
        found.sort_by_key(|i| match i.symbol.as_str() {
            symbol if symbol == whole => 0,
            symbol if symbol.starts_with(whole) => 1,
            _ => 2,
        });
        found.truncate(most);
        found
    }

    /// The same exchange with only these symbols, in this order.
    ///
    /// # Errors
    /// A symbol is not listed.
    pub fn only(&self, symbols: &[String]) -> Result<Self, BadListing> {
        let mut instruments = Vec::new();
        for symbol in symbols {
            let Some(index) = self.index(symbol) else {
                return Err(BadListing(format!("{symbol} is not listed on {}", self.exchange)));
            };
            instruments.push(self.instruments[index].clone());
        }
        let by_symbol = instruments.iter().enumerate().map(|(index, i)| (i.symbol, index)).collect();
        Ok(Self { instruments, by_symbol, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ISO 6166: letters become two digits, every second digit from the right doubles.
    fn isin_holds(isin: &str) -> bool {
        let digits: Vec<u32> = isin
            .chars()
            .filter_map(|c| c.to_digit(36))
            .flat_map(|d| if d > 9 { vec![d / 10, d % 10] } else { vec![d] })
            .collect();
        let sum: u32 =
            digits.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { *d }).sum();
        isin.len() == 12 && sum.is_multiple_of(10)
    }

    #[test]
    fn each_embedded_exchange_reads_and_every_isin_passes_its_check_digit() {
        for (name, count, with_isin) in [("EGX", 67, 67), ("ADX", 60, 16), ("DFM", 8, 0)] {
            let listing = Listing::embedded(name).unwrap();
            assert_eq!(listing.exchange.as_str(), name);
            assert_eq!(listing.instruments.len(), count);
            let isins: Vec<_> = listing.instruments.iter().filter_map(|i| i.isin.as_deref()).collect();
            assert_eq!(isins.len(), with_isin);
            assert!(isins.iter().all(|isin| isin_holds(isin)));
            assert!(listing.instruments.iter().all(|i| !i.source.is_empty() && !i.confidence.is_empty()));
        }
    }

    #[test]
    fn the_same_symbol_on_two_exchanges_is_two_issuers() {
        let (egx, adx) = (Listing::embedded("EGX").unwrap(), Listing::embedded("ADX").unwrap());
        for symbol in ["ADIB", "TAQA"] {
            let (a, b) = (egx.index(symbol).unwrap(), adx.index(symbol).unwrap());
            assert_ne!(egx.instruments[a].name, adx.instruments[b].name);
        }
        assert!(adx.index("2POINTZERO").is_some());
    }

    #[test]
    fn an_exchange_that_is_not_built_in_is_named_in_the_error() {
        assert!(Listing::embedded("XYZ").unwrap_err().to_string().contains("XYZ"));
    }

    #[test]
    fn a_search_finds_by_symbol_isin_and_words_of_the_name() {
        let egx = Listing::embedded("EGX").unwrap();
        let symbols = |query: &str, most| -> Vec<&str> {
            egx.search(query, most).into_iter().map(|i| i.symbol.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(symbols("comi", 5), ["COMI"]);
        assert_eq!(symbols("international bank commercial", 5), ["COMI"]);
        assert_eq!(symbols("EGS60121C018", 5), ["COMI"]);
        assert_eq!(symbols("ora", 1), ["ORAS"]);
        assert_eq!(symbols("no such thing", 5), Vec::<&str>::new());
        assert_eq!((symbols("", 500).len(), symbols("", 3).len()), (67, 3));
        assert_eq!(Listing::embedded("ADX").unwrap().search("2po", 9)[0].symbol.as_str(), "2POINTZERO");
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused_with_the_reason() {
        let (_, json) = EMBEDDED[0];
        let said = |from: &str, to: &str| Listing::parse(&json.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(said("\"board\": \"main\"", "\"board\": \"moon\"").contains("\"moon\""));
        assert!(said("\"asset_type\": \"STOCK\"", "\"asset_type\": \"CRYPTO\"").contains("CRYPTO"));
        assert!(said("\"84.50\"", "\"84.505\"").contains("grid"));
        assert!(said("\"symbol\": \"QNBE\"", "\"symbol\": \"COMI\"").contains("twice"));
        assert!(said("\"mic\"", "\"mice\"").contains("line 3"));
    }
}
