//! The way out: what logs and outboxes hold is copied to sockets, one write per session; and what happens to those
//! that do not keep up.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Degraded, Event, Position, Update};

use super::feed::{Feed, FeedKey, encode_into};
use super::{BATCH_BYTES_MAX, DEGRADED_RATE_MS, Hub, rename};

impl Hub {
    /// Writes to every session what is new for it. Sessions whose sockets are full are left to their own tasks.
    pub(crate) fn flush(&mut self) {
        let now = Instant::now();
        let mut cx = Context::from_waker(Waker::noop());
        // Resyncing may mark more sessions dirty; a bound on rounds keeps one flush from going on for ever.
        for _ in 0..4 {
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                return;
            }
            for index in &dirty {
                let Some(seat) = self.seats.get_mut(*index) else { continue };
                seat.dirty = false;
                if seat.blocked {
                    self.ladder(*index);
                    continue;
                }
                match self.flush_seat(*index, &mut cx, now) {
                    Poll::Ready(Ok(())) => {}
                    // Its task waits for the socket, or meets the error itself.
                    Poll::Pending | Poll::Ready(Err(_)) => self.seats[*index].wake(),
                }
            }
            if self.dirty.is_empty() {
                // Keeps the allocation for the next time.
                self.dirty = dirty;
                self.dirty.clear();
                return;
            }
        }
    }

    /// Writes what waits for one session, until nothing waits or the socket is full.
    pub(super) fn flush_seat(&mut self, index: usize, cx: &mut Context<'_>, now: Instant) -> Poll<std::io::Result<()>> {
        let mut batch = std::mem::take(&mut self.scratch);
        let result = loop {
            let seat = &mut self.seats[index];
            match seat.outbox.poll_finish(&mut seat.io, cx, now) {
                Poll::Ready(Ok(())) => {}
                other => break other,
            }
            batch.clear();
            self.fill(index, &mut batch);
            if batch.is_empty() {
                break self.seats[index].poll_io_flush(cx);
            }
            let seat = &mut self.seats[index];
            seat.sent_at = now;
            self.counters.add_bytes_out(batch.len());
            match seat.outbox.poll_write(&mut seat.io, cx, &batch, now) {
                Poll::Ready(Ok(())) => {}
                other => break other,
            }
        };
        batch.clear();
        self.scratch = batch;
        self.seats[index].blocked = result.is_pending();
        if result.is_pending() {
            self.ladder(index);
        } else if self.seats[index].read_paused && self.may_read(index) {
            self.seats[index].read_paused = false;
            self.seats[index].wake();
        }
        result
    }

    /// Collects what waits for a session: its own frames first, then what its logs have.
    fn fill(&mut self, index: usize, batch: &mut Vec<u8>) {
        self.seats[index].outbox.take_direct(batch);
        while batch.len() < BATCH_BYTES_MAX {
            let Some(slot) = self.seats[index].ready.pop() else {
                self.seats[index].backlog_bytes = 0;
                break;
            };
            if !self.copy(index, slot, batch) {
                self.resync(index, slot);
                self.seats[index].outbox.take_direct(batch);
            }
        }
    }

    /// Copies what one follow has not read; false if it was overtaken or has to begin again.
    fn copy(&mut self, index: usize, slot: usize, batch: &mut Vec<u8>) -> bool {
        let Self { seats, feeds, counters, .. } = self;
        let seat = &mut seats[index];
        let Some(follow) = seat.follows.get_mut(slot) else { return true };
        follow.queued = false;
        let Some(feed) = feeds.get_mut(follow.feed) else { return true };
        feed.lagging = feed.lagging.saturating_sub(1);
        if follow.resync {
            return false;
        }
        let Ok(entries) = feed.log.read(follow.cursor) else { return false };
        let (before, mut messages) = (batch.len(), 0);
        for entry in entries {
            batch.extend_from_slice(&entry.frame);
            follow.seq = entry.seq;
            messages += 1;
        }
        follow.cursor = feed.log.end();
        counters.add_messages_out(messages);
        seat.backlog_bytes = seat.backlog_bytes.saturating_sub(batch.len() - before);
        if feed.lagging == 0 {
            // Everyone has everything: nothing needs to be kept.
            feed.log.clear();
        }
        true
    }

    /// A follow that was overtaken (or moved): a state channel skips to a snapshot after a `gap`; a lossless one is
    /// replayed from the source, or its session is closed as slow.
    pub(super) fn resync(&mut self, index: usize, slot: usize) {
        let Some(follow) = self.seats[index].follows.get_mut(slot) else { return };
        follow.resync = false;
        let (feed_id, seq, epoch) = (follow.feed, follow.seq, Rc::clone(&follow.epoch));
        let feed = &self.feeds[feed_id];
        let source_id = feed.source;
        follow.cursor = feed.log.end();
        let source = &self.sources[source_id];
        if source.key.channel.is_state() {
            if let Some(status) = source.status.clone() {
                let judged = self.cohorts[feed.cohort].judge(&status, Instant::now());
                return self.deliver_directly(index, feed_id, &judged);
            }
            let base = feed.base.clone().or_else(|| source.stream.state().cloned());
            let Some(base) = base else { return };
            if *base.epoch == *epoch && base.seq <= seq {
                return;
            }
            let from = if *base.epoch == *epoch { (seq + 1, base.seq) } else { (1, 0) };
            self.counters.add_gaps(1);
            let gap = self.gap_for(feed_id, &base, from);
            self.notice(index, &gap);
            self.send_snapshot(index, slot, &base);
            return;
        }
        let position = Position { epoch: epoch.to_string(), seq };
        match self.sources[source_id].stream.since(&position) {
            Some(missed) => self.replay(index, slot, &missed),
            None => self.close_slow(index),
        }
    }

    pub(super) fn gap_for(&self, feed: usize, update: &Update, (from_seq, to_seq): (u64, u64)) -> Event {
        self.feeds[feed].gap(update, from_seq, to_seq)
    }

    /// Judges updates for a follow's cohort and sends them to its session alone.
    pub(super) fn replay(&mut self, index: usize, slot: usize, updates: &[Rc<Update>]) {
        let now = Instant::now();
        let Some(follow) = self.seats[index].follows.get(slot) else { return };
        let feed_id = follow.feed;
        let cohort = self.feeds[feed_id].cohort;
        for update in updates {
            let judged = self.cohorts[cohort].judge(&Event::Update(Update::clone(update)), now);
            self.deliver_directly(index, feed_id, &judged);
            if let Some(follow) = self.seats[index].follows.get_mut(slot) {
                follow.seq = update.seq;
                follow.epoch = update.epoch.as_str().into();
            }
        }
    }

    /// Sends the state `base` as a judged snapshot to one session.
    pub(super) fn send_snapshot(&mut self, index: usize, slot: usize, base: &Rc<Update>) {
        let now = Instant::now();
        let Some(follow) = self.seats[index].follows.get_mut(slot) else { return };
        follow.seq = base.seq;
        follow.epoch = base.epoch.as_str().into();
        let feed_id = follow.feed;
        let Feed { source, cohort, .. } = self.feeds[feed_id];
        let group = self.sources[source].groups.iter_mut().find(|group| group.cohort == cohort);
        let kept = group.as_ref().and_then(|group| group.snapshot.as_ref());
        let judged = match kept {
            Some((epoch, seq, judged)) if *epoch == base.epoch && *seq == base.seq => Rc::clone(judged),
            _ => {
                let mut whole = Update::clone(base);
                whole.snapshot = true;
                whole.first_seq = None;
                let judged: Rc<[Event]> = self.cohorts[cohort].judge(&Event::Update(whole), now).into();
                if let Some(group) = group {
                    group.snapshot = Some((base.epoch.clone(), base.seq, Rc::clone(&judged)));
                }
                judged
            }
        };
        self.deliver_directly(index, feed_id, &judged);
    }

    /// Encodes judged events under a feed's name into one session's outbox.
    pub(super) fn deliver_directly(&mut self, index: usize, feed: usize, events: &[Event]) {
        for event in events {
            let feed = &self.feeds[feed];
            let event = match event {
                Event::Update(update) => Event::Update(feed.dress(update.clone())),
                other => rename(other, &feed.key.subscription),
            };
            let seat = &mut self.seats[index];
            encode_into(seat.encoding, &event, seat.outbox.direct());
            self.counters.add_messages_out(1);
        }
        self.mark_dirty(index);
    }

    /// The slow reader's ladder, walked while its socket is full: a slower rate, then (on lossless channels, or when
    /// its own frames pile up) the end.
    pub(super) fn ladder(&mut self, index: usize) {
        let limit = self.shared.config.limits.outbox_bytes_max as usize;
        let seat = &self.seats[index];
        if seat.closing.is_some() {
            return;
        }
        if seat.outbox.waiting_bytes() > limit + BATCH_BYTES_MAX {
            self.close_slow(index);
        } else if seat.outbox.waiting_bytes() + seat.backlog_bytes > limit / 2 && !seat.degraded {
            self.degrade(index);
        }
    }

    /// Moves every state channel of a session to the slower rate.
    fn degrade(&mut self, index: usize) {
        self.seats[index].degraded = true;
        let mut told: Vec<Rc<str>> = Vec::new();
        let slots: Vec<usize> = self.seats[index].follows.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let Some(follow) = self.seats[index].follows.get(slot) else { continue };
            let Feed { key, source, cohort, .. } = &self.feeds[follow.feed];
            let (key, source, cohort) = (key.clone(), *source, *cohort);
            let channel = self.sources[source].key.channel;
            if !channel.is_state() || channel == Channel::MarketStatus || key.rate_ms >= DEGRADED_RATE_MS {
                continue;
            }
            if !told.contains(&key.subscription) {
                told.push(Rc::clone(&key.subscription));
                self.counters.add_degraded(1);
                let event = Degraded { subscription: key.subscription.to_string(), update_rate_ms: DEGRADED_RATE_MS };
                self.notice(index, &Event::Degraded(event));
            }
            let behind = self.seats[index].follows.get(slot).is_some_and(|follow| follow.queued);
            self.move_follow(index, slot, source, cohort, FeedKey { rate_ms: DEGRADED_RATE_MS, ..key }, behind);
        }
        self.seats[index].backlog_bytes = 0;
    }
}
