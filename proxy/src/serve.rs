//! The edge as a running process: everything is built and bound before it says that it listens, and it ends by
//! draining.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use pingora_core::server::ShutdownSignalWatch as _;
use tokio::sync::watch;

use crate::config::{self, Config, Loaded};
use crate::drain::DrainOnTerminate;
use crate::identity::{Identity, Verifier};
use crate::limits::Limiter;
use crate::listener::{Bound, Door};
use crate::metrics::Metrics;
use crate::passthrough::Passthrough;
use crate::shared::{Shared, TokenFacts};
use crate::worker::Workers;
use crate::{admin, control};

/// Threads that accept, decrypt and read requests; messages are the workers' business.
const DOOR_THREADS: usize = 2;
/// How long the last usage records may take to be written.
const USAGE_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Where a running edge can be reached.
pub struct Addresses {
    /// URL of each listener, as `ws://127.0.0.1:8080`.
    pub listeners: Vec<String>,
    /// URL of the admin listener.
    pub admin: Option<String>,
}

/// The configuration in `file`; the error is everything that is wrong with it.
pub fn load(file: &Path) -> anyhow::Result<Loaded> {
    config::load(file).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", all.join("\n"))
    })
}

/// Runs the edge of `file`, which holds what was `loaded`, until it is told to end. `started` is called once everything
/// is bound.
pub fn run(file: &Path, loaded: Loaded, started: impl FnOnce(&Addresses)) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = Arc::new(loaded.config);
    let metrics = Metrics::new()?;
    let identity = Identity::new(verifier(&config)?);
    let (first, store) = control::begin(&config)?;
    metrics.generation.set(1);
    let verify = {
        let identity = Arc::clone(&identity);
        Box::new(move |token: &str| {
            let verified = identity.verify(token).map_err(|rejected| rejected.reason)?;
            Ok(TokenFacts {
                user: verified.user,
                tenant: verified.tenant,
                is_edge: verified.is_edge,
                payload: verified.payload,
                expires_at: Some(verified.expires_at),
            })
        })
    };
    let shared = Shared::new(Arc::clone(&config), verify, Arc::clone(&metrics), first).map_err(anyhow::Error::msg)?;
    let workers = Workers::start(&shared).context("workers cannot be started")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(DOOR_THREADS)
        .thread_name("door")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut bound = Vec::new();
        for listener in &config.listener {
            bound.push(Bound::bind(listener).map_err(anyhow::Error::msg)?);
        }
        let admin = match &config.admin {
            Some(settings) => Some(admin::Bound::bind(settings.address).await?),
            None => None,
        };
        let addresses = Addresses {
            listeners: bound.iter().map(|bound| format!("{}://{}", bound.scheme(), bound.address)).collect(),
            admin: admin.as_ref().map(|admin| format!("http://{}", admin.address)),
        };
        let limiter = Limiter::new(&config.limits);
        let control = control::start(&shared, store, reload(file, Arc::clone(&identity)))?;
        let door = Arc::new(Door {
            shared: Arc::clone(&shared),
            control,
            workers: Arc::clone(&workers),
            identity: Arc::clone(&identity),
            limiter,
            passthrough: Passthrough::new(config.timeouts.connect, Arc::clone(&metrics)),
            metrics: Arc::clone(&metrics),
        });
        if let Some(admin) = admin {
            tokio::spawn(admin.serve(Arc::clone(&door), stopped.clone()));
        }
        for bound in bound {
            tokio::spawn(bound.serve(Arc::clone(&door), stopped.clone()));
        }
        if let Some(url) = &addresses.admin {
            tracing::info!(%url, "admin listening");
        }
        for url in &addresses.listeners {
            tracing::info!(%url, "listening");
        }
        started(&addresses);
        let signal = DrainOnTerminate { shared: Arc::clone(&shared), workers: Arc::clone(&workers) };
        signal.recv().await;
        stop.send_replace(true);
        if let Some(usage) = &shared.usage {
            usage.flush(USAGE_WITHIN);
        }
        Ok(())
    })
}

fn verifier(config: &Config) -> anyhow::Result<Verifier> {
    Verifier::load(&config.identity).map_err(|problems| {
        let all: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
        anyhow::anyhow!("identity: {}", all.join("; "))
    })
}

/// What SIGHUP does: the file is read anew, and keys are put in force only if all of it is right.
fn reload(file: &Path, identity: Arc<Identity>) -> control::LoadConfig {
    let file = file.to_owned();
    Box::new(move || {
        let loaded = config::load(&file)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let keys = verifier(&loaded.config).map_err(|error| error.to_string())?;
        identity.install(keys);
        Ok(loaded.config)
    })
}
