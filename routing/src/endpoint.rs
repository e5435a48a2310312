//! One endpoint: what its source says of it, what is known of it, and what it carries.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::chance::hash_of;
use crate::state::{State, Tracker};

/// Heaviest weight of an endpoint.
pub const WEIGHT_MAX: u32 = 1000;
/// A warm endpoint's share of its weight, in thousandths; a cold one begins with a tenth.
pub(crate) const WARM: u64 = 1000;
const COLD: u64 = 100;
/// How much of a new sample goes into the mean.
const MEAN_SHARE: f64 = 0.2;
/// How fast a peak of latency is forgotten: to 37 % in this time.
const PEAK_DECAY: Duration = Duration::from_secs(10);

/// What a source says of an endpoint. Two announcements are of the same endpoint when their addresses are equal.
///
/// In a file: `"10.0.0.1:7000"`, or a table with `address` and any of the other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Announced {
    /// `host:port`: its name and its address.
    pub address: String,
    /// The service's own name for it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its share beside the others: 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where in the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it can do; a route may require some of it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// The exchanges that it serves; none for all of the cluster's.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub exchanges: BTreeSet<String>,
    /// It serves only the sessions that a route puts on this lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// How loaded it says it is, in percent; over 100 counts as 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_percent: Option<u8>,
    /// It asks to be left.
    pub draining: bool,
}

impl Announced {
    /// An endpoint of which only the address is known.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            name: None,
            weight: 1,
            region: None,
            zone: None,
            features: BTreeSet::new(),
            exchanges: BTreeSet::new(),
            lane: None,
            load_percent: None,
            draining: false,
        }
    }
}

