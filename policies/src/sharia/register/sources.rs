//! What a register is made from: settings over the shipped data, figures made into lists, removals made into instruments.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use super::Settings;
use crate::instrument::{Directory, Found, InstrumentId};
use crate::sharia::list::{Removal, Security};
use crate::sharia::standard::Standard;
use crate::{DataError, InstrumentRef, UnixNanos};

/// The boards' standards as they ship: read only where an evaluation asks for one.
const STANDARDS: &str = include_str!("../../../data/sharia/standards.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Standards {
    standards: Vec<Standard>,
}

/// Lays settings over the base: same name replaces, new name adds.
pub(super) fn overlay(base: &mut Settings, settings: &Settings) {
    base.boards.retain(|old| !settings.boards.iter().any(|new| new.name == old.name));
    base.boards.extend_from_slice(&settings.boards);
    base.lists.retain(|old| !settings.lists.iter().any(|new| new.id == old.id));
    base.lists.extend_from_slice(&settings.lists);
    for market in &settings.markets {
        let Some(old) = base.markets.iter_mut().find(|old| old.exchange == market.exchange) else {
            base.markets.push(market.clone());
            continue;
        };
        let replaced: BTreeSet<&str> = market.instruments.iter().map(|new| new.symbol.as_str()).collect();
        let renamed: BTreeSet<&str> = market.renames.iter().map(|new| new.from.as_str()).collect();
        old.instruments.retain(|row| !replaced.contains(row.symbol.as_str()));
        old.renames.retain(|row| !renamed.contains(row.from.as_str()));
        old.instruments.extend_from_slice(&market.instruments);
        old.renames.extend_from_slice(&market.renames);
    }
    base.historical.clone_from(&settings.historical);
}

/// Turns evaluations into lists, by the standards that ship with those of the settings laid over them.
pub(super) fn evaluate(base: &mut Settings, settings: &Settings) -> Result<(), DataError> {
    for standard in &settings.standards {
        standard.check()?;
    }
    if settings.evaluations.is_empty() {
        return Ok(());
    }
    let mut standards = serde_json::from_str::<Standards>(STANDARDS)?.standards;
    standards.retain(|old| !settings.standards.iter().any(|new| new.id == old.id));
    standards.extend_from_slice(&settings.standards);
    for evaluation in &settings.evaluations {
        base.lists.push(evaluation.list(&standards)?);
    }
    Ok(())
}

pub(super) fn index_removals(
    removals: &[Removal],
    directory: &Directory,
) -> Result<Vec<(InstrumentId, Option<String>, UnixNanos)>, DataError> {
    let mut removed = Vec::new();
    for removal in removals {
        let before = removed.len();
        let Security { isin, exchange, symbol } = &removal.security;
        let mut add = |id| removed.push((id, removal.board.clone(), removal.from));
        if let (Some(exchange), Some(symbol)) = (exchange, symbol)
            && let Found::One(id) = directory.find(InstrumentRef::new(exchange, symbol), removal.from)
        {
            add(id);
            // Every line of the security goes with it.
            directory.isin(id).into_iter().flat_map(|isin| directory.with_isin(isin)).for_each(&mut add);
        }
        isin.iter().copied().flat_map(|isin| directory.with_isin(isin)).for_each(&mut add);
        if removed.len() == before {
            // An order to stop something that nobody finds must not look as if it were carried out.
            let name = symbol.clone().or(isin.map(|isin| isin.as_str().into())).unwrap_or_default();
            return Err(DataError::RemovalUnknown(name));
        }
    }
    removed.sort_unstable();
    Ok(removed)
}
