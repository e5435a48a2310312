//! Refusals at the door, before anybody's session begins: bad tokens, and limits of the edge.
//!
//! Anyone can cause them, without end, so they are gathered: the first of a kind is recorded at once, those that follow
//! within a minute as one record with their count. The ledger grows by what happens, not by how often.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Kind, Record};

/// How long refusals of one kind are gathered.
const GATHERED_NANOS: i64 = 60_000_000_000;
/// Kinds that are gathered at once; what comes beyond them is recorded without its user.
const KINDS_MAX: usize = 1024;

/// Whose request it was, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// The route.
    pub route: String,
    /// `tenant` of a token that was good.
    pub tenant: String,
    /// `sub` of a token that was good.
    pub user: String,
}

/// Since when, until when, and how many more than the first.
#[derive(Debug)]
struct Gathered {
    from: i64,
    to: i64,
    more: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Door {
    kinds: Mutex<BTreeMap<(Who, &'static str), Gathered>>,
}

impl Door {
    /// One more refusal; what is to be recorded now.
    pub(super) fn note(&self, mut who: Who, reason: &'static str, now: i64) -> Vec<Record> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&(who.clone(), reason)) {
            kinds.retain(|_, gathered| gathered.more > 0 || now - gathered.from < GATHERED_NANOS);
            if kinds.len() >= KINDS_MAX {
                who = Who { route: who.route, ..Who::default() };
            }
        }
        let key = (who, reason);
        if let Some(gathered) = kinds.get_mut(&key).filter(|gathered| now - gathered.from < GATHERED_NANOS) {
            (gathered.to, gathered.more) = (now, gathered.more + 1);
            return Vec::new();
        }
        let before = kinds.remove(&key).and_then(|gathered| gathered.record(&key));
        let first = Record { at: now, ..refusal(&key) };
        kinds.insert(key, Gathered { from: now, to: now, more: 0 });
        before.into_iter().chain([first]).collect()
    }

    /// All that is gathered so far.
    pub(super) fn settle(&self) -> Vec<Record> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let records = kinds.iter().filter_map(|(key, gathered)| gathered.record(key)).collect();
        kinds.retain(|_, gathered| {
            gathered.more = 0;
            true
        });
        records
    }
}

impl Gathered {
    fn record(&self, key: &(Who, &'static str)) -> Option<Record> {
        let (from, to) = (Some(self.from), Some(self.to));
        (self.more > 0).then(|| Record { from, to, count: self.more, ..refusal(key) })
    }
}

fn refusal((who, reason): &(Who, &'static str)) -> Record {
    Record {
        kind: Some(Kind::Refusal),
        tenant: who.tenant.clone(),
        user: who.user.clone(),
        product: who.route.clone(),
        verdict: "refused".into(),
        reason: (*reason).into(),
        ..Record::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str) -> Who {
        Who { route: "quotes".into(), user: user.into(), ..Who::default() }
    }

    #[test]
    fn the_first_is_recorded_at_once_and_the_rest_of_its_minute_as_one() {
        let door = Door::default();
        assert_eq!(door.note(who(""), "auth.invalid", 1).len(), 1);
        for at in 2..1000 {
            assert_eq!(door.note(who(""), "auth.invalid", at), []);
        }
        assert_eq!(door.note(who(""), "auth.expired", 5).len(), 1, "another word is another kind");
        let next = door.note(who(""), "auth.invalid", 1 + GATHERED_NANOS);
        assert_eq!((next.len(), next[0].count, next[0].from, next[0].to), (2, 998, Some(1), Some(999)));
        assert_eq!(door.settle(), []);
        door.note(who(""), "auth.invalid", 2 + GATHERED_NANOS);
        assert_eq!(door.settle()[0].count, 1);
        assert_eq!(door.settle(), [], "once");
    }

    #[test]
    fn the_door_remembers_a_bounded_number_of_kinds() {
        let door = Door::default();
        for user in 0..10_000 {
            door.note(who(&user.to_string()), "edge.overloaded", 1);
        }
        assert!(door.kinds.lock().unwrap().len() <= KINDS_MAX + 1);
    }
}
