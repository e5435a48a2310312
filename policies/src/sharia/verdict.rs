//! The verdict: what each board said, what that comes to, and what may be told to the client.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::amount::Percent;
use super::screening::{Mode, Rule, Screened};
use crate::{AssetType, Reason, UnixNanos};

/// What was found. Its word is `screening_result` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The session is not screened.
    Unscreened,
    /// Listed as compliant.
    Listed,
    /// Listed as not compliant.
    NotCompliant,
    /// Listed as doubtful.
    Doubtful,
    /// Listed as under review.
    UnderReview,
    /// Listed as one of whom too little is known.
    InsufficientData,
    /// Taken out ahead of a new list.
    Removed,
    /// Not on the list.
    NotListed,
    /// The list contradicts itself or the directory about this instrument.
    AmbiguousEntry,
    /// The board's newest list is past its end or its review date.
    ListStale,
    /// The board is unknown, has no list, or none that has begun.
    ListMissing,
    /// At least one board allows and at least one does not.
    BoardsDisagree,
    /// No such instrument in the directory, or no exchange named.
    UnknownInstrument,
    /// Several instruments claim this name.
    AmbiguousInstrument,
    /// A kind of instrument or order that no list can allow.
    Barred,
    /// The session's claims could not be read.
    MalformedClaims,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 16] = [
        Self::Unscreened,
        Self::Listed,
        Self::NotCompliant,
        Self::Doubtful,
        Self::UnderReview,
        Self::InsufficientData,
        Self::Removed,
        Self::NotListed,
        Self::AmbiguousEntry,
        Self::ListStale,
        Self::ListMissing,
        Self::BoardsDisagree,
        Self::UnknownInstrument,
        Self::AmbiguousInstrument,
        Self::Barred,
        Self::MalformedClaims,
    ];

    /// The outcome of this word, if there is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }

    /// Whether a board did speak about this instrument, if only to say that it does not know. Of the others nothing is
    /// certain, or nothing can change it: no rule shows a part of them.
    pub const fn is_a_boards_word(self) -> bool {
        matches!(
            self,
            Self::NotCompliant
                | Self::Doubtful
                | Self::UnderReview
                | Self::InsufficientData
                | Self::NotListed
                | Self::BoardsDisagree
        )
    }

    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unscreened => "unscreened",
            Self::Listed => "listed",
            Self::NotCompliant => "not_compliant",
            Self::Doubtful => "doubtful",
            Self::UnderReview => "under_review",
            Self::InsufficientData => "insufficient_data",
            Self::Removed => "removed",
            Self::NotListed => "not_listed",
            Self::AmbiguousEntry => "ambiguous_entry",
            Self::ListStale => "list_stale",
            Self::ListMissing => "list_missing",
            Self::BoardsDisagree => "board_disagrees",
            Self::UnknownInstrument => "unknown_instrument",
            Self::AmbiguousInstrument => "ambiguous_instrument",
            Self::Barred => "instrument_barred",
            Self::MalformedClaims => "malformed_claims",
        }
    }

    /// Why this refuses; `None` for what does not.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Unscreened | Self::Listed => None,
            Self::NotCompliant => Some(Reason::ShariaNotCompliant),
            Self::Doubtful => Some(Reason::ShariaDoubtful),
            Self::UnderReview => Some(Reason::ShariaUnderReview),
            // Nothing that can be pinned to one entry of a list is listed.
            Self::Removed => Some(Reason::ShariaDelisted),
            Self::InsufficientData
            | Self::NotListed
            | Self::AmbiguousEntry
            | Self::UnknownInstrument
            | Self::AmbiguousInstrument => Some(Reason::ShariaNotListed),
            Self::ListStale => Some(Reason::ShariaListStale),
            Self::ListMissing => Some(Reason::ShariaListMissing),
            Self::BoardsDisagree => Some(Reason::ShariaBoardDisagrees),
            Self::Barred => Some(Reason::ShariaInstrumentBarred),
            Self::MalformedClaims => Some(Reason::AuthInvalid),
        }
    }

    /// Which of several refusals to name: a board that could not speak before one that did, then the plainest word.
    const fn weight(self) -> u8 {
        match self {
            Self::ListMissing => 8,
            Self::ListStale => 7,
            Self::Removed => 6,
            Self::NotCompliant => 5,
            Self::Doubtful => 4,
            Self::UnderReview => 3,
            Self::InsufficientData => 2,
            Self::AmbiguousEntry => 1,
            _ => 0,
        }
    }
}

/// How strict the way to a verdict was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every board that the session names had to allow.
    Strict,
    /// One board was enough, and the boards were of one mind.
    Moderate,
    /// One board was enough, and another did not allow.
    Flexible,
}

impl Level {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Moderate => "moderate",
            Self::Flexible => "flexible",
        }
    }
}

/// What one board's list says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// The board's name, as the session wrote it.
    pub board: &'a str,
    /// Id of the list that was read, such as `egx33@2024-06-12`; none if none was loaded.
    pub list: Option<&'a str>,
    /// What it says.
    pub outcome: Outcome,
    /// The standard by which that list was evaluated, if it came of figures.
    pub standard: Option<&'a str>,
    /// First instant of that list.
    pub effective_from: Option<UnixNanos>,
    /// The list had ended, and is used because the settings name it.
    pub historical: bool,
    /// Impermissible income as part of all income, where the list says it.
    pub purification: Option<Percent>,
}

/// What was decided about one instrument for one session at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// What it comes to.
    pub outcome: Outcome,
    /// What the session does with a refusal; [`Mode::Off`] when it is not screened.
    pub mode: Mode,
    /// How strict the way was.
    pub level: Level,
    /// What kind of instrument it is; none if it is not known which instrument is meant.
    pub asset_type: Option<AssetType>,
    /// What each board said, in the session's order. Empty if it did not come to that.
    pub findings: Vec<Finding<'a>>,
    /// When it was judged.
    pub filtered_at: UnixNanos,
}

