//! What an exchange's rules say of an order: ticks, daily limits, lots, boards, asset types, and which order types a
//! phase takes. Tables from data in, a verdict with its own word out.
//!
//! Knows no account and no clock: what is held and what time it is are the caller's. Judged in the order in which a
//! trader would mend it: first the form, then the instrument, then the moment, then the price.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::calendar::{Certainty, Phase};
use crate::decimal::Decimal;
use crate::price::{DailyLimits, Mils, TickRow, Ticks, mils};
use crate::reason::Reason;

/// Largest quantity of an order: far above any, and far below where sums of money overflow.
pub const QUANTITY_MAX: i64 = 1_000_000_000;

/// An exchange's rules, as its file has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesRow {
    ticks: Vec<TickRow>,
    ticks_source: String,
    ticks_confidence: Certainty,
    lot: i64,
    boards: Vec<BoardRow>,
    asset_types: AssetTypesRow,
    orders: Vec<OrderTypeRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoardRow {
    name: String,
    limit_up_percent: i64,
    limit_down_percent: i64,
    source: String,
    confidence: Certainty,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetTypesRow {
    listed: Vec<String>,
    source: String,
    confidence: Certainty,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderTypeRow {
    order_type: String,
    phases: Vec<Phase>,
    source: String,
    confidence: Certainty,
}

/// An exchange's rules.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Tick sizes.
    pub ticks: Ticks,
    /// Smallest tradable quantity; every quantity is a multiple of it.
    pub lot: i64,
    /// Daily limits, by board.
    boards: BTreeMap<String, DailyLimits>,
    asset_types: Vec<String>,
    /// By order type: the phases that take it.
    orders: Vec<(String, Vec<Phase>)>,
}

/// What an order meets.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The instrument's asset type.
    pub asset_type: &'a str,
    /// Its board.
    pub board: &'a str,
    /// The market's phase.
    pub market: Phase,
    /// The instrument's own phase, where it is halted, suspended or in an auction of its own.
    pub instrument: Option<Phase>,
    /// The close that the daily limits count from; `None` while there is none.
    pub close: Option<Mils>,
}

/// What of an order the rules are about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `buy` or `sell`.
    pub side: &'a str,
    /// `limit`, `market`.
    pub order_type: &'a str,
    /// Limit price.
    pub price: Option<Decimal>,
    /// Quantity.
    pub quantity: Option<Decimal>,
}

/// An order whose form is right, in whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sized {
    /// Limit price; `None` at market.
    pub price: Option<Mils>,
    /// Quantity.
    pub quantity: i64,
}

/// A rule that an order breaks: the word, and the exact sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The word.
    pub reason: Reason,
    /// The sentence, with the figures.
    pub text: String,
}

fn breach<T>(reason: Reason, text: impl Into<String>) -> Result<T, Breach> {
    Err(Breach { reason, text: text.into() })
}

