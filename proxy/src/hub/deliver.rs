//! From trunks to sessions: answers find who asked, updates are checked, judged once per cohort and appended to feeds.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bawaba_channels::name::Exchange;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Accepted, ErrorEvent, Event, Gap, Market, Refused, Subscribed, Update};

use super::feed::Follower;
use super::lane::{InFlight, LaneKey, SourceRef};
use super::seat::Owed;
use super::source::{SourceKey, Step, channel_of};
use super::subscribe::Outcome;
use super::{Hub, Source, rename};
use crate::grants::Late;

impl Hub {
    /// Takes one event from a trunk. Call [`Hub::flush`] after each batch.
    pub(crate) fn on_trunk(&mut self, key: LaneKey, event: Event) {
        if self.lane(key).is_none() {
            return;
        }
        self.counters.add_trunk_events(1);
        match event {
            Event::Update(update) => self.on_update(key.index, update),
            Event::MarketStatus(_) | Event::Alert(_) => self.on_plain(key.index, event),
            Event::Subscribed(answer) => self.on_subscribed(key.index, answer),
            Event::OrderUpdate(ref update) if update.id.is_some() => self.on_order_answer(key.index, event),
            Event::OrderUpdate(_) | Event::PositionUpdate(_) => self.on_private(key.index, event),
            Event::Error(error) => self.on_error(key.index, &error),
            Event::Gap(gap) => self.on_gap(key.index, &gap),
            Event::Revoked(revoked) => self.on_revoked(key.index, &revoked),
            Event::Welcome(welcome) => {
                for (exchange, market) in welcome.markets {
                    if let Ok(exchange) = exchange.parse() {
                        self.markets.insert(exchange, market);
                    }
                }
            }
            // Drain: the trunk moves when the connection ends or health says so; what follows is resumed.
            Event::Drain(_) | Event::Unsubscribed(_) | Event::Degraded(_) | Event::Refreshed(_) | Event::Pong(_) => {}
        }
    }

    fn on_update(&mut self, lane: usize, update: Update) {
        let event = Event::Update(update);
        let Some(channel) = channel_of(&event) else { return };
        let Event::Update(update) = event else { return };
        let Ok(exchange) = update.exchange.parse::<Exchange>() else { return };
        let key =
            SourceKey { lane, channel, exchange, symbol: update.symbol.as_str().into(), user: None, late: Late::Now };
        let Some(&id) = self.source_index.get(&key) else { return };
        let update = Rc::new(update);
        let source = &mut self.sources[id];
        if !source.histories.is_empty() && update.seq <= source.stream.seq() && !update.snapshot {
            return self.on_old_update(id, &update);
        }
        if source.recovering && !update.snapshot {
            return;
        }
        match source.stream.take(&update, channel.is_state()) {
            Step::Next => {}
            Step::Duplicate => return,
            Step::Hole => {
                tracing::warn!(%channel, %exchange, symbol = %update.symbol, have = source.stream.seq(), got = update.seq, "a hole in a trunk's sequence: resuming");
                source.recovering = true;
                self.lanes[lane].wanted.push(id);
                self.send_wanted(lane);
                return;
            }
        }
        source.recovering = false;
        source.live = true;
        self.spread(id, &update);
        self.delay_update(id, &update);
    }

    /// Judges an update once for each cohort, and appends it to their feeds.
    pub(super) fn spread(&mut self, id: usize, update: &Rc<Update>) {
        let now = Instant::now();
        let Self { sources, cohorts, feeds, counters, .. } = self;
        let source = &mut sources[id];
        let base = source.stream.state().cloned();
        let event = Event::Update(Update::clone(update));
        let mut marks: Vec<(usize, usize)> = Vec::new();
        let mut timers: Vec<(Instant, usize)> = Vec::new();
        let mut stands: Vec<usize> = Vec::new();
        for group in &mut source.groups {
            group.snapshot = None;
            let mut judged: Option<Vec<Event>> = None;
            for feed_id in &group.feeds {
                let feed = &mut feeds[*feed_id];
                if feed.stands_at(update) {
                    feed.base.clone_from(&base);
                    stands.push(*feed_id);
                    continue;
                }
                let judged = judged.get_or_insert_with(|| {
                    counters.add_judged(1);
                    cohorts[group.cohort].judge(&event, now)
                });
                let mut bytes = 0;
                for event in judged.iter() {
                    match event {
                        Event::Update(update) => {
                            let (appended, due) = feed.push(update, base.as_ref(), now);
                            bytes += appended;
                            timers.extend(due.map(|at| (at, *feed_id)));
                        }
                        other => bytes += feed.append_event(&rename(other, &feed.key.subscription)),
                    }
                }
                marks.push((*feed_id, bytes));
            }
        }
        for feed in stands {
            self.say_first(feed);
        }
        for (feed, bytes) in marks {
            self.mark_feed(feed, bytes);
        }
        for (at, feed) in timers {
            self.set_timer(at, feed);
        }
    }

