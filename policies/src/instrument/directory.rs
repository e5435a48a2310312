//! The index over markets: from (exchange, symbol) at an instant to one instrument, or to the reason why not.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::{AssetType, CODE_BYTES_MAX, InstrumentRef, Isin, Market};
use crate::{DataError, UnixNanos};

/// Place of an instrument in its [`Directory`]; means nothing in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstrumentId(pub(crate) u32);

/// What the directory says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Exactly one instrument.
    One(InstrumentId),
    /// No such instrument, or no exchange named.
    Unknown,
    /// More than one instrument has a claim to this name, or two symbols of an exchange claim one ISIN.
    Ambiguous,
}

/// All instruments, found by name in one binary search over packed 16-byte keys.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    exchanges: Vec<String>,
    rows: Vec<Row>,
    /// Sorted by key; a key with several claims has several rows beside each other.
    keys: Vec<u128>,
    claims: Vec<Claim>,
    by_isin: Vec<(Isin, InstrumentId)>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    exchange: u32,
    symbol: [u8; CODE_BYTES_MAX],
    isin: Option<Isin>,
    asset_type: AssetType,
    ambiguous: bool,
}

/// A claim of an instrument to a name, from (inclusive) to (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    key: u128,
    id: InstrumentId,
    from: u64,
    to: u64,
}

/// Instruments that one directory holds at most: a bound, far above any exchange of this region.
pub(crate) const INSTRUMENTS_MAX: usize = 1_000_000;

impl Directory {
    /// Indexes the markets.
    ///
    /// # Errors
    /// A code that is none, a rename whose target is not listed, more instruments than a directory holds. A name
    /// with two claims is no error: that name alone is [`Found::Ambiguous`].
    pub fn new(markets: &[Market]) -> Result<Self, DataError> {
        let mut directory = Self::default();
        let mut claims = Vec::new();
        for market in markets {
            directory.add(market, &mut claims)?;
        }
        directory.seal(claims);
        Ok(directory)
    }

    /// Who has this name at this instant.
    pub fn find(&self, instrument: InstrumentRef<'_>, now: UnixNanos) -> Found {
        let Some(key) = self.key(instrument.exchange, instrument.symbol) else {
            return Found::Unknown;
        };
        let start = self.keys.partition_point(|&other| other < key);
        let mut found = Found::Unknown;
        for claim in self.claims[start..].iter().take_while(|claim| claim.key == key) {
            if claim.from <= now.0 && now.0 < claim.to {
                if found != Found::Unknown {
                    return Found::Ambiguous;
                }
                found = Found::One(claim.id);
            }
        }
        match found {
            Found::One(id) if self.rows[id.0 as usize].ambiguous => Found::Ambiguous,
            other => other,
        }
    }

    /// The asset type of a name, if exactly one instrument has it.
    pub fn asset_type(&self, instrument: InstrumentRef<'_>, now: UnixNanos) -> Option<AssetType> {
        match self.find(instrument, now) {
            Found::One(id) => Some(self.kind(id)),
            Found::Unknown | Found::Ambiguous => None,
        }
    }

    /// How many instruments there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The exchanges, in the order of the data.
    pub fn exchanges(&self) -> impl Iterator<Item = &str> {
        self.exchanges.iter().map(String::as_str)
    }

