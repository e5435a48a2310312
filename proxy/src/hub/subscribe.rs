//! Subscriptions: a request becomes sources; when all of them have answered, the session gets one answer, then where
//! it begins, then the feed from its end, so that nothing is missed and nothing comes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bawaba_channels::name::{Channel, Exchange, Symbol};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{
    Accepted, ErrorEvent, Event, Filters, Position, Refused, Subscribe, Subscribed, Unsubscribe, Unsubscribed,
};

use super::feed::FeedKey;
use super::seat::{Follow, SeatKey, Subscription};
use super::source::SourceKey;
use super::{Follower, Hub, Source};
use crate::cluster::Cluster;
use crate::generation::Target;

/// Longest time between two updates that may be asked for: an hour.
const RATE_MS_MAX: u32 = 3_600_000;

/// What a server said of a source.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It flows.
    Accepted,
    /// It does not.
    Refused(Refused),
}

/// A subscribe request that waits for servers.
pub(super) struct PendingSubscribe {
    seat: SeatKey,
    id: Option<u64>,
    subscription: Rc<str>,
    pub(super) channel: Channel,
    pub(super) exchange: Exchange,
    rate_ms: u32,
    filters: Option<Rc<Filters>>,
    resume: BTreeMap<String, Position>,
    snapshot: bool,
    sources: Vec<usize>,
    refused: Vec<Refused>,
    waiting: usize,
    pub(super) deadline: Instant,
}

impl Hub {
    /// Takes a `subscribe` that the chain let through.
    pub(super) fn subscribe(&mut self, index: usize, request: Subscribe) {
        let id = request.id;
        let (channel, exchange, cluster) = match self.route_of(index, &request) {
            Ok(found) => found,
            Err((reason, text)) => return self.refuse(index, id, reason, text),
        };
        let user = self.seats[index].context.user.clone();
        if channel.is_private() && user.is_empty() {
            return self.refuse(index, id, Reason::AuthMissing, "private channels need a token with a subject".into());
        }
        let mut refused = Vec::new();
        let mut symbols: BTreeSet<Rc<str>> = BTreeSet::new();
        let wildcard = channel.is_per_symbol() && request.is_wildcard();
        if channel.is_per_symbol() {
            if request.symbols.is_empty() {
                let text = format!("subscribe: symbols: {channel} needs at least one, or [\"*\"]");
                return self.refuse(index, id, Reason::ProtocolMalformed, text);
            }
            for symbol in request.symbols.iter().filter(|symbol| *symbol != "*") {
                if symbol.parse::<Symbol>().is_ok() {
                    symbols.insert(symbol.as_str().into());
                } else {
                    refused.push(refusal(&symbol.chars().take(40).collect::<String>(), Reason::ChannelSymbolUnknown));
                }
            }
        } else {
            symbols.insert("".into());
        }
        if !self.has_room(index, symbols.len()) {
            let most = self.shared.config.limits.symbols_per_session_max;
            return self.refuse(
                index,
                id,
                Reason::QuotaSymbols,
                format!("a session follows at most {most} symbols here"),
            );
        }
        let Some(lane) = self.lane_for(index, &cluster) else {
            return self.refuse_for_now(index, id, Reason::EdgeNoEndpoint);
        };
        let rate_ms = if channel.is_state() { request.update_rate_ms.unwrap_or(0).min(RATE_MS_MAX) } else { 0 };
        let filters = request.filters.filter(|filters| !filters.fields.is_empty()).map(normal);
        let subscription = name(self.seats[index].chain.route().name(), exchange, channel, rate_ms, filters.as_deref());
        let waiting_max = self.shared.config.timeouts.connect * 2;
        let mut pending = PendingSubscribe {
            seat: SeatKey { index, serial: self.seats[index].serial },
            id,
            subscription,
            channel,
            exchange,
            rate_ms,
            filters,
            resume: request.resume,
            snapshot: request.snapshot.unwrap_or(true),
            sources: Vec::new(),
            refused,
            waiting: 0,
            deadline: Instant::now() + waiting_max,
        };
        let number = self.next_pending;
        self.next_pending += 1;
        for symbol in if wildcard { BTreeSet::new() } else { symbols } {
            let user = channel.is_private().then(|| user.as_str().into());
            let source = self.source_for(SourceKey { lane, channel, exchange, symbol, user });
            pending.sources.push(source);
            let at = &mut self.sources[source];
            if channel.is_private() || !at.live {
                at.waiters.push(number);
                pending.waiting += 1;
            }
            if channel.is_private() && at.live {
                // What stands is asked for again, for this session.
                at.live = false;
                self.lanes[lane].wanted.push(source);
            }
        }
        if wildcard {
            pending.waiting = 1;
        }
        let waits = pending.waiting > 0;
        self.pending.insert(number, pending);
        if !waits {
            return self.complete(number);
        }
        self.seats[index].waiting += 1;
        if wildcard {
            self.send_wildcard(lane, number);
        }
        self.send_wanted(lane);
    }

