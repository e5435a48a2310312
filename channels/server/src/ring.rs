//! The newest updates of one stream, for whoever resumes it, and its newest state.
//!
//! Bounded: the oldest make room. Knows no subscriber.

use std::collections::VecDeque;
use std::sync::Arc;

use bawaba_channels::wire::Position;

/// How far beyond this stream's newest update a resumed position may be: the server that it comes from was ahead
/// by the two clocks' difference, and this one is about to produce the same updates.
const AHEAD_MAX: u64 = 256;

/// A bounded run of sequenced items, by one per item.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    items: VecDeque<Arc<T>>,
    newest: u64,
    most: usize,
}

/// Where a subscriber begins.
#[derive(Debug)]
pub(crate) enum Begin<T> {
    /// At the newest: no position was given.
    Fresh,
    /// Right after its position: these are what it missed. It has everything up to `after`.
    Resumed {
        /// What it missed, oldest first.
        missed: Vec<Arc<T>>,
        /// The last sequence number that it has.
        after: u64,
    },
    /// Its position is out of reach; `missing` are the numbers lost, or `None` from another epoch.
    Lost {
        /// First and last number lost.
        missing: Option<(u64, u64)>,
    },
}

impl<T> Begin<T> {
    /// The same beginning if what it replays fits into `room`, which shrinks by it; else the loss of that.
    pub(crate) fn within(self, room: &mut usize, newest: u64) -> Self {
        match self {
            Self::Resumed { missed, .. } if missed.len() > *room => {
                Self::Lost { missing: Some((newest + 1 - missed.len() as u64, newest)) }
            }
            Self::Resumed { missed, after } => {
                *room -= missed.len();
                Self::Resumed { missed, after }
            }
            other => other,
        }
    }

    /// The same beginning of another form of the stream.
    pub(crate) fn map<U>(self, form: impl Fn(&T) -> U) -> Begin<U> {
        match self {
            Self::Fresh => Begin::Fresh,
            Self::Resumed { missed, after } => {
                Begin::Resumed { missed: missed.iter().map(|item| Arc::new(form(item))).collect(), after }
            }
            Self::Lost { missing } => Begin::Lost { missing },
        }
    }
}

impl<T> Ring<T> {
    /// An empty ring for at most `most` items.
    pub(crate) const fn new(most: usize) -> Self {
        Self { items: VecDeque::new(), newest: 0, most }
    }

    /// Appends the item with sequence number `seq`; a number out of step forgets what came before.
    pub(crate) fn push(&mut self, seq: u64, item: T) -> Arc<T> {
        if seq != self.newest + 1 {
            self.items.clear();
        }
        if self.items.len() >= self.most {
            self.items.pop_front();
        }
        let item = Arc::new(item);
        self.items.push_back(item.clone());
        self.newest = seq;
        item
    }

    /// The stream stands at `seq`, with nothing held.
    pub(crate) fn stand(&mut self, seq: u64) {
        self.items.clear();
        self.newest = seq;
    }

    /// The newest sequence number; 0 before the first.
    pub(crate) const fn seq(&self) -> u64 {
        self.newest
    }

    /// The newest item, if it is held.
    pub(crate) fn newest(&self) -> Option<&Arc<T>> {
        self.items.back()
    }

    /// Where a subscriber with this position begins.
    pub(crate) fn begin(&self, epoch: &str, position: Option<&Position>) -> Begin<T> {
        let Some(position) = position else { return Begin::Fresh };
        if position.epoch != epoch {
            return Begin::Lost { missing: None };
        }
        if position.seq >= self.newest {
            return if position.seq - self.newest <= AHEAD_MAX {
                Begin::Resumed { missed: Vec::new(), after: position.seq }
            } else {
                Begin::Lost { missing: None }
            };
        }
        let oldest = self.newest + 1 - self.items.len() as u64;
        if position.seq + 1 < oldest {
            return Begin::Lost { missing: Some((position.seq + 1, self.newest)) };
        }
        let skip = (position.seq + 1 - oldest) as usize;
        Begin::Resumed { missed: self.items.iter().skip(skip).cloned().collect(), after: self.newest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A resume is answered with exactly what was missed, or with what is lost; never with a silent hole.
        #[test]
        fn a_resumed_reader_gets_every_item_after_its_position_or_hears_of_the_loss(
            most in 1usize..20, start in 0u64..50, count in 0u64..60, seq in 0u64..130,
        ) {
            let mut ring = Ring::new(most);
            ring.stand(start);
            for n in start + 1..=start + count {
                ring.push(n, n);
            }
            let newest = start + count;
            match ring.begin("e", Some(&Position { epoch: "e".into(), seq })) {
                Begin::Resumed { missed, after } => {
                    let got: Vec<u64> = missed.iter().map(|n| **n).collect();
                    let expected: Vec<u64> = (seq + 1..=newest).collect();
                    prop_assert_eq!(got, expected);
                    prop_assert_eq!(after, newest.max(seq));
                }
                Begin::Lost { missing } => prop_assert_eq!(missing, Some((seq + 1, newest))),
                Begin::Fresh => prop_assert!(false, "a position was given"),
            }
            let foreign = ring.begin("e", Some(&Position { epoch: "f".into(), seq }));
            let lost = matches!(foreign, Begin::Lost { missing: None });
            prop_assert!(lost);
        }
    }
}
