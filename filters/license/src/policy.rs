//! The licence at the handshake, at every subscribe and order, and whenever time changes it.
//!
//! The verdicts are `bawaba_policies::license`'s. A wildcard is judged as every instrument of the exchange, so that
//! updates need no second look and one verdict serves all. Where the host judges sessions anew when asked to (our edge),
//! it is told until when a verdict holds; elsewhere (Envoy) what is followed is looked at again with the next message.

use bawaba_filter_kit::channels::close::CloseCode;
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::{Audience, Delay, End, Grant, Kind, Message, Policy, Refusal, Session, Verdict, reason_of};
use bawaba_policies::instrument::Market;
use bawaba_policies::license::licenses::Settings as Licenses;
use bawaba_policies::license::{
    self, Asset, Depth, Latency, Permit, Subscription, Symbols, Terms, Tiers, judge_order, judge_standing,
    judge_subscribe,
};
use bawaba_policies::sharia::{self, Register};
use bawaba_policies::{InstrumentRef, UnixNanos};
use serde::Deserialize;

use crate::followed::{Followed, Request};

/// What to do with a licence for data that is not real-time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Delayed {
    /// Refuse its subscriptions to anything of the market, unless the host delays it: our edge does, Envoy does not.
    #[default]
    Refuse,
    /// Let them pass: the backend delays them.
    Pass,
}

impl TryFrom<String> for Delayed {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        match word.as_str() {
            "refuse" => Ok(Self::Refuse),
            "pass" => Ok(Self::Pass),
            _ => Err("delayed: write \"refuse\" or \"pass\""),
        }
    }
}

/// The configuration; `{}` is the tiers and instruments that ship with the rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Tiers, features, channels.
    pub(crate) tiers: license::Settings,
    /// What tenants and users were sold.
    pub(crate) licenses: Licenses,
    /// Instruments, added or replaced.
    pub(crate) markets: Vec<Market>,
    /// See [`Delayed`].
    pub(crate) delayed: Delayed,
}

/// The policy: tiers, and which kind each instrument is.
#[derive(Debug)]
pub(crate) struct License {
    tiers: Tiers,
    register: Register,
    delayed: Delayed,
}

/// One session, from the moment its handshake was judged.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    standing: Option<Result<license::License, license::Lapse>>,
    /// What it follows, where nobody else judges it anew.
    followed: Option<Box<Followed>>,
}

impl Memory {
    fn changes_at(&self) -> Option<UnixNanos> {
        match self.standing.as_ref()? {
            Ok(license) => license.changes_at(),
            Err(lapse) => lapse.changes_at,
        }
    }
}

