//! Clusters: which endpoints there are, which of them serve, and which one a user belongs to.
//!
//! What may be decided without a socket or a clock is [`bawaba_routing`]'s; here it is named, timed, logged and woken
//! for. Opens no session; [`crate::health`] tells it what it saw, trunks and relays what failed.
//!
//! # Sources of endpoints
//! The set is dynamic. A source (a file, DNS, Kubernetes, announcements over NATS) needs two calls, from any thread:
//!
//! * [`Cluster::announce`]`(source, endpoints)`: everything that the source knows of this cluster now, whole. It replaces
//!   what the same source said before; calling it with nothing new costs a comparison.
//! * [`Cluster::retract`]`(source)`: the source itself is no more (it left the configuration). A source that has lost its
//!   upstream does not retract: what it last said goes on to count, and health checks say what still serves.
//!
//! Names of sources are stable words (`"dns"`, `"file"`); the configuration's own endpoints are the source `"static"`.
//! Added endpoints begin unchecked, are checked at once and warm up; removed ones drain (relays stay, trunks go on
//! elsewhere); those that stay keep state and load, by address. A new generation whose cluster has other settings takes
//! all of it over ([`Cluster::inherit`]), once when it is built and again when it comes into force. Whoever feeds a
//! cluster asks [`crate::shared::Shared::generation`] for it at each event, as a generation replaces the object.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

pub use bawaba_routing::{Announced, Endpoint, Finding, State};
use bawaba_routing::{Ask, Breaker, Budget, Changed, Outlier, Roster, Thresholds};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::config;

/// Since when time is counted here.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time as the routing core counts it.
pub fn now() -> Duration {
    BEGINNING.elapsed()
}

/// A group of endpoints that serve the same.
pub struct Cluster {
    /// Its name in the configuration.
    pub name: String,
    /// Its settings.
    pub settings: config::Cluster,
    /// The credential presented to its endpoints (edge before edge).
    pub token: Option<String>,
    roster: Roster,
    budget: Budget,
    /// Counts changes of states and of the set.
    states: watch::Sender<u64>,
    /// Counts changes of the set.
    sets: watch::Sender<u64>,
    /// Woken when an endpoint became suspect, so that it is checked at once.
    pub(crate) check_now: Arc<Notify>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("endpoints", &self.roster.endpoints())
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
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| format!("cluster {name}: no random seed: {error}"))?;
        let endpoints = settings.endpoints.clone();
        let roster = Roster::new(roster_settings(&settings), endpoints, u64::from_ne_bytes(seed), now());
        let budget = Budget::new(settings.retry.percent, settings.retry.per_second_min);
        Ok(Arc::new(Self {
            name: name.to_owned(),
            token,
            roster,
            budget,
            states: watch::channel(0).0,
            sets: watch::channel(0).0,
            check_now: Arc::new(Notify::new()),
            settings,
        }))
    }

    /// Takes over what an earlier form of this cluster knows of its endpoints, and what was announced to it.
    pub fn inherit(&self, before: &Self) {
        self.roster.take_over(&before.roster, now());
        self.set_changed();
    }

    /// What `source` knows of this cluster's endpoints now, whole. See the module.
    pub fn announce(&self, source: &str, endpoints: Vec<Announced>) {
        self.announced(source, &self.roster.announce(source, endpoints, now()));
    }

    /// `source` is no more. See the module.
    pub fn retract(&self, source: &str) {
        self.announced(source, &self.roster.retract(source, now()));
    }

    fn announced(&self, source: &str, done: &bawaba_routing::Announcement) {
        if done.is_nothing() {
            return;
        }
        let addresses = |endpoints: &[Arc<Endpoint>]| -> Vec<String> {
            endpoints.iter().take(8).map(|endpoint| endpoint.address.clone()).collect()
        };
        tracing::info!(
            cluster = %self.name, source, endpoints = self.roster.len(),
            added = done.added.len(), removed = done.removed.len(), altered = done.altered, left_out = done.left_out,
            first_added = ?addresses(&done.added), first_removed = ?addresses(&done.removed),
            "endpoints announced"
        );
        self.set_changed();
    }

    fn set_changed(&self) {
        self.sets.send_modify(|count| *count += 1);
        self.states.send_modify(|count| *count += 1);
    }

    /// All endpoints.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.roster.endpoints()
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.roster.len()
    }

    /// Endpoints that no source names any more, while sessions are open on them.
    pub fn leaving(&self) -> Vec<Arc<Endpoint>> {
        self.roster.leaving()
    }

    /// The endpoint at an address.
    pub fn find(&self, address: &str) -> Option<Arc<Endpoint>> {
        self.roster.find(address)
    }

    /// Wakes on every change of a state or of the set.
    pub fn states(&self) -> watch::Receiver<u64> {
        self.states.subscribe()
    }

    /// Wakes on every change of the set.
    pub(crate) fn sets(&self) -> watch::Receiver<u64> {
        self.sets.subscribe()
    }

    /// The state of one endpoint now; one that is named no more drains.
    pub fn state(&self, endpoint: &Endpoint) -> State {
        endpoint.state()
    }

    /// Whether any endpoint is known to serve.
    pub fn is_serving(&self) -> bool {
        self.roster.is_serving()
    }

    /// The endpoint for `user`: `sticky` (the address in a verified sticky token) while it takes sessions, else the
    /// cluster's choice among those that serve (or are unchecked, where none is known to serve).
    pub fn pick(&self, user: &str, sticky: Option<&str>) -> Option<Arc<Endpoint>> {
        self.roster.choose(&Ask { user, place: sticky, ..Ask::default() }, now())
    }

    /// A first attempt is made: it earns a share of a retry.
    pub fn attempt(&self) {
        self.budget.earn();
    }

    /// Whether one more retry may be: else what failed is refused, so that retries do not drown who is left.
    pub fn may_retry(&self) -> bool {
        self.budget.spend(now())
    }

    /// Says that a connection to `endpoint` opened, and how long that took.
    pub fn opened(&self, endpoint: &Endpoint, took: Duration) {
        self.roster.succeed(endpoint, took, now());
    }

    /// Looks for endpoints that are far slower than the others, and for those that were left alone long enough.
    pub(crate) fn review(&self) {
        for changed in self.roster.review(now()) {
            self.changed(Some(changed));
        }
    }

    /// Says that a connection to `endpoint` failed or broke: it is not picked until a check succeeds.
    pub fn suspect(&self, endpoint: &Endpoint) {
        self.changed(self.roster.fail(&endpoint.address, now()));
        self.check_now.notify_waiters();
    }

    /// Takes what a check found, and how long it took.
    pub(crate) fn note(&self, address: &str, finding: Finding, took: Duration) {
        self.changed(self.roster.note(address, finding, took, now()));
    }

    fn changed(&self, changed: Option<Changed>) {
        let Some(Changed { endpoint, before, after }) = changed else { return };
        tracing::info!(cluster = %self.name, endpoint = %endpoint.address, before = before.label(), after = after.label(), "endpoint changed");
        self.states.send_modify(|count| *count += 1);
    }
}

