//! The control thread: health checks, and new generations when files change, SIGHUP says so, or an operator asks over the
//! admin listener. One change at a time, each whole or not at all. Off the path: what takes long here (compiling a module)
//! delays no message.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::change::{Changed, Declined, Request};
use crate::config::Config;
use crate::generation::Generation;
use crate::health;
use crate::loading::LoadedFilter;
use crate::revision::{Trouble, signature_file};
use crate::shared::Shared;
use crate::sources::{self, Role, Sources};
use crate::store::{Entry, How, Outcome, Store};

/// How often files are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Changes that wait for the one under way.
const WAITING_MAX: usize = 16;

/// Reads the configuration file again; the error is for the operator.
pub type LoadConfig = Box<dyn Fn() -> Result<Config, String> + Send>;

/// When a file was written, and how long it is.
type Stamp = Option<(SystemTime, u64)>;

type Asked = (Request, oneshot::Sender<Result<Changed, Declined>>);

/// Where admin asks for changes.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Asked>);

impl Handle {
    /// Asks, and waits for the outcome.
    pub async fn ask(&self, request: Request) -> Result<Changed, Declined> {
        let (reply, answer) = oneshot::channel();
        if self.0.try_send((request, reply)).is_err() {
            let what = format!("{WAITING_MAX} changes wait already");
            return Err(Declined::new(503, Trouble::new("the edge", what, "try again in a second")));
        }
        let gone = |_| Declined::new(503, Trouble::new("the edge", "it is ending", "ask the one that comes after it"));
        answer.await.map_err(gone)?
    }
}

/// Builds the first generation, and notes what it is made of.
pub fn begin(config: &Arc<Config>) -> Result<(Generation, Store), Trouble> {
    let mut store = Store::open(config.edge.state_directory.as_deref(), config.edge.revisions_kept_max)?;
    let sources = sources::resolve(config, &store)?;
    let first = Generation::build(Arc::clone(config), &sources, None)?;
    note(&mut store, How::Start, "", None, &first, &sources).map_err(|error| {
        Trouble::new("edge.state_directory", error.to_string(), "make room, or allow writing to it")
    })?;
    Ok((first, store))
}

/// Starts the thread. `load` is asked on SIGHUP.
pub fn start(shared: &Arc<Shared>, store: Store, load: LoadConfig) -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (handle, inbox) = mpsc::channel(WAITING_MAX);
    let control = Control { shared: Arc::clone(shared), store, load };
    std::thread::Builder::new().name("control".into()).spawn(move || runtime.block_on(control.run(inbox)))?;
    Ok(Handle(handle))
}

pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    load: LoadConfig,
}

impl Control {
    async fn run(mut self, mut inbox: mpsc::Receiver<Asked>) {
        for cluster in self.shared.generation().clusters.values() {
            health::watch(cluster);
        }
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be heard: configuration changes need a restart");
                return;
            }
        };
        self.publish();
        let mut stamps = look(&self.shared.generation().config);
        let mut looks = tokio::time::interval(WATCH_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (how, config) = tokio::select! {
                _ = hangup.recv() => match (self.load)() {
                    Ok(config) => (How::Sighup, Arc::new(config)),
                    Err(error) => {
                        self.shared.reloads.failed(&error);
                        continue;
                    }
                },
                Some((request, reply)) = inbox.recv() => {
                    let outcome = self.change(request).await;
                    // Whoever asked may have gone; what was done is done.
                    drop(reply.send(outcome));
                    continue;
                }
                _ = looks.tick() => {
                    self.watch_canaries().await;
                    let config = Arc::clone(&self.shared.generation().config);
                    if look(&config) == stamps {
                        continue;
                    }
                    (How::File, config)
                }
            };
            // Looked at before they are read: a write during the build is seen the next time.
            stamps = look(&config);
            if let Err(trouble) = self.reload(how, config).await {
                self.failed(how, "", &trouble);
            }
        }
    }

    /// A generation of the files as they are now.
    async fn reload(&mut self, how: How, config: Arc<Config>) -> Result<(), Trouble> {
        let sources = sources::resolve(&config, &self.store)?;
        let before = self.shared.generation();
        let next = build(config, sources.clone(), &before).await?;
        if next.is_same(&before) {
            return Ok(());
        }
        let noted = note(&mut self.store, how, "", Some(&before), &next, &sources);
        self.install(&before, next);
        noted.map_err(|error| {
            let what = format!("the new generation is in force, but its history could not be written: {error}");
            Trouble::new("edge.state_directory", what, "make room, or allow writing to it")
        })
    }

    /// A change came to nothing.
    pub(crate) fn failed(&mut self, how: How, who: &str, trouble: &Trouble) {
        self.shared.reloads.failed(&trouble.to_string());
        let Some(name) = trouble.filter.clone() else { return };
        self.shared.metrics.filter_change(&name, how, Outcome::Failed);
        let entry = entry(how, who, Outcome::Failed, self.shared.generation().number, None);
        let entry = Entry { detail: Some(trouble.to_string()), ..entry };
        if let Err(error) = self.store.change(&name, |journal| journal.history.push_back(entry)) {
            tracing::warn!(filter = name, %error, "a failure could not be written to the history");
        }
        self.publish();
    }

    /// Puts a generation in force.
    pub(crate) fn install(&self, before: &Generation, next: Generation) {
        for (name, cluster) in &next.clusters {
            match before.clusters.get(name) {
                Some(kept) if Arc::ptr_eq(kept, cluster) => continue,
                // Again: more may have become known while the generation was built.
                Some(changed) => cluster.inherit(changed),
                None => {}
            }
            health::watch(cluster);
        }
        tracing::info!(generation = next.number, "new generation in force");
        self.shared.install(next);
        self.publish();
        self.store.sweep();
    }

    /// What admin shows of the past.
    pub(crate) fn publish(&self) {
        let names = self.shared.generation().filters.keys().cloned().collect::<Vec<_>>();
        self.shared.publish_journals(names.into_iter().map(|name| (name.clone(), self.store.journal(&name))).collect());
    }
}

