//! What a subscription leaves out: fields and small moves of quotes, sides and depth of books, sides of trades.
//!
//! Read once from the request into a type that can't be wrong; the server and the edge judge by the same one. What is
//! left out is not missing: the next update that goes out says from which number on it stands (`first_seq`).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::decimal::Decimal;
use crate::name::Channel;
use crate::wire::{Data, Filters, Quote, Update};

/// The fields of a quote, by name, in the order of the wire.
pub const QUOTE_FIELDS: [&str; 10] =
    ["last", "bid", "ask", "bid_size", "ask_size", "volume", "open", "high", "low", "close"];
/// Most levels of a side that can be asked for.
pub const DEPTH_MAX: u32 = 1000;

const ALL_FIELDS: u16 = (1 << QUOTE_FIELDS.len()) - 1;

/// One side, of a book or of trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// `bid`, or trades in which the buyer took.
    Buy,
    /// `ask`, or trades in which the seller took.
    Sell,
}

/// What a subscription leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Bits of [`QUOTE_FIELDS`].
    fields: u16,
    min_change: Option<Decimal>,
    /// Only this side.
    side: Option<Side>,
    /// Levels of a side.
    depth: Option<u32>,
}

/// The prices of what was last sent, to measure moves from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent([Option<Decimal>; 3]);

impl Sent {
    /// The prices of an update.
    pub fn of(update: &Update) -> Self {
        match &update.data {
            Some(Data::Quote(quote)) => Self([quote.last, quote.bid, quote.ask]),
            _ => Self::default(),
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::NONE
    }
}

impl Filter {
    /// Leaves nothing out.
    pub const NONE: Self = Self { fields: ALL_FIELDS, min_change: None, side: None, depth: None };

    /// Reads the filters of a request for `channel`.
    ///
    /// # Errors
    /// What is not supported there, for `protocol.unsupported`.
    pub fn new(channel: Channel, filters: Option<&Filters>) -> Result<Self, String> {
        let Some(filters) = filters else { return Ok(Self::NONE) };
        let only = |what: &str, on: &str| Err(format!("filters.{what}: not on {channel}, only on {on}"));
        let mut filter = Self::NONE;
        if !filters.fields.is_empty() {
            if channel != Channel::MarketData {
                return only("fields", "market_data");
            }
            filter.fields = 0;
            for field in &filters.fields {
                let Some(bit) = QUOTE_FIELDS.iter().position(|name| name == field) else {
                    let field: String = field.chars().take(40).collect();
                    return Err(format!("filters.fields: {field:?} is none of {}", QUOTE_FIELDS.join(", ")));
                };
                filter.fields |= 1 << bit;
            }
        }
        if let Some(change) = filters.min_change {
            match channel {
                Channel::MarketData if change.mantissa > 0 => filter.min_change = Some(change),
                Channel::MarketData if change.mantissa == 0 => {}
                Channel::MarketData => return Err("filters.min_change: it is not negative".into()),
                _ => return only("min_change", "market_data"),
            }
        }
        let mut sides = Vec::new();
        for side in &filters.sides {
            sides.push(match (channel, side.as_str()) {
                (Channel::OrderBook, "bid") | (Channel::Trades, "buy") => Side::Buy,
                (Channel::OrderBook, "ask") | (Channel::Trades, "sell") => Side::Sell,
                (Channel::OrderBook, _) => return Err("filters.sides: \"bid\" or \"ask\" on order_book".into()),
                (Channel::Trades, _) => return Err("filters.sides: \"buy\" or \"sell\" on trades".into()),
                _ => return only("sides", "order_book and trades"),
            });
        }
        sides.sort_unstable();
        sides.dedup();
        filter.side = if let [side] = sides.as_slice() { Some(*side) } else { None };
        match (filters.depth, channel) {
            (None, _) => {}
            (Some(depth @ 1..=DEPTH_MAX), Channel::OrderBook) => filter.depth = Some(depth),
            (Some(_), Channel::OrderBook) => return Err(format!("filters.depth: 1 to {DEPTH_MAX}")),
            (Some(_), _) => return only("depth", "order_book"),
        }
        Ok(filter)
    }

