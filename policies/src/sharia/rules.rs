//! Rules over messages: what becomes of one, beside what the verdict on its instrument says, as ordered data.
//!
//! The first rule by priority that matches decides; where none does, the verdict does: what is refused is dropped, all
//! else goes with its verdict. A rule may always take away. It shows something of what a verdict refuses only where it
//! says so: in mode `filter`, by name of the result, and without prices. Knows no message: it is told what it is about.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

mod fields;

pub use fields::{Field, Fields};

use super::list::is_name;
use super::screening::Mode;
use super::verdict::{Level, Outcome, Verdict};
use crate::instrument::Directory;
use crate::{AssetType, DataError, Reason};

/// Rules that a set has at most.
const RULES_MAX: usize = 256;

/// What a message is, as rules name it: the `type` of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// Quotes.
    #[serde(rename = "market_data_update")]
    Quote,
    /// Order books.
    #[serde(rename = "order_book_update")]
    Book,
    /// Trades.
    #[serde(rename = "trade_update")]
    Trade,
    /// News that names the instrument.
    #[serde(rename = "news_update")]
    News,
    /// Halts, suspensions and auctions of the instrument.
    #[serde(rename = "market_status")]
    Status,
    /// Warnings and announcements about the instrument.
    #[serde(rename = "alert")]
    Alert,
    /// A new order, from the client.
    #[serde(rename = "order")]
    Order,
    /// The state of an own order.
    #[serde(rename = "order_update")]
    OrderUpdate,
    /// The state of an own position.
    #[serde(rename = "position_update")]
    PositionUpdate,
}

impl Subject {
    /// Every subject.
    pub const ALL: [Self; 9] = [
        Self::Quote,
        Self::Book,
        Self::Trade,
        Self::News,
        Self::Status,
        Self::Alert,
        Self::Order,
        Self::OrderUpdate,
        Self::PositionUpdate,
    ];

    /// Orders and records of them are a holder's own: rules reach them only by name, and as a whole.
    const fn is_own(self) -> bool {
        matches!(self, Self::Order | Self::OrderUpdate | Self::PositionUpdate)
    }
}

/// One rule, as settings write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSettings {
    /// Its name, in explanations and annotations.
    pub id: String,
    /// Its place: the lowest that matches decides. No two rules share one.
    pub priority: u32,
    /// Why it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is about; everything by default.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// What it does.
    pub action: Action,
}

/// What a rule is about: all of what is written must hold. What is left out holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Modes of the session: `annotate`, `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modes: Option<Vec<Mode>>,
    /// Kinds of instrument.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset_types: Option<Vec<AssetType>>,
    /// Exchanges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchanges: Option<Vec<String>>,
    /// How strict the way to the verdict was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<Level>>,
    /// Kinds of message. Without it: all public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<Subject>>,
    /// Verdicts, by [`Outcome::word`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<String>>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The message is not sent; a subscription to such messages is refused.
    Drop,
    /// The message is sent without these fields and whatever tells what they say.
    Redact(Vec<Field>),
    /// The message is sent with its verdict.
    Annotate,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes, with its verdict.
    Annotate,
    /// It goes, with its verdict and without these fields.
    Redact(Fields),
    /// It does not go, for this reason.
    Drop(Reason),
}

/// A decision, and what made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided<'a> {
    /// What becomes of the message.
    pub decision: Decision,
    /// The rule that said so; none where the verdict alone did.
    pub rule: Option<&'a str>,
}

/// Rules in their order. An empty set is what the verdicts alone say.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Ordered>,
}

#[derive(Clone, Debug)]
struct Ordered {
    id: String,
    modes: Option<Vec<Mode>>,
    asset_types: Option<Vec<AssetType>>,
    exchanges: Option<Vec<String>>,
    levels: Option<Vec<Level>>,
    kinds: Option<Vec<Subject>>,
    results: Option<Vec<Outcome>>,
    does: Does,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Drop,
    Redact(Fields),
    Annotate,
}

impl RuleSet {
    /// Puts rules in their order.
    ///
    /// # Errors
    /// The first rule that says nothing, contradicts another, or would show what must not be shown.
    pub(super) fn new(settings: &[RuleSettings], directory: &Directory) -> Result<Self, DataError> {
        if settings.len() > RULES_MAX {
            return Err(DataError::TooMany("rules"));
        }
        let (mut ids, mut priorities) = (BTreeSet::new(), BTreeSet::new());
        let mut rules = Vec::with_capacity(settings.len());
        for rule in settings {
            let fail = |part, problem| Err(DataError::Rule { id: rule.id.clone(), part, problem });
            if !is_name(&rule.id) || !ids.insert(rule.id.as_str()) {
                return fail("id", "give each rule a name of its own, 1 to 32 letters, digits, '_', '-' or '.'");
            }
            if !priorities.insert(rule.priority) {
                return fail("priority", "another rule has it, and nothing says which comes first: give it its own");
            }
            rules.push((rule.priority, ordered(rule, directory)?));
        }
        rules.sort_by_key(|(priority, _)| *priority);
        Ok(Self { rules: rules.into_iter().map(|(_, rule)| rule).collect() })
    }

    /// Whether any message of a session in this mode may come out otherwise than its verdict says.
    pub fn touches(&self, mode: Mode) -> bool {
        let here = |rule: &Ordered| rule.modes.as_ref().is_none_or(|modes| modes.contains(&mode));
        self.rules.iter().any(|rule| rule.does != Does::Annotate && here(rule))
    }

    /// Whether a rule names these messages.
    pub fn reaches(&self, subject: Subject) -> bool {
        self.rules.iter().any(|rule| rule.kinds.as_ref().is_some_and(|kinds| kinds.contains(&subject)))
    }

