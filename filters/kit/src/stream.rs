//! One connection: bytes in, bytes out, in both directions, without a host.
//!
//! Each call takes what the host read and says what to pass on in its place. Only whole messages leave, so the
//! client stands at a message border whenever something is injected. Knows frames and verdicts; knows no
//! proxy-wasm and no clock.

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{Decoder, FrameError, Header, Opcode, Sender};
use bawaba_channels::message::Assembler;
use bawaba_channels::wire::{Encoding, Timestamp};

use crate::host::{Grant, Host};
use crate::limits::Limits;
use crate::pings::Pings;
use crate::policy::{End, Policy, Verdict};
use crate::rng::Rng;
use crate::session::{Audience, Session};
use crate::stamp::Stamp;

mod merges;
mod request;
mod response;

use merges::Merges;

/// What the host passes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// The chunk as it came, handed back.
    Unchanged(Vec<u8>),
    /// These bytes in its place; may be empty.
    Replace(Vec<u8>),
}

impl Flow {
    /// The bytes to pass on.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Unchanged(bytes) | Self::Replace(bytes) => bytes,
        }
    }
}

/// A connection under judgement.
pub struct Stream<P: Policy> {
    request: Side,
    response: Side,
    core: Core<P>,
}

/// One direction: how far its bytes are read.
#[derive(Debug)]
struct Side {
    decoder: Decoder,
    assembler: Assembler,
    /// The beginning of a frame that is not whole yet.
    held: Vec<u8>,
    /// Whether a fragmented message is open: its frames are held back in the assembler.
    fragments: bool,
    /// A Close went out in this direction: nothing more does.
    done: bool,
}

/// What both directions share.
struct Core<P: Policy> {
    session: Session,
    memory: P::Memory,
    encoding: Option<Encoding>,
    stamp: Stamp,
    end: Option<End>,
    pings: Pings,
    rng: Rng,
    /// Frames for the client that wait for a response callback.
    pending: Vec<u8>,
    pending_bytes_max: usize,
    merges: Merges,
    /// A Close frame for the client that waits for a response callback.
    client_close: Option<Vec<u8>>,
    /// The backend is to get a Close at the next request callback.
    backend_close: Option<CloseCode>,
}

/// What becomes of the frame at hand. Whatever the judge wrote goes out first, in every case.
enum Fate {
    /// Its bytes pass as they came.
    Passes,
    /// It does not pass.
    Gone,
    /// It does not pass, and neither does anything after it in this direction.
    Ends,
}

impl Side {
    fn new(sender: Sender, limits: &Limits) -> Self {
        Self {
            decoder: Decoder::new(sender, limits.message_bytes_max),
            assembler: Assembler::new(),
            held: Vec::new(),
            fragments: false,
            done: false,
        }
    }

    /// Reads `chunk` frame by frame and puts together what passes, behind `before`. Stretches that pass are copied
    /// only where something changed.
    ///
    /// `judge` gets each whole frame (header, and all its bytes) or the error that ends the direction, and writes
    /// what the frame gives way to.
    fn pump(
        &mut self,
        chunk: Vec<u8>,
        before: Vec<u8>,
        mut judge: impl FnMut(&mut Self, Result<Header, FrameError>, &mut [u8], &mut Vec<u8>) -> Fate,
    ) -> Flow {
        let was_held = !self.held.is_empty();
        let mut input = if was_held {
            let mut input = core::mem::take(&mut self.held);
            input.extend_from_slice(&chunk);
            input
        } else {
            chunk
        };
        let mut out = before;
        let mut changed = was_held || !out.is_empty();
        let mut put = Vec::new();
        // Input before `copied` is accounted for in `out`, input before `at` is judged.
        let (mut copied, mut at) = (0, 0);
        while !self.done && at < input.len() {
            let header = self.decoder.peek(&input[at..]);
            let end = match &header {
                Ok(Some(header)) if input.len() - at >= header.frame_len() => at + header.frame_len(),
                Ok(_) => break,
                Err(_) => input.len(),
            };
            let header = header.map(|header| header.unwrap_or(NO_HEADER));
            if let Ok(header) = &header {
                self.decoder.take(header);
            }
            let fate = judge(self, header, &mut input[at..end], &mut put);
            if !put.is_empty() || !matches!(fate, Fate::Passes) {
                changed = true;
                out.extend_from_slice(&input[copied..at]);
                out.append(&mut put);
                copied = if matches!(fate, Fate::Passes) { at } else { end };
            }
            at = end;
            self.done |= matches!(fate, Fate::Ends);
        }
        if !changed && at == input.len() {
            return Flow::Unchanged(input);
        }
        out.extend_from_slice(&input[copied..at]);
        if !self.done {
            input.drain(..at);
            self.held = input;
        }
        Flow::Replace(out)
    }

