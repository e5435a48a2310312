//! Instruments that a message names without saying so: in text for people, and by a symbol without its exchange.

use bawaba_filter_kit::Message;
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_policies::InstrumentRef;
use bawaba_policies::instrument::Found;
use bawaba_policies::sharia::Subject;

use crate::memory::Memory;
use crate::policy::{Sharia, instant, subject_of};

impl Sharia {
    /// Why a symbol is refused of which nobody says the exchange and the channel; none if nothing of it is anywhere.
    pub(crate) fn anywhere(&self, memory: &Memory, symbol: &str, now: Timestamp) -> Option<bawaba_policies::Reason> {
        let mut refusal = Some(bawaba_policies::Reason::ShariaNotListed);
        for exchange in self.listed_on(symbol, now) {
            refusal = self.judged(memory, exchange, symbol, now, |judged| {
                [Subject::Quote, Subject::Book, Subject::Trade].iter().find_map(|&kind| judged.shown(kind).refusal())
            });
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }

    fn listed_on<'a>(&'a self, symbol: &'a str, now: Timestamp) -> impl Iterator<Item = &'a str> {
        let directory = self.register.directory();
        directory.exchanges().filter(move |exchange| {
            let instrument = InstrumentRef::new(exchange, symbol);
            directory.find(instrument, instant(now)) != Found::Unknown
        })
    }

    /// An error answers a request and must arrive, but its text must not speak of a refused instrument.
    pub(crate) fn redact(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) {
        if self.names_refused(memory, message, None, now) {
            let reason = message.code().and_then(|code| code.parse::<Reason>().ok());
            message.set_reason(reason.map_or("refused", Reason::sentence));
        }
    }

    /// Whether the text for people names an instrument, on `exchange` or on any, that this session must not see.
    pub(crate) fn names_refused(
        &self,
        memory: &mut Memory,
        message: &Message<'_>,
        exchange: Option<&str>,
        now: Timestamp,
    ) -> bool {
        let subject = subject_of(message);
        for text in message.prose() {
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
                let word = word.trim_matches(['.', '-', '_']);
                if word.len() < 2 || word.len() > 12 || word.bytes().any(|b| b.is_ascii_lowercase()) {
                    continue;
                }
                for listed in self.listed_on(word, now) {
                    let here = exchange.is_none_or(|exchange| exchange == listed);
                    if here && self.judged(memory, listed, word, now, |judged| judged.shown(subject).hides_text()) {
                        return true;
                    }
                }
            }
        }
        false
    }
}
