//! A source: one stream of one instrument (or exchange, or user) as it comes from the trunk, in sequence.
//!
//! Checks the sequence, folds the newest state, keeps the newest updates for whoever resumes. Knows no session.

use std::collections::VecDeque;
use std::rc::Rc;

use bawaba_channels::name::{Channel, Exchange};
use bawaba_channels::wire::{Data, Event, Position, Quote, Update};

use crate::grants::Late;

/// Updates kept per source for resuming sessions: two seconds at 30 a second, some 32 KiB when full.
const RING_UPDATES_MAX: usize = 64;

/// Which stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceKey {
    /// The lane that it comes through.
    pub(crate) lane: usize,
    /// What.
    pub(crate) channel: Channel,
    /// Where.
    pub(crate) exchange: Exchange,
    /// The symbol; empty on channels without.
    pub(crate) symbol: Rc<str>,
    /// The user, on private channels.
    pub(crate) user: Option<Rc<str>>,
    /// How late it is.
    pub(crate) late: Late,
}

/// What an update turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next one, or a snapshot: pass it on.
    Next,
    /// Seen before.
    Duplicate,
    /// Something before it is missing: resume from [`Stream::position`].
    Hole,
}

/// The state of a stream in sequence.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    epoch: Rc<str>,
    seq: u64,
    /// The server said that something is lost: the next update is taken as it comes.
    any_next: bool,
    state: Option<Rc<Update>>,
    ring: VecDeque<Rc<Update>>,
}

impl Stream {
    /// Where it stands, once it has begun.
    pub(crate) fn position(&self) -> Option<Position> {
        (!self.epoch.is_empty()).then(|| Position { epoch: self.epoch.to_string(), seq: self.seq })
    }

    /// The epoch.
    pub(crate) const fn epoch(&self) -> &Rc<str> {
        &self.epoch
    }

    /// The newest sequence number.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// The newest whole state; on channels whose updates are not folded, the newest update.
    pub(crate) const fn state(&self) -> Option<&Rc<Update>> {
        self.state.as_ref()
    }

    /// The server accepted the subscription at this place; `recovered` where it goes on from our position.
    pub(crate) fn begin(&mut self, epoch: &str, seq: u64, recovered: bool) {
        if recovered && *self.epoch == *epoch {
            return;
        }
        // What was known is of no use to whoever joins now: the server says next what stands.
        self.restart(epoch, seq);
        self.any_next = true;
    }

    /// It stands at this place, and nothing is known of what came before.
    pub(crate) fn restart(&mut self, epoch: &str, seq: u64) {
        self.epoch = epoch.into();
        self.seq = seq;
        self.state = None;
        self.ring.clear();
    }

    /// Notes a private event; whether it is newer than all before it.
    pub(crate) fn note(&mut self, epoch: &str, seq: u64) -> bool {
        if *self.epoch != *epoch {
            self.epoch = epoch.into();
            self.seq = seq;
            return true;
        }
        let is_new = seq > self.seq;
        self.seq = self.seq.max(seq);
        is_new
    }

    /// The server says that updates are lost.
    pub(crate) const fn lose(&mut self) {
        self.any_next = true;
    }

    /// Takes an update, in place.
    pub(crate) fn take(&mut self, update: &Rc<Update>, folds: bool) -> Step {
        let first = update.first_seq.unwrap_or(update.seq);
        let same_epoch = *self.epoch == *update.epoch;
        if !update.snapshot && !self.any_next {
            if !same_epoch || first > self.seq + 1 {
                return Step::Hole;
            }
            if update.seq <= self.seq {
                return Step::Duplicate;
            }
        }
        // Another session's subscription to all symbols brings the state of those that flow already.
        if update.snapshot && same_epoch && update.seq <= self.seq && !self.any_next {
            return Step::Duplicate;
        }
        if !same_epoch {
            self.epoch = update.epoch.as_str().into();
        }
        if !same_epoch || first != self.seq + 1 {
            self.ring.clear();
        }
        self.any_next = false;
        self.seq = update.seq;
        self.state = Some(match self.state.take() {
            Some(state) if folds && !update.snapshot && same_epoch => fold(state, update),
            // The phase of a snapshot is of its moment: what stands outlives it.
            _ if update.phase.is_some() => Rc::new(Update { phase: None, ..Update::clone(update) }),
            _ => Rc::clone(update),
        });
        if !update.snapshot || !folds {
            if self.ring.len() == RING_UPDATES_MAX {
                self.ring.pop_front();
            }
            self.ring.push_back(Rc::clone(update));
        }
        Step::Next
    }

    /// The updates after `position`, if all of them are kept.
    pub(crate) fn since(&self, position: &Position) -> Option<Vec<Rc<Update>>> {
        if *self.epoch != *position.epoch || position.seq > self.seq {
            return None;
        }
        if position.seq == self.seq {
            return Some(Vec::new());
        }
        let kept = self.ring.iter().filter(|update| update.seq > position.seq);
        let first = kept.clone().next()?;
        (first.first_seq.unwrap_or(first.seq) <= position.seq + 1).then(|| kept.cloned().collect())
    }
}

