//! The rings of every public stream of the exchange, by channel and instrument.

use bawaba_channels::name::Channel;
use bawaba_channels::wire::Update;

use crate::ring::Ring;

/// One ring per (channel, instrument), and one for news.
pub(super) struct Streams {
    quotes: Vec<Ring<Update>>,
    books: Vec<Ring<Update>>,
    trades: Vec<Ring<Update>>,
    other: Ring<Update>,
}

impl Streams {
    pub(super) fn new(instruments: usize, most: usize) -> Self {
        let rings = || std::iter::repeat_with(|| Ring::new(most)).take(instruments).collect();
        Self { quotes: rings(), books: rings(), trades: rings(), other: Ring::new(most) }
    }

    /// The ring of a stream; channels that are not per symbol share the one of news.
    pub(super) fn ring(&self, channel: Channel, instrument: Option<usize>) -> &Ring<Update> {
        match (channel, instrument) {
            (Channel::MarketData, Some(index)) => &self.quotes[index],
            (Channel::OrderBook, Some(index)) => &self.books[index],
            (Channel::Trades, Some(index)) => &self.trades[index],
            _ => &self.other,
        }
    }

    /// As [`Self::ring`], to write to.
    pub(super) fn ring_mut(&mut self, channel: Channel, instrument: Option<usize>) -> &mut Ring<Update> {
        match (channel, instrument) {
            (Channel::MarketData, Some(index)) => &mut self.quotes[index],
            (Channel::OrderBook, Some(index)) => &mut self.books[index],
            (Channel::Trades, Some(index)) => &mut self.trades[index],
            _ => &mut self.other,
        }
    }
}
