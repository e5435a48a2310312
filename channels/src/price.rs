//! Prices as whole thousandths, and the grid that an exchange's ticks make.
//!
//! Knows no instrument and no clock. No float anywhere: a tick of 0.001 is 1, one of 0.05 is 50.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::decimal::Decimal;

/// Thousandths of the currency: fine enough for every tick of EGX and ADX.
pub type Mils = i64;

/// Digits after the point that [`Mils`] hold.
const SCALE: u32 = 3;

/// Tick size from a price upwards, as data.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TickRow {
    /// Lowest price that it holds for.
    pub from_price: Decimal,
    /// The tick.
    pub tick: Decimal,
}

/// How far a price may go in a day, in percent of the previous close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DailyLimits {
    /// Up.
    pub up_percent: i64,
    /// Down.
    pub down_percent: i64,
}

/// The tick sizes of an exchange, by price.
#[derive(Clone, Debug)]
pub struct Ticks(Vec<(Mils, Mils)>);

impl Ticks {
    /// Checks a table of ticks.
    ///
    /// # Errors
    /// Rows out of order, off their own grid, finer than [`Mils`], or not beginning at price 0.
    pub fn new(rows: &[TickRow]) -> Result<Self, String> {
        let mut ticks: Vec<(Mils, Mils)> = Vec::new();
        for TickRow { from_price, tick } in rows {
            let (Some(from), Some(tick)) = (mils(*from_price), mils(*tick)) else {
                return Err("ticks: at most three digits after the point".into());
            };
            if tick <= 0 || from % tick != 0 || ticks.last().is_some_and(|(last, _)| from <= *last) {
                return Err(format!("ticks: the row from {from_price} is out of order or off its own grid"));
            }
            ticks.push((from, tick));
        }
        if ticks.first().is_none_or(|(from, _)| *from != 0) {
            return Err("ticks: they begin at price 0".into());
        }
        Ok(Self(ticks))
    }

    /// The tick at `price`.
    pub fn tick(&self, price: Mils) -> Mils {
        let row = self.0.iter().rev().find(|(from, _)| price >= *from).or(self.0.first());
        row.map_or(1, |(_, tick)| *tick)
    }

    /// The tick at `price`, as people write it.
    pub fn tick_decimal(&self, price: Mils) -> Decimal {
        let tick = self.tick(price);
        if tick % 10 == 0 { Decimal::new(tick / 10, 2) } else { Decimal::new(tick, SCALE) }
    }

    /// Whether `price` lies on the grid of ticks.
    pub fn on_grid(&self, price: Mils) -> bool {
        price > 0 && price % self.tick(price) == 0
    }

    /// The next price above.
    pub fn above(&self, price: Mils) -> Mils {
        let tick = self.tick(price);
        price - price.rem_euclid(tick) + tick
    }

    /// The next price below; not under one tick.
    pub fn below(&self, price: Mils) -> Mils {
        let tick = self.tick(price - 1);
        let under = price - 1 - (price - 1).rem_euclid(tick);
        if under > 0 { under } else { price }
    }

    /// `steps` prices above.
    pub fn above_by(&self, price: Mils, steps: i64) -> Mils {
        (0..steps).fold(price, |p, _| self.above(p))
    }

    /// The lowest and the highest price of a day after a close at `close`, both on the grid.
    pub fn limits(&self, limits: DailyLimits, close: Mils) -> (Mils, Mils) {
        let high = close * (100 + limits.up_percent) / 100;
        let low = (close * (100 - limits.down_percent) + 99) / 100;
        let high = high - high % self.tick(high);
        let tick = self.tick(low);
        ((low + tick - 1) / tick * tick, high)
    }

    /// The price as people of this exchange write it: two digits after the point, three under a tick of 0.01.
    pub fn decimal(&self, price: Mils) -> Decimal {
        if self.tick(price) % 10 == 0 && price % 10 == 0 {
            Decimal::new(price / 10, 2)
        } else {
            Decimal::new(price, SCALE)
        }
    }
}

/// A decimal as thousandths; `None` where that loses digits.
pub fn mils(price: Decimal) -> Option<Mils> {
    price.rescaled(SCALE).map(|p| p.mantissa)
}

/// A whole quantity.
pub const fn quantity(units: i64) -> Decimal {
    Decimal::new(units, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Listing;
    use proptest::prelude::*;

    fn ticks(exchange: &str) -> Ticks {
        Listing::embedded(exchange).unwrap().rules.ticks
    }

    #[test]
    fn the_ticks_and_limits_are_those_of_each_exchange() {
        let egx = ticks("EGX");
        assert_eq!((egx.tick(1_999), egx.tick(2_000)), (1, 10));
        assert_eq!((egx.above(1_999), egx.below(2_000)), (2_000, 1_999));
        assert_eq!(egx.limits(DailyLimits { up_percent: 20, down_percent: 20 }, 84_500), (67_600, 101_400));
        assert_eq!(egx.decimal(84_500).to_string(), "84.50");
        assert_eq!(egx.decimal(1_742).to_string(), "1.742");
        let adx = ticks("ADX");
        assert_eq!([999, 1_000, 10_000, 50_000, 100_000].map(|p| adx.tick(p)), [1, 10, 20, 50, 100]);
        assert_eq!((adx.below(10_000), adx.above(9_990)), (9_990, 10_000));
        assert_eq!(adx.limits(DailyLimits { up_percent: 15, down_percent: 10 }, 16_440), (14_800, 18_900));
    }

    proptest! {
        #[test]
        fn above_and_below_are_one_step_on_the_grid(price in 2i64..500_000, adx in any::<bool>()) {
            let ticks = ticks(if adx { "ADX" } else { "EGX" });
            let (up, down) = (ticks.above(price), ticks.below(price));
            prop_assert!(ticks.on_grid(up) && up > price && up - price <= ticks.tick(price));
            prop_assert!(ticks.on_grid(down) && down < price);
            if ticks.on_grid(price) {
                prop_assert_eq!((ticks.below(up), ticks.above(down)), (price, price));
                let (low, high) = ticks.limits(DailyLimits { up_percent: 15, down_percent: 10 }, price);
                prop_assert!(low <= price && price <= high && ticks.on_grid(high) && ticks.on_grid(low));
            }
        }
    }
}
