//! A session with new claims, or under new policies: what it follows is asked for again, in its name and in its new
//! stream, so that the filters know what it holds; and what they refuse now is revoked. No server and no client sees
//! any of that but the `revoked`.

use std::rc::Rc;

use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{
    Accepted, Encoding, Event, Refused, Request, SYMBOLS_PER_REQUEST_MAX, Subscribe, Subscribed,
};

use super::Hub;
use super::request::CHAIN_MESSAGE_BYTES_MAX;

/// The id of these requests: as good as any, and the largest that every client language can write exactly.
const ID: u64 = (1 << 53) - 1;

/// A subscription as it was asked for, or as much of it as fits one request.
struct Held {
    name: Rc<str>,
    request: Subscribe,
    /// Follows by symbol.
    slots: Vec<(Rc<str>, usize)>,
    private: Option<usize>,
    /// It was asked for as all symbols at once.
    all: bool,
}

impl Hub {
    /// Has the filters judge everything that a session follows, as if it were asked for now.
    pub(super) fn rejudge(&mut self, index: usize) {
        if self.seats[index].chain.is_empty() {
            return;
        }
        for held in self.held_by(index) {
            if self.seats[index].closing.is_some() {
                return;
            }
            let Some(verdict) = self.ask_chain(index, &held) else { return };
            self.enforce(index, &held, &verdict);
        }
    }

    fn held_by(&self, index: usize) -> Vec<Held> {
        let mut all = Vec::new();
        for (name, subscription) in &self.seats[index].subscriptions {
            let slots: Vec<(Rc<str>, usize)> =
                subscription.slots.iter().map(|(symbol, slot)| (Rc::clone(symbol), *slot)).collect();
            if let Some(source) = subscription.private {
                all.extend(self.held(index, name, subscription.rate_ms, Vec::new(), Some(source)));
            }
            let at_once = if subscription.all { usize::MAX } else { SYMBOLS_PER_REQUEST_MAX };
            for slots in slots.chunks(at_once) {
                let held = self.held(index, name, subscription.rate_ms, slots.to_vec(), None);
                all.extend(held.map(|held| if subscription.all { held.of_all() } else { held }));
            }
        }
        all
    }

    fn held(
        &self,
        index: usize,
        name: &Rc<str>,
        rate_ms: u32,
        slots: Vec<(Rc<str>, usize)>,
        private: Option<usize>,
    ) -> Option<Held> {
        let follow = slots.first().and_then(|(_, slot)| self.seats[index].follows.get(*slot));
        let key = &self.sources.get(private.or(follow.map(|follow| follow.source))?)?.key;
        let filters = follow.and_then(|follow| self.feeds[follow.feed].key.filters.as_deref());
        let request = Subscribe {
            id: Some(ID),
            channel: key.channel.as_str().into(),
            exchange: key.exchange.as_str().into(),
            symbols: slots
                .iter()
                .filter(|(symbol, _)| !symbol.is_empty())
                .map(|(symbol, _)| symbol.to_string())
                .collect(),
            update_rate_ms: (rate_ms > 0).then_some(rate_ms),
            filters: filters.cloned(),
            ..Subscribe::default()
        };
        Some(Held { name: Rc::clone(name), request, slots, private, all: false })
    }

