//! Licensing: what a tier and its claims open, and when they end.
//!
//! Tiers are sets of features and are never compared with each other. An exchange or an asset type is open when a
//! feature of the session grants it and the claims, where they name any, name it too. A licence of the tenant or the
//! user overrides what the token says of its tier. Every verdict says until when it holds by itself. Knows no message
//! and counts nothing.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;
use serde_json::Value;

use crate::{AssetType, Reason, UnixNanos};

pub mod licenses;
mod tiers;

pub use licenses::{AtLimit, Licenses};
use licenses::{Finding, Row};
pub use tiers::{ChannelRule, Depth, Feature, Latency, Scope, Settings, Tier, Tiers};

/// What the verified claims say about the licence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `tenant`; empty if there is none.
    pub tenant: String,
    /// `sub`; empty if there is none.
    pub user: String,
    /// Name of the tier, for whoever has no licence on file.
    pub tier: Option<String>,
    /// Features on top of the tier's.
    pub features: BTreeSet<String>,
    /// If there: only these exchanges.
    pub exchanges: Option<BTreeSet<String>>,
    /// If there: only these asset types.
    pub asset_types: Option<BTreeSet<String>>,
    /// First instant at which the token is over.
    pub expires_at: UnixNanos,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    tier: Option<String>,
    #[serde(default, deserialize_with = "crate::claims::list")]
    features: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::claims::list")]
    exchanges: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::claims::list")]
    asset_types: Option<Vec<String>>,
    exp: serde_json::Number,
}

impl Terms {
    /// Reads the licence from the verified claims (the whole payload of the token).
    ///
    /// # Errors
    /// [`Reason::LicenseNotFound`] without claims; [`Reason::AuthInvalid`] when a claim has the wrong shape or `exp`
    /// is missing: a token that does not say when it ends is not one without end. `null` counts as absent.
    pub fn from_claims(claims: &Value) -> Result<Self, Reason> {
        // Derived code would read an array as the fields in order.
        if claims.as_object().is_none_or(serde_json::Map::is_empty) {
            return Err(Reason::LicenseNotFound);
        }
        let claims = Claims::deserialize(claims).map_err(|_| Reason::AuthInvalid)?;
        Ok(Self {
            tenant: claims.tenant.unwrap_or_default(),
            user: claims.sub.unwrap_or_default(),
            tier: claims.tier,
            features: claims.features.into_iter().flatten().collect(),
            exchanges: claims.exchanges.map(BTreeSet::from_iter),
            asset_types: claims.asset_types.map(BTreeSet::from_iter),
            expires_at: whole_seconds(&claims.exp).ok_or(Reason::AuthInvalid)?,
        })
    }
}

/// A NumericDate (RFC 7519) may have decimals; they are dropped, which ends the licence earlier, never later.
fn whole_seconds(number: &serde_json::Number) -> Option<UnixNanos> {
    if let Some(seconds) = number.as_u64() {
        return Some(UnixNanos::from_seconds(seconds));
    }
    let text = alloc::format!("{number}");
    let (whole, decimals) = text.split_once('.')?;
    let plain = decimals.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| whole.parse().ok()).flatten().map(UnixNanos::from_seconds)
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The word for the client.
    pub reason: Reason,
}

/// An admitted session: proof that tier and claims were read and found good, required to judge anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct License {
    id: Option<String>,
    tier: String,
    features: BTreeSet<String>,
    exchanges: BTreeSet<String>,
    asset_types: BTreeSet<AssetType>,
    depth: Depth,
    latency: Latency,
    expires_at: UnixNanos,
    changes_at: Option<UnixNanos>,
}

impl License {
    /// Id of the licence on file; `None` where the token alone says the tier.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Name of the tier.
    pub fn tier(&self) -> &str {
        &self.tier
    }

    /// Every feature: the tier's and those of the claims.
    pub fn features(&self) -> impl Iterator<Item = &str> {
        self.features.iter().map(String::as_str)
    }

    /// How fresh the market data may be.
    pub const fn latency(&self) -> Latency {
        self.latency
    }