    /// Every instrument as (exchange, symbol in use).
    pub fn iter(&self) -> impl Iterator<Item = InstrumentRef<'_>> {
        self.rows
            .iter()
            .map(|row| InstrumentRef { exchange: &self.exchanges[row.exchange as usize], symbol: unpack(&row.symbol) })
    }

    pub(crate) fn kind(&self, id: InstrumentId) -> AssetType {
        self.rows[id.0 as usize].asset_type
    }

    pub(crate) fn isin(&self, id: InstrumentId) -> Option<Isin> {
        self.rows[id.0 as usize].isin
    }

    pub(crate) fn exchange_of(&self, id: InstrumentId) -> u32 {
        self.rows[id.0 as usize].exchange
    }

    pub(crate) fn exchange_index(&self, exchange: &str) -> Option<u32> {
        // At most a handful of exchanges: a scan beats any index.
        self.exchanges.iter().position(|other| other == exchange).and_then(|at| u32::try_from(at).ok())
    }

    /// Every instrument with this ISIN: one per exchange and line.
    pub(crate) fn with_isin(&self, isin: Isin) -> impl Iterator<Item = InstrumentId> {
        let start = self.by_isin.partition_point(|&(other, _)| other < isin);
        self.by_isin[start..].iter().take_while(move |&&(other, _)| other == isin).map(|&(_, id)| id)
    }

    fn add(&mut self, market: &Market, claims: &mut Vec<Claim>) -> Result<(), DataError> {
        check_code(&market.exchange)?;
        let exchange = match self.exchange_index(&market.exchange) {
            Some(index) => index,
            None => {
                self.exchanges.push(market.exchange.clone());
                u32::try_from(self.exchanges.len() - 1).map_err(|_| DataError::TooMany("exchanges"))?
            }
        };
        let mut own = BTreeMap::new();
        for instrument in &market.instruments {
            let symbol = check_code(&instrument.symbol)?;
            if self.rows.len() >= INSTRUMENTS_MAX {
                return Err(DataError::TooMany("instruments"));
            }
            // INSTRUMENTS_MAX fits in 32 bits.
            let id = InstrumentId(self.rows.len() as u32);
            let (isin, asset_type) = (instrument.isin, instrument.asset_type);
            self.rows.push(Row { exchange, symbol, isin, asset_type, ambiguous: false });
            claims.push(Claim { key: pack(exchange, &symbol), id, from: 0, to: u64::MAX });
            own.insert(symbol, id);
        }
        for rename in &market.renames {
            let (from, to) = (check_code(&rename.from)?, check_code(&rename.to)?);
            let Some(&id) = own.get(&to) else {
                return Err(DataError::RenameTarget { exchange: market.exchange.clone(), to: rename.to.clone() });
            };
            let key = pack(exchange, &from);
            // The former ticker keeps pointing at its security, unless someone else took the ticker over: then the
            // claims meet at the instant of the rename.
            let taken = own.contains_key(&from);
            if let (true, Some(at)) = (taken, rename.at) {
                for claim in claims.iter_mut().filter(|claim| claim.key == key) {
                    claim.from = claim.from.max(at.0);
                }
                claims.push(Claim { key, id, from: 0, to: at.0 });
            } else {
                claims.push(Claim { key, id, from: 0, to: u64::MAX });
            }
        }
        Ok(())
    }

    fn seal(&mut self, mut claims: Vec<Claim>) {
        claims.sort_unstable();
        self.keys = claims.iter().map(|claim| claim.key).collect();
        self.claims = claims;
        self.by_isin = self.rows.iter().zip(0..).filter_map(|(row, at)| Some((row.isin?, InstrumentId(at)))).collect();
        self.by_isin.sort_unstable();
        // One ISIN under two symbols of one exchange: one of the two rows is wrong, and nothing says which.
        for pair in 1..self.by_isin.len() {
            let ((isin, id), (before_isin, before)) = (self.by_isin[pair], self.by_isin[pair - 1]);
            if isin == before_isin && self.exchange_of(id) == self.exchange_of(before) {
                self.rows[id.0 as usize].ambiguous = true;
                self.rows[before.0 as usize].ambiguous = true;
            }
        }
    }

    fn key(&self, exchange: &str, symbol: &str) -> Option<u128> {
        Some(pack(self.exchange_index(exchange)?, &pad(symbol)?))
    }
}

/// A code of 1 to 12 characters from `A-Z 0-9 . _ -`, padded with zeros.
fn pad(text: &str) -> Option<[u8; CODE_BYTES_MAX]> {
    let legal = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > CODE_BYTES_MAX || !text.bytes().all(legal) {
        return None;
    }
    let mut bytes = [0; CODE_BYTES_MAX];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Some(bytes)
}

fn check_code(text: &str) -> Result<[u8; CODE_BYTES_MAX], DataError> {
    pad(text).ok_or_else(|| DataError::Code(text.into()))
}

fn unpack(bytes: &[u8; CODE_BYTES_MAX]) -> &str {
    let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(CODE_BYTES_MAX);
    // ASCII by construction; the fallback is never taken.
    core::str::from_utf8(&bytes[..len]).unwrap_or("")
}

/// Exchange in the high 32 bits, symbol in the low 96.
fn pack(exchange: u32, symbol: &[u8; CODE_BYTES_MAX]) -> u128 {
    symbol.iter().fold(u128::from(exchange), |key, &byte| key << 8 | u128::from(byte))
}
