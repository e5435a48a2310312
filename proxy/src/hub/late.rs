//! Late data: what a licence gives some time later, or at the end of the day. A late source hangs on the live one of the
//! same stream and is fed from it through a line; everything behind it (cohorts, feeds, snapshots, resuming) is that of any
//! source, so that whoever follows it sees the market as it was.
//!
//! A line is bounded by `limits.delayed_updates_max`. At the bound, channels of state fold their two oldest updates into one,
//! which comes when the newer of them would have; channels without state lose their oldest, and a `gap` says so.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bawaba_channels::name::Exchange;
use bawaba_channels::wire::{Event, Update};

use super::grant::unix_nanos;
use super::source::{SourceKey, Step, merge};
use super::subscribe::PendingSubscribe;
use super::{Hub, Source};
use crate::grants::Late;

/// A line that nobody follows is kept this much longer than its delay: whoever comes back does not wait anew.
const KEEP: Duration = Duration::from_secs(60);

/// What comes later.
pub(super) struct Line {
    items: VecDeque<(Instant, Item)>,
    unused_since: Option<Instant>,
}

enum Item {
    Update(Rc<Update>),
    Plain(Rc<Event>),
}

impl Hub {
    /// The source that a session gets of a stream: the live one, or the late one of its licence.
    pub(super) fn source_of_session(&mut self, index: usize, key: SourceKey) -> usize {
        let base = self.source_for(key);
        self.as_late_as(index, base)
    }

    /// As [`Self::source_of_session`], for a source that there is.
    pub(super) fn as_late_as(&mut self, index: usize, base: usize) -> usize {
        let late = self.seats[index].grants.late;
        if late == Late::Now || self.sources[base].key.user.is_some() {
            return base;
        }
        let key = SourceKey { late, ..self.sources[base].key.clone() };
        if let Some(known) = self.source_index.get(&key) {
            return *known;
        }
        let serial = self.next_serial();
        let at = &self.sources[base];
        let (live, state, status) = (at.live, at.stream.state().cloned(), at.status.clone());
        let mut source = Source::new(serial, key.clone());
        source.live = live;
        source.line = Some(Box::new(Line { items: VecDeque::new(), unused_since: None }));
        // Whatever comes first is where it begins.
        source.stream.lose();
        let id = self.sources.insert(source);
        self.source_index.insert(key, id);
        self.sources[base].late.push(id);
        self.late_sources.insert(id);
        if let Some(state) = state {
            self.hold_update(id, &whole(&state));
        }
        if let Some(status) = status {
            self.hold_plain(id, &status);
        }
        id
    }

    /// Whether a subscription was asked for under another licence than the session has now.
    pub(super) fn is_outdated(&self, index: usize, pending: &PendingSubscribe) -> bool {
        let late = self.seats[index].grants.late;
        !pending.channel.is_private() && pending.sources.iter().any(|id| self.sources[*id].key.late != late)
    }

    /// An update of a live source, for the late ones that hang on it.
    pub(super) fn delay_update(&mut self, base: usize, update: &Rc<Update>) {
        for id in self.sources[base].late.clone() {
            if self.sources[id].key.late == Late::Close {
                self.release_close(id, base);
            } else {
                self.hold_update(id, update);
            }
        }
    }

    /// As [`Self::delay_update`], for an event without a sequence.
    pub(super) fn delay_plain(&mut self, base: usize, event: &Event) {
        for id in self.sources[base].late.clone() {
            self.hold_plain(id, event);
        }
        if let Event::MarketStatus(status) = event
            && status.symbol.is_none()
            && status.phase == "closed"
        {
            let exchange = self.sources[base].key.exchange;
            self.day_ends(exchange);
        }
    }

    /// An exchange closed: whoever has closing data gets what stands now.
    fn day_ends(&mut self, exchange: Exchange) {
        let all: Vec<(usize, usize)> = self
            .sources
            .iter()
            .filter(|(_, source)| source.key.exchange == exchange)
            .flat_map(|(base, source)| source.late.iter().map(move |late| (*late, base)))
            .filter(|(late, _)| self.sources[*late].key.late == Late::Close)
            .collect();
        for (late, base) in all {
            self.release_close(late, base);
        }
    }

