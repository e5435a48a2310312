//! A stream under the screening policy, from bytes to bytes in either encoding.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use bawaba_filter_kit::channels::frame::{self, Decoder, Sender};
use bawaba_filter_kit::channels::wire::{Encoding, Event, Timestamp};
use bawaba_filter_kit::handshake::Handshake;
use bawaba_filter_kit::stream::Stream;
use bawaba_filter_kit::{Limits, Verdict, configure};

use crate::policy::Sharia;

pub const NOW: Timestamp = Timestamp(1_795_334_400_000_000_000);
pub const LAUNCH: &str = r#"{"historical": ["egx33@2024-06-12"]}"#;
pub const SCREENED: &str = r#"{"sub":"amina","islamic":{"mode":"filter","boards":["EGX33"],"rule":"named"}}"#;

pub struct Session {
    pub policy: Sharia,
    pub stream: Stream<Sharia>,
    pub encoding: Encoding,
}

pub fn connect(settings: &str, claims: Option<&str>, encoding: Encoding, cohort: bool) -> Result<Session, Verdict> {
    let (policy, limits) = configure::<Sharia>(settings.as_bytes()).unwrap();
    let mut headers = vec![
        (":path".to_owned(), b"/ws".to_vec()),
        ("upgrade".to_owned(), b"websocket".to_vec()),
        ("sec-websocket-protocol".to_owned(), encoding.subprotocol().as_bytes().to_vec()),
    ];
    headers.extend(claims.map(|claims| ("x-bawaba-claims".to_owned(), base64url(claims.as_bytes()).into_bytes())));
    if cohort {
        headers.push(("x-bawaba-cohort".to_owned(), b"1".to_vec()));
    }
    let handshake = Handshake::read(&headers).map_err(Verdict::Refuse)?;
    let mut stream = Stream::open(&policy, &limits, handshake.session, handshake.offered, NOW, 7)?;
    stream.accepted(Some(encoding.subprotocol()), &Limits::default());
    Ok(Session { policy, stream, encoding })
}

pub fn screened(encoding: Encoding) -> Session {
    connect(LAUNCH, Some(SCREENED), encoding, false).unwrap()
}

pub fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    out
}

impl Session {
    pub fn down_at(&mut self, now: Timestamp, events: &[Event]) -> Vec<Event> {
        let mut bytes = Vec::new();
        for event in events {
            let mut payload = Vec::new();
            event.encode(self.encoding, &mut payload);
            frame::encode(&mut bytes, true, self.encoding.opcode(), &payload, None);
        }
        let out = self.stream.response(&self.policy, now, bytes).into_bytes();
        payloads(Sender::Server, out).iter().map(|payload| Event::decode(self.encoding, payload).unwrap()).collect()
    }

    pub fn down(&mut self, events: &[Event]) -> Vec<Event> {
        self.down_at(NOW, events)
    }

    /// Sends a request; returns what reached the backend, and what the client hears once the backend has spoken.
    pub fn up(&mut self, json: &str) -> (Vec<serde_json::Value>, Vec<Event>) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, true, self.encoding.opcode(), json.as_bytes(), Some([1, 2, 3, 4]));
        let out = self.stream.request(&self.policy, NOW, bytes).into_bytes();
        let seen =
            payloads(Sender::Client, out).iter().map(|payload| serde_json::from_slice(payload).unwrap()).collect();
        (seen, self.down(&[event(r#"{"type":"pong"}"#)]).into_iter().filter(|e| e.kind() != "pong").collect())
    }
}

pub fn payloads(sender: Sender, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new(sender, 1 << 24);
    let mut payloads = Vec::new();
    while let Some(frame) = decoder.decode(&mut bytes).unwrap() {
        let len = frame.header.frame_len();
        if !frame.header.opcode.is_control() {
            payloads.push(frame.payload.to_vec());
        }
        bytes.drain(..len);
    }
    payloads
}

pub fn event(json: &str) -> Event {
    Event::from_json(json.as_bytes()).unwrap()
}

pub fn update(kind: &str, exchange: &str, symbol: &str, snapshot: bool) -> Event {
    let data = match kind {
        "market_data_update" => r#"{"last":"84.50","bid":"84.49","ask":"84.52"}"#,
        "order_book_update" => r#"{"bids":[{"price":"2.510","size":"100"}],"asks":[]}"#,
        _ => r#"{"price":"84.50","size":"10","side":"buy","trade_id":"t-1"}"#,
    };
    event(&format!(
        r#"{{"type":"{kind}","subscription":"s1","exchange":"{exchange}","symbol":"{symbol}","epoch":"e","seq":1,"snapshot":{snapshot},"time":"2026-11-22T08:00:00.000Z","data":{data}}}"#
    ))
}
