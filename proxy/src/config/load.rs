//! From file to [`Config`]: every problem is found in one run where that is possible, each with line, column and hint.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::Config;
use super::source::{Problem, Severity, Source, nearest};

/// Unknown keys that are reported before giving up: a file of another program has nothing but unknown keys.
const UNKNOWN_KEYS_MAX: usize = 20;

/// A configuration whose form is right, with its text so that later findings can say where.
pub struct Loaded {
    /// What was written. Relative paths have been resolved against the file's directory.
    pub config: Config,
    /// What [`crate::check`] warned of.
    pub warnings: Vec<Problem>,
}

/// Reads and checks `file`: form first, then what must hold between the parts. `Err` holds every problem found,
/// warnings among them.
pub fn load(file: &Path) -> Result<Loaded, Vec<Problem>> {
    let source = Source::read(file).map_err(|problem| vec![problem])?;
    load_source(source)
}

pub(crate) fn load_source(source: Source) -> Result<Loaded, Vec<Problem>> {
    let mut config = parse(&source)?;
    let directory = source.file.parent().unwrap_or_else(|| Path::new("")).to_owned();
    resolve_paths(&mut config, &directory);
    let problems = crate::check::check(&config, &source);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(problems);
    }
    Ok(Loaded { config, warnings: problems })
}

/// Form only. Unknown keys are mended one by one, so that all of them are reported at once.
fn parse(source: &Source) -> Result<Config, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(source.text());
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| source.error_at(error.span(), sentence(error.message()), None))
            .collect());
    }
    let mut root = root;
    let mut problems = Vec::new();
    loop {
        let error = match Config::deserialize(Deserializer::from(root.clone())) {
            Ok(config) if problems.is_empty() => return Ok(config),
            Ok(_) => return Err(problems),
            Err(error) => error,
        };
        let meant = meant(error.message());
        problems.push(explain(source, &error));
        let mended = meant.is_some_and(|meant| {
            let span = error.span().filter(|_| problems.len() < UNKNOWN_KEYS_MAX);
            span.is_some_and(|span| mend(root.get_mut(), &span, meant.as_deref()))
        });
        if !mended {
            return Err(problems);
        }
    }
}

/// Says a serde error in our words.
fn explain(source: &Source, error: &toml::de::Error) -> Problem {
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (message, hint) = match (quoted.split_first(), message.split_whitespace().next()) {
        (Some((word, known)), Some("unknown")) => {
            let what = if message.starts_with("unknown field") { "key" } else { "value" };
            let hint = match nearest(word, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("known here: {}", known.join(", ")),
            };
            (format!("unknown {what} \"{word}\""), Some(hint))
        }
        (Some((key, _)), Some("missing")) => (format!("the key \"{key}\" is missing"), missing_hint(key)),
        _ => (sentence(message), None),
    };
    source.error_at(error.span(), message, hint)
}

fn missing_hint(key: &str) -> Option<String> {
    let hint = match key {
        "on_failure" => {
            "write on_failure = \"deny\" (what the filter could not judge is refused) or \"allow\" (it passes)"
        }
        "listener" => "add [[listener]] with address = \"127.0.0.1:8080\"",
        "identity" => "add [identity], and under it [[identity.key]] with algorithm and file, or jwks_file",
        "route" => {
            "add [[route]] with name, path, and either channel = { EGX = \"cluster\" } or relay = { cluster = \"cluster\" }"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn sentence(message: &str) -> String {
    message.trim().replace('\n', ", ")
}

/// The key that an unknown key was meant to be, as far as that can be guessed. `None`: the error is another.
fn meant(message: &str) -> Option<Option<String>> {
    let mut quoted = message.strip_prefix("unknown field")?.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    Some(nearest(word, quoted).map(str::to_owned))
}

/// Gives the entry whose key stands at `span` the name that was meant, or takes it out, so that reading can go on and
/// a misspelt key is not also reported as missing.
fn mend(table: &mut DeTable<'_>, span: &Range<usize>, meant: Option<&str>) -> bool {
    let Some(key) = table.keys().find(|key| key.span() == *span).cloned() else {
        return table.iter_mut().any(|(_, value)| mend_value(value.get_mut(), span, meant));
    };
    let Some(value) = table.remove(&key) else { return false };
    if let Some(meant) = meant
        && !table.keys().any(|known| known.get_ref() == meant)
    {
        table.insert(Spanned::new(key.span(), meant.to_owned().into()), value);
    }
    true
}

fn mend_value(value: &mut DeValue<'_>, span: &Range<usize>, meant: Option<&str>) -> bool {
    match value {
        DeValue::Table(table) => mend(table, span, meant),
        DeValue::Array(array) => array.iter_mut().any(|value| mend_value(value.get_mut(), span, meant)),
        _ => false,
    }
}

/// Paths in the file are relative to the file.
fn resolve_paths(config: &mut Config, directory: &Path) {
    let resolve = |path: &mut PathBuf| *path = directory.join(&*path);
    for tls in config.listener.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
        resolve(&mut tls.certificate);
        resolve(&mut tls.key);
    }
    for key in &mut config.identity.key {
        resolve(&mut key.file);
    }
    let optional = [&mut config.identity.jwks_file, &mut config.sticky.key_file, &mut config.edge.state_directory];
    optional.into_iter().filter_map(Option::as_mut).for_each(resolve);
    config.cluster.values_mut().filter_map(|cluster| cluster.token_file.as_mut()).for_each(resolve);
    for filter in config.filter.values_mut() {
        resolve(&mut filter.module);
        let (shadow, canary) = (filter.shadow.as_mut(), filter.canary.as_mut());
        let of_shadow = shadow.map_or([None, None], |shadow| [shadow.module.as_mut(), shadow.settings_file.as_mut()]);
        let of_canary = canary.map_or([None, None], |canary| [canary.module.as_mut(), canary.settings_file.as_mut()]);
        let own = [filter.settings_file.as_mut(), filter.signature_key.as_mut()];
        own.into_iter().chain(of_shadow).chain(of_canary).flatten().for_each(resolve);
    }
}
