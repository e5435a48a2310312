//! The state directory: what operators changed over the admin listener, and what each filter was before. Modules and
//! settings lie under their digests, so nothing is kept twice and nothing is what it does not say it is.
//!
//! **Which wins after a restart:** the newest change. A revision that was PUT or rolled back to stays in force until the
//! filter's files become others than they were then.
//!
//! Owned by the control thread. Without a directory it remembers what happened until the process ends, and nothing can be
//! chosen over the files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::revision::{self, Revision, RevisionId, Trouble};

/// What is remembered of one filter's changes.
const HISTORY_MAX: usize = 100;
/// Candidates that were taken back or put in force, whose files must not start them again.
const SETTLED_MAX: usize = 16;

/// How a change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The process started with it.
    Start,
    /// A file changed.
    File,
    /// SIGHUP.
    Sighup,
    /// Admin `PUT`.
    Put,
    /// Admin rollback.
    Rollback,
    /// A candidate was put in force.
    Promote,
    /// A candidate was taken back by an operator.
    Abort,
    /// A canary was taken back by itself.
    Canary,
}

impl How {
    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Sighup => "sighup",
            Self::Put => "put",
            Self::Rollback => "rollback",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Canary => "canary",
        }
    }
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in force.
    InForce,
    /// It judges the same traffic without effect.
    Shadow,
    /// It judges a part of the sessions.
    Canary,
    /// It was taken back.
    TakenBack,
    /// Nothing changed.
    Failed,
}

impl Outcome {
    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::InForce => "in_force",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::TakenBack => "taken_back",
            Self::Failed => "failed",
        }
    }
}

/// One line of a filter's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, RFC 3339.
    pub at: String,
    /// How it came.
    pub how: How,
    /// Who asked: an address, and the name that they gave.
    pub who: String,
    /// What it came to.
    pub outcome: Outcome,
    /// Of module and settings together; absent where nothing could be read.
    pub revision: Option<String>,
    /// The same in its two parts.
    pub parts: Option<RevisionId>,
    /// The generation after it.
    pub generation: u64,
    /// Why it failed or was taken back.
    pub detail: Option<String>,
}

/// What operators chose over the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// What is in force.
    pub revision: RevisionId,
    /// The revision of the files when it was chosen: once they are others, they win.
    pub over: String,
}

/// A candidate that was PUT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChosenCandidate {
    /// What it is made of.
    pub revision: RevisionId,
    /// Percent of the users; absent for a shadow.
    pub percent: Option<u8>,
    /// The revision of the files when it was chosen.
    pub over: String,
}

/// What is kept of one filter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// What operators chose over the files.
    pub chosen: Option<Chosen>,
    /// The candidate that they are trying.
    pub candidate: Option<ChosenCandidate>,
    /// Candidates of the configuration that are over.
    pub settled: VecDeque<String>,
    /// The newest last.
    pub history: VecDeque<Entry>,
}

/// See the file's description.
pub struct Store {
    directory: Option<PathBuf>,
    kept_max: usize,
    journals: BTreeMap<String, Journal>,
}

