//! Cohorts: sessions for which the policies give every public message the same verdict, because they have the same
//! declared facts. One stream through the chain judges for all of them.
//!
//! Fails closed: a cohort whose stream cannot be opened, or that a filter ended, passes nothing until it can judge again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, Event, SUBPROTOCOL_PROTO};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::chain::{ChainStream, Facts, Headers, RouteChain};
use crate::generation::Audience;

/// Tells filters that the stream stands for a cohort.
const COHORT_HEADER: &str = "x-bawaba-cohort";
/// How long a cohort that cannot be opened waits before it is tried again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// Largest message that comes out of a chain.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// Which cohort: the route, and the declared facts (or the session, where the policies declared none).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CohortKey {
    route: String,
    /// Sessions on a canary are judged by other filters.
    is_canary: bool,
    facts: String,
}

/// See the module.
pub(crate) struct Cohort {
    pub(crate) key: CohortKey,
    pub(crate) chain: Rc<RouteChain>,
    /// Sessions in it.
    pub(crate) members: usize,
    request: Headers,
    facts: Rc<Facts>,
    stream: Option<ChainStream>,
    reopen_at: Option<Instant>,
    buffer: Vec<u8>,
}

impl Cohort {
    /// The cohort of a session: its key, before any stream is opened.
    pub(crate) fn key(chain: &RouteChain, claims: &Value, session: &str) -> CohortKey {
        let facts = match chain.audience() {
            Audience::Nothing => String::new(),
            Audience::Facts(pointers) => restrict(claims, pointers).to_string(),
            // A refreshed session is judged by its new claims.
            Audience::Everything => format!("session {session} {:x}", Sha256::digest(claims.to_string())),
        };
        CohortKey { route: chain.route().name().to_owned(), is_canary: chain.route().is_canary, facts }
    }

    /// An empty cohort. `claims` and `facts` are those of one of its sessions.
    pub(crate) fn new(key: CohortKey, chain: Rc<RouteChain>, claims: &Value, facts: &Rc<Facts>) -> Self {
        let of_all = |declared: &Value| {
            let request = cohort_request(chain.route().name(), declared);
            let facts = Facts::of_cohort(chain.route(), &request);
            (request, facts)
        };
        let (request, facts) = match chain.audience() {
            Audience::Nothing => of_all(&Value::Object(serde_json::Map::new())),
            Audience::Facts(pointers) => of_all(&restrict(claims, pointers)),
            Audience::Everything => (as_proto(&facts.request()), Rc::clone(facts)),
        };
        Self { key, chain, members: 0, request, facts, stream: None, reopen_at: None, buffer: Vec::new() }
    }

    /// Judges one public message: what its sessions may see, in order; nothing when it is refused.
    pub(crate) fn judge(&mut self, event: &Event, now: Instant) -> Vec<Event> {
        if self.chain.is_empty() {
            return vec![event.clone()];
        }
        if !self.ensure_open(now) {
            return Vec::new();
        }
        let Some(stream) = &mut self.stream else { return Vec::new() };
        let mut payload = Vec::with_capacity(256);
        event.encode(Encoding::Proto, &mut payload);
        self.buffer.clear();
        frame::encode(&mut self.buffer, true, Opcode::Binary, &payload, None);
        if let Err(ended) = self.chain.outbound(stream, &mut self.buffer) {
            tracing::warn!(
                route = self.chain.route().name(),
                ?ended,
                "a cohort's stream ended: its message is refused"
            );
            self.close();
            return Vec::new();
        }
        match read_events(&mut self.buffer) {
            Some(events) => events,
            None => {
                tracing::warn!(
                    route = self.chain.route().name(),
                    "a filter sent a cohort what cannot be read: refused"
                );
                self.close();
                Vec::new()
            }
        }
    }

