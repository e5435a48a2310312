//! Licences: what a tenant or a user was sold, from when to when. They override what a token says of its tier.
//!
//! The rows of the most specific holder decide alone: a user with rows of its own is judged by them, also when none is
//! in force; everyone else by the rows of the tenant. Rows of one holder may follow each other and never overlap, so
//! that at every instant at most one is in force and nothing has to be ranked.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use super::tiers::{Depth, Latency, Tiers};
use crate::quota::Overrides;
use crate::{AssetType, DataError, Reason, UnixNanos};

/// From the first instant to the last, which is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// First instant.
    pub from: UnixNanos,
    /// First instant after it; absent: until further notice.
    #[serde(default)]
    pub to: Option<UnixNanos>,
}

impl Period {
    fn contains(self, now: UnixNanos) -> bool {
        self.from <= now && self.to.is_none_or(|to| now < to)
    }

    fn edges(self) -> impl Iterator<Item = UnixNanos> {
        [Some(self.from), self.to].into_iter().flatten()
    }
}

/// What happens to a connection over the limit of simultaneous ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AtLimit {
    /// It is refused: simultaneous use is prevented.
    #[default]
    Refuse,
    /// It is admitted and counted: simultaneous use is reported.
    Count,
}

impl TryFrom<String> for AtLimit {
    type Error = &'static str;

    /// From the word alone: derived code would also read `{"count": null}`.
    fn try_from(word: String) -> Result<Self, Self::Error> {
        match word.as_str() {
            "refuse" => Ok(Self::Refuse),
            "count" => Ok(Self::Count),
            _ => Err("at the limit, write \"refuse\" or \"count\""),
        }
    }
}

/// One licence, for as long as it says the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Names it in replies, usage records and reports: `L-1001`.
    pub id: String,
    /// Whose it is, by the claim `tenant`; empty for tokens without one.
    #[serde(default)]
    pub tenant: String,
    /// Of one user of the tenant, by the claim `sub`; absent: of all others.
    #[serde(default)]
    pub user: Option<String>,
    /// The tier that it is built on.
    pub tier: String,
    /// First instant.
    pub from: UnixNanos,
    /// First instant after it; absent: until further notice.
    #[serde(default)]
    pub to: Option<UnixNanos>,
    /// When it is suspended.
    #[serde(default)]
    pub suspended: Vec<Period>,
    /// Features on top of the tier's.
    #[serde(default)]
    pub features: BTreeSet<String>,
    /// Features of the tier that it does not have.
    #[serde(default)]
    pub without: BTreeSet<String>,
    /// If there: only these exchanges, among those that its features grant.
    #[serde(default)]
    pub exchanges: Option<BTreeSet<String>>,
    /// If there: only these asset types, among those that its features grant.
    #[serde(default)]
    pub asset_types: Option<BTreeSet<AssetType>>,
    /// Deepest book, instead of the tier's.
    #[serde(default)]
    pub depth: Option<Depth>,
    /// Freshest data, instead of the tier's.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// Limits of each user, instead of the tier's.
    #[serde(default)]
    pub limits: Overrides,
    /// Limits of all users of the tenant together; what is not named is not limited.
    #[serde(default)]
    pub tenant_limits: Overrides,
    /// Connections over `limits.connections`.
    #[serde(default)]
    pub at_user_limit: AtLimit,
    /// Connections over `tenant_limits.connections`.
    #[serde(default)]
    pub at_tenant_limit: AtLimit,
    /// What a reader of the data should know.
    #[serde(default)]
    pub note: Option<String>,
}

impl Row {
    fn period(&self) -> Period {
        Period { from: self.from, to: self.to }
    }

    fn standing(&self, now: UnixNanos) -> Result<&Self, Reason> {
        if self.suspended.iter().any(|period| period.contains(now)) { Err(Reason::LicenseInactive) } else { Ok(self) }
    }
}

/// The licences of an operator, as settings. `{}` is none: tokens alone say their tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Names this edition: `licenses@2026-11-01`. Required as soon as there is a row.
    pub id: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// What holds for tokens of a tenant without any row.
    pub others: Others,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Tokens whose tenant and user have no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Others {
    /// The tier and the features are the token's.
    #[default]
    ByToken,
    /// They have no licence.
    Refuse,
}

impl TryFrom<String> for Others {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        match word.as_str() {
            "by_token" => Ok(Self::ByToken),
            "refuse" => Ok(Self::Refuse),
            _ => Err("for others, write \"by_token\" or \"refuse\""),
        }
    }
}

