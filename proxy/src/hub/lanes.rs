//! Lanes as the hub runs them: which one a session takes, what happens when a trunk comes up or is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Request, Subscribe, Unsubscribe};

use super::lane::{InFlight, InFlightOrder, Lane, LaneKey, SourceRef};
use super::{Hub, Source};
use crate::cluster::{Cluster, Endpoint};

/// Symbols in one request of ours: the protocol's bound.
const SYMBOLS_MAX: usize = bawaba_channels::wire::SYMBOLS_PER_REQUEST_MAX;
/// A lane that nobody needs is kept this long.
const IDLE_KEEP: Duration = Duration::from_secs(30);

impl Hub {
    /// The lane of a session to a cluster: the one it has, else one at the endpoint that the cluster picks.
    pub(super) fn lane_for(&mut self, index: usize, cluster: &Arc<Cluster>) -> Option<usize> {
        let seat = &self.seats[index];
        let has = seat.lanes.iter().find(|key| {
            self.lanes
                .get(key.index)
                .is_some_and(|lane| lane.serial == key.serial && Arc::ptr_eq(&lane.cluster, cluster))
        });
        if let Some(key) = has {
            // A trunk that is down with nowhere to go is as good as none.
            let usable = self.lanes[key.index].connected || cluster.pick(&seat.context.user, None).is_some();
            return usable.then_some(key.index);
        }
        let sticky = seat.sticky.get(&cluster.name).map(String::as_str);
        let endpoint = cluster.pick(&seat.context.user, sticky)?;
        let key = self.lane_at(cluster, endpoint);
        let lanes = &self.lanes;
        let seat = &mut self.seats[index];
        seat.lanes.retain(|known| lanes.get(known.index).is_some_and(|lane| lane.serial == known.serial));
        seat.lanes.push(key);
        self.lanes[key.index].sit();
        Some(key.index)
    }

    /// The lane at an endpoint, made if there is none. At most two per endpoint exist: beyond, sessions share.
    fn lane_at(&mut self, cluster: &Arc<Cluster>, endpoint: Arc<Endpoint>) -> LaneKey {
        let of_cluster = || self.lanes.iter().filter(|(_, lane)| Arc::ptr_eq(&lane.cluster, cluster));
        let there = of_cluster().find(|(_, lane)| lane.endpoint.as_ref() == Some(&endpoint));
        let full = of_cluster().count() >= cluster.len() * 2;
        if let Some((index, lane)) = there.or_else(|| if full { of_cluster().next() } else { None }) {
            return LaneKey { index, serial: lane.serial };
        }
        let serial = self.next_serial();
        let index = self.lanes.insert(Lane::new(serial, Arc::clone(cluster), Some(endpoint), Instant::now()));
        let key = LaneKey { index, serial };
        self.new_lanes.push(key);
        // The phases of the market, for every `welcome`.
        if let Some(exchange) = self.exchange_of(cluster) {
            let key = super::SourceKey {
                lane: index,
                channel: Channel::MarketStatus,
                exchange,
                symbol: "".into(),
                user: None,
                late: crate::grants::Late::Now,
            };
            self.source_for(key);
        }
        key
    }

    fn exchange_of(&self, cluster: &Arc<Cluster>) -> Option<bawaba_channels::name::Exchange> {
        self.shared.generation().routes.iter().find_map(|route| match &route.target {
            crate::generation::Target::Channel(exchanges) => {
                exchanges.iter().find(|(_, to)| Arc::ptr_eq(to, cluster)).map(|(exchange, _)| *exchange)
            }
            crate::generation::Target::Relay { .. } => None,
        })
    }

    /// Lanes that need a task.
    pub(crate) fn take_new_lanes(&mut self) -> Vec<LaneKey> {
        std::mem::take(&mut self.new_lanes)
    }

    pub(crate) fn lane(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.lanes.get_mut(key.index).filter(|lane| lane.serial == key.serial)
    }

    /// Where a lane connects next: its endpoint while that takes sessions, else the cluster's choice for it.
    pub(crate) fn lane_target(&mut self, key: LaneKey) -> Option<(Arc<Cluster>, Option<Arc<Endpoint>>)> {
        let lane = self.lane(key)?;
        let cluster = Arc::clone(&lane.cluster);
        let home = lane.endpoint.as_ref().map(|endpoint| endpoint.address.clone());
        let target = cluster.pick(home.as_deref().unwrap_or("lane"), home.as_deref());
        if let Some(target) = &target {
            lane.go_to(Some(Arc::clone(target)));
        }
        Some((cluster, target))
    }

    /// The trunk is connected: everything that hangs on the lane is asked for, from where it stands.
    pub(crate) fn lane_up(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(key.index).filter(|lane| lane.serial == key.serial) else { return };
        lane.connected = true;
        lane.out.clear();
        lane.in_flight.clear();
        let (private, public): (Vec<usize>, Vec<usize>) =
            lane.sources.iter().partition(|id| self.sources.get(**id).is_some_and(|source| source.key.user.is_some()));
        lane.wanted = public;
        let resend: Vec<Box<InFlightOrder>> = lane.resend.drain(..).collect();
        let wildcards = std::mem::take(&mut lane.wildcards);
        self.send_wanted(key.index);
        for pending in wildcards {
            self.send_wildcard(key.index, pending);
        }
        for source in private {
            self.ask_private_again(source);
        }
        for order in resend {
            // Whoever asked and left finds out with its own key when it is back: nothing is done behind its back.
            if self.seat_index(order.seat).is_none() {
                continue;
            }
            let request = Request::Order(order.order.clone());
            self.lanes[key.index].send(request, Some(InFlight::Order(order)));
        }
    }

