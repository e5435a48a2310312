//! Who a session is: the verified claims and the handshake, parsed once.
//!
//! Verifies nothing: whoever wrote the claims header did (our edge, or Envoy's `jwt_authn`).

use bawaba_channels::claims::Claims;
use bawaba_channels::wire::Timestamp;
use serde_json::Value;

/// A session, for the messages that come from its client.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) claims: Claims,
    pub(crate) facts: Value,
    pub(crate) verified: bool,
    pub(crate) path: String,
    pub(crate) websocket: bool,
    pub(crate) cohort: bool,
    pub(crate) now: Timestamp,
}

impl Session {
    /// The claims that this project reads; all absent when no token was verified.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Every claim, as the token has it; `null` when no token was verified.
    pub const fn raw_claims(&self) -> &Value {
        &self.facts
    }

    /// Whether a token was verified for this session.
    pub const fn is_verified(&self) -> bool {
        self.verified
    }

    /// The request's path, without its query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the request asks for a WebSocket (else it is plain HTTP, and only `connect` sees it).
    pub const fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// The instant of this callback.
    pub const fn now(&self) -> Timestamp {
        self.now
    }
}

/// Whom a message goes to: only the facts that the policy declared in `AUDIENCE`.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    pub(crate) session: &'a Session,
    pub(crate) declared: Option<&'static [&'static str]>,
}

impl<'a> Audience<'a> {
    /// The claim at a JSON pointer. Absent if the claims have none, and for every pointer that is neither declared
    /// nor under a declared one: a verdict that leaned on it would be wrong for the rest of the cohort.
    pub fn fact(&self, pointer: &str) -> Option<&'a Value> {
        let declared = |list: &[&str]| {
            list.iter()
                .any(|known| pointer.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        if !self.declared.is_none_or(declared) {
            return None;
        }
        self.session.facts.pointer(pointer).filter(|fact| !fact.is_null())
    }

    /// The claims reduced to the declared facts, in their places.
    pub fn facts(&self) -> Value {
        match self.declared {
            None => self.session.facts.clone(),
            Some(declared) => restrict(&self.session.facts, declared),
        }
    }

    /// Whether this stream stands for a whole cohort of sessions.
    pub const fn is_cohort(&self) -> bool {
        self.session.cohort
    }

    /// The instant of this callback.
    pub const fn now(&self) -> Timestamp {
        self.session.now
    }
}

/// The part of `claims` that the JSON pointers name (object members only; claims hold no fact inside a list).
pub fn restrict(claims: &Value, pointers: &[&str]) -> Value {
    let mut kept = Value::Object(serde_json::Map::new());
    for pointer in pointers {
        let Some(fact) = claims.pointer(pointer) else { continue };
        let mut at = &mut kept;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let Value::Object(map) = at else { break };
            at = map.entry(step).or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
        *at = fact.clone();
    }
    kept
}
