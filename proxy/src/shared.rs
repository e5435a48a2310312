//! What all threads share: the generation in force, the sticky signer, who drains, who verifies, who counts.
//! Nothing here is touched per message.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bawaba_channels::reason::Reason;
use tokio::sync::watch;

use crate::config::Config;
use crate::drain::Drain;
use crate::generation::Generation;
use crate::metrics::Metrics;
use crate::sticky::Signer;
use crate::store::Journal;
use crate::usage::Usage;

/// What a verified token says; see [`crate::context::ConnectionContext`].
#[derive(Clone, Debug)]
pub struct TokenFacts {
    /// `sub`.
    pub user: String,
    /// `tenant`.
    pub tenant: String,
    /// Whether it is that of another edge.
    pub is_edge: bool,
    /// The whole payload, base64url without padding, as filters read it.
    pub payload: String,
    /// `exp`, in seconds since the epoch.
    pub expires_at: Option<i64>,
}

/// Verifies a token (`refresh`); the identity station gives it.
pub type Verify = Box<dyn Fn(&str) -> Result<TokenFacts, Reason> + Send + Sync>;

/// Shared by listener, workers, admin and control thread.
pub struct Shared {
    /// The configuration at start: what is not in a generation needs a restart.
    pub config: Arc<Config>,
    /// Signs and verifies sticky tokens.
    pub sticky: Signer,
    /// Verifies tokens.
    pub verify: Verify,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
    /// Records who used what, where that is kept.
    pub usage: Option<Arc<Usage>>,
    /// Whether the process is draining.
    pub drain: watch::Sender<Drain>,
    /// Newest session of each `sid`.
    pub sids: Sids,
    /// Generations that could not be built.
    pub reloads: Reloads,
    current: ArcSwap<Generation>,
    journals: ArcSwap<BTreeMap<String, Journal>>,
    generations: watch::Sender<u64>,
}

impl Shared {
    /// With its first generation.
    pub fn new(
        config: Arc<Config>,
        verify: Verify,
        metrics: Arc<Metrics>,
        first: Generation,
    ) -> Result<Arc<Self>, String> {
        let sticky = Signer::new(config.sticky.key_file.as_deref())?;
        let usage = config.usage.as_ref().map(Usage::start).transpose()?;
        let number = first.number;
        Ok(Arc::new(Self {
            config,
            sticky,
            verify,
            metrics,
            usage,
            drain: watch::channel(Drain::Serving).0,
            sids: Sids::default(),
            reloads: Reloads::default(),
            current: ArcSwap::from_pointee(first),
            journals: ArcSwap::default(),
            generations: watch::channel(number).0,
        }))
    }

    /// The generation in force.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Wakes with the number of each new generation.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generations.subscribe()
    }

    /// Puts a new generation in force.
    pub fn install(&self, generation: Generation) {
        let number = generation.number;
        self.current.store(Arc::new(generation));
        self.generations.send_replace(number);
    }

    /// What became of each filter's changes, for admin.
    pub fn journals(&self) -> Arc<BTreeMap<String, Journal>> {
        self.journals.load_full()
    }

    /// Shows admin what became of each filter's changes.
    pub fn publish_journals(&self, journals: BTreeMap<String, Journal>) {
        self.journals.store(Arc::new(journals));
    }

    /// Whether new sessions are refused.
    pub fn is_draining(&self) -> bool {
        !matches!(*self.drain.borrow(), Drain::Serving)
    }

    /// Whether the edge should get traffic: it is not draining, and every cluster has an endpoint that serves.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.generation().clusters.values().all(|cluster| cluster.is_serving())
    }
}

/// Generations that could not be built: how many, and why the newest.
#[derive(Debug, Default)]
pub struct Reloads {
    failures: AtomicU64,
    newest: Mutex<Option<String>>,
}

impl Reloads {
    /// One more; what was in force stays so.
    pub fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%why, "the new generation could not be built: the one in force stays");
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// How many since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the newest one failed.
    pub fn newest(&self) -> Option<String> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A session's place: which worker, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPlace {
    /// The worker.
    pub worker: usize,
    /// The session's number on it, never used twice.
    pub number: u64,
}

const SHARDS: usize = 16;

/// Route, tenant, user and `sid`: a client may hold one connection on each route.
pub type SidKey = [String; 4];

/// The newest session of each [`SidKey`], in shards so that workers rarely meet. As large as the number of
/// open sessions, which has a limit.
pub struct Sids {
    hasher: RandomState,
    shards: [Mutex<HashMap<SidKey, SessionPlace>>; SHARDS],
}

impl Default for Sids {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Sids {
    fn shard(&self, key: &SidKey) -> &Mutex<HashMap<SidKey, SessionPlace>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Enters a session; the one whose place it takes, if any.
    pub fn enter(&self, key: &SidKey, place: SessionPlace) -> Option<SessionPlace> {
        self.shard(key).lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), place)
    }

    /// Takes a session out, unless a newer one has taken its place.
    pub fn leave(&self, key: &SidKey, place: SessionPlace) {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.get(key) == Some(&place) {
            shard.remove(key);
        }
    }
}
