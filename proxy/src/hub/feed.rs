//! A feed: what one cohort gets of one source in one encoding, at one rate, under one subscription name.
//!
//! Each update is encoded once and appended to the feed's log; its followers read it with cursors. Slower rates are
//! conflated here. Judging is done before; sockets come after.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bawaba_channels::filter::Filter;
use bawaba_channels::frame;
use bawaba_channels::log::Log;
use bawaba_channels::wire::{Encoding, Event, Filters, Gap, Update};
use bytes::Bytes;
use slab::Slab;

use super::source::merge;

/// What tells feeds of the same source and cohort apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedKey {
    /// The form.
    pub(crate) encoding: Encoding,
    /// The subscription's name on the wire.
    pub(crate) subscription: Rc<str>,
    /// Shortest time between two updates, in milliseconds; 0 for every update. Below the subscription's own rate
    /// never; above it for slow readers.
    pub(crate) rate_ms: u32,
    /// What is left out.
    pub(crate) filter: Filter,
    /// The same as it was asked for.
    pub(crate) filters: Option<Rc<Filters>>,
}

/// A session that follows, by its seat and the place among its follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follower {
    /// The seat.
    pub(crate) seat: usize,
    /// The follow.
    pub(crate) slot: usize,
}

/// See the module.
pub(crate) struct Feed {
    pub(crate) key: FeedKey,
    /// The source that it belongs to, and the cohort.
    pub(crate) source: usize,
    pub(crate) cohort: usize,
    pub(crate) log: Log,
    pub(crate) followers: Slab<Follower>,
    /// Followers that have not read to the end.
    pub(crate) lagging: usize,
    /// The source's state as of the newest update that was appended: where a joining session begins.
    pub(crate) base: Option<Rc<Update>>,
    /// Epoch and number of the newest update appended.
    last: Option<(Rc<str>, u64)>,
    /// Conflated, not yet due.
    pending: Option<Update>,
    due_at: Option<Instant>,
    not_before: Option<Instant>,
}

impl Feed {
    pub(crate) fn new(key: FeedKey, source: usize, cohort: usize, log_bytes_max: usize) -> Self {
        Self {
            key,
            source,
            cohort,
            log: Log::new(log_bytes_max),
            followers: Slab::new(),
            lagging: 0,
            base: None,
            last: None,
            pending: None,
            due_at: None,
            not_before: None,
        }
    }

    /// The feed begins (or begins again) at a place: nothing before it is missed by anyone.
    pub(crate) fn begin_at(&mut self, epoch: &str, seq: u64, base: Option<Rc<Update>>) {
        self.last = (!epoch.is_empty()).then(|| (epoch.into(), seq));
        self.base = base;
    }

    /// Whether a snapshot says what stands at the place where the feed is: new to nobody who has followed so far.
    pub(crate) fn stands_at(&self, update: &Update) -> bool {
        update.snapshot && self.last.as_ref().is_some_and(|(epoch, seq)| **epoch == *update.epoch && *seq == update.seq)
    }

    /// The epoch of what was appended last.
    pub(crate) fn epoch(&self) -> Option<&Rc<str>> {
        self.last.as_ref().map(|(epoch, _)| epoch)
    }

    /// Takes a judged update: appends it now, or holds it until its time. `base` is the source's state with it.
    ///
    /// The answer: bytes appended, and when to call [`Self::settle`] if something is held for the first time.
    pub(crate) fn push(
        &mut self,
        update: &Update,
        base: Option<&Rc<Update>>,
        now: Instant,
    ) -> (usize, Option<Instant>) {
        if self.key.rate_ms == 0 || update.snapshot {
            self.pending = None;
            self.base = base.cloned();
            return (self.append(update.clone()), None);
        }
        match &mut self.pending {
            Some(pending) => {
                merge(&mut pending.data, update.data.as_ref());
                pending.seq = update.seq;
                pending.time = update.time;
                pending.metadata.clone_from(&update.metadata);
            }
            None => {
                let mut update = update.clone();
                update.first_seq = Some(update.first_seq.unwrap_or(update.seq));
                self.pending = Some(update);
            }
        }
        match self.not_before.filter(|at| *at > now) {
            None => (self.settle(base, now), None),
            Some(at) if self.due_at.is_none() => {
                self.due_at = Some(at);
                (0, Some(at))
            }
            Some(_) => (0, None),
        }
    }

    /// Appends what is held, if it is due; the bytes appended.
    pub(crate) fn settle(&mut self, base: Option<&Rc<Update>>, now: Instant) -> usize {
        if self.not_before.is_some_and(|at| at > now) {
            return 0;
        }
        self.due_at = None;
        let Some(mut update) = self.pending.take() else { return 0 };
        update.first_seq = update.first_seq.filter(|first| *first < update.seq);
        self.not_before = Some(now + Duration::from_millis(u64::from(self.key.rate_ms)));
        self.base = base.cloned();
        self.append(update)
    }

    /// Appends an event that has no sequence.
    pub(crate) fn append_event(&mut self, event: &Event) -> usize {
        let seq = self.last.as_ref().map_or(0, |(_, seq)| *seq);
        let frame = encode(self.key.encoding, event);
        let len = frame.len();
        self.log.append(frame, seq);
        len
    }

