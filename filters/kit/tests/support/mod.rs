//! A policy with one of each verdict, and the two ends of a connection.

#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bawaba_filter_kit::channels::close::CloseCode;
use bawaba_filter_kit::channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_filter_kit::channels::message::{Assembler, Message as Whole};
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::{Encoding, Timestamp};
use bawaba_filter_kit::handshake::Handshake;
use bawaba_filter_kit::stream::Stream;
use bawaba_filter_kit::{Audience, Kind, Limits, Message, Metadata, Policy, PreparedMetadata, Session, Verdict};

pub const NOW: Timestamp = Timestamp(1_795_334_400_000_000_000);

/// EAST is refused, DROP is dropped, SHUT closes with 4451, NOTE is annotated; everything else passes.
pub struct Table;

impl Policy for Table {
    const NAME: &'static str = "table";
    const AUDIENCE: Option<&'static [&'static str]> = Some(&[]);
    type Settings = serde_json::Value;
    type Memory = ();

    fn configure(_: serde_json::Value) -> Result<Self, String> {
        Ok(Self)
    }

    fn remember(&self, _: &Audience<'_>) {}

    fn connect(&self, session: &Session, (): &mut ()) -> Verdict {
        if session.path() == "/refused" { Verdict::refuse(Reason::LicenseExpired) } else { Verdict::Pass }
    }

    fn inbound(&self, _: &Session, (): &mut (), message: &mut Message<'_>) -> Verdict {
        match message.kind() {
            Kind::Subscribe if message.symbols().iter().any(|s| s == "EAST") => {
                message.refuse_symbol("EAST", Reason::ShariaNotListed);
                Verdict::Pass
            }
            Kind::Order => match message.symbol().as_deref() {
                Some("EAST") => Verdict::refuse(Reason::ShariaNotListed),
                Some("DROP") => Verdict::Drop,
                Some("SHUT") => Verdict::close(CloseCode::COMPLIANCE, Reason::ShariaNotCompliant),
                _ => Verdict::Pass,
            },
            _ => Verdict::Pass,
        }
    }

    fn outbound(&self, _: &Audience<'_>, (): &mut (), message: &mut Message<'_>) -> Verdict {
        let symbol = message.symbol();
        match symbol.as_deref() {
            Some("EAST" | "DROP") => return Verdict::Drop,
            Some("SHUT") => return Verdict::close(CloseCode::COMPLIANCE, Reason::ShariaNotCompliant),
            Some("NOTE") => message.set_metadata(&PreparedMetadata::of(&Metadata {
                sharia_compliant: true,
                compliance_board: "EGX33".into(),
                compliance_level: "strict".into(),
                screening_result: "listed".into(),
                list: "egx33@2024-06-12".into(),
                ..Metadata::default()
            })),
            _ => {}
        }
        if message.kind() == Kind::Subscribed {
            message.refuse_symbol("EAST", Reason::ShariaNotListed);
        }
        Verdict::Pass
    }
}

pub fn handshake(pairs: &[(&str, &str)]) -> Handshake {
    let headers: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
    Handshake::read(&headers).unwrap()
}

pub fn open_with(limits: &Limits, subprotocol: Option<&str>) -> Stream<Table> {
    let handshake = handshake(&[(":path", "/ws"), ("upgrade", "websocket")]);
    let mut stream = Stream::open(&Table, limits, handshake.session, handshake.offered, NOW, 42).ok().unwrap();
    stream.accepted(subprotocol, limits);
    stream
}

pub fn open(encoding: Encoding) -> Stream<Table> {
    open_with(&Limits::default(), Some(encoding.subprotocol()))
}

pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    fragment(true, opcode, payload, Some([1, 2, 3, 4]))
}

pub fn plain(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    fragment(true, opcode, payload, None)
}

pub fn fragment(fin: bool, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, fin, opcode, payload, mask);
    out
}

/// What a peer received, message by message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// A strict peer that reads what `sender` wrote.
pub struct Peer {
    decoder: Decoder,
    assembler: Assembler,
    held: Vec<u8>,
}

impl Peer {
    pub fn reading(sender: Sender) -> Self {
        Self { decoder: Decoder::new(sender, 1 << 24), assembler: Assembler::new(), held: Vec::new() }
    }

    pub fn read(&mut self, bytes: &[u8]) -> Vec<Got> {
        self.held.extend_from_slice(bytes);
        let mut got = Vec::new();
        loop {
            let len = match self.decoder.decode(&mut self.held).expect("the kit writes legal frames") {
                None => return got,
                Some(frame) => {
                    let len = frame.header.frame_len();
                    match self.assembler.push(frame).expect("the kit writes legal messages") {
                        None => {}
                        Some(Whole::Text(text)) => got.push(Got::Text(text.into())),
                        Some(Whole::Binary(bytes)) => got.push(Got::Binary(bytes.into())),
                        Some(Whole::Ping(bytes)) => got.push(Got::Ping(bytes.into())),
                        Some(Whole::Pong(bytes)) => got.push(Got::Pong(bytes.into())),
                        Some(Whole::Close(close)) => got.push(Got::Close(close.map(|(code, _)| code.0))),
                    }
                    len
                }
            };
            self.held.drain(..len);
        }
    }
}

pub fn read_all(sender: Sender, bytes: &[u8]) -> Vec<Got> {
    Peer::reading(sender).read(bytes)
}

pub fn text(json: &str) -> Got {
    Got::Text(json.into())
}

pub fn order(id: u64, symbol: &str) -> String {
    format!(
        r#"{{"type":"order","id":{id},"op":"place","exchange":"EGX","symbol":"{symbol}","side":"buy","order_type":"market","quantity":"1"}}"#
    )
}

pub fn quote(symbol: &str, seq: u64) -> String {
    format!(
        r#"{{"type":"market_data_update","subscription":"s1","exchange":"EGX","symbol":"{symbol}","epoch":"e","seq":{seq},"snapshot":false,"time":"2026-11-22T08:00:00.000Z","data":{{"last":"84.50"}},"x":[1,{{"y":"\u0007}}"}}]}}"#
    )
}
