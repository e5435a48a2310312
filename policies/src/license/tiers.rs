//! Tiers, features and channel rules as data.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::licenses::{self, Licenses};
use crate::instrument::Confidence;
use crate::quota::Limits;
use crate::sharia::Base;
use crate::{AssetType, DataError, UnixNanos};

const MS_PER_MINUTE: u32 = 60_000;
const BUILTIN: &str = include_str!("../../data/license/tiers.json");

/// How much of the book: 1 is the best price, 2 every price level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Depth {
    /// Best prices and trades.
    #[default]
    Level1,
    /// Price levels.
    Level2,
}

/// How fresh market data may be.
///
/// In data `"real_time"`, `{"delayed_minutes": 15}`, `{"delayed_ms": 900000}` or `"end_of_day"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Latency {
    /// As it happens.
    RealTime,
    /// Everything, this many milliseconds later.
    DelayedMs(u32),
    /// Closing snapshots.
    EndOfDay,
}

/// What a channel is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Scope {
    /// One exchange, which the request must name.
    Exchange,
    /// The user; naming an exchange narrows it.
    User,
}

impl TryFrom<String> for Scope {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        match word.as_str() {
            "exchange" => Ok(Self::Exchange),
            "user" => Ok(Self::User),
            _ => Err("a scope is \"exchange\" or \"user\""),
        }
    }
}

/// A feature, and what it grants. One that grants nothing is a word that rules ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Name, as in claims: `EGX_ACCESS`.
    pub name: String,
    /// Exchanges that it opens.
    #[serde(default)]
    pub exchanges: Vec<String>,
    /// Asset types that it opens.
    #[serde(default)]
    pub asset_types: Vec<AssetType>,
}

/// What a channel asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRule {
    /// Name of the channel.
    pub name: String,
    /// About an exchange or the user.
    pub scope: Scope,
    /// Features needed, all of them.
    #[serde(default)]
    pub features: Vec<String>,
    /// Depth that the channel carries.
    #[serde(default)]
    pub depth: Depth,
    /// Whether it has a closing snapshot: what has none is not open to end-of-day licences.
    #[serde(default)]
    pub closing: bool,
}

/// A tier, or one edition of it: the edition in force is the last that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Name, as in claims: `professional`.
    pub name: String,
    /// First instant of this edition; absent: from the beginning of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<UnixNanos>,
    /// First instant at which there is no such tier any more; absent: never, or until the next edition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<UnixNanos>,
    /// Its features.
    pub features: BTreeSet<String>,
    /// Deepest book.
    pub depth: Depth,
    /// Freshest data.
    pub latency: Latency,
    /// Its quota.
    pub limits: Limits,
    /// What a reader of the data should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Settings of the licence and quota policies: laid over the data that ships with them. `{}` is that data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the rest is laid over.
    pub base: Base,
    /// Names this edition: `tiers@2026-11-22`.
    pub id: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// How sure it is.
    pub confidence: Option<Confidence>,
    /// Features needed to connect, all of them; replaces the base's.
    pub connect: Option<Vec<String>>,
    /// Features needed to subscribe to all symbols at once; replaces the base's.
    pub wildcard: Option<Vec<String>>,
    /// Features needed to place an order; replaces the base's.
    pub order: Option<Vec<String>>,
    /// Features, added or replaced by name.
    pub features: Vec<Feature>,
    /// Channels, added or replaced by name.
    pub channels: Vec<ChannelRule>,
    /// Tiers, added or replaced by name.
    pub tiers: Vec<Tier>,
}

/// Tiers, features and channel rules, checked: every feature that anything names exists.
#[derive(Clone, Debug)]
pub struct Tiers {
    id: String,
    connect: Vec<String>,
    wildcard: Vec<String>,
    order: Vec<String>,
    features: Vec<Feature>,
    channels: Vec<ChannelRule>,
    tiers: Vec<Tier>,
    licenses: Licenses,
}

impl Tiers {
    /// The tiers that ship with this crate.
    ///
    /// # Errors
    /// None in practice: a test loads them.
    pub fn builtin() -> Result<Self, DataError> {
        Self::from_settings(&Settings::default())
    }

    /// Builds tiers from settings; taken whole or not at all.
    ///
    /// # Errors
    /// A name that is there twice, a feature that does not exist, a rule that is missing.
    pub fn from_settings(settings: &Settings) -> Result<Self, DataError> {
        let base: Settings = match settings.base {
            Base::Builtin => serde_json::from_str(BUILTIN)?,
            Base::Empty => Settings::default(),
        };
        let missing = |name: &str, problem| DataError::Tiers { name: name.into(), problem };
        let must = |new: &Option<Vec<String>>, old: Option<Vec<String>>, name| {
            new.clone().or(old).ok_or_else(|| missing(name, "is required: name its features, or [] for none"))
        };
        let tiers = Self {
            id: settings.id.clone().or(base.id).ok_or_else(|| missing("id", "is required"))?,
            connect: must(&settings.connect, base.connect, "connect")?,
            wildcard: must(&settings.wildcard, base.wildcard, "wildcard")?,
            order: must(&settings.order, base.order, "order")?,
            features: overlay(base.features, &settings.features, |feature| (&feature.name, None))?,
            channels: overlay(base.channels, &settings.channels, |channel| (&channel.name, None))?,
            tiers: overlay(base.tiers, &settings.tiers, |tier| (&tier.name, tier.from))?,
            licenses: Licenses::default(),
        };
        let named = (tiers.connect.iter()).chain(&tiers.wildcard).chain(&tiers.order);
        let by_channel = tiers.channels.iter().flat_map(|channel| &channel.features);
        let by_tier = tiers.tiers.iter().flat_map(|tier| &tier.features);
        for name in named.chain(by_channel).chain(by_tier) {
            if !tiers.features.iter().any(|feature| feature.name == *name) {
                return Err(missing(name, "is asked for or sold, but is not among the features"));
            }
        }
        Ok(tiers)
    }

