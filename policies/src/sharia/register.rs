//! The register: boards, lists and instruments, indexed once so that a verdict is a few look-ups.
//!
//! Every list is unrolled to one outcome per instrument when it is loaded; what is left for the moment of a verdict
//! is which edition is in force, and that is all that depends on time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

mod sources;

use sources::{evaluate, index_removals, overlay};

use super::amount::Percent;
use super::evaluation::Evaluation;
use super::list::{Board, Entry, List, Removal, Security, Status};
use super::rules::{RuleSet, RuleSettings};
use super::screening::Screened;
use super::standard::Standard;
use super::verdict::{Finding, Outcome};
use crate::instrument::{Directory, Found, InstrumentId, Isin, Market};
use crate::{DataError, InstrumentRef, UnixNanos};

/// What the data ships with: published lists, the instruments of EGX and ADX. Generated from `data/` (a test holds
/// them equal), without the fields that no verdict needs.
const BUILTIN: &str = include_str!("../../data/builtin.json");

/// Where settings start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// The data that ships with this crate.
    #[default]
    Builtin,
    /// Nothing.
    Empty,
}

/// Settings of the Sharia policy. `{}` is the data that ships with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the rest is laid over.
    pub base: Base,
    /// Boards, added or replaced by name.
    pub boards: Vec<Board>,
    /// Lists, added or replaced by id.
    pub lists: Vec<List>,
    /// Instruments and renames, added or replaced by exchange and symbol.
    pub markets: Vec<Market>,
    /// Screening standards, added or replaced by id.
    pub standards: Vec<Standard>,
    /// Companies' figures: each makes one list, by its standard.
    pub evaluations: Vec<Evaluation>,
    /// Securities taken out ahead of a new list.
    pub removals: Vec<Removal>,
    /// Whether every list must carry its checksum.
    pub checksums_required: bool,
    /// Ids of lists that are used after their end, and labelled so.
    pub historical: Vec<String>,
    /// What becomes of messages beside what the verdicts say; see [`RuleSet`].
    pub rules: Vec<RuleSettings>,
}

/// Boards, lists and instruments, ready to judge by.
#[derive(Clone, Debug)]
pub struct Register {
    directory: Directory,
    boards: Vec<BoardIndex>,
    lists: Vec<ListIndex>,
    /// Sorted by instrument: the board (all without) and the instant from which it is gone.
    removed: Vec<(InstrumentId, Option<String>, UnixNanos)>,
    /// Every instant at which a verdict may change, sorted.
    changes: Vec<UnixNanos>,
    rules: RuleSet,
}

#[derive(Clone, Debug)]
struct BoardIndex {
    name: String,
    /// Per exchange of the directory: (first instant, place in `lists`), the newest correction last.
    editions: Vec<Vec<(UnixNanos, usize)>>,
}

#[derive(Clone, Debug)]
struct ListIndex {
    id: String,
    standard: Option<String>,
    from: UnixNanos,
    /// First instant at which it no longer speaks; the end of time for a historical list.
    end: UnixNanos,
    /// When it ended by itself: later than this it is only history.
    own_end: UnixNanos,
    outcomes: Vec<Outcome>,
    /// Sorted by instrument; most lists say none.
    purifications: Vec<(InstrumentId, Percent)>,
}

impl Register {
    /// The data that ships with this crate, nothing historical: its one published list has ended, so that every
    /// screened session is refused until a list in force is added or that one is named in `historical`.
    ///
    /// # Errors
    /// None in practice: a test loads it.
    pub fn builtin() -> Result<Self, DataError> {
        Self::from_settings(&Settings::default())
    }

    /// Builds a register from settings; taken whole or not at all.
    ///
    /// # Errors
    /// The first thing wrong, by name.
    pub fn from_settings(settings: &Settings) -> Result<Self, DataError> {
        let mut base = match settings.base {
            Base::Builtin => serde_json::from_str(BUILTIN)?,
            Base::Empty => Settings::default(),
        };
        let mut exchanges = BTreeSet::new();
        if let Some(twice) = settings.markets.iter().find(|market| !exchanges.insert(&market.exchange)) {
            return Err(DataError::MarketTwice(twice.exchange.clone()));
        }
        overlay(&mut base, settings);
        evaluate(&mut base, settings)?;
        if let Some(bare) = settings.lists.iter().find(|list| settings.checksums_required && list.sha256.is_none()) {
            return Err(DataError::List { id: bare.id.clone(), problem: "checksums_required, and it has no sha256" });
        }
        let directory = Directory::new(&base.markets)?;
        let mut boards = index_boards(&base.boards, directory.exchanges().count())?;
        let (lists, mut changes) = index_lists(&base, &directory, &mut boards)?;
        // A ticker that passes to another company changes its verdict too.
        changes.extend(base.markets.iter().flat_map(|market| &market.renames).filter_map(|rename| rename.at));
        let removed = index_removals(&settings.removals, &directory)?;
        changes.extend(settings.removals.iter().map(|removal| removal.from));
        let changes = changes.into_iter().collect();
        let rules = RuleSet::new(&settings.rules, &directory)?;
        Ok(Self { directory, boards, lists, removed, changes, rules })
    }

