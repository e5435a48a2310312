//! The shape of the repository, as tests: who may import whom, what a crate refuses to know, how large a file gets,
//! and whether the documents still tell the truth. Reads sources and documents; runs nothing of ours.
//!
//! A message says what was found, where, and what to do. Where a rule stops being right, change the rule here together
//! with ARCHITECTURE.md and a decision record, not the code around it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use bawaba_channels::close::CloseCode;
use bawaba_channels::name::ChannelName;
use bawaba_channels::reason::Reason;

/// The arrows of ARCHITECTURE.md: crate, and exactly the crates of ours that it depends on.
const ARROWS: &[(&str, &[&str])] = &[
    ("bawaba-policies", &[]),
    ("bawaba-channels", &[]),
    ("bawaba-filter-kit", &["bawaba-channels", "bawaba-policies"]),
    ("filter-license", &["bawaba-filter-kit", "bawaba-policies"]),
    ("filter-quota", &["bawaba-filter-kit", "bawaba-policies"]),
    ("filter-sharia", &["bawaba-filter-kit", "bawaba-policies"]),
    ("bawaba-filter-host", &[]),
    ("bawaba-routing", &[]),
    ("bawaba", &["bawaba-channels", "bawaba-filter-host", "bawaba-routing"]),
    ("bawaba-channel", &["bawaba-channels"]),
];

/// What the black-box tests may import: everything native. The rules reach them as modules, as they reach a user.
const TESTS: (&str, &[&str]) = ("bawaba-tests", &["bawaba", "bawaba-channel", "bawaba-channels", "bawaba-filter-host"]);

/// Outside crates that only some of ours may depend on, except for their own tests.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("wasmtime", &["bawaba-filter-host"], "the edge knows no wasmtime type"),
    ("pingora-core", &["bawaba"], "listeners belong to the edge"),
    ("pingora-proxy", &["bawaba"], "listeners belong to the edge"),
    ("pingora-http", &["bawaba"], "listeners belong to the edge"),
    (
        "proxy-wasm",
        &["bawaba-filter-kit"],
        "an author needs no proxy-wasm knowledge, and the host implements the other end",
    ),
    (
        "tokio",
        &["bawaba", "bawaba-channel", "bawaba-tests"],
        "rules, messages and filters do no I/O; the host blocks nowhere",
    ),
    ("tungstenite", &["bawaba-tests"], "our own codec speaks; tungstenite is the oracle of tests"),
];

/// Lines of a Rust source, at most.
const LINES_MAX: usize = 600;

static ROOT: LazyLock<PathBuf> =
    LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned());

/// What git tracks, or would: paths from the root, with `/`.
static TRACKED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&*ROOT)
        .output()
        .expect("these tests ask git which files are ours");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let mut files: Vec<_> = String::from_utf8(output.stdout)
        .expect("paths are UTF-8")
        .split_terminator('\0')
        .filter(|file| ROOT.join(file).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
});

/// The text of a tracked file; `None` when it is not text.
fn text(file: &str) -> Option<String> {
    String::from_utf8(std::fs::read(ROOT.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))).ok()
}

/// The tracked files under `directory` with this extension, with their text.
fn texts(directory: &str, extension: &str) -> Vec<(&'static str, String)> {
    let files = TRACKED.iter().filter(|file| file.starts_with(directory));
    files.filter(|file| file.ends_with(extension)).filter_map(|file| Some((file.as_str(), text(file)?))).collect()
}

/// Fails with one line for each thing found.
#[track_caller]
fn none_of(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}\n  {}\n", found.join("\n  "));
}

/// One line of Rust: its number, its code without the comment, and whether it belongs to tests.
struct Line<'a> {
    number: usize,
    whole: &'a str,
    code: &'a str,
    test: bool,
}

