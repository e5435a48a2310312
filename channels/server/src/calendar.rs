//! When an exchange trades: phases by local time, working days, seasonal schedules and holidays, all from data.
//!
//! A pure function of the instant. The time-zone database is the one built into the binary, so that an old one on
//! the host can't shift Cairo's summer by an hour. Reads no clock; knows nothing of halts or upstream status.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

/// Days to look ahead for the next phase: longer than any run of holidays.
const LOOK_AHEAD_DAYS: usize = 30;

/// A trading phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
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
}

impl Phase {
    /// The word on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::PreOpen => "pre_open",
            Self::Continuous => "continuous",
            Self::ClosingAuction => "closing_auction",
            Self::TradeAtLast => "trade_at_last",
        }
    }

    /// Orders gather and match only at the end.
    pub(crate) const fn is_auction(self) -> bool {
        matches!(self, Self::PreOpen | Self::ClosingAuction)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CalendarRow {
    timezone: String,
    weekdays: Vec<String>,
    schedules: Vec<Schedule>,
    holidays: Vec<Holiday>,
}

/// A timetable of phases and the days that it holds on; of several, the last that holds wins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schedule {
    name: String,
    /// Announced but unconfirmed timetables ship disabled.
    enabled: bool,
    valid_from: Date,
    valid_to: Option<Date>,
    only_on: Option<Vec<Season>>,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "confidence")]
    _confidence: String,
    phases: Vec<Slot>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Season {
    from: Date,
    to: Date,
    #[serde(rename = "status")]
    _status: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    phase: Phase,
    #[serde(rename = "local_name")]
    _local_name: String,
    start: Time,
    end: Time,
}

/// A day without a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holiday {
    date: Date,
    name: String,
    #[serde(rename = "status")]
    _status: String,
    #[serde(rename = "confidence")]
    _confidence: String,
    #[serde(rename = "source")]
    _source: String,
}

/// An exchange's calendar.
#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    zone: TimeZone,
    /// By days from Sunday.
    working: [bool; 7],
    schedules: Vec<Schedule>,
    holidays: BTreeMap<Date, String>,
}

/// What the calendar says of an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PhaseAt {
    /// The phase.
    pub(crate) phase: Phase,
    /// When it ends, in nanoseconds since the epoch; `None` past the calendar's horizon.
    pub(crate) until: Option<i64>,
    /// When continuous trading next begins, unless it is on.
    pub(crate) next_open: Option<i64>,
    /// The local date.
    pub(crate) day: Date,
}

impl Calendar {
    pub(crate) fn new(row: CalendarRow) -> anyhow::Result<Self> {
        let zone =
            TimeZoneDatabase::bundled().get(&row.timezone).with_context(|| format!("timezone {}", row.timezone))?;
        const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
        for day in &row.weekdays {
            ensure!(DAYS.contains(&day.as_str()), "weekdays: {day:?} is no day such as \"sunday\"");
        }
        for schedule in &row.schedules {
            let tiles = schedule.phases.windows(2).all(|pair| pair[0].end <= pair[1].start);
            let forward = schedule.phases.iter().all(|slot| slot.start < slot.end && slot.phase != Phase::Closed);
            ensure!(tiles && forward, "schedule {}: phases follow each other and none is \"closed\"", schedule.name);
        }
        let working = DAYS.map(|day| row.weekdays.iter().any(|d| d == day));
        let holidays = row.holidays.into_iter().map(|h| (h.date, h.name)).collect();
        Ok(Self { zone, working, schedules: row.schedules, holidays })
    }

    /// The phase at an instant, in nanoseconds since the epoch.
    pub(crate) fn phase_at(&self, at: i64) -> PhaseAt {
        let day = self.day_at(at);
        let mut found = PhaseAt { phase: Phase::Closed, until: None, next_open: None, day };
        let mut date = day;
        for _ in 0..LOOK_AHEAD_DAYS {
            for slot in self.slots(date) {
                let (start, end) = (self.instant(date, slot.start), self.instant(date, slot.end));
                if start <= at && at < end {
                    found.phase = slot.phase;
                    found.until = Some(end);
                } else if at < start {
                    found.until = found.until.or(Some(start));
                    if slot.phase == Phase::Continuous {
                        found.next_open = (found.phase != Phase::Continuous).then_some(start);
                        return found;
                    }
                }
            }
            let Ok(next) = date.tomorrow() else { break };
            date = next;
        }
        found
    }

    /// When the local day of `at` ends.
    pub(crate) fn midnight_after(&self, at: i64) -> i64 {
        let next = self.day_at(at).tomorrow().unwrap_or(Date::MAX);
        self.instant(next, Time::midnight())
    }

    /// When the local day of `at` began.
    pub(crate) fn midnight_before(&self, at: i64) -> i64 {
        self.instant(self.day_at(at), Time::midnight())
    }

    /// The local date of an instant.
    pub(crate) fn day_at(&self, at: i64) -> Date {
        let instant = jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default();
        self.zone.to_datetime(instant).date()
    }

