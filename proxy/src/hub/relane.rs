//! Another configuration: lanes go over to the clusters that their routes name now, and with them everything that
//! hangs on them, from where it stands. Sessions notice nothing, unless their route no longer serves what they follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use bawaba_channels::close::CloseCode;
use bawaba_channels::name::Exchange;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Refused;

use super::Hub;
use super::lane::{InFlight, LaneKey};
use crate::cluster::Cluster;
use crate::generation::{Generation, Target};

/// A cluster, or that an exchange is served no more.
type Place = Option<Arc<Cluster>>;

impl Hub {
    /// Puts every lane on the cluster that its sessions' routes name in this generation. Call it when the sessions have
    /// their new chains.
    pub(crate) fn relane(&mut self, generation: &Generation) {
        let lanes: Vec<usize> = self.lanes.iter().map(|(index, _)| index).collect();
        for index in lanes {
            self.relane_one(index, generation);
        }
        self.flush();
    }

    fn relane_one(&mut self, index: usize, generation: &Generation) {
        let now = Arc::clone(&self.lanes[index].cluster);
        let wanted = self.wanted_of(index);
        let served: Vec<&Arc<Cluster>> = wanted.iter().filter_map(|(_, _, place)| place.as_ref()).collect();
        // Where some of its sessions stay, the lane stays.
        let next = match served.iter().find(|place| Arc::ptr_eq(place, &now)).or(served.first()) {
            Some(next) => Arc::clone(next),
            None => match generation.clusters.get(&now.name) {
                Some(same_name) => Arc::clone(same_name),
                None => now.clone(),
            },
        };
        for (seat, exchange, place) in wanted {
            match place {
                None => self.revoke_exchange(seat, index, exchange),
                Some(place) if Arc::ptr_eq(&place, &next) => {}
                // Two routes shared it, and only one was changed: what one lane carries cannot be in two places.
                Some(_) => self.close(seat, CloseCode::RESTART, "the route leads elsewhere now: come back"),
            }
        }
        if Arc::ptr_eq(&now, &next) {
            return;
        }
        let lane = &mut self.lanes[index];
        let address = lane.endpoint.take().map(|endpoint| endpoint.address.clone());
        lane.go_to(address.and_then(|address| next.find(&address)));
        tracing::info!(from = %now.name, to = %next.name, endpoints = next.len(), "a trunk goes over to a changed cluster");
        lane.cluster = next;
        lane.work.notify_one();
    }

    /// Which sessions follow what through a lane, and the cluster that their routes name for it now.
    fn wanted_of(&self, lane: usize) -> Vec<(usize, Exchange, Place)> {
        let mut all = Vec::new();
        for (index, seat) in &self.seats {
            let private = seat.subscriptions.values().filter_map(|subscription| subscription.private);
            let mut exchanges = BTreeMap::new();
            for source in seat.follows.iter().map(|(_, follow)| follow.source).chain(private) {
                let key = &self.sources[source].key;
                if key.lane == lane {
                    exchanges.insert(key.exchange, ());
                }
            }
            let Target::Channel(clusters) = &seat.chain.route().target else { continue };
            all.extend(exchanges.into_keys().map(|exchange| (index, exchange, clusters.get(&exchange).cloned())));
        }
        all
    }

    /// A session's route serves an exchange no more.
    fn revoke_exchange(&mut self, index: usize, lane: usize, exchange: Exchange) {
        let refused = Refused {
            code: Reason::ChannelUnknown.word().into(),
            reason: "this exchange is no longer served here".into(),
            ..Refused::default()
        };
        let here = |source: usize| {
            let key = &self.sources[source].key;
            key.lane == lane && key.exchange == exchange
        };
        let seat = &self.seats[index];
        let slots: Vec<usize> =
            seat.follows.iter().filter(|(_, follow)| here(follow.source)).map(|(slot, _)| slot).collect();
        let subscriptions = seat.subscriptions.iter();
        let private: Vec<_> = subscriptions
            .filter_map(|(name, subscription)| {
                Some((std::rc::Rc::clone(name), subscription.private.filter(|source| here(*source))?))
            })
            .collect();
        for slot in slots {
            self.revoke(index, slot, &refused);
        }
        for (name, source) in private {
            self.revoke_private(index, source, &name, &refused);
        }
    }

    /// A trunk is about to be left for another endpoint: what is asked from now on waits for that one.
    pub(crate) fn lane_leaves(&mut self, key: LaneKey) {
        if let Some(lane) = self.lane(key) {
            lane.connected = false;
        }
    }

    /// Whether orders on a lane wait for their answers.
    pub(crate) fn awaits_orders(&mut self, key: LaneKey) -> bool {
        self.lane(key).is_some_and(|lane| lane.in_flight.values().any(|awaited| matches!(awaited, InFlight::Order(_))))
    }
}
