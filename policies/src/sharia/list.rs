//! Boards and screening lists as data: what a file must say before anything is judged by it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::amount::Percent;
use crate::instrument::{Confidence, Isin};
use crate::{DataError, UnixNanos};

/// Who publishes lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name in claims and on the wire, such as `EGX33`.
    pub name: String,
    /// What it is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where that comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How sure it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

/// One edition of a board's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// `name@YYYY-MM-DD`, the day it takes effect; `name@YYYY-MM-DD.2` corrects it.
    pub id: String,
    /// The board whose list it is.
    pub board: String,
    /// Exchanges that it speaks about. It is silent on all others, also for an ISIN that it names.
    pub exchanges: Vec<String>,
    /// First instant of the list.
    pub effective_from: UnixNanos,
    /// First instant after the list; without it the list holds until a newer one begins, or its review is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_to: Option<UnixNanos>,
    /// First instant at which the list is too old to be trusted. Required without `effective_to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_by: Option<UnixNanos>,
    /// The standard by which it was evaluated, if it came of figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard: Option<String>,
    /// What it is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it was published.
    pub source: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// How many entries there are: a list cut short is no list.
    pub entry_count: usize,
    /// Checksum of what the list says ([`List::checksum`]), as 64 hexadecimal digits. Where it is given it must be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What it says. An instrument that is not here is not listed, which is a refusal.
    pub entries: Vec<Entry>,
}

/// A security as data names it: by ISIN, by exchange and symbol, or by both, which must then agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// ISIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isin: Option<Isin>,
    /// Exchange of `symbol`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// Symbol on `exchange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
}

/// What a list says about one security.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Which.
    #[serde(flatten)]
    pub security: Security,
    /// What the board found.
    pub status: Status,
    /// Impermissible income as part of all income, per cent: what a holder gives away of the income from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purification: Option<Percent>,
    /// What a reader of the data should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a board found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Compliant: the only status that allows.
    Compliant,
    /// Not compliant.
    NotCompliant,
    /// Doubtful.
    Doubtful,
    /// Being reviewed.
    UnderReview,
    /// Too little is known to say: as good as no.
    InsufficientData,
}

/// A security that may no longer flow, ahead of any new edition: an emergency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// The board that removed it; without it, every board's lists are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// Which.
    #[serde(flatten)]
    pub security: Security,
    /// First instant at which it is gone. It stays so, whatever a list says, until this row is taken away.
    pub from: UnixNanos,
    /// Who decided it, and where that is written.
    pub source: String,
}

/// Entries that one list holds at most.
const ENTRIES_MAX: usize = 1_000_000;
/// Longest board name and longest list name.
const NAME_BYTES_MAX: usize = 32;
/// An offset reaches 14 hours, and a list may begin at any hour of its day.
const ID_DATE_SLACK_NANOS: u64 = 38 * 3_600 * 1_000_000_000;

impl Board {
    /// # Errors
    /// A name that is empty, too long, or not of letters, digits, `_`, `-` and `.`.
    pub(super) fn check(&self) -> Result<(), DataError> {
        if is_name(&self.name) {
            return Ok(());
        }
        let problem = "a board's name has 1 to 32 letters, digits, '_', '-' or '.'";
        Err(DataError::Board { name: self.name.clone(), problem })
    }
}

impl List {
    /// Checks what can be checked without the boards and the instruments. Returns the revision in the id.
    ///
    /// # Errors
    /// The first thing wrong.
    pub(super) fn check(&self) -> Result<u32, DataError> {
        let fail = |problem| Err(DataError::List { id: self.id.clone(), problem });
        let Some((date, revision)) = id_parts(&self.id) else {
            return fail("an id is name@YYYY-MM-DD, or name@YYYY-MM-DD.N for correction N from 2 on");
        };
        if date.0.abs_diff(self.effective_from.0) > ID_DATE_SLACK_NANOS {
            return fail("the date in the id is not the day of effective_from");
        }
        if self.effective_to.is_none() && self.review_by.is_none() {
            return fail("a list without effective_to needs review_by: no list is good for ever");
        }
        if [self.effective_to, self.review_by].into_iter().flatten().any(|end| end <= self.effective_from) {
            return fail("effective_to and review_by come after effective_from");
        }
        if self.entry_count != self.entries.len() || self.entries.len() > ENTRIES_MAX {
            return fail("entry_count is not the number of entries (at most 1,000,000)");
        }
        if self.sha256.as_ref().is_some_and(|sum| *sum != self.checksum()) {
            return fail("sha256 is not the checksum of what the list says: it was changed after it was made");
        }
        if self.source.is_empty() || self.exchanges.is_empty() {
            return fail("a list names its source and at least one exchange");
        }
        for entry in &self.entries {
            let Security { isin, exchange, symbol } = &entry.security;
            match (exchange, symbol, isin) {
                (Some(exchange), Some(_), _) if !self.exchanges.contains(exchange) => {
                    return fail("an entry is on an exchange that the list does not speak about");
                }
                (Some(_), Some(_), _) | (None, None, Some(_)) => {}
                _ => return fail("an entry has an isin, or exchange and symbol, or all three"),
            }
        }
        Ok(revision)
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal)
}

/// The midnight (UTC) of the date in an id, and its revision: 1 when none is written.
fn id_parts(id: &str) -> Option<(UnixNanos, u32)> {
    let (name, rest) = id.split_once('@')?;
    let (date, revision) = match rest.split_once('.') {
        None => (rest, 1),
        Some((date, revision)) => (date, revision.parse().ok().filter(|&number| number >= 2)?),
    };
    let midnight = UnixNanos::parse_rfc3339(&alloc::format!("{date}T00:00:00Z"))?;
    is_name(name).then_some((midnight, revision))
}
