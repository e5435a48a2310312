//! The quota of one session: messages, orders, subscriptions and symbols.
//!
//! The counting is `bawaba_policies::quota`'s; what is here is which message takes what, and which gives it back.
//! It knows no other session: connections are counted by whoever sees them all.

use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::{Audience, Kind, Message, Policy, Refusal, Session, Verdict, reason_of};
use bawaba_policies::UnixNanos;
use bawaba_policies::instrument::Market;
use bawaba_policies::license::{self, Tiers};
use bawaba_policies::quota::{Limits, Refused};
use bawaba_policies::sharia::{self, Register};
use serde::Deserialize;

use crate::memory::Memory;

/// The configuration; `{}` is the tiers and instruments that ship with the rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Tiers and their limits.
    pub(crate) tiers: license::Settings,
    /// Instruments, added or replaced: how many a wildcard stands for.
    pub(crate) markets: Vec<Market>,
}

/// The policy: the tiers' limits.
#[derive(Debug)]
pub(crate) struct Quota {
    tiers: Tiers,
    register: Register,
}

impl Policy for Quota {
    const NAME: &'static str = "quota";
    const AUDIENCE: Option<&'static [&'static str]> = Some(&[]);
    type Settings = Settings;
    type Memory = Memory;

    fn configure(settings: Settings) -> Result<Self, String> {
        let tiers = Tiers::from_settings(&settings.tiers).map_err(|error| error.to_string())?;
        let data = sharia::Settings { markets: settings.markets, ..sharia::Settings::default() };
        let register = Register::from_settings(&data).map_err(|error| error.to_string())?;
        Ok(Self { tiers, register })
    }

    fn remember(&self, _: &Audience<'_>) -> Memory {
        Memory::default()
    }

    fn connect(&self, session: &Session, memory: &mut Memory) -> Verdict {
        if !session.is_verified() {
            return Verdict::refuse(Reason::AuthMissing);
        }
        match Limits::from_claims(&self.tiers, &session.raw_claims()) {
            Ok(limits) => {
                memory.limit(limits);
                Verdict::Pass
            }
            Err(reason) => Verdict::refuse(reason_of(reason)),
        }
    }

    fn inbound(&self, session: &Session, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        let now = UnixNanos(u64::try_from(session.now().0).unwrap_or(0));
        let Some((limits, usage)) = memory.usage() else { return Verdict::refuse(Reason::QuotaMessages) };
        if let Err(refused) = usage.message(limits, now) {
            return refuse(refused);
        }
        match message.kind() {
            Kind::Order if message.op().as_deref() != Some("cancel") => match usage.order(limits, now) {
                Ok(()) => Verdict::Pass,
                Err(refused) => refuse(refused),
            },
            Kind::Subscribe => {
                let symbols = self.symbols(message);
                memory.subscribe(message.id(), symbols).map_or(Verdict::Pass, refuse)
            }
            Kind::Unsubscribe => {
                let subscription = message.subscription().map(|name| name.into_owned()).unwrap_or_default();
                memory.unsubscribe(message.id(), subscription, owned(message));
                Verdict::Pass
            }
            _ => Verdict::Pass,
        }
    }

    fn outbound(&self, _: &Audience<'_>, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        match message.kind() {
            Kind::Subscribed => {
                let over = memory.subscribed(message.id(), message.subscription().as_deref(), owned(message));
                // Only a wildcard over an exchange with more symbols than the data knows gets here.
                for symbol in over {
                    message.refuse_symbol(&symbol, Reason::QuotaSymbols);
                }
            }
            Kind::Unsubscribed => memory.unsubscribed(message.id()),
            Kind::Error => memory.refused(message.id()),
            Kind::Revoked => {
                let symbols = owned(message);
                if let (Some(subscription), false) = (message.subscription(), symbols.is_empty()) {
                    memory.release(&subscription, &symbols);
                }
            }
            _ => {}
        }
        Verdict::Pass
    }
}

impl Quota {
    /// How many symbols a subscribe may come to.
    fn symbols(&self, message: &Message<'_>) -> u32 {
        let count = if message.is_wildcard() {
            let exchange = message.exchange();
            self.register.directory().iter().filter(|listed| Some(listed.exchange) == exchange.as_deref()).count()
        } else {
            message.symbols().len()
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

fn owned(message: &Message<'_>) -> Vec<String> {
    message.symbols().iter().map(|symbol| symbol.to_string()).collect()
}

fn refuse(refused: Refused) -> Verdict {
    let mut refusal = Refusal::new(reason_of(refused.reason));
    refusal.retry_after_ms = refused.retry_after_ms.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
    Verdict::Refuse(refusal)
}