    /// The phases of a date, in order; none on days without a session.
    fn slots(&self, date: Date) -> &[Slot] {
        let weekday = date.weekday().to_sunday_zero_offset() as usize;
        if !self.working[weekday] || self.holidays.contains_key(&date) {
            return &[];
        }
        let holds = |s: &&Schedule| {
            s.enabled
                && s.valid_from <= date
                && s.valid_to.is_none_or(|to| date <= to)
                && s.only_on.as_ref().is_none_or(|on| on.iter().any(|season| season.from <= date && date <= season.to))
        };
        self.schedules.iter().rev().find(holds).map_or(&[], |s| &s.phases)
    }

    /// A local time as an instant. A time that a clock change skips or repeats is read as RFC 5545 says.
    fn instant(&self, date: Date, time: Time) -> i64 {
        let found = self.zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible();
        found.map_or(i64::MAX, |at| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruments::Listing;
    use bawaba_channels::wire::Timestamp;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().0
    }

    fn check(exchange: &str, rows: &[(&str, Phase, Option<&str>)]) {
        let calendar = Listing::embedded(exchange).unwrap().calendar;
        for (instant, phase, until) in rows {
            let found = calendar.phase_at(at(instant));
            assert_eq!(found.phase, *phase, "{exchange} {instant}");
            if let Some(until) = until {
                assert_eq!(found.until, Some(at(until)), "{exchange} {instant}: until");
            }
        }
    }

    #[test]
    fn egx_opens_at_ten_in_cairo_on_both_sides_of_a_clock_change() {
        // Sources: tzdata 2026f; the instants are those that the exchange's winter and summer time give.
        for open in ["2026-04-23T08:00:00Z", "2026-04-26T07:00:00Z", "2026-10-29T07:00:00Z", "2026-11-01T08:00:00Z"] {
            let calendar = Listing::embedded("EGX").unwrap().calendar;
            let before = calendar.phase_at(at(open) - 1);
            assert_eq!((before.phase, before.next_open), (Phase::PreOpen, Some(at(open))), "{open}");
            assert_eq!(calendar.phase_at(at(open)).phase, Phase::Continuous, "{open}");
        }
    }

    #[test]
    fn adx_opens_at_six_utc_all_year() {
        for day in ["2026-01-05", "2026-07-06"] {
            check("ADX", &[(&format!("{day}T06:00:00Z"), Phase::Continuous, Some(&format!("{day}T10:45:00Z")))]);
            check("ADX", &[(&format!("{day}T05:59:59Z"), Phase::PreOpen, None)]);
        }
    }

    #[test]
    fn the_phases_of_a_day_follow_the_timetable() {
        check(
            "EGX",
            &[
                ("2026-11-22T07:29:59Z", Phase::Closed, Some("2026-11-22T07:30:00Z")),
                ("2026-11-22T07:30:00Z", Phase::PreOpen, Some("2026-11-22T08:00:00Z")),
                ("2026-11-22T08:00:00Z", Phase::Continuous, Some("2026-11-22T12:15:00Z")),
                ("2026-11-22T12:15:00Z", Phase::ClosingAuction, Some("2026-11-22T12:25:00Z")),
                ("2026-11-22T12:25:00Z", Phase::TradeAtLast, Some("2026-11-22T12:30:00Z")),
                ("2026-11-22T12:30:00Z", Phase::Closed, Some("2026-11-23T07:30:00Z")),
                // Thursday's close is followed by Sunday's session.
                ("2026-11-26T13:00:00Z", Phase::Closed, Some("2026-11-29T07:30:00Z")),
                // Ramadan 2026 ends trading an hour earlier.
                ("2026-03-01T11:14:59Z", Phase::Continuous, Some("2026-03-01T11:15:00Z")),
                // A day called off on the same morning.
                ("2025-07-08T08:00:00Z", Phase::Closed, Some("2025-07-09T06:30:00Z")),
            ],
        );
        check("ADX", &[("2026-12-01T12:00:00Z", Phase::Closed, Some("2026-12-04T05:30:00Z"))]);
    }

    proptest! {
        /// A phase holds until the instant it says, and changes there.
        #[test]
        fn phases_tile_time(seconds in 1_735_700_000i64..1_830_000_000, adx in any::<bool>()) {
            let calendar = Listing::embedded(if adx { "ADX" } else { "EGX" }).unwrap().calendar;
            let now = seconds * 1_000_000_000;
            let found = calendar.phase_at(now);
            let until = found.until.unwrap();
            prop_assert!(until > now);
            prop_assert_eq!(calendar.phase_at(until - 1).phase, found.phase);
            prop_assert_ne!(calendar.phase_at(until).phase, found.phase);
            if let Some(open) = found.next_open {
                prop_assert_eq!(calendar.phase_at(open).phase, Phase::Continuous);
                prop_assert_ne!(calendar.phase_at(open - 1).phase, Phase::Continuous);
            }
        }
    }
}
