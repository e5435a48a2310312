//! One simulated instrument: its quote, book and the day's figures.

use bawaba_channels::wire::{Book, Level, Quote, Trade};

use super::draw::{Draw, mix};
use bawaba_channels::calendar::Phase;
use bawaba_channels::price::{DailyLimits, Mils, Ticks, quantity};

/// Levels on each side of a book.
pub(crate) const DEPTH: usize = 10;
/// Widest spread, in ticks.
const SPREAD_TICKS_MAX: i64 = 4;
/// An alert is due when the price has moved this far from the previous close.
const ALERT_PERCENT: i64 = 3;
/// Value of the orders at one price, about: 60,000 in the instrument's currency.
const LEVEL_VALUE_MILS: i64 = 60_000_000;

/// The state of one instrument. Bid and ask are always on the grid and within the day's limits.
pub(super) struct Line {
    key: u64,
    limits: DailyLimits,
    lot: i64,
    bid: Mils,
    spread_ticks: i64,
    last: Mils,
    close: Mils,
    low_limit: Mils,
    high_limit: Mils,
    /// First, highest and lowest price of the day, once there is a trade.
    range: Option<(Mils, Mils, Mils)>,
    volume: i64,
    alerted: bool,
    /// Sequence number of the quote, and of the book.
    pub(super) quotes: u64,
    /// Sequence number of the trades.
    pub(super) trades: u64,
    /// When it last changed, in nanoseconds since the epoch.
    pub(super) time: i64,
}

/// What a step did besides moving the quote.
#[derive(Default)]
pub(super) struct Move {
    traded: Option<(Mils, i64, bool)>,
    /// The price moved so many percent from the previous close, for the first time today.
    pub(super) crossed_percent: Option<i64>,
}

impl Move {
    /// The trade, its id left to the caller.
    pub(super) fn trade(&self, ticks: &Ticks) -> Option<Trade> {
        self.traded.map(|(price, size, buy)| Trade {
            price: ticks.decimal(price),
            size: quantity(size),
            side: if buy { "buy" } else { "sell" }.into(),
            trade_id: String::new(),
        })
    }
}

impl Line {
    pub(super) fn new(ticks: &Ticks, limits: DailyLimits, lot: i64, reference: Mils, key: u64) -> Self {
        let (low_limit, high_limit) = ticks.limits(limits, reference);
        let mut line = Self {
            key,
            limits,
            lot,
            bid: ticks.below(reference),
            spread_ticks: 1 + (key % 2) as i64,
            last: reference,
            close: reference,
            low_limit,
            high_limit,
            range: None,
            volume: 0,
            alerted: false,
            quotes: 1,
            trades: 0,
            time: 0,
        };
        line.confine(ticks);
        line
    }

    fn ask(&self, ticks: &Ticks) -> Mils {
        ticks.above_by(self.bid, self.spread_ticks)
    }

    /// Keeps the quote within the limits of the day.
    fn confine(&mut self, ticks: &Ticks) {
        self.bid = self.bid.clamp(self.low_limit, self.high_limit);
        while self.ask(ticks) > self.high_limit && self.bid > self.low_limit {
            self.bid = ticks.below(self.bid);
        }
        while self.ask(ticks) > self.high_limit && self.spread_ticks > 1 {
            self.spread_ticks -= 1;
        }
    }

    /// One step in a phase that is not closed.
    pub(super) fn step(&mut self, ticks: &Ticks, phase: Phase, draw: &mut Draw) -> Move {
        let mut moved = Move::default();
        match phase {
            Phase::Continuous => {
                if draw.chance(350) {
                    let buy = draw.chance(500);
                    let price = if buy { self.ask(ticks) } else { self.bid };
                    moved = self.trade(price, buy, self.lot, draw);
                }
                self.walk(ticks, draw);
            }
            Phase::TradeAtLast => {
                if draw.chance(500) {
                    let buy = draw.chance(500);
                    moved = self.trade(self.last, buy, self.lot, draw);
                }
            }
            Phase::PreOpen | Phase::ClosingAuction | Phase::Auction => self.walk(ticks, draw),
            Phase::Closed | Phase::Halted | Phase::Suspended => {}
        }
        self.quotes += 1;
        moved
    }

