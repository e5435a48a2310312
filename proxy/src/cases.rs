//! The cases that a module brings: whole connections with what must come of them, in its custom section `bawaba.cases`.
//! A module is taken only if they hold here, in the host and on the machine where it will judge.
//!
//! The form is that of `docs/author-a-policy.md`; the kit's `trial::hold` runs the same file without a host.

use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::wire::{CLAIMS_HEADER, SUBPROTOCOL_JSON};
use bawaba_filter_host as host;
use serde::Deserialize;
use serde_json::Value;

/// The custom section.
const SECTION: &str = "bawaba.cases";
const SECTION_BYTES_MAX: usize = 256 * 1024;
const CASES_MAX: usize = 256;
/// All cases of a module together.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Of a message, in what is told to people.
const SHOWN_BYTES_MAX: usize = 300;

/// One connection.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    law: String,
    /// The filter's settings; `{}` if absent.
    #[serde(default)]
    settings: serde_json::Map<String, Value>,
    /// The verified claims; absent for a connection without any.
    claims: Option<Value>,
    /// The handshake is refused, and the answer holds this.
    refused: Option<RefusedAs>,
    /// What is said on it.
    #[serde(default)]
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedAs {
    status: u16,
    code: Option<String>,
}

/// One message, and what must come of it. What is absent is not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    /// The client says this.
    client: Option<Value>,
    /// The server says this.
    server: Option<Value>,
    /// What the server gets.
    to_server: Option<Vec<Value>>,
    /// What the client gets.
    to_client: Option<Vec<Value>>,
    /// The code that the client is closed with.
    closed: Option<u16>,
}

/// Runs the cases of `filter`; `with` builds it under other settings. The error is for the operator.
pub fn hold(filter: &host::Filter, with: impl Fn(Vec<u8>) -> Result<host::Filter, String>) -> Result<(), String> {
    let Some(section) = filter.custom_section(SECTION) else { return Ok(()) };
    if section.len() > SECTION_BYTES_MAX {
        return Err(format!("its section {SECTION} has {} bytes, the limit is {SECTION_BYTES_MAX}", section.len()));
    }
    let cases: Vec<Case> =
        serde_json::from_slice(section).map_err(|error| format!("its section {SECTION} cannot be read: {error}"))?;
    if cases.len() > CASES_MAX {
        return Err(format!("it brings {} cases, the limit is {CASES_MAX}", cases.len()));
    }
    let begun = Instant::now();
    let mut built: Option<(Vec<u8>, host::Filter)> = None;
    for case in &cases {
        let failed = |what: String| format!("its own case \"{}\" does not hold: {what}", case.law);
        if begun.elapsed() > TIME_MAX {
            return Err(failed(format!("all cases together took longer than {} s", TIME_MAX.as_secs())));
        }
        let settings = serde_json::to_vec(&case.settings).map_err(|error| failed(error.to_string()))?;
        // Cases with the same settings in a row share a filter.
        if built.as_ref().is_none_or(|(known, _)| *known != settings) {
            built = Some((settings.clone(), with(settings).map_err(&failed)?));
        }
        if let Some((_, filter)) = &built {
            run(filter, case).map_err(failed)?;
        }
    }
    if !cases.is_empty() {
        tracing::debug!(filter = &**filter.name(), cases = cases.len(), took = ?begun.elapsed(), "cases hold");
    }
    Ok(())
}

struct NoProperties;

