//! A generation: routes, clusters and filters as one whole, built off the path and swapped in one step.
//!
//! Whatever cannot be built leaves the generation before it in force, with an exact message and one counter.
//! What did not change (a filter, a cluster with its health, a route) is carried over, not rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bawaba_channels::name::Exchange;
use bawaba_filter_host as host;
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::config::{self, Config};

/// Why a generation could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

/// Custom section of a module: on which facts its outbound verdicts depend.
const AUDIENCE_SECTION: &str = "bawaba.audience";

/// Everything that can change without a restart.
pub struct Generation {
    /// Counts up from 1.
    pub number: u64,
    /// What it was built from.
    pub config: Arc<Config>,
    /// Routes, in order.
    pub routes: Vec<Arc<Route>>,
    /// Clusters by name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// Filters by name.
    pub filters: BTreeMap<String, LoadedFilter>,
    /// What all filters of the process share.
    pub host: Arc<host::Host>,
}

/// A filter, loaded.
#[derive(Clone)]
pub struct LoadedFilter {
    /// Its name in the configuration.
    pub name: String,
    /// sha-256 of the module, in hex.
    pub digest: String,
    /// The compiled module, with its counters.
    pub filter: host::Filter,
    /// sha-256 of everything that it was made of.
    fingerprint: [u8; 32],
    audience: Audience,
}

/// On which facts of a session the outbound verdicts of public messages depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// On none: there is no filter, or none that looks at the session.
    Nothing,
    /// On these claims (JSON pointers).
    Facts(Vec<String>),
    /// On anything: each session is judged for itself.
    Everything,
}

/// A route of a generation.
pub struct Route {
    /// As configured.
    pub settings: config::Route,
    /// Its filters in the order of the request.
    pub filters: Vec<LoadedFilter>,
    /// The same, ready for workers to attach.
    pub chain: host::Chain,
    /// What the verdicts of all its filters together depend on.
    pub audience: Audience,
    /// Where it leads.
    pub target: Target,
}

/// Where a route leads.
pub enum Target {
    /// Our protocol: the cluster of each exchange.
    Channel(BTreeMap<Exchange, Arc<Cluster>>),
    /// An existing service.
    Relay {
        /// The cluster behind it.
        cluster: Arc<Cluster>,
        /// Whether plain HTTP passes too.
        http: bool,
    },
}

impl Target {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Channel(a), Self::Channel(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((a, to), (b, other))| a == b && Arc::ptr_eq(to, other))
            }
            (Self::Relay { cluster: a, http: x }, Self::Relay { cluster: b, http: y }) => Arc::ptr_eq(a, b) && x == y,
            _ => false,
        }
    }
}

impl Route {
    /// Its name in logs and metrics.
    pub fn name(&self) -> &str {
        &self.settings.name
    }
}

impl Generation {
    /// Builds the generation of `config`, carrying over from `before` what did not change. Reads and compiles: call
    /// it off the path.
    pub fn build(config: Arc<Config>, before: Option<&Self>) -> Result<Self, BuildError> {
        let host = match before {
            Some(before) => Arc::clone(&before.host),
            None => {
                let most = config.filter.values().map(|filter| filter.memory_bytes_max).max().unwrap_or(0);
                let defaults = host::HostLimits::default();
                let most = usize::try_from(most).unwrap_or(usize::MAX).max(defaults.vm_memory_bytes_max);
                host::Host::new(host::HostLimits { vm_memory_bytes_max: most, ..defaults })
                    .map_err(|error| BuildError(format!("filter host: {error}")))?
            }
        };
        let mut clusters = BTreeMap::new();
        for (name, settings) in &config.cluster {
            let before = before.and_then(|before| before.clusters.get(name));
            let cluster = match before {
                Some(kept) if kept.settings == *settings => Arc::clone(kept),
                Some(changed) => {
                    let cluster = Cluster::new(name, settings.clone()).map_err(BuildError)?;
                    cluster.inherit(changed);
                    cluster
                }
                None => Cluster::new(name, settings.clone()).map_err(BuildError)?,
            };
            clusters.insert(name.clone(), cluster);
        }
        let mut filters = BTreeMap::new();
        for (name, settings) in &config.filter {
            let kept = before.and_then(|before| before.filters.get(name));
            filters.insert(name.clone(), load_filter(&host, name, settings, kept)?);
        }
        let number = before.map_or(1, |before| before.number + 1);
        let mut routes = Vec::with_capacity(config.route.len());
        for settings in &config.route {
            let route = build_route(number, settings, &clusters, &filters)?;
            let same = before.and_then(|before| before.route(&settings.name)).filter(|kept| is_same(kept, &route));
            routes.push(same.map_or_else(|| Arc::new(route), Arc::clone));
        }
        Ok(Self { number, config, routes, clusters, filters, host })
    }

    /// The route of this name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.name() == name)
    }

    /// Whether nothing in it differs from `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        self.routes.len() == other.routes.len()
            && self.routes.iter().zip(&other.routes).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.clusters.len() == other.clusters.len()
            && self.clusters.iter().zip(&other.clusters).all(|((_, a), (_, b))| Arc::ptr_eq(a, b))
            && self.filters.len() == other.filters.len()
            && self.filters.iter().zip(&other.filters).all(|((_, a), (_, b))| a.fingerprint == b.fingerprint)
    }
}

