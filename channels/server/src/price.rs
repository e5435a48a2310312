//! Prices as whole thousandths, and the exchange's rules about them: tick sizes, daily limits, lots.
//!
//! Knows no instrument and no clock. No float anywhere: a tick of 0.001 is 1, one of 0.05 is 50.

use bawaba_channels::decimal::Decimal;
use serde::Deserialize;

/// Thousandths of the currency: fine enough for every tick of EGX and ADX.
pub(crate) type Mils = i64;

/// Digits after the point that [`Mils`] hold.
const SCALE: u32 = 3;

/// Tick size from a price upwards.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TickRow {
    from_price: Decimal,
    tick: Decimal,
}

/// An exchange's rules on prices and quantities.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RulesRow")]
pub(crate) struct Rules {
    /// (lowest price, tick), by price; the first begins at 0.
    ticks: Vec<(Mils, Mils)>,
    up_percent: i64,
    down_percent: i64,
    /// Smallest tradable quantity; every quantity is a multiple of it.
    pub(crate) lot: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesRow {
    ticks: Vec<TickRow>,
    limit_up_percent: i64,
    limit_down_percent: i64,
    lot: i64,
    /// Where the rules were read; kept for people.
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "confidence")]
    _confidence: String,
}

impl TryFrom<RulesRow> for Rules {
    type Error = String;

    fn try_from(row: RulesRow) -> Result<Self, String> {
        let mut ticks = Vec::new();
        for TickRow { from_price, tick } in row.ticks {
            let (Some(from), Some(tick)) = (mils(from_price), mils(tick)) else {
                return Err("ticks: at most three digits after the point".into());
            };
            if tick <= 0 || from % tick != 0 || ticks.last().is_some_and(|(last, _)| from <= *last) {
                return Err(format!("ticks: the row from {from_price} is out of order or off its own grid"));
            }
            ticks.push((from, tick));
        }
        let percents = 1..100;
        if ticks.first().is_none_or(|(from, _)| *from != 0)
            || !percents.contains(&row.limit_up_percent)
            || !percents.contains(&row.limit_down_percent)
            || row.lot < 1
        {
            return Err("rules: ticks begin at price 0, limits are 1 to 99 percent, a lot is at least 1".into());
        }
        Ok(Self { ticks, up_percent: row.limit_up_percent, down_percent: row.limit_down_percent, lot: row.lot })
    }
}

impl Rules {
    /// The tick at `price`.
    pub(crate) fn tick(&self, price: Mils) -> Mils {
        let row = self.ticks.iter().rev().find(|(from, _)| price >= *from).or(self.ticks.first());
        row.map_or(1, |(_, tick)| *tick)
    }

    /// The tick at `price`, as people write it.
    pub(crate) fn tick_decimal(&self, price: Mils) -> Decimal {
        let tick = self.tick(price);
        if tick % 10 == 0 { Decimal::new(tick / 10, 2) } else { Decimal::new(tick, SCALE) }
    }

    /// Whether `price` lies on the grid of ticks.
    pub(crate) fn on_grid(&self, price: Mils) -> bool {
        price > 0 && price % self.tick(price) == 0
    }

    /// The next price above.
    pub(crate) fn above(&self, price: Mils) -> Mils {
        let tick = self.tick(price);
        price - price.rem_euclid(tick) + tick
    }

    /// The next price below; not under one tick.
    pub(crate) fn below(&self, price: Mils) -> Mils {
        let tick = self.tick(price - 1);
        let under = price - 1 - (price - 1).rem_euclid(tick);
        if under > 0 { under } else { price }
    }

    /// `steps` prices above.
    pub(crate) fn above_by(&self, price: Mils, steps: i64) -> Mils {
        (0..steps).fold(price, |p, _| self.above(p))
    }

    /// The lowest and the highest price of a day after a close at `close`, both on the grid.
    pub(crate) fn limits(&self, close: Mils) -> (Mils, Mils) {
        let high = close * (100 + self.up_percent) / 100;
        let low = (close * (100 - self.down_percent) + 99) / 100;
        let high = high - high % self.tick(high);
        let tick = self.tick(low);
        ((low + tick - 1) / tick * tick, high)
    }

    /// The price as people of this exchange write it: two digits after the point, three under a tick of 0.01.
    pub(crate) fn decimal(&self, price: Mils) -> Decimal {
        if self.tick(price) % 10 == 0 && price % 10 == 0 {
            Decimal::new(price / 10, 2)
        } else {
            Decimal::new(price, SCALE)
        }
    }
}

/// A decimal as thousandths; `None` where that loses digits.
pub(crate) fn mils(price: Decimal) -> Option<Mils> {
    price.rescaled(SCALE).map(|p| p.mantissa)
}

/// A whole quantity.
pub(crate) const fn quantity(units: i64) -> Decimal {
    Decimal::new(units, 0)
}

#[cfg(test)]
mod tests {
    use crate::instruments::Listing;
    use proptest::prelude::*;

    #[test]
    fn the_ticks_and_limits_are_those_of_each_exchange() {
        let egx = Listing::embedded("EGX").unwrap().rules;
        assert_eq!((egx.tick(1_999), egx.tick(2_000)), (1, 10));
        assert_eq!((egx.above(1_999), egx.below(2_000)), (2_000, 1_999));
        assert_eq!(egx.limits(84_500), (67_600, 101_400));
        assert_eq!(egx.decimal(84_500).to_string(), "84.50");
        assert_eq!(egx.decimal(1_742).to_string(), "1.742");
        let adx = Listing::embedded("ADX").unwrap().rules;
        assert_eq!([999, 1_000, 10_000, 50_000, 100_000].map(|p| adx.tick(p)), [1, 10, 20, 50, 100]);
        assert_eq!((adx.below(10_000), adx.above(9_990)), (9_990, 10_000));
        assert_eq!(adx.limits(16_440), (14_800, 18_900));
    }

    proptest! {
        #[test]
        fn above_and_below_are_one_step_on_the_grid(price in 2i64..500_000, adx in any::<bool>()) {
            let rules = Listing::embedded(if adx { "ADX" } else { "EGX" }).unwrap().rules;
            let (up, down) = (rules.above(price), rules.below(price));
            prop_assert!(rules.on_grid(up) && up > price && up - price <= rules.tick(price));
            prop_assert!(rules.on_grid(down) && down < price);
            if rules.on_grid(price) {
                prop_assert_eq!((rules.below(up), rules.above(down)), (price, price));
                let (low, high) = rules.limits(price);
                prop_assert!(low <= price && price <= high && (high == 0 || rules.on_grid(high)) && rules.on_grid(low));
            }
        }
    }
}
