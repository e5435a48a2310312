//! The licence at the handshake, at every subscribe and order, and at its end.
//!
//! The verdicts are `bawaba_policies::license`'s. A wildcard is judged as every instrument of the exchange, so that
//! updates need no second look and one verdict serves all.

use bawaba_filter_kit::channels::close::CloseCode;
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::{Audience, End, Kind, Message, Policy, Refusal, Session, Verdict, reason_of};
use bawaba_policies::instrument::Market;
use bawaba_policies::license::{
    self, Asset, Depth, Latency, Permit, Subscription, Symbols, Terms, Tiers, judge_connect, judge_order,
    judge_subscribe,
};
use bawaba_policies::sharia::{self, Register};
use bawaba_policies::{InstrumentRef, UnixNanos};
use serde::Deserialize;

/// What to do with a licence for data that is not real-time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Delayed {
    /// Refuse its subscriptions to prices: nothing behind this filter is known to delay them.
    #[default]
    Refuse,
    /// Let them pass: the backend delays them.
    Pass,
}

/// The configuration; `{}` is the tiers and instruments that ship with the rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Tiers, features, channels.
    pub(crate) tiers: license::Settings,
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

impl Policy for License {
    const NAME: &'static str = "license";
    const AUDIENCE: Option<&'static [&'static str]> = Some(&[]);
    type Settings = Settings;
    /// The licence, from the moment the handshake was judged.
    type Memory = Option<license::License>;

    fn configure(settings: Settings) -> Result<Self, String> {
        let tiers = Tiers::from_settings(&settings.tiers).map_err(|error| error.to_string())?;
        let data = sharia::Settings { markets: settings.markets, ..sharia::Settings::default() };
        let register = Register::from_settings(&data).map_err(|error| error.to_string())?;
        Ok(Self { tiers, register, delayed: settings.delayed })
    }

    fn remember(&self, _: &Audience<'_>) -> Option<license::License> {
        None
    }

    fn connect(&self, session: &Session, memory: &mut Option<license::License>) -> Verdict {
        if !session.is_verified() {
            return Verdict::refuse(Reason::AuthMissing);
        }
        let terms = match Terms::from_claims(&session.raw_claims()) {
            Ok(terms) => terms,
            Err(reason) => return Verdict::refuse(reason_of(reason)),
        };
        match judge_connect(&self.tiers, &terms, instant(session.now())) {
            Ok(license) => {
                *memory = Some(license);
                Verdict::Pass
            }
            Err(refusal) => Verdict::refuse(reason_of(refusal.reason)),
        }
    }

    fn inbound(&self, session: &Session, memory: &mut Option<license::License>, message: &mut Message<'_>) -> Verdict {
        let Some(license) = memory else { return Verdict::refuse(Reason::LicenseNotFound) };
        let now = instant(session.now());
        match message.kind() {
            Kind::Subscribe => self.subscribe(license, message, now),
            Kind::Order if message.op().as_deref() != Some("cancel") => self.order(license, message, now),
            _ => Verdict::Pass,
        }
    }

    fn end(&self, _: &Session, memory: &Option<license::License>) -> Option<End> {
        let at = memory.as_ref()?.expires_at();
        // What the claims give an end to is the token.
        let at = Timestamp(i64::try_from(at.0).unwrap_or(i64::MAX));
        Some(End { at, code: CloseCode::AUTH_ENDED, reason: Reason::AuthExpired })
    }
}

impl License {
    fn subscribe(&self, license: &license::License, message: &mut Message<'_>, now: UnixNanos) -> Verdict {
        let (Some(channel), exchange) = (message.channel(), message.exchange()) else {
            return Verdict::refuse(Reason::ProtocolMalformed);
        };
        let exchange = exchange.as_deref();
        let judge = |asset, symbols| {
            let request = Subscription { channel: &channel, exchange, asset, symbols, depth: Depth::Level1 };
            let permit =
                judge_subscribe(&self.tiers, license, &request, now).map_err(|refusal| reason_of(refusal.reason))?;
            self.delayed(permit, &channel)
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

    /// Channels without prices (news, alerts, status, own orders and positions) are the same for every latency.
    fn delayed(&self, permit: Permit, channel: &str) -> Result<(), Reason> {
        let prices = matches!(channel, "market_data" | "order_book" | "trades");
        if prices && permit.latency != Latency::RealTime && self.delayed == Delayed::Refuse {
            return Err(Reason::LicenseFeature);
        }
        Ok(())
    }
}

fn instant(now: Timestamp) -> UnixNanos {
    UnixNanos(u64::try_from(now.0).unwrap_or(0))
}
