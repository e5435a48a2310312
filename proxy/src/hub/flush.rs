//! The way out: what logs and outboxes hold is copied to sockets, one write per session.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bawaba_channels::wire::{Event, Position, Update};

use super::feed::{Feed, encode_into};
use super::seat::Owed;
use super::{BATCH_BYTES_MAX, Hub, rename};

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
            self.judge_spent();
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
            self.seats[index].blocked_at = now;
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
        while batch.len() < BATCH_BYTES_MAX && !self.is_spent(index) {
            let Some(slot) = self.seats[index].ready.pop() else {
                self.seats[index].backlog_bytes = 0;
                break;
            };
            if !self.copy(index, slot, batch) {
                self.settle_owed(index, slot);
                self.seats[index].outbox.take_direct(batch);
            }
        }
    }

    /// Copies what one follow has not read; false if it was overtaken, or is owed something first.
    pub(super) fn copy(&mut self, index: usize, slot: usize, batch: &mut Vec<u8>) -> bool {
        let Self { seats, feeds, counters, .. } = self;
        let seat = &mut seats[index];
        let Some(follow) = seat.follows.get_mut(slot) else { return true };
        follow.queued = false;
        let Some(feed) = feeds.get_mut(follow.feed) else { return true };
        feed.lagging = feed.lagging.saturating_sub(1);
        match follow.owed {
            Owed::Nothing => {}
            // Something else came first.
            Owed::First => follow.owed = Owed::Nothing,
            _ => return false,
        }
        let Ok(entries) = feed.log.read(follow.cursor) else {
            follow.owed = Owed::Gap;
            return false;
        };
        let (before, mut messages) = (batch.len(), 0);
        let (grants, host) = (&seat.grants, &seat.facts.host);
        let mut whole = true;
        for entry in entries {
            if !host.may_deliver(grants) {
                whole = false;
                break;
            }
            host.delivered(1, entry.frame.len() as u64);
            batch.extend_from_slice(&entry.frame);
            follow.seq = entry.seq;
            messages += 1;
        }
        if let (true, Some(epoch)) = (messages > 0, feed.epoch()) {
            follow.epoch = Rc::clone(epoch);
        }
        counters.add_messages_out(messages);
        if !whole {
            // The rest waits for a new allowance.
            follow.cursor.0 += messages as u64;
            follow.queued = true;
            feed.lagging += 1;
            seat.ready.push(slot);
            return true;
        }
        follow.cursor = feed.log.end();
        seat.backlog_bytes = seat.backlog_bytes.saturating_sub(batch.len() - before);
        if feed.lagging == 0 {
            // Everyone has everything: nothing needs to be kept.
            feed.log.clear();
        }
        true
    }

    /// Gives a follow what it is owed before it reads on: one that was overtaken skips to a snapshot after a `gap` on a
    /// state channel; on a lossless one it is replayed from the source, or its session is closed as slow.
    fn settle_owed(&mut self, index: usize, slot: usize) {
        let Some(follow) = self.seats[index].follows.get_mut(slot) else { return };
        let owed = std::mem::replace(&mut follow.owed, Owed::Nothing);
        let (feed_id, seq, epoch) = (follow.feed, follow.seq, Rc::clone(&follow.epoch));
        if let Owed::Replay(missed) = owed {
            return self.replay_some(index, slot, missed);
        }
        let feed = &self.feeds[feed_id];
        let source = &self.sources[feed.source];
        follow.cursor = feed.log.end();
        if !source.key.channel.is_state() && !matches!(owed, Owed::Snapshot) {
            let position = Position { epoch: epoch.to_string(), seq };
            return match source.stream.since(&position) {
                Some(missed) => self.replay_some(index, slot, missed.into_iter().rev().collect()),
                None => self.close_slow(index),
            };
        }
        if let Some(status) = source.status.clone() {
            let judged = self.cohorts[feed.cohort].judge(&status, Instant::now());
            return self.deliver_directly(index, feed_id, &judged);
        }
        let Some(base) = feed.base.clone().or_else(|| source.stream.state().cloned()) else {
            // The server is about to say what stands; that will have its turn here.
            if let Some(follow) = self.seats[index].follows.get_mut(slot) {
                follow.owed = owed;
            }
            return;
        };
        let same_epoch = *base.epoch == *epoch;
        match owed {
            Owed::Snapshot => return self.send_snapshot(index, slot, &base),
            _ if same_epoch && base.seq <= seq => return,
            Owed::Fold if same_epoch => return self.send_folded(index, slot, &base, seq + 1),
            _ => {}
        }
        let missing = if same_epoch { (seq + 1, base.seq) } else { (1, 0) };
        self.counters.add_gaps(1);
        let gap = self.gap_for(feed_id, &base, missing);
        self.notice(index, &gap);
        self.send_snapshot(index, slot, &base);
    }

    /// Replays as much as fits into one write, from the end of `missed`; the rest waits for the next.
    fn replay_some(&mut self, index: usize, slot: usize, mut missed: Vec<Rc<Update>>) {
        while let Some(update) = missed.pop() {
            self.replay(index, slot, &update);
            if self.seats[index].outbox.waiting_bytes() >= BATCH_BYTES_MAX {
                break;
            }
        }
        let Some(follow) = self.seats[index].follows.get_mut(slot) else { return };
        let more = !missed.is_empty();
        if more {
            follow.owed = Owed::Replay(missed);
        }
        // What came meanwhile is in the log behind the cursor.
        if more || follow.cursor != self.feeds[follow.feed].log.end() {
            self.queue(index, slot);
        }
    }

    pub(super) fn gap_for(&self, feed: usize, update: &Update, (from_seq, to_seq): (u64, u64)) -> Event {
        self.feeds[feed].gap(update, from_seq, to_seq)
    }

    /// Judges an update for a follow's cohort and sends it to its session alone.
    fn replay(&mut self, index: usize, slot: usize, update: &Rc<Update>) {
        let Some(follow) = self.seats[index].follows.get_mut(slot) else { return };
        follow.seq = update.seq;
        if *follow.epoch != *update.epoch {
            follow.epoch = update.epoch.as_str().into();
        }
        let feed_id = follow.feed;
        let cohort = self.feeds[feed_id].cohort;
        let judged = self.cohorts[cohort].judge(&Event::Update(Update::clone(update)), Instant::now());
        self.deliver_directly(index, feed_id, &judged);
    }

    /// Sends the state `base` as one update that stands for all from `first_seq` on: conflated, so nothing is missing.
    fn send_folded(&mut self, index: usize, slot: usize, base: &Rc<Update>, first_seq: u64) {
        let mut whole = Update::clone(base);
        whole.snapshot = false;
        whole.first_seq = (first_seq < whole.seq).then_some(first_seq);
        self.replay(index, slot, &Rc::new(whole));
    }

    /// Sends the state `base` as a judged snapshot to one session.
    fn send_snapshot(&mut self, index: usize, slot: usize, base: &Rc<Update>) {
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
            let before = seat.outbox.direct().len();
            encode_into(seat.encoding, &event, seat.outbox.direct());
            seat.facts.host.delivered(1, (seat.outbox.direct().len() - before) as u64);
            self.counters.add_messages_out(1);
        }
        self.mark_dirty(index);
    }
}
