//! What comes from a session's socket: bytes to frames, frames to messages, through the chain, to the request.
//!
//! The edge plays the server behind the chain: it answers Ping with Pong and Close with Close, through the chain's
//! way back, as any server would.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, ErrorEvent, Event, Pong, Refresh, Refreshed, Request};
use tokio::io::{AsyncRead, ReadBuf};

use super::Hub;
use super::seat::SeatKey;
use crate::chain::{Ended, Facts, Headers, Refused};
use crate::context::ConnectionContext;

/// Messages in a row that could not be read before the connection ends.
const MALFORMED_IN_A_ROW_MAX: u32 = 16;
/// Requests of one session that may wait for servers, by their weight; beyond, its socket is not read.
const WAITING_MAX: usize = 64;
/// Reads of one session before others get their turn.
const READS_MAX: usize = 4;
/// Largest message that comes out of a chain.
pub(super) const CHAIN_MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// How a session's socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// After a Close from either side; with our code.
    Closed(CloseCode),
    /// Without one.
    Reset,
}

impl Hub {
    /// One turn of a session's task: writes what the socket takes, reads what it has, answers.
    pub(crate) fn poll_seat(&mut self, key: SeatKey, cx: &mut Context<'_>) -> Poll<Gone> {
        let Some(index) = self.seat_index(key) else { return Poll::Ready(Gone::Reset) };
        let now = Instant::now();
        self.seats[index].waker = Some(cx.waker().clone());
        if let Poll::Ready(gone) = self.poll_write_seat(index, cx, now) {
            return Poll::Ready(gone);
        }
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut result = Poll::Pending;
        for turn in 0..=READS_MAX {
            if turn == READS_MAX {
                // Others first; there may be more to read.
                cx.waker().wake_by_ref();
                break;
            }
            if !self.may_read(index) {
                // No waker waits for the socket now: `flush_seat` wakes the task when there is room again.
                self.seats[index].read_paused = true;
                break;
            }
            if std::mem::take(&mut self.seats[index].held_back) {
                self.on_bytes(index, &mut []);
                continue;
            }
            let mut into = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.seats[index].io).poll_read(cx, &mut into) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    let count = into.filled().len();
                    self.seats[index].heard_at = now;
                    self.counters.add_bytes_in(count);
                    self.on_bytes(index, &mut buffer[..count]);
                }
                Poll::Ready(Ok(()) | Err(_)) => {
                    let closing = self.seats[index].closing;
                    result = Poll::Ready(closing.map_or(Gone::Reset, |closing| Gone::Closed(closing.code)));
                    break;
                }
            }
        }
        self.read_buffer = buffer;
        if result.is_pending() {
            // Its own answers, with a waker in case the socket is full; then everyone else's.
            result = self.poll_write_seat(index, cx, now);
        }
        self.flush();
        result
    }

    fn poll_write_seat(&mut self, index: usize, cx: &mut Context<'_>, now: Instant) -> Poll<Gone> {
        match self.flush_seat(index, cx, now) {
            Poll::Ready(Err(_)) => {
                let closing = self.seats[index].closing;
                Poll::Ready(closing.map_or(Gone::Reset, |closing| Gone::Closed(closing.code)))
            }
            Poll::Ready(Ok(())) => match self.seats[index].closing {
                Some(closing) if closing.peer_closed || now >= closing.deadline => {
                    Poll::Ready(Gone::Closed(closing.code))
                }
                _ => Poll::Pending,
            },
            Poll::Pending => match self.seats[index].closing {
                Some(closing) if now >= closing.deadline => Poll::Ready(Gone::Closed(closing.code)),
                _ => Poll::Pending,
            },
        }
    }

    /// Back-pressure: a session that does not read its answers, or has many under way, is not read.
    pub(super) fn may_read(&self, index: usize) -> bool {
        let seat = &self.seats[index];
        let room = self.shared.config.limits.outbox_bytes_max as usize / 2;
        seat.closing.is_some() || (seat.outbox.waiting_bytes() < room.max(1) && seat.waiting < WAITING_MAX)
    }

    /// Takes bytes that came right behind the handshake.
    pub(crate) fn on_pre_read(&mut self, key: SeatKey, bytes: &mut [u8]) {
        if let Some(index) = self.seat_index(key) {
            self.on_bytes(index, bytes);
        }
    }

    fn on_bytes(&mut self, index: usize, fresh: &mut [u8]) {
        let mut partial = std::mem::take(&mut self.seats[index].partial);
        if partial.is_empty() {
            let taken = self.take_frames(index, fresh);
            if taken < fresh.len() {
                self.seats[index].partial = fresh[taken..].to_vec();
            }
            return;
        }
        // Bounded: the decoder refuses a frame over the limit at its header.
        partial.extend_from_slice(fresh);
        let taken = self.take_frames(index, &mut partial);
        if taken < partial.len() {
            partial.drain(..taken);
            self.seats[index].partial = partial;
        }
    }

    /// Takes the whole frames at the start of `bytes`; how many bytes they had.
    fn take_frames(&mut self, index: usize, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.seats[index].closing.is_some_and(|closing| closing.peer_closed) {
                return bytes.len();
            }
            if !self.may_read(index) {
                // One packet can hold requests for a thousand times its size.
                self.seats[index].held_back = true;
                break;
            }
            let seat = &mut self.seats[index];
            let frame = match seat.decoder.decode(&mut bytes[at..]) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(session = %seat.context.session, %error, "bad frame");
                    self.close(index, error.close_code(), frame_reason(error.close_code()));
                    return bytes.len();
                }
            };
            at += frame.header.frame_len();
            let mut assembler = std::mem::take(&mut seat.assembler);
            match assembler.push(frame) {
                Ok(Some(message)) => self.on_message(index, message),
                Ok(None) => {}
                Err(error) => self.close(index, error.close_code(), frame_reason(error.close_code())),
            }
            self.seats[index].assembler = assembler;
        }
        at
    }

    /// One message or control frame of the client, on its way to the server that the edge plays.
    fn on_message(&mut self, index: usize, message: Message<'_>) {
        if self.seats[index].closing.is_some() {
            if matches!(message, Message::Close(_)) {
                self.mark_peer_closed(index);
            }
            return;
        }
        self.counters.add_messages_in(1);
        match (&message, self.seats[index].encoding) {
            (Message::Binary(_), Encoding::Json) => {
                return self.close(index, CloseCode::UNSUPPORTED_DATA, "tradsys.v3.json takes text frames");
            }
            (Message::Text(_), Encoding::Proto) => {
                return self.close(index, CloseCode::UNSUPPORTED_DATA, "tradsys.v3.proto takes binary frames");
            }
            _ => {}
        }
        if self.seats[index].chain.is_empty() {
            return self.serve_message(index, message);
        }
        let mut frames = Vec::new();
        match message {
            Message::Text(text) => frame::encode(&mut frames, true, Opcode::Text, text.as_bytes(), Some([0; 4])),
            Message::Binary(bytes) => frame::encode(&mut frames, true, Opcode::Binary, bytes, Some([0; 4])),
            Message::Ping(bytes) => frame::encode(&mut frames, true, Opcode::Ping, bytes, Some([0; 4])),
            Message::Pong(bytes) => frame::encode(&mut frames, true, Opcode::Pong, bytes, Some([0; 4])),
            Message::Close(Some((code, reason))) => frame::encode_close(&mut frames, code, reason, Some([0; 4])),
            Message::Close(None) => frame::encode(&mut frames, true, Opcode::Close, &[], Some([0; 4])),
        }
        let seat = &mut self.seats[index];
        let Some(stream) = &mut seat.stream else { return };
        // Kept to answer by its id if the chain cannot judge it: what a failed filter left in `frames` is not trusted.
        let asked = frames.clone();
        if let Err(ended) = seat.chain.inbound(stream, &mut frames) {
            if matches!(ended, Ended::Failed(_)) {
                let id = request_id(seat.encoding, &asked);
                let error = ErrorEvent {
                    id,
                    code: Reason::EdgeFilterFailed.word().into(),
                    reason: Reason::EdgeFilterFailed.sentence().into(),
                    retry_after_ms: None,
                };
                self.notice(index, &Event::Error(error));
            }
            return self.stream_ended(index, &ended);
        }
        self.read_grants(index);
        self.serve_frames(index, &mut frames);
    }

    /// What the chain let through to the server.
    fn serve_frames(&mut self, index: usize, frames: &mut [u8]) {
        let mut decoder = Decoder::new(Sender::Client, CHAIN_MESSAGE_BYTES_MAX);
        let mut assembler = Assembler::new();
        let mut at = 0;
        while at < frames.len() {
            let frame = match decoder.decode(&mut frames[at..]) {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(_) => return self.unreadable(index),
            };
            at += frame.header.frame_len();
            match assembler.push(frame) {
                Ok(Some(message)) => self.serve_message(index, message),
                Ok(None) => {}
                Err(_) => return self.unreadable(index),
            }
        }
        if !decoder.at_message_boundary() {
            self.unreadable(index);
        }
    }

    pub(super) fn unreadable(&mut self, index: usize) {
        self.stream_ended(index, &Ended::Failed("it sent half a frame".into()));
    }

    fn serve_message(&mut self, index: usize, message: Message<'_>) {
        match message {
            Message::Text(text) => self.serve_request(index, text.as_bytes()),
            Message::Binary(bytes) => self.serve_request(index, bytes),
            Message::Ping(payload) => {
                let mut frames = Vec::new();
                frame::encode(&mut frames, true, Opcode::Pong, payload, None);
                self.send_frames(index, frames);
            }
            Message::Pong(_) => self.seats[index].pinged_at = None,
            Message::Close(code) => {
                let code = code.map_or(CloseCode::NORMAL, |(code, _)| code);
                if self.seats[index].closing.is_none() {
                    self.close(index, code, "");
                }
                self.mark_peer_closed(index);
            }
        }
    }

    fn mark_peer_closed(&mut self, index: usize) {
        if let Some(closing) = &mut self.seats[index].closing {
            closing.peer_closed = true;
        }
    }

    fn serve_request(&mut self, index: usize, bytes: &[u8]) {
        let encoding = self.seats[index].encoding;
        let request = match Request::decode(encoding, bytes) {
            Ok(request) => request,
            Err(malformed) => {
                self.seats[index].malformed_in_a_row += 1;
                let error = ErrorEvent {
                    id: malformed.id,
                    code: Reason::ProtocolMalformed.word().into(),
                    reason: malformed.detail,
                    retry_after_ms: None,
                };
                self.send(index, &Event::Error(error));
                if self.seats[index].malformed_in_a_row >= MALFORMED_IN_A_ROW_MAX {
                    self.close(index, CloseCode::POLICY, "too many malformed messages in a row");
                }
                return;
            }
        };
        self.seats[index].malformed_in_a_row = 0;
        match request {
            Request::Subscribe(request) => self.subscribe(index, request),
            Request::Unsubscribe(request) => self.unsubscribe(index, &request),
            Request::Order(request) => self.order(index, request),
            Request::Refresh(request) => self.refresh(index, &request),
            Request::Ping(request) => self.send(index, &Event::Pong(Pong { id: request.id })),
        }
    }

    /// A new token: the same subject, then the chain judges the session anew with the new claims.
    fn refresh(&mut self, index: usize, request: &Refresh) {
        let old = Arc::clone(&self.seats[index].context);
        let facts = match (self.shared.verify)(&request.token) {
            Ok(facts) if facts.user == old.user && facts.tenant == old.tenant => facts,
            Ok(_) => {
                return self.refuse(
                    index,
                    request.id,
                    Reason::AuthInvalid,
                    "the new token is of another subject".into(),
                );
            }
            Err(reason) => return self.refuse(index, request.id, reason, reason.sentence().into()),
        };
        let context = Arc::new(ConnectionContext {
            expires_at: facts.expires_at,
            is_edge: facts.is_edge,
            payload: facts.payload.as_str().into(),
            ..ConnectionContext::clone(&old)
        });
        let mut handshake: Headers = self.seats[index].request();
        let claims = facts.payload.clone();
        match handshake.iter_mut().find(|(name, _)| name == CLAIMS_HEADER) {
            Some((_, value)) => *value = claims,
            None => handshake.push((CLAIMS_HEADER.to_owned(), claims)),
        }
        let facts = Facts::new(&context, &handshake);
        facts.host.speak();
        facts.host.opened();
        let chain = std::rc::Rc::clone(&self.seats[index].chain);
        let encoding = self.seats[index].encoding;
        match crate::session::open_stream(&chain, &mut handshake, &facts, encoding) {
            Ok((stream, _)) => {
                let seat = &mut self.seats[index];
                if let Some(old) = seat.stream.replace(stream) {
                    chain.close(old);
                }
                seat.context = context;
                seat.facts = facts;
                self.regroup(index);
                self.send(index, &Event::Refreshed(Refreshed { id: request.id }));
                self.judged_anew(index);
            }
            Err(refused) => {
                let (reason, text) = refused_word(&refused);
                self.refuse(index, request.id, reason, text);
            }
        }
    }
}