impl Store {
    /// Reads what is there. `None`: there is no directory.
    pub fn open(directory: Option<&Path>, kept_max: u32) -> Result<Self, Trouble> {
        let kept_max = kept_max as usize;
        let Some(directory) = directory else {
            return Ok(Self { directory: None, kept_max, journals: BTreeMap::new() });
        };
        let trouble = |path: &Path, error: &dyn std::fmt::Display| {
            let advice = "give the edge's user a directory that it may write (systemd: StateDirectory=bawaba)";
            Trouble::new(format!("edge.state_directory, {}", path.display()), error.to_string(), advice)
        };
        for part in ["modules", "settings", "filters"] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path).map_err(|error| trouble(&path, &error))?;
        }
        let mut journals = BTreeMap::new();
        let path = directory.join("filters");
        for entry in std::fs::read_dir(&path).map_err(|error| trouble(&path, &error))? {
            let path = entry.map_err(|error| trouble(&path, &error))?.path();
            let (Some(name), Some("json")) =
                (path.file_stem().and_then(|stem| stem.to_str()), path.extension().and_then(|e| e.to_str()))
            else {
                continue;
            };
            let text = std::fs::read(&path).map_err(|error| trouble(&path, &error))?;
            // Going back to the files because a choice can't be read would be a change that nobody asked for.
            let journal = serde_json::from_slice(&text).map_err(|error| {
                let what = format!("cannot be read: {error}");
                Trouble::new(path.display().to_string(), what, "restore it, or remove it to go back to the files")
            })?;
            journals.insert(name.to_owned(), journal);
        }
        Ok(Self { directory: Some(directory.to_owned()), kept_max, journals })
    }

    /// Whether a change can be kept.
    pub const fn is_kept(&self) -> bool {
        self.directory.is_some()
    }

    /// What is known of a filter.
    pub fn journal(&self, name: &str) -> Journal {
        self.journals.get(name).cloned().unwrap_or_default()
    }

    /// Loads a revision, and makes sure that it is what it was.
    pub fn load(&self, name: &str, id: &RevisionId) -> Result<Revision, Trouble> {
        let Some(directory) = &self.directory else {
            return Err(no_directory(name));
        };
        let module_file = module_file(directory, &id.module);
        let module = self.blob(name, &module_file, &id.module)?;
        let settings = self.blob(name, &settings_file(directory, &id.settings), &id.settings)?;
        let signature = std::fs::read(revision::signature_file(&module_file)).ok().map(Arc::from);
        let from = format!("revision {}", &id.digest()[..12]);
        Ok(Revision { id: id.clone(), module, settings, signature, from })
    }

    fn blob(&self, name: &str, file: &Path, digest: &str) -> Result<Arc<[u8]>, Trouble> {
        let advice = "restore it from a backup, or remove the filter's file under filters/ to go back to its files";
        let trouble = |what: String| Trouble::of_filter(name, &file.display().to_string(), what, advice);
        let bytes = std::fs::read(file).map_err(|error| trouble(format!("cannot be read: {error}")))?;
        if revision::digest(&bytes) != digest {
            return Err(trouble("its content is not what its name says".into()));
        }
        Ok(bytes.into())
    }

    /// Keeps a revision's parts.
    pub fn keep(&self, revision: &Revision) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let module = module_file(directory, &revision.id.module);
        write_new(&module, &revision.module)?;
        write_new(&settings_file(directory, &revision.id.settings), &revision.settings)?;
        if let Some(signature) = &revision.signature {
            write_whole(&revision::signature_file(&module), signature)?;
        }
        Ok(())
    }

    /// Changes what is known of a filter, on disk first: what could not be written did not happen.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Journal)) -> io::Result<()> {
        let mut journal = self.journal(name);
        change(&mut journal);
        while journal.history.len() > HISTORY_MAX {
            journal.history.pop_front();
        }
        while journal.settled.len() > SETTLED_MAX {
            journal.settled.pop_front();
        }
        if let Some(directory) = &self.directory {
            let text = serde_json::to_vec_pretty(&journal).map_err(io::Error::other)?;
            write_whole(&directory.join("filters").join(format!("{name}.json")), &text)?;
        }
        self.journals.insert(name.to_owned(), journal);
        Ok(())
    }

    /// Removes parts that no journal can go back to.
    pub fn sweep(&self) {
        let Some(directory) = &self.directory else { return };
        let mut modules = BTreeSet::new();
        let mut settings = BTreeSet::new();
        for journal in self.journals.values() {
            for id in self.reachable(journal) {
                modules.insert(id.module);
                settings.insert(id.settings);
            }
        }
        for (part, known) in [("modules", modules), ("settings", settings)] {
            let Ok(entries) = std::fs::read_dir(directory.join(part)) else { continue };
            for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let digest = name.split('.').next().unwrap_or_default();
                if !known.contains(digest)
                    && let Err(error) = std::fs::remove_file(&path)
                {
                    tracing::warn!(file = %path.display(), %error, "an old revision could not be removed");
                }
            }
        }
    }

    /// The revisions that a filter can go back to, the newest first.
    pub fn reachable(&self, journal: &Journal) -> Vec<RevisionId> {
        let mut ids: Vec<RevisionId> = Vec::new();
        let was_taken = |entry: &&Entry| matches!(entry.outcome, Outcome::InForce | Outcome::Shadow | Outcome::Canary);
        let past = journal.history.iter().rev().filter(was_taken).filter_map(|entry| entry.parts.clone());
        let chosen = journal.chosen.iter().map(|chosen| chosen.revision.clone());
        let candidate = journal.candidate.iter().map(|candidate| candidate.revision.clone());
        for id in chosen.chain(candidate).chain(past) {
            // One more than can be gone back to: the one in force.
            if ids.len() <= self.kept_max && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}

/// What is told to those who would change what could not be kept.
pub fn no_directory(name: &str) -> Trouble {
    Trouble::of_filter(
        name,
        "",
        "the edge has no place to keep a change: the next restart would silently undo it",
        "set edge.state_directory, or change the filter's files",
    )
}

fn module_file(directory: &Path, digest: &str) -> PathBuf {
    directory.join("modules").join(format!("{digest}.wasm"))
}

fn settings_file(directory: &Path, digest: &str) -> PathBuf {
    directory.join("settings").join(format!("{digest}.json"))
}

/// What lies under its digest is there already if the file is.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let is_whole = std::fs::metadata(path).is_ok_and(|meta| meta.len() == bytes.len() as u64);
    if is_whole { Ok(()) } else { write_whole(path, bytes) }
}

