//! Who was where: a user's last endpoint, for a while. Bounded: when it is full, what was used longest ago goes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const SHARDS: usize = 16;

/// Hashes of users to hashes of addresses. Two generations: what is used moves to the newer one; when that is full, the
/// older one is dropped whole. O(1).
#[derive(Debug)]
pub(crate) struct Table {
    lasts: Duration,
    entries_max: usize,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    newer: HashMap<u64, (u64, Duration)>,
    older: HashMap<u64, (u64, Duration)>,
}

impl Table {
    /// Entries last so long after their last use.
    pub(crate) fn new(lasts: Duration, entries_max: usize) -> Self {
        Self {
            lasts,
            entries_max: (entries_max / SHARDS / 2).max(1),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    fn shard(&self, user: u64) -> std::sync::MutexGuard<'_, Shard> {
        self.shards[(user >> 60) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, user: u64, now: Duration) -> Option<u64> {
        let shard = self.shard(user);
        let (endpoint, at) = *shard.newer.get(&user).or_else(|| shard.older.get(&user))?;
        (now.saturating_sub(at) < self.lasts).then_some(endpoint)
    }

    pub(crate) fn put(&self, user: u64, endpoint: u64, now: Duration) {
        let mut shard = self.shard(user);
        if shard.newer.len() >= self.entries_max && !shard.newer.contains_key(&user) {
            shard.older = std::mem::take(&mut shard.newer);
        }
        shard.newer.insert(user, (endpoint, now));
    }

    /// How many are remembered, those that have ended among them.
    #[cfg(test)]
    fn len(&self) -> usize {
        let each = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        each.map(|shard| shard.newer.len() + shard.older.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash_of;

    #[test]
    fn an_entry_lasts_from_its_last_use_and_the_table_keeps_its_bound() {
        let table = Table::new(Duration::from_secs(10), 1024);
        let at = Duration::from_secs;
        table.put(7, 1, at(0));
        assert_eq!((table.get(7, at(9)), table.get(7, at(10)), table.get(8, at(0))), (Some(1), None, None));
        for user in 0..10_000_u64 {
            table.put(hash_of(&user.to_le_bytes()), user, at(20));
        }
        assert!(table.len() <= 1024, "{}", table.len());
        assert_eq!(table.get(hash_of(&9_999_u64.to_le_bytes()), at(21)), Some(9_999));
    }
}