    fn append(&mut self, update: Update) -> usize {
        let first = update.first_seq.unwrap_or(update.seq);
        let mut len = 0;
        if let Some(gap) = self.gap_before(&update, first) {
            let frame = encode(self.key.encoding, &gap);
            len += frame.len();
            self.log.append(frame, update.seq);
        }
        match &mut self.last {
            Some((epoch, seq)) if **epoch == *update.epoch => *seq = update.seq,
            last => *last = Some((update.epoch.as_str().into(), update.seq)),
        }
        let seq = update.seq;
        let frame = encode(self.key.encoding, &Event::Update(self.dress(update)));
        len += frame.len();
        self.log.append(frame, seq);
        len
    }

    /// The `gap` that an update needs before it, if it does not follow on what was appended.
    fn gap_before(&self, update: &Update, first: u64) -> Option<Event> {
        let (epoch, last) = self.last.as_ref()?;
        // A snapshot stands for everything up to its number; an update only for its own.
        let to_seq = if update.snapshot { update.seq } else { first.saturating_sub(1) };
        if **epoch != *update.epoch {
            return Some(self.gap(update, 1, 0));
        }
        (first > last + 1 || (update.snapshot && update.seq > *last)).then(|| self.gap(update, last + 1, to_seq))
    }

    /// A `gap` of this feed.
    pub(crate) fn gap(&self, update: &Update, from_seq: u64, to_seq: u64) -> Event {
        Event::Gap(Gap {
            subscription: self.key.subscription.to_string(),
            symbol: update.symbol.clone(),
            from_seq,
            to_seq,
            exchange: update.exchange.clone(),
        })
    }

    /// The update as this feed's followers get it.
    pub(crate) fn dress(&self, mut update: Update) -> Update {
        update.subscription = self.key.subscription.to_string();
        self.key.filter.dress(&mut update);
        update
    }
}

/// One event as one finished server frame.
pub(crate) fn encode(encoding: Encoding, event: &Event) -> Bytes {
    let mut out = Vec::new();
    encode_into(encoding, event, &mut out);
    out.into()
}

/// As [`encode`], appended.
pub(crate) fn encode_into(encoding: Encoding, event: &Event, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(256);
    event.encode(encoding, &mut payload);
    frame::encode(out, true, encoding.opcode(), &payload, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bawaba_channels::frame::{Decoder, Sender};
    use bawaba_channels::log::Cursor;
    use bawaba_channels::wire::Data;
    use bawaba_channels::wire::Quote;
    use proptest::prelude::*;

    fn feed(rate_ms: u32) -> Feed {
        let key = FeedKey {
            encoding: Encoding::Proto,
            subscription: "s".into(),
            rate_ms,
            filter: Filter::NONE,
            filters: None,
        };
        let mut feed = Feed::new(key, 0, 0, 1 << 20);
        feed.begin_at("e", 0, None);
        feed
    }

    fn update(seq: u64, snapshot: bool) -> Update {
        Update {
            epoch: "e".into(),
            seq,
            snapshot,
            symbol: "COMI".into(),
            data: Some(Data::Quote(Quote::default())),
            ..Update::default()
        }
    }

    fn events(feed: &Feed) -> Vec<Event> {
        let read = feed.log.read(Cursor(0)).unwrap();
        read.map(|entry| {
            let mut frame = entry.frame.to_vec();
            let mut decoder = Decoder::new(Sender::Server, 1 << 20);
            let frame = decoder.decode(&mut frame).unwrap().unwrap();
            Event::decode(Encoding::Proto, frame.payload).unwrap()
        })
        .collect()
    }

    proptest! {
        /// Any updates, any holes, any rate: what a client reads is continuous, or a gap names the hole.
        #[test]
        fn a_client_never_sees_a_hole_without_a_gap(
            rate_ms in prop::sample::select(vec![0u32, 50]),
            steps in prop::collection::vec((1u64..4, 0u64..60, prop::bool::weighted(0.1)), 1..80),
        ) {
            let mut feed = feed(rate_ms);
            let (mut now, mut seq) = (Instant::now(), 0);
            for (ahead, wait_ms, snapshot) in steps {
                now += Duration::from_millis(wait_ms);
                feed.settle(None, now);
                seq += ahead;
                // The hub closes holes upstream by snapshots; an update that a policy dropped leaves a hole here.
                feed.push(&update(seq, snapshot), None, now);
            }
            now += Duration::from_millis(100);
            feed.settle(None, now);
            let mut have = 0;
            for event in events(&feed) {
                match event {
                    Event::Gap(gap) => {
                        prop_assert_eq!(gap.from_seq, have + 1);
                        prop_assert!(gap.to_seq >= gap.from_seq);
                        have = gap.to_seq;
                    }
                    Event::Update(update) => {
                        let first = update.first_seq.unwrap_or(update.seq);
                        prop_assert!(first <= have + 1, "first {} after {}", first, have);
                        prop_assert!(update.seq > have || update.snapshot);
                        have = update.seq;
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(have, seq);
        }
    }

    #[test]
    fn a_slower_rate_folds_updates_and_says_from_where() {
        let mut feed = feed(100);
        let now = Instant::now();
        feed.push(&update(1, false), None, now);
        let (_, due) = feed.push(&update(2, false), None, now);
        assert_eq!(due, Some(now + Duration::from_millis(100)));
        feed.push(&update(3, false), None, now);
        assert_eq!(feed.settle(None, now + Duration::from_millis(99)), 0);
        assert!(feed.settle(None, now + Duration::from_millis(100)) > 0);
        let seen: Vec<_> = events(&feed)
            .into_iter()
            .map(|event| match event {
                Event::Update(update) => (update.first_seq, update.seq),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, [(None, 1), (Some(2), 3)]);
    }
}
