//! Which instrument each message names, and what the verdict on it does to the message.
//!
//! The verdicts are `bawaba_policies::sharia`'s; what is here is where in a message an instrument can hide. In
//! filter mode a message that names none that could be found, and is not known to need none, does not pass.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bawaba_filter_kit::channels::close::CloseCode;
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::{Event, Islamic, Revoked};
use bawaba_filter_kit::{Audience, Kind, Message, Policy, Session, Verdict, reason_of};
use bawaba_policies::sharia::{self, Mode, OrderTerms, Register, Rule, Screening};
use bawaba_policies::{InstrumentRef, UnixNanos};

use crate::memory::{Asked, Memory, Verdicts};
use crate::settings::{Opaque, OwnRecords, Settings};

/// The policy: a register of boards, lists and instruments.
#[derive(Debug)]
pub(crate) struct Sharia {
    register: Register,
    opaque: Opaque,
    own_records: OwnRecords,
    /// By screening. A cache: what it forgets is judged again.
    /// Made with the first: a map draws randomness, and what does so while it is configured starts slowly.
    verdicts: RefCell<Option<HashMap<Screening, Rc<Verdicts>>>>,
}

/// Distinct screenings whose verdicts are shared: boards and rules are few, and come from verified claims.
const SCREENINGS_MAX: usize = 256;

impl Policy for Sharia {
    const NAME: &'static str = "sharia";
    // The whole claim, not its parts: an unknown key in it makes the screening malformed, which refuses.
    const AUDIENCE: Option<&'static [&'static str]> = Some(&["/islamic"]);
    type Settings = Settings;
    type Memory = Memory;

    fn configure(settings: Settings) -> Result<Self, String> {
        let register = Register::from_settings(&settings.screening).map_err(|error| error.to_string())?;
        let verdicts = RefCell::default();
        Ok(Self { register, opaque: settings.opaque, own_records: settings.own_records, verdicts })
    }

    fn remember(&self, audience: &Audience<'_>) -> Memory {
        let screening = Screening::from_claims(&audience.facts());
        let mut shared = self.verdicts.borrow_mut();
        let shared = shared.get_or_insert_default();
        if let Some(verdicts) = shared.get(&screening) {
            return Memory::new(Rc::clone(verdicts));
        }
        if shared.len() >= SCREENINGS_MAX {
            shared.clear();
        }
        let verdicts = Rc::new(Verdicts::new(screening.clone()));
        shared.insert(screening, Rc::clone(&verdicts));
        Memory::new(verdicts)
    }

    fn connect(&self, session: &Session, memory: &mut Memory) -> Verdict {
        if !session.is_verified() {
            return Verdict::refuse(Reason::AuthMissing);
        }
        // Judged on all claims as well: the facts of an audience leave out what is wrong around them.
        let readable = Screening::from_claims(&session.raw_claims()) != Screening::Malformed;
        if readable && *memory.screening() != Screening::Malformed {
            Verdict::Pass
        } else {
            Verdict::refuse(Reason::AuthInvalid)
        }
    }

    fn inbound(&self, session: &Session, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        if memory.mode() != Mode::Filter {
            return Verdict::Pass;
        }
        let now = instant(session.now());
        match message.kind() {
            Kind::Subscribe => self.subscribe(memory, message, now),
            Kind::Order => self.order(memory, message, now),
            Kind::Unsubscribe | Kind::Refresh | Kind::Ping => Verdict::Pass,
            Kind::Opaque => self.opaque(),
            _ => Verdict::refuse(Reason::ProtocolUnsupported),
        }
    }

    fn outbound(&self, audience: &Audience<'_>, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        let now = instant(audience.now());
        match memory.mode() {
            Mode::Off => Verdict::Pass,
            Mode::Annotate => {
                self.annotate(memory, message, now);
                Verdict::Pass
            }
            Mode::Filter => self.filter(memory, message, now),
        }
    }
}

impl Sharia {
    fn opaque(&self) -> Verdict {
        match self.opaque {
            Opaque::Pass => Verdict::Pass,
            Opaque::Close => Verdict::Close(CloseCode::COMPLIANCE, "this dialect cannot be screened".into()),
        }
    }

    fn subscribe(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) -> Verdict {
        let Some(exchange) = message.exchange() else { return Verdict::refuse(Reason::ProtocolMalformed) };
        let symbols: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        let mut refused = Vec::new();
        // All symbols may be asked for: updates and the answer are judged on the way out.
        for symbol in symbols.iter().filter(|symbol| *symbol != "*") {
            if let Some(reason) = memory.judged(&self.register, &exchange, symbol, now, |judged| judged.refusal) {
                message.refuse_symbol(symbol, reason_of(reason));
                refused.push(symbol.clone());
            }
        }
        if symbols.is_empty() || message.symbols_left().next().is_some() {
            memory.ask(message.id(), Asked { exchange: exchange.into_owned(), refused });
        }
        Verdict::Pass
    }

