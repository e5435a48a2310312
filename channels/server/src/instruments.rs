//! What an exchange lists and by which rules: read from one data file per exchange, embedded in the binary.
//!
//! Each row carries its source and how sure it is. The reference prices are synthetic: plausible magnitudes for
//! the simulation, not prices that anybody paid. Knows no state of any market.

use std::collections::HashMap;

use anyhow::{Context as _, bail, ensure};
use bawaba_channels::decimal::Decimal;
use bawaba_channels::name::{Exchange, Symbol};
use serde::{Deserialize, Serialize};

use crate::calendar::{Calendar, CalendarRow};
use crate::price::{Mils, Rules, mils};

/// The exchanges that this binary carries. A new one is one file and one line here, or `--data FILE`.
const EMBEDDED: [(&str, &str); 2] =
    [("EGX", include_str!("../data/egx.json")), ("ADX", include_str!("../data/adx.json"))];

/// An exchange: its rules, calendar and instruments.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// Short name (`EGX`).
    pub(crate) exchange: Exchange,
    /// ISO 10383 code.
    pub(crate) mic: String,
    /// Ticks, limits, lot.
    pub(crate) rules: Rules,
    /// When it trades.
    pub(crate) calendar: Calendar,
    /// What it lists, in the order of the file.
    pub(crate) instruments: Vec<Instrument>,
    by_symbol: HashMap<Symbol, usize>,
}

/// One listed instrument.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Instrument {
    /// Its symbol here.
    pub(crate) symbol: Symbol,
    /// Its ISIN, where one was found and its check digit holds.
    pub(crate) isin: Option<String>,
    /// Its issuer.
    pub(crate) name: String,
    /// The exchange's sector.
    pub(crate) sector: String,
    /// `STOCK`, `ETF`, `REIT`, ….
    pub(crate) asset_type: String,
    /// Trading currency.
    pub(crate) currency: String,
    /// The board it trades on.
    pub(crate) board: String,
    /// What is worth knowing about it.
    #[serde(rename = "note")]
    pub(crate) _note: Option<String>,
    /// Where the row was read.
    pub(crate) source: String,
    /// How sure it is.
    pub(crate) confidence: String,
    /// Where the simulation starts. Synthetic.
    #[serde(rename = "synthetic_reference_price")]
    reference: Decimal,
}

impl Instrument {
    /// Where the simulation starts, checked when the listing was read.
    pub(crate) fn reference(&self) -> Mils {
        mils(self.reference).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct ListingRow {
    exchange: Exchange,
    mic: String,
    rules: Rules,
    #[serde(flatten)]
    calendar: CalendarRow,
    instruments: Vec<Instrument>,
}

impl Listing {
    /// The exchange that the binary carries under this name.
    pub(crate) fn embedded(exchange: &str) -> anyhow::Result<Self> {
        let Some((_, json)) = EMBEDDED.iter().find(|(name, _)| *name == exchange) else {
            bail!("exchange {exchange:?} is not built in: use EGX or ADX, or give its file with --data");
        };
        Self::parse(json).with_context(|| format!("the built-in data of {exchange}"))
    }

    /// Reads an exchange's data file.
    pub(crate) fn parse(json: &str) -> anyhow::Result<Self> {
        let row: ListingRow = serde_json::from_str(json)?;
        ensure!(!row.instruments.is_empty() && row.instruments.len() <= 10_000, "1 to 10,000 instruments");
        let mut by_symbol = HashMap::new();
        for (index, instrument) in row.instruments.iter().enumerate() {
            let symbol = instrument.symbol;
            ensure!(by_symbol.insert(symbol, index).is_none(), "{symbol} is listed twice");
            let on_grid = mils(instrument.reference).is_some_and(|price| row.rules.on_grid(price));
            ensure!(on_grid, "{symbol}: the reference price {} is off the grid of ticks", instrument.reference);
        }
        let calendar = Calendar::new(row.calendar)?;
        Ok(Self {
            exchange: row.exchange,
            mic: row.mic,
            rules: row.rules,
            calendar,
            instruments: row.instruments,
            by_symbol,
        })
    }

    /// The place of a symbol in [`Self::instruments`].
    pub(crate) fn index(&self, symbol: &str) -> Option<usize> {
        symbol.parse().ok().and_then(|symbol: Symbol| self.by_symbol.get(&symbol).copied())
    }

    /// The same exchange with only these symbols, in this order.
    pub(crate) fn only(&self, symbols: &[String]) -> anyhow::Result<Self> {
        let mut instruments = Vec::new();
        for symbol in symbols {
            let index = self.index(symbol).with_context(|| format!("{symbol} is not listed on {}", self.exchange))?;
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
        for (name, count, with_isin) in [("EGX", 67, 67), ("ADX", 60, 16)] {
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
        assert!(Listing::embedded("DFM").unwrap_err().to_string().contains("DFM"));
    }
}