    /// First instant at which everything is refused, because the token is over.
    pub const fn expires_at(&self) -> UnixNanos {
        self.expires_at
    }

    /// From this instant on it has to be judged anew: the licence may say something else.
    pub const fn changes_at(&self) -> Option<UnixNanos> {
        self.changes_at
    }
}

/// What a judged subscription may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// How fresh. Whoever cannot delay must refuse a permit that is not real-time.
    pub latency: Latency,
    /// When it ends.
    pub expires_at: UnixNanos,
}

/// The kind of the instrument that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    /// The request names no instrument.
    None,
    /// An instrument of this type.
    Known(AssetType),
    /// An instrument that the directory does not know, or not for certain: refused.
    Unknown,
}

/// Which symbols a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbols {
    /// By name, or a channel that has none.
    Named,
    /// `"symbols": ["*"]`.
    All,
}

/// One subscription to judge: per symbol, if it names several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// Name of the channel: `market_data`.
    pub channel: &'a str,
    /// Exchange, if the request names one.
    pub exchange: Option<&'a str>,
    /// Kind of the instrument.
    pub asset: Asset,
    /// Named symbols or all.
    pub symbols: Symbols,
    /// Depth asked for, where it is more than the channel's own.
    pub depth: Depth,
}

/// A licence that is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapse {
    /// Why.
    pub reason: Reason,
    /// From this instant on it has to be judged anew, if the data knows of one.
    pub changes_at: Option<UnixNanos>,
}

/// Judges the handshake.
///
/// # Errors
/// `license.not_found` without a licence on file or a known tier, `license.expired`, `license.inactive` while it is
/// suspended or has not begun, `license.feature` without access by WebSocket.
pub fn judge_connect(tiers: &Tiers, terms: &Terms, now: UnixNanos) -> Result<License, Refusal> {
    judge_standing(tiers, terms, now).map_err(|lapse| Refusal { reason: lapse.reason })
}

/// As [`judge_connect`], for a session that stays open meanwhile: also when to ask again.
///
/// # Errors
/// As [`judge_connect`].
pub fn judge_standing(tiers: &Tiers, terms: &Terms, now: UnixNanos) -> Result<License, Lapse> {
    let licenses = tiers.licenses();
    let row_changes = licenses.changes_at(&terms.tenant, &terms.user, now);
    let refuse = |reason| Err(Lapse { reason, changes_at: row_changes });
    let row = match licenses.find(&terms.tenant, &terms.user, now) {
        Finding::Row(Err(reason)) => return refuse(reason),
        Finding::Row(Ok(row)) => Some(row),
        Finding::Token => None,
    };
    let Some(name) = row.map_or(terms.tier.as_ref(), |row| Some(&row.tier)) else {
        return refuse(Reason::LicenseNotFound);
    };
    let changes_at = [row_changes, tiers.tier_changes_at(name, now)].into_iter().flatten().min();
    let refuse = |reason| Err(Lapse { reason, changes_at });
    let Some(tier) = tiers.tier(name, now) else { return refuse(Reason::LicenseNotFound) };
    if now >= terms.expires_at {
        return refuse(Reason::LicenseExpired);
    }
    let features = features(tier, row, terms);
    if !tiers.connect_features().iter().all(|feature| features.contains(feature)) {
        return refuse(Reason::LicenseFeature);
    }
    let (mut exchanges, mut asset_types) = tiers.granted(&features);
    for only in [&terms.exchanges, row.map_or(&None, |row| &row.exchanges)].into_iter().flatten() {
        exchanges.retain(|exchange| only.contains(exchange));
    }
    if let Some(only) = &terms.asset_types {
        asset_types.retain(|kind| only.contains(kind.word()));
    }
    if let Some(only) = row.and_then(|row| row.asset_types.as_ref()) {
        asset_types.retain(|kind| only.contains(kind));
    }
    Ok(License {
        id: row.map(|row| row.id.clone()),
        tier: tier.name.clone(),
        features,
        exchanges,
        asset_types,
        depth: row.and_then(|row| row.depth).unwrap_or(tier.depth),
        latency: row.and_then(|row| row.latency).unwrap_or(tier.latency),
        expires_at: terms.expires_at,
        changes_at,
    })
}