    /// Notes a data frame; whether its message has to be written anew, because earlier fragments are held back.
    const fn is_rebuilt(&mut self, header: &Header) -> bool {
        if header.opcode.is_control() {
            return false;
        }
        let rebuilt = self.fragments || !header.fin;
        self.fragments = !header.fin;
        rebuilt
    }
}

/// Stands where no header was read; never judged.
const NO_HEADER: Header = Header { fin: true, opcode: Opcode::Pong, mask: None, header_len: 0, payload_len: 0 };

impl<P: Policy> Stream<P> {
    /// Judges the handshake and begins a stream, or refuses it. `seed` must be unpredictable to clients.
    ///
    /// `offered` is the encoding to read until the backend has chosen: the first subprotocol offered that the kit
    /// knows. A cohort's stream is not connected again: its sessions were.
    pub fn open(
        policy: &P,
        limits: &Limits,
        mut session: Session,
        offered: Option<Encoding>,
        now: Timestamp,
        seed: u64,
    ) -> Result<Self, Verdict> {
        session.now = now;
        let mut rng = Rng::new(seed);
        let mut memory = policy.remember(&Audience { session: &session, declared: P::AUDIENCE });
        let mut end = None;
        if !session.cohort {
            match policy.connect(&session, &mut memory) {
                Verdict::Pass => {}
                refusal => return Err(refusal),
            }
            end = policy.end(&session, &memory);
        }
        Ok(Self {
            request: Side::new(Sender::Client, limits),
            response: Side::new(Sender::Server, limits),
            core: Core {
                session,
                memory,
                encoding: offered.or_else(|| limits.default_encoding()),
                stamp: Stamp::new(now),
                end,
                pings: Pings::new(&mut rng),
                rng,
                pending: Vec::new(),
                pending_bytes_max: limits.pending_bytes_max as usize,
                merges: Merges::new(usize::from(limits.merges_max)),
                client_close: None,
                backend_close: None,
            },
        })
    }

    /// The backend accepted the handshake and chose this subprotocol.
    pub fn accepted(&mut self, subprotocol: Option<&str>, limits: &Limits) {
        self.core.encoding = match subprotocol {
            Some(name) => Encoding::of_subprotocol(name),
            None => limits.default_encoding(),
        };
    }

    /// The session.
    pub const fn session(&self) -> &Session {
        &self.core.session
    }

    /// What the host is asked for the session.
    pub fn grant(&self, policy: &P) -> Grant {
        policy.grant(&self.core.session, &self.core.memory)
    }

    /// Whether the next request is a repeated one.
    pub const fn replay(&mut self, replay: bool) {
        self.core.session.replay = replay;
    }

    /// Ends the stream; with what the host says of it at last.
    pub fn close(&mut self, policy: &P, host: Option<Host>, now: Timestamp) {
        let core = &mut self.core;
        core.session.now = now;
        core.session.host = host.or(core.session.host);
        policy.close(&core.session, &mut core.memory);
    }

    /// When the session ends by itself, if it does.
    pub const fn end(&self) -> Option<&End> {
        self.core.end.as_ref()
    }

    /// Whether a Close has been sent, or waits to be sent, to the client by this filter or the backend.
    pub const fn is_closing(&self) -> bool {
        self.response.done || self.core.client_close.is_some()
    }
}

impl<P: Policy> Core<P> {
    fn at(&mut self, now: Timestamp) {
        self.session.now = now;
        self.stamp.advance(now);
    }

    /// The end that has come, if one has.
    fn ended(&mut self) -> Option<End> {
        if self.end.as_ref().is_some_and(|end| end.at <= self.session.now) { self.end.take() } else { None }
    }

    /// Writes the Close for the client, to be sent at the first chance; the first reason stands.
    fn close_client(&mut self, code: CloseCode, reason: &str) {
        if self.client_close.is_none() {
            let mut frame = Vec::new();
            bawaba_channels::frame::encode_close(&mut frame, code, reason, None);
            self.client_close = Some(frame);
        }
    }
}
