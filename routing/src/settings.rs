//! How a cluster judges its endpoints and chooses among them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::Thresholds;

/// How an endpoint is chosen for whom no sticky token and no earlier choice counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Rendezvous hash of the user with bounded load: the same user, the same endpoint, in every edge. O(N).
    #[default]
    Hash,
    /// The one that carries less, of two drawn by weight. O(log N).
    LeastConnections,
    /// The one with less peak latency times sessions, of two drawn by weight. O(log N).
    PeakEwma,
    /// One after the other. O(1).
    RoundRobin,
    /// As often as its weight says, evenly spread. O(log N).
    Weighted,
    /// Any, by weight. O(log N).
    Random,
}

impl Policy {
    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::LeastConnections => "least_connections",
            Self::PeakEwma => "peak_ewma",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::Random => "random",
        }
    }
}

/// What an endpoint may carry at most; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Sessions.
    pub sessions_max: u32,
    /// Connections being opened.
    pub pending_max: u32,
}

/// When an endpoint that answers its checks is left alone all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Connections of sessions that fail in a row; 0 for never.
    pub failures: u32,
    /// Mean latency, in percent of the median of all; 0 for never.
    pub latency_percent: u32,
    /// A latency under this is never too slow.
    pub latency_min: Duration,
    /// How long it is left alone the first time; each time in succession it is that much longer.
    pub ejection: Duration,
    /// And at most.
    pub ejection_max: Duration,
    /// Share of the endpoints that may be left alone at once, in percent.
    pub ejected_percent_max: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            failures: 5,
            latency_percent: 0,
            latency_min: Duration::from_millis(20),
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 30,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Findings in a row that make a state.
    pub thresholds: Thresholds,
    /// In this time an endpoint that comes (back) grows to its whole weight.
    pub slow_start: Duration,
    /// How one is chosen.
    pub policy: Policy,
    /// With [`Policy::Hash`]: the most that an endpoint carries, in percent of its fair share.
    pub load_percent_max: u32,
    /// How long a user's last endpoint is remembered; zero for not at all.
    pub remember: Duration,
    /// The most users that are remembered.
    pub remembered_max: usize,
    /// `Some`: the nearest region first, while it carries at most this, in percent of its fair share.
    pub region_percent_max: Option<u32>,
    /// What an endpoint may carry at most.
    pub breaker: Breaker,
    /// When an endpoint is left alone.
    pub outlier: Outlier,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            thresholds: Thresholds { unhealthy_after: 2, healthy_after: 1 },
            slow_start: Duration::from_secs(10),
            policy: Policy::Hash,
            load_percent_max: 125,
            remember: Duration::ZERO,
            remembered_max: 100_000,
            region_percent_max: None,
            breaker: Breaker::default(),
            outlier: Outlier::default(),
        }
    }
}