    /// The trunk is lost. Sessions stay; orders that may be sent again wait, the others are answered.
    pub(crate) fn lane_down(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(key.index).filter(|lane| lane.serial == key.serial) else { return };
        lane.connected = false;
        lane.out.clear();
        let mut in_flight: Vec<_> = lane.in_flight.drain().collect();
        in_flight.sort_by_key(|(id, _)| *id);
        let (mut lost, mut histories) = (Vec::new(), Vec::new());
        for source in &lane.sources {
            if let Some(source) = self.sources.get_mut(*source) {
                histories.append(&mut source.histories);
            }
        }
        for (_, awaited) in in_flight {
            match awaited {
                InFlight::Order(order) if order.order.client_order_id.is_some() => lane.resend.push_back(order),
                InFlight::Order(order) => lost.push(order),
                InFlight::Wildcard(pending) => lane.wildcards.push(pending),
                InFlight::History(pending) => histories.push(pending),
                // Asked for again with everything else.
                InFlight::Subscribe(_) | InFlight::Private { .. } => {}
            }
        }
        for pending in histories {
            self.end_history(pending);
        }
        self.counters.add_trunks_lost(1);
        for order in lost {
            self.order_failed(&order);
        }
        self.flush();
    }

    /// Sends what was gathered since the last write, as few requests as can be.
    pub(crate) fn send_wanted(&mut self, index: usize) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        if !lane.connected {
            lane.wanted.clear();
            return;
        }
        let mut wanted = std::mem::take(&mut lane.wanted);
        wanted.retain(|id| self.sources.get(*id).is_some_and(|source| source.key.lane == index));
        let sources = &self.sources;
        wanted.sort_by(|a, b| sources[*a].key.cmp(&sources[*b].key));
        wanted.dedup();
        let same = |a: &usize, b: &usize| {
            let (a, b) = (&sources[*a].key, &sources[*b].key);
            (a.channel, a.exchange) == (b.channel, b.exchange)
        };
        for group in wanted.chunk_by(same) {
            for ids in group.chunks(SYMBOLS_MAX) {
                let request = subscribe_request(ids, sources);
                let asked = ids.iter().map(|id| SourceRef { index: *id, serial: sources[*id].serial }).collect();
                self.lanes[index].send(Request::Subscribe(request), Some(InFlight::Subscribe(asked)));
            }
        }
    }

    pub(super) fn send_wildcard(&mut self, index: usize, pending: u64) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Some(asked) = self.pending.get(&pending) else { return };
        if !lane.connected {
            lane.wildcards.push(pending);
            return;
        }
        let request = Subscribe {
            channel: asked.channel.as_str().into(),
            exchange: asked.exchange.as_str().into(),
            symbols: vec!["*".into()],
            ..Subscribe::default()
        };
        lane.send(Request::Subscribe(request), Some(InFlight::Wildcard(pending)));
    }

    /// Says to the server that a source is no longer wanted.
    pub(super) fn send_unsubscribe(&mut self, source: &Source, subscription: &str) {
        let symbols = if source.key.symbol.is_empty() { Vec::new() } else { vec![source.key.symbol.to_string()] };
        let Some(lane) = self.lanes.get_mut(source.key.lane).filter(|lane| lane.connected) else { return };
        let request = Unsubscribe { id: None, subscription: subscription.to_owned(), symbols };
        lane.send(Request::Unsubscribe(request), None);
    }

    /// Drops lanes that nobody has needed for a while; their tasks end by themselves.
    pub(super) fn sweep_lanes(&mut self, now: Instant) {
        for (_, lane) in &mut self.lanes {
            // The phase of the market alone is followed for `welcome`, unless a session follows it too.
            if lane.sources.iter().any(|id| self.sources.get(*id).is_some_and(Source::is_used))
                || !lane.in_flight.is_empty()
                || !lane.resend.is_empty()
                || !lane.wildcards.is_empty()
            {
                lane.last_used = now;
            }
        }
        let idle: Vec<usize> = self
            .lanes
            .iter()
            .filter(|(_, lane)| now.duration_since(lane.last_used) > IDLE_KEEP)
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            for source in self.lanes[index].sources.clone() {
                if let Some(gone) = self.sources.try_remove(source) {
                    self.source_index.remove(&gone.key);
                }
            }
            let lane = self.lanes.remove(index);
            lane.work.notify_one();
        }
    }
}

fn subscribe_request(ids: &[usize], sources: &slab::Slab<Source>) -> Subscribe {
    let first = &sources[ids[0]].key;
    let mut request = Subscribe {
        channel: first.channel.as_str().into(),
        exchange: first.exchange.as_str().into(),
        ..Subscribe::default()
    };
    for id in ids {
        let source = &sources[*id];
        if !source.key.symbol.is_empty() {
            request.symbols.push(source.key.symbol.to_string());
        }
        if let Some(position) = source.stream.position() {
            request.resume.insert(source.key.symbol.to_string(), position);
        }
    }
    request
}
