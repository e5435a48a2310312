//! How long a filter that fails rests before it gets another VM. A few failures cost nothing, so
//! that one poisonous message harms nobody else; a filter that can't run is not started in a loop.

use std::time::{Duration, Instant};

/// Failures forgiven in a row; one is forgotten each second.
const STRIKES_FREE: u32 = 8;
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Rest {
    strikes: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Rest {
    /// Counts a failure; whether the filter rests now.
    pub(crate) fn strike(&mut self, now: Instant) -> bool {
        if let Some(last) = self.last {
            let forgotten = now.saturating_duration_since(last).as_secs().min(u64::from(u32::MAX)) as u32;
            self.strikes = self.strikes.saturating_sub(forgotten);
        }
        self.strikes += 1;
        self.last = Some(now);
        if let Some(over @ 1..) = self.strikes.checked_sub(STRIKES_FREE) {
            let rest = REST_MIN.saturating_mul(1 << (over - 1).min(16)).min(REST_MAX);
            self.until = Some(now + rest);
            return true;
        }
        false
    }

    /// Whether a new VM may be tried.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| now < until) {
            return false;
        }
        self.until = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_failures_are_free_and_many_rest_ever_longer_up_to_ten_seconds() {
        let (mut rest, mut now) = (Rest::default(), Instant::now());
        for _ in 0..STRIKES_FREE {
            rest.strike(now);
            assert!(rest.is_over(now));
        }
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            rest.strike(now);
            let waited = rest.until.unwrap() - now;
            assert!(waited >= last && waited <= REST_MAX && !rest.is_over(now));
            last = waited;
        }
        assert_eq!(last, REST_MAX);
        now += Duration::from_secs(60);
        assert!(rest.is_over(now));
        rest.strike(now);
        assert!(rest.is_over(now), "a minute without failure forgives all");
    }
}
