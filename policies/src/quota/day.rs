//! Days as an exchange counts them: its own midnight, summer time included.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::{DataError, UnixNanos};

const BUILTIN: &str = include_str!("../../data/calendar/utc_offsets.json");
const NANOS_PER_MINUTE: i128 = 60_000_000_000;
const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// The offset of an exchange's clock from UTC, from this instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offset {
    /// First instant.
    pub from: UnixNanos,
    /// East of Greenwich.
    pub minutes: i16,
}

/// An exchange's clock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// The exchange.
    pub exchange: String,
    /// In order of time; the last holds until further notice.
    pub offsets: Vec<Offset>,
}

/// The clocks of the exchanges. One that is not known counts in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clocks(Vec<Clock>);

/// A day of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970-01-01 on the exchange's clock.
    pub number: u32,
    /// When the next one begins.
    pub next_at: UnixNanos,
}

impl Clocks {
    /// The clocks that ship with this crate, reaching to 2030, with `clocks` laid over them by exchange.
    ///
    /// # Errors
    /// [`DataError`] when a clock has no offsets, or not in order.
    pub fn from_settings(clocks: &[Clock]) -> Result<Self, DataError> {
        #[derive(Deserialize)]
        struct File {
            exchanges: Vec<Clock>,
        }
        let mut all = serde_json::from_str::<File>(BUILTIN)?.exchanges;
        all.retain(|clock| !clocks.iter().any(|new| new.exchange == clock.exchange));
        all.extend_from_slice(clocks);
        let ordered = |clock: &Clock| clock.offsets.windows(2).all(|pair| pair[0].from < pair[1].from);
        match all.iter().find(|clock| clock.offsets.is_empty() || !ordered(clock)) {
            Some(clock) => Err(DataError::Tiers {
                name: clock.exchange.clone(),
                problem: "a clock needs offsets in order of time",
            }),
            None => Ok(Self(all)),
        }
    }

    /// The day of an exchange at an instant.
    pub fn day(&self, exchange: &str, now: UnixNanos) -> Day {
        let local = i128::from(now.0) + self.offset_nanos(exchange, now);
        let number = local.max(0) / NANOS_PER_DAY;
        // Summer time may begin or end at that midnight: it is the first instant whose clock shows the next day.
        let midnight = (number + 1) * NANOS_PER_DAY;
        let at = |nanos: i128| UnixNanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX));
        let before = midnight - self.offset_nanos(exchange, now);
        let after = midnight - self.offset_nanos(exchange, at(before));
        let shows = |nanos: i128| nanos + self.offset_nanos(exchange, at(nanos)) >= midnight;
        let next = [before.min(after), before.max(after)].into_iter().find(|nanos| shows(*nanos)).unwrap_or(after);
        Day { number: u32::try_from(number).unwrap_or(u32::MAX), next_at: at(next).max(UnixNanos(now.0 + 1)) }
    }

    fn offset_nanos(&self, exchange: &str, now: UnixNanos) -> i128 {
        let clock = self.0.iter().find(|clock| clock.exchange == exchange);
        let offset = clock.and_then(|clock| {
            clock.offsets.iter().rev().find(|offset| offset.from <= now).or_else(|| clock.offsets.first())
        });
        offset.map_or(0, |offset| i128::from(offset.minutes) * NANOS_PER_MINUTE)
    }
}
