//! What an operator changes over the admin listener: a module or settings are put, rolled back, tried, put in force or
//! taken back. Whole or not at all: built first, then written down, then in force.

use std::sync::Arc;

use crate::canary::Record;
use crate::control::{Control, build, entry};
use crate::generation::Generation;
use crate::loading::LoadedFilter;
use crate::revision::{Revision, RevisionId, Trouble};
use crate::sources::{self, CandidateSource, Role, Source};
use crate::store::{Chosen, ChosenCandidate, Entry, How, Journal, Outcome, no_directory};

/// What an operator asks for.
pub struct Request {
    /// The filter.
    pub filter: String,
    /// What is to happen to it.
    pub ask: Ask,
    /// Who asks: an address, and the name that they gave.
    pub who: String,
    /// What must be in force for it to happen (`If-Match`).
    pub expected: Option<String>,
}

/// What is to happen to a filter.
pub enum Ask {
    /// It becomes this; what is absent stays.
    Put {
        /// Another module.
        module: Option<Arc<[u8]>>,
        /// Other settings.
        settings: Option<Arc<[u8]>>,
        /// The module's signature.
        signature: Option<Arc<[u8]>>,
        /// In force, or tried.
        mode: Mode,
    },
    /// It becomes what it was.
    Rollback {
        /// A digest, or the first 8 digits of one.
        to: String,
    },
    /// Its candidate comes in force.
    Promote,
    /// Its candidate is taken back.
    Abort,
}

impl Ask {
    const fn how(&self) -> How {
        match self {
            Self::Put { .. } => How::Put,
            Self::Rollback { .. } => How::Rollback,
            Self::Promote => How::Promote,
            Self::Abort => How::Abort,
        }
    }
}

/// What a revision is put as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In force.
    InForce,
    /// Judging without effect.
    Shadow,
    /// Judging a part of the sessions.
    Canary(u8),
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The generation in force.
    pub generation: u64,
    /// What became of the revision.
    pub outcome: Outcome,
    /// The revision.
    pub revision: RevisionId,
    /// Whether anything differs from before.
    pub is_new: bool,
    /// Whether it is what the files say, so that a restart needs nothing else.
    pub is_of_files: bool,
}

/// Why nothing was done.
#[derive(Clone, Debug)]
pub struct Declined {
    /// HTTP status.
    pub status: u16,
    /// In words.
    pub trouble: Trouble,
}

impl Declined {
    /// With this status.
    pub const fn new(status: u16, trouble: Trouble) -> Self {
        Self { status, trouble }
    }
}

/// What a change makes of a filter's source and journal.
struct Plan {
    source: Source,
    chosen: Option<Chosen>,
    candidate: Option<ChosenCandidate>,
    settled: Option<String>,
    /// The revision that it is about, and what becomes of it.
    revision: RevisionId,
    outcome: Outcome,
}

impl Control {
    /// Does what is asked, or nothing.
    pub(crate) async fn change(&mut self, request: Request) -> Result<Changed, Declined> {
        let (how, who) = (request.ask.how(), request.who.clone());
        let result = self.try_change(request).await;
        if let Err(declined) = &result
            // What was asked wrongly is the caller's to know; what could not be built is everybody's.
            && declined.status == 422
        {
            self.failed(how, &who, &declined.trouble);
        }
        result
    }

    /// Takes back the canaries that fail too often.
    pub(crate) async fn watch_canaries(&mut self) {
        let generation = self.shared.generation();
        for (name, loaded) in &generation.filters {
            let Some(candidate) = &loaded.candidate else { continue };
            let Role::Canary(settings) = &candidate.role else { continue };
            let Some(why) = Record::of(candidate).verdict(settings) else { continue };
            tracing::error!(filter = name, digest = %candidate.revision.module, %why, "the canary is taken back");
            if let Err(declined) = self.take_back(name, &why).await {
                self.failed(How::Canary, "", &declined.trouble);
            }
        }
    }

    async fn take_back(&mut self, name: &str, why: &str) -> Result<(), Declined> {
        let before = self.shared.generation();
        let built = |trouble| Declined::new(422, trouble);
        let mut sources = sources::resolve(&before.config, &self.store).map_err(built)?;
        let Some(source) = sources.get(name).cloned() else { return Ok(()) };
        let Some(candidate) = source.candidate.clone() else { return Ok(()) };
        let plan = taken_back(source, &self.store.journal(name), &candidate);
        sources.insert(name.to_owned(), plan.source.clone());
        let next = build(Arc::clone(&before.config), sources, &before).await.map_err(built)?;
        let line = entry(How::Canary, "", Outcome::TakenBack, next.number, Some(&plan.revision));
        let line = Entry { detail: Some(why.to_owned()), ..line };
        self.shared.metrics.filter_change(name, How::Canary, Outcome::TakenBack);
        let written = self.store.change(name, |journal| {
            journal.candidate = None;
            journal.settled.extend(plan.settled.clone());
            journal.history.push_back(line);
        });
        // Taken back in any case: what fails must not judge because a disk is full.
        self.install(&before, next);
        written.map_err(|error| {
            let what = format!("the canary is taken back, but a restart would bring it again: {error}");
            Declined::new(500, Trouble::of_filter(name, "edge.state_directory", what, "make room, then abort it"))
        })
    }

