//! Subscriptions: a request becomes sources; when all of them have answered, the session gets one answer, then where
//! it begins, then the feed from its end, so that nothing is missed and nothing comes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bawaba_channels::filter::Filter;
use bawaba_channels::name::{Channel, Exchange, Symbol};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{
    Accepted, ErrorEvent, Event, Filters, Position, Refused, Subscribe, Subscribed, Unsubscribe, Unsubscribed, Update,
};

use super::feed::FeedKey;
use super::resume::History;
use super::seat::{Follow, Owed, SeatKey, Subscription};
use super::source::SourceKey;
use super::{Follower, Hub, Source};
use crate::cluster::Cluster;
use crate::generation::Target;
use crate::grants::Late;

/// Symbols of a request that weigh as much as a request of one: their part of the answer is about 2 KiB.
const SYMBOLS_PER_WEIGHT: usize = 16;
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
    pub(super) seat: SeatKey,
    id: Option<u64>,
    pub(super) subscription: Rc<str>,
    pub(super) channel: Channel,
    pub(super) exchange: Exchange,
    rate_ms: u32,
    filter: Filter,
    filters: Option<Rc<Filters>>,
    pub(super) resume: BTreeMap<String, Position>,
    pub(super) snapshot: bool,
    pub(super) sources: Vec<usize>,
    refused: Vec<Refused>,
    /// Answers that it waits for.
    pub(super) waiting: usize,
    /// How heavy its answer will be.
    pub(super) weight: usize,
    /// It is one of the requests that its session waits for.
    pub(super) counted: bool,
    /// It asks for all symbols.
    wildcard: bool,
    /// Once asked for: what servers still have of what was missed, by source.
    pub(super) history: Option<BTreeMap<usize, History>>,
    /// On private channels: what the server answered to it.
    pub(super) own: Option<Accepted>,
    pub(super) deadline: Instant,
}