    fn order(&self, memory: &Memory, message: &Message<'_>, now: UnixNanos) -> Verdict {
        match message.op().as_deref() {
            Some("cancel") => return Verdict::Pass,
            Some("place") => {}
            _ => return Verdict::refuse(Reason::ProtocolMalformed),
        }
        let (Some(exchange), Some(symbol), Some(flags)) = (message.exchange(), message.symbol(), message.flags())
        else {
            return Verdict::refuse(Reason::ProtocolMalformed);
        };
        let terms = OrderTerms {
            short_sale: flags.iter().any(|flag| flag == "short_sale"),
            margin: flags.iter().any(|flag| flag == "margin"),
        };
        let instrument = InstrumentRef::new(&exchange, &symbol);
        match sharia::judge_order(&self.register, memory.screening(), instrument, terms, now).refusal() {
            Some(reason) => Verdict::refuse(reason_of(reason)),
            None => Verdict::Pass,
        }
    }

    fn annotate(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) {
        match message.kind() {
            Kind::Quote | Kind::Book | Kind::Trade => {
                let (exchange, symbol) = (message.exchange(), message.symbol());
                let (exchange, symbol) = (exchange.as_deref().unwrap_or(""), symbol.as_deref().unwrap_or(""));
                memory.judged(&self.register, exchange, symbol, now, |judged| message.set_metadata(&judged.metadata));
            }
            Kind::Welcome => self.welcome(memory, message, now),
            _ => {}
        }
    }

    fn filter(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) -> Verdict {
        match message.kind() {
            Kind::Quote | Kind::Book | Kind::Trade => self.update(memory, message, now),
            Kind::News => self.news(memory, message, now),
            Kind::Subscribed => self.subscribed(memory, message, now),
            Kind::Welcome => {
                self.welcome(memory, message, now);
                Verdict::Pass
            }
            Kind::Gap => self.named(memory, message, now),
            Kind::MarketStatus if message.symbol().is_some() => self.named(memory, message, now),
            Kind::Alert if message.symbol().is_some() => self.named(memory, message, now),
            // Words for people, an operator's among them: they must not speak of a refused instrument either.
            Kind::Alert | Kind::MarketStatus if self.names_refused(memory, message, None, now) => Verdict::Drop,
            Kind::Error => {
                memory.answered(message.id());
                self.redact(memory, message, now);
                Verdict::Pass
            }
            Kind::OrderUpdate | Kind::PositionUpdate => match self.own_records {
                OwnRecords::Hide if message.id().is_none() => self.named(memory, message, now),
                _ => Verdict::Pass,
            },
            Kind::MarketStatus
            | Kind::Alert
            | Kind::Unsubscribed
            | Kind::Degraded
            | Kind::Revoked
            | Kind::Drain
            | Kind::Refreshed
            | Kind::Pong => Verdict::Pass,
            Kind::Opaque => self.opaque(),
            Kind::Subscribe
            | Kind::Unsubscribe
            | Kind::Order
            | Kind::Refresh
            | Kind::Ping
            | Kind::Unknown
            | Kind::Unreadable => Verdict::Drop,
        }
    }

    /// Quotes, books and trades. The first refused one of a subscription tells the client that no more will come.
    fn update(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) -> Verdict {
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else { return Verdict::Drop };
        let refusal = memory.judged(&self.register, &exchange, &symbol, now, |judged| {
            if judged.refusal.is_none() {
                message.set_metadata(&judged.metadata);
            }
            judged.refusal
        });
        let Some(reason) = refusal else { return Verdict::Pass };
        if let Some(subscription) = message.subscription()
            && memory.tell(&subscription, &symbol)
        {
            // What was subscribed to did flow: an instrument that is not on the list has left it.
            let reason = match reason_of(reason) {
                Reason::ShariaNotListed => Reason::ShariaDelisted,
                other => other,
            };
            message.announce(Event::Revoked(Revoked {
                subscription: subscription.into_owned(),
                symbols: vec![symbol.into_owned()],
                code: reason.word().into(),
                reason: reason.sentence().into(),
            }));
        }
        Verdict::Drop
    }

    /// Messages about one instrument that carry no verdict.
    fn named(&self, memory: &mut Memory, message: &Message<'_>, now: UnixNanos) -> Verdict {
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else { return Verdict::Drop };
        let refused = memory.judged(&self.register, &exchange, &symbol, now, |judged| judged.refusal.is_some());
        if refused || self.names_refused(memory, message, Some(&exchange), now) { Verdict::Drop } else { Verdict::Pass }
    }

