//! Which instrument each message names, and what the verdict on it does to the message.
//!
//! The verdicts are `bawaba_policies::sharia`'s; what is here is where in a message an instrument can hide. In
//! filter mode a message that names none that could be found, and is not known to need none, does not pass.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bawaba_filter_kit::channels::close::CloseCode;
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::{Event, Islamic, Revoked, Timestamp};
use bawaba_filter_kit::{Audience, Kind, Message, Policy, Session, Verdict, reason_of};
use bawaba_policies::sharia::{self, Decision, Mode, OrderTerms, Register, Rule, Screening, Subject};
use bawaba_policies::{InstrumentRef, UnixNanos};

use crate::judged::Judged;
use crate::memory::{Asked, Memory, Verdicts};
use crate::settings::{Opaque, OwnRecords, Settings};

/// The policy: a register of boards, lists and instruments.
#[derive(Debug)]
pub(crate) struct Sharia {
    pub(crate) register: Register,
    /// Whether rules take anything away in mode annotate.
    annotate_is_ruled: bool,
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
        let annotate_is_ruled = register.rules().touches(Mode::Annotate);
        let Settings { opaque, own_records, .. } = settings;
        Ok(Self { register, annotate_is_ruled, opaque, own_records, verdicts: RefCell::default() })
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
        let now = session.now();
        match memory.mode() {
            Mode::Off => return Verdict::Pass,
            Mode::Annotate if !self.annotate_is_ruled => {
                if message.kind() == Kind::Subscribe
                    && let Some(exchange) = message.exchange()
                {
                    let asked =
                        Asked { exchange: exchange.into_owned(), subject: subject_of(message), refused: Vec::new() };
                    memory.ask(message.id(), asked);
                }
                return Verdict::Pass;
            }
            Mode::Annotate | Mode::Filter => {}
        }
        match message.kind() {
            Kind::Subscribe => self.subscribe(memory, message, now),
            Kind::Order => self.order(memory, message, now),
            Kind::Unsubscribe | Kind::Refresh | Kind::Ping => Verdict::Pass,
            Kind::Opaque => self.opaque(),
            _ => Verdict::refuse(Reason::ProtocolUnsupported),
        }
    }

    fn outbound(&self, audience: &Audience<'_>, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        let now = audience.now();
        match memory.mode() {
            Mode::Off => Verdict::Pass,
            Mode::Annotate if !self.annotate_is_ruled => {
                self.annotate(memory, message, now);
                Verdict::Pass
            }
            Mode::Annotate | Mode::Filter => self.filter(memory, message, now),
        }
    }
}

/// What a message is to a rule: an update or a notice by what it is, a request to subscribe by what will come of it.
pub(crate) fn subject_of(message: &Message<'_>) -> Subject {
    match (message.kind(), message.channel().as_deref()) {
        (Kind::Book, _) | (Kind::Subscribe, Some("order_book")) => Subject::Book,
        (Kind::Trade, _) | (Kind::Subscribe, Some("trades")) => Subject::Trade,
        (Kind::News, _) | (Kind::Subscribe, Some("news")) => Subject::News,
        (Kind::MarketStatus, _) | (Kind::Subscribe, Some("market_status")) => Subject::Status,
        (Kind::Alert | Kind::Error, _) | (Kind::Subscribe, Some("alerts")) => Subject::Alert,
        (Kind::OrderUpdate, _) => Subject::OrderUpdate,
        (Kind::PositionUpdate, _) => Subject::PositionUpdate,
        _ => Subject::Quote,
    }
}

impl Sharia {
    fn opaque(&self) -> Verdict {
        match self.opaque {
            Opaque::Pass => Verdict::Pass,
            Opaque::Close => Verdict::Close(CloseCode::COMPLIANCE, "this dialect cannot be screened".into()),
        }
    }