impl Policy for License {
    const NAME: &'static str = "license";
    const AUDIENCE: Option<&'static [&'static str]> = Some(&[]);
    type Settings = Settings;
    type Memory = Memory;

    fn configure(settings: Settings) -> Result<Self, String> {
        let tiers = Tiers::from_settings(&settings.tiers).map_err(|error| error.to_string())?;
        let tiers = tiers.with_licenses(&settings.licenses).map_err(|error| error.to_string())?;
        let data = sharia::Settings { markets: settings.markets, ..sharia::Settings::default() };
        let register = Register::from_settings(&data).map_err(|error| error.to_string())?;
        Ok(Self { tiers, register, delayed: settings.delayed })
    }

    fn remember(&self, _: &Audience<'_>) -> Memory {
        Memory::default()
    }

    fn connect(&self, session: &Session, memory: &mut Memory) -> Verdict {
        if !session.is_verified() {
            return Verdict::refuse(Reason::AuthMissing);
        }
        let terms = match Terms::from_claims(&session.raw_claims()) {
            Ok(terms) => terms,
            Err(reason) => return Verdict::refuse(reason_of(reason)),
        };
        let standing = judge_standing(&self.tiers, &terms, instant(session.now()));
        if let Err(lapse) = standing
            && !session.host().is_some_and(|host| host.again)
        {
            return Verdict::refuse(reason_of(lapse.reason));
        }
        // An open session whose licence lapsed stays: each of its subscriptions is refused, and may be had again.
        memory.standing = Some(standing);
        if session.host().is_none() {
            memory.followed = Some(Box::new(Followed::new(terms)));
        }
        Verdict::Pass
    }

    fn inbound(&self, session: &Session, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        let now = instant(session.now());
        if memory.changes_at().is_some_and(|at| at <= now) {
            match Terms::from_claims(&session.raw_claims()) {
                Ok(terms) => memory.standing = Some(judge_standing(&self.tiers, &terms, now)),
                Err(reason) => return Verdict::refuse(reason_of(reason)),
            }
            self.revoke(memory, message, now);
        }
        let license = match &memory.standing {
            Some(Ok(license)) => license,
            Some(Err(lapse)) if is_judged(message) => return Verdict::refuse(reason_of(lapse.reason)),
            Some(Err(_)) => return Verdict::Pass,
            None => return Verdict::refuse(Reason::LicenseNotFound),
        };
        match message.kind() {
            Kind::Subscribe => {
                let verdict = self.subscribe(session, license, message, now);
                if let (Some(followed), Verdict::Pass) = (&mut memory.followed, &verdict) {
                    followed.asked(message);
                }
                verdict
            }
            Kind::Order if is_judged(message) => self.order(license, message, now),
            _ => Verdict::Pass,
        }
    }

    fn outbound(&self, audience: &Audience<'_>, memory: &mut Memory, message: &mut Message<'_>) -> Verdict {
        if memory.followed.is_none() {
            return Verdict::Pass;
        }
        let now = instant(audience.now());
        if memory.changes_at().is_some_and(|at| at <= now)
            && let Some(followed) = &memory.followed
        {
            memory.standing = Some(judge_standing(&self.tiers, followed.terms(), now));
            self.revoke(memory, message, now);
        }
        let passes = memory.followed.as_mut().is_none_or(|followed| followed.passes(message));
        if passes { Verdict::Pass } else { Verdict::Drop }
    }

    fn grant(&self, session: &Session, memory: &Memory) -> Grant {
        let mut grant = Grant::default();
        if let Some(at) = memory.changes_at() {
            grant.until(timestamp(at));
        }
        let editions = [self.tiers.licenses().id(), self.tiers.id()];
        let mut basis: Vec<&str> = Vec::new();
        if let Some(Ok(license)) = &memory.standing {
            basis.extend(license.id());
            basis.push(license.tier());
            grant.delay = match license.latency() {
                _ if !self.host_delays(session) => None,
                Latency::RealTime => None,
                Latency::DelayedMs(ms) => Some(Delay::Ms(ms)),
                Latency::EndOfDay => Some(Delay::EndOfDay),
            };
        }
        basis.extend(editions.into_iter().filter(|edition| !edition.is_empty()));
        grant.basis = basis.join(" ");
        grant
    }

    fn end(&self, _: &Session, memory: &Memory) -> Option<End> {
        let license = memory.standing.as_ref()?.as_ref().ok()?;
        // What the claims give an end to is the token.
        Some(End { at: timestamp(license.expires_at()), code: CloseCode::AUTH_ENDED, reason: Reason::AuthExpired })
    }
}

/// Whether a licence is asked for it. Taking an order back is nobody's business but its owner's.
fn is_judged(message: &Message<'_>) -> bool {
    match message.kind() {
        Kind::Subscribe => true,
        Kind::Order => message.op().as_deref() != Some("cancel"),
        _ => false,
    }
}

