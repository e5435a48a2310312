//! `[cluster.NAME.balance]`, `.breaker`, `.outlier` and `.retry`: who gets which endpoint, and which gets nobody.

use std::time::Duration;

use bawaba_routing::Policy;
use serde::Deserialize;

use super::duration;

/// Who gets which endpoint: the one that a sticky token names, then the one where the user was, then the policy's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Balance {
    /// How one is chosen.
    pub policy: Policy,
    /// With `hash`: the most that an endpoint carries, in percent of its fair share; 0 for no bound.
    pub load_percent_max: u32,
    /// How long a user's last endpoint is remembered; `0s` for not at all.
    #[serde(with = "duration")]
    pub remember: Duration,
    /// The most users that are remembered.
    pub remembered_max: usize,
    /// The nearest region first, while it carries at most this, in percent of its fair share; absent: regions do not count.
    pub region_percent_max: Option<u32>,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            policy: Policy::Hash,
            load_percent_max: 125,
            remember: Duration::from_secs(600),
            remembered_max: 100_000,
            region_percent_max: None,
        }
    }
}

/// What an endpoint may carry at most, for this process; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Sessions.
    pub sessions_max: u32,
    /// Connections being opened.
    pub pending_max: u32,
}

/// When an endpoint that answers its checks is left alone all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outlier {
    /// Connections of sessions that fail in a row; 0 for never.
    pub failures: u32,
    /// Mean latency, in percent of the median of all; 0 for never.
    pub latency_percent: u32,
    /// A latency under this is never too slow.
    #[serde(with = "duration")]
    pub latency_min: Duration,
    /// How long it is left alone the first time; each time in succession it is that much longer.
    #[serde(with = "duration")]
    pub ejection: Duration,
    /// And at most.
    #[serde(with = "duration")]
    pub ejection_max: Duration,
    /// Share of the endpoints that may be left alone at once, in percent.
    pub ejected_percent_max: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        let of = bawaba_routing::Outlier::default();
        Self {
            failures: of.failures,
            latency_percent: of.latency_percent,
            latency_min: of.latency_min,
            ejection: of.ejection,
            ejection_max: of.ejection_max,
            ejected_percent_max: of.ejected_percent_max,
        }
    }
}

/// How much of what failed is tried elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Of all first attempts, in percent.
    pub percent: u32,
    /// And so many a second in any case.
    pub per_second_min: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { percent: 20, per_second_min: 10 }
    }
}
