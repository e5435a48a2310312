//! Exact decimals: prices, sizes and money. A string in JSON, a scaled integer in protobuf, never a float.

use alloc::string::{String, ToString};
use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `mantissa / 10^scale`, its scale kept: `"84.50"` stays `"84.50"`.
#[derive(Clone, Copy, prost::Message)]
pub struct Decimal {
    /// The digits without the point.
    #[prost(sint64, tag = "1")]
    pub mantissa: i64,
    /// Digits after the point, at most [`Decimal::SCALE_MAX`].
    #[prost(uint32, tag = "2")]
    pub scale: u32,
}

/// The text is no decimal of at most 18 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a decimal number of at most 18 digits, such as \"84.50\"")]
pub struct NotDecimal;

impl Decimal {
    /// Most digits after the point.
    pub const SCALE_MAX: u32 = 9;
    const DIGITS_MAX: usize = 18;

    /// `mantissa / 10^scale`.
    pub const fn new(mantissa: i64, scale: u32) -> Self {
        Self { mantissa, scale }
    }

    /// Whether a decoded value lies in the range that the text form can say.
    pub const fn is_valid(&self) -> bool {
        self.scale <= Self::SCALE_MAX && self.mantissa.unsigned_abs() < 10u64.pow(Self::DIGITS_MAX as u32)
    }

    /// The same value with `scale` digits after the point, or `None` if that loses digits or overflows.
    pub fn rescaled(self, scale: u32) -> Option<Self> {
        let mantissa = if scale >= self.scale {
            self.mantissa.checked_mul(10i64.checked_pow(scale - self.scale)?)?
        } else {
            let divisor = 10i64.checked_pow(self.scale - scale)?;
            if self.mantissa % divisor != 0 {
                return None;
            }
            self.mantissa / divisor
        };
        Some(Self { mantissa, scale })
    }

    fn widened(&self, scale: u32) -> i128 {
        i128::from(self.mantissa) * 10i128.pow((scale - self.scale).min(38 - 19))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        self.widened(scale).cmp(&other.widened(scale))
    }
}

/// Of the number, as equality is: `84.5` and `84.50` are one.
impl core::hash::Hash for Decimal {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        let (mut mantissa, mut scale) = (self.mantissa, self.scale);
        while scale > 0 && mantissa % 10 == 0 {
            (mantissa, scale) = (mantissa / 10, scale - 1);
        }
        (mantissa, scale).hash(state);
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = self.scale.min(18);
        let divisor = 10u64.pow(scale);
        let digits = self.mantissa.unsigned_abs();
        if self.mantissa < 0 {
            f.write_str("-")?;
        }
        if scale == 0 {
            return write!(f, "{digits}");
        }
        write!(f, "{}.{:0width$}", digits / divisor, digits % divisor, width = scale as usize)
    }
}

impl FromStr for Decimal {
    type Err = NotDecimal;

    fn from_str(text: &str) -> Result<Self, NotDecimal> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let has_point = digits.len() != whole.len();
        if whole.is_empty()
            || (has_point && fraction.is_empty())
            || fraction.len() > Self::SCALE_MAX as usize
            || whole.len() + fraction.len() > Self::DIGITS_MAX
        {
            return Err(NotDecimal);
        }
        let mut mantissa: i64 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            if !byte.is_ascii_digit() {
                return Err(NotDecimal);
            }
            mantissa = mantissa * 10 + i64::from(byte - b'0');
        }
        Ok(Self { mantissa: if negative { -mantissa } else { mantissa }, scale: fraction.len() as u32 })
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = alloc::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<Decimal> for String {
    fn from(value: Decimal) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn the_text_form_keeps_trailing_zeros_and_refuses_what_is_not_a_decimal() {
        for good in ["0", "84.50", "-0.001", "123456789.123456789", "000.5"] {
            let value: Decimal = good.parse().unwrap();
            assert_eq!(value.to_string().trim_start_matches('0').trim_start_matches("-0"), {
                good.trim_start_matches('0').trim_start_matches("-0")
            });
        }
        for bad in ["", ".", "1.", ".5", "1e3", "+1", "--1", " 1", "1.0000000001", "1234567890123456789", "١"] {
            assert_eq!(bad.parse::<Decimal>(), Err(NotDecimal), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn text_and_value_are_one(mantissa in -999_999_999_999_999_999i64..=999_999_999_999_999_999, scale in 0u32..=9) {
            let value = Decimal::new(mantissa, scale);
            let text = value.to_string();
            // A value below one is printed with a leading zero, which may make 19 digits; those stay valid.
            let back: Decimal = text.parse().unwrap();
            prop_assert_eq!((back.mantissa, back.scale), (mantissa, scale));
        }

        #[test]
        fn order_is_that_of_the_numbers(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000, s in 0u32..=4, t in 0u32..=4) {
            let exact = (i128::from(a) * 10i128.pow(t)).cmp(&(i128::from(b) * 10i128.pow(s)));
            prop_assert_eq!(Decimal::new(a, s).cmp(&Decimal::new(b, t)), exact, "{}", format!("{a}/{s} {b}/{t}"));
        }
    }
}