/// The lines of one source. Tests are files named so, and everything after a `#[cfg(test)]` module's head.
fn lines<'a>(file: &str, source: &'a str) -> Vec<Line<'a>> {
    let mut test = file.starts_with("tests/") || file.ends_with("/tests.rs") || file.contains("/tests/");
    let mut gated = false;
    let mut lines = Vec::new();
    for (index, whole) in source.lines().enumerate() {
        let trimmed = whole.trim_start();
        let code = if trimmed.starts_with("//") { "" } else { trimmed.split(" // ").next().unwrap_or(trimmed) };
        test |= gated && code.contains("mod ") && code.ends_with('{');
        lines.push(Line { number: index + 1, whole, code, test: test || gated });
        gated = code.starts_with("#[cfg(test)]");
    }
    lines
}

/// Every place under `directory` where code that is no test holds one of `words`.
fn code_with(directory: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, source) in texts(directory, ".rs") {
        for line in lines(file, &source).iter().filter(|line| !line.test) {
            for word in words.iter().filter(|word| holds_word(line.code, word)) {
                found.push(format!("{file}:{}: `{word}` in: {}", line.number, line.code));
            }
        }
    }
    found
}

/// Whether `word` stands in `line` and is not the tail or the head of a longer name.
fn holds_word(line: &str, word: &str) -> bool {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|c| name(c) && word.starts_with(name))
            && !line[at + word.len()..].chars().next().is_some_and(|c| name(c) && word.ends_with(name))
    })
}

/// The workspace's manifests by package name: where each lies, and what it says.
fn manifests() -> BTreeMap<String, (String, toml::Table)> {
    let workspace: toml::Table = text("Cargo.toml").unwrap().parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| {
            let file = format!("{}/Cargo.toml", member.as_str().unwrap());
            let manifest: toml::Table = text(&file).unwrap().parse().unwrap_or_else(|error| panic!("{file}: {error}"));
            (manifest["package"]["name"].as_str().unwrap().to_owned(), (file, manifest))
        })
        .collect()
}

/// The names under every table called `kind` of a manifest, those of `[target.….kind]` included.
fn dependencies(manifest: &toml::Table, kind: &str) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    let tables = std::iter::once(manifest.get(kind)).chain(targets.map(|target| target.get(kind)));
    let named = |(key, value): (&String, &toml::Value)| {
        value.get("package").and_then(toml::Value::as_str).unwrap_or(key).to_owned()
    };
    tables.flatten().filter_map(toml::Value::as_table).flat_map(|table| table.iter().map(named)).collect()
}

#[test]
fn the_arrows_between_crates_are_those_drawn() {
    let manifests = manifests();
    let mut found = Vec::new();
    for (name, (file, manifest)) in &manifests {
        let ours = |kind: &str| -> BTreeSet<String> {
            dependencies(manifest, kind).into_iter().filter(|name| manifests.contains_key(name)).collect()
        };
        let mut has = ours("dependencies");
        has.extend(ours("build-dependencies"));
        let Some((_, drawn)) = ARROWS.iter().chain([&TESTS]).find(|(drawn, _)| drawn == name) else {
            found.push(format!("{file}: the crate {name} is not drawn: place it in ARCHITECTURE.md and in ARROWS"));
            continue;
        };
        let drawn: BTreeSet<String> = drawn.iter().map(|name| (*name).to_owned()).collect();
        for to in has.union(&ours("dev-dependencies")).filter(|to| !drawn.contains(*to)) {
            found.push(format!("{file}: {name} -> {to} is forbidden"));
        }
        if name != TESTS.0 {
            found.extend(drawn.difference(&has).map(|to| format!("{file}: {name} -> {to} is drawn and not there")));
        }
    }
    for (name, _) in ARROWS.iter().filter(|(name, _)| !manifests.contains_key(*name)) {
        found.push(format!("Cargo.toml: the crate {name} is drawn and not there"));
    }
    none_of(found, "the arrows of ARCHITECTURE.md do not hold");
}

