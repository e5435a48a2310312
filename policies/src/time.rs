//! Instants. Time is an argument everywhere in this crate; this is its type and its text form.

use alloc::format;
use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since 1970-01-01T00:00:00Z, leap seconds not counted. Reaches to the year 2554.
///
/// In data files it is RFC 3339 with its offset (`2024-06-12T00:00:00+03:00`): a bare date would not say whose
/// midnight is meant, and two hours of the wrong list is a leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixNanos(pub u64);

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

impl UnixNanos {
    /// Whole seconds since the epoch, as JWT claims count; saturates at the end of time (2554).
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// Whole milliseconds since the epoch; saturates.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(NANOS_PER_MILLI))
    }

    /// This instant plus whole milliseconds; saturates.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(NANOS_PER_MILLI)))
    }

    /// RFC 3339 with an offset, up to nine decimals. `None` for anything else, or before 1970.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if bytes.len() < 20 || separators.iter().any(|&(at, byte)| bytes[at] != byte) {
            return None;
        }
        let [year, month, day] = [digits(&bytes[..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?];
        let [hour, minute, second] = [digits(&bytes[11..13])?, digits(&bytes[14..16])?, digits(&bytes[17..19])?];
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (nanos, rest) = fraction(&bytes[19..])?;
        let offset_seconds = offset(rest)?;
        let of_day = hour * 3_600 + minute * 60 + second;
        let seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY + of_day - offset_seconds;
        let seconds = u64::try_from(seconds).ok()?;
        Some(Self(seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(nanos)?))
    }

    /// RFC 3339 in UTC with milliseconds, the form of the JSON protocol.
    pub fn to_rfc3339_millis(self) -> String {
        format!("{}.{:03}Z", self.whole_seconds(), self.0 % NANOS_PER_SECOND / NANOS_PER_MILLI)
    }

    fn whole_seconds(self) -> String {
        let seconds = self.0 / NANOS_PER_SECOND;
        // u64 nanoseconds hold fewer than 2^34 seconds, so the cast is exact.
        let (year, month, day) = civil_from_days((seconds / SECONDS_PER_DAY as u64) as i64);
        let of_day = seconds % SECONDS_PER_DAY as u64;
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339_millis())
    }
}

impl Serialize for UnixNanos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // All nine decimals: what is written reads back as the same instant.
        serializer.collect_str(&format_args!("{}.{:09}Z", self.whole_seconds(), self.0 % NANOS_PER_SECOND))
    }
}

impl<'de> Deserialize<'de> for UnixNanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is no instant: write 2024-06-12T00:00:00+03:00, offset included"
            ))
        })
    }
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |sum: i64, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// The decimals after the seconds, as nanoseconds, and what follows them.
fn fraction(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else {
        return Some((0, bytes));
    };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let value = u64::try_from(digits(&rest[..count])?).ok()?;
    Some((value * 10_u64.pow(9 - u32::try_from(count).ok()?), &rest[count..]))
}

/// `Z` or `+03:00`, in seconds east of Greenwich.
fn offset(bytes: &[u8]) -> Option<i64> {
    match bytes {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            let seconds = (hours <= 23 && minutes <= 59).then_some(hours * 3_600 + minutes * 60)?;
            Some(if *sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a Gregorian date. Years are counted from March, so that the leap day is a year's last
/// (the method of H. Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn instants_keep_their_offset_and_their_nanoseconds() {
        let cairo = UnixNanos::parse_rfc3339("2024-06-12T00:00:00+03:00").unwrap();
        assert_eq!(cairo, UnixNanos::parse_rfc3339("2024-06-11T21:00:00Z").unwrap());
        assert_eq!(cairo.to_string(), "2024-06-11T21:00:00.000Z");
        let last = UnixNanos::parse_rfc3339("2024-07-31T20:59:59.999999999Z").unwrap();
        assert_eq!(last.0 + 1, UnixNanos::parse_rfc3339("2024-08-01T00:00:00+03:00").unwrap().0);
        assert_eq!(UnixNanos::parse_rfc3339("2024-02-29T00:00:00Z").unwrap().to_string(), "2024-02-29T00:00:00.000Z");
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "2024-06-12",
            "2024-06-12T00:00:00",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-06-12T24:00:00Z",
            "2024-06-12T00:00:00.Z",
            "2024-06-12T00:00:00.1234567890Z",
            "2024-06-12T00:00:00+3:00",
            "1969-12-31T23:59:59Z",
            "",
        ] {
            assert_eq!(UnixNanos::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_to_2554_survives_the_round_trip() {
        for day in 0..213_000 {
            let (y, m, d) = civil_from_days(day);
            assert_eq!(days_from_civil(y, m, d), day);
        }
    }
}