    fn route_of(
        &self,
        index: usize,
        request: &Subscribe,
    ) -> Result<(Channel, Exchange, Arc<Cluster>), (Reason, String)> {
        let channel: Channel = request.channel.parse().map_err(|error| (Reason::ChannelUnknown, format!("{error}")))?;
        let (exchange, cluster) = self
            .exchange_cluster(index, &request.exchange)
            .ok_or_else(|| (Reason::ChannelUnknown, "this exchange is not served here".to_owned()))?;
        Ok((channel, exchange, cluster))
    }

    pub(super) fn exchange_cluster(&self, index: usize, exchange: &str) -> Option<(Exchange, Arc<Cluster>)> {
        let exchange: Exchange = exchange.parse().ok()?;
        match &self.seats[index].chain.route().target {
            Target::Channel(exchanges) => Some((exchange, Arc::clone(exchanges.get(&exchange)?))),
            Target::Relay { .. } => None,
        }
    }

    fn has_room(&self, index: usize, more: usize) -> bool {
        let most = self.shared.config.limits.symbols_per_session_max as usize;
        self.seats[index].symbols() + more <= most
    }

    /// The source of this key; a new one is asked for with the lane's next write.
    pub(super) fn source_for(&mut self, key: SourceKey) -> usize {
        if let Some(id) = self.source_index.get(&key) {
            return *id;
        }
        let lane = key.lane;
        let id = self.sources.insert(Source {
            key: key.clone(),
            stream: super::Stream::default(),
            status: None,
            live: false,
            groups: Vec::new(),
            private: Vec::new(),
            joining: Vec::new(),
            subscription: None,
            waiters: Vec::new(),
            recovering: false,
        });
        self.source_index.insert(key, id);
        self.lanes[lane].sources.push(id);
        self.lanes[lane].wanted.push(id);
        id
    }

    /// A server answered for a source: whoever waits for it is one answer nearer.
    pub(super) fn resolve(&mut self, source: usize, outcome: &Outcome) {
        let waiters = std::mem::take(&mut self.sources[source].waiters);
        for number in waiters {
            let Some(pending) = self.pending.get_mut(&number) else { continue };
            if let Outcome::Refused(refused) = outcome {
                pending.sources.retain(|id| *id != source);
                pending.refused.push(refused.clone());
            }
            pending.waiting -= 1;
            if pending.waiting == 0 {
                self.complete(number);
            }
        }
        if matches!(outcome, Outcome::Refused(_)) {
            self.end_source(source);
        }
    }

