//! Quota: exact integer limits of users and tenants, what is held of them, and what was spent.
//!
//! [`Rates`] and [`Holdings`] are plain values; the [`Desk`] keeps them in a store that many workers share, so that
//! a limit holds over all sessions of a user or tenant, and over any interleaving.

use alloc::string::String;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::license::{AtLimit, Tiers};
use crate::{Reason, UnixNanos};

mod code;
pub mod day;
mod desk;
mod held;
mod rates;

pub use day::{Clock, Clocks, Day};
pub use desk::{Cells, Client, Desk, LEASE_MS};
pub use held::{Admit, Holdings, Lease, Taken};
pub use rates::{Delivered, Rates};

const NANOS_PER_MILLI: u64 = 1_000_000;
/// From this share of a limit on, in hundredths, its user is warned once.
const WARN_AT: u64 = 80;

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

    /// A number of bytes, in whole KiB.
    const fn in_kib(self) -> Self {
        match self {
            Self::AtMost(bytes) => Self::AtMost(bytes / 1024),
            Self::Unlimited => Self::Unlimited,
        }
    }

    /// As [`Self::left`], of things that are counted one by one and limited in units of `unit`.
    pub const fn left_of(self, used: u64, unit: u64) -> u64 {
        match self {
            Self::AtMost(most) => (most as u64 * unit).saturating_sub(used),
            Self::Unlimited => u64::MAX - used,
        }
    }

    /// Whether what is used goes from below 80 hundredths of the limit to there or beyond.
    pub const fn is_first_warned(self, before: u32, after: u32) -> bool {
        self.is_first_warned_of(before as u64, after as u64, 1)
    }

    /// As [`Self::is_first_warned`], in units.
    pub const fn is_first_warned_of(self, before: u64, after: u64, unit: u64) -> bool {
        match self {
            Self::AtMost(most) => {
                let mark = (most as u64 * unit * WARN_AT).div_ceil(100);
                most > 0 && before < mark && mark <= after
            }
            Self::Unlimited => false,
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

/// The limits of one user, over all sessions; or of one tenant, over all users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections at once; connections that take each other's place (one `sid`) count once.
    pub connections: Limit,
    /// Subscriptions at once.
    pub subscriptions: Limit,
    /// Distinct symbols over all subscriptions at once.
    pub symbols: Limit,
    /// Messages from the client per second, in the long run.
    pub messages_per_second: Limit,
    /// Messages that may come at once after a silence: over any t seconds at most
    /// `messages_burst + t * messages_per_second` pass.
    pub messages_burst: Limit,
    /// Orders in one minute of the clock (UTC).
    pub orders_per_minute: Limit,
    /// Orders in one day of the exchange's clock.
    #[serde(default = "unlimited")]
    pub orders_per_day: Limit,
    /// Requests to subscribe in a minute, all at once or in the long run.
    #[serde(default = "unlimited")]
    pub subscribes_per_minute: Limit,
    /// Messages delivered to the client in one day of the exchange's clock.
    #[serde(default = "unlimited")]
    pub delivered_messages_per_day: Limit,
    /// What was delivered in that day, in KiB of frames.
    #[serde(default = "unlimited")]
    pub delivered_kib_per_day: Limit,
}

const fn unlimited() -> Limit {
    Limit::Unlimited
}

impl Limits {
    /// No limit at all.
    pub const UNLIMITED: Self = Self {
        connections: Limit::Unlimited,
        subscriptions: Limit::Unlimited,
        symbols: Limit::Unlimited,
        messages_per_second: Limit::Unlimited,
        messages_burst: Limit::Unlimited,
        orders_per_minute: Limit::Unlimited,
        orders_per_day: Limit::Unlimited,
        subscribes_per_minute: Limit::Unlimited,
        delivered_messages_per_day: Limit::Unlimited,
        delivered_kib_per_day: Limit::Unlimited,
    };
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
    #[serde(deserialize_with = "claimed")]
    orders_per_day: Option<Limit>,
    #[serde(deserialize_with = "claimed")]
    subscribes_per_minute: Option<Limit>,
    #[serde(deserialize_with = "claimed")]
    delivered_messages_per_day: Option<Limit>,
    #[serde(deserialize_with = "claimed")]
    delivered_kib_per_day: Option<Limit>,
    /// Another way to say `delivered_kib_per_day`: bytes, of which a part of a KiB is dropped.
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

/// What a session's user and tenant may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entitled {
    /// `tenant`; empty if there is none.
    pub tenant: String,
    /// `sub`; empty if there is none.
    pub user: String,
    /// Limits of the user, over all sessions.
    pub of_user: Limits,
    /// Limits of the tenant, over all users, if its licence names any.
    pub of_tenant: Option<Limits>,
    /// Connections beyond the user's limit.
    pub at_user_limit: AtLimit,
    /// Connections beyond the tenant's limit.
    pub at_tenant_limit: AtLimit,
}

impl Entitled {
    /// Reads them from the verified claims and the licences. A licence on file that is not in force keeps its
    /// limits: whether anything may be used at all is not quota's to say.
    ///
    /// The order: the tier's limits, overridden by the licence on file; without one, by `quota` in the claims.
    ///
    /// # Errors
    /// [`Reason::LicenseNotFound`] without a licence or a known tier, [`Reason::AuthInvalid`] when `quota` has an
    /// unknown key or is no object: a limit that was meant and can't be read is not waived.
    pub fn from_claims(tiers: &Tiers, claims: &Value, now: UnixNanos) -> Result<Self, Reason> {
        let text = |name: &str| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Reason::AuthInvalid),
        };
        let (tenant, user) = (text("tenant")?.unwrap_or(""), text("sub")?.unwrap_or(""));
        let claimed = match claims.get("quota") {
            None | Some(Value::Null) => Overrides::default(),
            // Derived code would read an array as the fields in order.
            Some(quota) if quota.is_object() => Overrides::deserialize(quota).map_err(|_| Reason::AuthInvalid)?,
            Some(_) => return Err(Reason::AuthInvalid),
        };
        let row = tiers.licenses().nearest(tenant, user, now);
        let name = match row {
            Some(row) => row.tier.as_str(),
            None => text("tier")?.ok_or(Reason::LicenseNotFound)?,
        };
        let tier = tiers.tier(name, now).ok_or(Reason::LicenseNotFound)?;
        let tenant_limits = row.map(|row| row.tenant_limits).filter(|limits| *limits != Overrides::default());
        Ok(Self {
            tenant: tenant.into(),
            user: user.into(),
            of_user: tier.limits.overridden(row.map_or(claimed, |row| row.limits)),
            of_tenant: tenant_limits.map(|limits| Limits::UNLIMITED.overridden(limits)),
            at_user_limit: row.map(|row| row.at_user_limit).unwrap_or_default(),
            at_tenant_limit: row.map(|row| row.at_tenant_limit).unwrap_or_default(),
        })
    }
}

impl Limits {
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
            orders_per_day: overrides.orders_per_day.unwrap_or(self.orders_per_day),
            subscribes_per_minute: overrides.subscribes_per_minute.unwrap_or(self.subscribes_per_minute),
            delivered_messages_per_day: overrides.delivered_messages_per_day.unwrap_or(self.delivered_messages_per_day),
            delivered_kib_per_day: overrides
                .delivered_kib_per_day
                .or(overrides.bytes.map(Limit::in_kib))
                .unwrap_or(self.delivered_kib_per_day),
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