    /// The state of a live source as the closing snapshot, if its exchange is closed.
    fn release_close(&mut self, id: usize, base: usize) {
        let exchange = self.sources[base].key.exchange;
        let closed = self.markets.get(&exchange).is_some_and(|market| market.phase == "closed");
        if let (true, Some(state)) = (closed, self.sources[base].stream.state().cloned()) {
            self.pass_on(id, Item::Update(whole(&state)));
        }
    }

    fn hold_update(&mut self, id: usize, update: &Rc<Update>) {
        match self.sources[id].key.late {
            Late::Ms(ms) => {
                // What is old when it comes (a snapshot of a quiet instrument) has waited already.
                let now = unix_nanos();
                let since = if update.time > 0 { update.time.min(now) } else { now };
                let age = Duration::from_nanos(u64::try_from(now - since).unwrap_or(0));
                let wait = Duration::from_millis(u64::from(ms)).saturating_sub(age);
                self.hold(id, Instant::now() + wait, Item::Update(Rc::clone(update)));
            }
            Late::Close => {
                let base = SourceKey { late: Late::Now, ..self.sources[id].key.clone() };
                if let Some(&base) = self.source_index.get(&base) {
                    self.release_close(id, base);
                }
            }
            Late::Now => {}
        }
    }

    fn hold_plain(&mut self, id: usize, event: &Event) {
        match self.sources[id].key.late {
            Late::Ms(ms) => {
                let due = Instant::now() + Duration::from_millis(u64::from(ms));
                self.hold(id, due, Item::Plain(Rc::new(event.clone())));
            }
            // The phase that a day ends with; what is in between is not for closing data.
            Late::Close if matches!(event, Event::MarketStatus(status) if status.phase == "closed") => {
                self.pass_on(id, Item::Plain(Rc::new(event.clone())));
            }
            Late::Close | Late::Now => {}
        }
    }

    fn hold(&mut self, id: usize, due: Instant, item: Item) {
        let most = self.shared.config.limits.delayed_updates_max as usize;
        let source = &mut self.sources[id];
        let is_state = source.key.channel.is_state();
        let Some(line) = &mut source.line else { return };
        // In order, whatever the feed's clock says.
        let due = line.items.back().map_or(due, |(last, _)| due.max(*last));
        if line.items.len() >= most.max(1) {
            line.shorten(is_state);
        }
        let first = line.items.is_empty();
        line.items.push_back((due, item));
        if first {
            self.set_late_timer(due, id);
        }
    }

    fn set_late_timer(&mut self, due: Instant, id: usize) {
        self.late_timers.push(Reverse((due, id)));
        self.timer_set.notify_one();
    }

    /// Passes on what is due of every line.
    pub(super) fn release_late(&mut self, now: Instant) {
        while let Some(Reverse((due, id))) = self.late_timers.peek().copied() {
            if due > now {
                return;
            }
            self.late_timers.pop();
            // Another source may have its place meanwhile: what is not due there stays.
            while let Some(item) = self.sources.get_mut(id).and_then(|source| source.line.as_mut()?.take_due(now)) {
                self.pass_on(id, item);
            }
            let next = self.sources.get(id).and_then(|source| source.line.as_ref()?.items.front());
            if let Some(&(due, _)) = next {
                self.set_late_timer(due, id);
            }
        }
    }

    fn pass_on(&mut self, id: usize, item: Item) {
        let source = &mut self.sources[id];
        match item {
            Item::Update(update) => {
                let folds = source.key.channel.is_state();
                if source.stream.take(&update, folds) == Step::Hole {
                    // What was between is gone: the feeds say so.
                    source.stream.lose();
                    source.stream.take(&update, folds);
                }
                self.spread(id, &update);
            }
            Item::Plain(event) => {
                if matches!(&*event, Event::MarketStatus(status) if status.symbol.is_none()) {
                    source.status = Some(Event::clone(&event));
                }
                self.spread_plain(id, &event);
            }
        }
    }