/// Licences, checked and in order of time.
#[derive(Clone, Debug, Default)]
pub struct Licenses {
    id: String,
    others: Others,
    /// By tenant and user (`None`: the tenant's own), in order of time.
    rows: BTreeMap<(String, Option<String>), Vec<Row>>,
}

/// What the licences say of someone at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding<'a> {
    /// This row decides, or there is one and it refuses.
    Row(Result<&'a Row, Reason>),
    /// Nothing is known: the token decides.
    Token,
}

impl Licenses {
    /// Builds them; taken whole or not at all.
    ///
    /// # Errors
    /// [`DataError::License`] with the row and what is wrong with it.
    pub fn from_settings(settings: &Settings, tiers: &Tiers) -> Result<Self, DataError> {
        let mut rows: BTreeMap<(String, Option<String>), Vec<Row>> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for row in &settings.rows {
            let wrong = |problem| DataError::License { id: row.id.clone(), problem };
            if row.id.is_empty() || !ids.insert(&row.id) {
                return Err(wrong("every row needs an id of its own"));
            }
            if row.to.is_some_and(|to| to <= row.from) {
                return Err(wrong("it ends before it begins"));
            }
            if row.suspended.iter().any(|period| period.to.is_some_and(|to| to <= period.from)) {
                return Err(wrong("a suspension ends before it begins"));
            }
            if !tiers.is_named(&row.tier) {
                return Err(wrong("there is no tier of this name"));
            }
            if !row.features.iter().chain(&row.without).all(|name| tiers.knows_feature(name)) {
                return Err(wrong("it names a feature that is not among the features"));
            }
            if row.user.as_deref().is_some_and(str::is_empty) {
                return Err(wrong("its user is empty: leave the key out for all users of the tenant"));
            }
            rows.entry((row.tenant.clone(), row.user.clone())).or_default().push(row.clone());
        }
        for of_one in rows.values_mut() {
            of_one.sort_by_key(|row| row.from);
            let overlap = of_one.windows(2).find(|pair| pair[0].to.is_none_or(|to| to > pair[1].from));
            if let Some([first, _]) = overlap {
                let problem = "another licence of the same holder begins before it ends: nothing says which is meant";
                return Err(DataError::License { id: first.id.clone(), problem });
            }
        }
        let id = match &settings.id {
            Some(id) => id.clone(),
            None if rows.is_empty() => String::new(),
            None => {
                let problem = "the edition has no id: name it, usage records say which was in force";
                return Err(DataError::License { id: "rows".into(), problem });
            }
        };
        Ok(Self { id, others: settings.others, rows })
    }

    /// Name of the edition; empty when there is none.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What holds for a user at an instant.
    pub fn find(&self, tenant: &str, user: &str, now: UnixNanos) -> Finding<'_> {
        let Some(rows) = self.rows_of(tenant, user) else {
            return match self.others {
                Others::ByToken => Finding::Token,
                Others::Refuse => Finding::Row(Err(Reason::LicenseNotFound)),
            };
        };
        let begun = rows.iter().rev().find(|row| row.from <= now);
        Finding::Row(match begun {
            None => Err(Reason::LicenseInactive),
            Some(row) if row.period().contains(now) => row.standing(now),
            Some(_) => Err(Reason::LicenseExpired),
        })
    }

    /// The row that decides, or decided last, or will decide first: for what is asked also of a licence that ended,
    /// such as its limits.
    pub fn nearest(&self, tenant: &str, user: &str, now: UnixNanos) -> Option<&Row> {
        let rows = self.rows_of(tenant, user)?;
        rows.iter().rev().find(|row| row.from <= now).or_else(|| rows.first())
    }

    /// The next instant at which [`Self::find`] may say something else.
    pub fn changes_at(&self, tenant: &str, user: &str, now: UnixNanos) -> Option<UnixNanos> {
        let rows = self.rows_of(tenant, user)?;
        let edges = rows.iter().flat_map(|row| {
            let suspended = row.suspended.iter().flat_map(|period| period.edges());
            row.period().edges().chain(suspended)
        });
        edges.filter(|at| *at > now).min()
    }

    fn rows_of(&self, tenant: &str, user: &str) -> Option<&[Row]> {
        // Keys of two strings cannot be looked up by two `&str`; licences are judged per session, not per message.
        let key = |user: Option<&str>| (String::from(tenant), user.map(String::from));
        let own = self.rows.get(&key(Some(user)).clone());
        own.or_else(|| self.rows.get(&key(None))).map(Vec::as_slice)
    }
}
