//! Coming back: what a session missed is kept here for as long as anybody follows the source, and longer by the
//! server. A subscription that asks for more than is kept here is answered when the server has said what it has.

use std::collections::BTreeMap;
use std::rc::Rc;

use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Event, Gap, Position, Request, Subscribe, Subscribed, Update};

use super::Hub;
use super::lane::InFlight;
use super::seat::Owed;
use super::subscribe::PendingSubscribe;

/// What one source's server still has for a pending subscription.
#[derive(Debug)]
pub(super) struct History {
    /// The last number that will come.
    last: u64,
    updates: Vec<Rc<Update>>,
}

impl Hub {
    /// Asks the server for what a pending subscription missed and is not kept here; whether there was anything to ask.
    pub(super) fn ask_history(&mut self, number: u64) -> bool {
        let Some(pending) = self.pending.get(&number).filter(|pending| pending.history.is_none()) else { return false };
        let mut resume = BTreeMap::new();
        let mut lane_of_all = None;
        for id in &pending.sources {
            let source = &self.sources[*id];
            let Some(position) = pending.resume.get(&*source.key.symbol) else { continue };
            // Ahead of the source, or of another epoch: nothing can be missing that anyone has.
            let behind = *position.epoch == **source.stream.epoch() && position.seq < source.stream.seq();
            if behind && source.stream.since(position).is_none() && source.key.user.is_none() && source.line.is_none() {
                lane_of_all = Some(source.key.lane);
                resume.insert(source.key.symbol.to_string(), position.clone());
            }
        }
        let (Some(lane), channel, exchange) = (lane_of_all, pending.channel, pending.exchange) else { return false };
        // One at a time for each session: what the server replays is held here until it is all there.
        let busy = self.pending.values().any(|other| other.seat == pending.seat && other.history.is_some());
        let Some(lane) = self.lanes.get_mut(lane).filter(|lane| lane.connected && !busy) else { return false };
        let symbols = resume.keys().filter(|symbol| !symbol.is_empty()).cloned().collect();
        let request = Subscribe {
            channel: channel.as_str().into(),
            exchange: exchange.as_str().into(),
            symbols,
            resume,
            snapshot: Some(false),
            ..Subscribe::default()
        };
        lane.send(Request::Subscribe(request), Some(InFlight::History(number)));
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.history = Some(BTreeMap::new());
            pending.waiting = 1;
            let seat = pending.seat.index;
            if !std::mem::replace(&mut pending.counted, true) {
                self.seats[seat].waiting += pending.weight;
            }
        }
        true
    }

    /// What the server has, it sends behind this answer.
    pub(super) fn on_history(&mut self, number: u64, answer: &Subscribed) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        let Some(history) = &mut pending.history else { return };
        for accepted in answer.accepted.iter().filter(|accepted| accepted.recovered) {
            let source = pending.sources.iter().find(|id| *self.sources[**id].key.symbol == *accepted.symbol);
            let Some(&source) = source else { continue };
            let from = pending.resume.get(&accepted.symbol).map_or(accepted.seq, |position| position.seq);
            if *accepted.epoch == **self.sources[source].stream.epoch() && from < accepted.seq {
                history.insert(source, History { last: accepted.seq, updates: Vec::new() });
                self.sources[source].histories.push(number);
                pending.waiting += 1;
            }
        }
        self.one_less(number);
    }

    /// An update that is old here: it is history for those who asked for it.
    pub(super) fn on_old_update(&mut self, source: usize, update: &Rc<Update>) {
        for number in self.sources[source].histories.clone() {
            let history = self.pending.get_mut(&number).and_then(|pending| pending.history.as_mut()?.get_mut(&source));
            let ended = match history {
                Some(history) => {
                    history.updates.push(Rc::clone(update));
                    update.seq >= history.last
                }
                None => true,
            };
            if ended {
                self.sources[source].histories.retain(|known| *known != number);
                self.one_less(number);
            }
        }
    }

    /// Nothing more comes for a pending subscription: it is answered with what is there.
    pub(super) fn end_history(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.waiting = 0;
            self.complete(number);
        }
    }

    fn one_less(&mut self, number: u64) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.waiting = pending.waiting.saturating_sub(1);
        if pending.waiting == 0 {
            self.complete(number);
        }
    }

    /// What a session that comes back to a source missed, oldest first; `None` if it cannot be had.
    pub(super) fn missed(&self, pending: &PendingSubscribe, source: usize) -> Option<Vec<Rc<Update>>> {
        let at = &self.sources[source];
        let position = pending.resume.get(&*at.key.symbol)?;
        if let Some(kept) = at.stream.since(position) {
            return Some(kept);
        }
        let history = pending.history.as_ref()?.get(&source)?;
        let whole = history.updates.last().is_some_and(|update| update.seq >= history.last)
            && history.updates.first().is_some_and(|update| update.first_seq.unwrap_or(update.seq) <= position.seq + 1);
        let rest = at.stream.since(&Position { epoch: position.epoch.clone(), seq: history.last })?;
        whole.then(|| history.updates.iter().cloned().chain(rest).collect())
    }

    /// What a follow gets first.
    pub(super) fn begin(
        &mut self,
        index: usize,
        slot: usize,
        source_id: usize,
        pending: &PendingSubscribe,
        missed: Option<Vec<Rc<Update>>>,
    ) {
        let source = &self.sources[source_id];
        let feed_id = self.seats[index].follows[slot].feed;
        let stands = source.status.is_some() || source.stream.state().is_some() || self.feeds[feed_id].base.is_some();
        let mut owed = match (pending.snapshot, stands) {
            (false, _) => Owed::Nothing,
            (true, false) => Owed::First,
            (true, true) => Owed::Snapshot,
        };
        if let Some(position) = pending.resume.get(&*source.key.symbol)
            && source.key.channel != Channel::MarketStatus
            && source.key.channel != Channel::Alerts
        {
            match missed {
                // What is replayed reaches up to the source's newest; what the feed's log still appends begins
                // after its own, which is the same or, conflated, earlier: folded updates may overlap.
                Some(missed) if missed.is_empty() => owed = Owed::Nothing,
                Some(missed) => owed = Owed::Replay(missed.into_iter().rev().collect()),
                None => {
                    let same = *position.epoch == **source.stream.epoch();
                    let lost = same && position.seq < source.stream.seq();
                    let (from_seq, to_seq) = if lost { (position.seq + 1, source.stream.seq()) } else { (1, 0) };
                    let gap = Event::Gap(Gap {
                        subscription: pending.subscription.to_string(),
                        symbol: source.key.symbol.to_string(),
                        exchange: source.key.exchange.as_str().into(),
                        from_seq,
                        to_seq,
                    });
                    self.notice(index, &gap);
                }
            }
        }
        let has_some = !matches!(owed, Owed::Nothing | Owed::First);
        self.seats[index].follows[slot].owed = owed;
        if has_some {
            self.queue(index, slot);
        }
    }
}
