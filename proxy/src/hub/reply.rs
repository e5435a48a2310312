//! What goes to one session alone: through the chain's way back, into the outbox, and what is done when the chain ends
//! the session.

use std::collections::BTreeSet;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{ErrorEvent, Event};

use super::Hub;
use super::request::CHAIN_MESSAGE_BYTES_MAX;
use crate::chain::Ended;

impl Hub {
    /// Sends an event to one session, through the chain's way back.
    pub(super) fn send(&mut self, index: usize, event: &Event) {
        self.send_frames(index, super::feed::encode(self.seats[index].encoding, event).into());
    }

    /// As [`Self::send`], for `subscribed`: the symbols that the chain left among the accepted.
    pub(super) fn send_answer(&mut self, index: usize, event: &Event, id: Option<u64>) -> BTreeSet<String> {
        let encoding = self.seats[index].encoding;
        let mut frames: Vec<u8> = super::feed::encode(encoding, event).into();
        if !self.judge_outbound(index, &mut frames) {
            return BTreeSet::new();
        }
        let mut left = BTreeSet::new();
        let mut read = frames.clone();
        let (mut decoder, mut assembler, mut at) =
            (Decoder::new(Sender::Server, CHAIN_MESSAGE_BYTES_MAX), Assembler::new(), 0);
        while let Ok(Some(frame)) = decoder.decode(&mut read[at..]) {
            at += frame.header.frame_len();
            let payload = match assembler.push(frame) {
                Ok(Some(Message::Text(text))) => text.as_bytes(),
                Ok(Some(Message::Binary(bytes))) => bytes,
                _ => continue,
            };
            if let Ok(Event::Subscribed(answer)) = Event::decode(encoding, payload)
                && answer.id == id
            {
                left.extend(answer.accepted.into_iter().map(|accepted| accepted.symbol));
            }
            if at >= read.len() {
                break;
            }
        }
        self.put_frames(index, &frames);
        left
    }

    pub(super) fn send_frames(&mut self, index: usize, mut frames: Vec<u8>) {
        if self.judge_outbound(index, &mut frames) {
            self.put_frames(index, &frames);
        }
    }

    /// Runs frames through the session's own stream; false if it ended.
    pub(super) fn judge_outbound(&mut self, index: usize, frames: &mut Vec<u8>) -> bool {
        let seat = &mut self.seats[index];
        if seat.closing.is_some() {
            return false;
        }
        let Some(stream) = &mut seat.stream else { return false };
        match seat.chain.outbound(stream, frames) {
            Ok(()) => true,
            Err(ended) => {
                self.stream_ended(index, &ended);
                false
            }
        }
    }

    /// Puts judged frames into the outbox; a Close among them is the last.
    pub(super) fn put_frames(&mut self, index: usize, frames: &[u8]) {
        let mut decoder = Decoder::new(Sender::Server, CHAIN_MESSAGE_BYTES_MAX);
        let mut at = 0;
        let mut closes = None;
        while at < frames.len() {
            let Ok(Some(header)) = decoder.peek(&frames[at..]) else { return self.unreadable(index) };
            decoder.take(&header);
            let end = at + header.frame_len();
            if end > frames.len() {
                return self.unreadable(index);
            }
            if header.opcode == Opcode::Close {
                closes = Some(
                    frame::parse_close(&frames[at + header.header_len..end])
                        .ok()
                        .flatten()
                        .map_or(CloseCode::POLICY, |(code, _)| code),
                );
                at = end;
                break;
            }
            self.counters.add_messages_out(1);
            self.seats[index].facts.host.delivered(1, (end - at) as u64);
            at = end;
        }
        self.told(index, &frames[..at]);
        self.seats[index].outbox.direct().extend_from_slice(&frames[..at]);
        self.mark_dirty(index);
        if let Some(code) = closes {
            self.close_written(index, code);
        }
        if self.seats[index].outbox.waiting_bytes() > self.shared.config.limits.outbox_bytes_max as usize {
            // Whoever is not blocked gets its chance with the next flush.
            self.ladder(index);
        }
    }

    /// The chain ended a session's stream: nothing more is judged, so nothing more may pass.
    pub(super) fn stream_ended(&mut self, index: usize, ended: &Ended) {
        tracing::warn!(session = %self.seats[index].context.session, ?ended, "the chain ended a session");
        let seat = &mut self.seats[index];
        if let Some(stream) = seat.stream.take() {
            seat.chain.close(stream);
        }
        match ended {
            Ended::Failed(_) => self.close(index, CloseCode::INTERNAL, "edge.filter_failed: a policy could not judge"),
            Ended::Closed(_) => self.close(index, CloseCode::POLICY, "closed by a policy"),
        }
    }

    pub(super) fn refuse(&mut self, index: usize, id: Option<u64>, reason: Reason, text: String) {
        self.shared.metrics.refused(reason);
        let error = ErrorEvent { id, code: reason.word().into(), reason: text, retry_after_ms: None };
        self.send(index, &Event::Error(error));
    }

    pub(super) fn refuse_for_now(&mut self, index: usize, id: Option<u64>, reason: Reason) {
        self.shared.metrics.refused(reason);
        let error =
            ErrorEvent { id, code: reason.word().into(), reason: reason.sentence().into(), retry_after_ms: Some(1000) };
        self.send(index, &Event::Error(error));
    }
}