    /// Whether it leaves nothing out.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether it leaves out whole updates, not only parts of them.
    pub fn folds(&self, channel: Channel) -> bool {
        self.min_change.is_some() || (channel == Channel::Trades && self.side.is_some())
    }

    /// Whether an update goes out, after what was sent before; one that does not is folded into the next that does.
    pub fn passes(&self, update: &Update, sent: Option<&Sent>) -> bool {
        if update.snapshot {
            return true;
        }
        match &update.data {
            Some(Data::Trade(trade)) => match self.side {
                // A trade of unknown side belongs to both.
                Some(Side::Buy) => trade.side != "sell",
                Some(Side::Sell) => trade.side != "buy",
                None => true,
            },
            Some(Data::Quote(_)) => match (self.min_change, sent) {
                (Some(change), Some(sent)) => moved(sent, &Sent::of(update), change),
                _ => true,
            },
            _ => true,
        }
    }

    /// Takes out of an update what is not asked for.
    pub fn dress(&self, update: &mut Update) {
        match &mut update.data {
            Some(Data::Quote(quote)) if self.fields != ALL_FIELDS => self.mask(quote),
            Some(Data::Book(book)) => {
                match self.side {
                    Some(Side::Buy) => book.asks.clear(),
                    Some(Side::Sell) => book.bids.clear(),
                    None => {}
                }
                if let Some(depth) = self.depth.and_then(|depth| usize::try_from(depth).ok()) {
                    book.bids.truncate(depth);
                    book.asks.truncate(depth);
                }
            }
            _ => {}
        }
    }