/// The whole file or none of it, also when the machine stops half way.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bawaba-store-{name}-{}", std::process::id()));
            drop(std::fs::remove_dir_all(&path));
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn revision(n: u8) -> Revision {
        Revision::new(Arc::from([n; 4]), Arc::from(*b"{}"), None, "test")
    }

    fn entry(of: &Revision) -> Entry {
        Entry {
            at: String::new(),
            how: How::Put,
            who: String::new(),
            outcome: Outcome::InForce,
            revision: Some(of.id.digest()),
            parts: Some(of.id.clone()),
            generation: 1,
            detail: None,
        }
    }

    #[test]
    fn the_last_revisions_can_be_gone_back_to_and_older_ones_are_gone() {
        let scratch = Scratch::new("kept");
        let mut store = Store::open(Some(&scratch.0), 2).unwrap();
        for n in 0..6 {
            let revision = revision(n);
            store.keep(&revision).unwrap();
            store.change("f", |journal| journal.history.push_back(entry(&revision))).unwrap();
            store.sweep();
        }
        let again = Store::open(Some(&scratch.0), 2).unwrap();
        let known = again.reachable(&again.journal("f"));
        assert_eq!(known, [5, 4, 3].map(|n| revision(n).id));
        for n in 0..6 {
            let loaded = again.load("f", &revision(n).id);
            assert_eq!(loaded.is_ok(), n >= 3, "{n}: {loaded:?}");
        }
        assert_eq!(std::fs::read_dir(scratch.0.join("modules")).unwrap().count(), 3);
    }

    #[test]
    fn content_that_is_not_what_its_name_says_is_not_taken() {
        let scratch = Scratch::new("content");
        let store = Store::open(Some(&scratch.0), 2).unwrap();
        let revision = revision(1);
        store.keep(&revision).unwrap();
        std::fs::write(module_file(&scratch.0, &revision.id.module), b"else").unwrap();
        let refused = store.load("f", &revision.id).unwrap_err();
        assert!(refused.what.contains("not what its name says"), "{refused}");
    }

    #[test]
    fn a_journal_that_cannot_be_read_stops_the_start_instead_of_undoing_a_choice() {
        let scratch = Scratch::new("journal");
        let mut store = Store::open(Some(&scratch.0), 2).unwrap();
        let chosen = Chosen { revision: revision(1).id, over: "files".into() };
        store.change("f", |journal| journal.chosen = Some(chosen.clone())).unwrap();
        assert_eq!(Store::open(Some(&scratch.0), 2).unwrap().journal("f").chosen, Some(chosen));
        std::fs::write(scratch.0.join("filters/f.json"), b"{").unwrap();
        assert!(Store::open(Some(&scratch.0), 2).is_err());
    }

    #[test]
    fn a_history_is_bounded() {
        let mut store = Store::open(None, 1).unwrap();
        for n in 0..=HISTORY_MAX + 5 {
            store.change("f", |journal| journal.history.push_back(entry(&revision(n as u8)))).unwrap();
        }
        assert_eq!(store.journal("f").history.len(), HISTORY_MAX);
    }
}
