//! The endpoints of a cluster as they come, change and go, while sessions are open on them.
//!
//! A source (the configuration, a file, DNS, Kubernetes, announcements over NATS) says whole what it knows:
//! [`Roster::announce`] replaces what the same source said before. What several sources say is united by address; where
//! two name the same one, the configuration's word counts first, then the source whose name sorts first.
//!
//! * An endpoint that was not there begins unchecked, and warms up when it first serves (not those that the cluster
//!   begins with: there is nobody to spare them).
//! * One that stays keeps its state, what it carries and how quickly it answers, whatever else is said of it.
//! * One that is named no more drains: nobody is sent to it, what it carries stays until it ends by itself, and
//!   [`Endpoint::state`] says so to whoever can go elsewhere.
//!
//! Every change of a state or of the set is returned, so that whoever embeds this can log and wake.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::chance::Chance;
use crate::endpoint::{Announced, Endpoint, Life, Load, WEIGHT_MAX};
use crate::set::{Set, Tallies};
use crate::settings::Settings;
use crate::state::{Finding, State, Tracker};
use crate::table::Table;

/// The source that is the configuration itself.
pub const STATIC: &str = "static";
/// Most endpoints of a cluster: what is announced beyond is left out.
pub const ENDPOINTS_MAX: usize = 65_536;

/// One endpoint's state changed.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// From.
    pub before: State,
    /// To.
    pub after: State,
}

/// Looks in a row that find an endpoint slow before it is left alone.
const SLOW_LOOKS: u32 = 3;
/// Nobody is an outlier among fewer.
const OUTLIERS_AMONG_MIN: usize = 3;

/// What an announcement changed.
#[derive(Clone, Debug, Default)]
pub struct Announcement {
    /// Endpoints that were not there.
    pub added: Vec<Arc<Endpoint>>,
    /// Endpoints that are named no more: they drain.
    pub removed: Vec<Arc<Endpoint>>,
    /// How many of which something else is said now.
    pub altered: usize,
    /// How many were left out, as there are too many.
    pub left_out: usize,
}