/// `metadata` of an update, as the protocol writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Annotation {
    /// The verdict, whatever the mode does with it.
    pub sharia_compliant: bool,
    /// The boards that decided, joined by a comma.
    pub compliance_board: String,
    /// `strict`, `moderate` or `flexible`.
    pub compliance_level: &'static str,
    /// [`Outcome::word`].
    pub screening_result: &'static str,
    /// The lists that decided, joined by a comma.
    pub list: String,
    /// The standards by which those lists were evaluated, joined by a comma; empty for published ones.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub standard: String,
    /// From when on the newest of those lists holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<UnixNanos>,
    /// One of those lists had ended, and is used because the settings name it.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub historical: bool,
    /// The refusal word, also where the mode lets it flow; none when it is compliant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The part of the income from it that a holder gives away, per cent, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purification: Option<Percent>,
    /// RFC 3339, UTC, milliseconds.
    pub filtered_at: String,
}

impl<'a> Verdict<'a> {
    pub(super) fn unscreened(now: UnixNanos) -> Self {
        Self::whole(Mode::Off, Outcome::Unscreened, now)
    }

    pub(super) fn refused(mode: Mode, outcome: Outcome, now: UnixNanos) -> Self {
        Self::whole(mode, outcome, now)
    }

    fn whole(mode: Mode, outcome: Outcome, now: UnixNanos) -> Self {
        Self { outcome, mode, level: Level::Strict, asset_type: None, findings: Vec::new(), filtered_at: now }
    }

    pub(super) fn of(mut self, asset_type: AssetType) -> Self {
        self.asset_type = Some(asset_type);
        self
    }

    /// Joins what the boards said by the session's rule.
    pub(super) fn join(screened: &Screened, findings: Vec<Finding<'a>>, now: UnixNanos) -> Self {
        let listed = findings.iter().filter(|finding| finding.outcome == Outcome::Listed).count();
        let agree = listed == findings.len();
        let level = match screened.rule {
            Rule::Named | Rule::AllOf => Level::Strict,
            Rule::AnyOf if agree || listed == 0 => Level::Moderate,
            Rule::AnyOf => Level::Flexible,
        };
        let refusals = findings.iter().map(|finding| finding.outcome).filter(|&outcome| outcome != Outcome::Listed);
        let worst = refusals.max_by_key(|outcome| outcome.weight());
        let outcome = match (screened.rule, worst) {
            // No finding at all allows nothing; `Screened` makes it impossible, and this keeps it so.
            _ if findings.is_empty() => Outcome::ListMissing,
            (_, None) => Outcome::Listed,
            (Rule::AnyOf, Some(_)) if listed > 0 => Outcome::Listed,
            (_, Some(silent @ (Outcome::ListMissing | Outcome::ListStale))) => silent,
            (_, Some(_)) if listed > 0 => Outcome::BoardsDisagree,
            (_, Some(worst)) => worst,
        };
        Self { outcome, mode: screened.mode, level, asset_type: None, findings, filtered_at: now }
    }

    /// Whether the message may flow: not screened, compliant, or only annotated.
    pub fn flows(&self) -> bool {
        self.refusal().is_none()
    }

    /// Why the message may not flow.
    pub fn refusal(&self) -> Option<Reason> {
        match self.mode {
            Mode::Off | Mode::Annotate => None,
            Mode::Filter => self.outcome.reason(),
        }
    }

    /// Why the instrument is not compliant, also where the mode lets it flow.
    pub fn reason(&self) -> Option<Reason> {
        self.outcome.reason()
    }

    /// Whether the session's boards, by its rule, find the instrument compliant. False when not screened.
    pub fn is_compliant(&self) -> bool {
        self.outcome == Outcome::Listed
    }

    /// Whether some boards allow and others do not, also where the rule lets the instrument through.
    pub fn boards_disagree(&self) -> bool {
        let listed = self.findings.iter().filter(|finding| finding.outcome == Outcome::Listed).count();
        0 < listed && listed < self.findings.len()
    }

    /// The findings that the outcome rests on: those that allow when it is listed, else those that do not.
    pub fn deciding(&self) -> impl Iterator<Item = &Finding<'a>> {
        let compliant = self.is_compliant();
        self.findings.iter().filter(move |finding| (finding.outcome == Outcome::Listed) == compliant)
    }

    /// The part of the income from it that a holder gives away: the largest that a deciding list names.
    pub fn purification(&self) -> Option<Percent> {
        self.deciding().filter_map(|finding| finding.purification).max()
    }

    /// What an update carries to the client; `None` when the session is not screened.
    pub fn annotation(&self) -> Option<Annotation> {
        (self.mode != Mode::Off).then(|| Annotation {
            sharia_compliant: self.is_compliant(),
            compliance_board: join(self.deciding().map(|finding| finding.board)),
            compliance_level: self.level.word(),
            screening_result: self.outcome.word(),
            list: join(self.deciding().filter_map(|finding| finding.list)),
            standard: join(self.deciding().filter_map(|finding| finding.standard)),
            effective_from: self.deciding().filter_map(|finding| finding.effective_from).max(),
            historical: self.deciding().any(|finding| finding.historical),
            reason: self.reason().map(Reason::word),
            purification: self.purification(),
            filtered_at: self.filtered_at.to_rfc3339_millis(),
        })
    }
}

fn join<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    let mut joined = String::new();
    for text in texts {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(text);
    }
    joined
}