/// A licence on file says what its features are; without one, the token may name some on top of its tier's.
fn features(tier: &Tier, row: Option<&Row>, terms: &Terms) -> BTreeSet<String> {
    match row {
        None => tier.features.iter().chain(&terms.features).cloned().collect(),
        Some(row) => {
            let sold = tier.features.iter().chain(&row.features);
            sold.filter(|feature| !row.without.contains(*feature)).cloned().collect()
        }
    }
}

/// Judges one subscription.
///
/// # Errors
/// `license.expired`, `channel.unknown`, `license.feature`, `license.exchange` (also when the channel is per exchange
/// and none is named), `channel.symbol_unknown`, `license.asset_type`, `license.depth`, and `license.feature` for a channel
/// that an end-of-day licence has no closing snapshot of: the first that applies.
pub fn judge_subscribe(
    tiers: &Tiers,
    license: &License,
    request: &Subscription<'_>,
    now: UnixNanos,
) -> Result<Permit, Refusal> {
    let Some(rule) = tiers.channel(request.channel) else { return refuse(Reason::ChannelUnknown) };
    let latency = match rule.scope {
        Scope::Exchange => license.latency,
        Scope::User => Latency::RealTime,
    };
    let wildcard: &[String] = match request.symbols {
        Symbols::Named => &[],
        Symbols::All => tiers.wildcard_features(),
    };
    require(license, rule.features.iter().chain(wildcard), now)?;
    match (request.exchange, rule.scope) {
        (None, Scope::User) => {}
        (None, Scope::Exchange) => return refuse(Reason::LicenseExchange),
        (Some(exchange), _) => require_exchange(license, exchange)?,
    }
    require_asset(license, request.asset)?;
    if rule.depth.max(request.depth) > license.depth {
        return refuse(Reason::LicenseDepth);
    }
    if latency == Latency::EndOfDay && !rule.closing {
        return refuse(Reason::LicenseFeature);
    }
    Ok(Permit { latency, expires_at: license.expires_at })
}

/// Judges a new order. Taking an order back is not judged.
///
/// # Errors
/// As [`judge_subscribe`], without channel and depth.
pub fn judge_order(
    tiers: &Tiers,
    license: &License,
    exchange: &str,
    asset: Asset,
    now: UnixNanos,
) -> Result<Permit, Refusal> {
    require(license, tiers.order_features().iter(), now)?;
    require_exchange(license, exchange)?;
    if asset == Asset::None {
        return refuse(Reason::ChannelSymbolUnknown);
    }
    require_asset(license, asset)?;
    Ok(Permit { latency: Latency::RealTime, expires_at: license.expires_at })
}

fn require<'a>(
    license: &License,
    mut features: impl Iterator<Item = &'a String>,
    now: UnixNanos,
) -> Result<(), Refusal> {
    if now >= license.expires_at {
        return refuse(Reason::LicenseExpired);
    }
    // Whole names only: ADX_ACCESS opens nothing that merely contains "adx".
    if features.all(|feature| license.features.contains(feature)) { Ok(()) } else { refuse(Reason::LicenseFeature) }
}

fn require_exchange(license: &License, exchange: &str) -> Result<(), Refusal> {
    if license.exchanges.contains(exchange) { Ok(()) } else { refuse(Reason::LicenseExchange) }
}

fn require_asset(license: &License, asset: Asset) -> Result<(), Refusal> {
    match asset {
        Asset::None => Ok(()),
        Asset::Unknown => refuse(Reason::ChannelSymbolUnknown),
        Asset::Known(kind) if license.asset_types.contains(&kind) => Ok(()),
        Asset::Known(_) => refuse(Reason::LicenseAssetType),
    }
}

fn refuse<T>(reason: Reason) -> Result<T, Refusal> {
    Err(Refusal { reason })
}