    async fn try_change(&mut self, request: Request) -> Result<Changed, Declined> {
        let Request { filter: name, ask, who, expected } = request;
        let before = self.shared.generation();
        let loaded = before.filters.get(&name).ok_or_else(|| {
            let known: Vec<&str> = before.filters.keys().map(String::as_str).collect();
            let advice = format!("name one of: {}", known.join(", "));
            Declined::new(404, Trouble::of_filter(&name, "", "there is no such filter", advice))
        })?;
        if let Some(expected) = &expected
            && !is_expected(expected, loaded, &before)
        {
            let what =
                format!("{} is in force (generation {}), not {expected}", loaded.revision.digest(), before.number);
            return Err(Declined::new(412, Trouble::of_filter(&name, "If-Match", what, "look at it, and ask again")));
        }
        // A candidate of the configuration can be taken back without a place to keep that: until a restart.
        if !self.store.is_kept() && !matches!(ask, Ask::Abort) {
            return Err(Declined::new(409, no_directory(&name)));
        }
        let built = |trouble| Declined::new(422, trouble);
        let mut sources = sources::resolve(&before.config, &self.store).map_err(built)?;
        let source = sources.get(&name).cloned().ok_or_else(|| Declined::new(409, no_directory(&name)))?;
        let how = ask.how();
        let plan = self.plan(&name, ask, source, &before)?;
        sources.insert(name.clone(), plan.source.clone());
        let next = build(Arc::clone(&before.config), sources, &before).await.map_err(built)?;
        let is_new = !next.is_same(&before);
        let generation = if is_new { next.number } else { before.number };
        let changed = Changed {
            generation,
            outcome: plan.outcome,
            revision: plan.revision.clone(),
            is_new,
            is_of_files: plan.source.active.id.digest() == plan.source.files,
        };
        self.write_down(&name, &plan, how, &who, generation).map_err(|error| {
            let what = format!("nothing was changed: it could not be written down: {error}");
            Declined::new(
                500,
                Trouble::of_filter(&name, "edge.state_directory", what, "make room, or allow writing to it"),
            )
        })?;
        self.shared.metrics.filter_change(&name, how, plan.outcome);
        tracing::info!(filter = name, how = how.label(), outcome = plan.outcome.label(), who,
            revision = %plan.revision.digest(), generation, "a filter was changed");
        if is_new {
            self.install(&before, next);
        } else {
            self.publish();
        }
        Ok(changed)
    }

    /// Kept first, then in force: what a restart would not find must not be in force.
    fn write_down(&mut self, name: &str, plan: &Plan, how: How, who: &str, generation: u64) -> std::io::Result<()> {
        self.store.keep(&plan.source.active)?;
        if let Some(candidate) = &plan.source.candidate {
            self.store.keep(&candidate.revision)?;
        }
        let line = entry(how, who, plan.outcome, generation, Some(&plan.revision));
        self.store.change(name, |journal| {
            journal.chosen.clone_from(&plan.chosen);
            journal.candidate.clone_from(&plan.candidate);
            journal.settled.extend(plan.settled.clone());
            journal.history.push_back(line);
        })
    }

    fn plan(&self, name: &str, ask: Ask, source: Source, before: &Generation) -> Result<Plan, Declined> {
        let journal = self.store.journal(name);
        match ask {
            Ask::Put { module, settings, signature, mode } => {
                let from = if module.is_some() { "the body of PUT" } else { &source.active.from };
                let from = from.to_owned();
                let signature = if module.is_some() { signature } else { source.active.signature.clone() };
                let module = module.unwrap_or_else(|| Arc::clone(&source.active.module));
                let settings = settings.unwrap_or_else(|| Arc::clone(&source.active.settings));
                let revision = Revision::new(module, settings, signature, from);
                match mode {
                    Mode::InForce => Ok(in_force(source, &journal, revision)),
                    Mode::Shadow => tried(name, source, &journal, revision, None, before),
                    Mode::Canary(percent) => tried(name, source, &journal, revision, Some(percent), before),
                }
            }
            Ask::Rollback { to } => {
                let revision = self.earlier(name, &journal, &source, &to)?;
                Ok(in_force(source, &journal, revision))
            }
            Ask::Promote => {
                let Some(candidate) = source.candidate.clone() else { return Err(no_candidate(name)) };
                let settled = Some(candidate.revision.id.digest());
                let plan = in_force(Source { candidate: None, ..source }, &journal, candidate.revision);
                Ok(Plan { candidate: None, settled, ..plan })
            }
            Ask::Abort => {
                let Some(candidate) = source.candidate.clone() else { return Err(no_candidate(name)) };
                Ok(taken_back(source, &journal, &candidate))
            }
        }
    }

