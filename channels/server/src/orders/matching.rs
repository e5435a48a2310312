//! Which part of an order the public book fills, and what an account has already taken from it.

use bawaba_channels::wire::{Book, Level};

use super::MarketView;
use super::account::{Order, Side};
use bawaba_channels::calendar::Phase;
use bawaba_channels::price::{Mils, mils};

/// A book as orders see it: (price, quantity), best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BookView {
    /// The sequence number of this state of the book.
    pub(crate) seq: u64,
    bids: Vec<(Mils, i64)>,
    asks: Vec<(Mils, i64)>,
}

impl BookView {
    pub(crate) fn new(seq: u64, book: &Book) -> Self {
        let side = |levels: &[Level]| {
            levels.iter().filter_map(|l| Some((mils(l.price)?, l.size.rescaled(0)?.mantissa))).collect()
        };
        Self { seq, bids: side(&book.bids), asks: side(&book.asks) }
    }

    /// The levels that an order of this side takes from.
    fn against(&self, side: Side) -> &[(Mils, i64)] {
        match side {
            Side::Buy => &self.asks,
            Side::Sell => &self.bids,
        }
    }
}

/// What accounts took from one state of a book, by side and level.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    seq: u64,
    by_level: [Vec<i64>; 2],
}

impl Taken {
    /// What the book fills of an order now, as (price, quantity); taken from it.
    pub(super) fn fill(&mut self, order: &Order, market: &MarketView) -> Vec<(Mils, i64)> {
        if self.seq != market.book.seq {
            *self = Self { seq: market.book.seq, by_level: Default::default() };
        }
        let levels = market.book.against(order.side);
        let taken = &mut self.by_level[order.side as usize];
        taken.resize(levels.len(), 0);
        let mut open = order.open_quantity();
        let mut fills = Vec::new();
        for (level, taken) in levels.iter().zip(taken) {
            let (price, there) = match market.phase() {
                Phase::Continuous => *level,
                // One price; the first level's quantity stands for who trades at it.
                Phase::TradeAtLast if fills.is_empty() => (market.last, level.1),
                _ => break,
            };
            let size = open.min(there - *taken);
            if open == 0 || !order.accepts(price) {
                break;
            }
            if size > 0 {
                *taken += size;
                open -= size;
                fills.push((price, size));
            }
        }
        fills
    }
}