#[test]
fn what_belongs_to_one_crate_is_imported_by_no_other() {
    let mut found = Vec::new();
    for (name, (file, manifest)) in &manifests() {
        let has = dependencies(manifest, "dependencies");
        for (reserved, users, why) in RESERVED.iter().filter(|(reserved, ..)| has.contains(*reserved)) {
            if !users.contains(&name.as_str()) {
                found.push(format!("{file}: {name} -> {reserved}: {why}"));
            }
        }
    }
    none_of(found, "a dependency crosses a border");
}

#[test]
fn rules_and_messages_do_no_io_and_read_no_clock() {
    let words = [
        "std::time",
        "std::net",
        "std::fs",
        "std::io",
        "std::env",
        "std::thread",
        "std::process",
        "tokio",
        "SystemTime",
    ];
    let mut found = code_with("policies/src/", &words);
    found.extend(code_with("channels/src/", &words));
    // Spans of time are arguments too.
    let routing: Vec<&str> = words.iter().copied().filter(|word| *word != "std::time").chain(["Instant"]).collect();
    found.extend(code_with("routing/src/", &routing));
    none_of(found, "policies, channels and routing are pure: time and data are arguments");
}

#[test]
fn each_side_knows_only_its_own_half() {
    let mut found = code_with("proxy/src/", &["wasmtime"]);
    found.extend(code_with("proxy/src/", &["bawaba_policies", "bawaba_filter_kit"]));
    for (file, source) in texts("filters/host/src/", ".rs") {
        for line in lines(file, &source).iter().filter(|line| line.code.to_lowercase().contains("websocket")) {
            found.push(format!("{file}:{}: the host knows no WebSocket: {}", line.number, line.code));
        }
    }
    none_of(found, "the edge knows no wasmtime type and links no policy; the host knows no WebSocket");
}

#[test]
fn a_source_says_what_it_is_and_leaves_nothing_undone() {
    // Put together here, so that this file does not hold them.
    let undone = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let sleeps = [concat!("thread::", "sleep"), concat!("time::", "sleep"), concat!("time::", "sleep_until")];
    let ignored = concat!("#[", "ignore");
    let mut found = Vec::new();
    for (file, source) in texts("", ".rs") {
        let lines = lines(file, &source);
        // Cargo would take `tests/support.rs` for a test of its own: there alone the folder holds its head.
        if file.ends_with("/mod.rs") && !file.contains("tests/") {
            found.push(format!("{file}: name it after its module, beside the folder"));
        }
        if !source.starts_with("//!") && !file.ends_with("/tests.rs") {
            found.push(format!("{file}:1: begin with `//!`: what this file is, what it refuses to know"));
        }
        for line in &lines {
            if let Some(word) = undone.iter().find(|word| holds_word(line.whole, word)) {
                found.push(format!("{file}:{}: {word}: do it, or file an issue", line.number));
            }
            if line.code.contains(ignored) {
                found.push(format!("{file}:{}: an ignored test tests nothing", line.number));
            }
            if line.test && sleeps.iter().any(|word| line.code.contains(word)) {
                found.push(format!("{file}:{}: wait for the event, with a deadline; never sleep", line.number));
            }
        }
    }
    none_of(found, "house rules for sources");
}

#[test]
fn a_source_is_short() {
    let long = texts("", ".rs").into_iter().map(|(file, source)| (file, source.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LINES_MAX).map(|(file, lines)| format!("{file}: {lines} lines"));
    none_of(long.collect(), &format!("more than {LINES_MAX} lines: cut it where it has two subjects"));
}

#[test]
fn no_tracked_file_names_a_machine() {
    let paths = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")];
    let hosts = [
        concat!("registry.", "npmjs.org"),
        concat!("static.", "crates.io"),
        concat!("index.", "crates.io"),
        concat!("files.", "pythonhosted.org"),
        concat!("pypi.", "org/simple"),
        concat!("deb.", "debian.org"),
    ];
    let mut found = Vec::new();
    for file in TRACKED.iter() {
        let Some(text) = text(file) else { continue };
        for (index, line) in text.lines().enumerate() {
            let path = paths.iter().find(|path| {
                line.match_indices(*path)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}".contains(c)))
            });
            if let Some(word) = path.or_else(|| hosts.iter().find(|host| line.contains(*host))) {
                found.push(format!("{file}:{}: {word}", index + 1));
            }
        }
    }
    none_of(found, "a path or a registry of one machine is of no use on another");
}