    fn news(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) -> Verdict {
        let Some(exchange) = message.exchange() else { return Verdict::Drop };
        // A text that speaks of a refused instrument can't be cut to the allowed ones.
        if self.names_refused(memory, message, Some(&exchange), now) {
            return Verdict::Drop;
        }
        let symbols: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        for symbol in &symbols {
            if memory.judged(&self.register, &exchange, symbol, now, |judged| judged.refusal.is_some()) {
                message.remove_symbol(symbol);
            }
        }
        if symbols.is_empty() || message.symbols_left().next().is_some() { Verdict::Pass } else { Verdict::Drop }
    }

    /// Takes back what the backend accepted (it may, for a wildcard) and this session must not see.
    fn subscribed(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) -> Verdict {
        let asked = memory.answered(message.id());
        let subscription = message.subscription().map(|name| name.into_owned()).unwrap_or_default();
        let (exchange, refused) = asked.map_or((None, Vec::new()), |asked| (Some(asked.exchange), asked.refused));
        for symbol in &refused {
            memory.tell(&subscription, symbol);
        }
        let symbols: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        // A channel without symbols (own positions, the market's phase) is accepted as one entry without a name.
        for symbol in symbols.into_iter().filter(|symbol| !symbol.is_empty()) {
            let refusal = match &exchange {
                Some(exchange) => memory.judged(&self.register, exchange, &symbol, now, |judged| judged.refusal),
                // Not asked through this stream: only what flows wherever it trades.
                None => self.anywhere(memory, &symbol, now),
            };
            match refusal {
                Some(reason) => {
                    message.refuse_symbol(&symbol, reason_of(reason));
                    memory.tell(&subscription, &symbol);
                }
                None => memory.flows(&subscription, &symbol),
            }
        }
        Verdict::Pass
    }

    fn anywhere(&self, memory: &mut Memory, symbol: &str, now: UnixNanos) -> Option<bawaba_policies::Reason> {
        let mut refusal = Some(bawaba_policies::Reason::ShariaNotListed);
        for exchange in self.listed_on(symbol, now) {
            refusal = memory.judged(&self.register, exchange, symbol, now, |judged| judged.refusal);
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }

    fn listed_on<'a>(&'a self, symbol: &'a str, now: UnixNanos) -> impl Iterator<Item = &'a str> {
        let directory = self.register.directory();
        directory.exchanges().filter(move |exchange| {
            directory.find(InstrumentRef::new(exchange, symbol), now) != bawaba_policies::instrument::Found::Unknown
        })
    }

    fn welcome(&self, memory: &Memory, message: &mut Message<'_>, now: UnixNanos) {
        let Screening::On(screened) = memory.screening() else { return };
        let lists: Vec<&str> = self.register.lists_in_force(screened, now).into_iter().map(|(_, list)| list).collect();
        let rule = match screened.rule {
            Rule::Named => "named",
            Rule::AllOf => "all_of",
            Rule::AnyOf => "any_of",
        };
        message.set_islamic(Islamic {
            mode: if screened.mode == Mode::Filter { "filter" } else { "annotate" }.into(),
            boards: screened.boards().to_vec(),
            rule: Some(rule.into()),
            list: (!lists.is_empty()).then(|| lists.join(",")),
        });
    }

    /// An error answers a request and must arrive, but its text must not speak of a refused instrument.
    fn redact(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) {
        if self.names_refused(memory, message, None, now) {
            let reason = message.code().and_then(|code| code.parse::<Reason>().ok());
            message.set_reason(reason.map_or("refused", Reason::sentence));
        }
    }

    /// Whether the text for people names an instrument, on `exchange` or on any, that this session must not see.
    fn names_refused(
        &self,
        memory: &mut Memory,
        message: &Message<'_>,
        exchange: Option<&str>,
        now: UnixNanos,
    ) -> bool {
        for text in message.prose() {
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
                let word = word.trim_matches(['.', '-', '_']);
                if word.len() < 2 || word.len() > 12 || word.bytes().any(|b| b.is_ascii_lowercase()) {
                    continue;
                }
                for listed in self.listed_on(word, now) {
                    let here = exchange.is_none_or(|exchange| exchange == listed);
                    if here && memory.judged(&self.register, listed, word, now, |judged| judged.refusal.is_some()) {
                        return true;
                    }
                }
            }
        }
        false
    }
}

fn instant(now: bawaba_filter_kit::channels::wire::Timestamp) -> UnixNanos {
    UnixNanos(u64::try_from(now.0).unwrap_or(0))
}
