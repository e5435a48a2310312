//! Client to backend.

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Frame, FrameError, Header, Opcode};
use bawaba_channels::message::Message as Incoming;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Event, Timestamp};

use super::{Core, Fate, Flow, Side, Stream};
use crate::kind::Kind;
use crate::message::Message;
use crate::policy::{Policy, Refusal, Verdict};
use crate::reply;

impl<P: Policy> Stream<P> {
    /// Takes a chunk from the client; says what goes to the backend.
    pub fn request(&mut self, policy: &P, now: Timestamp, chunk: Vec<u8>) -> Flow {
        let Self { request: side, core, .. } = self;
        core.at(now);
        let mut last = Vec::new();
        if side.done {
            return Flow::Replace(last);
        }
        if let Some(code) = core.backend_close.take() {
            core.close_backend(code, &mut last);
            side.done = true;
            return Flow::Replace(last);
        }
        if let Some(end) = core.ended() {
            core.close_both(end.code, end.reason.word(), &mut last);
            side.done = true;
            return Flow::Replace(last);
        }
        side.pump(chunk, last, |side, header, raw, out| {
            let fate = match header {
                Ok(header) => one_frame(side, core, policy, header, raw, out),
                Err(error) => core.protocol_error(error, out),
            };
            if core.pending.len() > core.pending_bytes_max && !matches!(fate, Fate::Ends) {
                // A client that keeps asking for refusals faster than they can be written.
                core.close_both(CloseCode::POLICY, "too many refused requests at once", out);
                return Fate::Ends;
            }
            fate
        })
    }
}

/// Judges one whole frame, `raw`; what goes out in its place is appended to `out`.
fn one_frame<P: Policy>(
    side: &mut Side,
    core: &mut Core<P>,
    policy: &P,
    header: Header,
    raw: &mut [u8],
    out: &mut Vec<u8>,
) -> Fate {
    // Unmasked where it lies, and masked again if it passes: the bytes it came with, without a copy.
    let payload = &mut raw[header.header_len..];
    if let Some(key) = header.mask {
        frame::apply_mask(payload, key, 0);
    }
    let rebuilt = side.is_rebuilt(&header);
    let fate = match side.assembler.push(Frame { header, payload }) {
        Err(error) => core.protocol_error(error, out),
        Ok(None) => Fate::Gone,
        Ok(Some(Incoming::Ping(payload))) => {
            core.pings.client(payload);
            Fate::Passes
        }
        Ok(Some(Incoming::Pong(_))) => Fate::Passes,
        Ok(Some(Incoming::Close(_))) => {
            side.done = true;
            Fate::Passes
        }
        Ok(Some(Incoming::Text(text))) => core.inbound(policy, Opcode::Text, text.as_bytes(), rebuilt, out),
        Ok(Some(Incoming::Binary(bytes))) => core.inbound(policy, Opcode::Binary, bytes, rebuilt, out),
    };
    if let (Fate::Passes, Some(key)) = (&fate, header.mask) {
        frame::apply_mask(&mut raw[header.header_len..], key, 0);
    }
    fate
}

impl<P: Policy> Core<P> {
    fn protocol_error(&mut self, error: FrameError, out: &mut Vec<u8>) -> Fate {
        self.close_both(error.close_code(), &error.to_string(), out);
        Fate::Ends
    }

    /// Closes from the request direction: the backend now, the client at its next chance. The Ping before the
    /// Close makes that chance certain even where a backend drops the connection without a Close of its own.
    fn close_both(&mut self, code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        self.close_client(code, reason);
        self.pings.ask(out, &mut self.rng);
        self.close_backend(CloseCode::GOING_AWAY, out);
    }

    fn close_backend(&mut self, code: CloseCode, out: &mut Vec<u8>) {
        frame::encode_close(out, code, "", Some(self.rng.mask()));
    }

    fn inbound(&mut self, policy: &P, opcode: Opcode, payload: &[u8], rebuilt: bool, out: &mut Vec<u8>) -> Fate {
        if self.session.cohort {
            // A cohort's stream stands for many clients and carries no one's requests. Whoever forged the mark
            // to be judged by fewer facts can't say a word through it.
            self.close_both(CloseCode::POLICY, "a cohort's stream takes no requests", out);
            return Fate::Ends;
        }
        if self.encoding.is_some_and(|encoding| encoding.opcode() != opcode) {
            self.close_both(CloseCode::UNSUPPORTED_DATA, "this subprotocol uses the other kind of frame", out);
            return Fate::Ends;
        }
        let mut message = Message::read(self.encoding, payload, self.stamp);
        if message.kind() == Kind::Unreadable {
            // Not for the backend to read after all, in a way that no policy judged.
            let refusal = explained(Refusal::new(Reason::ProtocolMalformed), &message);
            return self.refuse(&reply::error(message.id(), &refusal), out);
        }
        let verdict = policy.inbound(&self.session, &mut self.memory, &mut message);
        for event in message.take_announced() {
            self.later(&event);
            self.pings.ask(out, &mut self.rng);
        }
        match verdict {
            Verdict::Pass => self.pass(&message, opcode, rebuilt, out),
            Verdict::Drop => Fate::Gone,
            Verdict::Refuse(refusal) => {
                let refusal = explained(refusal, &message);
                self.refuse(&reply::error(message.id(), &refusal), out)
            }
            Verdict::Close(code, reason) => {
                self.close_both(code, &reason, out);
                Fate::Ends
            }
        }
    }

    fn pass(&mut self, message: &Message<'_>, opcode: Opcode, rebuilt: bool, out: &mut Vec<u8>) -> Fate {
        let refused = message.refused();
        if message.kind() == Kind::Subscribe && !refused.is_empty() {
            if message.symbols_left().next().is_none() {
                return self.refuse(&reply::subscribed(message.id(), refused), out);
            }
            match message.id() {
                Some(_) if !self.merges.has_room(refused.len()) => {
                    let refusal = Refusal::new(Reason::EdgeOverloaded).detail("too many requests in flight");
                    return self.refuse(&reply::error(message.id(), &refusal), out);
                }
                Some(id) => self.merges.put(id, refused.to_vec()),
                None => {
                    self.later(&reply::subscribed(None, refused));
                    self.pings.ask(out, &mut self.rng);
                }
            }
        }
        if message.is_edited() {
            let mut payload = Vec::with_capacity(message.raw().len());
            message.write(&mut payload);
            frame::encode(out, true, opcode, &payload, Some(self.rng.mask()));
        } else if rebuilt {
            frame::encode(out, true, opcode, message.raw(), Some(self.rng.mask()));
        } else {
            return Fate::Passes;
        }
        Fate::Gone
    }

    /// Puts a Ping in the request's place; the reply follows at the first chance.
    fn refuse(&mut self, event: &Event, out: &mut Vec<u8>) -> Fate {
        self.later(event);
        self.pings.ask(out, &mut self.rng);
        Fate::Gone
    }

    fn later(&mut self, event: &Event) {
        reply::put_event(&mut self.pending, self.encoding, event);
    }
}

/// What is wrong with a message and where, for a refusal that only says that something is.
fn explained(refusal: Refusal, message: &Message<'_>) -> Refusal {
    if refusal.reason != Reason::ProtocolMalformed || refusal.detail.is_some() {
        return refusal;
    }
    match message.request() {
        Err(malformed) => refusal.detail(malformed.detail),
        Ok(_) => refusal,
    }
}
