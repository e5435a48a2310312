//! A candidate that judges a part of the sessions, the same ones each time, and is taken back by itself when it fails too
//! often. Knows no message.

use std::sync::Arc;

use bawaba_filter_host::FilterMetrics;
use serde_json::{Value, json};

use crate::config;
use crate::context::ConnectionContext;
use crate::generation::Route;
use crate::loading::Candidate;
use crate::sources::Role;

/// A route as its canary sessions take it.
pub struct CanaryRoute {
    /// Whose candidate it is.
    pub filter: String,
    /// Percent of the users.
    pub percent: u8,
    /// The route with the candidate in the filter's place.
    pub route: Arc<Route>,
}

impl CanaryRoute {
    /// Whether a session is on it: by its user, so that a user who comes back is on it again.
    pub fn takes(&self, context: &ConnectionContext) -> bool {
        let who = if context.user.is_empty() { &context.session } else { &context.user };
        bucket(&self.filter, who) < u64::from(self.percent)
    }
}

/// 0 to 99; the same in every process and every version. Salted, so that not the same users try everything.
fn bucket(filter: &str, who: &str) -> u64 {
    // FNV-1a, then the finalizer of SplitMix64, as the low bits of FNV alone are uneven.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = filter.bytes().chain([0]).chain(who.bytes()).fold(0xcbf2_9ce4_8422_2325, fold);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)) % 100
}

/// What a canary did so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Callbacks into it.
    pub calls: u64,
    /// Those that failed, and messages that it gave no verdict on because it rested.
    pub failures: u64,
}

impl Record {
    /// Since it was loaded.
    pub fn of(candidate: &Candidate) -> Self {
        Self::between(&candidate.begun, &candidate.filter.metrics())
    }

    fn between(begun: &FilterMetrics, now: &FilterMetrics) -> Self {
        // A callback that traps also leaves its message without a verdict: counted once.
        let traps = now.traps.saturating_sub(begun.traps);
        let unjudged = (now.denied + now.passed_unjudged).saturating_sub(begun.denied + begun.passed_unjudged);
        let failures = traps.max(unjudged);
        Self { calls: now.calls.saturating_sub(begun.calls).max(failures), failures }
    }

    fn percent(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.failures as f64 * 100.0 / self.calls as f64 }
    }

    /// Why it must be taken back, if it must.
    pub fn verdict(&self, settings: &config::Canary) -> Option<String> {
        let is_over = self.calls >= settings.calls_min && self.percent() > settings.failure_percent_max;
        is_over.then(|| {
            format!(
                "{} of {} callbacks failed ({:.2} %), and failure_percent_max is {}",
                self.failures,
                self.calls,
                self.percent(),
                settings.failure_percent_max
            )
        })
    }
}

/// What admin shows.
pub fn shown(candidate: &Candidate) -> Value {
    let Role::Canary(settings) = &candidate.role else { return Value::Null };
    let record = Record::of(candidate);
    json!({
        "percent": settings.percent,
        "calls": record.calls,
        "failures": record.failures,
        "failure_percent": record.percent(),
        "failure_percent_max": settings.failure_percent_max,
        "calls_min": settings.calls_min,
        "streams": candidate.filter.metrics().streams,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_spread_evenly_and_each_stays_where_it_is() {
        let users: Vec<String> = (0..20_000).map(|n| format!("user-{n}")).collect();
        for percent in [1, 5, 50] {
            let taken = users.iter().filter(|user| bucket("sharia", user) < percent).count() as u64;
            let expected = users.len() as u64 * percent / 100;
            assert!(taken.abs_diff(expected) <= expected / 4 + 20, "{percent}: {taken} of {expected}");
        }
        assert_eq!(
            (bucket("sharia", "mona"), bucket("license", "mona")),
            (bucket("sharia", "mona"), bucket("license", "mona"))
        );
        let both = users.iter().filter(|user| bucket("sharia", user) < 5 && bucket("license", user) < 5).count();
        assert!(both < 150, "filters try different users: {both}");
    }

    #[test]
    fn a_canary_is_taken_back_over_its_rate_and_not_before_its_count() {
        let settings = config::Canary { calls_min: 100, failure_percent_max: 1.0, ..config::Canary::default() };
        for (calls, failures, over) in
            [(99, 99, false), (100, 1, false), (100, 2, true), (10_000, 100, false), (10_000, 101, true)]
        {
            assert_eq!(Record { calls, failures }.verdict(&settings).is_some(), over, "{failures} of {calls}");
        }
        let begun = FilterMetrics { calls: 50, traps: 5, denied: 5, ..FilterMetrics::default() };
        let now = FilterMetrics { calls: 60, traps: 7, denied: 8, ..FilterMetrics::default() };
        assert_eq!(Record::between(&begun, &now), Record { calls: 10, failures: 3 });
    }
}