impl Hub {
    /// Takes a `subscribe` that the chain let through.
    pub(super) fn subscribe(&mut self, index: usize, request: Subscribe) {
        let id = request.id;
        if !self.may_record() {
            return self.refuse_for_now(index, id, Reason::EdgeOverloaded);
        }
        let (channel, exchange, cluster) = match self.route_of(index, &request) {
            Ok(found) => found,
            Err((reason, text)) => return self.refuse(index, id, reason, text),
        };
        let context = &self.seats[index].context;
        let actor = context.actor(request.user.as_deref()).filter(|_| channel.is_private());
        if channel.is_private() && actor.is_none() {
            return self.refuse(index, id, Reason::AuthMissing, "private channels need a token with a subject".into());
        }
        // Another edge has a subscription for each of its users.
        let whose = actor.as_deref().filter(|_| context.is_edge).unwrap_or_default().to_owned();
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
        let rate_ms = if channel.is_state() { request.update_rate_ms.unwrap_or(0).min(RATE_MS_MAX) } else { 0 };
        let filter = match Filter::new(channel, request.filters.as_ref()) {
            Ok(filter) if !filter.folds(channel) => filter,
            Ok(_) => {
                let text = "filters: min_change, and sides of trades, are not served through an edge";
                return self.refuse(index, id, Reason::ProtocolUnsupported, text.into());
            }
            Err(text) => return self.refuse(index, id, Reason::ProtocolUnsupported, text),
        };
        let filters = request.filters.filter(|_| !filter.is_none()).map(normal);
        let route = format!("{}\n{whose}", self.seats[index].chain.route().name());
        let subscription = name(&route, exchange, channel, rate_ms, filter);
        if !self.has_room(index, &subscription, symbols.iter()) {
            return self.refuse_symbols(index, id);
        }
        let Some(lane) = self.lane_for(index, &cluster) else {
            return self.refuse_for_now(index, id, Reason::EdgeNoEndpoint);
        };
        let waiting_max = self.shared.config.timeouts.connect * 2;
        let mut pending = PendingSubscribe {
            seat: SeatKey { index, serial: self.seats[index].serial },
            id,
            subscription,
            channel,
            exchange,
            rate_ms,
            filter,
            filters,
            resume: request.resume,
            snapshot: request.snapshot.unwrap_or(true),
            sources: Vec::new(),
            refused,
            waiting: 0,
            weight: 1 + request.symbols.len() / SYMBOLS_PER_WEIGHT,
            counted: false,
            wildcard,
            history: None,
            own: None,
            deadline: Instant::now() + waiting_max,
        };
        let number = self.next_pending;
        self.next_pending += 1;
        for symbol in if wildcard { BTreeSet::new() } else { symbols } {
            let user = actor.as_deref().map(Into::into);
            let key = SourceKey { lane, channel, exchange, symbol, user, late: Late::Now };
            let source = self.source_of_session(index, key);
            pending.sources.push(source);
            let at = &mut self.sources[source];
            at.held += 1;
            if channel.is_private() || !at.live {
                at.waiters.push(number);
                pending.waiting += 1;
            }
        }
        if wildcard {
            pending.waiting = 1;
        }
        let waits = pending.waiting > 0;
        pending.counted = waits;
        let private = pending.sources.first().copied().filter(|_| channel.is_private());
        let weight = pending.weight;
        self.pending.insert(number, pending);
        if !waits {
            return self.complete(number);
        }
        self.seats[index].waiting += weight;
        if wildcard {
            self.send_wildcard(lane, number);
        }
        if let Some(source) = private {
            self.ask_to_join(source, number);
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

    /// Whether a session may follow these symbols too; those that it follows already take no more room.
    fn has_room<'a>(&self, index: usize, subscription: &str, symbols: impl Iterator<Item = &'a Rc<str>>) -> bool {
        let most = self.shared.config.limits.symbols_per_session_max as usize;
        let seat = &self.seats[index];
        let known = seat.subscriptions.get(subscription);
        let new = symbols.filter(|symbol| !known.is_some_and(|known| known.slots.contains_key(&***symbol))).count();
        new == 0 || seat.symbols() + new <= most
    }

    fn refuse_symbols(&mut self, index: usize, id: Option<u64>) {
        let most = self.shared.config.limits.symbols_per_session_max;
        self.refuse(index, id, Reason::QuotaSymbols, format!("a session follows at most {most} symbols here"));
    }

    /// The source of this key; a new one is asked for with the lane's next write.
    pub(super) fn source_for(&mut self, key: SourceKey) -> usize {
        if let Some(id) = self.source_index.get(&key) {
            return *id;
        }
        let lane = key.lane;
        let serial = self.next_serial();
        // A private one is asked for on behalf of each session.
        let is_public = key.user.is_none();
        let id = self.sources.insert(Source::new(serial, key.clone()));
        self.source_index.insert(key, id);
        self.lanes[lane].sources.push(id);
        if is_public {
            self.lanes[lane].wanted.push(id);
        }
        id
    }

    /// A server answered for a source: whoever waits for it is one answer nearer.
    pub(super) fn resolve(&mut self, source: usize, outcome: &Outcome) {
        if let Outcome::Refused(refused) = outcome {
            self.sources[source].live = false;
            self.revoke_source(source, refused);
        }
        let Some(at) = self.sources.get_mut(source) else { return };
        let late = at.late.clone();
        for number in std::mem::take(&mut at.waiters) {
            self.answered(number, source, outcome);
        }
        for late in late {
            if let Some(source) = self.sources.get_mut(late) {
                source.live = matches!(outcome, Outcome::Accepted);
                self.resolve(late, outcome);
            }
        }
        self.release_source(source);
    }

    /// A server answered a pending subscription for one of its sources.
    pub(super) fn answered(&mut self, number: u64, source: usize, outcome: &Outcome) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        if let Outcome::Refused(refused) = outcome
            && let Some(place) = pending.sources.iter().position(|id| *id == source)
        {
            pending.sources.remove(place);
            pending.refused.push(refused.clone());
            self.sources[source].held -= 1;
        }
        pending.waiting -= 1;
        if pending.waiting == 0 {
            self.complete(number);
        }
    }

