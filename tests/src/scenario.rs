//! A conversation as data: what a client sends, and what it waits for; run against any host.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bawaba_channels::wire::Encoding;
use serde_json::{Value, json};

use crate::client::{Client, Connect};
use crate::keys::Keys;
use crate::transcript::Transcript;
use crate::{PATIENCE, by};

/// One conversation.
pub struct Scenario {
    /// The law that it shows.
    pub law: &'static str,
    /// Who speaks.
    pub who: Who,
    /// In which form.
    pub encoding: Encoding,
    /// What is sent and waited for, after `welcome`.
    pub steps: Vec<Step>,
    /// What each transcript must hold, in this order: equal is not enough where both could be wrong.
    pub says: &'static [&'static str],
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Licensed for everything, not screened.
    Unscreened,
    /// Licensed for everything, screened by EGX33.
    Screened,
    /// Screened by two boards, all of which must allow.
    TwoBoards,
    /// Sees everything, with the board's opinion beside it.
    Annotated,
    /// On the basic tier, EGX only.
    Basic,
}

/// A step of a conversation.
pub enum Step {
    /// Sends a request; `$subscription` and `$order_id` in it stand for the last that the server named.
    Send(Value),
    /// Writes bytes, as few at a time as TCP lets through.
    Trickle(Vec<u8>),
    /// Writes bytes at once.
    Bytes(Vec<u8>),
    /// Waits for the answer with this id.
    Answer(u64),
    /// Waits for snapshots of exactly these symbols.
    Snapshots(&'static [&'static str]),
    /// Waits for an event of this type.
    Type(&'static str),
    /// Starts the closing handshake.
    Close,
    /// Waits for the end of the connection.
    End,
}

impl Scenario {
    /// A conversation in the JSON form.
    pub fn new(law: &'static str, who: Who, steps: Vec<Step>) -> Self {
        Self { law, who, encoding: Encoding::Json, steps, says: &[] }
    }

    /// What each transcript must hold, in this order.
    pub fn says(mut self, parts: &'static [&'static str]) -> Self {
        self.says = parts;
        self
    }

    /// The same in the protobuf form.
    pub fn proto(mut self) -> Self {
        self.encoding = Encoding::Proto;
        self
    }

    /// Speaks it with the host at `address`, and writes down what came back. Each host gets a user of its own, as
    /// accounts are behind both.
    pub fn run(&self, address: SocketAddr, keys: &Keys, host: &str) -> Transcript {
        let mut transcript = Transcript::new();
        let connect =
            Connect::with_token(&self.who.token(keys, &format!("{} at {host}", self.law))).encoding(self.encoding);
        let mut client = match connect.open(address) {
            Ok(client) => client,
            Err(answer) => {
                transcript.note(format!("{} {}", answer.status, answer.text()));
                return transcript;
            }
        };
        let selected = client.handshake().header("sec-websocket-protocol");
        transcript.note(format!("101 {selected:?}"));
        transcript.until(&mut client, |event| event["type"] == "welcome");
        for step in &self.steps {
            step.run(&mut client, &mut transcript);
        }
        transcript
    }
}

impl Step {
    fn run(&self, client: &mut Client, transcript: &mut Transcript) {
        match self {
            Self::Send(request) => client.send(filled(request.clone(), transcript)),
            Self::Trickle(bytes) => {
                for byte in bytes {
                    if client.send_bytes(&[*byte]).is_err() {
                        return transcript.note("can't send");
                    }
                    std::thread::yield_now();
                }
            }
            Self::Bytes(bytes) => {
                if client.send_bytes(bytes).is_err() {
                    transcript.note("can't send");
                }
            }
            Self::Answer(id) => transcript.until(client, |event| event["id"] == *id),
            Self::Type(kind) => transcript.until(client, |event| event["type"] == *kind),
            Self::Snapshots(symbols) => {
                let first = transcript.lines.len();
                let mut missing: BTreeSet<&str> = symbols.iter().copied().collect();
                while !missing.is_empty() {
                    let Ok(event) = transcript.take(client, by(PATIENCE)) else {
                        return;
                    };
                    let event = event.unwrap_or_default();
                    if event["snapshot"] == true {
                        missing.remove(event["symbol"].as_str().unwrap_or_default());
                    }
                }
                // Instruments are streams of their own: their snapshots come in any order.
                transcript.lines[first..].sort();
            }
            Self::Close => client.close(),
            Self::End => transcript.to_end(client),
        }
    }
}

fn filled(mut request: Value, transcript: &Transcript) -> Value {
    for field in ["subscription", "order_id"] {
        if request[field] == format!("${field}") {
            request[field] = transcript.latest(field).unwrap_or("none").into();
        }
    }
    // `Value` makes a missing field that is only looked at into null.
    if let Value::Object(object) = &mut request {
        object.retain(|_, value| !value.is_null());
    }
    request
}

impl Who {
    /// A token of such a user.
    pub fn token(self, keys: &Keys, user: &str) -> String {
        let mut claims = crate::keys::trader(user);
        match self {
            Self::Unscreened => {}
            Self::Screened => {
                claims["islamic"] = json!({"mode": "filter", "boards": ["EGX33"], "rule": "named"});
            }
            Self::TwoBoards => {
                claims["islamic"] = json!({"mode": "filter", "boards": ["EGX33", "AAOIFI"], "rule": "all_of"});
            }
            Self::Annotated => {
                claims["islamic"] = json!({"mode": "annotate", "boards": ["EGX33"], "rule": "named"});
            }
            Self::Basic => {
                claims["tier"] = "basic".into();
                claims["exchanges"] = json!(["EGX"]);
                claims["features"] = json!([]);
            }
        }
        keys.token(claims)
    }
}