    /// Ends the lines that nobody has followed for a while.
    pub(super) fn sweep_late(&mut self, now: Instant) {
        for id in self.late_sources.clone() {
            let Some(source) = self.sources.get_mut(id) else { continue };
            let used = source.is_used();
            let keep =
                KEEP + if let Late::Ms(ms) = source.key.late { Duration::from_millis(u64::from(ms)) } else { KEEP };
            let Some(line) = &mut source.line else { continue };
            if used {
                line.unused_since = None;
            } else if now.duration_since(*line.unused_since.get_or_insert(now)) > keep {
                let gone = self.sources.remove(id);
                self.late_sources.remove(&id);
                self.source_index.remove(&gone.key);
                let base = SourceKey { late: Late::Now, ..gone.key };
                if let Some(&base) = self.source_index.get(&base) {
                    self.sources[base].late.retain(|late| *late != id);
                    self.release_source(base);
                }
            }
        }
    }
}

impl Line {
    fn take_due(&mut self, now: Instant) -> Option<Item> {
        self.items.pop_front_if(|(due, _)| *due <= now).map(|(_, item)| item)
    }

    /// Makes room: the two oldest updates become one at the newer one's time, or the oldest goes.
    fn shorten(&mut self, is_state: bool) {
        let Some((_, oldest)) = self.items.pop_front() else { return };
        let (Item::Update(older), Some((_, Item::Update(newer)))) = (&oldest, self.items.front_mut()) else { return };
        if is_state && older.epoch == newer.epoch && !newer.snapshot {
            let folded = Rc::make_mut(newer);
            let mut data = older.data.clone();
            merge(&mut data, folded.data.as_ref());
            folded.data = data;
            folded.first_seq = Some(older.first_seq.unwrap_or(older.seq));
            folded.snapshot = older.snapshot;
        }
    }
}

/// A state as the snapshot that it is.
fn whole(state: &Rc<Update>) -> Rc<Update> {
    let mut whole = Update::clone(state);
    whole.snapshot = true;
    whole.first_seq = None;
    Rc::new(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bawaba_channels::decimal::Decimal;
    use bawaba_channels::wire::{Data, Quote};

    fn quote(seq: u64, last: Option<i64>, bid: Option<i64>) -> Item {
        let price = |cents: Option<i64>| cents.map(|cents| Decimal::new(cents, 2));
        let quote = Quote { last: price(last), bid: price(bid), ..Quote::default() };
        Item::Update(Rc::new(Update { epoch: "e".into(), seq, data: Some(Data::Quote(quote)), ..Update::default() }))
    }

    fn line(items: Vec<Item>) -> Line {
        let now = Instant::now();
        let items = items.into_iter().zip(0_u32..).map(|(item, at)| (now + KEEP * at, item)).collect();
        Line { items, unused_since: None }
    }

    #[test]
    fn a_full_line_of_state_folds_its_oldest_and_comes_no_earlier() {
        let mut line = line(vec![quote(1, Some(100), Some(99)), quote(2, Some(101), None), quote(3, None, Some(98))]);
        let newer = line.items[1].0;
        line.shorten(true);
        let (due, Item::Update(folded)) = &line.items[0] else { panic!("an update") };
        let Some(Data::Quote(quote)) = &folded.data else { panic!("a quote") };
        assert_eq!((*due, folded.first_seq, folded.seq), (newer, Some(1), 2));
        assert_eq!((quote.last, quote.bid), (Some(Decimal::new(101, 2)), Some(Decimal::new(99, 2))));
        assert_eq!(line.items.len(), 2);
    }

    #[test]
    fn a_full_line_without_state_loses_its_oldest() {
        let mut line = line(vec![quote(1, Some(100), None), quote(2, Some(101), None)]);
        line.shorten(false);
        let (_, Item::Update(left)) = &line.items[0] else { panic!("an update") };
        assert_eq!((left.seq, left.first_seq, line.items.len()), (2, None, 1));
    }

    #[test]
    fn nothing_is_taken_before_its_time() {
        let mut line = line(vec![quote(1, None, None), quote(2, None, None)]);
        let second = line.items[1].0;
        assert!(line.take_due(second - Duration::from_nanos(1)).is_some());
        assert!(line.take_due(second - Duration::from_nanos(1)).is_none());
        assert!(line.take_due(second).is_some());
    }
}
