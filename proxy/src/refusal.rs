//! A request that is not let in: its word, its HTTP status, a sentence for people, and the JSON that says so.

use std::borrow::Cow;

use bawaba_channels::reason::Reason;
use bytes::Bytes;

use crate::downstream::HandshakeReply;

/// Why and how a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable word.
    pub reason: Reason,
    /// HTTP status.
    pub status: u16,
    /// What is wrong, for people.
    pub detail: Cow<'static, str>,
    /// Further headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
}

impl Refusal {
    /// With the reason's own status and sentence; 429 and 503 say when to come back.
    pub fn new(reason: Reason) -> Self {
        let status = reason.http_status();
        let mut headers = Vec::new();
        if matches!(status, 429 | 503) {
            headers.push(("retry-after", "1".to_owned()));
        }
        if status == 401 {
            headers.push(("www-authenticate", "Bearer".to_owned()));
        }
        Self { reason, status, detail: Cow::Borrowed(reason.sentence()), headers }
    }

    /// The same, with a more exact sentence.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same, with another status.
    pub const fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same, with a further header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The JSON body: `{"code": word, "reason": sentence}`.
    pub fn body(&self) -> Bytes {
        Bytes::from(serde_json::json!({"code": self.reason.word(), "reason": self.detail}).to_string())
    }

    /// The answer to a handshake that says so.
    pub fn reply(&self) -> HandshakeReply {
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        headers.extend(self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        HandshakeReply { status: self.status, headers, body: self.body() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_word_and_when_to_come_back() {
        let reply = Refusal::new(Reason::EdgeDraining).reply();
        assert_eq!(reply.status, 503);
        assert!(reply.headers.contains(&("retry-after".into(), "1".into())));
        assert!(reply.body.starts_with(br#"{"code":"edge.draining","reason":"#));
    }
}
