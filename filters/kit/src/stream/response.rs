//! Backend to client.

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Frame, FrameError, Header, Opcode};
use bawaba_channels::message::Message as Incoming;
use bawaba_channels::wire::Timestamp;

use super::{Core, Fate, Flow, Side, Stream};
use crate::kind::Kind;
use crate::message::Message;
use crate::pings::PongFate;
use crate::policy::{Policy, Verdict};
use crate::reply;
use crate::session::Audience;

impl<P: Policy> Stream<P> {
    /// Takes a chunk from the backend; says what goes to the client.
    pub fn response(&mut self, policy: &P, now: Timestamp, chunk: Vec<u8>) -> Flow {
        let Self { request, response: side, core } = self;
        core.at(now);
        if side.done {
            return Flow::Replace(Vec::new());
        }
        if let Some(end) = core.ended() {
            core.close_client(end.code, end.reason.word());
        }
        // What waited for a chance: every call begins at a message border of the client.
        let mut waiting = core::mem::take(&mut core.pending);
        if let Some(close) = core.client_close.take() {
            waiting.extend_from_slice(&close);
            side.done = true;
            core.want_backend_closed(request);
            return Flow::Replace(waiting);
        }
        let flow = side.pump(chunk, waiting, |side, header, raw, out| match header {
            Ok(header) => one_frame(side, core, policy, header, raw, out),
            Err(error) => server_error(error, out),
        });
        if side.done {
            core.want_backend_closed(request);
        }
        flow
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
    let rebuilt = side.is_rebuilt(&header);
    // Frames of a server are not masked: read where they lie.
    match side.assembler.push(Frame { header, payload: &mut raw[header.header_len..] }) {
        Err(error) => server_error(error, out),
        Ok(None) => Fate::Gone,
        Ok(Some(Incoming::Ping(_))) => Fate::Passes,
        Ok(Some(Incoming::Pong(payload))) => match core.pings.pong(payload, out) {
            PongFate::Passes => Fate::Passes,
            PongFate::Swallowed => Fate::Gone,
        },
        Ok(Some(Incoming::Close(_))) => {
            side.done = true;
            Fate::Passes
        }
        Ok(Some(Incoming::Text(text))) => core.outbound(policy, Opcode::Text, text.as_bytes(), rebuilt, out),
        Ok(Some(Incoming::Binary(bytes))) => core.outbound(policy, Opcode::Binary, bytes, rebuilt, out),
    }
}

fn server_error(error: FrameError, out: &mut Vec<u8>) -> Fate {
    frame::encode_close(out, error.close_code(), &error.to_string(), None);
    Fate::Ends
}

impl<P: Policy> Core<P> {
    /// The backend is told at the next request callback, which the client's own Close brings.
    const fn want_backend_closed(&mut self, request: &Side) {
        if !request.done {
            self.backend_close = Some(CloseCode::GOING_AWAY);
        }
    }

    fn outbound(&mut self, policy: &P, opcode: Opcode, payload: &[u8], rebuilt: bool, out: &mut Vec<u8>) -> Fate {
        let mut message = if self.encoding.is_some_and(|encoding| encoding.opcode() != opcode) {
            Message::unreadable(self.encoding, payload, self.stamp)
        } else {
            Message::read(self.encoding, payload, self.stamp)
        };
        let audience = Audience { session: &self.session, declared: P::AUDIENCE };
        let verdict = policy.outbound(&audience, &mut self.memory, &mut message);
        if let Some(id) = message.id()
            && matches!(message.kind(), Kind::Subscribed | Kind::Error)
            && let Some(refused) = self.merges.take(id)
            && message.kind() == Kind::Subscribed
        {
            message.merge_refused(refused);
        }
        for event in &message.take_announced() {
            reply::put_event(out, self.encoding, event);
        }
        match verdict {
            Verdict::Pass if message.is_edited() => message.write_frame(opcode, out),
            Verdict::Pass if rebuilt => frame::encode(out, true, opcode, payload, None),
            Verdict::Pass => return Fate::Passes,
            Verdict::Drop | Verdict::Refuse(_) => {}
            Verdict::Close(code, reason) => {
                frame::encode_close(out, code, &reason, None);
                return Fate::Ends;
            }
        }
        Fate::Gone
    }
}
