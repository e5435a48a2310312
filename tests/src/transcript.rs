//! What a client received, written down so that two hosts can be compared line by line.
//!
//! Only what must or may differ is normalised: random ids, clocks, the names of subscriptions and orders (numbered in
//! the order in which they appear), and the order of the symbols in an answer.

use std::collections::BTreeMap;

use bawaba_channels::wire::Event;
use serde_json::Value;
use tungstenite::Message;

use crate::client::{Client, End};
use crate::{Deadline, PATIENCE, by};

/// Fields whose value is a clock or a random id.
const VARIES: &[&str] = &["session", "server_time", "filtered_at"];
/// Fields whose value is a name that a server made up; equal names stay equal.
const NAMES: &[&str] = &["subscription", "order_id", "trade_id"];

/// The lines of one connection.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The lines, in their order.
    pub lines: Vec<String>,
    names: BTreeMap<(String, String), usize>,
    /// The last real value of each name field, for requests that refer to it.
    latest: BTreeMap<String, String>,
}

impl Transcript {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a line of the test's own.
    pub fn note(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// The last real value of a name field, such as `subscription`.
    pub fn latest(&self, field: &str) -> Option<&str> {
        self.latest.get(field).map(String::as_str)
    }

    /// The first of `parts` that is not there, behind those before it.
    pub fn lacks<'a>(&self, parts: &[&'a str]) -> Option<&'a str> {
        let text = self.lines.join("\n");
        let mut rest = text.as_str();
        for part in parts {
            match rest.split_once(part) {
                Some((_, behind)) => rest = behind,
                None => return Some(part),
            }
        }
        None
    }

    /// Writes what comes next, and returns it if it is an event; `Err` when the connection has ended.
    pub fn take(&mut self, client: &mut Client, deadline: Deadline) -> Result<Option<Value>, End> {
        match client.message(deadline) {
            Ok(Message::Text(text)) => {
                let event = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(&*text));
                self.event("text", event.clone());
                Ok(Some(event))
            }
            Ok(Message::Binary(bytes)) => {
                let event = match Event::decode_proto(&bytes) {
                    Ok(event) => {
                        let mut json = Vec::new();
                        event.to_json(&mut json);
                        serde_json::from_slice(&json).expect("events are JSON")
                    }
                    Err(error) => Value::from(format!("{error}: {bytes:?}")),
                };
                self.event("binary", event.clone());
                Ok(Some(event))
            }
            // Heartbeats come by the clock; they are no part of the conversation.
            Ok(Message::Ping(_)) => Ok(None),
            Ok(other) => {
                self.note(format!("{other:?}"));
                Ok(None)
            }
            Err(end) => {
                let line = match &end {
                    // The reason is for people; the code is the protocol.
                    End::Close(code, _) => format!("close {code:?}"),
                    End::Cut => "cut".into(),
                };
                self.note(line);
                Err(end)
            }
        }
    }

    /// Writes what comes up to and with the first event that `wanted` accepts; stops at the end of the connection.
    pub fn until(&mut self, client: &mut Client, wanted: impl Fn(&Value) -> bool) {
        loop {
            match self.take(client, by(PATIENCE)) {
                Ok(Some(event)) if wanted(&event) => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Writes what comes up to the end of the connection.
    pub fn to_end(&mut self, client: &mut Client) {
        while self.take(client, by(PATIENCE)).is_ok() {}
    }

    fn event(&mut self, frame: &str, mut event: Value) {
        // An order is placed when this client places it; a quote has its time from the exchange.
        if matches!(event["type"].as_str(), Some("order_update" | "position_update")) {
            event["time"] = "<time>".into();
        }
        // An answer names symbols in any order.
        for list in ["accepted", "refused"] {
            if let Some(Value::Array(symbols)) = event.get_mut(list) {
                symbols.sort_by(|a, b| a["symbol"].as_str().cmp(&b["symbol"].as_str()));
            }
        }
        self.normalise(&mut event);
        self.note(format!("{frame} {event}"));
    }

    /// Replaces what must differ between two runs.
    pub fn normalise(&mut self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (key, inner) in object {
                    if VARIES.contains(&key.as_str()) {
                        *inner = Value::from(format!("<{key}>"));
                    } else if let (true, Value::String(name)) = (NAMES.contains(&key.as_str()), &*inner) {
                        self.latest.insert(key.clone(), name.clone());
                        let next = self.names.len() + 1;
                        let number = *self.names.entry((key.clone(), name.clone())).or_insert(next);
                        *inner = Value::from(format!("<{key} {number}>"));
                    } else {
                        self.normalise(inner);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|inner| self.normalise(inner)),
            _ => {}
        }
    }
}
