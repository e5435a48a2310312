//! A generation: routes, clusters and filters as one whole, built off the path and swapped in one step.
//!
//! Whatever cannot be built leaves the generation before it in force, with an exact message and one counter.
//! What did not change (a filter, a cluster with its health, a route) is carried over, not rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;

use bawaba_channels::name::Exchange;
use bawaba_filter_host as host;

use crate::canary::CanaryRoute;
use crate::cluster::Cluster;
use crate::config::{self, Config};
use crate::loading::{LoadedFilter, load};
use crate::revision::Trouble;
use crate::sources::{Role, Sources};

/// VMs that one thread may need of one filter on one route at once: in force, the one before, and a candidate of each.
const VMS_PER_PLACE: usize = 4;
/// Address space is reserved for each: 4 GiB, of the 128 TiB that a process has.
const VMS_MAX: usize = 4096;

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
    /// What canary sessions take instead, by the route's name.
    pub canaries: BTreeMap<String, CanaryRoute>,
    /// What all filters of the process share.
    pub host: Arc<host::Host>,
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
    /// Whether a candidate stands in a filter's place.
    pub is_canary: bool,
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
    /// Builds the generation of `config` from `sources`, carrying over from `before` what did not change. Compiles:
    /// call it off the path.
    pub fn build(config: Arc<Config>, sources: &Sources, before: Option<&Self>) -> Result<Self, Trouble> {
        let host = match before {
            Some(before) => Arc::clone(&before.host),
            None => make_host(&config)?,
        };
        let mut clusters = BTreeMap::new();
        for (name, settings) in &config.cluster {
            let before = before.and_then(|before| before.clusters.get(name));
            let made = || {
                Cluster::new(name, settings.clone())
                    .map_err(|what| Trouble::new(format!("cluster {name}"), what, "correct its settings"))
            };
            let cluster = match before {
                Some(kept) if kept.settings == *settings => Arc::clone(kept),
                Some(changed) => {
                    let cluster = made()?;
                    cluster.inherit(changed);
                    cluster
                }
                None => made()?,
            };
            clusters.insert(name.clone(), cluster);
        }
        let mut filters = BTreeMap::new();
        for (name, settings) in &config.filter {
            let source = sources.get(name).ok_or_else(|| {
                Trouble::of_filter(name, "", "was added while the generation was built", "reload again")
            })?;
            let kept = before.and_then(|before| before.filters.get(name));
            filters.insert(name.clone(), load(&host, name, settings, source, kept)?);
        }
        let number = before.map_or(1, |before| before.number + 1);
        let mut routes = Vec::with_capacity(config.route.len());
        for settings in &config.route {
            let route = build_route(number, settings, &clusters, &filters)?;
            let same = before.and_then(|before| before.route(&settings.name)).filter(|kept| is_same(kept, &route));
            routes.push(same.map_or_else(|| Arc::new(route), Arc::clone));
        }
        let mut canaries = BTreeMap::new();
        for settings in &config.route {
            if let Some(canary) = build_canary(number, settings, &clusters, &filters, before)? {
                canaries.insert(settings.name.clone(), canary);
            }
        }
        Ok(Self { number, config, routes, clusters, filters, canaries, host })
    }

    /// The route of this name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.name() == name)
    }

    /// Another filter with a canary on a route of this one.
    pub fn other_canary(&self, name: &str) -> Option<&str> {
        let of = self.routes.iter().filter(|route| route.settings.filters.iter().any(|filter| filter == name));
        of.flat_map(|route| &route.settings.filters)
            .filter(|other| *other != name)
            .filter_map(|other| self.filters.get(other))
            .find(|other| other.candidate.as_ref().is_some_and(|candidate| matches!(candidate.role, Role::Canary(_))))
            .map(|other| other.name.as_str())
    }

    /// Whether nothing in it differs from `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        self.routes.len() == other.routes.len()
            && self.routes.iter().zip(&other.routes).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.clusters.len() == other.clusters.len()
            && self.clusters.iter().zip(&other.clusters).all(|((_, a), (_, b))| Arc::ptr_eq(a, b))
            && self.filters.len() == other.filters.len()
            && self.filters.iter().zip(&other.filters).all(|((_, a), (_, b))| a.is_same(b))
    }
}

