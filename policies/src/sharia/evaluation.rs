//! The second way to a verdict: figures of companies, evaluated by a board's standard into an edition of its list.
//!
//! From there on nothing differs: an evaluation begins, ends, is corrected and goes stale as any list does.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::amount::Percent;
use super::list::{Entry, List, Security, Status};
use super::ratio::{Past, Standing, assess};
use super::standard::{Fundamentals, Standard};
use crate::instrument::Confidence;
use crate::{DataError, UnixNanos};

/// The companies that a standard was asked about at one date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// As [`List::id`].
    pub id: String,
    /// Id of the standard; its board is the list's.
    pub standard: String,
    /// As [`List::exchanges`].
    pub exchanges: Vec<String>,
    /// First instant of the edition; the standard must be in force then.
    pub effective_from: UnixNanos,
    /// As [`List::effective_to`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_to: Option<UnixNanos>,
    /// As [`List::review_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_by: Option<UnixNanos>,
    /// Where the figures come from.
    pub source: String,
    /// How sure they are.
    pub confidence: Confidence,
    /// How many companies there are: an evaluation cut short is none.
    pub company_count: usize,
    /// The companies. One that is not here is not listed.
    pub companies: Vec<Company>,
}

/// A company by its security, with its figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Company {
    /// Which.
    #[serde(flatten)]
    pub security: Security,
    /// What its last evaluation by this standard left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<Past>,
    /// Its figures.
    pub figures: Fundamentals,
}

impl Evaluation {
    /// The edition that comes of it.
    ///
    /// # Errors
    /// A standard that is not there, wrong in itself, or not in force; a count that is not the companies'.
    pub fn list(&self, standards: &[Standard]) -> Result<List, DataError> {
        let fail = |problem| DataError::List { id: self.id.clone(), problem };
        let mut named = standards.iter().filter(|standard| standard.id == self.standard);
        let (Some(standard), None) = (named.next(), named.next()) else {
            return Err(fail("its standard is not there, or there twice"));
        };
        standard.check()?;
        let begun = standard.effective_from <= self.effective_from;
        if !begun || standard.effective_to.is_some_and(|end| end <= self.effective_from) {
            return Err(fail("its standard is not in force at effective_from"));
        }
        if self.company_count != self.companies.len() {
            return Err(fail("company_count is not the number of companies"));
        }
        let entries: Vec<Entry> = self.companies.iter().map(|company| company.entry(standard)).collect();
        Ok(List {
            id: self.id.clone(),
            board: standard.board.clone(),
            exchanges: self.exchanges.clone(),
            effective_from: self.effective_from,
            effective_to: self.effective_to,
            review_by: self.review_by,
            standard: Some(standard.id.clone()),
            description: None,
            source: self.source.clone(),
            confidence: self.confidence,
            entry_count: entries.len(),
            entries,
            sha256: None,
        })
    }
}

impl Company {
    fn entry(&self, standard: &Standard) -> Entry {
        let found = assess(standard, &self.figures, self.past.as_ref());
        Entry {
            security: self.security.clone(),
            status: match found.standing {
                Standing::Compliant => Status::Compliant,
                Standing::NotCompliant => Status::NotCompliant,
                Standing::Insufficient => Status::InsufficientData,
            },
            purification: found.purification_ppm.and_then(Percent::from_parts_per_million),
            note: None,
        }
    }
}