    /// What becomes of a message of this kind about an instrument of `exchange` with this verdict.
    pub fn decide<'a>(&'a self, verdict: &Verdict<'_>, exchange: &str, subject: Subject) -> Decided<'a> {
        let alone = Decided { decision: verdict.refusal().map_or(Decision::Annotate, Decision::Drop), rule: None };
        if verdict.mode == Mode::Off {
            return alone;
        }
        let applies = |rule: &&Ordered| rule.matches(verdict, exchange, subject) && rule.may(verdict);
        let Some(rule) = self.rules.iter().find(applies) else { return alone };
        // What a rule takes from a compliant instrument has the word for kinds that are not shown here.
        let dropped = Decision::Drop(verdict.refusal().unwrap_or(Reason::ShariaInstrumentBarred));
        let decision = match rule.does {
            Does::Drop => dropped,
            Does::Redact(fields) if fields.leave_nothing_of(subject) => dropped,
            Does::Redact(fields) => Decision::Redact(fields),
            Does::Annotate => Decision::Annotate,
        };
        Decided { decision, rule: Some(&rule.id) }
    }
}

impl Ordered {
    fn matches(&self, verdict: &Verdict<'_>, exchange: &str, subject: Subject) -> bool {
        fn among<T: PartialEq>(list: &Option<Vec<T>>, one: &T) -> bool {
            list.as_ref().is_none_or(|list| list.contains(one))
        }
        let kind = match &self.kinds {
            Some(kinds) => kinds.contains(&subject),
            None => !subject.is_own(),
        };
        let asset_type = || match (&self.asset_types, verdict.asset_type) {
            (None, _) => true,
            (Some(types), Some(known)) => types.contains(&known),
            (Some(_), None) => false,
        };
        kind && among(&self.modes, &verdict.mode)
            && among(&self.levels, &verdict.level)
            && among(&self.results, &verdict.outcome)
            && self.exchanges.as_ref().is_none_or(|names| names.iter().any(|name| name == exchange))
            && asset_type()
    }

    /// Whether it may decide about this: anything may be taken away, but of what a verdict refuses only that is shown
    /// which the rule names.
    fn may(&self, verdict: &Verdict<'_>) -> bool {
        verdict.refusal().is_none()
            || match self.does {
                Does::Drop => true,
                Does::Annotate => false,
                Does::Redact(_) => self.modes.is_some() && self.results.is_some() && verdict.outcome.is_a_boards_word(),
            }
    }
}

fn ordered(rule: &RuleSettings, directory: &Directory) -> Result<Ordered, DataError> {
    let fail = |part, problem| Err(DataError::Rule { id: rule.id.clone(), part, problem });
    let Match { modes, asset_types, exchanges, levels, kinds, results } = &rule.matches;
    let empty = [
        ("match.modes", modes.as_ref().is_some_and(Vec::is_empty)),
        ("match.asset_types", asset_types.as_ref().is_some_and(Vec::is_empty)),
        ("match.exchanges", exchanges.as_ref().is_some_and(Vec::is_empty)),
        ("match.levels", levels.as_ref().is_some_and(Vec::is_empty)),
        ("match.kinds", kinds.as_ref().is_some_and(Vec::is_empty)),
        ("match.results", results.as_ref().is_some_and(Vec::is_empty)),
    ];
    if let Some((part, _)) = empty.into_iter().find(|(_, is_empty)| *is_empty) {
        return fail(part, "an empty list matches nothing: leave it out to match all");
    }
    if modes.as_ref().is_some_and(|modes| modes.contains(&Mode::Off)) {
        return fail("match.modes", "a session that is not screened has no verdicts: write annotate or filter");
    }
    let unknown = |name: &String| directory.exchange_index(name).is_none();
    if exchanges.as_ref().is_some_and(|names| names.iter().any(unknown)) {
        return fail("match.exchanges", "no instruments are known for one of them: correct it, or add its market");
    }
    let parsed =
        results.as_ref().map(|words| words.iter().map(|word| Outcome::parse(word)).collect::<Option<Vec<_>>>());
    let results = match parsed {
        Some(None) => return fail("match.results", "one of them is no screening result: see docs/compliance.md"),
        Some(results) => results,
        None => None,
    };
    let own = kinds.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind.is_own()));
    let filters = modes.as_ref().is_some_and(|modes| modes.contains(&Mode::Filter));
    let refused = |outcome: &Outcome| outcome.reason().is_some();
    let shows = filters && results.as_ref().is_some_and(|results| results.iter().any(refused));
    let does = match &rule.action {
        Action::Drop => Does::Drop,
        _ if own => return fail("action", "own orders and positions go whole or not at all: drop is the only action"),
        Action::Annotate if shows => {
            return fail(
                "action",
                "mode filter never shows what is refused in full: redact it, or leave mode filter out",
            );
        }
        Action::Annotate => Does::Annotate,
        Action::Redact(fields) => {
            let redacted = Fields::closed(fields);
            if fields.is_empty() {
                return fail("action.redact", "it names no field: name some, or annotate");
            }
            let certain = |outcome: &Outcome| !refused(outcome) || outcome.is_a_boards_word();
            if shows && !results.iter().flatten().all(certain) {
                return fail(
                    "match.results",
                    "of what is unknown, ambiguous, stale, removed or barred nothing is shown",
                );
            }
            if shows && !redacted.hide_prices() {
                return fail(
                    "action.redact",
                    "mode filter never shows prices of what is refused: redact \"prices\" too",
                );
            }
            Does::Redact(redacted)
        }
    };
    Ok(Ordered {
        id: rule.id.clone(),
        modes: modes.clone(),
        asset_types: asset_types.clone(),
        exchanges: exchanges.clone(),
        levels: levels.clone(),
        kinds: kinds.clone(),
        results,
        does,
    })
}