fn make_host(config: &Config) -> Result<Arc<host::Host>, Trouble> {
    let defaults = host::HostLimits::default();
    let most = config.filter.values().map(|filter| filter.memory_bytes_max).max().unwrap_or(0);
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(defaults.vm_memory_bytes_max);
    let threads = match config.edge.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let places: usize = config.route.iter().map(|route| route.filters.len()).sum();
    let vms = threads.saturating_mul(places).saturating_mul(VMS_PER_PLACE).min(VMS_MAX);
    let vms_max = u32::try_from(vms).unwrap_or(u32::MAX).max(defaults.vms_max);
    let limits = host::HostLimits { vm_memory_bytes_max: most, vms_max, ..defaults };
    let cache_directory = config.edge.state_directory.as_ref().map(|directory| directory.join("compiled"));
    host::Host::with(limits, host::HostOptions { cache_directory, ..Default::default() }).map_err(|error| {
        let advice = match error {
            host::HostError::Cache { .. } => "give the directory to this user alone (chmod 700), or remove it",
            _ => "lower memory_bytes_max, or allow the process more address space",
        };
        Trouble::new("filter host", error.to_string(), advice)
    })
}

fn is_same(kept: &Route, route: &Route) -> bool {
    kept.settings == route.settings
        && kept.target.is_same(&route.target)
        && kept.filters.len() == route.filters.len()
        && kept.audience == route.audience
        && kept.filters.iter().zip(&route.filters).all(|(a, b)| a.is_in_force_as(b))
}

/// What the verdicts of several filters together depend on.
fn union(filters: &[LoadedFilter]) -> Audience {
    let mut pointers = std::collections::BTreeSet::new();
    // A shadow that looks at more than its filter needs cohorts that have more in common.
    let shadow = |filter: &LoadedFilter| {
        let candidate = filter.candidate.clone()?;
        matches!(candidate.role, Role::Shadow(_)).then(|| candidate.audience.clone())
    };
    for audience in filters.iter().flat_map(|filter| [Some(filter.audience.clone()), shadow(filter)]).flatten() {
        match &audience {
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
) -> Result<Route, Trouble> {
    let name = &settings.name;
    let trouble = |what: String| Trouble::new(format!("route {name}"), what, "bawaba check says where");
    let cluster = |cluster: &str| {
        clusters.get(cluster).cloned().ok_or_else(|| trouble(format!("there is no cluster \"{cluster}\"")))
    };
    let target = match (&settings.channel, &settings.relay) {
        (Some(exchanges), None) => {
            let mut by_exchange = BTreeMap::new();
            for (exchange, to) in exchanges {
                let parsed = exchange.parse().map_err(|error| trouble(format!("channel: \"{exchange}\": {error}")))?;
                by_exchange.insert(parsed, cluster(to)?);
            }
            Target::Channel(by_exchange)
        }
        (None, Some(relay)) => Target::Relay { cluster: cluster(&relay.cluster)?, http: relay.http },
        _ => return Err(trouble("exactly one of channel and relay is needed".into())),
    };
    let filters = settings
        .filters
        .iter()
        .map(|filter| loaded.get(filter).cloned().ok_or_else(|| trouble(format!("there is no filter \"{filter}\""))))
        .collect::<Result<Vec<_>, _>>()?;
    let chain = host::Chain::new(generation, filters.iter().map(|loaded| loaded.filter.clone()).collect());
    Ok(Route { settings: settings.clone(), audience: union(&filters), filters, chain, target, is_canary: false })
}

/// The route that canary sessions take, where one of its filters has a canary.
fn build_canary(
    generation: u64,
    settings: &config::Route,
    clusters: &BTreeMap<String, Arc<Cluster>>,
    filters: &BTreeMap<String, LoadedFilter>,
    before: Option<&Generation>,
) -> Result<Option<CanaryRoute>, Trouble> {
    let tried = settings.filters.iter().filter_map(|name| filters.get(name)).find_map(|loaded| {
        let candidate = loaded.candidate.as_ref()?;
        let Role::Canary(canary) = &candidate.role else { return None };
        Some((loaded, candidate, canary.percent))
    });
    let Some((loaded, candidate, percent)) = tried else { return Ok(None) };
    let mut with_candidate = filters.clone();
    with_candidate.insert(loaded.name.clone(), loaded.replaced_by(candidate));
    let route = Route { is_canary: true, ..build_route(generation, settings, clusters, &with_candidate)? };
    let kept = before.and_then(|before| before.canaries.get(&settings.name)).map(|kept| &kept.route);
    let route = kept.filter(|kept| is_same(kept, &route)).map_or_else(|| Arc::new(route), Arc::clone);
    Ok(Some(CanaryRoute { filter: loaded.name.clone(), percent, route }))
}
