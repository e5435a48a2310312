//! What filters ask of this host for a session, and what it tells them of it: when to judge anew, how late messages
//! are, how much may be delivered. It travels as properties of the stream, so that the edge knows no policy, and a
//! module that says nothing is served as ever.

use std::cell::Cell;

use serde::Deserialize;

/// How late the public messages of a session are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Late {
    /// As they come.
    #[default]
    Now,
    /// By this many milliseconds, all of them.
    Ms(u32),
    /// The state at the end of the trading day.
    Close,
}

/// What all filters of a chain ask together: the strictest of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// What the stream had stored when this was read.
    pub version: u32,
    /// The session is judged anew at this instant, in nanoseconds since the epoch.
    pub until: Option<i64>,
    /// How late its public messages are.
    pub late: Late,
    /// Messages that may be delivered.
    pub messages: Option<u64>,
    /// Bytes that may be delivered.
    pub bytes: Option<u64>,
    /// What the verdicts rest on, with versions, by filter.
    pub basis: String,
}

#[derive(Deserialize)]
struct Asked {
    until: Option<i64>,
    delay: Option<Delay>,
    messages: Option<u64>,
    bytes: Option<u64>,
    #[serde(default)]
    basis: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Delay {
    Ms(u32),
    EndOfDay,
}

impl Grants {
    /// Reads what filters stored, by filter. What cannot be read is held for the strictest: nothing passes before its
    /// filter is asked again.
    pub fn read(stored: Vec<(String, Vec<u8>)>, version: u32) -> Self {
        let mut all = Self { version, ..Self::default() };
        for (filter, text) in stored {
            let asked: Asked = match serde_json::from_slice(&text) {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::error!(filter, %error, "a filter asks for something that cannot be read");
                    all.late = Late::Close;
                    continue;
                }
            };
            let late = match asked.delay {
                None => Late::Now,
                Some(Delay::Ms(ms)) => Late::Ms(ms),
                Some(Delay::EndOfDay) => Late::Close,
            };
            all.late = all.late.max(late);
            all.until = least(all.until, asked.until);
            all.messages = least(all.messages, asked.messages);
            all.bytes = least(all.bytes, asked.bytes);
            if !asked.basis.is_empty() {
                if !all.basis.is_empty() {
                    all.basis.push_str(", ");
                }
                all.basis.push_str(&asked.basis);
            }
        }
        all
    }
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What this host says of a session, beyond what Envoy would.
#[derive(Debug, Default)]
pub struct HostFacts {
    speaks: Cell<bool>,
    again: Cell<bool>,
    replay: Cell<bool>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
}

impl HostFacts {
    /// From now on filters are told: the session is of a channel route, where what they ask is kept.
    pub fn speak(&self) {
        self.speaks.set(true);
    }

    /// The session was admitted: whoever judges it from now on does so again.
    pub fn opened(&self) {
        self.again.set(true);
    }

    /// Whether the next request is one that was admitted before.
    pub fn replay(&self, replay: bool) {
        self.replay.set(replay);
    }

    /// Messages were delivered.
    pub fn delivered(&self, messages: u64, bytes: u64) {
        self.messages.set(self.messages.get().saturating_add(messages));
        self.bytes.set(self.bytes.get().saturating_add(bytes));
    }

    /// Whether one more message may be delivered. One that goes beyond the last byte is the last.
    pub fn may_deliver(&self, grants: &Grants) -> bool {
        grants.messages.is_none_or(|most| self.messages.get() < most)
            && grants.bytes.is_none_or(|most| self.bytes.get() < most)
    }

    /// A stream has been closed: what is delivered from now on is another's.
    pub fn forget_delivered(&self) {
        self.messages.set(0);
        self.bytes.set(0);
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            "host" if self.speaks.get() => Some(
                serde_json::json!({
                    "again": self.again.get(),
                    "delays": true,
                    "delivered_messages": self.messages.get(),
                    "delivered_bytes": self.bytes.get(),
                })
                .to_string()
                .into_bytes(),
            ),
            "replay" if self.replay.get() => Some(vec![1]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_filters_ask_the_strictest_stands() {
        let stored = |texts: &[&str]| {
            let texts = texts.iter().enumerate();
            Grants::read(texts.map(|(at, text)| (at.to_string(), text.as_bytes().to_vec())).collect(), 1)
        };
        let both = stored(&[
            r#"{"until":5,"delay":{"ms":900000},"basis":"L-1 basic"}"#,
            r#"{"until":3,"messages":7,"bytes":9}"#,
        ]);
        let wanted = Grants {
            version: 1,
            until: Some(3),
            late: Late::Ms(900_000),
            messages: Some(7),
            bytes: Some(9),
            basis: "L-1 basic".into(),
        };
        assert_eq!(both, wanted);
        assert_eq!(stored(&[r#"{"delay":"end_of_day"}"#, r#"{"delay":{"ms":1}}"#]).late, Late::Close);
        assert_eq!(
            stored(&[r#"{"delay":"never"}"#]).late,
            Late::Close,
            "what cannot be read is held for the strictest"
        );
        assert_eq!(stored(&[]).late, Late::Now);
    }
}
