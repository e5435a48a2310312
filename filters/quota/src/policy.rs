//! Quota of users and tenants: connections, subscriptions, symbols, messages, orders, deliveries.
//!
//! The counting is `bawaba_policies::quota`'s, over values that all workers share; what is here is which message takes
//! what, and which gives it back. Deliveries are not counted here: the host counts them, within an allowance.

use std::hash::{BuildHasher, Hasher, RandomState};

use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::{Alert, Event, Timestamp};
use bawaba_filter_kit::{Audience, Grant, Kind, Message, Policy, Refusal, Session, SharedData, Verdict, reason_of};
use bawaba_policies::UnixNanos;
use bawaba_policies::instrument::Market;
use bawaba_policies::license::licenses::Settings as Licenses;
use bawaba_policies::license::{self, Tiers};
use bawaba_policies::quota::{Admit, Client, Clock, Clocks, Desk, Entitled, Refused};
use bawaba_policies::sharia::{self, Register};
use serde::Deserialize;

use crate::memory::{Books, Memory};

/// The configuration; `{}` is the tiers and instruments that ship with the rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Tiers and their limits.
    pub(crate) tiers: license::Settings,
    /// What tenants and users were sold.
    pub(crate) licenses: Licenses,
    /// Instruments, added or replaced: how many a wildcard stands for.
    pub(crate) markets: Vec<Market>,
    /// Clocks of exchanges, added or replaced: when their days begin.
    pub(crate) clocks: Vec<Clock>,
    /// The exchange in whose days deliveries are counted; `EGX` if absent.
    pub(crate) day_of: Option<String>,
}

/// The policy: the limits, and the desk where they are taken from.
#[derive(Debug)]
pub(crate) struct Quota {
    tiers: Tiers,
    register: Register,
    books: Books,
}

impl Policy for Quota {
    const NAME: &'static str = "quota";
    const AUDIENCE: Option<&'static [&'static str]> = Some(&[]);
    type Settings = Settings;
    type Memory = Memory;

    fn configure(settings: Settings) -> Result<Self, String> {
        let tiers = Tiers::from_settings(&settings.tiers).map_err(|error| error.to_string())?;
        let tiers = tiers.with_licenses(&settings.licenses).map_err(|error| error.to_string())?;
        let data = sharia::Settings { markets: settings.markets, ..sharia::Settings::default() };
        let register = Register::from_settings(&data).map_err(|error| error.to_string())?;
        let books = Books {
            desk: Desk::new(SharedData, random()),
            clocks: Clocks::from_settings(&settings.clocks).map_err(|error| error.to_string())?,
            day_of: settings.day_of.unwrap_or_else(|| "EGX".into()),
        };
        Ok(Self { tiers, register, books })
    }

    fn remember(&self, _: &Audience<'_>) -> Memory {
        Memory::default()
    }

    fn connect(&self, session: &Session, memory: &mut Memory) -> Verdict {
        if !session.is_verified() {
            return Verdict::refuse(Reason::AuthMissing);
        }
        let now = instant(session.now());
        let claims = session.raw_claims();
        let entitled = match Entitled::from_claims(&self.tiers, &claims, now) {
            Ok(entitled) => entitled,
            Err(reason) => return Verdict::refuse(reason_of(reason)),
        };
        let sid = claims.get("sid").and_then(serde_json::Value::as_str);
        let unit = sid.map_or_else(random, |sid| same_for(&[&entitled.tenant, &entitled.user, sid]));
        let again = session.host().is_some_and(|host| host.again);
        let admit = if again { Admit::Again } else { Admit::Within };
        match memory.connect(&self.books, Client { entitled, unit }, admit, session.host().is_some(), now) {
            Ok(()) => Verdict::Pass,
            Err(refused) => refuse(refused),
        }
    }

    fn inbound(&self, session: &Session, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        let now = instant(session.now());
        let verdict = self.judge(session, memory, message, now);
        for warning in memory.take_warnings() {
            message.announce(Event::Alert(Alert {
                code: warning.word().into(),
                reason: format!("80 % of a limit are used: beyond it, {}", warning.sentence()),
                ..Alert::default()
            }));
        }
        match verdict {
            Ok(()) => Verdict::Pass,
            Err(refused) => refuse(refused),
        }
    }

    fn outbound(&self, audience: &Audience<'_>, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        match message.kind() {
            Kind::Subscribed => {
                let (id, accepted) = (message.id(), owned(message));
                let name = message.subscription().map(|name| name.into_owned());
                let now = instant(audience.now());
                for symbol in memory.subscribed(&self.books, id, name.as_deref(), accepted, now) {
                    // Only a wildcard over an exchange with more symbols than the data knows gets here.
                    message.refuse_symbol(&symbol, Reason::QuotaSymbols);
                }
            }
            Kind::Unsubscribed => memory.unsubscribed(&self.books, message.id()),
            Kind::Error => memory.refused(&self.books, message.id()),
            Kind::Revoked => {
                let symbols = owned(message);
                if let (Some(subscription), false) = (message.subscription(), symbols.is_empty()) {
                    memory.release(&self.books, &subscription, &symbols);
                }
            }
            _ => {}
        }
        Verdict::Pass
    }

    fn grant(&self, _: &Session, memory: &Memory) -> Grant {
        let mut grant = Grant::default();
        if let Some(allowance) = memory.allowance() {
            grant.messages = allowance.messages;
            grant.bytes = allowance.bytes;
            grant.until(Timestamp(i64::try_from(allowance.day.next_at.0).unwrap_or(i64::MAX)));
        }
        grant
    }

    fn close(&self, session: &Session, memory: &mut Memory) {
        let delivered = session.host().map_or((0, 0), |host| (host.delivered_messages, host.delivered_bytes));
        memory.close(&self.books, delivered, instant(session.now()));
    }

    fn tick(&self, now: Timestamp) {
        self.books.desk.renew(instant(now));
    }
}

