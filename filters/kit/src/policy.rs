//! What an author writes: a [`Policy`], and what it answers: a [`Verdict`].
//!
//! Knows no frame, no host and no proxy-wasm: the kit turns verdicts into bytes.

use std::borrow::Cow;

use bawaba_channels::close::CloseCode;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Metadata, Timestamp};
use serde::de::DeserializeOwned;

use crate::host::Grant;
use crate::message::Message;
use crate::session::{Audience, Session};

/// A rule over the messages of a session.
///
/// The policy itself is built once from its settings and shared by every session, so it is read-only; what it
/// must keep about one session lives in its `Memory`. Time comes with the session or audience, never from a
/// clock. A panic refuses: the host throws the VM away and applies its `on_failure`.
pub trait Policy: Sized + 'static {
    /// Short name, for log lines.
    const NAME: &'static str;

    /// The facts that `outbound` verdicts on public messages depend on, as JSON pointers into the claims. Sessions
    /// with equal facts share one verdict at our edge. `Some(&[])`: on nothing; `None`: on everything, so that
    /// every session is judged by itself.
    const AUDIENCE: Option<&'static [&'static str]>;

    /// The configuration; derive `Deserialize` with `#[serde(deny_unknown_fields)]`.
    type Settings: DeserializeOwned;

    /// What is kept of one session between its messages.
    type Memory;

    /// Builds the policy. The error is for the operator: what is wrong and what to write instead.
    fn configure(settings: Self::Settings) -> Result<Self, String>;

    /// Begins a session's memory from the declared facts.
    fn remember(&self, audience: &Audience<'_>) -> Self::Memory;

    /// Judges the handshake. [`Verdict::Refuse`] answers HTTP with the reason's status; `Drop` and `Close` are read
    /// as a refusal too.
    fn connect(&self, session: &Session, memory: &mut Self::Memory) -> Verdict {
        let _ = (session, memory);
        Verdict::Pass
    }

    /// Judges a message from the client.
    fn inbound(&self, session: &Session, memory: &mut Self::Memory, message: &mut Message<'_>) -> Verdict {
        let _ = (session, memory, message);
        Verdict::Pass
    }

    /// Judges a message to the client. There is nobody to answer, so `Refuse` is read as `Drop`.
    fn outbound(&self, audience: &Audience<'_>, memory: &mut Self::Memory, message: &mut Message<'_>) -> Verdict {
        let _ = (audience, memory, message);
        Verdict::Pass
    }

    /// What the host is asked for the session, now. Asked after `connect` and after each request.
    fn grant(&self, session: &Session, memory: &Self::Memory) -> Grant {
        let _ = (session, memory);
        Grant::default()
    }

    /// The session is over, or was refused by another filter: gives back what it held. Not called when the VM failed.
    fn close(&self, session: &Session, memory: &mut Self::Memory) {
        let _ = (session, memory);
    }

    /// About once a second, for the policy as a whole.
    fn tick(&self, now: Timestamp) {
        let _ = now;
    }

    /// When the session must end by itself, if it must. Asked once, after `connect` passed.
    fn end(&self, session: &Session, memory: &Self::Memory) -> Option<End> {
        let _ = (session, memory);
        None
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Verdict {
    /// It passes, with the edits that were made on it; untouched, its bytes are not even copied.
    Pass,
    /// It goes no further, and nobody is told.
    Drop,
    /// It goes no further; the client gets an `error` event with the request's id.
    Refuse(Refusal),
    /// The client gets a Close frame with this code and sentence; then nothing more passes either way.
    Close(CloseCode, Cow<'static, str>),
}

impl Verdict {
    /// Refuses with the reason's own sentence.
    pub const fn refuse(reason: Reason) -> Self {
        Self::Refuse(Refusal::new(reason))
    }

    /// Closes with `code`; the reason's word is the close reason.
    pub const fn close(code: CloseCode, reason: Reason) -> Self {
        Self::Close(code, Cow::Borrowed(reason.word()))
    }
}

/// Why something was refused, and what the client is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The stable word.
    pub reason: Reason,
    /// The sentence for people, if the reason's own does not say enough.
    pub detail: Option<String>,
    /// When trying again may help.
    pub retry_after_ms: Option<u32>,
    /// The compliance verdict on a symbol that is refused.
    pub metadata: Option<Box<Metadata>>,
}

impl Refusal {
    /// For this reason, with its own sentence.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, detail: None, retry_after_ms: None, metadata: None }
    }

    /// With a sentence of its own.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With the compliance verdict that it comes of.
    #[must_use]
    pub fn screened(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(Box::new(metadata));
        self
    }

    /// The sentence for people.
    pub fn sentence(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.reason.sentence())
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

/// The end of a session that is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// The code of the Close frame.
    pub code: CloseCode,
    /// The reason in it.
    pub reason: Reason,
}

/// The protocol's reason for a reason of the rules. The two tables are held equal by a test.
pub fn reason_of(reason: bawaba_policies::Reason) -> Reason {
    reason.word().parse().unwrap_or(Reason::EdgeFilterFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_rules_is_a_reason_of_the_protocol() {
        for reason in bawaba_policies::Reason::ALL {
            let same = reason_of(*reason);
            assert_eq!((same.word(), same.sentence()), (reason.word(), reason.sentence()));
        }
    }
}