    fn mask(&self, quote: &mut Quote) {
        let Quote { last, bid, ask, bid_size, ask_size, volume, open, high, low, close } = quote;
        let fields = [last, bid, ask, bid_size, ask_size, volume, open, high, low, close];
        for (bit, field) in fields.into_iter().enumerate() {
            if self.fields & (1 << bit) == 0 {
                *field = None;
            }
        }
    }
}

/// Whether a price came, went, or moved at least so far. What an update does not say did not move.
fn moved(before: &Sent, after: &Sent, change: Decimal) -> bool {
    before.0.iter().zip(after.0).any(|(before, after)| match (before, after) {
        (Some(before), Some(after)) => {
            let scale = before.scale.max(after.scale).max(change.scale);
            let at = |decimal: &Decimal| decimal.rescaled(scale).map(|d| i128::from(d.mantissa));
            match (at(before), at(&after), at(&change)) {
                (Some(before), Some(after), Some(change)) => (after - before).abs() >= change,
                // Too large to compare: send it.
                _ => true,
            }
        }
        (None, Some(_)) => true,
        (_, None) => false,
    })
}

/// The same text for the same filter, for names of subscriptions: `:last,ask;move=0.05`, `:bid;depth=5`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if self.fields != ALL_FIELDS {
            let fields = QUOTE_FIELDS.iter().enumerate().filter(|(bit, _)| self.fields & (1 << bit) != 0);
            parts.push(fields.map(|(_, field)| *field).collect::<Vec<_>>().join(","));
        }
        match self.side {
            Some(Side::Buy) => parts.push("buy".into()),
            Some(Side::Sell) => parts.push("sell".into()),
            None => {}
        }
        if let Some(change) = self.min_change {
            let mut text = format!("{change}");
            while text.contains('.') && (text.ends_with('0') || text.ends_with('.')) {
                text.pop();
            }
            parts.push(format!("move={text}"));
        }
        if let Some(depth) = self.depth {
            parts.push(format!("depth={depth}"));
        }
        if parts.is_empty() { Ok(()) } else { write!(f, ":{}", parts.join(";")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Book, Level, Trade};
    use alloc::string::ToString;

    fn filters(fields: &[&str], change: Option<&str>, sides: &[&str], depth: Option<u32>) -> Filters {
        let own = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
        Filters { fields: own(fields), min_change: change.map(|c| c.parse().unwrap()), sides: own(sides), depth }
    }

    fn quote(last: &str, bid: &str) -> Update {
        let price = |text: &str| Some(text.parse().unwrap());
        let quote = Quote { last: price(last), bid: price(bid), volume: price("7"), ..Quote::default() };
        Update { data: Some(Data::Quote(quote)), ..Update::default() }
    }

    #[test]
    fn the_same_filter_has_the_same_text_and_what_a_channel_lacks_is_named() {
        let text = |channel, filters: Filters| Filter::new(channel, Some(&filters)).unwrap().to_string();
        assert_eq!(text(Channel::MarketData, filters(&["ask", "last", "ask"], None, &[], None)), ":last,ask");
        assert_eq!(text(Channel::MarketData, filters(&[], Some("0.50"), &[], None)), ":move=0.5");
        assert_eq!(
            Filter::new(Channel::MarketData, Some(&filters(&[], Some("0.5"), &[], None))),
            Filter::new(Channel::MarketData, Some(&filters(&[], Some("0.500"), &[], None)))
        );
        assert_eq!(text(Channel::OrderBook, filters(&[], None, &["ask", "bid"], Some(5))), ":depth=5");
        assert_eq!(text(Channel::Trades, filters(&[], None, &["sell"], None)), ":sell");
        assert_eq!(text(Channel::News, filters(&[], None, &[], None)), "");
        for (channel, wrong, says) in [
            (Channel::MarketData, filters(&["price"], None, &[], None), "\"price\""),
            (Channel::Trades, filters(&["last"], None, &[], None), "only on market_data"),
            (Channel::OrderBook, filters(&[], Some("1"), &[], None), "only on market_data"),
            (Channel::MarketData, filters(&[], Some("-1"), &[], None), "negative"),
            (Channel::MarketData, filters(&[], None, &["bid"], None), "order_book and trades"),
            (Channel::Trades, filters(&[], None, &["bid"], None), "\"buy\""),
            (Channel::OrderBook, filters(&[], None, &[], Some(0)), "1 to 1000"),
            (Channel::News, filters(&[], None, &[], Some(3)), "only on order_book"),
        ] {
            let refused = Filter::new(channel, Some(&wrong)).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_quote_goes_out_when_a_price_moved_far_enough_since_what_was_sent() {
        let filter = Filter::new(Channel::MarketData, Some(&filters(&[], Some("0.05"), &[], None))).unwrap();
        let sent = Sent::of(&quote("84.50", "84.49"));
        assert!(filter.passes(&quote("84.50", "84.49"), None), "the first always");
        assert!(!filter.passes(&quote("84.54", "84.45"), Some(&sent)));
        assert!(filter.passes(&quote("84.55", "84.49"), Some(&sent)));
        assert!(filter.passes(&quote("84.5", "84.4400"), Some(&sent)));
        assert!(filter.passes(&Update { snapshot: true, ..quote("84.50", "84.49") }, Some(&sent)));
        assert!(Filter::NONE.passes(&quote("84.50", "84.49"), Some(&sent)));
    }

    #[test]
    fn a_book_and_trades_keep_the_side_and_depth_asked_for() {
        let level = |price: &str| Level { price: price.parse().unwrap(), size: "1".parse().unwrap() };
        let book = Book { bids: ["3", "2", "1"].map(level).into(), asks: ["4", "5"].map(level).into() };
        let update = Update { data: Some(Data::Book(book)), ..Update::default() };
        let dressed = |sides: &[&str], depth| {
            let mut update = update.clone();
            Filter::new(Channel::OrderBook, Some(&filters(&[], None, sides, depth))).unwrap().dress(&mut update);
            match update.data {
                Some(Data::Book(book)) => (book.bids.len(), book.asks.len()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(dressed(&[], Some(2)), (2, 2));
        assert_eq!(dressed(&["bid"], None), (3, 0));
        assert_eq!(dressed(&["ask"], Some(1)), (0, 1));
        let trade = |side: &str| Update {
            data: Some(Data::Trade(Trade { side: side.into(), ..Trade::default() })),
            ..Update::default()
        };
        let buys = Filter::new(Channel::Trades, Some(&filters(&[], None, &["buy"], None))).unwrap();
        assert_eq!(["buy", "sell", ""].map(|side| buys.passes(&trade(side), None)), [true, false, true]);
    }
}
