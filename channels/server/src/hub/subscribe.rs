//! Subscribing, unsubscribing, snapshots and resume.
//!
//! On channels without symbols the one accepted entry has an empty symbol, and a `resume` position is given under
//! the empty symbol too. Symbols named on such a channel are left aside: news names its own.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bawaba_channels::calendar::Phase;
use bawaba_channels::name::Channel;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{
    Accepted, Event, Gap, MarketStatus, Refused, Subscribe, Subscribed, Unsubscribe, Unsubscribed, Update,
};

use super::{Hub, Refusal};
use crate::fan::{Fan, Key, Member, SessionId};
use crate::ring::Begin;

/// Most missed updates that one request is answered with; symbols beyond get a gap and the newest state. At 1.5 KiB
/// for the largest (a book in JSON) they fit an empty outbox, so that resuming can't make a client slow.
const REPLAY_MAX: usize = 8192;

/// What a session follows under one subscription name.
pub(super) enum Followed {
    /// Lanes of a shared subscription.
    Public { key: Key, lanes: BTreeSet<usize> },
    /// A user's own channel.
    Private { channel: Channel, user: String },
}

impl Hub {
    pub(super) fn subscribe(&mut self, id: SessionId, request: &Subscribe) -> Result<(), Refusal> {
        let ours = self.listing.exchange;
        if request.exchange != ours.as_str() {
            let text = format!("this server speaks for {ours}, not for {}", request.exchange);
            return Err(Refusal::new(Reason::ChannelUnknown, text));
        }
        let channel: Channel =
            request.channel.parse().map_err(|error| Refusal::new(Reason::ChannelUnknown, format!("{error}")))?;
        if channel.is_private() {
            return self.subscribe_private(id, channel, request);
        }
        let key = Key::new(channel, request.update_rate_ms.unwrap_or(0), request.filters.as_ref())
            .map_err(|text| Refusal::new(Reason::ProtocolUnsupported, text))?;
        let (lanes, refused) = self.lanes(channel, request)?;
        let name = key.name(ours.as_str());
        self.room_for(id, &name)?;

        let mut replay = REPLAY_MAX;
        let mut begun = Vec::new();
        let mut answer = Subscribed { id: request.id, subscription: None, accepted: Vec::new(), refused, market: None };
        for &lane in &lanes {
            let symbol = self.symbol(channel, lane);
            let ring = self.streams.ring(channel, channel.is_per_symbol().then_some(lane));
            let begin = if has_sequence(channel) {
                ring.begin(self.feed.epoch(), request.resume.get(&symbol)).within(&mut replay, ring.seq())
            } else {
                Begin::Fresh
            };
            let after = match &begin {
                Begin::Resumed { after, .. } => *after,
                _ => ring.seq(),
            };
            let recovered = matches!(begin, Begin::Resumed { .. });
            let (epoch, seq) =
                if has_sequence(channel) { (self.feed.epoch().to_owned(), after) } else { Default::default() };
            answer.accepted.push(Accepted { symbol, epoch, seq, recovered, metadata: None });
            begun.push((lane, begin, after));
        }
        answer.market = (self.phase() != Phase::Continuous).then(|| self.market_on_the_wire());
        answer.subscription = (!lanes.is_empty()).then(|| name.clone());
        self.tell(id, &Event::Subscribed(answer))?;
        if lanes.is_empty() {
            return Ok(());
        }
        self.follow(id, key, name.clone(), begun.iter().map(|(lane, _, after)| (*lane, *after)));
        for (lane, begin, _) in begun {
            self.begin(id, key, &name, lane, begin, request.snapshot.unwrap_or(true));
        }
        Ok(())
    }

    /// The lanes asked for, each once, and the symbols that there are none of.
    fn lanes(&self, channel: Channel, request: &Subscribe) -> Result<(BTreeSet<usize>, Vec<Refused>), Refusal> {
        if !channel.is_per_symbol() {
            return Ok((BTreeSet::from([0]), Vec::new()));
        }
        if request.symbols.is_empty() {
            let text = format!("subscribe: symbols: {channel} needs at least one, or [\"*\"]");
            return Err(Refusal::new(Reason::ProtocolMalformed, text));
        }
        let mut lanes = BTreeSet::new();
        let mut unknown: BTreeSet<&str> = BTreeSet::new();
        for symbol in &request.symbols {
            match self.listing.index(symbol) {
                _ if symbol == "*" => lanes.extend(0..self.listing.instruments.len()),
                Some(index) => drop(lanes.insert(index)),
                None => drop(unknown.insert(symbol)),
            }
        }
        let refused = unknown.into_iter().map(|symbol| Refused {
            symbol: symbol.chars().take(40).collect(),
            code: Reason::ChannelSymbolUnknown.word().into(),
            reason: Reason::ChannelSymbolUnknown.sentence().into(),
            metadata: None,
        });
        Ok((lanes, refused.collect()))
    }

    /// Refuses one subscription too many.
    pub(super) fn room_for(&self, id: SessionId, name: &str) -> Result<(), Refusal> {
        let most = self.settings.subscriptions_per_session;
        match self.members.get(&id) {
            Some(member) if !member.followed.contains_key(name) && member.followed.len() >= most => Err(Refusal::new(
                Reason::QuotaSubscriptions,
                format!("a session has at most {most} subscriptions here"),
            )),
            _ => Ok(()),
        }
    }

    fn symbol(&self, channel: Channel, lane: usize) -> String {
        if channel.is_per_symbol() { self.listing.instruments[lane].symbol.as_str().into() } else { String::new() }
    }

