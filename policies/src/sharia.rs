//! Sharia screening: which instruments a screened session may see, by which list of which board, and why not.
//!
//! It applies published lists; it is accuracy of applying a list, not of jurisprudence. It knows no message and no
//! channel: whoever holds a message asks about each instrument that the message names.
//!
//! ```
//! use bawaba_policies::sharia::{self, Register, Screening, Settings};
//! use bawaba_policies::{InstrumentRef, Reason, UnixNanos};
//!
//! let settings: Settings = serde_json::from_str(r#"{"historical": ["egx33@2024-06-12"]}"#)?;
//! let register = Register::from_settings(&settings)?;
//! let claims = serde_json::from_str(r#"{"islamic": {"mode": "filter", "boards": ["EGX33"], "rule": "named"}}"#)?;
//! let screening = Screening::from_claims(&claims);
//! let now = UnixNanos::from_seconds(1_795_000_000);
//!
//! let abuk = sharia::judge(&register, &screening, InstrumentRef::new("EGX", "ABUK"), now);
//! assert!(abuk.flows());
//! let east = sharia::judge(&register, &screening, InstrumentRef::new("EGX", "EAST"), now);
//! assert_eq!(east.refusal(), Some(Reason::ShariaNotListed));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use alloc::vec::Vec;

use crate::instrument::Found;
use crate::{AssetType, InstrumentRef, Reason, UnixNanos};

mod amount;
mod checksum;
mod evaluation;
mod list;
mod ratio;
mod register;
mod rules;
mod screening;
mod standard;
mod verdict;

pub use amount::{Amount, Percent};
pub use evaluation::{Company, Evaluation};
pub use list::{Board, Entry, List, Removal, Security, Status};
pub use ratio::{Assessment, Held, Past, Standing, assess};
pub use register::{Base, Register, Settings};
pub use rules::{Action, Decided, Decision, Field, Fields, Match, RuleSet, RuleSettings, Subject};
pub use screening::{BOARDS_MAX, Mode, Rule, Screened, Screening};
pub use standard::{Activity, Averaging, Fundamentals, Hysteresis, Item, Limit, Operator, Screen, Standard, Whole};
pub use verdict::{Annotation, Finding, Level, Outcome, Verdict};

/// Judges one instrument for one session at one instant.
///
/// * Not screened (`islamic` missing, or mode `off`): flows, [`Outcome::Unscreened`].
/// * Claims that could not be read: refused, [`Reason::AuthInvalid`].
/// * Otherwise the instrument must be known and unambiguous, of a kind that is not barred, and compliant by the
///   session's boards joined by its rule. Everything else is a refusal; mode `annotate` lets it flow and carries
///   the verdict along.
pub fn judge<'a>(
    register: &'a Register,
    screening: &'a Screening,
    instrument: InstrumentRef<'_>,
    now: UnixNanos,
) -> Verdict<'a> {
    let screened = match screening {
        Screening::Off => return Verdict::unscreened(now),
        Screening::Malformed => {
            return Verdict::refused(Mode::Filter, Outcome::MalformedClaims, now);
        }
        Screening::On(screened) => screened,
    };
    let mode = screened.mode;
    let id = match register.directory().find(instrument, now) {
        Found::One(id) => id,
        Found::Unknown => return Verdict::refused(mode, Outcome::UnknownInstrument, now),
        Found::Ambiguous => return Verdict::refused(mode, Outcome::AmbiguousInstrument, now),
    };
    let kind = register.directory().kind(id);
    if barred(kind) {
        return Verdict::refused(mode, Outcome::Barred, now).of(kind);
    }
    let findings: Vec<Finding<'a>> = screened.boards().iter().map(|board| register.finding(board, id, now)).collect();
    Verdict::join(screened, findings, now).of(kind)
}

/// How an order would be carried out, as far as screening cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderTerms {
    /// The order sells what the account does not own.
    pub short_sale: bool,
    /// The order is paid with borrowed money.
    pub margin: bool,
}

/// Judges a new order: as [`judge`], and short sales and margin are barred whatever the instrument.
///
/// Cancelling is not judged: taking an order back never adds exposure.
pub fn judge_order<'a>(
    register: &'a Register,
    screening: &'a Screening,
    instrument: InstrumentRef<'_>,
    terms: OrderTerms,
    now: UnixNanos,
) -> Verdict<'a> {
    match screening {
        Screening::On(screened) if terms.short_sale || terms.margin => {
            Verdict::refused(screened.mode, Outcome::Barred, now)
        }
        _ => judge(register, screening, instrument, now),
    }
}

/// The word for taking back what flowed before: `delisted` if the instrument left the list, else the new refusal.
/// `None` while it still flows.
pub fn revocation(before: &Verdict<'_>, after: &Verdict<'_>) -> Option<Reason> {
    let reason = after.refusal()?;
    let left = before.is_compliant() && reason == Reason::ShariaNotListed;
    Some(if left { Reason::ShariaDelisted } else { reason })
}

/// Kinds that no list can allow: interest-bearing debt, derivatives, preference in profit, and indices, which are
/// aggregates of members of any status.
const fn barred(kind: AssetType) -> bool {
    matches!(
        kind,
        AssetType::Bond
            | AssetType::Bill
            | AssetType::Option
            | AssetType::Future
            | AssetType::Index
            | AssetType::Preference
    )
}
