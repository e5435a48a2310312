//! The endpoints of a cluster at one moment, laid out so that a choice walks over numbers that lie side by side.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::endpoint::{Endpoint, Tally};
use crate::state::State;

/// The tallies of each lane and region: they outlive the sets, as what sessions count on must not move under them.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<BTreeMap<(Option<String>, Option<String>), Arc<Tally>>>);

impl Tallies {
    pub(crate) fn of(&self, lane: Option<&str>, region: Option<&str>) -> Arc<Tally> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((lane.map(str::to_owned), region.map(str::to_owned))).or_default())
    }

    /// Forgets those that nobody counts on.
    pub(crate) fn forget_unused(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, tally| Arc::strong_count(tally) > 1);
    }
}

/// The endpoints of one lane in one region: a range of the set.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) name: Option<String>,
    pub(crate) range: Range<usize>,
    pub(crate) tally: Arc<Tally>,
    /// Weight of those that serve.
    weight: AtomicU64,
}

impl Region {
    pub(crate) fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn sessions(&self) -> u64 {
        self.tally.sessions.load(Ordering::Relaxed)
    }
}

/// The endpoints of one lane: a range of the set.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: Option<String>,
    pub(crate) range: Range<usize>,
    pub(crate) regions: Vec<Region>,
}

impl Lane {
    /// Sessions on the lane, and the weight of its endpoints that serve.
    pub(crate) fn load(&self) -> (u64, u64) {
        self.regions
            .iter()
            .fold((0, 0), |(sessions, weight), region| (sessions + region.sessions(), weight + region.weight()))
    }
}

/// See the module. Sorted by lane, region, weight and address.
#[derive(Debug, Default)]
pub(crate) struct Set {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) hashes: Vec<u64>,
    pub(crate) weights: Vec<u32>,
    /// Weight of all endpoints before each, and of all at the end.
    pub(crate) weights_before: Vec<u64>,
    pub(crate) lanes: Vec<Lane>,
    by_address: HashMap<String, usize>,
    by_hash: HashMap<u64, usize>,
}

impl Set {
    pub(crate) fn new(mut endpoints: Vec<Arc<Endpoint>>) -> Self {
        let key = |endpoint: &Arc<Endpoint>| {
            let about = &endpoint.about;
            (about.lane.clone(), about.region.clone(), about.weight, about.address.clone())
        };
        endpoints.sort_by_cached_key(key);
        let mut set = Self {
            hashes: endpoints.iter().map(|endpoint| endpoint.hash).collect(),
            weights: endpoints.iter().map(|endpoint| endpoint.about.weight).collect(),
            by_address: endpoints.iter().enumerate().map(|(at, endpoint)| (endpoint.address.clone(), at)).collect(),
            by_hash: endpoints.iter().enumerate().map(|(at, endpoint)| (endpoint.hash, at)).collect(),
            weights_before: Vec::with_capacity(endpoints.len() + 1),
            lanes: Vec::new(),
            endpoints: Vec::new(),
        };
        let mut before = 0;
        set.weights_before.push(0);
        for weight in &set.weights {
            before += u64::from(*weight);
            set.weights_before.push(before);
        }
        for of_lane in endpoints.chunk_by(|a, b| a.about.lane == b.about.lane) {
            let mut at = set.lanes.last().map_or(0, |lane| lane.range.end);
            let range = at..at + of_lane.len();
            let mut regions = Vec::new();
            for of_region in of_lane.chunk_by(|a, b| a.about.region == b.about.region) {
                let serve = of_region.iter().filter(|endpoint| endpoint.state() == State::Serving);
                regions.push(Region {
                    name: of_region[0].about.region.clone(),
                    range: at..at + of_region.len(),
                    tally: Arc::clone(&of_region[0].tally),
                    weight: AtomicU64::new(serve.map(|endpoint| u64::from(endpoint.about.weight)).sum()),
                });
                at += of_region.len();
            }
            set.lanes.push(Lane { name: of_lane[0].about.lane.clone(), range, regions });
        }
        set.endpoints = endpoints;
        set
    }

    /// The place of the endpoint at an address.
    pub(crate) fn place(&self, address: &str) -> Option<usize> {
        self.by_address.get(address).copied()
    }

    /// The place of the endpoint whose address has this hash.
    pub(crate) fn place_of_hash(&self, hash: u64) -> Option<usize> {
        self.by_hash.get(&hash).copied()
    }

    pub(crate) fn lane(&self, name: Option<&str>) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.name.as_deref() == name)
    }

    /// The lane in which an endpoint stands.
    pub(crate) fn lane_of(&self, place: usize) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.range.contains(&place))
    }

    /// An endpoint began or ceased to serve.
    pub(crate) fn shift(&self, place: usize, before: State, after: State) {
        let region = self.lane_of(place).and_then(|lane| lane.regions.iter().find(|at| at.range.contains(&place)));
        let Some(region) = region else { return };
        let weight = u64::from(self.weights[place]);
        match (before == State::Serving, after == State::Serving) {
            (false, true) => drop(region.weight.fetch_add(weight, Ordering::Relaxed)),
            (true, false) => drop(region.weight.fetch_sub(weight, Ordering::Relaxed)),
            _ => {}
        }
    }
}