    /// Name of this edition.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// With the licences of an operator.
    ///
    /// # Errors
    /// [`DataError::License`] with the row and what is wrong with it.
    pub fn with_licenses(mut self, settings: &licenses::Settings) -> Result<Self, DataError> {
        self.licenses = Licenses::from_settings(settings, &self)?;
        Ok(self)
    }

    /// The licences.
    pub const fn licenses(&self) -> &Licenses {
        &self.licenses
    }

    /// The edition in force of the tier of this exact name.
    pub fn tier(&self, name: &str, now: UnixNanos) -> Option<&Tier> {
        let begun = self.tiers.iter().filter(|tier| tier.name == name && tier.from.is_none_or(|from| from <= now));
        begun.max_by_key(|tier| tier.from).filter(|tier| tier.to.is_none_or(|to| now < to))
    }

    /// The next instant at which [`Self::tier`] says something else of this name.
    pub fn tier_changes_at(&self, name: &str, now: UnixNanos) -> Option<UnixNanos> {
        let editions = self.tiers.iter().filter(|tier| tier.name == name);
        editions.flat_map(|tier| [tier.from, tier.to]).flatten().filter(|at| *at > now).min()
    }

    /// Whether any edition of a tier has this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.tiers.iter().any(|tier| tier.name == name)
    }

    pub(super) fn knows_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature.name == name)
    }

    /// The rule of this channel.
    pub fn channel(&self, name: &str) -> Option<&ChannelRule> {
        self.channels.iter().find(|channel| channel.name == name)
    }

    pub(super) fn connect_features(&self) -> &[String] {
        &self.connect
    }

    pub(super) fn wildcard_features(&self) -> &[String] {
        &self.wildcard
    }

    pub(super) fn order_features(&self) -> &[String] {
        &self.order
    }

    /// What a set of features opens. A feature that is not known opens nothing.
    pub(super) fn granted(&self, features: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<AssetType>) {
        let held = || self.features.iter().filter(|feature| features.contains(&feature.name));
        let exchanges = held().flat_map(|feature| feature.exchanges.iter().cloned()).collect();
        let asset_types = held().flat_map(|feature| feature.asset_types.iter().copied()).collect();
        (exchanges, asset_types)
    }
}

/// What tells entries apart: a name, and the instant from which an edition holds.
type Name<'a> = (&'a String, Option<UnixNanos>);

/// Same name replaces all that the base has under it, new name adds; a name twice on one side is a mistake.
fn overlay<T: Clone>(mut base: Vec<T>, new: &[T], name: impl Fn(&T) -> Name<'_>) -> Result<Vec<T>, DataError> {
    base.retain(|old| !new.iter().any(|new| name(new).0 == name(old).0));
    base.extend_from_slice(new);
    let mut names = BTreeSet::new();
    match base.iter().map(&name).find(|&name| !names.insert(name)) {
        Some((twice, _)) => Err(DataError::Tiers { name: twice.clone(), problem: "is there twice" }),
        None => Ok(base),
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let (unit, count) = match self {
            Self::RealTime => return serializer.serialize_str("real_time"),
            Self::EndOfDay => return serializer.serialize_str("end_of_day"),
            Self::DelayedMs(ms) if ms % MS_PER_MINUTE == 0 => ("delayed_minutes", ms / MS_PER_MINUTE),
            Self::DelayedMs(ms) => ("delayed_ms", *ms),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(unit, &count)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Latency {
    /// By hand: derived code would read `{"real_time": null}` as real-time.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let read = match (value.as_str(), value.as_object().filter(|map| map.len() == 1)) {
            (Some("real_time"), _) => Some(Self::RealTime),
            (Some("end_of_day"), _) => Some(Self::EndOfDay),
            (_, Some(map)) => {
                let count = |key: &str| map.get(key)?.as_u64().and_then(|count| u32::try_from(count).ok());
                let minutes = count("delayed_minutes").and_then(|minutes| minutes.checked_mul(MS_PER_MINUTE));
                minutes.or_else(|| count("delayed_ms")).map(Self::DelayedMs)
            }
            _ => None,
        };
        read.ok_or_else(|| {
            serde::de::Error::custom(
                "a latency is \"real_time\", {\"delayed_minutes\": 15}, {\"delayed_ms\": 900000} or \"end_of_day\"",
            )
        })
    }
}

impl Serialize for Depth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Level1 => 1,
            Self::Level2 => 2,
        })
    }
}

impl<'de> Deserialize<'de> for Depth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Ok(Self::Level1),
            2 => Ok(Self::Level2),
            _ => Err(serde::de::Error::custom("a depth is 1 (best prices) or 2 (price levels)")),
        }
    }
}