    pub(super) fn finish_wildcard(&mut self, number: u64, sources: Vec<usize>, refused: Vec<Refused>) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.sources = sources;
        pending.refused.extend(refused);
        self.complete(number);
    }

    /// Everything answered: the session gets its answer through the chain, and follows what the chain left in it.
    fn complete(&mut self, number: u64) {
        let Some(pending) = self.pending.remove(&number) else { return };
        let Some(index) = self.seat_index(pending.seat) else {
            return self.release_all(&pending.sources);
        };
        if pending.seat.serial == self.seats[index].serial {
            self.seats[index].waiting = self.seats[index].waiting.saturating_sub(1);
            self.seats[index].wake();
        }
        if self.seats[index].closing.is_some() {
            return self.release_all(&pending.sources);
        }
        if !self.has_room(index, pending.sources.len()) {
            self.release_all(&pending.sources);
            let most = self.shared.config.limits.symbols_per_session_max;
            let text = format!("a session follows at most {most} symbols here");
            return self.refuse(index, pending.id, Reason::QuotaSymbols, text);
        }
        let mut answer = Subscribed { id: pending.id, refused: pending.refused.clone(), ..Subscribed::default() };
        for id in &pending.sources {
            let source = &self.sources[*id];
            let symbol = source.key.symbol.to_string();
            let recovered = pending.resume.get(&symbol).is_some_and(|position| source.stream.since(position).is_some());
            answer.accepted.push(Accepted {
                epoch: source.stream.epoch().to_string(),
                seq: source.stream.seq(),
                recovered,
                symbol,
            });
        }
        answer.subscription = (!answer.accepted.is_empty()).then(|| pending.subscription.to_string());
        let left = self.send_answer(index, &Event::Subscribed(answer), pending.id);
        for id in &pending.sources {
            let symbol = Rc::clone(&self.sources[*id].key.symbol);
            if left.contains(&*symbol) && self.seats[index].closing.is_none() {
                self.follow(index, *id, &pending);
            } else {
                self.release_source(*id);
            }
        }
    }

    /// Begins to follow a source, from where the session left off or from a snapshot.
    fn follow(&mut self, index: usize, source_id: usize, pending: &PendingSubscribe) {
        let serial = self.seats[index].serial;
        let symbol = Rc::clone(&self.sources[source_id].key.symbol);
        let subscription = self.seats[index]
            .subscriptions
            .entry(Rc::clone(&pending.subscription))
            .or_insert_with(|| Subscription { slots: BTreeMap::new(), private: None });
        if pending.channel.is_private() {
            subscription.private = Some(source_id);
            let member = (SeatKey { index, serial }, Rc::clone(&pending.subscription));
            let source = &mut self.sources[source_id];
            source.private.retain(|(seat, _)| *seat != member.0);
            source.private.push(member.clone());
            source.joining.push(member);
            return;
        }
        let slot = match subscription.slots.get(&symbol) {
            Some(slot) => *slot,
            None => self.new_follow(index, source_id, pending, &symbol),
        };
        let position = pending.resume.get(&*symbol);
        self.begin(index, slot, source_id, position, pending.snapshot);
    }

    fn new_follow(&mut self, index: usize, source_id: usize, pending: &PendingSubscribe, symbol: &Rc<str>) -> usize {
        let key = FeedKey {
            encoding: self.seats[index].encoding,
            subscription: Rc::clone(&pending.subscription),
            rate_ms: pending.rate_ms,
            filters: pending.filters.clone(),
        };
        let cohort = self.seats[index].cohort;
        let feed_id = self.feed_for(source_id, cohort, key);
        let feed = &mut self.feeds[feed_id];
        let stream = &self.sources[source_id].stream;
        let (seq, epoch) = match &feed.base {
            Some(base) => (base.seq, base.epoch.as_str().into()),
            None => (stream.seq(), Rc::clone(stream.epoch())),
        };
        let cursor = feed.log.end();
        let seat = &mut self.seats[index];
        let entry = seat.follows.vacant_entry();
        let slot = entry.key();
        let follower = feed.followers.insert(Follower { seat: index, slot });
        entry.insert(Follow {
            source: source_id,
            feed: feed_id,
            follower,
            cursor,
            seq,
            epoch,
            queued: false,
            resync: false,
        });
        if let Some(subscription) = seat.subscriptions.get_mut(&pending.subscription) {
            subscription.slots.insert(Rc::clone(symbol), slot);
        }
        slot
    }

    /// What a follow gets first.
    fn begin(&mut self, index: usize, slot: usize, source_id: usize, position: Option<&Position>, with_snapshot: bool) {
        let source = &self.sources[source_id];
        if let Some(status) = source.status.clone() {
            if with_snapshot {
                let feed = self.seats[index].follows[slot].feed;
                let cohort = self.feeds[feed].cohort;
                let judged = self.cohorts[cohort].judge(&status, Instant::now());
                self.deliver_directly(index, feed, &judged);
            }
            return;
        }
        let feed_id = self.seats[index].follows[slot].feed;
        let state = self.feeds[feed_id].base.clone().or_else(|| source.stream.state().cloned());
        if let Some(position) = position {
            match source.stream.since(position) {
                Some(missed) => {
                    // What is replayed reaches up to the source's newest; what the feed's log still appends begins
                    // after its own, which is the same or, conflated, earlier: folded updates may overlap.
                    return self.replay(index, slot, &missed);
                }
                None => {
                    let same = *position.epoch == **source.stream.epoch();
                    let update = bawaba_channels::wire::Update {
                        symbol: source.key.symbol.to_string(),
                        exchange: source.key.exchange.as_str().into(),
                        ..Default::default()
                    };
                    let range = if same && position.seq < source.stream.seq() {
                        (position.seq + 1, source.stream.seq())
                    } else {
                        (1, 0)
                    };
                    let gap = self.gap_for(feed_id, &update, range);
                    self.notice(index, &gap);
                }
            }
        }
        if let (true, Some(state)) = (with_snapshot, state) {
            self.send_snapshot(index, slot, &state);
        }
    }

    /// Ends waiting for servers.
    pub(super) fn fail_pending(&mut self, number: u64, code: &str, reason: &str) {
        let Some(pending) = self.pending.remove(&number) else { return };
        for source in &pending.sources {
            if let Some(source) = self.sources.get_mut(*source) {
                source.waiters.retain(|waiter| *waiter != number);
            }
        }
        self.release_all(&pending.sources);
        if let Some(index) = self.seat_index(pending.seat) {
            self.seats[index].waiting = self.seats[index].waiting.saturating_sub(1);
            let error =
                ErrorEvent { id: pending.id, code: code.into(), reason: reason.into(), retry_after_ms: Some(1000) };
            self.send(index, &Event::Error(error));
            self.seats[index].wake();
        }
    }

    fn release_all(&mut self, sources: &[usize]) {
        for source in sources {
            self.release_source(*source);
        }
    }

    /// Ends a source that nobody follows or waits for.
    pub(super) fn release_source(&mut self, id: usize) {
        let Some(source) = self.sources.get(id) else { return };
        let used = !source.groups.is_empty() || !source.private.is_empty() || !source.waiters.is_empty();
        // The market's phase is always followed: every `welcome` says it.
        if used
            || source.key.channel == Channel::MarketStatus
            || self.pending.values().any(|pending| pending.sources.contains(&id))
        {
            return;
        }
        self.end_source(id);
    }

    fn end_source(&mut self, id: usize) {
        let Some(source) = self.sources.get(id) else { return };
        if !source.groups.is_empty() {
            // Followed, and refused by a server after a failover: the sessions keep their subscription and are told
            // when it flows again; the next reconnect asks again.
            return;
        }
        let source = self.sources.remove(id);
        self.source_index.remove(&source.key);
        if let Some(lane) = self.lanes.get_mut(source.key.lane) {
            lane.sources.retain(|other| *other != id);
            lane.wanted.retain(|other| *other != id);
        }
        if let Some(subscription) = source.subscription.clone().filter(|_| source.live) {
            self.send_unsubscribe(&source, &subscription);
        }
    }

    /// Takes an `unsubscribe`.
    pub(super) fn unsubscribe(&mut self, index: usize, request: &Unsubscribe) {
        let seat = &mut self.seats[index];
        let Some(subscription) = seat.subscriptions.get_mut(request.subscription.as_str()) else {
            let text = format!("there is no subscription {:?} in this session", request.subscription);
            return self.refuse(index, request.id, Reason::ChannelUnknown, text);
        };
        let all = request.symbols.is_empty() || request.symbols.iter().any(|symbol| symbol == "*");
        let slots: Vec<usize> = if all {
            subscription.slots.values().copied().collect()
        } else {
            request.symbols.iter().filter_map(|symbol| subscription.slots.remove(symbol.as_str())).collect()
        };
        let private = subscription.private.filter(|_| all);
        if all || subscription.slots.is_empty() {
            seat.subscriptions.remove(request.subscription.as_str());
        }
        for slot in slots {
            self.drop_follow(index, slot);
        }
        if let Some(source) = private {
            self.leave_private(index, source);
        }
        self.send(index, &Event::Unsubscribed(Unsubscribed { id: request.id }));
    }

    pub(super) fn leave_private(&mut self, index: usize, source: usize) {
        let serial = self.seats[index].serial;
        if let Some(at) = self.sources.get_mut(source) {
            at.private.retain(|(seat, _)| seat.serial != serial);
            at.joining.retain(|(seat, _)| seat.serial != serial);
        }
        self.release_source(source);
    }
}

fn refusal(symbol: &str, reason: Reason) -> Refused {
    Refused { symbol: symbol.into(), code: reason.word().into(), reason: reason.sentence().into() }
}

/// Filters in one form, so that equal ones share a feed.
fn normal(mut filters: Filters) -> Rc<Filters> {
    filters.fields.sort();
    filters.fields.dedup();
    Rc::new(filters)
}

/// The subscription's name on the wire: the same for everyone who asks for the same, so that frames can be shared.
fn name(route: &str, exchange: Exchange, channel: Channel, rate_ms: u32, filters: Option<&Filters>) -> Rc<str> {
    use sha2::{Digest, Sha256};
    let fields = filters.map(|filters| filters.fields.join(",")).unwrap_or_default();
    let digest = Sha256::digest(format!("{route}\n{exchange}\n{channel}\n{rate_ms}\n{fields}"));
    let mut name = String::from("s");
    for byte in &digest[..6] {
        name.push_str(&format!("{byte:02x}"));
    }
    name.into()
}
