//! Shapes that claims come in; they match `bawaba_channels::claims`, which this crate may not import.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Deserializer};

/// A list of strings, or one string with its items set apart by spaces (as OAuth writes scopes). `null` is `None`.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of strings")]
    enum List {
        Many(Vec<String>),
        One(String),
    }
    Ok(Option::<List>::deserialize(deserializer)?.map(|list| match list {
        List::Many(items) => items,
        List::One(items) => items.split_ascii_whitespace().map(String::from).collect(),
    }))
}