#[test]
fn dependencies_come_from_crates_io_under_licences_that_deny_toml_allows() {
    let deny: toml::Table = text("deny.toml").unwrap().parse().unwrap();
    let allowed: BTreeSet<&str> =
        deny["licenses"]["allow"].as_array().unwrap().iter().map(|licence| licence.as_str().unwrap()).collect();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(&*ROOT)
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let Some(source) = package["source"].as_str() else { continue };
        let name = format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        if source != "registry+https://github.com/rust-lang/crates.io-index" {
            found.push(format!("{name}: comes from {source}"));
        }
        let licence = package["license"].as_str().unwrap_or("");
        if !satisfied(licence, &allowed) {
            found.push(format!("{name}: its licence is \"{licence}\""));
        }
    }
    none_of(found, "deny.toml does not allow this dependency");
}

/// Whether the allowed licences satisfy an SPDX expression. `OR` binds weaker than `AND`; the old `/` means `OR`.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.replace('/', " OR ");
    // One level of parentheses is all that crates use: "(A OR B) AND C".
    if let (Some(open), Some(close)) = (expression.find('('), expression.find(')')) {
        let inner = if satisfied(&expression[open + 1..close], allowed) { "yes" } else { "no" };
        return satisfied(&format!("{}{inner}{}", &expression[..open], &expression[close + 1..]), allowed);
    }
    expression
        .split(" OR ")
        .any(|all| all.split(" AND ").all(|licence| licence.trim() == "yes" || allowed.contains(licence.trim())))
}