    /// The instruments.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Names of the boards, loaded lists or not.
    pub fn boards(&self) -> impl Iterator<Item = &str> {
        self.boards.iter().map(|board| board.name.as_str())
    }

    /// What becomes of messages.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// The first instant after `now` at which any verdict may change; `None` when none will without new data.
    pub fn next_change(&self, now: UnixNanos) -> Option<UnixNanos> {
        let next = self.changes.partition_point(|&change| change <= now);
        self.changes.get(next).copied()
    }

    /// The editions in force for a session's boards at an instant, one per board and exchange that has one: what
    /// `welcome` names.
    pub fn lists_in_force<'a>(&'a self, screened: &'a Screened, now: UnixNanos) -> Vec<(&'a str, &'a str)> {
        let mut found = Vec::new();
        for name in screened.boards() {
            let Some(board) = self.boards.iter().find(|board| board.name == *name) else {
                continue;
            };
            for editions in &board.editions {
                let Some(list) = self.edition(editions, now).filter(|list| now < list.end) else {
                    continue;
                };
                let pair = (name.as_str(), list.id.as_str());
                if !found.contains(&pair) {
                    found.push(pair);
                }
            }
        }
        found
    }

    /// What one board says about one instrument.
    pub(super) fn finding<'a>(&'a self, name: &'a str, id: InstrumentId, now: UnixNanos) -> Finding<'a> {
        let missing = Finding {
            board: name,
            list: None,
            outcome: Outcome::ListMissing,
            standard: None,
            effective_from: None,
            historical: false,
            purification: None,
        };
        let Some(board) = self.boards.iter().find(|board| board.name == name) else {
            return missing;
        };
        if board.editions.iter().all(Vec::is_empty) {
            return missing;
        }
        let editions = &board.editions[self.directory.exchange_of(id) as usize];
        if editions.is_empty() {
            // The board has lists, and none of them speaks about this exchange.
            return Finding { outcome: Outcome::NotListed, ..missing };
        }
        let Some(list) = self.edition(editions, now) else {
            return missing;
        };
        let outcome = match list.outcomes[id.0 as usize] {
            _ if now >= list.end => Outcome::ListStale,
            _ if self.is_removed(name, id, now) => Outcome::Removed,
            outcome => outcome,
        };
        let historical = now >= list.own_end && now < list.end;
        let found = list.purifications.binary_search_by_key(&id, |&(other, _)| other).ok();
        let purification = found.map(|at| list.purifications[at].1);
        Finding {
            board: name,
            list: Some(&list.id),
            outcome,
            standard: list.standard.as_deref(),
            effective_from: Some(list.from),
            historical,
            purification,
        }
    }

    fn is_removed(&self, board: &str, id: InstrumentId, now: UnixNanos) -> bool {
        let start = self.removed.partition_point(|(other, ..)| *other < id);
        let rows = self.removed[start..].iter().take_while(|(other, ..)| *other == id);
        rows.into_iter().any(|(_, by, from)| *from <= now && by.as_deref().is_none_or(|by| by == board))
    }

    /// The newest edition that has begun. An older one never comes back when it ends.
    fn edition(&self, editions: &[(UnixNanos, usize)], now: UnixNanos) -> Option<&ListIndex> {
        let begun = editions.partition_point(|&(from, _)| from <= now);
        let (_, at) = *editions.get(begun.checked_sub(1)?)?;
        self.lists.get(at)
    }
}

fn index_boards(boards: &[Board], exchanges: usize) -> Result<Vec<BoardIndex>, DataError> {
    let mut names = BTreeSet::new();
    boards
        .iter()
        .map(|board| {
            board.check()?;
            if !names.insert(&board.name) {
                return Err(DataError::Board { name: board.name.clone(), problem: "is there twice" });
            }
            Ok(BoardIndex { name: board.name.clone(), editions: vec![Vec::new(); exchanges] })
        })
        .collect()
}

