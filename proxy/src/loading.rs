//! From a revision to a filter that can judge: admitted, compiled, linked, started, configured, and held to the cases that
//! its module brings. Everything here is off the path; a failure says where, what, and what to do.

use std::sync::Arc;
use std::time::Duration;

use bawaba_filter_host as host;
use sha2::{Digest as _, Sha256};

use crate::cases;
use crate::config;
use crate::generation::Audience;
use crate::revision::{Revision, RevisionId, Trouble};
use crate::shadow::Tally;
use crate::sources::{Role, Source};

/// Custom section of a module: on which facts its outbound verdicts depend.
const AUDIENCE_SECTION: &str = "bawaba.audience";

/// A filter, loaded.
#[derive(Clone)]
pub struct LoadedFilter {
    /// Its name in the configuration.
    pub name: String,
    /// What it is made of.
    pub revision: RevisionId,
    /// The compiled module, with its counters.
    pub filter: host::Filter,
    /// What its verdicts depend on.
    pub audience: Audience,
    /// What is tried in its place.
    pub candidate: Option<Arc<Candidate>>,
    /// The revision of its files, which may be another.
    pub files: String,
    /// sha-256 of everything that it was made of.
    fingerprint: [u8; 32],
}

/// What is tried in a filter's place, loaded.
pub struct Candidate {
    /// What it is made of.
    pub revision: RevisionId,
    /// How it is tried.
    pub role: Role,
    /// The compiled module, with counters of its own.
    pub filter: host::Filter,
    /// What its verdicts depend on.
    pub audience: Audience,
    /// What had been counted under its name before.
    pub begun: host::FilterMetrics,
    /// What a shadow came to.
    pub tally: Tally,
    fingerprint: [u8; 32],
}

