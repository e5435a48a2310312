//! A retry budget: of all that is asked, only a share may be asked again, so that a cluster that fails is not asked to
//! death by those that retry.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A retry, in thousandths.
const ONE: u64 = 1000;
/// What is saved up lasts for this long at the least rate.
const SAVED: u64 = 10;

/// Every first attempt earns a share of a retry; a least rate is always granted.
#[derive(Debug)]
pub struct Budget {
    percent: u64,
    per_second_min: u64,
    purse: Mutex<(u64, Duration)>,
}

impl Budget {
    /// `percent` of first attempts may be retried, and `per_second_min` retries a second in any case.
    pub fn new(percent: u32, per_second_min: u32) -> Self {
        let per_second_min = u64::from(per_second_min);
        Self { percent: u64::from(percent), per_second_min, purse: Mutex::new((per_second_min * ONE, Duration::ZERO)) }
    }

    /// A first attempt. O(1).
    pub fn earn(&self) {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        purse.0 = (purse.0 + self.percent * ONE / 100).min(self.most());
    }

    /// Whether one more retry may be. O(1).
    pub fn spend(&self, now: Duration) -> bool {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = u64::try_from(now.saturating_sub(purse.1).as_millis()).unwrap_or(u64::MAX);
        purse.1 = purse.1.max(now);
        purse.0 = purse.0.saturating_add(passed.saturating_mul(self.per_second_min)).min(self.most());
        if purse.0 < ONE {
            return false;
        }
        purse.0 -= ONE;
        true
    }

    const fn most(&self) -> u64 {
        // What a hundred a second would earn, beside the least rate.
        (self.per_second_min + self.percent) * SAVED * ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_is_asked_may_be_asked_again_and_no_more() {
        let budget = Budget::new(20, 1);
        let now = Duration::from_secs(1000);
        while budget.spend(now) {}
        for _ in 0..50 {
            budget.earn();
        }
        assert_eq!((0..100).filter(|_| budget.spend(now)).count(), 10);
        assert_eq!((0..100).filter(|_| budget.spend(now + Duration::from_secs(3))).count(), 3, "the least rate");
    }
}