    /// A revision that can be gone back to.
    fn earlier(&self, name: &str, journal: &Journal, source: &Source, to: &str) -> Result<Revision, Declined> {
        let refuse = |status, what: String| {
            let advice = format!("GET /filters/{name}/history lists the revisions that are kept");
            Err(Declined::new(status, Trouble::of_filter(name, "digest", what, advice)))
        };
        let mut meant: Vec<RevisionId> =
            self.store.reachable(journal).into_iter().filter(|id| id.is_meant_by(to)).collect();
        let exact = meant.iter().position(|id| id.digest() == to);
        if let Some(at) = exact {
            meant = vec![meant.swap_remove(at)];
        }
        if meant.len() > 1 {
            // With the same module under several settings, the one in force is not what is gone back to.
            meant.retain(|id| *id != source.active.id);
        }
        match meant.as_slice() {
            [] => refuse(404, format!("no revision that is kept begins with \"{to}\" (at least 8 digits)")),
            [id] => self.store.load(name, id).map_err(|trouble| Declined::new(422, trouble)),
            several => refuse(409, format!("\"{to}\" may be any of {} revisions", several.len())),
        }
    }
}

fn is_expected(expected: &str, loaded: &LoadedFilter, before: &Generation) -> bool {
    let expected = expected.trim().trim_start_matches("W/").trim_matches('"');
    expected == "*" || expected == before.number.to_string() || loaded.revision.is_meant_by(expected)
}

/// A revision comes in force; what is tried in its place stays so.
fn in_force(source: Source, journal: &Journal, revision: Revision) -> Plan {
    let id = revision.id.clone();
    // What the files say needs no choice over them.
    let chosen = (id.digest() != source.files).then(|| Chosen { revision: id.clone(), over: source.files.clone() });
    let candidate = journal.candidate.clone().filter(|candidate| candidate.revision != id);
    let tried = source.candidate.filter(|candidate| candidate.revision.id != id);
    let source = Source { active: revision, candidate: tried, files: source.files };
    Plan { source, chosen, candidate, settled: None, revision: id, outcome: Outcome::InForce }
}

/// A revision is tried.
fn tried(
    name: &str,
    source: Source,
    journal: &Journal,
    revision: Revision,
    percent: Option<u8>,
    before: &Generation,
) -> Result<Plan, Declined> {
    let refuse = |what: String, advice: &str| Err(Declined::new(409, Trouble::of_filter(name, "", what, advice)));
    if revision.id == source.active.id {
        return refuse("what is to be tried is in force already".into(), "put another module or other settings");
    }
    if percent.is_some()
        && let Some(other) = before.other_canary(name)
    {
        let what = format!("\"{other}\" has a canary on a route of this filter");
        return refuse(what, "promote or abort that one first, or try this one as a shadow");
    }
    let Some(filter) = before.config.filter.get(name) else {
        return refuse("it is no longer configured".into(), "reload");
    };
    let outcome = if percent.is_some() { Outcome::Canary } else { Outcome::Shadow };
    let id = revision.id.clone();
    let candidate = CandidateSource { role: sources::role_of(filter, percent), revision };
    Ok(Plan {
        chosen: journal.chosen.clone(),
        candidate: Some(ChosenCandidate { revision: id.clone(), percent, over: source.files.clone() }),
        source: Source { candidate: Some(candidate), ..source },
        settled: None,
        revision: id,
        outcome,
    })
}

/// A candidate is over; that of the configuration does not come back by itself.
fn taken_back(source: Source, journal: &Journal, candidate: &CandidateSource) -> Plan {
    Plan {
        chosen: journal.chosen.clone(),
        candidate: None,
        settled: Some(candidate.revision.id.digest()),
        revision: candidate.revision.id.clone(),
        outcome: Outcome::TakenBack,
        source: Source { candidate: None, ..source },
    }
}

fn no_candidate(name: &str) -> Declined {
    let advice = format!("PUT /filters/{name}?mode=shadow or ?mode=canary&percent=5 brings one");
    Declined::new(409, Trouble::of_filter(name, "", "nothing is tried in its place", advice))
}

/// The word of a role.
pub const fn role_word(role: &Role) -> &'static str {
    match role {
        Role::Shadow(_) => "shadow",
        Role::Canary(_) => "canary",
    }
}