impl License {
    fn subscribe(
        &self,
        session: &Session,
        license: &license::License,
        message: &mut Message<'_>,
        now: UnixNanos,
    ) -> Verdict {
        let (Some(channel), exchange) = (message.channel(), message.exchange()) else {
            return Verdict::refuse(Reason::ProtocolMalformed);
        };
        let exchange = exchange.as_deref();
        let judge = |asset, symbols| {
            let request = Subscription { channel: &channel, exchange, asset, symbols, depth: Depth::Level1 };
            let permit =
                judge_subscribe(&self.tiers, license, &request, now).map_err(|refusal| reason_of(refusal.reason))?;
            self.delayed(session, permit)
        };
        // First the channel itself: a refusal of it is one refusal, not one per symbol.
        let symbols = if message.is_wildcard() { Symbols::All } else { Symbols::Named };
        if let Err(reason) = judge(Asset::None, symbols) {
            return Verdict::refuse(reason);
        }
        if message.is_wildcard() {
            let listed = self.register.directory().iter().filter(|listed| Some(listed.exchange) == exchange);
            for listed in listed {
                if let Err(reason) = judge(self.asset(listed.exchange, listed.symbol, now), symbols) {
                    return Verdict::Refuse(Refusal::new(reason).detail(format!(
                        "{}: not every symbol of the exchange is licensed, so name those that are",
                        reason.sentence()
                    )));
                }
            }
            return Verdict::Pass;
        }
        let named: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        for symbol in named {
            if let Err(reason) = judge(self.asset(exchange.unwrap_or(""), &symbol, now), symbols) {
                message.refuse_symbol(&symbol, reason);
            }
        }
        Verdict::Pass
    }

    fn order(&self, license: &license::License, message: &Message<'_>, now: UnixNanos) -> Verdict {
        let (Some(exchange), Some(symbol)) = (message.exchange(), message.symbol()) else {
            return Verdict::refuse(Reason::ProtocolMalformed);
        };
        let asset = self.asset(&exchange, &symbol, now);
        match judge_order(&self.tiers, license, &exchange, asset, now) {
            Ok(_) => Verdict::Pass,
            Err(refusal) => Verdict::refuse(reason_of(refusal.reason)),
        }
    }

    fn asset(&self, exchange: &str, symbol: &str, now: UnixNanos) -> Asset {
        self.register
            .directory()
            .asset_type(InstrumentRef::new(exchange, symbol), now)
            .map_or(Asset::Unknown, Asset::Known)
    }

    /// A licence for late data is no licence for what nobody delays.
    fn delayed(&self, session: &Session, permit: Permit) -> Result<(), Reason> {
        let is_kept = permit.latency == Latency::RealTime || self.delayed == Delayed::Pass || self.host_delays(session);
        if is_kept { Ok(()) } else { Err(Reason::LicenseFeature) }
    }

    fn host_delays(&self, session: &Session) -> bool {
        self.delayed == Delayed::Refuse && session.host().is_some_and(|host| host.delays)
    }

    /// Ends what the licence no longer opens, and says so.
    fn revoke(&self, memory: &mut Memory, message: &mut Message<'_>, now: UnixNanos) {
        let (Some(standing), Some(followed)) = (&memory.standing, &mut memory.followed) else { return };
        let judge = |request: &Request, symbol: &str| {
            let license = standing.as_ref().map_err(|lapse| reason_of(lapse.reason))?;
            let exchange = Some(request.exchange.as_str()).filter(|exchange| !exchange.is_empty());
            let asset = if symbol.is_empty() { Asset::None } else { self.asset(&request.exchange, symbol, now) };
            let asked = Subscription {
                channel: &request.channel,
                exchange,
                asset,
                symbols: Symbols::Named,
                depth: Depth::Level1,
            };
            let permit =
                judge_subscribe(&self.tiers, license, &asked, now).map_err(|refusal| reason_of(refusal.reason))?;
            let is_late = permit.latency != Latency::RealTime && self.delayed == Delayed::Refuse;
            if is_late { Err(Reason::LicenseFeature) } else { Ok(()) }
        };
        for revoked in followed.revoke(judge) {
            message.announce(revoked);
        }
    }
}

fn instant(now: Timestamp) -> UnixNanos {
    UnixNanos(u64::try_from(now.0).unwrap_or(0))
}

fn timestamp(at: UnixNanos) -> Timestamp {
    Timestamp(i64::try_from(at.0).unwrap_or(i64::MAX))
}