impl LoadedFilter {
    /// Whether the same is in force, whatever is tried in its place.
    pub fn is_in_force_as(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The filter with its candidate in its place.
    pub fn replaced_by(&self, candidate: &Candidate) -> Self {
        Self {
            revision: candidate.revision.clone(),
            filter: candidate.filter.clone(),
            audience: candidate.audience.clone(),
            candidate: None,
            fingerprint: candidate.fingerprint,
            ..self.clone()
        }
    }

    /// Whether nothing differs.
    pub fn is_same(&self, other: &Self) -> bool {
        let tried = |filter: &Self| filter.candidate.as_ref().map(|candidate| candidate.fingerprint);
        self.is_in_force_as(other) && tried(self) == tried(other) && self.files == other.files
    }
}

/// Loads a filter and its candidate, or carries them over from `kept`.
pub fn load(
    host: &host::Host,
    name: &str,
    settings: &config::Filter,
    source: &Source,
    kept: Option<&LoadedFilter>,
) -> Result<LoadedFilter, Trouble> {
    let fingerprint = fingerprint(&source.active.id, settings, None);
    let candidate = match &source.candidate {
        None => None,
        Some(wanted) => {
            let fingerprint = self::fingerprint(&wanted.revision.id, settings, Some(&wanted.role));
            let known = kept.and_then(|kept| kept.candidate.as_ref());
            Some(match known.filter(|known| known.fingerprint == fingerprint) {
                Some(known) => Arc::clone(known),
                None => Arc::new(load_candidate(host, name, settings, &wanted.revision, &wanted.role, fingerprint)?),
            })
        }
    };
    let files = source.files.clone();
    if let Some(kept) = kept.filter(|kept| kept.fingerprint == fingerprint) {
        return Ok(LoadedFilter { candidate, files, ..kept.clone() });
    }
    let revision = &source.active;
    revision.admit(name, settings)?;
    let filter = build(host, name, name, settings, revision)?;
    let audience = audience(name, settings, revision, &filter)?;
    tracing::info!(filter = name, digest = %revision.id.module, settings = %revision.id.settings, ?audience, "filter loaded");
    Ok(LoadedFilter {
        name: name.to_owned(),
        revision: revision.id.clone(),
        filter,
        audience,
        candidate,
        files,
        fingerprint,
    })
}

fn load_candidate(
    host: &host::Host,
    name: &str,
    settings: &config::Filter,
    revision: &Revision,
    role: &Role,
    fingerprint: [u8; 32],
) -> Result<Candidate, Trouble> {
    revision.admit_signature(name, settings)?;
    let mut settings = settings.clone();
    // Counted apart. A shadow also remembers apart: what it would write must not be seen.
    let counted_as = match role {
        Role::Shadow(shadow) => {
            settings.callback_budget = shadow.callback_budget;
            // So that a failure is seen and not passed over.
            settings.on_failure = config::OnFailure::Deny;
            settings.vm_id = Some(format!("{name}@shadow"));
            format!("{name}@shadow")
        }
        Role::Canary(_) => format!("{name}@canary"),
    };
    let filter = build(host, name, &counted_as, &settings, revision)?;
    let audience = audience(name, &settings, revision, &filter)?;
    tracing::info!(filter = counted_as, digest = %revision.id.module, settings = %revision.id.settings, "candidate loaded");
    let begun = filter.metrics();
    Ok(Candidate {
        revision: revision.id.clone(),
        role: role.clone(),
        filter,
        audience,
        begun,
        tally: Tally::default(),
        fingerprint,
    })
}

/// Everything that a filter is made of.
fn fingerprint(id: &RevisionId, settings: &config::Filter, role: Option<&Role>) -> [u8; 32] {
    // Where it was read from, and what is tried in its place, makes no other filter.
    let fixed = config::Filter {
        module: Default::default(),
        settings: Default::default(),
        settings_file: None,
        digest: None,
        signature_key: None,
        shadow: None,
        canary: None,
        ..settings.clone()
    };
    let mut hash = Sha256::new();
    for part in [id.digest(), format!("{fixed:?}"), format!("{role:?}")] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn spec(name: &str, settings: &config::Filter, revision: &Revision) -> host::FilterSpec {
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    host::FilterSpec {
        name: name.to_owned(),
        module: revision.module.to_vec(),
        settings: revision.settings.to_vec(),
        vm_configuration: settings.vm_configuration.clone().into_bytes(),
        vm_id: settings.vm_id.clone().unwrap_or_else(|| name.to_owned()),
        root_id: settings.root_id.clone(),
        on_failure: match settings.on_failure {
            config::OnFailure::Deny => host::OnFailure::Deny,
            config::OnFailure::Allow => host::OnFailure::Allow,
        },
        limits: host::FilterLimits {
            callback_budget: settings.callback_budget,
            start_budget: settings.callback_budget.max(settings.start_budget),
            memory_bytes_max: usize::try_from(settings.memory_bytes_max).unwrap_or(usize::MAX),
            log_lines_per_second_max: settings.log_lines_per_second_max,
            metrics_max: size(settings.metrics_max),
            held_bytes_max: size(settings.held_bytes_max),
            body_bytes_max: size(settings.body_bytes_max),
            stored_bytes_max: size(settings.stored_bytes_max),
            ..host::FilterLimits::default()
        },
    }
}

fn build(
    host: &host::Host,
    name: &str,
    counted_as: &str,
    settings: &config::Filter,
    revision: &Revision,
) -> Result<host::Filter, Trouble> {
    let trouble = |error: &host::BuildError| Trouble::of_filter(name, &revision.from, error.to_string(), advice(error));
    let spec = spec(name, settings, revision);
    let filter = host.build_as(spec.clone(), counted_as).map_err(|error| trouble(&error))?;
    cases::hold(&filter, |settings| {
        // Under settings of their own, and with data of their own.
        let vm_id = format!("{name}@cases");
        let limits = host::FilterLimits { callback_budget: Duration::from_secs(1), ..spec.limits.clone() };
        let spec = host::FilterSpec { settings, vm_id, limits, ..spec.clone() };
        host.build_as(spec, &format!("{name}@cases")).map_err(|error| error.to_string())
    })
    .map_err(|what| {
        let advice = "this module is not what its author tested: build it anew, or correct its cases";
        Trouble::of_filter(name, &revision.from, what, advice)
    })?;
    Ok(filter)
}

const fn advice(error: &host::BuildError) -> &'static str {
    use host::BuildError as E;
    match error {
        E::NotWasm { .. } => "scripts/build-filters writes modules to target/filters",
        E::TooLarge { .. } => "build it with opt-level \"s\", lto and strip",
        E::Compile(_) => "build it anew for wasm32-wasip1",
        E::Refused { .. } => "correct the filter's settings as it says",
        E::Start { .. } => "look for what it logged; for a cpu_budget raise start_budget, for memory memory_bytes_max",
        E::Instantiate(_) => "raise memory_bytes_max, or build a smaller module",
        _ => "build it with a proxy-wasm SDK that speaks ABI 0.2.1, 0.2.0 or 0.1.0",
    }
}

fn audience(
    name: &str,
    settings: &config::Filter,
    revision: &Revision,
    filter: &host::Filter,
) -> Result<Audience, Trouble> {
    let (config::Scope::Cohort, Some(section)) = (settings.scope, filter.custom_section(AUDIENCE_SECTION)) else {
        return Ok(Audience::Everything);
    };
    let pointers: Vec<String> = serde_json::from_slice(section).map_err(|error| {
        let what = format!("its section {AUDIENCE_SECTION} is no JSON array of pointers: {error}");
        Trouble::of_filter(
            name,
            &revision.from,
            what,
            "build it anew with bawaba-filter-kit, or set scope = \"session\"",
        )
    })?;
    Ok(if pointers.is_empty() { Audience::Nothing } else { Audience::Facts(pointers) })
}