fn is_same(kept: &Route, route: &Route) -> bool {
    kept.settings == route.settings
        && kept.target.is_same(&route.target)
        && kept.filters.len() == route.filters.len()
        && kept.filters.iter().zip(&route.filters).all(|(a, b)| a.fingerprint == b.fingerprint)
}

/// Reads a filter's files and builds it, unless it is what `kept` was made of.
fn load_filter(
    host: &host::Host,
    name: &str,
    settings: &config::Filter,
    kept: Option<&LoadedFilter>,
) -> Result<LoadedFilter, BuildError> {
    let fail = |what: String| BuildError(format!("filter {name}: {what}"));
    let read =
        |path: &std::path::Path| std::fs::read(path).map_err(|error| fail(format!("{}: {error}", path.display())));
    let module = read(&settings.module)?;
    let digest: String = Sha256::digest(&module).iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(wanted) = &settings.digest
        && !wanted.eq_ignore_ascii_case(&digest)
    {
        return Err(fail(format!("{} has sha-256 {digest}, and {wanted} is required", settings.module.display())));
    }
    let given = match &settings.settings_file {
        Some(path) => read(path)?,
        None => serde_json::to_vec(&settings.settings).map_err(|error| fail(format!("settings: {error}")))?,
    };
    let fingerprint: [u8; 32] = {
        let mut hash = Sha256::new();
        for part in [digest.as_bytes(), &given, format!("{settings:?}").as_bytes()] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    };
    if let Some(kept) = kept.filter(|kept| kept.fingerprint == fingerprint) {
        return Ok(kept.clone());
    }
    let filter = host
        .build(host::FilterSpec {
            name: name.to_owned(),
            module,
            settings: given,
            vm_configuration: settings.vm_configuration.clone().into_bytes(),
            vm_id: String::new(),
            root_id: settings.root_id.clone(),
            on_failure: match settings.on_failure {
                config::OnFailure::Deny => host::OnFailure::Deny,
                config::OnFailure::Allow => host::OnFailure::Allow,
            },
            limits: host::FilterLimits {
                callback_budget: settings.callback_budget,
                start_budget: settings.callback_budget.max(Duration::from_secs(2)),
                memory_bytes_max: usize::try_from(settings.memory_bytes_max).unwrap_or(usize::MAX),
                ..host::FilterLimits::default()
            },
        })
        .map_err(|error| fail(format!("{}: {error}", settings.module.display())))?;
    let audience = match (settings.scope, filter.custom_section(AUDIENCE_SECTION)) {
        (config::Scope::Session, _) | (config::Scope::Cohort, None) => Audience::Everything,
        (config::Scope::Cohort, Some(section)) => {
            let pointers: Vec<String> = serde_json::from_slice(section)
                .map_err(|error| fail(format!("{}: section {AUDIENCE_SECTION}: {error}", settings.module.display())))?;
            if pointers.is_empty() { Audience::Nothing } else { Audience::Facts(pointers) }
        }
    };
    tracing::info!(filter = name, digest = %digest, ?audience, "filter loaded");
    Ok(LoadedFilter { name: name.to_owned(), digest, filter, fingerprint, audience })
}

/// What the verdicts of several filters together depend on.
fn union(filters: &[LoadedFilter]) -> Audience {
    let mut pointers = std::collections::BTreeSet::new();
    for filter in filters {
        match &filter.audience {
            Audience::Nothing => {}
            Audience::Facts(of_one) => pointers.extend(of_one.iter().cloned()),
            Audience::Everything => return Audience::Everything,
        }
    }
    if filters.is_empty() { Audience::Nothing } else { Audience::Facts(pointers.into_iter().collect()) }
}

fn build_route(
    generation: u64,
    settings: &config::Route,
    clusters: &BTreeMap<String, Arc<Cluster>>,
    loaded: &BTreeMap<String, LoadedFilter>,
) -> Result<Route, BuildError> {
    let name = &settings.name;
    let cluster = |cluster: &str| {
        clusters
            .get(cluster)
            .cloned()
            .ok_or_else(|| BuildError(format!("route {name}: there is no cluster \"{cluster}\"")))
    };
    let target = match (&settings.channel, &settings.relay) {
        (Some(exchanges), None) => {
            let mut by_exchange = BTreeMap::new();
            for (exchange, to) in exchanges {
                let parsed = exchange
                    .parse()
                    .map_err(|error| BuildError(format!("route {name}: channel: \"{exchange}\": {error}")))?;
                by_exchange.insert(parsed, cluster(to)?);
            }
            Target::Channel(by_exchange)
        }
        (None, Some(relay)) => Target::Relay { cluster: cluster(&relay.cluster)?, http: relay.http },
        _ => return Err(BuildError(format!("route {name}: exactly one of channel and relay is needed"))),
    };
    let filters = settings
        .filters
        .iter()
        .map(|filter| {
            loaded
                .get(filter)
                .cloned()
                .ok_or_else(|| BuildError(format!("route {name}: there is no filter \"{filter}\"")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let chain = host::Chain::new(generation, filters.iter().map(|loaded| loaded.filter.clone()).collect());
    Ok(Route { settings: settings.clone(), audience: union(&filters), filters, chain, target })
}