    /// The server said what stands where a feed is: for those who just began there, and want it.
    fn say_first(&mut self, feed: usize) {
        let followers: Vec<Follower> = self.feeds[feed].followers.iter().map(|(_, follower)| *follower).collect();
        for Follower { seat, slot } in followers {
            if let Some(follow) = self.seats.get_mut(seat).and_then(|seat| seat.follows.get_mut(slot))
                && matches!(follow.owed, Owed::First)
            {
                follow.owed = Owed::Snapshot;
                self.queue(seat, slot);
            }
        }
    }

    /// An event without a sequence, on a channel of an exchange.
    fn on_plain(&mut self, lane: usize, event: Event) {
        let Some(channel) = channel_of(&event) else { return };
        let exchange = match &event {
            Event::MarketStatus(status) => status.exchange.parse().ok(),
            Event::Alert(alert) => alert.exchange.as_deref().and_then(|exchange| exchange.parse().ok()),
            _ => None,
        };
        let Some(exchange) = exchange else { return };
        if let Event::MarketStatus(status) = &event
            && status.symbol.is_none()
        {
            let known = self.markets.get(&exchange).and_then(|market| market.next_open);
            let next_open = status.next_open.or(known.filter(|_| status.phase == "closed"));
            self.markets.insert(exchange, Market { phase: status.phase.clone(), until: status.next, next_open });
        }
        let key = SourceKey { lane, channel, exchange, symbol: "".into(), user: None, late: Late::Now };
        let Some(&id) = self.source_index.get(&key) else { return };
        self.sources[id].live = true;
        // The state of one instrument is told as it comes; what stands is the market's.
        if matches!(&event, Event::MarketStatus(status) if status.symbol.is_none()) {
            if self.sources[id].status.as_ref() == Some(&event) {
                return;
            }
            self.sources[id].status = Some(event.clone());
        }
        self.spread_plain(id, &event);
        self.delay_plain(id, &event);
    }

    /// Judges an event without a sequence once for each cohort, and appends it to their feeds.
    pub(super) fn spread_plain(&mut self, id: usize, event: &Event) {
        let now = Instant::now();
        let groups: Vec<(usize, Vec<usize>)> =
            self.sources[id].groups.iter().map(|group| (group.cohort, group.feeds.clone())).collect();
        for (cohort, feeds) in groups {
            self.counters.add_judged(1);
            let judged = self.cohorts[cohort].judge(event, now);
            for feed_id in feeds {
                let feed = &mut self.feeds[feed_id];
                let bytes =
                    judged.iter().map(|event| feed.append_event(&rename(event, &feed.key.subscription.clone()))).sum();
                self.mark_feed(feed_id, bytes);
            }
        }
    }

    fn on_gap(&mut self, lane: usize, gap: &Gap) {
        let found = self.lanes[lane].sources.iter().copied().find(|id| {
            let source = &self.sources[*id];
            source.subscription.as_deref() == Some(gap.subscription.as_str()) && *source.key.symbol == *gap.symbol
        });
        let Some(source) = found else { return };
        if self.sources[source].key.user.is_some() {
            return self.on_private_gap(source, gap);
        }
        if self.sources[source].histories.is_empty() {
            self.sources[source].stream.lose();
            self.sources[source].recovering = false;
        }
    }

    fn on_subscribed(&mut self, lane: usize, answer: Subscribed) {
        let Some(awaited) = answer.id.and_then(|id| self.lanes[lane].in_flight.remove(&id)) else { return };
        let subscription: Option<Rc<str>> = answer.subscription.as_deref().map(Into::into);
        match awaited {
            InFlight::Subscribe(asked) => {
                for wanted in asked {
                    let id = wanted.index;
                    let Some(source) = self.source_mut(wanted) else { continue };
                    let accepted = answer.accepted.iter().find(|accepted| *accepted.symbol == *source.key.symbol);
                    let refused = answer.refused.iter().find(|refused| *refused.symbol == *source.key.symbol);
                    let outcome = match (accepted, refused) {
                        (Some(accepted), _) => {
                            self.flows(id, accepted, subscription.as_ref());
                            Outcome::Accepted
                        }
                        (None, Some(refused)) => Outcome::Refused(refused.clone()),
                        (None, None) => {
                            Outcome::Refused(Refused { symbol: source.key.symbol.to_string(), ..unanswered() })
                        }
                    };
                    self.resolve(id, &outcome);
                }
            }
            InFlight::Private { source, joiner } => self.on_private_answer(source, joiner, &answer),
            InFlight::History(pending) => self.on_history(pending, &answer),
            InFlight::Wildcard(pending) => self.on_wildcard(lane, pending, &answer, subscription.as_ref()),
            // An order is not answered so.
            InFlight::Order(order) => self.order_failed(&order),
        }
    }

    /// A source, if it is still the one that was meant.
    pub(super) fn source_mut(&mut self, named: SourceRef) -> Option<&mut Source> {
        self.sources.get_mut(named.index).filter(|source| source.serial == named.serial)
    }

