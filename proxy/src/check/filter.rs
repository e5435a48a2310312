//! What must hold of a filter, and of what is tried in its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Checker;
use crate::config::source::Step;
use crate::config::{Filter, OnFailure, Route, Variant};

/// Names of policies that may never be skipped because they failed.
const NEVER_ALLOWED_TO_FAIL: [&str; 2] = ["license", "sharia"];
/// One page of WebAssembly memory.
const WASM_PAGE_BYTES: u64 = 64 * 1024;
/// The most that a 32-bit module can address.
const WASM_MEMORY_BYTES_MAX: u64 = 4 << 30;

impl Checker<'_> {
    pub(super) fn filter(&mut self, name: &str, filter: &Filter) {
        if !is_name(name) {
            self.error_with(
                at!["filter", name],
                format!("\"{name}\" is no name of a filter"),
                "write letters, digits, - and _, at most 64: it is a label of metrics and part of URLs",
            );
        }
        self.module(name, filter);
        if let Some(key) = &filter.signature_key
            && let Err(error) = crate::signature::Key::read(key)
        {
            self.error(at!["filter", name, "signature_key"], error);
        }
        let stem = filter.module.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let guarded =
            NEVER_ALLOWED_TO_FAIL.iter().find(|guarded| [name, stem].iter().any(|part| is_policy(part, guarded)));
        if let (Some(guarded), OnFailure::Allow) = (guarded, filter.on_failure) {
            self.error_with(
                at!["filter", name, "on_failure"],
                format!("{guarded} may not pass what it could not judge"),
                "write on_failure = \"deny\"",
            );
        }
        self.settings_file(at!["filter", name], filter.settings_file.as_ref(), !filter.settings.is_empty());
        self.positive(at!["filter", name, "callback_budget"], filter.callback_budget);
        self.positive(at!["filter", name, "start_budget"], filter.start_budget);
        if !(WASM_PAGE_BYTES..=WASM_MEMORY_BYTES_MAX).contains(&filter.memory_bytes_max) {
            self.error(
                at!["filter", name, "memory_bytes_max"],
                format!(
                    "memory_bytes_max must lie between {WASM_PAGE_BYTES} (one page) and {WASM_MEMORY_BYTES_MAX} (4 GiB)"
                ),
            );
        }
        self.candidates(name, filter);
    }

    fn candidates(&mut self, name: &str, filter: &Filter) {
        if filter.shadow.is_some() && filter.canary.is_some() {
            self.error_with(
                at!["filter", name, "canary"],
                "a filter has one candidate: it is a shadow or a canary",
                "shadow it first, and make it a canary once its differences are explained",
            );
        }
        if let Some(shadow) = &filter.shadow {
            self.variant(at!["filter", name, "shadow"], &shadow.variant());
            self.positive(at!["filter", name, "shadow", "callback_budget"], shadow.callback_budget);
            if shadow.callback_budget > Duration::from_millis(100) {
                self.error_with(
                    at!["filter", name, "shadow", "callback_budget"],
                    "a shadow's callback_budget is over 100ms: live traffic waits for it",
                    "10ms is the default; the filter itself, once it is in force, has its own",
                );
            }
            if !(1..=50).contains(&shadow.time_percent_max) {
                self.error(
                    at!["filter", name, "shadow", "time_percent_max"],
                    "time_percent_max must lie between 1 and 50",
                );
            }
            if shadow.failures_max == 0 {
                self.error(at!["filter", name, "shadow", "failures_max"], "failures_max must be at least 1");
            }
        }
        if let Some(canary) = &filter.canary {
            self.variant(at!["filter", name, "canary"], &canary.variant());
            if !(1..=99).contains(&canary.percent) {
                self.error_with(
                    at!["filter", name, "canary", "percent"],
                    "percent must lie between 1 and 99",
                    "for all sessions, make it the filter's module",
                );
            }
            if !(0.0..=100.0).contains(&canary.failure_percent_max) {
                self.error(
                    at!["filter", name, "canary", "failure_percent_max"],
                    "failure_percent_max must lie between 0 and 100",
                );
            }
        }
    }

    /// What differs in a candidate.
    fn variant(&mut self, path: &[Step], variant: &Variant) {
        let at = |key: &str| -> Vec<Step> { path.iter().cloned().chain([Step::from(key)]).collect() };
        if *variant == Variant::default() {
            self.error_with(
                path,
                "the candidate is the same as the filter",
                "give it a module, settings or settings_file of its own",
            );
        }
        if let Some(module) = &variant.module {
            self.wasm(&at("module"), module);
        }
        self.settings_file(path, variant.settings_file.as_ref(), variant.settings.is_some());
    }

    fn settings_file(&mut self, path: &[Step], file: Option<&PathBuf>, has_settings: bool) {
        let Some(file) = file else { return };
        let path: Vec<Step> = path.iter().cloned().chain([Step::from("settings_file")]).collect();
        if has_settings {
            self.error(&path, "settings and settings_file are both given: keep one");
        }
        if let Some(bytes) = self.file(&path, file)
            && let Err(error) = serde_json::from_slice::<serde_json::Value>(&bytes)
        {
            self.error(&path, format!("{} is no JSON: {error}", file.display()));
        }
    }

    /// Sessions of a route are on its canary or not: with two they would be on one, the other, both or neither.
    pub(super) fn canaries(&mut self, index: usize, route: &Route) {
        let config = self.config;
        let has_canary = |name: &&String| config.filter.get(*name).is_some_and(|filter| filter.canary.is_some());
        let mut canaries = route.filters.iter().filter(has_canary);
        if let (Some(first), Some(second)) = (canaries.next(), canaries.next()) {
            self.error_with(
                at!["route", index, "filters"],
                format!("\"{first}\" and \"{second}\" both have a canary on this route"),
                "try one after the other, or one of them as a shadow",
            );
        }
    }

    fn wasm(&mut self, path: &[Step], file: &Path) -> Option<Vec<u8>> {
        let bytes = self.file(path, file)?;
        if !bytes.starts_with(b"\0asm") {
            self.error_with(
                path,
                format!("{} is no WebAssembly module", file.display()),
                "scripts/build-filters writes the modules to target/filters",
            );
        }
        Some(bytes)
    }

    fn module(&mut self, name: &str, filter: &Filter) {
        let Some(bytes) = self.wasm(at!["filter", name, "module"], &filter.module) else { return };
        let Some(digest) = &filter.digest else { return };
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.error(at!["filter", name, "digest"], "the digest must be a sha-256 in 64 hexadecimal digits");
            return;
        }
        let actual: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if !actual.eq_ignore_ascii_case(digest) {
            self.error_with(
                at!["filter", name, "digest"],
                format!("{} is not the module that was approved: its sha-256 is {actual}", filter.module.display()),
                "install the approved module, or approve this one by writing its digest here",
            );
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Whether a filter's name or module stem names this policy: `sharia`, `filter_sharia`, `sharia-v2`.
fn is_policy(name: &str, policy: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.eq_ignore_ascii_case(policy))
}