    fn ensure_open(&mut self, now: Instant) -> bool {
        if self.stream.is_some() {
            return true;
        }
        if self.reopen_at.is_some_and(|at| at > now) {
            return false;
        }
        self.reopen_at = Some(now + REOPEN_AFTER);
        let mut request = self.request.clone();
        let mut stream = match self.chain.open(&mut request, &self.facts) {
            Ok(stream) => stream,
            Err(refused) => {
                tracing::warn!(route = self.chain.route().name(), ?refused, "a cohort is refused by its own filters");
                return false;
            }
        };
        let mut response = vec![
            (":status".to_owned(), "101".to_owned()),
            ("sec-websocket-protocol".to_owned(), SUBPROTOCOL_PROTO.to_owned()),
        ];
        if let Err(ended) = self.chain.answer(&mut stream, &mut response) {
            tracing::warn!(route = self.chain.route().name(), ?ended, "a cohort is refused by its own filters");
            self.chain.close(stream);
            return false;
        }
        self.stream = Some(stream);
        true
    }

    /// Ends its stream; the next message opens another.
    pub(crate) fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.chain.close(stream);
        }
    }
}

/// The messages in a run of server frames in protobuf form; `None` if any cannot be read. Control frames are left
/// out: a cohort has no client to close.
fn read_events(frames: &mut [u8]) -> Option<Vec<Event>> {
    let mut decoder = Decoder::new(Sender::Server, MESSAGE_BYTES_MAX);
    let mut assembler = Assembler::new();
    let (mut events, mut at) = (Vec::with_capacity(1), 0);
    while at < frames.len() {
        let frame = decoder.decode(&mut frames[at..]).ok()??;
        at += frame.header.frame_len();
        match assembler.push(frame).ok()? {
            Some(Message::Binary(payload)) => events.push(Event::decode(Encoding::Proto, payload).ok()?),
            Some(Message::Text(_)) => return None,
            Some(Message::Ping(_) | Message::Pong(_) | Message::Close(_)) | None => {}
        }
    }
    decoder.at_message_boundary().then_some(events)
}

/// The handshake of a cohort: nothing of any one session but the declared facts.
fn cohort_request(route: &str, facts: &Value) -> Headers {
    [
        (":method", "GET"),
        (":path", "/"),
        (":authority", route),
        (":scheme", "https"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", SUBPROTOCOL_PROTO),
        (CLAIMS_HEADER, &URL_SAFE_NO_PAD.encode(facts.to_string())),
        (COHORT_HEADER, "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A session's own handshake, for messages in protobuf form.
fn as_proto(request: &Headers) -> Headers {
    let mut request: Headers = request.iter().filter(|(name, _)| name != "sec-websocket-protocol").cloned().collect();
    request.push(("sec-websocket-protocol".to_owned(), SUBPROTOCOL_PROTO.to_owned()));
    request
}

/// The part of `claims` that the JSON pointers name, in its place.
fn restrict(claims: &Value, pointers: &[String]) -> Value {
    let mut kept = serde_json::Map::new();
    for pointer in pointers {
        let Some(fact) = claims.pointer(pointer).filter(|fact| !fact.is_null()) else { continue };
        let mut steps = pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).peekable();
        let mut at = &mut kept;
        while let Some(step) = steps.next() {
            if steps.peek().is_none() {
                at.insert(step, fact.clone());
                break;
            }
            let next = at.entry(step).or_insert_with(|| Value::Object(serde_json::Map::new()));
            let Value::Object(map) = next else { break };
            at = map;
        }
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cohort_knows_the_declared_facts_and_nothing_else() {
        let claims =
            json!({"sub": "amina", "islamic": {"mode": "filter", "boards": ["EGX33"], "note": 7}, "tier": "islamic"});
        let pointers = ["/islamic/mode", "/islamic/boards", "/islamic/rule"].map(str::to_owned);
        assert_eq!(restrict(&claims, &pointers), json!({"islamic": {"mode": "filter", "boards": ["EGX33"]}}));
        assert_eq!(restrict(&json!({"islamic": "filter"}), &pointers), json!({}));
        assert_eq!(restrict(&json!(null), &pointers), json!({}));
        let whole = ["/islamic".to_owned(), "/islamic/mode".to_owned()];
        assert_eq!(restrict(&claims, &whole)["islamic"], claims["islamic"]);
    }
}