impl Rules {
    /// Checks an exchange's rules.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(row: RulesRow) -> Result<Self, String> {
        let ticks = Ticks::new(&row.ticks)?;
        let percents = 1..100;
        let mut boards = BTreeMap::new();
        for board in row.boards {
            if !percents.contains(&board.limit_up_percent) || !percents.contains(&board.limit_down_percent) {
                return Err(format!("boards: {}: limits are 1 to 99 percent", board.name));
            }
            let limits = DailyLimits { up_percent: board.limit_up_percent, down_percent: board.limit_down_percent };
            if boards.insert(board.name.clone(), limits).is_some() {
                return Err(format!("boards: {} is there twice", board.name));
            }
        }
        if boards.is_empty() || row.asset_types.listed.is_empty() || row.lot < 1 {
            return Err("rules: at least one board and one asset type, and a lot of at least 1".into());
        }
        let orders: Vec<_> = row.orders.into_iter().map(|order| (order.order_type, order.phases)).collect();
        if let Some((name, _)) = orders.iter().find(|(_, phases)| phases.iter().any(|phase| phase.is_standing_still()))
        {
            return Err(format!("orders: {name}: no order is taken while a market is closed, halted or suspended"));
        }
        Ok(Self { ticks, lot: row.lot, boards, asset_types: row.asset_types.listed, orders })
    }

    /// The daily limits of a board.
    pub fn board(&self, name: &str) -> Option<DailyLimits> {
        self.boards.get(name).copied()
    }

    /// Whether the exchange lists this asset type.
    pub fn lists(&self, asset_type: &str) -> bool {
        self.asset_types.iter().any(|listed| listed == asset_type)
    }

    /// Judges the form of an order: what can be said without the market.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn form(&self, asked: &Asked<'_>) -> Result<Sized, Breach> {
        let rejected = Reason::OrderRejected;
        if !matches!(asked.side, "buy" | "sell") {
            return breach(rejected, "side is \"buy\" or \"sell\"");
        }
        if !self.orders.iter().any(|(name, _)| name == asked.order_type) {
            let names: Vec<String> = self.orders.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            return breach(rejected, format!("order_type is {}", names.join(" or ")));
        }
        let price = match (asked.order_type, asked.price) {
            ("market", None) => None,
            ("market", Some(_)) => return breach(rejected, "a market order has no price"),
            (order_type, None) => return breach(rejected, format!("a {order_type} order needs a price")),
            (_, Some(price)) => Some(price),
        };
        let Some(quantity) = asked.quantity.filter(|quantity| quantity.mantissa > 0) else {
            return breach(Reason::OrderLot, "quantity is missing or not positive");
        };
        let whole = quantity.rescaled(0).map(|whole| whole.mantissa);
        let Some(quantity) = whole.filter(|whole| *whole <= QUANTITY_MAX && whole % self.lot == 0) else {
            let text = format!("quantity {quantity} is not a whole multiple of {}, at most {QUANTITY_MAX}", self.lot);
            return breach(Reason::OrderLot, text);
        };
        let Some(price) = price else { return Ok(Sized { price: None, quantity }) };
        match mils(price) {
            Some(on) if self.ticks.on_grid(on) => Ok(Sized { price: Some(on), quantity }),
            _ if price.mantissa <= 0 => breach(Reason::OrderTick, format!("price {price} is not positive")),
            Some(off) => {
                let text = format!("price {price} is not a multiple of the tick {}", self.ticks.tick_decimal(off));
                breach(Reason::OrderTick, text)
            }
            None => breach(Reason::OrderTick, format!("price {price} is finer than any tick")),
        }
    }

    /// Judges an order of right form against the instrument and the moment.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn admit(&self, order_type: &str, sized: &Sized, facts: &Facts<'_>) -> Result<(), Breach> {
        if !self.lists(facts.asset_type) {
            let text = format!("this exchange lists no {}", facts.asset_type);
            return breach(Reason::OrderAssetType, text);
        }
        let Some(limits) = self.board(facts.board) else {
            return breach(Reason::OrderBoard, format!("board {:?} takes no orders here", facts.board));
        };
        if facts.market == Phase::Closed {
            return breach(Reason::ChannelClosed, "the market is closed: no orders are taken");
        }
        let phase = facts.instrument.unwrap_or(facts.market);
        if phase.is_standing_still() {
            let whose = if facts.instrument.is_some() { "the instrument" } else { "the market" };
            return breach(Reason::OrderHalted, format!("{whose} is {}: no orders are taken", phase.as_str()));
        }
        // An auction of its own gathers orders as the opening one does.
        let like = if phase == Phase::Auction { Phase::PreOpen } else { phase };
        let taken = self.orders.iter().any(|(name, phases)| name == order_type && phases.contains(&like));
        if !taken {
            return breach(Reason::OrderPhase, format!("no {order_type} orders in phase {}", phase.as_str()));
        }
        let (Some(price), Some(close)) = (sized.price, facts.close) else { return Ok(()) };
        let (low, high) = self.ticks.limits(limits, close);
        if price < low || price > high {
            let [price, low, high] = [price, low, high].map(|mils| self.ticks.decimal(mils).to_string());
            let text = format!("price {price} is outside today's limits {low} to {high}");
            return breach(Reason::OrderPriceLimit, text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