    fn subscribe(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) -> Verdict {
        let Some(exchange) = message.exchange() else { return Verdict::refuse(Reason::ProtocolMalformed) };
        let subject = subject_of(message);
        let symbols: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        let mut refused = Vec::new();
        // All symbols may be asked for: updates and the answer are judged on the way out.
        for symbol in symbols.iter().filter(|symbol| *symbol != "*") {
            let refusal = self.judged(memory, &exchange, symbol, now, |judged| judged.refusal(subject, now));
            if let Some(refusal) = refusal {
                message.refuse_symbol(symbol, refusal);
                refused.push(symbol.clone());
            }
        }
        if symbols.is_empty() || message.symbols_left().next().is_some() {
            memory.ask(message.id(), Asked { exchange: exchange.into_owned(), subject, refused });
        }
        Verdict::Pass
    }

    fn order(&self, memory: &Memory, message: &Message<'_>, now: Timestamp) -> Verdict {
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
        let verdict = sharia::judge_order(&self.register, memory.screening(), instrument, terms, instant(now));
        match self.register.rules().decide(&verdict, &exchange, Subject::Order).decision {
            Decision::Drop(reason) => Verdict::refuse(reason_of(reason)),
            Decision::Redact(_) | Decision::Annotate => Verdict::Pass,
        }
    }

    pub(crate) fn judged<T>(
        &self,
        memory: &Memory,
        exchange: &str,
        symbol: &str,
        now: Timestamp,
        read: impl FnOnce(&Judged) -> T,
    ) -> T {
        memory.judged(&self.register, exchange, symbol, instant(now), read)
    }

    /// Mode annotate where no rule takes anything away.
    fn annotate(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) {
        match message.kind() {
            Kind::Quote | Kind::Book | Kind::Trade => {
                let (exchange, symbol) = (message.exchange(), message.symbol());
                let (exchange, symbol) = (exchange.as_deref().unwrap_or(""), symbol.as_deref().unwrap_or(""));
                let subject = subject_of(message);
                self.judged(memory, exchange, symbol, now, |judged| {
                    message.set_metadata(&judged.shown(subject).metadata);
                });
            }
            Kind::Subscribed => {
                let Some(asked) = memory.answered(message.id()) else { return };
                for symbol in message.symbols().iter().map(|symbol| symbol.to_string()).collect::<Vec<_>>() {
                    self.say_accepted(memory, message, &asked.exchange, asked.subject, &symbol, now);
                }
            }
            Kind::Error => drop(memory.answered(message.id())),
            Kind::Welcome => self.welcome(memory, message, now),
            _ => {}
        }
    }