fn roster_settings(settings: &config::Cluster) -> bawaba_routing::Settings {
    let health = &settings.health;
    bawaba_routing::Settings {
        thresholds: Thresholds { unhealthy_after: health.unhealthy_after, healthy_after: health.healthy_after },
        slow_start: settings.slow_start,
        policy: settings.balance.policy,
        load_percent_max: settings.balance.load_percent_max,
        remember: settings.balance.remember,
        remembered_max: settings.balance.remembered_max,
        region_percent_max: settings.balance.region_percent_max,
        breaker: Breaker { sessions_max: settings.breaker.sessions_max, pending_max: settings.breaker.pending_max },
        outlier: Outlier {
            failures: settings.outlier.failures,
            latency_percent: settings.outlier.latency_percent,
            latency_min: settings.outlier.latency_min,
            ejection: settings.outlier.ejection,
            ejection_max: settings.outlier.ejection_max,
            ejected_percent_max: settings.outlier.ejected_percent_max,
        },
    }
}

/// An endpoint as operators see it.
pub fn shown(endpoint: &Endpoint) -> Value {
    let (opened, failed) = endpoint.connections();
    let mut shown = serde_json::to_value(&endpoint.about).unwrap_or_default();
    shown["state"] = endpoint.state().label().into();
    let (left_alone_until, ejections) = endpoint.ejected();
    shown["left_alone_s"] =
        left_alone_until.map(|until| until.saturating_sub(now()).as_secs()).filter(|seconds| *seconds > 0).into();
    shown["ejections"] = ejections.into();
    shown["pending"] = endpoint.pending().into();
    shown["sessions"] = endpoint.sessions().into();
    shown["latency_ms"] = endpoint.latency().map(|mean| mean.as_secs_f64() * 1e3).into();
    shown["opened"] = opened.into();
    shown["failed"] = failed.into();
    shown
}

#[cfg(test)]
mod tests;
