//! A calendar as data: what a file says of sessions, seasons and holidays, each row with its source and how sure it is.

use alloc::string::String;
use alloc::vec::Vec;

use jiff::civil::{Date, Time};
use serde::{Deserialize, Serialize};

use super::Phase;

/// How sure a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Inferred, or from a weak source.
    Low,
    /// One credible source.
    Medium,
    /// Several independent or official texts agree.
    High,
}

impl Certainty {
    /// The word in data and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// The calendar of an exchange, as its file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalendarRow {
    /// IANA name of the zone that its times are in.
    pub timezone: String,
    /// First day for which holidays were collected: before it a working day is of low certainty.
    pub holidays_from: Date,
    /// Last such day.
    pub holidays_to: Date,
    /// Timetables; of several that hold on a day, the last one.
    pub schedules: Vec<Schedule>,
    /// Days without a session, and days that might be taken for such.
    pub holidays: Vec<Holiday>,
}

/// A timetable and the days that it holds on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Its name, for overrides and people.
    pub name: String,
    /// Announced but unconfirmed timetables ship disabled.
    pub enabled: bool,
    /// First day.
    pub valid_from: Date,
    /// Last day.
    pub valid_to: Option<Date>,
    /// Working days: `sunday` to `saturday`.
    pub weekdays: Vec<String>,
    /// Only in these seasons.
    pub only_on: Option<Vec<Season>>,
    /// Where it was read.
    pub source: String,
    /// How sure it is, as a whole.
    pub confidence: Certainty,
    /// What is worth knowing.
    pub note: Option<String>,
    /// The phases of a day, in order; between them the market is closed.
    pub phases: Vec<Slot>,
    /// What else happens at fixed times, beside the phases: block trades, allocation, the OTC market.
    pub windows: Vec<Window>,
}

/// Days of a season, such as a Ramadan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Season {
    /// First day.
    pub from: Date,
    /// Last day.
    pub to: Date,
    /// `confirmed`, `unconfirmed`, `tentative`.
    pub status: String,
    /// How sure the days are.
    pub confidence: Certainty,
}

/// One phase of a day.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The phase.
    pub phase: Phase,
    /// What the exchange calls it.
    pub local_name: String,
    /// Local time of its first instant.
    pub start: Time,
    /// Local time of the first instant after it.
    pub end: Time,
    /// When orders match.
    pub matching: String,
    /// How sure the times are.
    pub confidence: Certainty,
    /// It ends at a random instant within these.
    pub random_end: Option<RandomEnd>,
    /// What is worth knowing.
    pub note: Option<String>,
}

/// Within which times a phase ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomEnd {
    /// Earliest.
    pub earliest: Time,
    /// Latest: then it ends.
    pub latest: Time,
}

/// A fixed time of day that is no phase of the market.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// What.
    pub name: String,
    /// Local time of its first instant.
    pub start: Time,
    /// Local time of the first instant after it.
    pub end: Time,
    /// Only on these days; else on every working day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weekdays: Vec<String>,
    /// When orders match.
    pub matching: String,
    /// How sure the times are.
    pub confidence: Certainty,
    /// What is worth knowing.
    pub note: Option<String>,
}

/// Whether a row of the holiday list ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closure {
    /// No session that day.
    FullDay,
    /// It falls on a weekend: listed so that nobody looks for it.
    WeekendNoEffect,
}

/// A row of the holiday list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holiday {
    /// The local day.
    pub date: Date,
    /// What is celebrated, or happened.
    pub name: String,
    /// What it does.
    pub closure: Closure,
    /// What it goes by: `fixed`, `moon`, `exceptional`, ….
    pub basis: String,
    /// `confirmed`, `published-rule`, `package-confirmed`, …, `unconfirmed`, `tentative`.
    pub status: String,
    /// How sure it is.
    pub confidence: Certainty,
    /// Where it was read.
    pub source: String,
    /// What is worth knowing.
    pub note: Option<String>,
}

impl Holiday {
    /// How sure the day is: a row that nobody confirmed is never more than low.
    pub fn certainty(&self) -> Certainty {
        match self.status.as_str() {
            "unconfirmed" | "tentative" => Certainty::Low,
            _ => self.confidence,
        }
    }
}