    pub(super) fn finish_wildcard(&mut self, number: u64, sources: Vec<usize>, refused: Vec<Refused>) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.sources = sources;
        pending.refused.extend(refused);
        pending.waiting = 0;
        self.complete(number);
    }

    /// Everything answered: the session gets its answer through the chain, and follows what the chain left in it.
    pub(super) fn complete(&mut self, number: u64) {
        if self.ask_history(number) {
            return;
        }
        let Some(pending) = self.pending.remove(&number) else { return };
        for id in &pending.sources {
            let source = &mut self.sources[*id];
            source.held -= 1;
            source.histories.retain(|known| *known != number);
        }
        let Some(index) = self.seat_index(pending.seat) else {
            return self.release_all(&pending.sources);
        };
        self.waits_no_more(index, &pending);
        if self.seats[index].closing.is_some() {
            return self.release_all(&pending.sources);
        }
        if self.is_outdated(index, &pending) {
            self.release_all(&pending.sources);
            let text = "the licence changed meanwhile: subscribe again".to_owned();
            return self.refuse(index, pending.id, Reason::LicenseFeature, text);
        }
        // Asked when it came, and again now: many may have come before any of them was recorded.
        if !self.may_record() {
            self.release_all(&pending.sources);
            return self.refuse_for_now(index, pending.id, Reason::EdgeOverloaded);
        }
        let symbols = pending.sources.iter().map(|id| &self.sources[*id].key.symbol);
        if !pending.channel.is_private() && !self.has_room(index, &pending.subscription, symbols) {
            self.release_all(&pending.sources);
            return self.refuse_symbols(index, pending.id);
        }
        // Whoever has late data learns phases late too.
        let current = self.seats[index].grants.late == Late::Now;
        let market = self.markets.get(&pending.exchange).filter(|at| current && at.phase != "continuous").cloned();
        let mut answer =
            Subscribed { id: pending.id, refused: pending.refused.clone(), market, ..Subscribed::default() };
        let mut missed = Vec::with_capacity(pending.sources.len());
        for id in &pending.sources {
            let source = &self.sources[*id];
            missed.push(self.missed(&pending, *id));
            answer.accepted.push(pending.own.clone().unwrap_or_else(|| Accepted {
                epoch: source.stream.epoch().to_string(),
                seq: source.stream.seq(),
                recovered: missed.last().is_some_and(Option::is_some),
                symbol: source.key.symbol.to_string(),
                metadata: None,
            }));
        }
        answer.subscription = (!answer.accepted.is_empty()).then(|| pending.subscription.to_string());
        let left = self.send_answer(index, &Event::Subscribed(answer), pending.id);
        self.subscription_used(index, format!("{}/{}", pending.exchange, pending.channel), &left);
        for (id, missed) in pending.sources.iter().zip(missed) {
            let symbol = Rc::clone(&self.sources[*id].key.symbol);
            if left.contains(&*symbol) && self.seats[index].closing.is_none() {
                self.follow(index, *id, &pending, missed);
            } else {
                self.release_source(*id);
            }
        }
    }

    fn waits_no_more(&mut self, index: usize, pending: &PendingSubscribe) {
        if pending.counted {
            self.seats[index].waiting = self.seats[index].waiting.saturating_sub(pending.weight);
            self.seats[index].wake();
        }
    }

    /// Begins to follow a source, from where the session left off or from a snapshot.
    fn follow(&mut self, index: usize, source_id: usize, pending: &PendingSubscribe, missed: Option<Vec<Rc<Update>>>) {
        let symbol = Rc::clone(&self.sources[source_id].key.symbol);
        let subscription =
            self.seats[index].subscriptions.entry(Rc::clone(&pending.subscription)).or_insert_with(|| Subscription {
                rate_ms: pending.rate_ms,
                slots: BTreeMap::new(),
                private: None,
                all: false,
            });
        subscription.all |= pending.wildcard;
        if pending.channel.is_private() {
            subscription.private = Some(source_id);
            return self.follow_private(index, source_id, &pending.subscription);
        }
        let slot = match subscription.slots.get(&symbol) {
            Some(slot) => *slot,
            None => self.new_follow(index, source_id, pending, &symbol),
        };
        self.begin(index, slot, source_id, pending, missed);
    }

    fn new_follow(&mut self, index: usize, source_id: usize, pending: &PendingSubscribe, symbol: &Rc<str>) -> usize {
        let key = FeedKey {
            encoding: self.seats[index].encoding,
            subscription: Rc::clone(&pending.subscription),
            rate_ms: pending.rate_ms,
            filter: pending.filter,
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
            owed: Owed::Nothing,
        });
        if let Some(subscription) = seat.subscriptions.get_mut(&pending.subscription) {
            subscription.slots.insert(Rc::clone(symbol), slot);
        }
        self.use_begins(index, source_id);
        slot
    }

    /// Ends waiting for servers.
    pub(super) fn fail_pending(&mut self, number: u64, code: &str, reason: &str) {
        let Some(pending) = self.pending.remove(&number) else { return };
        for source in &pending.sources {
            if let Some(source) = self.sources.get_mut(*source) {
                source.held -= 1;
                source.waiters.retain(|waiter| *waiter != number);
                source.histories.retain(|known| *known != number);
            }
        }
        self.release_all(&pending.sources);
        if let Some(index) = self.seat_index(pending.seat) {
            self.waits_no_more(index, &pending);
            let error =
                ErrorEvent { id: pending.id, code: code.into(), reason: reason.into(), retry_after_ms: Some(1000) };
            self.send(index, &Event::Error(error));
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
        // The market's phase is always followed: every `welcome` says it.
        if source.is_used() || source.key.channel == Channel::MarketStatus || source.line.is_some() {
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
}

fn refusal(symbol: &str, reason: Reason) -> Refused {
    Refused { symbol: symbol.into(), code: reason.word().into(), reason: reason.sentence().into(), metadata: None }
}

/// Filters in one form, so that equal ones share a feed.
fn normal(mut filters: Filters) -> Rc<Filters> {
    filters.fields.sort();
    filters.fields.dedup();
    Rc::new(filters)
}

/// The subscription's name on the wire: the same for everyone who asks for the same, so that frames can be shared.
fn name(route: &str, exchange: Exchange, channel: Channel, rate_ms: u32, filter: Filter) -> Rc<str> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{route}\n{exchange}\n{channel}\n{rate_ms}\n{filter}"));
    let mut name = String::from("s");
    for byte in &digest[..6] {
        name.push_str(&format!("{byte:02x}"));
    }
    name.into()
}
