//! `bawaba check --envoy FILE`: what makes an Envoy configuration pass messages that the filters never saw. Envoy itself
//! takes such files without a word. Reads static configurations and fragments of them; starts nothing, asks no Envoy.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::source::{Problem, Severity};

mod rules;
mod yaml;

use yaml::{At, Node};

/// Values that are looked at, with those behind aliases counted each time.
const VISITS_MAX: usize = 1_000_000;

/// What a file came to.
pub struct Report {
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
    /// proxy-wasm filters in it.
    pub filters: usize,
    /// Connection managers that open WebSockets.
    pub doors: usize,
}

impl Report {
    /// Whether something lets messages pass unjudged, or ends sessions.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// Checks `file`.
pub fn check(file: &Path) -> Report {
    match std::fs::read_to_string(file) {
        Ok(text) => check_text(file, &text),
        Err(error) => {
            let problem = Problem {
                file: file.to_owned(),
                at: None,
                severity: Severity::Error,
                message: format!("cannot be read: {error}"),
                hint: None,
            };
            Report { problems: vec![problem], filters: 0, doors: 0 }
        }
    }
}

fn check_text(file: &Path, text: &str) -> Report {
    let mut lint = Lint::default();
    match yaml::read(text) {
        Ok(documents) => {
            for document in &documents {
                lint.visit(document, "");
            }
            if lint.filters.is_empty() {
                let hint = "envoy/envoy.yaml shows where a filter stands";
                lint.error((1, 1), "", "there is no proxy-wasm filter in this file: nothing is judged", hint);
            }
        }
        Err(malformed) => lint.error(malformed.at, "", malformed.what, "Envoy would not start with it"),
    }
    lint.found.sort_by_key(|found| found.at);
    // What stands behind an alias is wrong once, however often it is named.
    lint.found.dedup_by(|a, b| a.at == b.at && a.what == b.what);
    let problems = lint.found.into_iter().map(|found| found.into_problem(file)).collect();
    Report { problems, filters: lint.filters.len(), doors: lint.doors }
}

struct Found {
    at: At,
    severity: Severity,
    path: String,
    what: String,
    hint: String,
}

impl Found {
    fn into_problem(self, file: &Path) -> Problem {
        let message = if self.path.is_empty() { self.what } else { format!("{}: {}", self.path, self.what) };
        Problem {
            file: file.to_owned(),
            at: Some(self.at),
            severity: self.severity,
            message,
            hint: (!self.hint.is_empty()).then_some(self.hint),
        }
    }
}

#[derive(Default)]
struct Lint {
    found: Vec<Found>,
    /// Where each proxy-wasm filter is written.
    filters: BTreeSet<At>,
    doors: usize,
    visits: usize,
}

impl Lint {
    fn error(&mut self, at: At, path: &str, what: impl Into<String>, hint: impl Into<String>) {
        self.note(Severity::Error, at, path, what.into(), hint.into());
    }

    fn warning(&mut self, at: At, path: &str, what: impl Into<String>, hint: impl Into<String>) {
        self.note(Severity::Warning, at, path, what.into(), hint.into());
    }

    fn note(&mut self, severity: Severity, at: At, path: &str, what: String, hint: String) {
        self.found.push(Found { at, severity, path: path.to_owned(), what, hint });
    }

    /// Looks at a value and all that is in it.
    fn visit(&mut self, node: &Node, path: &str) {
        self.visits += 1;
        if self.visits > VISITS_MAX {
            if self.visits == VISITS_MAX + 1 {
                self.error(
                    node.at,
                    path,
                    "the file names itself too often: the rest was not looked at",
                    "write it out",
                );
            }
            return;
        }
        if let Some((kind, body)) = typed(node) {
            match kind.rsplit('.').next() {
                Some("HttpConnectionManager") => self.connection_manager(body, path),
                Some("Wasm") => self.filter(body, path),
                Some("RouteConfiguration") => self.routes(body, path),
                _ => {}
            }
        }
        for (key, _, inner) in node.entries() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.visit(inner, &path);
        }
        for (index, inner) in node.items().iter().enumerate() {
            self.visit(inner, &format!("{path}[{index}]"));
        }
    }
}

/// What kind of thing a `typed_config` is, and its content; a `TypedStruct` holds it one level deeper.
fn typed(node: &Node) -> Option<(&str, &Node)> {
    let kind = node.text_at(&["@type"])?;
    if kind.ends_with(".TypedStruct") {
        return Some((node.text_at(&["type_url"])?, node.get("value")?));
    }
    Some((kind, node))
}

#[cfg(test)]
mod tests;
