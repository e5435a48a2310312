//! Try a policy on whole connections, without a host: what an author's tests are written with.
//!
//! The client and the backend speak JSON; frames, the private Pings and their Pongs are the trial's business. It
//! panics where a test should fail.

#![allow(clippy::expect_used, clippy::panic, reason = "a trial is a test: a panic is how it fails")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::wire::{CLAIMS_HEADER, SUBPROTOCOL_JSON, Timestamp};
use serde_json::Value;

use crate::handshake::{Answer, Handshake};
use crate::limits::{Limits, configure};
use crate::policy::Policy;
use crate::stream::Stream;

mod cases;

pub use cases::hold;

/// One connection under a policy.
pub struct Trial<P: Policy> {
    policy: P,
    stream: Stream<P>,
    /// The instant of every further call.
    pub now: Timestamp,
}

/// What a request came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// Messages that reached the backend.
    pub backend: Vec<Value>,
    /// Messages that the client got at once, without the backend's help.
    pub client: Vec<Value>,
    /// The code that the client was closed with, if it was.
    pub closed: Option<u16>,
}

impl<P: Policy> Trial<P> {
    /// Connects a client with these claims (JSON) to a filter with this configuration (JSON), at 2026-11-22T08:00Z.
    ///
    /// # Errors
    /// The HTTP answer of a handshake that the policy refuses.
    ///
    /// # Panics
    /// If the configuration is refused.
    pub fn connect(configuration: &str, claims: &str) -> Result<Self, Answer> {
        Self::open(configuration, Some(claims))
    }

    fn open(configuration: &str, claims: Option<&str>) -> Result<Self, Answer> {
        let (policy, limits) = configure::<P>(configuration.as_bytes()).expect("the configuration");
        let claims = claims.map(|claims| (CLAIMS_HEADER, URL_SAFE_NO_PAD.encode(claims).into_bytes()));
        let headers: Vec<(String, Vec<u8>)> = [
            (":path", b"/ws".to_vec()),
            ("upgrade", b"websocket".to_vec()),
            ("sec-websocket-protocol", SUBPROTOCOL_JSON.into()),
        ]
        .into_iter()
        .chain(claims)
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let handshake = Handshake::read(&headers).map_err(|refusal| Answer::refuse(&refusal))?;
        let now = Timestamp(1_795_334_400_000_000_000);
        let mut stream =
            Stream::open(&policy, &limits, handshake.session, handshake.offered, now, 7).map_err(Answer::to)?;
        stream.accepted(Some(SUBPROTOCOL_JSON), &Limits::default());
        Ok(Self { policy, stream, now })
    }

    /// The client sends one message.
    pub fn client_sends(&mut self, json: &str) -> Turn {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, true, Opcode::Text, json.as_bytes(), Some([1, 2, 3, 4]));
        let passed = self.stream.request(&self.policy, self.now, bytes).into_bytes();
        let mut turn = Turn::default();
        let mut pongs = Vec::new();
        for (opcode, payload) in frames(Sender::Client, passed) {
            match opcode {
                Opcode::Ping => frame::encode(&mut pongs, true, Opcode::Pong, &payload, None),
                Opcode::Text => turn.backend.push(parse(&payload)),
                _ => {}
            }
        }
        self.hear(pongs, &mut turn);
        turn
    }

    /// The backend sends one message; `backend` of the turn stays empty.
    pub fn backend_sends(&mut self, json: &str) -> Turn {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, true, Opcode::Text, json.as_bytes(), None);
        let mut turn = Turn::default();
        self.hear(bytes, &mut turn);
        turn
    }

    fn hear(&mut self, bytes: Vec<u8>, turn: &mut Turn) {
        if bytes.is_empty() {
            return;
        }
        let passed = self.stream.response(&self.policy, self.now, bytes).into_bytes();
        for (opcode, payload) in frames(Sender::Server, passed) {
            match (opcode, payload.first_chunk::<2>()) {
                (Opcode::Text, _) => turn.client.push(parse(&payload)),
                (Opcode::Close, Some(code)) => turn.closed = Some(u16::from_be_bytes(*code)),
                _ => {}
            }
        }
    }
}

fn frames(sender: Sender, mut bytes: Vec<u8>) -> Vec<(Opcode, Vec<u8>)> {
    let mut decoder = Decoder::new(sender, u32::MAX);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.decode(&mut bytes).expect("the kit writes legal frames") {
        let len = frame.header.frame_len();
        frames.push((frame.header.opcode, frame.payload.to_vec()));
        bytes.drain(..len);
    }
    frames
}

fn parse(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).expect("a JSON message")
}