/// The word and sentence of a refused handshake.
pub(crate) fn refused_word(refused: &Refused) -> (Reason, String) {
    #[derive(serde::Deserialize)]
    struct Body {
        code: String,
        #[serde(default)]
        reason: String,
    }
    match refused {
        Refused::Response { body, .. } => match serde_json::from_slice::<Body>(body) {
            Ok(Body { code, reason }) => (code.parse().unwrap_or(Reason::EdgeForbidden), reason),
            Err(_) => (Reason::EdgeForbidden, Reason::EdgeForbidden.sentence().into()),
        },
        Refused::Failed(_) => (Reason::EdgeFilterFailed, Reason::EdgeFilterFailed.sentence().into()),
    }
}

/// The id of a request, to answer it when the chain could not judge it.
fn request_id(encoding: Encoding, frame: &[u8]) -> Option<u64> {
    let mut frame = frame.to_vec();
    let mut decoder = Decoder::new(Sender::Client, CHAIN_MESSAGE_BYTES_MAX);
    let frame = decoder.decode(&mut frame).ok()??;
    match Request::decode(encoding, frame.payload) {
        Ok(request) => request.id(),
        Err(malformed) => malformed.id,
    }
}

const fn frame_reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::TOO_LARGE => "the message is too large",
        CloseCode::INVALID_PAYLOAD => "text is not UTF-8",
        _ => "the peer broke RFC 6455",
    }
}