    fn follow(&mut self, id: SessionId, key: Key, name: String, lanes: impl Iterator<Item = (usize, u64)>) {
        let fans = self.fans.entry(key.channel).or_default();
        let place = fans.iter().position(|fan| fan.key == key).unwrap_or_else(|| {
            let count = if key.channel.is_per_symbol() { self.listing.instruments.len() } else { 1 };
            fans.push(Fan::new(key, name.clone(), count));
            fans.len() - 1
        });
        let Some(member) = self.members.get_mut(&id) else { return };
        let load = &self.load.subscriptions;
        let followed = member.followed.entry(name).or_insert_with(|| {
            load.fetch_add(1, Ordering::Relaxed);
            Followed::Public { key, lanes: BTreeSet::new() }
        });
        let Followed::Public { lanes: mine, .. } = followed else { return };
        for (lane, after) in lanes {
            fans[place].join(lane, Member { session: id, after });
            mine.insert(lane);
        }
    }

    /// What a new follower gets first: what it missed, or word of the loss and the newest state.
    fn begin(&mut self, id: SessionId, key: Key, name: &str, lane: usize, begin: Begin<Update>, with_snapshot: bool) {
        let channel = key.channel;
        let Some(member) = self.members.get(&id) else { return };
        match begin {
            Begin::Resumed { missed, .. } => {
                // What the filter leaves out is folded into what follows; at the end, into the next that goes out.
                let mut first = None;
                for update in missed {
                    if !key.filter.passes(&update, None) {
                        first.get_or_insert(update.seq);
                        continue;
                    }
                    let first_seq = first.take();
                    member.tell(&Event::Update(Update { first_seq, ..key.dress(&update, name) }));
                }
                let fan = self.fans.get_mut(&channel).and_then(|fans| fans.iter_mut().find(|fan| fan.key == key));
                if let (Some(fan), Some(first)) = (fan, first) {
                    fan.owe(lane, first);
                }
                return;
            }
            Begin::Lost { missing } => {
                let (from_seq, to_seq) = missing.unwrap_or((1, 0));
                let (subscription, exchange) = (name.to_owned(), self.listing.exchange.as_str().into());
                let symbol = self.symbol(channel, lane);
                member.tell(&Event::Gap(Gap { subscription, symbol, from_seq, to_seq, exchange }));
            }
            Begin::Fresh => {}
        }
        if !with_snapshot {
            return;
        }
        if channel == Channel::MarketStatus {
            for status in std::iter::once(self.status()).chain(self.special()) {
                member.tell(&Event::MarketStatus(MarketStatus { subscription: Some(name.into()), ..status }));
            }
            return;
        }
        let ring = self.streams.ring(channel, channel.is_per_symbol().then_some(lane));
        if let Some(newest) = ring.newest().filter(|_| has_sequence(channel)) {
            let own =
                channel.is_per_symbol().then(|| self.symbol_phase(self.listing.instruments[lane].symbol)).flatten();
            let phase = own.unwrap_or_else(|| self.phase());
            let phase = (phase != Phase::Continuous).then(|| phase.as_str().to_owned());
            let snapshot = Update { snapshot: true, phase, ..key.dress(newest, name) };
            member.tell(&Event::Update(snapshot));
        }
    }

    pub(super) fn unsubscribe(&mut self, id: SessionId, request: &Unsubscribe) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let Some(followed) = member.followed.get_mut(&request.subscription) else {
            let name: String = request.subscription.chars().take(80).collect();
            return Err(Refusal::new(
                Reason::ChannelUnknown,
                format!("there is no subscription {name:?} in this session"),
            ));
        };
        let (part, ended) = match followed {
            Followed::Public { key, lanes } if !request.symbols.is_empty() => {
                let out: BTreeSet<usize> = if request.symbols.iter().any(|symbol| symbol == "*") {
                    std::mem::take(lanes)
                } else {
                    request
                        .symbols
                        .iter()
                        .filter_map(|symbol| self.listing.index(symbol))
                        .filter(|i| lanes.remove(i))
                        .collect()
                };
                (Some((*key, out)), lanes.is_empty())
            }
            _ => (None, true),
        };
        let whole = if ended { member.followed.remove(&request.subscription) } else { None };
        if let Some((key, lanes)) = part {
            self.unfollow_lanes(id, key, &lanes);
        }
        if let Some(whole) = whole {
            self.unfollow(id, &whole);
        }
        self.tell(id, &Event::Unsubscribed(Unsubscribed { id: request.id }))
    }

    /// Forgets a whole subscription that was taken out of its session.
    pub(super) fn unfollow(&mut self, id: SessionId, followed: &Followed) {
        self.load.subscriptions.fetch_sub(1, Ordering::Relaxed);
        match followed {
            Followed::Public { key, lanes } => self.unfollow_lanes(id, *key, lanes),
            Followed::Private { channel, user } => self.accounts.unwatch(user, *channel, id),
        }
    }

    fn unfollow_lanes(&mut self, id: SessionId, key: Key, lanes: &BTreeSet<usize>) {
        let Some(fans) = self.fans.get_mut(&key.channel) else { return };
        let Some(place) = fans.iter().position(|fan| fan.key == key) else { return };
        for lane in lanes {
            fans[place].leave(*lane, id);
        }
        if fans[place].is_empty() {
            fans.swap_remove(place);
        }
    }
}

/// Whether the channel's messages carry epoch and sequence number.
const fn has_sequence(channel: Channel) -> bool {
    !matches!(channel, Channel::Alerts | Channel::MarketStatus)
}
