//! `/filters/NAME` of the admin listener: what a filter is made of and was, and every way to change it. Each change is the
//! control thread's; here a request becomes a question to it, and its answer JSON.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use serde_json::{Value, json};

use super::page;
use crate::change::{Ask, Changed, Declined, Mode, Request, role_word};
use crate::listener::Door;
use crate::loading::{Candidate, LoadedFilter};
use crate::revision::Trouble;
use crate::sources::Role;
use crate::store::{Entry, Journal, Outcome};

/// A module, as the host takes it.
const MODULE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Settings: lists of instruments among them.
const SETTINGS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A question about a revision.
const QUESTION_BYTES_MAX: usize = 4 * 1024;
/// Of what is over a limit: read and dropped up to so many times that limit.
const DISCARDED_TIMES_MAX: usize = 4;
/// The signature of the module in the body, base64.
const SIGNATURE_HEADER: &str = "x-bawaba-signature";

/// Answers a request for `rest`, what follows `/filters/`.
pub(super) async fn answer(
    door: &Arc<Door>,
    session: &mut ServerSession,
    method: &Method,
    rest: &str,
) -> Response<Vec<u8>> {
    let (name, part) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed: &[&str] = match part {
        "" => &["GET", "PUT"],
        "settings" => &["PUT"],
        "history" | "shadow" | "canary" => &["GET"],
        "rollback" | "promote" | "abort" => &["POST"],
        _ => return refuse(404, &Trouble::new("the path", "there is no such page", "GET / lists them")),
    };
    if !allowed.contains(&method.as_str()) {
        let mut refused = refuse(
            405,
            &Trouble::new(
                "the method",
                format!("{method} is not for this page"),
                format!("use {}", allowed.join(" or ")),
            ),
        );
        if let Ok(value) = allowed.join(", ").parse() {
            refused.headers_mut().insert(http::header::ALLOW, value);
        }
        return refused;
    }
    if *method == Method::GET {
        return shown(door, name, part);
    }
    let asked = match read(session, name, part).await {
        Ok(request) => door.control.ask(request).await.map(|changed| (name, changed)),
        Err(declined) => Err(declined),
    };
    match asked {
        Ok((name, changed)) => done(name, &changed),
        Err(Declined { status, trouble }) => refuse(status, &trouble),
    }
}

fn refuse(status: u16, trouble: &Trouble) -> Response<Vec<u8>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    page(status, "application/json", json!({ "error": trouble }).to_string().into_bytes())
}

fn done(name: &str, changed: &Changed) -> Response<Vec<u8>> {
    let restart = match changed.outcome {
        Outcome::InForce if changed.is_of_files => {
            "the filter's files say the same: they are in force after a restart".to_owned()
        }
        Outcome::InForce => format!(
            "kept in edge.state_directory: stays in force over restarts and reloads until the files of filter {name} change; then they win"
        ),
        Outcome::Shadow | Outcome::Canary => format!(
            "kept in edge.state_directory: is tried over restarts until it is promoted, aborted, or the files of filter {name} change"
        ),
        Outcome::TakenBack | Outcome::Failed => "kept in edge.state_directory: does not come back by itself".to_owned(),
    };
    let digest = changed.revision.digest();
    let body = json!({
        "filter": name,
        "outcome": changed.outcome.label(),
        "changed": changed.is_new,
        "revision": digest,
        "module": changed.revision.module,
        "settings": changed.revision.settings,
        "generation": changed.generation,
        "after_a_restart": restart,
    });
    let mut response = page(StatusCode::OK, "application/json", body.to_string().into_bytes());
    if let Ok(tag) = format!("\"{digest}\"").parse()
        && changed.outcome == Outcome::InForce
    {
        response.headers_mut().insert(http::header::ETAG, tag);
    }
    response
}

/// What is asked: the path, the query, the headers and the body together.
async fn read(session: &mut ServerSession, name: &str, part: &str) -> Result<Request, Declined> {
    let header = |name: &str| {
        let value = session.req_header().headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let expected = header("if-match");
    let signature = header(SIGNATURE_HEADER).map(|text| Arc::from(text.into_bytes()));
    let who = who(session.client_addr().map(ToString::to_string), header("from"));
    let query = session.req_header().uri.query().unwrap_or("").to_owned();
    let mode = if matches!(part, "" | "settings") { mode(&query)? } else { Mode::InForce };
    let ask = match part {
        "" => {
            let module = body(session, MODULE_BYTES_MAX).await?;
            if !module.starts_with(b"\0asm") {
                return Err(bad("the body", "is no WebAssembly module", "curl -T NAME.wasm sends one"));
            }
            Ask::Put { module: Some(module.into()), settings: None, signature, mode }
        }
        "settings" => {
            let settings = body(session, SETTINGS_BYTES_MAX).await?;
            let read: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&settings);
            if let Err(error) = read {
                return Err(bad(
                    "the body",
                    &format!("is no JSON object: {error}"),
                    "send the filter's settings, whole",
                ));
            }
            Ask::Put { module: None, settings: Some(settings.into()), signature: None, mode }
        }
        "rollback" => {
            let question: Value = serde_json::from_slice(&body(session, QUESTION_BYTES_MAX).await?).unwrap_or_default();
            let Some(to) = question["digest"].as_str() else {
                let advice = "send {\"digest\": \"…\"}: of a revision or its module, as GET …/history lists them";
                return Err(bad("the body", "names no digest", advice));
            };
            Ask::Rollback { to: to.to_owned() }
        }
        "promote" => Ask::Promote,
        _ => Ask::Abort,
    };
    Ok(Request { filter: name.to_owned(), ask, who, expected })
}

