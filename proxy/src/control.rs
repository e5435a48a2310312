//! The control thread: health checks, and new generations when files change or SIGHUP says so. Off the path: what
//! takes long here (compiling a module) delays no message.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::generation::Generation;
use crate::health;
use crate::shared::Shared;

/// How often files are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the configuration file again; the error is for the operator.
pub type LoadConfig = Box<dyn Fn() -> Result<Config, String> + Send>;

/// When a file was written, and how long it is.
type Stamp = Option<(SystemTime, u64)>;

/// Starts the thread. `load` is asked on SIGHUP.
pub fn start(shared: &Arc<Shared>, load: LoadConfig) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("control".into()).spawn(move || runtime.block_on(run(shared, load)))?;
    Ok(())
}

async fn run(shared: Arc<Shared>, load: LoadConfig) {
    for cluster in shared.generation().clusters.values() {
        health::watch(cluster);
    }
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::error!(%error, "SIGHUP cannot be heard: configuration changes need a restart");
            return;
        }
    };
    let mut stamps = look(&shared.generation().config);
    loop {
        let config = tokio::select! {
            _ = hangup.recv() => match load() {
                Ok(config) => Arc::new(config),
                Err(error) => {
                    shared.reloads.failed(&error);
                    continue;
                }
            },
            () = tokio::time::sleep(WATCH_INTERVAL) => {
                let config = Arc::clone(&shared.generation().config);
                let now = look(&config);
                if now == stamps {
                    continue;
                }
                config
            }
        };
        // Looked at before they are read: a write during the build is seen the next time.
        stamps = look(&config);
        let before = shared.generation();
        let built = tokio::task::spawn_blocking({
            let before = Arc::clone(&before);
            move || Generation::build(config, Some(&before))
        })
        .await;
        match built {
            Ok(Ok(next)) if next.is_same(&before) => {}
            Ok(Ok(next)) => install(&shared, &before, next),
            Ok(Err(error)) => shared.reloads.failed(&error.to_string()),
            Err(error) => shared.reloads.failed(&error.to_string()),
        }
    }
}

fn install(shared: &Shared, before: &Generation, next: Generation) {
    for (name, cluster) in &next.clusters {
        if !before.clusters.get(name).is_some_and(|kept| Arc::ptr_eq(kept, cluster)) {
            health::watch(cluster);
        }
    }
    tracing::info!(generation = next.number, "new generation in force");
    shared.install(next);
}

/// The stamps of every file that a generation is made of, apart from the configuration itself.
fn look(config: &Config) -> BTreeMap<PathBuf, Stamp> {
    let files = config.filter.values().flat_map(|filter| [Some(&filter.module), filter.settings_file.as_ref()]);
    files
        .flatten()
        .map(|path| {
            let stamp = std::fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
            (path.clone(), stamp)
        })
        .collect()
}