impl host::Properties for NoProperties {
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

fn run(filter: &host::Filter, case: &Case) -> Result<(), String> {
    let mut chain = host::Chain::new(0, vec![filter.clone()]).attach();
    let mut request = host::Headers::new();
    for (name, value) in [
        (":method", "GET"),
        (":path", "/ws"),
        (":authority", "cases.invalid"),
        (":scheme", "https"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "Y2FzZXMgb2YgYSBtb2R1bA=="),
        ("sec-websocket-protocol", SUBPROTOCOL_JSON),
    ] {
        request.add(name, value);
    }
    if let Some(claims) = &case.claims {
        request.add(CLAIMS_HEADER, URL_SAFE_NO_PAD.encode(claims.to_string()).as_str());
    }
    let mut stream = match (chain.open(&mut request, Rc::new(NoProperties)), &case.refused) {
        (host::Opening::Stream(stream), None) => stream,
        (host::Opening::Stream(stream), Some(refused)) => {
            chain.close(stream);
            return Err(format!("the handshake passes, and should be refused with {}", refused.status));
        }
        (host::Opening::Refused(response), Some(refused)) => return refused.is(&response),
        (host::Opening::Refused(response), None) => {
            let body = String::from_utf8_lossy(&response.body);
            return Err(format!("the handshake is refused with {} {}", response.status, shown(&body)));
        }
        (host::Opening::Failed { cause, .. }, _) => return Err(format!("the handshake fails: {cause}")),
    };
    let result = talk(&mut chain, &mut stream, &case.turns);
    chain.close(stream);
    result
}

impl RefusedAs {
    fn is(&self, response: &host::LocalResponse) -> Result<(), String> {
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let code = body["code"].as_str();
        if response.status == self.status && self.code.as_deref().is_none_or(|wanted| code == Some(wanted)) {
            return Ok(());
        }
        let wanted = self.code.as_deref().unwrap_or("any code");
        let found = shown(&String::from_utf8_lossy(&response.body));
        Err(format!(
            "the handshake is refused with {} {found}, and should be with {} {wanted}",
            response.status, self.status
        ))
    }
}

fn talk(chain: &mut host::WorkerChain, stream: &mut host::ChainStream, turns: &[Turn]) -> Result<(), String> {
    let mut response: host::Headers =
        [(":status", "101"), ("sec-websocket-protocol", SUBPROTOCOL_JSON)].into_iter().collect();
    chain.response_headers(stream, &mut response).map_err(|end| format!("the server's answer is refused: {end:?}"))?;
    for (index, turn) in turns.iter().enumerate() {
        let place = |what: String| format!("turn {}: {what}", index + 1);
        let heard = say(chain, stream, turn).map_err(place)?;
        heard.is(turn).map_err(place)?;
    }
    Ok(())
}

/// What came of a turn.
#[derive(Default)]
struct Heard {
    server: Vec<Value>,
    client: Vec<Value>,
    closed: Option<u16>,
}

fn say(chain: &mut host::WorkerChain, stream: &mut host::ChainStream, turn: &Turn) -> Result<Heard, String> {
    let ended = |end: host::StreamEnd| format!("the filter ends the connection: {end:?}");
    let mut heard = Heard::default();
    let mut answers = Vec::new();
    match (&turn.client, &turn.server) {
        (Some(message), None) => {
            let mut bytes = Vec::new();
            frame::encode(&mut bytes, true, Opcode::Text, message.to_string().as_bytes(), Some([1, 2, 3, 4]));
            chain.request_data(stream, &mut bytes).map_err(ended)?;
            for (opcode, payload) in frames(Sender::Client, bytes)? {
                match opcode {
                    Opcode::Text => heard.server.push(read(&payload)?),
                    Opcode::Ping => frame::encode(&mut answers, true, Opcode::Pong, &payload, None),
                    _ => {}
                }
            }
        }
        (None, Some(message)) => {
            frame::encode(&mut answers, true, Opcode::Text, message.to_string().as_bytes(), None);
        }
        _ => return Err("exactly one of client and server must speak".into()),
    }
    if answers.is_empty() {
        return Ok(heard);
    }
    chain.response_data(stream, &mut answers).map_err(ended)?;
    for (opcode, payload) in frames(Sender::Server, answers)? {
        match (opcode, payload.first_chunk::<2>()) {
            (Opcode::Text, _) => heard.client.push(read(&payload)?),
            (Opcode::Close, Some(code)) => heard.closed = Some(u16::from_be_bytes(*code)),
            _ => {}
        }
    }
    Ok(heard)
}

impl Heard {
    fn is(&self, turn: &Turn) -> Result<(), String> {
        for (who, wanted, found) in
            [("server", &turn.to_server, &self.server), ("client", &turn.to_client, &self.client)]
        {
            let Some(wanted) = wanted else { continue };
            let same =
                wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| holds(found, wanted));
            if !same {
                let text = |messages: &[Value]| shown(&Value::from(messages).to_string());
                return Err(format!("the {who} gets {}, and should get {}", text(found), text(wanted)));
            }
        }
        match (turn.closed, self.closed) {
            (Some(wanted), found) if found != Some(wanted) => Err(format!(
                "the client should be closed with {wanted}, and {}",
                match found {
                    Some(code) => format!("is with {code}"),
                    None => "is not".into(),
                }
            )),
            (None, Some(code)) => Err(format!("the client is closed with {code}, and should not be")),
            _ => Ok(()),
        }
    }
}

/// Whether `found` has all that `wanted` has; of objects it may have more.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| holds(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        _ => found == wanted,
    }
}

fn frames(sender: Sender, mut bytes: Vec<u8>) -> Result<Vec<(Opcode, Vec<u8>)>, String> {
    let mut decoder = Decoder::new(sender, u32::MAX);
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let decoded =
            decoder.decode(&mut bytes[at..]).map_err(|error| format!("the filter writes a bad frame: {error}"))?;
        let Some(frame) = decoded else { return Err("the filter writes half a frame".into()) };
        at += frame.header.frame_len();
        frames.push((frame.header.opcode, frame.payload.to_vec()));
    }
    Ok(frames)
}

fn read(payload: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(payload).map_err(|error| format!("the filter writes no JSON: {error}"))
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_BYTES_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