    fn filter(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) -> Verdict {
        match message.kind() {
            Kind::Quote | Kind::Book | Kind::Trade => self.update(memory, message, now),
            Kind::News => self.news(memory, message, now),
            Kind::Subscribed => self.subscribed(memory, message, now),
            Kind::Welcome => {
                self.welcome(memory, message, now);
                Verdict::Pass
            }
            Kind::Gap => self.gap(memory, message, now),
            Kind::MarketStatus | Kind::Alert if message.symbol().is_some() => self.named(memory, message, now),
            // Words for people, an operator's among them: they must not speak of a refused instrument either.
            Kind::Alert | Kind::MarketStatus if self.names_refused(memory, message, None, now) => Verdict::Drop,
            Kind::Error => {
                memory.answered(message.id());
                self.redact(memory, message, now);
                Verdict::Pass
            }
            // An answer to a request must arrive.
            Kind::OrderUpdate if message.id().is_some() => Verdict::Pass,
            Kind::OrderUpdate | Kind::PositionUpdate => self.own(memory, message, now),
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
    fn update(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) -> Verdict {
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else { return Verdict::Drop };
        let subject = subject_of(message);
        let refusal = self.judged(memory, &exchange, &symbol, now, |judged| {
            let shown = judged.shown(subject);
            match shown.decision {
                Decision::Drop(reason) => return Some(reason),
                Decision::Redact(fields) => message.keep_fields(fields.left()),
                Decision::Annotate => {}
            }
            message.set_metadata(&shown.metadata);
            None
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

    /// Alerts about one instrument, and its halts.
    fn named(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) -> Verdict {
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else { return Verdict::Drop };
        let subject = subject_of(message);
        match self.judged(memory, &exchange, &symbol, now, |judged| judged.shown(subject).decision) {
            Decision::Drop(_) => return Verdict::Drop,
            Decision::Redact(fields) => message.keep_fields(fields.left()),
            Decision::Annotate => {}
        }
        if self.names_refused(memory, message, Some(&exchange), now) { Verdict::Drop } else { Verdict::Pass }
    }

    /// It says no more than that something is missing of what may be seen.
    fn gap(&self, memory: &Memory, message: &Message<'_>, now: Timestamp) -> Verdict {
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else { return Verdict::Drop };
        match self.judged(memory, &exchange, &symbol, now, Judged::hidden) {
            Some(_) => Verdict::Drop,
            None => Verdict::Pass,
        }
    }

    /// Own orders and positions: as the setting says, unless a rule that names them takes them away.
    fn own(&self, memory: &Memory, message: &Message<'_>, now: Timestamp) -> Verdict {
        let subject = subject_of(message);
        if self.own_records == OwnRecords::Show && !self.register.rules().reaches(subject) {
            return Verdict::Pass;
        }
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else { return Verdict::Drop };
        let refused = self.judged(memory, &exchange, &symbol, now, |judged| {
            let shown = judged.shown(subject);
            shown.refusal().is_some() && (self.own_records == OwnRecords::Hide || shown.rule.is_some())
        });
        if refused { Verdict::Drop } else { Verdict::Pass }
    }

    fn news(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) -> Verdict {
        let Some(exchange) = message.exchange() else { return Verdict::Drop };
        // A text that speaks of a refused instrument can't be cut to the allowed ones.
        if self.names_refused(memory, message, Some(&exchange), now) {
            return Verdict::Drop;
        }
        let symbols: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        for symbol in &symbols {
            if self.judged(memory, &exchange, symbol, now, |judged| judged.shown(Subject::News).hides_text()) {
                message.remove_symbol(symbol);
            }
        }
        if symbols.is_empty() || message.symbols_left().next().is_some() { Verdict::Pass } else { Verdict::Drop }
    }

    /// Takes back what the backend accepted (it may, for a wildcard) and this session must not see.
    fn subscribed(&self, memory: &mut Memory, message: &mut Message<'_>, now: Timestamp) -> Verdict {
        let asked = memory.answered(message.id());
        let subscription = message.subscription().map(|name| name.into_owned()).unwrap_or_default();
        for symbol in asked.iter().flat_map(|asked| &asked.refused) {
            memory.tell(&subscription, symbol);
        }
        let symbols: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        // A channel without symbols (own positions, the market's phase) is accepted as one entry without a name.
        for symbol in symbols.into_iter().filter(|symbol| !symbol.is_empty()) {
            let refusal = match &asked {
                Some(Asked { exchange, subject, .. }) => {
                    self.judged(memory, exchange, &symbol, now, |judged| judged.refusal(*subject, now))
                }
                // Not asked through this stream: only what flows wherever it trades.
                None => self.anywhere(memory, &symbol, now).map(|reason| reason_of(reason).into()),
            };
            if let Some(refusal) = refusal {
                message.refuse_symbol(&symbol, refusal);
                memory.tell(&subscription, &symbol);
                continue;
            }
            memory.flows(&subscription, &symbol);
            if let Some(asked) = &asked {
                self.say_accepted(memory, message, &asked.exchange, asked.subject, &symbol, now);
            }
        }
        Verdict::Pass
    }

    /// The verdict on a symbol that was accepted.
    fn say_accepted(
        &self,
        memory: &Memory,
        message: &mut Message<'_>,
        exchange: &str,
        subject: Subject,
        symbol: &str,
        now: Timestamp,
    ) {
        if !symbol.is_empty() {
            self.judged(memory, exchange, symbol, now, |judged| {
                message.set_symbol_metadata(symbol, &judged.shown(subject).metadata);
            });
        }
    }

    fn welcome(&self, memory: &Memory, message: &mut Message<'_>, now: Timestamp) {
        let Screening::On(screened) = memory.screening() else { return };
        let lists = self.register.lists_in_force(screened, instant(now));
        let lists: Vec<&str> = lists.into_iter().map(|(_, list)| list).collect();
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
}

pub(crate) fn instant(now: Timestamp) -> UnixNanos {
    UnixNanos(u64::try_from(now.0).unwrap_or(0))
}