impl Quota {
    fn judge(
        &self,
        session: &Session,
        memory: &mut Memory,
        message: &Message<'_>,
        now: UnixNanos,
    ) -> Result<(), Refused> {
        let admit = if session.is_replay() { Admit::Again } else { Admit::Within };
        if admit == Admit::Within {
            memory.message(&self.books, now)?;
        }
        match message.kind() {
            Kind::Order if message.op().as_deref() != Some("cancel") => {
                memory.order(&self.books, &message.exchange().unwrap_or_default(), now)
            }
            Kind::Subscribe => {
                let symbols = self.symbols(message);
                memory.subscribe(&self.books, admit, message.id(), symbols, now)
            }
            Kind::Unsubscribe => {
                let subscription = message.subscription().map(|name| name.into_owned()).unwrap_or_default();
                memory.unsubscribe(&self.books, message.id(), subscription, owned(message));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The symbols that a subscribe may come to, with their exchange.
    fn symbols(&self, message: &Message<'_>) -> (String, Vec<String>) {
        let exchange = message.exchange().map(|exchange| exchange.into_owned()).unwrap_or_default();
        let symbols = if message.is_wildcard() {
            let listed = self.register.directory().iter().filter(|listed| listed.exchange == exchange);
            listed.map(|listed| listed.symbol.to_owned()).collect()
        } else {
            owned(message)
        };
        (exchange, symbols)
    }
}

fn owned(message: &Message<'_>) -> Vec<String> {
    message.symbols().iter().map(|symbol| symbol.to_string()).collect()
}

fn instant(now: Timestamp) -> UnixNanos {
    UnixNanos(u64::try_from(now.0).unwrap_or(0))
}

/// The keys of a `RandomState` come from the host's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// FNV-1a: the same on every worker for the same texts.
fn same_for(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xFF]));
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

fn refuse(refused: Refused) -> Verdict {
    let mut refusal = Refusal::new(reason_of(refused.reason));
    refusal.retry_after_ms = refused.retry_after_ms.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
    Verdict::Refuse(refusal)
}
