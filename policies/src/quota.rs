//! Quota of one session: exact integer limits, and what was used of them.
//!
//! [`Usage`] is a plain value that the caller keeps for the life of the session; dropping it releases everything. It
//! knows no other session: limits per user or tenant belong to whoever sees all of their sessions.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::license::Tiers;
use crate::{Reason, UnixNanos};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MINUTE: u64 = 60 * NANOS_PER_SECOND;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// A count that may not be exceeded. In data an integer, or the word `"unlimited"`; -1 is no integer here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// This many and not one more; 0 is none at all.
    AtMost(u32),
    /// As many as the edge itself can hold.
    Unlimited,
}

impl Limit {
    /// How many more there may be when `used` are held.
    pub const fn left(self, used: u32) -> u32 {
        match self {
            Self::AtMost(most) => most.saturating_sub(used),
            Self::Unlimited => u32::MAX - used,
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AtMost(most) => serializer.serialize_u32(*most),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.as_str() == Some("unlimited") {
            return Ok(Self::Unlimited);
        }
        let most = value.as_u64().and_then(|most| u32::try_from(most).ok());
        most.map(Self::AtMost).ok_or_else(|| serde::de::Error::custom("a limit is a whole number or \"unlimited\""))
    }
}

/// The limits of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections of the user at once. Not judged here: one session can't count the others.
    pub connections: Limit,
    /// Subscriptions at once.
    pub subscriptions: Limit,
    /// Symbols over all subscriptions at once; a symbol in two subscriptions counts twice.
    pub symbols: Limit,
    /// Messages from the client per second, in the long run.
    pub messages_per_second: Limit,
    /// Messages that may come at once after a silence: over any t seconds at most
    /// `messages_burst + t * messages_per_second` pass.
    pub messages_burst: Limit,
    /// Orders in one minute of the clock (UTC).
    pub orders_per_minute: Limit,
}

/// What claims may say in `quota`: what is there replaces the tier's limit, what is not leaves it. A limit is a
/// number, `{"limit": number}`, or `null`, `-1` or `"unlimited"` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    #[serde(deserialize_with = "claimed")]
    connections: Option<Limit>,
    #[serde(deserialize_with = "claimed")]
    subscriptions: Option<Limit>,
    #[serde(deserialize_with = "claimed")]
    symbols: Option<Limit>,
    /// Without `messages_burst`, also the burst.
    #[serde(alias = "messages", deserialize_with = "claimed")]
    messages_per_second: Option<Limit>,
    #[serde(deserialize_with = "claimed")]
    messages_burst: Option<Limit>,
    #[serde(alias = "orders", deserialize_with = "claimed")]
    orders_per_minute: Option<Limit>,
    /// Read, not judged here: whoever writes the bytes counts them.
    #[serde(deserialize_with = "claimed")]
    bytes: Option<Limit>,
}

fn claimed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let limit = match &value {
        Value::Object(fields) if fields.len() == 1 => fields.get("limit").unwrap_or(&value),
        _ => &value,
    };
    if limit.is_null() || limit.as_i64() == Some(-1) {
        return Ok(Some(Limit::Unlimited));
    }
    Limit::deserialize(limit).map(Some).map_err(serde::de::Error::custom)
}

impl Limits {
    /// The limits of a session: its tier's, overridden by `quota` in its verified claims.
    ///
    /// # Errors
    /// [`Reason::LicenseNotFound`] without a known tier, [`Reason::AuthInvalid`] when `quota` has an unknown key or
    /// is no object: a limit that was meant and can't be read is not waived.
    pub fn from_claims(tiers: &Tiers, claims: &Value) -> Result<Self, Reason> {
        let tier = claims.get("tier").and_then(Value::as_str).ok_or(Reason::LicenseNotFound)?;
        let tier = tiers.tier(tier).ok_or(Reason::LicenseNotFound)?;
        let Some(quota) = claims.get("quota") else { return Ok(tier.limits) };
        if quota.is_null() {
            return Ok(tier.limits);
        }
        // Derived code would read an array as the fields in order.
        if !quota.is_object() {
            return Err(Reason::AuthInvalid);
        }
        let overrides = Overrides::deserialize(quota).map_err(|_| Reason::AuthInvalid)?;
        Ok(tier.limits.overridden(overrides))
    }

    /// These limits with the ones that `overrides` names replaced.
    #[must_use]
    pub fn overridden(self, overrides: Overrides) -> Self {
        Self {
            connections: overrides.connections.unwrap_or(self.connections),
            subscriptions: overrides.subscriptions.unwrap_or(self.subscriptions),
            symbols: overrides.symbols.unwrap_or(self.symbols),
            messages_per_second: overrides.messages_per_second.unwrap_or(self.messages_per_second),
            messages_burst: overrides.messages_burst.or(overrides.messages_per_second).unwrap_or(self.messages_burst),
            orders_per_minute: overrides.orders_per_minute.unwrap_or(self.orders_per_minute),
        }
    }
}

/// A request over the limit. Nothing of it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which limit.
    pub reason: Reason,
    /// After how long the same request would pass if nothing else happened, rounded up; `None` where no waiting
    /// helps, and something must be released first.
    pub retry_after_ms: Option<u64>,
}

