//! What each filter is to be made of: its files, or what an operator chose over them. Reads; builds nothing.

use std::collections::BTreeMap;

use crate::config::{self, Config};
use crate::revision::{Revision, Trouble};
use crate::store::{Journal, Store};

/// Of one filter.
#[derive(Clone, Debug)]
pub struct Source {
    /// What is to be in force.
    pub active: Revision,
    /// What is to be tried in its place.
    pub candidate: Option<CandidateSource>,
    /// The revision of its files.
    pub files: String,
}

/// What is tried in a filter's place.
#[derive(Clone, Debug)]
pub struct CandidateSource {
    /// What it is made of.
    pub revision: Revision,
    /// How it is tried.
    pub role: Role,
}

/// How a candidate is tried.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// On the same traffic, without effect.
    Shadow(config::Shadow),
    /// On a part of the sessions.
    Canary(config::Canary),
}

/// Of all filters, by name.
pub type Sources = BTreeMap<String, Source>;

/// What `config` and the operators' choices say together.
pub fn resolve(config: &Config, store: &Store) -> Result<Sources, Trouble> {
    config
        .filter
        .iter()
        .map(|(name, filter)| Ok((name.clone(), source(name, filter, store, &store.journal(name))?)))
        .collect()
}

fn source(name: &str, filter: &config::Filter, store: &Store, journal: &Journal) -> Result<Source, Trouble> {
    let own = Revision::read(name, filter)?;
    let files = own.id.digest();
    let active = match &journal.chosen {
        Some(chosen) if chosen.over == files => {
            let revision = store.load(name, &chosen.revision)?;
            // A digest written after the choice says what is approved now, and the files are that.
            if revision.admit(name, filter).is_err() && filter.digest.is_some() { own } else { revision }
        }
        _ => own,
    };
    let candidate = candidate(name, filter, store, journal, &active, &files)?;
    Ok(Source { active, candidate, files })
}

fn candidate(
    name: &str,
    filter: &config::Filter,
    store: &Store,
    journal: &Journal,
    active: &Revision,
    files: &str,
) -> Result<Option<CandidateSource>, Trouble> {
    if let Some(chosen) = journal.candidate.as_ref().filter(|chosen| chosen.over == files) {
        let role = role_of(filter, chosen.percent);
        return Ok(Some(CandidateSource { revision: store.load(name, &chosen.revision)?, role }));
    }
    let (variant, role) = match (&filter.shadow, &filter.canary) {
        (Some(shadow), _) => (shadow.variant(), Role::Shadow(shadow.clone())),
        (None, Some(canary)) => (canary.variant(), Role::Canary(canary.clone())),
        (None, None) => return Ok(None),
    };
    let revision = Revision::read_variant(name, filter, &variant, active)?;
    let is_over = revision.id == active.id || journal.settled.contains(&revision.id.digest());
    Ok((!is_over).then_some(CandidateSource { revision, role }))
}

/// How a candidate that was PUT is tried: as the configuration says, where it says so.
pub fn role_of(filter: &config::Filter, percent: Option<u8>) -> Role {
    match percent {
        None => Role::Shadow(filter.shadow.clone().unwrap_or_default()),
        Some(percent) => Role::Canary(config::Canary { percent, ..filter.canary.clone().unwrap_or_default() }),
    }
}