impl<'de> Deserialize<'de> for Announced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The long form.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            address: String,
            name: Option<String>,
            #[serde(default = "one")]
            weight: u32,
            region: Option<String>,
            zone: Option<String>,
            #[serde(default)]
            features: BTreeSet<String>,
            #[serde(default)]
            exchanges: BTreeSet<String>,
            lane: Option<String>,
            load_percent: Option<u8>,
            #[serde(default)]
            draining: bool,
        }
        const fn one() -> u32 {
            1
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Announced;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"host:port\", or a table with address, weight, region, …")
            }

            fn visit_str<E: serde::de::Error>(self, address: &str) -> Result<Announced, E> {
                Ok(Announced::at(address))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Announced, A::Error> {
                let long = Long::deserialize(MapAccessDeserializer::new(map))?;
                if !(1..=WEIGHT_MAX).contains(&long.weight) {
                    return Err(A::Error::custom(format!("weight must lie between 1 and {WEIGHT_MAX}")));
                }
                Ok(Announced {
                    address: long.address,
                    name: long.name,
                    weight: long.weight,
                    region: long.region,
                    zone: long.zone,
                    features: long.features,
                    exchanges: long.exchanges,
                    lane: long.lane,
                    load_percent: long.load_percent,
                    draining: long.draining,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What one endpoint carries now and how quickly it answers. Outlives changes of the set and of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) sessions: AtomicU32,
    pub(crate) pending: AtomicU32,
    mean_us: AtomicU64,
    peak_us: AtomicU64,
    peak_at_ms: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Load {
    /// One more answer took this long.
    pub(crate) fn observe(&self, took: Duration, now: Duration) {
        let took = took.as_secs_f64() * 1e6;
        let mean = self.mean_us.load(Ordering::Relaxed) as f64;
        let mean = if mean == 0.0 { took } else { mean + (took - mean) * MEAN_SHARE };
        self.mean_us.store(mean.max(1.0) as u64, Ordering::Relaxed);
        // A peak counts at once and is forgotten slowly.
        let peak = took.max(self.peak(now));
        self.peak_us.store(peak.max(1.0) as u64, Ordering::Relaxed);
        self.peak_at_ms.store(millis(now), Ordering::Relaxed);
    }

    /// The mean of what answers took; zero while none was seen.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_us.load(Ordering::Relaxed))
    }

    /// The peak in microseconds, as far as it is not forgotten; never under the mean.
    pub(crate) fn peak(&self, now: Duration) -> f64 {
        let age = millis(now).saturating_sub(self.peak_at_ms.load(Ordering::Relaxed)) as f64;
        let mean = self.mean_us.load(Ordering::Relaxed) as f64;
        let peak = self.peak_us.load(Ordering::Relaxed) as f64;
        (peak * (-age / PEAK_DECAY.as_millis() as f64).exp()).max(mean)
    }
}

/// Sessions of all endpoints of one lane and region together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sessions: AtomicU64,
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(crate) struct Life {
    state: AtomicU8,
    /// Since when it warms up, in milliseconds; 0 for long since.
    warms_since_ms: AtomicU64,
    pub(crate) tracker: Mutex<Tracker>,
}

impl Life {
    pub(crate) fn new(tracker: Tracker) -> Self {
        Self {
            state: AtomicU8::new(State::Unchecked as u8),
            warms_since_ms: AtomicU64::new(0),
            tracker: Mutex::new(tracker),
        }
    }

    /// The same, for another configuration of the same endpoint.
    pub(crate) fn copy(&self) -> Self {
        Self {
            state: AtomicU8::new(self.state.load(Ordering::Relaxed)),
            warms_since_ms: AtomicU64::new(self.warms_since_ms.load(Ordering::Relaxed)),
            tracker: Mutex::new(self.tracker.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    pub(crate) fn slow_looks(&self) -> u32 {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner).slow_looks
    }

    pub(crate) fn state(&self) -> State {
        State::of_code(self.state.load(Ordering::Relaxed))
    }

    /// Publishes a state; `before` and after it.
    pub(crate) fn publish(&self, tracker: &mut Tracker, now: Duration) -> (State, State) {
        let (before, after) = (self.state(), tracker.state(now));
        if after == State::Serving && before != after {
            // Whoever was away a moment, as a suspect, is warm still.
            let is_warm = std::mem::replace(&mut tracker.begins_at_once, false) || before == State::Suspect;
            if !is_warm {
                self.warms_since_ms.store(millis(now).max(1), Ordering::Relaxed);
            }
        }
        self.state.store(after as u8, Ordering::Relaxed);
        (before, after)
    }

    /// Its share of its weight, in thousandths: it grows evenly from a tenth within `slow_start`.
    pub(crate) fn warmth(&self, now: Duration, slow_start: Duration) -> u64 {
        let since = self.warms_since_ms.load(Ordering::Relaxed);
        if since == 0 || slow_start.is_zero() {
            return WARM;
        }
        let age = millis(now).saturating_sub(since);
        if age >= millis(slow_start) {
            self.warms_since_ms.store(0, Ordering::Relaxed);
            return WARM;
        }
        COLD + (WARM - COLD) * age / millis(slow_start)
    }
}

pub(crate) fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// An endpoint of a cluster. Whoever holds one may go on using it after it has left the set: it drains then.
pub struct Endpoint {
    /// `host:port`: its name and its address.
    pub address: String,
    /// What its source says of it.
    pub about: Announced,
    pub(crate) hash: u64,
    pub(crate) load: Arc<Load>,
    pub(crate) life: Arc<Life>,
    pub(crate) tally: Arc<Tally>,
}

impl Endpoint {
    pub(crate) fn new(about: Announced, load: Arc<Load>, life: Arc<Life>, tally: Arc<Tally>) -> Self {
        Self { address: about.address.clone(), hash: hash_of(about.address.as_bytes()), about, load, life, tally }
    }

    /// What is known of it now.
    pub fn state(&self) -> State {
        self.life.state()
    }

    /// Sessions that it carries for this process.
    pub fn sessions(&self) -> u32 {
        self.load.sessions.load(Ordering::Relaxed)
    }

    /// Connections to it that are being opened.
    pub fn pending(&self) -> u32 {
        self.load.pending.load(Ordering::Relaxed)
    }

    /// Connections that it took, and that failed.
    pub fn connections(&self) -> (u64, u64) {
        (self.load.opened.load(Ordering::Relaxed), self.load.failed.load(Ordering::Relaxed))
    }

    /// Mean time of its answers to checks and handshakes; `None` while none was seen.
    pub fn latency(&self) -> Option<Duration> {
        Some(self.load.mean()).filter(|mean| !mean.is_zero())
    }

    /// Until when it is left alone, and how often in succession it was.
    pub fn ejected(&self) -> (Option<Duration>, u32) {
        let tracker = self.life.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        (tracker.ejected_until, tracker.ejections)
    }

    /// Counts a connection that is being opened, until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> Opening {
        self.load.pending.fetch_add(1, Ordering::Relaxed);
        Opening(Arc::clone(self))
    }

    /// Counts `sessions` on it until the lease is dropped.
    pub fn carry(self: &Arc<Self>, sessions: u32) -> Lease {
        let mut lease = Lease { endpoint: Arc::clone(self), sessions: 0 };
        lease.add(sessions);
        lease
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for Endpoint {}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} sessions)", self.address, self.state().label(), self.sessions())
    }
}

/// A connection that is being opened.
#[derive(Debug)]
pub struct Opening(Arc<Endpoint>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.load.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sessions that count on an endpoint; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    sessions: u32,
}

impl Lease {
    /// The endpoint.
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// How many.
    pub const fn sessions(&self) -> u32 {
        self.sessions
    }

    /// That many more.
    pub fn add(&mut self, sessions: u32) {
        self.sessions += sessions;
        self.endpoint.load.sessions.fetch_add(sessions, Ordering::Relaxed);
        self.endpoint.tally.sessions.fetch_add(u64::from(sessions), Ordering::Relaxed);
    }

    /// One fewer.
    pub fn remove_one(&mut self) {
        if self.sessions > 0 {
            self.give_back(1);
        }
    }

    fn give_back(&mut self, sessions: u32) {
        self.sessions -= sessions;
        self.endpoint.load.sessions.fetch_sub(sessions, Ordering::Relaxed);
        self.endpoint.tally.sessions.fetch_sub(u64::from(sessions), Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(self.sessions);
    }
}