/// The state with an update folded in.
fn fold(mut state: Rc<Update>, update: &Rc<Update>) -> Rc<Update> {
    let whole = Rc::make_mut(&mut state);
    merge(&mut whole.data, update.data.as_ref());
    whole.seq = update.seq;
    whole.time = update.time;
    whole.first_seq = None;
    state
}

/// Lays newer data over older: quotes field by field, everything else whole.
pub(crate) fn merge(older: &mut Option<Data>, newer: Option<&Data>) {
    match (older, newer) {
        (Some(Data::Quote(old)), Some(Data::Quote(new))) => merge_quote(old, new),
        (old, Some(new)) => *old = Some(new.clone()),
        (_, None) => {}
    }
}

fn merge_quote(old: &mut Quote, new: &Quote) {
    let fields = [
        (&mut old.last, new.last),
        (&mut old.bid, new.bid),
        (&mut old.ask, new.ask),
        (&mut old.bid_size, new.bid_size),
        (&mut old.ask_size, new.ask_size),
        (&mut old.volume, new.volume),
        (&mut old.open, new.open),
        (&mut old.high, new.high),
        (&mut old.low, new.low),
        (&mut old.close, new.close),
    ];
    for (old, new) in fields {
        if new.is_some() {
            *old = new;
        }
    }
}

/// The channel that an event belongs to.
pub(crate) const fn channel_of(event: &Event) -> Option<Channel> {
    Some(match event {
        Event::Update(update) => match &update.data {
            Some(Data::Quote(_)) => Channel::MarketData,
            Some(Data::Book(_)) => Channel::OrderBook,
            Some(Data::Trade(_)) => Channel::Trades,
            Some(Data::News(_)) => Channel::News,
            None => return None,
        },
        Event::Alert(_) => Channel::Alerts,
        Event::MarketStatus(_) => Channel::MarketStatus,
        Event::OrderUpdate(_) => Channel::Orders,
        Event::PositionUpdate(_) => Channel::Positions,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn update(epoch: &str, seq: u64, last: i64) -> Rc<Update> {
        let quote = Quote { last: Some(bawaba_channels::decimal::Decimal::new(last, 2)), ..Quote::default() };
        Rc::new(Update { epoch: epoch.into(), seq, data: Some(Data::Quote(quote)), ..Update::default() })
    }

    proptest! {
        /// Updates duplicated and dropped at will: what is taken is in sequence, and a hole is always named.
        #[test]
        fn what_is_taken_is_in_sequence(choices in prop::collection::vec(0u8..4, 1..200)) {
            let mut stream = Stream::default();
            stream.begin("e", 0, false);
            stream.take(&update("e", 0, 0), true);
            let (mut next, mut taken) = (1u64, 0u64);
            for choice in choices {
                match choice {
                    0 => next += 1,
                    1 if next > 1 => {
                        let old = stream.take(&update("e", (next - 1).min(stream.seq()), 1), true);
                        prop_assert_eq!(old, Step::Duplicate);
                    }
                    _ => {
                        match stream.take(&update("e", next, 1), true) {
                            Step::Next => {
                                prop_assert_eq!(next, taken + 1);
                                taken = next;
                                next += 1;
                            }
                            Step::Hole => {
                                prop_assert!(next > taken + 1);
                                // A resume replays from our position.
                                next = stream.position().unwrap().seq + 1;
                            }
                            Step::Duplicate => prop_assert!(next <= taken),
                        }
                    }
                }
            }
        }

        #[test]
        fn a_resume_is_whole_or_refused(count in 0u64..150, from in 0u64..160) {
            let mut stream = Stream::default();
            stream.begin("e", 0, false);
            for seq in 1..=count {
                prop_assert_eq!(stream.take(&update("e", seq, 1), true), Step::Next);
            }
            match stream.since(&Position { epoch: "e".into(), seq: from }) {
                Some(missed) => {
                    let got: Vec<u64> = missed.iter().map(|u| u.seq).collect();
                    prop_assert_eq!(got, (from + 1..=count).collect::<Vec<_>>());
                }
                None => prop_assert!(from > count || count - from > RING_UPDATES_MAX as u64),
            }
        }
    }

    #[test]
    fn another_epoch_is_a_hole_until_the_server_says_what_is_lost() {
        let mut stream = Stream::default();
        stream.begin("a", 5, false);
        assert_eq!(stream.take(&update("a", 6, 100), true), Step::Next);
        assert_eq!(stream.take(&update("b", 7, 100), true), Step::Hole);
        stream.lose();
        assert_eq!(stream.take(&update("b", 1, 100), true), Step::Next);
        assert_eq!(stream.position(), Some(Position { epoch: "b".into(), seq: 1 }));
    }
}
