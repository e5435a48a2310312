//! What is wrong with data, and where. Data is taken whole or not at all.

use alloc::string::String;
use core::fmt;

/// Why a set of policy data was refused. The old data stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataError {
    /// Not JSON of the expected shape; the message has line and column.
    Json(String),
    /// No exchange or symbol: 1 to 12 characters from `A-Z 0-9 . _ -`.
    Code(String),
    /// More rows than the stated thing may have.
    TooMany(&'static str),
    /// A rename to a symbol that the same file does not list.
    RenameTarget {
        /// Exchange of the file.
        exchange: String,
        /// The symbol that is not there.
        to: String,
    },
    /// One exchange's instruments come in two parts: nothing says which of two rows for a symbol is meant.
    MarketTwice(String),
    /// Something is wrong with this screening list.
    List {
        /// Id of the list.
        id: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something is wrong with this board.
    Board {
        /// Name of the board.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// `historical` names a list that is not loaded.
    HistoricalUnknown(String),
    /// A removal names no instrument that is known.
    RemovalUnknown(String),
    /// Something is wrong with a licence.
    License {
        /// Id of the row.
        id: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something is wrong with this screening standard.
    Standard {
        /// Id of the standard.
        id: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something is wrong with this rule of the screening filter.
    Rule {
        /// Id of the rule.
        id: String,
        /// Which part of it.
        part: &'static str,
        /// What is wrong, and what to write instead.
        problem: &'static str,
    },
    /// Something is wrong with the licence tiers.
    Tiers {
        /// The tier, feature or channel.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(message) => write!(f, "policy data could not be read: {message}"),
            Self::Code(code) => {
                write!(f, "{code:?} is no exchange or symbol: use 1 to 12 characters from A-Z 0-9 . _ -")
            }
            Self::TooMany(what) => write!(f, "too many {what}"),
            Self::RenameTarget { exchange, to } => {
                write!(f, "{exchange}: a rename leads to {to:?}, which is not among the instruments of this file")
            }
            Self::MarketTwice(exchange) => write!(f, "markets has {exchange:?} twice: put its instruments together"),
            Self::List { id, problem } => write!(f, "screening list {id:?}: {problem}"),
            Self::Board { name, problem } => write!(f, "board {name:?}: {problem}"),
            Self::HistoricalUnknown(id) => {
                write!(f, "historical names {id:?}, but no list of that id is loaded: correct the id or add the list")
            }
            Self::RemovalUnknown(name) => {
                write!(f, "removals: {name:?} is no known instrument: nothing would be removed")
            }
            Self::License { id, problem } => write!(f, "licence {id:?}: {problem}"),
            Self::Standard { id, problem } => write!(f, "screening standard {id:?}: {problem}"),
            Self::Rule { id, part, problem } => write!(f, "rule {id:?}, {part}: {problem}"),
            Self::Tiers { name, problem } => write!(f, "licence tiers, {name:?}: {problem}"),
        }
    }
}

impl core::error::Error for DataError {}

impl From<serde_json::Error> for DataError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(alloc::format!("{error}"))
    }
}