/// Markdown outside code blocks, line by line.
fn prose(markdown: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    markdown.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// The texts between backticks of a line.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// `a/{b,c}.rs` written out. Braces do not nest.
fn expand(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(head, rest)| Some((head, rest.split_once('}')?))) {
        Some((head, (names, tail))) => {
            names.split(',').flat_map(|name| expand(&format!("{head}{name}{tail}"))).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// Whether a tracked file or folder has this path, from the root or as the tail of a longer one; `*` is any name's part.
fn is_tracked(path: &str) -> bool {
    let wanted: Vec<&str> = path.trim_start_matches("./").trim_end_matches('/').split('/').collect();
    let matches = |(wanted, name): (&&str, &str)| match wanted.split_once('*') {
        Some((head, tail)) => name.starts_with(head) && name.ends_with(tail),
        None => *wanted == name,
    };
    TRACKED.iter().any(|file| {
        let names: Vec<&str> = file.split('/').collect();
        names.windows(wanted.len()).any(|window| wanted.iter().zip(window.iter().copied()).all(matches))
    })
}

#[test]
fn every_path_that_architecture_md_names_exists() {
    let document = text("ARCHITECTURE.md").expect("ARCHITECTURE.md is text");
    let file_types = [".rs", ".toml", ".md", ".yaml", ".yml", ".json", ".proto", ".csv", ".sh", ".py", ".mjs"];
    let mut found = Vec::new();
    for (number, line) in prose(&document) {
        for span in code_spans(line) {
            let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./*{},".contains(c));
            let path = span.contains('/') || file_types.iter().any(|end| span.ends_with(end));
            // Not paths of ours: URL paths, made files, patterns for names, channel names (`egx/trades/COMI`).
            let other = span.starts_with(['/', '.']) && !span.starts_with("./") && !span.starts_with(".ci")
                || span.starts_with("target/")
                || span.contains("NNN")
                || ChannelName::parse(span).is_ok();
            if plain && path && !other {
                let missing = expand(span).into_iter().filter(|path| !is_tracked(path));
                found.extend(missing.map(|path| format!("ARCHITECTURE.md:{number}: `{path}`")));
            }
        }
    }
    none_of(found, "ARCHITECTURE.md names what is not there");
}

/// GitHub's anchor for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut found = Vec::new();
    for (file, document) in texts("", ".md") {
        for (number, line) in prose(&document) {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
                let base = ROOT.join(file);
                let linked = if path.is_empty() { base } else { base.parent().unwrap().join(path) };
                if !linked.exists() {
                    found.push(format!("{file}:{number}: {target}: no such file"));
                } else if !fragment.is_empty() && linked.extension().is_some_and(|extension| extension == "md") {
                    let markdown = std::fs::read_to_string(&linked).unwrap();
                    let mut headings = prose(&markdown).filter_map(|(_, line)| line.strip_prefix('#'));
                    if !headings.any(|heading| anchor(heading.trim_start_matches('#')) == fragment) {
                        found.push(format!("{file}:{number}: {target}: no such heading"));
                    }
                }
            }
        }
    }
    none_of(found, "a link in a document is dead");
}

#[test]
fn a_decision_record_has_a_number_of_its_own_and_a_title() {
    let mut numbers = BTreeSet::new();
    let mut found = Vec::new();
    for (file, record) in texts("docs/decisions/", "") {
        let name = file.trim_start_matches("docs/decisions/");
        let parts = name.strip_suffix(".md").and_then(|name| name.split_once('-'));
        let slug = |title: &str| {
            !title.is_empty() && title.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        match parts {
            Some((number, title)) if number.len() == 3 && number.parse::<u16>().is_ok() && slug(title) => {
                if !numbers.insert(number.to_owned()) {
                    found.push(format!("{file}: {number} is taken by another record"));
                }
            }
            _ => found.push(format!("{file}: name it NNN-title.md")),
        }
        if !record.starts_with("# ") {
            found.push(format!("{file}:1: begin with a title"));
        }
    }
    none_of(found, "decision records");
}

#[test]
fn the_protocol_document_and_the_code_have_the_same_words_and_close_codes() {
    let file = "docs/protocol.md";
    let document = text(file).unwrap();
    let words = Reason::ALL.iter().map(|r| format!("| `{}` | {} | {} |", r.word(), r.http_status(), r.sentence()));
    let codes = CloseCode::TABLE.iter().map(|(code, label, reconnect, meaning)| {
        format!("| {} | {label} | {} | {meaning} |", code.0, if *reconnect { "yes" } else { "no" })
    });
    let wanted: BTreeSet<String> = words.chain(codes).collect();
    let families: BTreeSet<&str> = Reason::ALL.iter().filter_map(|r| Some(r.word().split_once('.')?.0)).collect();
    let row = |line: &&str| {
        let first = line.strip_prefix("| ").and_then(|rest| rest.split(" |").next()).unwrap_or("");
        let word = first.trim_matches('`').split_once('.').is_some_and(|(family, _)| families.contains(family));
        word || first.len() == 4 && first.parse::<u16>().is_ok()
    };
    let written: BTreeSet<String> = document.lines().filter(row).map(str::to_owned).collect();
    let mut found: Vec<String> = wanted.difference(&written).map(|row| format!("{file} lacks: {row}")).collect();
    found.extend(written.difference(&wanted).map(|row| format!("{file} has, and the code has not: {row}")));
    none_of(found, "docs/protocol.md and bawaba_channels::{reason, close} disagree");
}

#[test]
fn scripts_stop_at_the_first_error() {
    let mut found = Vec::new();
    for file in TRACKED.iter().filter(|file| file.starts_with("scripts/") || file.starts_with(".ci/")) {
        let script = text(file).unwrap_or_default();
        if script.starts_with("#!/usr/bin/env bash") && !script.contains("\nset -euo pipefail\n") {
            found.push(format!("{file}: set -euo pipefail"));
        }
        let listed =
            Command::new("git").args(["ls-files", "--stage", "--", file]).current_dir(&*ROOT).output().unwrap();
        if script.starts_with("#!") && listed.stdout.starts_with(b"100644") {
            found.push(format!("{file}: git update-index --chmod=+x {file}"));
        }
    }
    none_of(found, "scripts");
}
