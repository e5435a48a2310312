//! What a session asked for: mode, boards and the rule that joins them, from its verified claims.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Boards that one session may name: above the eight standards known, and small enough to judge one by one.
pub const BOARDS_MAX: usize = 16;

/// What a verdict does to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No screening.
    Off,
    /// Everything flows, with its verdict.
    Annotate,
    /// What is refused does not flow.
    Filter,
}

/// How several boards become one verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Exactly one board, and that one decides.
    Named,
    /// Every board must allow: the strictest, and the default.
    #[default]
    AllOf,
    /// One board is enough. Only when the claims say so.
    AnyOf,
}

/// The screening of one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Screening {
    /// The claims ask for none.
    Off,
    /// The claims ask for something that cannot be read: everything is refused.
    Malformed,
    /// Screened.
    On(Screened),
}

/// A screening whose claims are in order: one to [`BOARDS_MAX`] distinct boards, exactly one under `named`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Screened {
    /// Annotate or filter.
    pub mode: Mode,
    /// How the boards are joined.
    pub rule: Rule,
    boards: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    mode: Mode,
    #[serde(default, deserialize_with = "crate::claims::list")]
    boards: Option<Vec<String>>,
    rule: Option<Rule>,
}

impl Screening {
    /// Reads `islamic` from the verified claims (the whole payload of the token).
    ///
    /// Claims without `islamic` mean [`Screening::Off`]. Claims that are no object, and an `islamic` with an unknown
    /// key, mode or rule, without mode, without boards, with a board twice, with several boards under `named`, or
    /// `null`, are [`Screening::Malformed`]: a session that asked for screening is never served without it.
    pub fn from_claims(claims: &Value) -> Self {
        let Some(claims) = claims.as_object() else {
            return Self::Malformed;
        };
        let Some(islamic) = claims.get("islamic") else {
            return Self::Off;
        };
        // Derived code would read an array as the fields in order, and `{"off": null}` as the word `off`.
        let is_text = |key| islamic.get(key).is_none_or(|value| value.is_string() || value.is_null());
        if !islamic.is_object() || !is_text("mode") || !is_text("rule") {
            return Self::Malformed;
        }
        match Claims::deserialize(islamic) {
            Ok(Claims { mode: Mode::Off, .. }) => Self::Off,
            Ok(Claims { mode, boards, rule }) => Self::new(mode, rule.unwrap_or_default(), boards.unwrap_or_default()),
            Err(_) => Self::Malformed,
        }
    }

    /// A screening by these boards; [`Screening::Malformed`] where [`Screening::from_claims`] says so.
    pub fn new(mode: Mode, rule: Rule, boards: Vec<String>) -> Self {
        if mode == Mode::Off {
            return Self::Off;
        }
        let fits = match rule {
            Rule::Named => boards.len() == 1,
            Rule::AllOf | Rule::AnyOf => (1..=BOARDS_MAX).contains(&boards.len()),
        };
        let distinct = boards.iter().zip(1..).all(|(board, next)| !board.is_empty() && !boards[next..].contains(board));
        if fits && distinct { Self::On(Screened { mode, rule, boards }) } else { Self::Malformed }
    }
}

impl Screened {
    /// The boards, in the order of the claims.
    pub fn boards(&self) -> &[String] {
        &self.boards
    }
}
