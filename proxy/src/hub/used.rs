//! What sessions use, put down in the usage record: a product from the first symbol of it that a session follows to the
//! last, each subscription as it was answered, and every refusal and revocation that a client is told. Nothing of this is
//! on the path of market data.

use std::collections::{BTreeMap, BTreeSet};

use bawaba_channels::frame::{Decoder, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::wire::{Event, Refused};

use super::Hub;
use super::request::CHAIN_MESSAGE_BYTES_MAX;
use super::seat::Seat;
use crate::grants::Late;
use crate::usage::{Kind, Record, Usage, unix_nanos};

/// Symbols named in one record.
const SYMBOLS_MAX: usize = 256;

/// Products in use by a session: how many symbols, since when.
pub(crate) type InUse = BTreeMap<String, (usize, i64)>;

impl Hub {
    fn usage(&self) -> Option<&Usage> {
        self.shared.usage.as_deref()
    }

    /// Whether something new may begin: it will be recorded.
    pub(super) fn may_record(&self) -> bool {
        self.usage().is_none_or(Usage::has_room)
    }

    /// A session follows one more source.
    pub(super) fn use_begins(&mut self, index: usize, source: usize) {
        if self.usage().is_none() {
            return;
        }
        let product = self.product(source);
        let now = unix_nanos();
        let (count, _) = self.seats[index].in_use.entry(product.clone()).or_insert((0, now));
        *count += 1;
        if *count == 1 {
            let seat = &self.seats[index];
            self.put(Record {
                kind: Some(Kind::Product),
                product,
                from: Some(now),
                verdict: "admitted".into(),
                ..who(seat)
            });
        }
    }

    /// A session follows one source less.
    pub(super) fn use_ends(&mut self, index: usize, source: usize) {
        if self.usage().is_none() || !self.sources.contains(source) {
            return;
        }
        let product = self.product(source);
        let seat = &mut self.seats[index];
        let Some((count, from)) = seat.in_use.get_mut(&product) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        let from = Some(*from);
        seat.in_use.remove(&product);
        let to = Some(unix_nanos());
        let seat = &self.seats[index];
        self.put(Record { kind: Some(Kind::Product), product, from, to, verdict: "ended".into(), ..who(seat) });
    }

    /// A subscription was answered.
    pub(super) fn subscription_used(&self, index: usize, product: String, left: &BTreeSet<String>) {
        if self.usage().is_none() || left.is_empty() {
            return;
        }
        let symbols = left.iter().filter(|symbol| !symbol.is_empty()).take(SYMBOLS_MAX).cloned().collect();
        let record = who(&self.seats[index]);
        self.put(Record { kind: Some(Kind::Subscription), product, symbols, verdict: "admitted".into(), ..record });
    }

    /// What a session is told of refusals, and which lists it is screened by.
    pub(super) fn told(&mut self, index: usize, frames: &[u8]) {
        if self.usage().is_none() {
            return;
        }
        let encoding = self.seats[index].encoding;
        let mut frames = frames.to_vec();
        let (mut decoder, mut assembler, mut at) =
            (Decoder::new(Sender::Server, CHAIN_MESSAGE_BYTES_MAX), Assembler::new(), 0);
        while at < frames.len() {
            let Ok(Some(frame)) = decoder.decode(&mut frames[at..]) else { return };
            at += frame.header.frame_len();
            let payload = match assembler.push(frame) {
                Ok(Some(Message::Text(text))) => text.as_bytes(),
                Ok(Some(Message::Binary(bytes))) => bytes,
                _ => continue,
            };
            match Event::decode(encoding, payload) {
                Ok(Event::Error(error)) => self.refused(index, Kind::Refusal, error.code, Vec::new()),
                Ok(Event::Subscribed(answer)) => self.symbols_refused(index, answer.refused),
                Ok(Event::Revoked(revoked)) => self.refused(index, Kind::Revocation, revoked.code, revoked.symbols),
                Ok(Event::Welcome(welcome)) => {
                    self.seats[index].lists = welcome.islamic.and_then(|islamic| islamic.list).unwrap_or_default();
                }
                _ => {}
            }
        }
    }

    fn symbols_refused(&self, index: usize, refused: Vec<Refused>) {
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for refused in refused {
            by_reason.entry(refused.code).or_default().push(refused.symbol);
        }
        for (reason, symbols) in by_reason {
            self.refused(index, Kind::Refusal, reason, symbols);
        }
    }

    fn refused(&self, index: usize, kind: Kind, reason: String, mut symbols: Vec<String>) {
        symbols.truncate(SYMBOLS_MAX);
        let verdict = if kind == Kind::Revocation { "revoked" } else { "refused" }.to_owned();
        self.put(Record { kind: Some(kind), reason, symbols, verdict, ..who(&self.seats[index]) });
    }

    fn put(&self, record: Record) {
        if let Some(usage) = self.usage() {
            usage.record(record);
        }
    }

    fn product(&self, source: usize) -> String {
        let key = &self.sources[source].key;
        format!("{}/{}", key.exchange, key.channel)
    }
}

/// A record of a session, with what its verdicts rest on now.
fn who(seat: &Seat) -> Record {
    let context = &seat.context;
    Record {
        session: context.session.clone(),
        tenant: context.tenant.clone(),
        user: context.user.clone(),
        level: match seat.grants.late {
            Late::Now => "real_time".into(),
            Late::Ms(ms) => format!("delayed_ms={ms}"),
            Late::Close => "end_of_day".into(),
        },
        basis: seat.grants.basis.clone(),
        lists: seat.lists.clone(),
        ..Record::default()
    }
}
