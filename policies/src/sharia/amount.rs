//! Exact amounts and limits. No floating point: a company at 33.33 % is on one side of a line, not near it.

use alloc::format;
use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Money, in millionths of its unit: at most 18 digits before the point and 6 behind it. May be negative.
///
/// Sums of a few of these times [`PARTS_PER_ONE`] stay below 2^127: nothing here overflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

/// A limit, in millionths of one: `"33.333"` per cent is 333,330.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

const PARTS_PER_ONE: i128 = 1_000_000;
const AMOUNT_DECIMALS: usize = 6;
const PERCENT_DECIMALS: usize = 4;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Digits, with up to six decimals: `"-1200.5"`. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let value = scaled(digits, 18, AMOUNT_DECIMALS)?;
        Some(Self(if negative { -value } else { value }))
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it is above zero.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// How this part of `whole` (above zero) lies to `limit`, by cross-multiplication.
    pub fn share_to(self, whole: Self, limit: Percent) -> core::cmp::Ordering {
        (self.0 * PARTS_PER_ONE).cmp(&(whole.0 * i128::from(limit.0)))
    }

    /// This part of `whole` (above zero) in millionths, rounded up: who gives away a share gives enough.
    pub fn parts_per_million_of(self, whole: Self) -> u64 {
        let parts = (self.0.max(0) * PARTS_PER_ONE + whole.0 - 1) / whole.0;
        u64::try_from(parts).unwrap_or(u64::MAX)
    }
}

impl Percent {
    /// From millionths; `None` above the whole.
    pub fn from_parts_per_million(parts: u64) -> Option<Self> {
        let value = u32::try_from(parts).ok()?;
        (i128::from(value) <= PARTS_PER_ONE).then_some(Self(value))
    }

    /// Per cent with up to four decimals, at most 100.
    pub fn parse(text: &str) -> Option<Self> {
        let value = u32::try_from(scaled(text, 3, PERCENT_DECIMALS)?).ok()?;
        (i128::from(value) <= PARTS_PER_ONE).then_some(Self(value))
    }
}

/// The digits of `text` times ten to the power of `decimals`.
fn scaled(text: &str, whole_digits_max: usize, decimals: usize) -> Option<i128> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let pointless = !text.contains('.') || !rest.is_empty();
    let fits = (1..=whole_digits_max).contains(&whole.len()) && rest.len() <= decimals && pointless;
    if !fits || !whole.bytes().chain(rest.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let zeros = core::iter::repeat_n(b'0', decimals - rest.len());
    Some(whole.bytes().chain(rest.bytes()).chain(zeros).fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0')))
}

fn written(f: &mut fmt::Formatter<'_>, value: u128, decimals: usize) -> fmt::Result {
    let one = 10_u128.pow(u32::try_from(decimals).unwrap_or(0));
    let (whole, rest) = (value / one, value % one);
    if rest == 0 {
        return write!(f, "{whole}");
    }
    let rest = format!("{rest:0decimals$}");
    write!(f, "{whole}.{}", rest.trim_end_matches('0'))
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        written(f, self.0.unsigned_abs(), AMOUNT_DECIMALS)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(f, u128::from(self.0), PERCENT_DECIMALS)
    }
}

macro_rules! as_text {
    ($($type:ty, $expected:literal;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is {}", $expected)))
            }
        }
    )*};
}
as_text! {
    Amount, "no amount: write digits as text, with up to six decimals";
    Percent, "no per cent: write 0 to 100 as text, with up to four decimals";
}

#[cfg(test)]
mod tests {
    use core::cmp::Ordering;

    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_share_is_compared_exactly_at_the_largest_amounts() {
        let whole = Amount::parse("999999999999999999.999999").unwrap();
        let third = Amount::parse("333299999999999999.999999").unwrap();
        let limit = Percent::parse("33.33").unwrap();
        assert_eq!(third.share_to(whole, limit), Ordering::Less);
        let whole = Amount::parse("300000000000000000").unwrap();
        let exact = Amount::parse("99990000000000000").unwrap();
        assert_eq!(exact.share_to(whole, limit), Ordering::Equal);
        let above = Amount::parse("99990000000000000.000001").unwrap();
        assert_eq!(above.share_to(whole, limit), Ordering::Greater);
        assert_eq!(above.parts_per_million_of(whole), 333_301, "rounded up");
        assert_eq!(exact.parts_per_million_of(whole), 333_300);
    }

    #[test]
    fn amounts_and_limits_read_back_as_they_were_written() {
        for text in ["0", "-1200.5", "0.000001", "999999999999999999.999999"] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), text);
        }
        for text in ["33.333", "5", "100", "0.0001"] {
            assert_eq!(Percent::parse(text).unwrap().to_string(), text);
        }
        for text in ["", ".5", "1.", "1e3", "+1", "1.0000001", "--1", "1 000", "1000000000000000000", "NaN"] {
            assert!(Amount::parse(text).is_none(), "{text}");
        }
        for text in ["100.0001", "-5", "33.33333", "1000"] {
            assert!(Percent::parse(text).is_none(), "{text}");
        }
    }
}
