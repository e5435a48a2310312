//! Tiers, features and channel rules as data.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::instrument::Confidence;
use crate::quota::Limits;
use crate::sharia::Base;
use crate::{AssetType, DataError};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// As it happens.
    RealTime,
    /// Everything, this many minutes later.
    DelayedMinutes(u32),
    /// Closing snapshots.
    EndOfDay,
}

/// What a channel is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One exchange, which the request must name.
    Exchange,
    /// The user; naming an exchange narrows it.
    User,
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
}

/// A tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Name, as in claims: `professional`.
    pub name: String,
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
            features: overlay(base.features, &settings.features, |feature| &feature.name)?,
            channels: overlay(base.channels, &settings.channels, |channel| &channel.name)?,
            tiers: overlay(base.tiers, &settings.tiers, |tier| &tier.name)?,
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

    /// The tier of this exact name.
    pub fn tier(&self, name: &str) -> Option<&Tier> {
        self.tiers.iter().find(|tier| tier.name == name)
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

/// Same name replaces, new name adds; a name twice on one side is a mistake.
fn overlay<T: Clone>(mut base: Vec<T>, new: &[T], name: impl Fn(&T) -> &String) -> Result<Vec<T>, DataError> {
    base.retain(|old| !new.iter().any(|new| name(new) == name(old)));
    base.extend_from_slice(new);
    let mut names = BTreeSet::new();
    match base.iter().map(&name).find(|&name| !names.insert(name)) {
        Some(twice) => Err(DataError::Tiers { name: twice.clone(), problem: "is there twice" }),
        None => Ok(base),
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
