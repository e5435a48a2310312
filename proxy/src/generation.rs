//! A generation: routes, clusters and filters as one whole, built off the path and swapped in one step.
//!
//! Whatever cannot be built leaves the generation before it in force, with an exact message and one counter.
//! What did not change (a filter, a cluster with its health) is carried over, not rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;

use bawaba_channels::name::Exchange;

use crate::cluster::Cluster;
use crate::config::{self, Config};

/// Why a generation could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

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
}

/// A filter, loaded.
#[derive(Clone)]
pub struct LoadedFilter {
    /// Its name in the configuration.
    pub name: String,
    /// sha-256 of the module, in hex.
    pub digest: String,
}

/// A route of a generation.
pub struct Route {
    /// As configured.
    pub settings: config::Route,
    /// Its filters in the order of the request.
    pub filters: Vec<LoadedFilter>,
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
        let mut clusters = BTreeMap::new();
        for (name, settings) in &config.cluster {
            let kept = before.and_then(|before| before.clusters.get(name)).filter(|kept| kept.settings == *settings);
            let cluster = match kept {
                Some(kept) => Arc::clone(kept),
                None => Cluster::new(name, settings.clone()).map_err(BuildError)?,
            };
            clusters.insert(name.clone(), cluster);
        }
        let routes =
            config.route.iter().map(|route| build_route(route, &clusters).map(Arc::new)).collect::<Result<_, _>>()?;
        let number = before.map_or(1, |before| before.number + 1);
        Ok(Self { number, config, routes, clusters })
    }

    /// The route of this name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.name() == name)
    }
}

fn build_route(settings: &config::Route, clusters: &BTreeMap<String, Arc<Cluster>>) -> Result<Route, BuildError> {
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
    Ok(Route { settings: settings.clone(), filters: Vec::new(), target })
}