    /// What the chain says of a request and of the answer that a server would give; `None` if it ended the session.
    fn ask_chain(&mut self, index: usize, held: &Held) -> Option<Verdict> {
        let encoding = self.seats[index].encoding;
        let mut payload = Vec::new();
        Request::Subscribe(held.request.clone()).encode(encoding, &mut payload);
        let mut frames = Vec::new();
        frame::encode(&mut frames, true, encoding.opcode(), &payload, Some([0; 4]));
        let seat = &mut self.seats[index];
        let stream = seat.stream.as_mut()?;
        seat.facts.host.replay(true);
        let judged = seat.chain.inbound(stream, &mut frames);
        seat.facts.host.replay(false);
        if let Err(ended) = judged {
            self.stream_ended(index, &ended);
            return None;
        }
        // The server's part: a Ping is answered, and what was let through is accepted whole.
        let mut replies = Vec::new();
        let mut passed = None;
        read(Sender::Client, &mut frames, |message| match message {
            Message::Ping(payload) => frame::encode(&mut replies, true, Opcode::Pong, payload, None),
            Message::Text(_) | Message::Binary(_) => passed = request_of(encoding, &message).or(passed.take()),
            Message::Pong(_) | Message::Close(_) => {}
        });
        if let Some(Request::Subscribe(asked)) = passed {
            let symbols = match (held.request.symbols.is_empty(), held.all) {
                (true, _) => vec![String::new()],
                (false, false) => asked.symbols,
                (false, true) => held.slots.iter().map(|(symbol, _)| symbol.to_string()).collect(),
            };
            let accepted = symbols.into_iter().map(|symbol| Accepted { symbol, ..Accepted::default() }).collect();
            let answer = Subscribed {
                id: Some(ID),
                subscription: Some(held.name.to_string()),
                accepted,
                refused: Vec::new(),
                market: None,
            };
            replies.extend_from_slice(&super::feed::encode(encoding, &Event::Subscribed(answer)));
        }
        if !self.judge_outbound(index, &mut replies) {
            return None;
        }
        let mut verdict = Verdict::default();
        read(Sender::Server, &mut replies, |message| {
            let payload = match &message {
                Message::Text(text) => text.as_bytes(),
                Message::Binary(bytes) => bytes,
                _ => return,
            };
            match Event::decode(encoding, payload) {
                Ok(Event::Subscribed(answer)) if answer.id == Some(ID) => {
                    verdict.left.extend(answer.accepted.into_iter().map(|accepted| accepted.symbol));
                    verdict.refused.extend(answer.refused);
                }
                Ok(Event::Error(error)) if error.id == Some(ID) => {
                    verdict.whole = Some(Refused { code: error.code, reason: error.reason, ..Refused::default() });
                }
                _ => {}
            }
        });
        Some(verdict)
    }

    fn enforce(&mut self, index: usize, held: &Held, verdict: &Verdict) {
        // Said too fast, which the client had no part in.
        let seat = &self.seats[index];
        let too_fast = |refused: &Refused| refused.code == Reason::QuotaMessages.word();
        if verdict.whole.as_ref().is_some_and(too_fast) && seat.facts.host.may_deliver(&seat.grants) {
            return;
        }
        if let (Some(source), false) = (held.private, verdict.left.iter().any(String::is_empty)) {
            self.revoke_private(index, source, &held.name, &verdict.of(""));
        }
        for (symbol, slot) in &held.slots {
            if !verdict.left.iter().any(|left| **left == **symbol) {
                self.revoke(index, *slot, &verdict.of(symbol));
            }
        }
    }
}

impl Held {
    /// The same, asked for as all symbols at once.
    fn of_all(mut self) -> Self {
        self.all = true;
        self.request.symbols = vec!["*".into()];
        self
    }
}

/// What a chain left of a subscription.
#[derive(Default)]
struct Verdict {
    left: Vec<String>,
    refused: Vec<Refused>,
    whole: Option<Refused>,
}

impl Verdict {
    /// Why a symbol was not left.
    fn of(&self, symbol: &str) -> Refused {
        let found = self.refused.iter().find(|refused| refused.symbol == symbol).or(self.whole.as_ref()).cloned();
        let mut refused = found.unwrap_or_else(|| refusal(Reason::EdgeForbidden));
        // It did flow: what is not on the list now has left it.
        if refused.code == Reason::ShariaNotListed.word() {
            refused = refusal(Reason::ShariaDelisted);
        }
        refused
    }
}

fn refusal(reason: Reason) -> Refused {
    Refused { code: reason.word().into(), reason: reason.sentence().into(), ..Refused::default() }
}

fn request_of(encoding: Encoding, message: &Message<'_>) -> Option<Request> {
    match message {
        Message::Text(text) => Request::decode(encoding, text.as_bytes()).ok(),
        Message::Binary(bytes) => Request::decode(encoding, bytes).ok(),
        _ => None,
    }
}

/// The messages in a run of frames, as far as they can be read.
fn read(sender: Sender, frames: &mut [u8], mut each: impl FnMut(Message<'_>)) {
    let (mut decoder, mut assembler, mut at) = (Decoder::new(sender, CHAIN_MESSAGE_BYTES_MAX), Assembler::new(), 0);
    while at < frames.len() {
        let Ok(Some(frame)) = decoder.decode(&mut frames[at..]) else { return };
        at += frame.header.frame_len();
        if let Ok(Some(message)) = assembler.push(frame) {
            each(message);
        }
    }
}
