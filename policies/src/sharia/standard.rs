//! Screening standards as data: what is measured against what, with which operator, and how a company enters and leaves.
//!
//! Nothing is hard-wired: a board's standard is a [`Standard`], read from `data/sharia/standards.json` or from settings.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::amount::{Amount, Percent};
use crate::instrument::Confidence;
use crate::{DataError, UnixNanos};

/// One version of a board's standard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standard {
    /// Name of this version, such as `djim-2026-02`.
    pub id: String,
    /// The board whose standard it is.
    pub board: String,
    /// First instant of this version.
    pub effective_from: UnixNanos,
    /// First instant after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_to: Option<UnixNanos>,
    /// What it is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it comes from.
    pub source: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// Main activities that are excluded whatever the ratios.
    pub excluded_activities: BTreeSet<Activity>,
    /// Main activities whose financial screens (all but income) are not applied.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exempt_activities: BTreeSet<Activity>,
    /// What is measured; every screen must hold.
    pub screens: Vec<Screen>,
    /// What a failed or passed screen does to a company's standing.
    #[serde(default)]
    pub hysteresis: Hysteresis,
}

/// One measure of a standard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Screen {
    /// What is measured, in a word: `debt`, `cash`, `receivables`, `income`.
    pub measure: String,
    /// The items whose sum is measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// The activities whose income is measured; makes it a screen of income.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub income_of: BTreeSet<Activity>,
    /// What it is measured against; it must hold against each.
    pub over: Vec<Whole>,
    /// Over how long a market capitalisation in `over` is averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub averaging: Option<Averaging>,
    /// The limit.
    pub limit: Limit,
    /// The limit for a company that is not in: narrower, where the standard says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Limit>,
    /// How far above `limit` a company that is in is tolerated for a while ([`Hysteresis::Periods`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated: Option<Limit>,
    /// Where this measure comes from, if elsewhere than the standard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How sure this measure is, if less than the standard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

/// A limit and on which side of it a company at the limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// `<` or `<=`.
    pub operator: Operator,
    /// Per cent, as text.
    pub percent: Percent,
}

/// How a ratio is compared with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// Below the limit.
    #[serde(rename = "<")]
    Below,
    /// At the limit or below it.
    #[serde(rename = "<=")]
    AtMost,
}

/// What a screen is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// Total assets.
    TotalAssets,
    /// Market capitalisation, averaged as the screen says.
    MarketCap,
    /// The greater of total assets and market capitalisation, averaged as the screen says.
    GreaterOfAssetsAndMarketCap,
    /// Total revenue (total income).
    Revenue,
    /// Profit before tax.
    ProfitBeforeTax,
}

/// Over how long a market capitalisation is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Averaging {
    /// Not at all: on the day.
    #[serde(rename = "spot")]
    Spot,
    /// Six months, a review period of EGX33.
    #[serde(rename = "6m")]
    Months6,
    /// Twelve months.
    #[serde(rename = "12m")]
    Months12,
    /// 24 months.
    #[serde(rename = "24m")]
    Months24,
    /// 36 months.
    #[serde(rename = "36m")]
    Months36,
}

/// A line of a balance sheet or income statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Interest-bearing debt, short and long term.
    InterestBearingDebt,
    /// All debt.
    TotalDebt,
    /// Cash.
    Cash,
    /// Cash held in conventional accounts.
    ConventionalCash,
    /// Deposits and securities that bear interest.
    InterestBearingInvestments,
    /// Accounts receivable.
    Receivables,
    /// Cash, receivables and short-term investments.
    LiquidAssets,
    /// Total assets.
    TotalAssets,
    /// Total revenue.
    Revenue,
    /// Profit before tax.
    ProfitBeforeTax,
}

/// What a company does, and where income comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words say it")]
pub enum Activity {
    Permissible,
    IslamicFinance,
    Takaful,
    Alcohol,
    Tobacco,
    Cannabis,
    Pork,
    NonHalalFood,
    ConventionalFinance,
    ConventionalInsurance,
    Gambling,
    Adult,
    Weapons,
    Hotels,
    Cinema,
    Music,
    Dating,
    ShareTrading,
    Stockbroking,
    ImpermissibleRent,
    Interest,
    OtherImpermissible,
}

/// How a company's standing follows its screens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Hysteresis {
    /// At once.
    #[default]
    None,
    /// Counted for each screen that tolerates by itself: a company that is in leaves at once beyond what is tolerated,
    /// and on the `breaches`-th evaluation in a row within it; one that is out returns when it passes everything, and
    /// each of these screens on the `passes`-th evaluation in a row.
    Periods {
        /// Evaluations in a row above the limit that end its time.
        breaches: u8,
        /// Evaluations in a row below it that bring it back.
        passes: u8,
    },
    /// A company that is in may fail one financial screen once; at the next review it passes all or leaves.
    OneFailure,
}

/// What is known of a company at one evaluation. What is not here is unknown, never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fundamentals {
    /// Its main activity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Lines of its accounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<Item, Amount>,
    /// Its market capitalisation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub market_cap: BTreeMap<Averaging, Amount>,
    /// Its income by activity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub income: BTreeMap<Activity, Amount>,
    /// Whether `income` names every source: only then is an activity that it does not name worth zero.
    #[serde(default)]
    pub income_is_complete: bool,
}

impl Standard {
    /// # Errors
    /// The first thing wrong.
    pub(super) fn check(&self) -> Result<(), DataError> {
        let fail = |problem| Err(DataError::Standard { id: self.id.clone(), problem });
        if !super::list::is_name(&self.id) || self.source.is_empty() {
            return fail("an id has 1 to 32 letters, digits, '_', '-' or '.', and a standard names its source");
        }
        if self.effective_to.is_some_and(|end| end <= self.effective_from) {
            return fail("effective_to comes after effective_from");
        }
        if self.screens.is_empty() || self.excluded_activities.is_empty() {
            return fail("a standard has screens and excluded activities");
        }
        for screen in &self.screens {
            let by_market = |whole: &Whole| matches!(whole, Whole::MarketCap | Whole::GreaterOfAssetsAndMarketCap);
            if screen.over.is_empty() || screen.over.iter().any(by_market) != screen.averaging.is_some() {
                return fail("a screen is measured against something, and has an averaging if that is market_cap");
            }
            if screen.items.is_empty() == screen.income_of.is_empty() {
                return fail("a screen measures items or the income of activities");
            }
            let narrower = screen.entry.is_none_or(|entry| entry.percent <= screen.limit.percent);
            let wider = screen.tolerated.is_none_or(|tolerated| tolerated.percent >= screen.limit.percent);
            if !narrower || !wider {
                return fail("entry is at most the limit, tolerated at least");
            }
        }
        let bands = self.screens.iter().filter(|screen| screen.tolerated.is_some());
        let mut measures: Vec<&str> = bands.map(|screen| screen.measure.as_str()).collect();
        if measures.is_empty() == matches!(self.hysteresis, Hysteresis::Periods { .. }) {
            return fail("hysteresis by periods and screens with tolerated need each other");
        }
        measures.sort_unstable();
        if measures.windows(2).any(|two| two[0] == two[1]) {
            return fail("two screens with tolerated have one measure: their periods are counted by it");
        }
        if matches!(self.hysteresis, Hysteresis::Periods { breaches: 0, .. } | Hysteresis::Periods { passes: 0, .. }) {
            return fail("periods are counted from 1");
        }
        Ok(())
    }
}

impl Screen {
    /// Whether it measures income: never exempt, never forgiven.
    pub fn is_of_income(&self) -> bool {
        !self.income_of.is_empty()
    }
}