fn index_lists(
    data: &Settings,
    directory: &Directory,
    boards: &mut [BoardIndex],
) -> Result<(Vec<ListIndex>, BTreeSet<UnixNanos>), DataError> {
    let mut ordered = Vec::with_capacity(data.lists.len());
    for list in &data.lists {
        ordered.push((list.effective_from, list.check()?, list));
    }
    ordered.sort_by_key(|&(from, revision, _)| (from, revision));

    let mut ids = BTreeSet::new();
    let mut lists: Vec<ListIndex> = Vec::with_capacity(ordered.len());
    let mut changes = BTreeSet::new();
    let mut spoken: BTreeMap<(&str, &str), (UnixNanos, u32)> = BTreeMap::new();
    for (from, revision, list) in ordered {
        let fail = |problem| DataError::List { id: list.id.clone(), problem };
        if !ids.insert(list.id.as_str()) {
            return Err(fail("is there twice"));
        }
        let Some(board) = boards.iter_mut().find(|board| board.name == list.board) else {
            return Err(fail("its board is not among the boards"));
        };
        for exchange in &list.exchanges {
            let Some(index) = directory.exchange_index(exchange) else {
                return Err(fail("no instruments are known for one of its exchanges"));
            };
            if spoken.insert((&list.board, exchange), (from, revision)) == Some((from, revision)) {
                return Err(fail("another list of its board takes effect at the same instant: correct it as id.2"));
            }
            board.editions[index as usize].push((from, lists.len()));
        }
        let own_end = list.effective_to.into_iter().chain(list.review_by).min().unwrap_or(from);
        let historical = data.historical.contains(&list.id);
        let end = if historical { UnixNanos(u64::MAX) } else { own_end };
        changes.extend([from, own_end]);
        let (outcomes, purifications) = unroll(list, directory);
        let (id, standard) = (list.id.clone(), list.standard.clone());
        lists.push(ListIndex { id, standard, from, end, own_end, outcomes, purifications });
    }
    if let Some(unknown) = data.historical.iter().find(|id| !ids.contains(id.as_str())) {
        return Err(DataError::HistoricalUnknown(unknown.to_string()));
    }
    Ok((lists, changes))
}

/// One outcome per instrument of the directory. Those on exchanges that the list does not speak about may get one too
/// (a dual listing does, by its ISIN): the list is not among their exchange's editions, so nobody reads it.
fn unroll(list: &List, directory: &Directory) -> (Vec<Outcome>, Vec<(InstrumentId, Percent)>) {
    let mut purifications = Vec::new();
    let mut outcomes = vec![Outcome::NotListed; directory.len()];
    for entry in &list.entries {
        let outcome = match entry.status {
            Status::Compliant => Outcome::Listed,
            Status::NotCompliant => Outcome::NotCompliant,
            Status::Doubtful => Outcome::Doubtful,
            Status::UnderReview => Outcome::UnderReview,
            Status::InsufficientData => Outcome::InsufficientData,
        };
        let (ids, outcome) = resolve(entry, list, directory, outcome);
        for id in ids.into_iter() {
            purifications.extend(entry.purification.map(|share| (id, share)));
            let slot = &mut outcomes[id.0 as usize];
            // Said twice alike is said once; said twice differently is not said.
            *slot = if *slot == Outcome::NotListed || *slot == outcome { outcome } else { Outcome::AmbiguousEntry };
        }
    }
    // Said twice: the larger share holds.
    purifications.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    purifications.dedup_by_key(|(id, _)| *id);
    (outcomes, purifications)
}

/// Which instruments an entry is about, and what it says about them: ambiguous where its ISIN and its symbol lead to
/// different securities.
fn resolve(entry: &Entry, list: &List, directory: &Directory, outcome: Outcome) -> (Vec<InstrumentId>, Outcome) {
    let by_isin = |isin: Isin| directory.with_isin(isin).collect::<Vec<_>>();
    let Security { isin, exchange, symbol } = &entry.security;
    let by_symbol = match (exchange, symbol) {
        (Some(exchange), Some(symbol)) => {
            match directory.find(InstrumentRef::new(exchange, symbol), list.effective_from) {
                Found::One(id) => Some(id),
                Found::Unknown | Found::Ambiguous => None,
            }
        }
        _ => None,
    };
    match (*isin, by_symbol) {
        (None, None) => (Vec::new(), outcome),
        (None, Some(id)) => match directory.isin(id) {
            // The verdict belongs to the security: every line of it gets what this one gets.
            Some(isin) => (by_isin(isin), outcome),
            None => (vec![id], outcome),
        },
        (Some(isin), None) => (by_isin(isin), outcome),
        (Some(isin), Some(id)) => {
            let mut ids = by_isin(isin);
            if directory.isin(id) == Some(isin) {
                return (ids, outcome);
            }
            let conflict = directory.isin(id).is_some() || ids.iter().any(|&other| same_market(directory, other, id));
            ids.push(id);
            (ids, if conflict { Outcome::AmbiguousEntry } else { outcome })
        }
    }
}

fn same_market(directory: &Directory, one: InstrumentId, other: InstrumentId) -> bool {
    directory.exchange_of(one) == directory.exchange_of(other)
}