/// Builds off this thread, so that signals and health checks go on.
pub(crate) async fn build(
    config: Arc<Config>,
    sources: Sources,
    before: &Arc<Generation>,
) -> Result<Generation, Trouble> {
    let before = Arc::clone(before);
    match tokio::task::spawn_blocking(move || Generation::build(config, &sources, Some(&before))).await {
        Ok(built) => built,
        Err(error) => Err(Trouble::new("the build", error.to_string(), "report this with the log")),
    }
}

/// A line of history.
pub(crate) fn entry(
    how: How,
    who: &str,
    outcome: Outcome,
    generation: u64,
    of: Option<&crate::revision::RevisionId>,
) -> Entry {
    Entry {
        at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        how,
        who: who.to_owned(),
        outcome,
        revision: of.map(crate::revision::RevisionId::digest),
        parts: of.cloned(),
        generation,
        detail: None,
    }
}

/// Notes what differs between two generations, and keeps what came so that it can be gone back to. Choices whose files
/// became others are over.
pub(crate) fn note(
    store: &mut Store,
    how: How,
    who: &str,
    before: Option<&Generation>,
    next: &Generation,
    sources: &Sources,
) -> io::Result<()> {
    for (name, loaded) in &next.filters {
        let known = before.and_then(|before| before.filters.get(name));
        let Some(source) = sources.get(name) else { continue };
        let mut entries = Vec::new();
        if is_news(store, name, loaded, known) {
            store.keep(&source.active)?;
            entries.push(entry(how, who, Outcome::InForce, next.number, Some(&loaded.revision)));
        }
        let tried = |filter: &LoadedFilter| filter.candidate.as_ref().map(|candidate| candidate.revision.clone());
        if let (Some(candidate), Some(source)) = (&loaded.candidate, &source.candidate)
            && known.and_then(tried).as_ref() != Some(&candidate.revision)
            && before.is_some()
        {
            store.keep(&source.revision)?;
            let outcome = match candidate.role {
                Role::Shadow(_) => Outcome::Shadow,
                Role::Canary(_) => Outcome::Canary,
            };
            entries.push(entry(how, who, outcome, next.number, Some(&candidate.revision)));
        }
        let journal = store.journal(name);
        let chosen_is_over = journal.chosen.as_ref().is_some_and(|chosen| chosen.revision != loaded.revision);
        let candidate_is_over = journal.candidate.as_ref().is_some_and(|chosen| chosen.over != source.files);
        if entries.is_empty() && !chosen_is_over && !candidate_is_over {
            continue;
        }
        store.change(name, |journal| {
            if chosen_is_over {
                journal.chosen = None;
            }
            if candidate_is_over {
                journal.candidate = None;
            }
            journal.history.extend(entries);
        })?;
    }
    Ok(())
}

/// Whether a revision is another than the one that was in force, also before a restart.
fn is_news(store: &Store, name: &str, loaded: &LoadedFilter, known: Option<&LoadedFilter>) -> bool {
    match known {
        Some(known) => known.revision != loaded.revision,
        None => {
            let journal = store.journal(name);
            let newest = journal.history.iter().rev().find(|entry| entry.outcome == Outcome::InForce);
            newest.and_then(|entry| entry.parts.as_ref()) != Some(&loaded.revision)
        }
    }
}

/// The stamps of every file that a generation is made of, apart from the configuration itself.
fn look(config: &Config) -> BTreeMap<PathBuf, Stamp> {
    let files = config.filter.values().flat_map(|filter| {
        let shadow = filter.shadow.as_ref().map(crate::config::Shadow::variant).unwrap_or_default();
        let canary = filter.canary.as_ref().map(crate::config::Canary::variant).unwrap_or_default();
        let modules = [Some(filter.module.clone()), shadow.module, canary.module].into_iter().flatten();
        let signed = filter.signature_key.is_some();
        let modules = modules.flat_map(move |module| [signed.then(|| signature_file(&module)), Some(module)]);
        modules.chain([filter.settings_file.clone(), shadow.settings_file, canary.settings_file]).collect::<Vec<_>>()
    });
    files
        .flatten()
        .map(|path| {
            let stamp = std::fs::metadata(&path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
            (path, stamp)
        })
        .collect()
}
