//! Instants on the wire: RFC 3339 UTC with milliseconds in JSON, nanoseconds since the epoch in protobuf.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Whole milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every i64 of nanoseconds lies within jiff's years -9999 to 9999.
        let instant = jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default();
        write!(f, "{instant:.3}")
    }
}

/// The text is no RFC 3339 instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant, such as \"2026-11-22T08:00:00.000Z\"")]
pub struct NotInstant;

impl FromStr for Timestamp {
    type Err = NotInstant;

    fn from_str(text: &str) -> Result<Self, NotInstant> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| NotInstant)?;
        i64::try_from(instant.as_nanosecond()).map(Self).map_err(|_| NotInstant)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = alloc::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `serde(with = "time::nanos")` for an `i64` field that protobuf holds as nanoseconds.
pub(super) mod nanos {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(nanos: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        Timestamp(*nanos).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        Timestamp::deserialize(deserializer).map(|t| t.0)
    }
}

/// As [`nanos`], for `Option<i64>`.
pub(super) mod nanos_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(nanos: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        nanos.map(Timestamp).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
        Ok(Option::<Timestamp>::deserialize(deserializer)?.map(|t| t.0))
    }
}
