//! Who a session is: the verified claims and the handshake, parsed once.
//!
//! Verifies nothing: whoever wrote the claims header did (our edge, or Envoy's `jwt_authn`).

use bawaba_channels::claims::Claims;
use bawaba_channels::wire::Timestamp;
use serde_json::Value;

use crate::host::Host;

/// A session, for the messages that come from its client.
///
/// Claims are kept as the text they came in and read anew at each call, because an idle session should cost its
/// text and no more: a policy takes what it needs once, in `remember` or `connect`, into its memory.
#[derive(Clone, Debug)]
pub struct Session {
    /// Checked when the session began; empty when no token was verified.
    pub(crate) claims: Box<[u8]>,
    pub(crate) path: Box<str>,
    pub(crate) websocket: bool,
    pub(crate) cohort: bool,
    pub(crate) now: Timestamp,
    /// `None` where the host says nothing of a session: in Envoy.
    pub(crate) host: Option<Host>,
    pub(crate) replay: bool,
}

impl Session {
    /// The claims that this project reads; all absent when no token was verified.
    pub fn claims(&self) -> Claims {
        Claims::from_json(&self.claims).unwrap_or_default()
    }

    /// Every claim, as the token has it; `null` when no token was verified.
    pub fn raw_claims(&self) -> Value {
        serde_json::from_slice(&self.claims).unwrap_or(Value::Null)
    }

    /// Whether a token was verified for this session.
    pub const fn is_verified(&self) -> bool {
        !self.claims.is_empty()
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

    /// What the host says of the session; `None` in Envoy.
    pub const fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Whether the request at hand is repeated by the host after the session was judged anew: it was admitted before.
    pub const fn is_replay(&self) -> bool {
        self.replay
    }
}

/// Whom a message goes to: only the facts that the policy declared in `AUDIENCE`.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    pub(crate) session: &'a Session,
    pub(crate) declared: Option<&'static [&'static str]>,
}

impl Audience<'_> {
    /// The claim at a JSON pointer, read anew. Absent if the claims have none, and for every pointer that is neither declared
    /// nor under a declared one: a verdict that leaned on it would be wrong for the rest of the cohort.
    pub fn fact(&self, pointer: &str) -> Option<Value> {
        let declared = |list: &[&str]| {
            list.iter()
                .any(|known| pointer.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        if !self.declared.is_none_or(declared) {
            return None;
        }
        self.session.raw_claims().pointer_mut(pointer).map(Value::take).filter(|fact| !fact.is_null())
    }

    /// The claims reduced to the declared facts, in their places.
    pub fn facts(&self) -> Value {
        match self.declared {
            None => self.session.raw_claims(),
            Some(declared) => restrict(&self.session.raw_claims(), declared),
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