    /// The quote goes up or down a tick or stays, drawn towards the previous close; the spread breathes.
    fn walk(&mut self, ticks: &Ticks, draw: &mut Draw) {
        let tick = ticks.tick(self.bid);
        // At two percent (and at least ten ticks) from the close, the way back is twice as likely as the way on.
        let band = (self.close / 50).max(10 * tick);
        let pull = ((self.bid - self.close) * 110 / band).clamp(-300, 300);
        let roll = draw.below(1000) as i64;
        if roll < 330 - pull {
            self.bid = ticks.above(self.bid);
        } else if roll < 660 {
            self.bid = ticks.below(self.bid);
        }
        if draw.chance(100) {
            let wider = draw.chance(450);
            self.spread_ticks = (self.spread_ticks + if wider { 1 } else { -1 }).clamp(1, SPREAD_TICKS_MAX);
        }
        self.confine(ticks);
    }

    fn trade(&mut self, price: Mils, buy: bool, lot: i64, draw: &mut Draw) -> Move {
        let at_best = self.size(buy, price, 0);
        let size = (1 + draw.below((at_best / lot).max(1) as u64) as i64) * lot;
        self.record(price, size.min(at_best.max(lot)), buy)
    }

    fn record(&mut self, price: Mils, size: i64, buy: bool) -> Move {
        self.last = price;
        self.volume += size;
        self.trades += 1;
        let (open, high, low) = self.range.unwrap_or((price, price, price));
        self.range = Some((open, high.max(price), low.min(price)));
        let percent = (price - self.close) * 100 / self.close.max(1);
        let crossed = !self.alerted && percent.abs() >= ALERT_PERCENT;
        self.alerted |= crossed;
        Move { traded: Some((price, size, buy)), crossed_percent: crossed.then_some(percent) }
    }

    /// The end of an auction: one trade at the best price of either side.
    pub(super) fn uncross(&mut self, draw: &mut Draw) -> Move {
        let size = self.size(false, self.bid, 0) + draw.below(1000) as i64;
        self.quotes += 1;
        self.record(self.bid, size, false)
    }

    /// Only the figures changed.
    pub(super) fn restate(&mut self) -> Move {
        self.quotes += 1;
        Move::default()
    }

    /// A new day: the last price is the previous close now.
    pub(super) fn begin_day(&mut self, ticks: &Ticks) {
        self.close = self.last;
        (self.low_limit, self.high_limit) = ticks.limits(self.limits, self.close);
        self.range = None;
        self.volume = 0;
        self.alerted = false;
        self.confine(ticks);
    }

    pub(super) fn quote(&self, ticks: &Ticks) -> Quote {
        let ask = self.ask(ticks);
        let price = |p: Mils| Some(ticks.decimal(p));
        Quote {
            last: price(self.last),
            bid: price(self.bid),
            ask: price(ask),
            bid_size: Some(quantity(self.size(false, self.bid, 0))),
            ask_size: Some(quantity(self.size(true, ask, 0))),
            volume: Some(quantity(self.volume)),
            open: self.range.and_then(|(open, _, _)| price(open)),
            high: self.range.and_then(|(_, high, _)| price(high)),
            low: self.range.and_then(|(_, _, low)| price(low)),
            close: price(self.close),
        }
    }

    pub(super) fn book(&self, ticks: &Ticks) -> Book {
        let mut book = Book::default();
        let level = |ask: bool, price: Mils, depth: usize| Level {
            price: ticks.decimal(price),
            size: quantity(self.size(ask, price, depth)),
        };
        let (mut bid, mut ask) = (self.bid, self.ask(ticks));
        for depth in 0..DEPTH {
            if bid >= self.low_limit && book.bids.len() == depth {
                book.bids.push(level(false, bid, depth));
            }
            if ask <= self.high_limit && book.asks.len() == depth {
                book.asks.push(level(true, ask, depth));
            }
            // Every fourth price holds no orders.
            let gap = 1 + i64::from(mix(self.key, depth as u64).is_multiple_of(4));
            ask = ticks.above_by(ask, gap);
            bid = (0..gap).fold(bid, |p, _| if ticks.below(p) < p { ticks.below(p) } else { 0 });
        }
        book
    }

    /// Orders at a price: more away from the best, and each level changes every fifth step.
    fn size(&self, ask: bool, price: Mils, depth: usize) -> i64 {
        let version = (self.quotes + 3 * depth as u64) / 5;
        let seed = mix(mix(self.key, price as u64 * 2 + u64::from(ask)), version);
        let base = (LEVEL_VALUE_MILS / price.max(1)).clamp(100, 2_000_000);
        base * (4 + depth as i64) / 8 + (seed % base as u64) as i64
    }
}
