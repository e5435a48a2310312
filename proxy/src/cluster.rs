//! Clusters: which endpoints there are, which of them serve, and which one a user belongs to.
//!
//! The choice is a pure function of names and states, the same in every edge: a verified sticky token first,
//! then rendezvous hashing, so that losing one of N endpoints moves only the users that were on it.
//! It opens no session; [`crate::health`] tells it what it saw, trunks and relays what failed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::config;
use crate::jitter::mix;

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No check has ended yet: taken only where nothing is known to serve.
    Unchecked,
    /// Takes sessions.
    Serving,
    /// A connection failed or a trunk was lost since the last good check: not taken until one succeeds.
    Suspect,
    /// Answers, but asks to be left (readiness is off).
    Draining,
    /// Does not answer.
    Gone,
}

impl State {
    /// The label in admin and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Serving => "serving",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

/// One endpoint of a cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`: its name and its address.
    pub address: String,
    /// Its place in the cluster.
    pub index: usize,
    hash: u64,
}

/// What one check of an endpoint found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It serves.
    Ready,
    /// It answers, but not with 200.
    NotReady,
    /// No answer in time.
    Silent,
}

/// The pure core: states and the thresholds between them.
#[derive(Clone, Debug)]
pub struct Tracker {
    state: State,
    good_in_a_row: u32,
    bad_in_a_row: u32,
}

impl Tracker {
    const fn new() -> Self {
        Self { state: State::Unchecked, good_in_a_row: 0, bad_in_a_row: 0 }
    }

    /// Takes a finding; the state after it.
    fn note(&mut self, finding: Finding, health: &config::Health) -> State {
        if finding == Finding::Ready {
            self.bad_in_a_row = 0;
            self.good_in_a_row = self.good_in_a_row.saturating_add(1);
            if self.state == State::Unchecked || self.good_in_a_row >= health.healthy_after {
                self.state = State::Serving;
            }
        } else {
            self.good_in_a_row = 0;
            self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
            // An endpoint that never served or already failed a connection needs no second proof.
            let sure = matches!(self.state, State::Unchecked | State::Suspect | State::Draining | State::Gone);
            if sure || self.bad_in_a_row >= health.unhealthy_after {
                self.state = if finding == Finding::NotReady { State::Draining } else { State::Gone };
            }
        }
        self.state
    }

    /// A connection to it failed or broke.
    fn suspect(&mut self) -> State {
        if matches!(self.state, State::Serving | State::Unchecked) {
            self.state = State::Suspect;
            self.good_in_a_row = 0;
        }
        self.state
    }
}

/// A group of endpoints that serve the same.
pub struct Cluster {
    /// Its name in the configuration.
    pub name: String,
    /// Its settings.
    pub settings: config::Cluster,
    /// The credential presented to its endpoints (edge before edge).
    pub token: Option<String>,
    endpoints: Vec<Arc<Endpoint>>,
    trackers: Mutex<Vec<Tracker>>,
    states: watch::Sender<Arc<[State]>>,
    /// Woken when an endpoint became suspect, so that it is checked at once.
    pub(crate) check_now: Notify,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("states", &self.states.borrow())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster whose endpoints are all unchecked. Reads the token file; the error names it.
    pub fn new(name: &str, settings: config::Cluster) -> Result<Arc<Self>, String> {
        let token = match &settings.token_file {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| format!("cluster {name}: token_file {}: {error}", path.display()))?
                    .trim()
                    .to_owned(),
            ),
            None => None,
        };
        let endpoints: Vec<_> = settings
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, address)| {
                Arc::new(Endpoint { address: address.clone(), index, hash: hash(address.as_bytes()) })
            })
            .collect();
        let unchecked: Arc<[State]> = vec![State::Unchecked; endpoints.len()].into();
        Ok(Arc::new(Self {
            name: name.to_owned(),
            token,
            trackers: Mutex::new(vec![Tracker::new(); endpoints.len()]),
            endpoints,
            states: watch::channel(unchecked).0,
            check_now: Notify::new(),
            settings,
        }))
    }

    /// Takes over what is known of the endpoints that an earlier form of this cluster has too.
    pub fn inherit(&self, before: &Self) {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = before.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        for (endpoint, tracker) in self.endpoints.iter().zip(trackers.iter_mut()) {
            if let Some(same) = before.endpoints.iter().find(|same| same.address == endpoint.address) {
                tracker.clone_from(&known[same.index]);
            }
        }
        self.states.send_replace(trackers.iter().map(|tracker| tracker.state).collect());
    }

    /// All endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Their states, in the same order; the receiver wakes on every change.
    pub fn states(&self) -> watch::Receiver<Arc<[State]>> {
        self.states.subscribe()
    }

    /// The state of one endpoint now.
    pub fn state(&self, endpoint: &Endpoint) -> State {
        self.states.borrow().get(endpoint.index).copied().unwrap_or(State::Gone)
    }

    /// Whether any endpoint is known to serve.
    pub fn is_serving(&self) -> bool {
        self.states.borrow().contains(&State::Serving)
    }

    /// The endpoint for `user`: `sticky` (the address in a verified sticky token) while it takes sessions, else the
    /// highest rendezvous weight among those that serve (or are unchecked, where none is known to serve).
    pub fn pick(&self, user: &str, sticky: Option<&str>) -> Option<Arc<Endpoint>> {
        choose(&self.endpoints, &self.states.borrow(), user, sticky)
    }

    /// Says that a connection to `endpoint` failed or broke: it is not picked until a check succeeds.
    pub fn suspect(&self, endpoint: &Endpoint) {
        self.change(endpoint.index, Tracker::suspect);
        self.check_now.notify_waiters();
    }

    /// Takes what a check found.
    pub(crate) fn note(&self, index: usize, finding: Finding) {
        self.change(index, |tracker| tracker.note(finding, &self.settings.health));
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Tracker) -> State) {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tracker) = trackers.get_mut(index) else { return };
        let before = tracker.state;
        let after = change(tracker);
        if before != after {
            let states: Arc<[State]> = trackers.iter().map(|tracker| tracker.state).collect();
            self.states.send_replace(states);
            drop(trackers);
            if let Some(endpoint) = self.endpoints.get(index) {
                tracing::info!(cluster = %self.name, endpoint = %endpoint.address, before = before.label(), after = after.label(), "endpoint changed");
            }
        }
    }
}

/// The choice itself.
fn choose(endpoints: &[Arc<Endpoint>], states: &[State], user: &str, sticky: Option<&str>) -> Option<Arc<Endpoint>> {
    let with = |wanted: State| {
        endpoints.iter().zip(states).filter(move |(_, state)| **state == wanted).map(|(endpoint, _)| endpoint)
    };
    if let Some(sticky) = sticky
        && let Some(endpoint) =
            with(State::Serving).chain(with(State::Unchecked)).find(|endpoint| endpoint.address == sticky)
    {
        return Some(Arc::clone(endpoint));
    }
    let user = hash(user.as_bytes());
    let weight = |endpoint: &&Arc<Endpoint>| (mix(endpoint.hash ^ user), endpoint.index);
    with(State::Serving).max_by_key(weight).or_else(|| with(State::Unchecked).max_by_key(weight)).cloned()
}

/// FNV-1a with a finalizer: stable across processes and versions, as every edge must choose alike.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    mix(fnv)
}

#[cfg(test)]
mod tests;