fn bad(at: &str, what: &str, advice: &str) -> Declined {
    Declined::new(400, Trouble::new(at, what, advice))
}

/// The address that asks, and the name that it gave: nobody checks it, so it stands behind the address.
fn who(address: Option<String>, from: Option<String>) -> String {
    let address = address.unwrap_or_else(|| "unknown".into());
    match from {
        Some(from) => format!("{address} ({})", from.chars().filter(|c| !c.is_control()).take(80).collect::<String>()),
        None => address,
    }
}

fn mode(query: &str) -> Result<Mode, Declined> {
    let (mut mode, mut percent) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("mode", value)) => mode = Some(value),
            Some(("percent", value)) => percent = Some(value),
            _ => return Err(bad("the query", &format!("\"{pair}\" is not known"), "known: mode, percent")),
        }
    }
    match (mode, percent) {
        (None, None) => Ok(Mode::InForce),
        (Some("shadow"), None) => Ok(Mode::Shadow),
        (Some("canary"), percent) => match percent.unwrap_or("5").parse() {
            Ok(percent @ 1..=99) => Ok(Mode::Canary(percent)),
            _ => Err(bad("percent", "is no whole number from 1 to 99", "such as ?mode=canary&percent=5")),
        },
        _ => Err(bad("mode", "is not known", "?mode=shadow, or ?mode=canary&percent=5; without it, it comes in force")),
    }
}

pub(super) async fn body(session: &mut ServerSession, bytes_max: usize) -> Result<Vec<u8>, Declined> {
    let too_large = || {
        let what = format!("has more than {bytes_max} bytes");
        Declined::new(413, Trouble::new("the body", what, "build a smaller module, or send less"))
    };
    let declared = session.req_header().headers.get(http::header::CONTENT_LENGTH);
    let declared: usize = declared.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut whole = Vec::with_capacity(declared.min(bytes_max));
    let mut read = 0;
    loop {
        match session.read_request_body().await {
            Ok(Some(bytes)) => {
                read += bytes.len();
                if read <= bytes_max {
                    whole.extend_from_slice(&bytes);
                } else if read > bytes_max.saturating_mul(DISCARDED_TIMES_MAX) {
                    return Err(too_large());
                }
            }
            // Read on to here, so that who sends too much also hears so.
            Ok(None) if read > bytes_max => return Err(too_large()),
            Ok(None) if whole.len() < declared => {
                return Err(bad("the body", "ended before its Content-Length", "send it whole"));
            }
            Ok(None) => return Ok(whole),
            Err(error) => return Err(bad("the body", &format!("could not be read: {error}"), "send it again")),
        }
    }
}

fn shown(door: &Door, name: &str, part: &str) -> Response<Vec<u8>> {
    let generation = door.shared.generation();
    let Some(loaded) = generation.filters.get(name) else {
        return refuse(404, &Trouble::of_filter(name, "", "there is no such filter", "GET /filters lists them"));
    };
    let journals = door.shared.journals();
    let journal = journals.get(name).cloned().unwrap_or_default();
    let body = match part {
        "history" => history(loaded, &journal),
        "shadow" | "canary" => match &loaded.candidate {
            Some(candidate) if role_word(&candidate.role) == part => tried(candidate),
            _ => {
                let advice = format!("PUT /filters/{name}?mode={part} brings one");
                return refuse(404, &Trouble::of_filter(name, "", format!("it has no {part}"), advice));
            }
        },
        _ => state(loaded, &journal, generation.number),
    };
    let mut response = page(StatusCode::OK, "application/json", body.to_string().into_bytes());
    if part.is_empty()
        && let Ok(tag) = format!("\"{}\"", loaded.revision.digest()).parse()
    {
        response.headers_mut().insert(http::header::ETAG, tag);
    }
    response
}

fn state(loaded: &LoadedFilter, journal: &Journal, generation: u64) -> Value {
    json!({
        "filter": loaded.name,
        "revision": loaded.revision.digest(),
        "module": loaded.revision.module,
        "settings": loaded.revision.settings,
        "from": if journal.chosen.is_some() { "an operator's choice over the files" } else { "the files" },
        "files": loaded.files,
        "generation": generation,
        "abi": loaded.filter.abi_version(),
        "candidate": loaded.candidate.as_deref().map(tried),
    })
}

fn tried(candidate: &Candidate) -> Value {
    json!({
        "role": role_word(&candidate.role),
        "revision": candidate.revision.digest(),
        "module": candidate.revision.module,
        "settings": candidate.revision.settings,
        "canary": crate::canary::shown(candidate),
        "shadow": matches!(candidate.role, Role::Shadow(_)).then(|| candidate.tally.shown()),
    })
}

fn history(loaded: &LoadedFilter, journal: &Journal) -> Value {
    let line = |entry: &Entry| {
        json!({
            "at": entry.at,
            "how": entry.how.label(),
            "who": entry.who,
            "outcome": entry.outcome.label(),
            "revision": entry.revision,
            "module": entry.parts.as_ref().map(|id| &id.module),
            "settings": entry.parts.as_ref().map(|id| &id.settings),
            "generation": entry.generation,
            "detail": entry.detail,
        })
    };
    json!({
        "filter": loaded.name,
        "in_force": loaded.revision.digest(),
        "newest_first": journal.history.iter().rev().map(line).collect::<Vec<_>>(),
    })
}