impl Announcement {
    /// Whether it said nothing new.
    pub const fn is_nothing(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.altered == 0 && self.left_out == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Roster {
    pub(crate) settings: Settings,
    pub(crate) chance: Chance,
    pub(crate) turns: AtomicU64,
    pub(crate) table: Option<Table>,
    set: ArcSwap<Set>,
    core: Mutex<Core>,
}

#[derive(Debug, Default)]
struct Core {
    sources: BTreeMap<String, Vec<Announced>>,
    /// Removed, but something is still open on them.
    leaving: Vec<Arc<Endpoint>>,
    tallies: Arc<Tallies>,
    has_begun: bool,
}

/// What outlives an announcement.
type Known = HashMap<String, (Arc<Load>, Arc<Life>)>;

impl Roster {
    /// With the endpoints of the configuration. `seed` decides every draw.
    pub fn new(settings: Settings, endpoints: Vec<Announced>, seed: u64, now: Duration) -> Self {
        let table = (!settings.remember.is_zero()).then(|| Table::new(settings.remember, settings.remembered_max));
        let roster = Self {
            settings,
            chance: Chance::new(seed),
            turns: AtomicU64::new(seed),
            table,
            set: ArcSwap::default(),
            core: Mutex::default(),
        };
        roster.announce(STATIC, endpoints, now);
        roster.core().has_begun = true;
        roster
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self) -> arc_swap::Guard<Arc<Set>> {
        self.set.load()
    }

    /// What `source` knows now, whole; replaces what it said before. O(N log N).
    pub fn announce(&self, source: &str, endpoints: Vec<Announced>, now: Duration) -> Announcement {
        let mut core = self.core();
        core.sources.insert(source.to_owned(), endpoints);
        let known = self.known();
        self.rebuild(&mut core, &known, now)
    }

    /// `source` is no more, and with it what it alone named.
    pub fn retract(&self, source: &str, now: Duration) -> Announcement {
        let mut core = self.core();
        if core.sources.remove(source).is_none() {
            return Announcement::default();
        }
        let known = self.known();
        self.rebuild(&mut core, &known, now)
    }

    /// The sources that have spoken.
    pub fn sources(&self) -> Vec<String> {
        self.core().sources.keys().cloned().collect()
    }

    /// Takes over what an earlier form of this cluster knows: states, load, what other sources than the configuration
    /// announced. May be called again, when more has become known there.
    pub fn take_over(&self, before: &Self, now: Duration) {
        let mut core = self.core();
        let theirs = before.core();
        core.tallies = Arc::clone(&theirs.tallies);
        for (source, endpoints) in theirs.sources.iter().filter(|(source, _)| *source != STATIC) {
            core.sources.insert(source.clone(), endpoints.clone());
        }
        let set = before.set();
        let known = set
            .endpoints
            .iter()
            .chain(&theirs.leaving)
            .map(|at| (at.address.clone(), (Arc::clone(&at.load), Arc::new(at.life.copy()))))
            .collect();
        core.leaving.clone_from(&theirs.leaving);
        self.set.store(Arc::default());
        self.rebuild(&mut core, &known, now);
    }

    fn known(&self) -> Known {
        let set = self.set();
        let each = set.endpoints.iter();
        each.map(|at| (at.address.clone(), (Arc::clone(&at.load), Arc::clone(&at.life)))).collect()
    }

    fn rebuild(&self, core: &mut Core, known: &Known, now: Duration) -> Announcement {
        let before = self.set.load_full();
        let mut done = Announcement::default();
        let first = core.sources.get_key_value(STATIC).into_iter();
        let united: Vec<Announced> = {
            let mut seen = HashSet::new();
            let others = core.sources.iter().filter(|(source, _)| *source != STATIC);
            let all = first.chain(others).flat_map(|(_, endpoints)| endpoints);
            all.filter(|about| seen.insert(about.address.as_str())).cloned().collect()
        };
        done.left_out = united.len().saturating_sub(ENDPOINTS_MAX);
        let mut endpoints = Vec::with_capacity(united.len());
        for mut about in united.into_iter().take(ENDPOINTS_MAX) {
            about.weight = about.weight.clamp(1, WEIGHT_MAX);
            let kept = before.place(&about.address).map(|place| &before.endpoints[place]);
            if let Some(kept) = kept.filter(|kept| kept.about == about) {
                endpoints.push(Arc::clone(kept));
                continue;
            }
            let tally = core.tallies.of(about.lane.as_deref(), about.region.as_deref());
            let leaving = core.leaving.iter().find(|at| at.address == about.address);
            let (load, life) = match (known.get(&about.address), leaving) {
                (Some((load, life)), _) => (Arc::clone(load), Arc::clone(life)),
                // It comes back while something is still open on it: that counts, what was known does not.
                (None, Some(leaving)) => (Arc::clone(&leaving.load), Arc::clone(&leaving.life)),
                (None, None) => (Arc::default(), Arc::new(Life::new(Tracker::new(!core.has_begun)))),
            };
            {
                let mut tracker = life.tracker.lock().unwrap_or_else(PoisonError::into_inner);
                if tracker.is_removed {
                    tracker.come_back();
                }
                tracker.asks_to_be_left = about.draining;
                life.publish(&mut tracker, now);
            }
            let endpoint = Arc::new(Endpoint::new(about, load, life, tally));
            if kept.is_some() {
                done.altered += 1;
            } else {
                done.added.push(Arc::clone(&endpoint));
            }
            endpoints.push(endpoint);
        }
        let set = Set::new(endpoints);
        core.leaving.retain(|at| set.place(&at.address).is_none());
        for gone in before.endpoints.iter().filter(|at| set.place(&at.address).is_none()) {
            let mut tracker = gone.life.tracker.lock().unwrap_or_else(PoisonError::into_inner);
            tracker.is_removed = true;
            gone.life.publish(&mut tracker, now);
            drop(tracker);
            core.leaving.push(Arc::clone(gone));
            done.removed.push(Arc::clone(gone));
        }
        core.leaving.retain(|at| at.sessions() > 0);
        self.set.store(Arc::new(set));
        core.tallies.forget_unused();
        done
    }

    /// All endpoints, sorted by lane, region, weight and address.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.set().endpoints.clone()
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.set().endpoints.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Endpoints that are named no more, while something is still open on them.
    pub fn leaving(&self) -> Vec<Arc<Endpoint>> {
        let mut core = self.core();
        core.leaving.retain(|at| at.sessions() > 0);
        core.leaving.clone()
    }

    /// The endpoint at an address.
    pub fn find(&self, address: &str) -> Option<Arc<Endpoint>> {
        let set = self.set();
        set.place(address).map(|place| Arc::clone(&set.endpoints[place]))
    }

    /// Whether any endpoint is known to serve. O(lanes × regions).
    pub fn is_serving(&self) -> bool {
        self.set().lanes.iter().any(|lane| lane.load().1 > 0)
    }

    /// Takes what a check of an endpoint found, and how long it took.
    pub fn note(&self, address: &str, finding: Finding, took: Duration, now: Duration) -> Option<Changed> {
        let thresholds = self.settings.thresholds;
        if finding == Finding::Ready
            && let Some(endpoint) = self.find(address)
        {
            endpoint.load.observe(took, now);
        }
        self.change(address, now, |tracker| tracker.note(finding, thresholds))
    }

    /// A connection to an endpoint opened, and took this long.
    pub fn succeed(&self, endpoint: &Endpoint, took: Duration, now: Duration) {
        endpoint.load.opened.fetch_add(1, Ordering::Relaxed);
        endpoint.load.observe(took, now);
        let mut tracker = endpoint.life.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        tracker.failures_in_a_row = 0;
    }

    /// A connection to an endpoint failed or broke: it is not chosen until a check succeeds, and after several in a row
    /// it is left alone for a while, whatever checks say.
    pub fn fail(&self, address: &str, now: Duration) -> Option<Changed> {
        if let Some(endpoint) = self.find(address) {
            endpoint.load.failed.fetch_add(1, Ordering::Relaxed);
        }
        let outlier = self.settings.outlier;
        let may_eject = self.may_eject(now);
        self.change(address, now, |tracker| {
            tracker.fail();
            if outlier.failures > 0 && tracker.failures_in_a_row >= outlier.failures && may_eject {
                tracker.eject(&outlier, now);
            }
        })
    }

    /// Whether one more endpoint may be left alone: not over its share of all, and never the last but one to serve.
    fn may_eject(&self, now: Duration) -> bool {
        let set = self.set();
        let ejected = set.endpoints.iter().filter(|at| at.ejected().0.is_some_and(|until| now < until)).count();
        let most = set.endpoints.len() * self.settings.outlier.ejected_percent_max as usize / 100;
        set.endpoints.len() > 1 && ejected < most.max(1)
    }

    /// Looks over all endpoints: who has been left alone long enough is back, who answers far more slowly than the others
    /// (three looks in a row) is left alone. Call it about once a second. O(N log N).
    pub fn review(&self, now: Duration) -> Vec<Changed> {
        let set = self.set.load_full();
        let outlier = self.settings.outlier;
        let mut means: Vec<Duration> = set.endpoints.iter().filter_map(|at| at.latency()).collect();
        means.sort_unstable();
        let median = means.get(means.len() / 2).copied().unwrap_or_default();
        let limit = (median * outlier.latency_percent / 100).max(outlier.latency_min);
        let mut changed = Vec::new();
        for endpoint in &set.endpoints {
            let is_slow = outlier.latency_percent > 0
                && means.len() >= OUTLIERS_AMONG_MIN
                && endpoint.latency().is_some_and(|mean| mean > limit)
                && endpoint.state() == State::Serving;
            let is_back = endpoint.state() == State::Ejected && endpoint.ejected().0.is_none_or(|until| until <= now);
            let may_eject = is_slow && self.may_eject(now);
            let was_slow = endpoint.life.slow_looks();
            if !is_slow && !is_back && was_slow == 0 {
                continue;
            }
            changed.extend(self.change(&endpoint.address, now, |tracker| {
                tracker.slow_looks = if is_slow { tracker.slow_looks + 1 } else { 0 };
                if tracker.slow_looks >= SLOW_LOOKS && may_eject {
                    tracker.slow_looks = 0;
                    tracker.eject(&outlier, now);
                }
            }));
        }
        changed
    }

    pub(crate) fn change(&self, address: &str, now: Duration, change: impl FnOnce(&mut Tracker)) -> Option<Changed> {
        // One at a time, so that the weights of a set are those of its states.
        let _core = self.core();
        let set = self.set();
        let place = set.place(address)?;
        let endpoint = &set.endpoints[place];
        let mut tracker = endpoint.life.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut tracker);
        let (before, after) = endpoint.life.publish(&mut tracker, now);
        set.shift(place, before, after);
        (before != after).then(|| Changed { endpoint: Arc::clone(endpoint), before, after })
    }
}

#[cfg(test)]
mod tests;
