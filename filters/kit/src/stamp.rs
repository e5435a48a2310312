//! The instant of a callback and its text form, written once however many messages are judged in it.
//!
//! Reads no clock: the shell does.

use bawaba_channels::wire::Timestamp;

/// `2026-11-22T08:00:00.000Z`.
pub(crate) const TEXT_BYTES: usize = 24;

/// An instant with its RFC 3339 text in UTC, to the millisecond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) now: Timestamp,
    text: [u8; TEXT_BYTES],
}

impl Stamp {
    pub(crate) fn new(now: Timestamp) -> Self {
        let mut stamp = Self { now, text: *b"0000-00-00T00:00:00.000Z" };
        stamp.write();
        stamp
    }

    /// Moves to `now`; rewrites the text only when the millisecond changed.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        let same = now.as_millis() == self.now.as_millis();
        self.now = now;
        if !same {
            self.write();
        }
    }

    /// The text.
    pub(crate) const fn text(&self) -> &[u8; TEXT_BYTES] {
        &self.text
    }

    fn write(&mut self) {
        // Before 1970 or after 9999 the text form has no four-digit year; a host clock there is broken.
        let millis = self.now.as_millis().clamp(0, 253_402_300_799_999);
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = civil(days);
        for (at, width, value) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, of_day / 3_600_000),
            (14, 2, of_day / 60_000 % 60),
            (17, 2, of_day / 1000 % 60),
            (20, 3, of_day % 1000),
        ] {
            let mut rest = value;
            for digit in self.text[at..at + width].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
    }
}

/// Year, month and day of a day number since 1970-01-01. Years are counted from March, so that the leap day is
/// a year's last (H. Hinnant's `civil_from_days`).
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_wire_writes() {
        for nanos in [0, 1_795_334_400_123_456_789, 951_782_399_999_000_000, 4_102_444_800_000_000_000] {
            let stamp = Stamp::new(Timestamp(nanos));
            assert_eq!(core::str::from_utf8(stamp.text()).unwrap(), Timestamp(nanos).to_string());
        }
    }
}