impl Refused {
    const fn for_good(reason: Reason) -> Self {
        Self { reason, retry_after_ms: None }
    }

    const fn after_nanos(reason: Reason, nanos: u64) -> Self {
        Self { reason, retry_after_ms: Some(nanos.div_ceil(NANOS_PER_MILLI)) }
    }
}

/// What a session holds and has spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    subscriptions: u32,
    symbols: u32,
    /// Room in the message bucket, in nano-messages; `None` before the first message, when the bucket is full.
    bucket: Option<Bucket>,
    /// The minute of the last order, and how many orders it saw.
    orders: (u64, u32),
}

/// One message is 10^9 nano-messages, so that a rate per second is exactly that many nano-messages per nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    level: u64,
    at: UnixNanos,
}

impl Default for Usage {
    fn default() -> Self {
        Self::new()
    }
}

impl Usage {
    /// A session that holds nothing.
    pub const fn new() -> Self {
        Self { subscriptions: 0, symbols: 0, bucket: None, orders: (0, 0) }
    }

    /// Subscriptions held.
    pub const fn subscriptions(&self) -> u32 {
        self.subscriptions
    }

    /// Symbols held.
    pub const fn symbols(&self) -> u32 {
        self.symbols
    }

    /// Takes one subscription with this many symbols: both limits, all or nothing.
    ///
    /// # Errors
    /// [`Reason::QuotaSubscriptions`] or [`Reason::QuotaSymbols`]; nothing was taken.
    pub fn subscribe(&mut self, limits: &Limits, symbols: u32) -> Result<(), Refused> {
        if limits.subscriptions.left(self.subscriptions) == 0 {
            return Err(Refused::for_good(Reason::QuotaSubscriptions));
        }
        self.extend(limits, symbols)?;
        self.subscriptions += 1;
        Ok(())
    }

    /// Adds symbols to a subscription that is held, all or nothing.
    ///
    /// # Errors
    /// [`Reason::QuotaSymbols`]; nothing was taken.
    pub fn extend(&mut self, limits: &Limits, symbols: u32) -> Result<(), Refused> {
        if symbols > limits.symbols.left(self.symbols) {
            return Err(Refused::for_good(Reason::QuotaSymbols));
        }
        self.symbols += symbols;
        Ok(())
    }

    /// Gives back one subscription and the symbols that it held.
    pub const fn unsubscribe(&mut self, symbols: u32) {
        self.subscriptions = self.subscriptions.saturating_sub(1);
        self.release_symbols(symbols);
    }

    /// Gives back some symbols of a subscription that stays.
    pub const fn release_symbols(&mut self, symbols: u32) {
        self.symbols = self.symbols.saturating_sub(symbols);
    }

    /// Takes one message from the client.
    ///
    /// # Errors
    /// [`Reason::QuotaMessages`] with the time until one would pass.
    pub fn message(&mut self, limits: &Limits, now: UnixNanos) -> Result<(), Refused> {
        let Limit::AtMost(rate) = limits.messages_per_second else { return Ok(()) };
        let Limit::AtMost(burst) = limits.messages_burst else { return Ok(()) };
        // u32 * 10^9 < 2^62.
        let full = u64::from(burst) * NANOS_PER_SECOND;
        let bucket = self.bucket.unwrap_or(Bucket { level: full, at: now });
        // A clock that steps back refills nothing, and must not refill the same time twice later.
        let at = bucket.at.max(now);
        let gained = (at.0 - bucket.at.0).saturating_mul(u64::from(rate));
        let level = bucket.level.saturating_add(gained).min(full);
        let refused = Refused::for_good(Reason::QuotaMessages);
        let Some(rest) = level.checked_sub(NANOS_PER_SECOND) else {
            self.bucket = Some(Bucket { level, at });
            if rate == 0 || burst == 0 {
                return Err(refused);
            }
            let wait = (NANOS_PER_SECOND - level).div_ceil(u64::from(rate)) + (at.0 - now.0);
            return Err(Refused::after_nanos(Reason::QuotaMessages, wait));
        };
        self.bucket = Some(Bucket { level: rest, at });
        Ok(())
    }

    /// Takes one order.
    ///
    /// # Errors
    /// [`Reason::QuotaOrders`] with the time until the next minute of the clock.
    pub fn order(&mut self, limits: &Limits, now: UnixNanos) -> Result<(), Refused> {
        let Limit::AtMost(most) = limits.orders_per_minute else { return Ok(()) };
        // A clock that steps back stays in the minute that was reached: no minute is counted from zero twice.
        let minute = self.orders.0.max(now.0 / NANOS_PER_MINUTE);
        let count = if minute == self.orders.0 { self.orders.1 } else { 0 };
        if most == 0 {
            return Err(Refused::for_good(Reason::QuotaOrders));
        }
        if count >= most {
            let next = (minute + 1).saturating_mul(NANOS_PER_MINUTE);
            return Err(Refused::after_nanos(Reason::QuotaOrders, next - now.0));
        }
        self.orders = (minute, count + 1);
        Ok(())
    }
}