    /// The server accepted a source: it flows from this place on.
    fn flows(&mut self, id: usize, accepted: &Accepted, subscription: Option<&Rc<str>>) {
        let Self { sources, feeds, .. } = self;
        let source = &mut sources[id];
        let goes_on = accepted.recovered && *accepted.epoch == **source.stream.epoch();
        source.stream.begin(&accepted.epoch, accepted.seq, accepted.recovered);
        source.subscription = subscription.cloned();
        source.live = true;
        source.recovering = false;
        if !goes_on {
            // Nobody begins with what stood before: the server says next what stands.
            for group in &mut source.groups {
                group.snapshot = None;
                for feed in &group.feeds {
                    feeds[*feed].base = None;
                }
            }
        }
    }

    fn on_wildcard(&mut self, lane: usize, pending: u64, answer: &Subscribed, subscription: Option<&Rc<str>>) {
        let Some(asked) = self.pending.get(&pending) else { return };
        let (channel, exchange) = (asked.channel, asked.exchange);
        let seat = self.seat_index(asked.seat);
        let mut ids = Vec::with_capacity(answer.accepted.len());
        let mut waited_for = Vec::new();
        for accepted in &answer.accepted {
            let key = SourceKey {
                lane,
                channel,
                exchange,
                symbol: accepted.symbol.as_str().into(),
                user: None,
                late: Late::Now,
            };
            let id = self.source_for(key);
            if !self.sources[id].live {
                // Its own request, if one is under way, will find it flowing.
                self.flows(id, accepted, subscription);
                waited_for.push(id);
            }
            let id = seat.map_or(id, |index| self.as_late_as(index, id));
            self.sources[id].held += 1;
            ids.push(id);
        }
        // They are subscribed to already: only those that wait for their own answer are asked for.
        let sources = &self.sources;
        self.lanes[lane].wanted.retain(|id| sources.get(*id).is_some_and(|source| !source.live));
        self.finish_wildcard(pending, ids, answer.refused.clone());
        for id in waited_for {
            if self.sources.contains(id) {
                self.resolve(id, &Outcome::Accepted);
            }
        }
    }

    fn on_error(&mut self, lane: usize, error: &ErrorEvent) {
        let Some(awaited) = error.id.and_then(|id| self.lanes[lane].in_flight.remove(&id)) else {
            tracing::warn!(code = %error.code, reason = %error.reason, "a server refused a request that nobody waits for");
            return;
        };
        match awaited {
            InFlight::Subscribe(asked) => {
                for wanted in asked {
                    let Some(source) = self.source_mut(wanted) else { continue };
                    let refused = refused_by(error, &source.key.symbol);
                    self.resolve(wanted.index, &Outcome::Refused(refused));
                }
            }
            InFlight::Private { source, joiner } => self.on_private_refused(source, joiner, &refused_by(error, "")),
            InFlight::History(pending) => self.end_history(pending),
            InFlight::Wildcard(pending) => self.fail_pending(pending, &error.code, &error.reason),
            InFlight::Order(order) => {
                if let Some(index) = self.seat_index(order.seat) {
                    self.seats[index].waiting = self.seats[index].waiting.saturating_sub(1);
                    let answer = ErrorEvent { id: order.id, ..error.clone() };
                    self.send(index, &Event::Error(answer));
                    self.seats[index].wake();
                }
            }
        }
    }

    fn set_timer(&mut self, at: Instant, feed: usize) {
        let earliest = self.timers.peek().is_none_or(|std::cmp::Reverse((first, _))| at < *first);
        self.timers.push(std::cmp::Reverse((at, feed)));
        if earliest {
            self.timer_set.notify_one();
        }
    }

    /// When [`Hub::settle`] is next wanted.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let late = self.late_timers.peek().map(|std::cmp::Reverse((at, _))| *at);
        let conflated = self.timers.peek().map(|std::cmp::Reverse((at, _))| *at);
        late.into_iter().chain(conflated).min()
    }

    /// Appends the conflated updates that are due, and flushes.
    pub(crate) fn settle(&mut self, now: Instant) {
        let mut due = VecDeque::new();
        while let Some(std::cmp::Reverse((at, feed))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            due.push_back(feed);
        }
        for feed_id in due {
            // A feed that went away, or another in its place that has nothing due, is left alone.
            let Some(feed) = self.feeds.get_mut(feed_id) else { continue };
            let base = self.sources[feed.source].stream.state().cloned();
            let bytes = feed.settle(base.as_ref(), now);
            self.mark_feed(feed_id, bytes);
        }
        self.release_late(now);
        self.flush();
    }
}

pub(super) fn unanswered() -> Refused {
    let reason = Reason::ChannelSymbolUnknown;
    Refused { code: reason.word().into(), reason: reason.sentence().into(), ..Refused::default() }
}

fn refused_by(error: &ErrorEvent, symbol: &str) -> Refused {
    Refused { symbol: symbol.into(), code: error.code.clone(), reason: error.reason.clone(), metadata: None }
}
