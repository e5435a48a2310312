//! Fields that a rule can take away, and which others tell what they say.
//!
//! A price is in every price: today's high is the last price when it was highest, and a trade's price is the last one.
//! So a redaction takes a field together with what repeats, bounds or adds up to it, text for people included.

use serde::{Deserialize, Serialize};

use super::Subject;

macro_rules! fields {
    ($($variant:ident = $word:literal, $bit:literal, $doc:literal;)*) => {
        /// A field of a message, by its name on the wire, or several by the name of the group.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Field {
            $(#[doc = $doc] $variant,)*
            /// Every price.
            Prices,
            /// Every quantity.
            Sizes,
            /// All of them.
            All,
        }

        impl Field {
            /// The fields that are one, and their names on the wire.
            pub const SINGLE: &'static [(Self, &'static str)] = &[$((Self::$variant, $word)),*];

            const fn bits(self) -> u32 {
                match self {
                    $(Self::$variant => 1 << $bit,)*
                    Self::Prices => Fields::PRICES.0 | Fields::LEVELS.0 | Fields::TEXT.0,
                    Self::Sizes => Fields::SIZES.0 | Fields::LEVELS.0 | Fields::TEXT.0,
                    Self::All => u32::MAX,
                }
            }
        }
    };
}

fields! {
    Last = "last", 0, "Last traded price.";
    Bid = "bid", 1, "Best bid.";
    Ask = "ask", 2, "Best ask.";
    Open = "open", 3, "First price of the day.";
    High = "high", 4, "Highest price of the day.";
    Low = "low", 5, "Lowest price of the day.";
    Close = "close", 6, "Closing price of the previous session.";
    Price = "price", 7, "Price of a trade.";
    BidSize = "bid_size", 8, "Quantity at the best bid.";
    AskSize = "ask_size", 9, "Quantity at the best ask.";
    Volume = "volume", 10, "Quantity traded today.";
    Size = "size", 11, "Quantity of a trade.";
    Bids = "bids", 12, "Bids of a book.";
    Asks = "asks", 13, "Asks of a book.";
    Side = "side", 14, "Side of a trade.";
    TradeId = "trade_id", 15, "The exchange's id of a trade.";
    Phase = "phase", 16, "Phase of the instrument: halted, in auction.";
    Reason = "reason", 17, "Text for people: the reason of an alert or halt, news.";
}

/// Fields that are taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(u32);

impl Fields {
    const PRICES: Self = Self(0xFF);
    const SIZES: Self = Self(0xF00);
    const LEVELS: Self = Self(0x3000);
    const TEXT: Self = Self(1 << 17);

    /// These fields, and all that tell what they say.
    pub fn closed(fields: &[Field]) -> Self {
        let told = |field: &Field| match field {
            Field::Bids | Field::Asks => Field::Prices.bits() | Field::Sizes.bits(),
            Field::BidSize => field.bits() | Field::Bids.bits() | Self::TEXT.0,
            Field::AskSize => field.bits() | Field::Asks.bits() | Self::TEXT.0,
            // The trades of a day add up to its volume.
            Field::Volume | Field::Size => Field::Volume.bits() | Field::Size.bits() | Self::TEXT.0,
            field if Self::PRICES.0 & field.bits() != 0 => Field::Prices.bits() | field.bits(),
            field => field.bits(),
        };
        Self(fields.iter().fold(0, |all, field| all | told(field)))
    }

    /// Whether this one is taken away.
    pub const fn has(self, field: Field) -> bool {
        self.0 & field.bits() != 0
    }

    /// Whether no price is left.
    pub const fn hide_prices(self) -> bool {
        let all = Field::Prices.bits();
        self.0 & all == all
    }

    /// Names on the wire of the fields that are left.
    pub fn left(self) -> impl Iterator<Item = &'static str> {
        Field::SINGLE.iter().filter(move |(field, _)| !self.has(*field)).map(|(_, name)| *name)
    }

    /// Whether a message of this kind says nothing any more, or can't be written, without them.
    pub const fn leave_nothing_of(self, subject: Subject) -> bool {
        match subject {
            Subject::Trade => self.has(Field::Price) || self.has(Field::Size),
            Subject::Book => self.has(Field::Bids) && self.has(Field::Asks),
            // A text can't be cut to the part that says nothing of them.
            Subject::News => self.has(Field::Reason),
            Subject::Status => self.has(Field::Phase),
            Subject::Quote | Subject::Alert => false,
            Subject::Order | Subject::OrderUpdate | Subject::PositionUpdate => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_price_leaves_no_field_that_tells_it() {
        for (field, _) in &Field::SINGLE[..8] {
            let left: alloc::vec::Vec<_> = Fields::closed(&[*field]).left().collect();
            assert_eq!(left, ["bid_size", "ask_size", "volume", "size", "side", "trade_id", "phase"], "{field:?}");
        }
        assert_eq!(Fields::closed(&[Field::All]).left().count(), 0);
        assert!(Fields::closed(&[Field::Bids]).hide_prices(), "the best bid is the first of the bids");
        assert!(!Fields::closed(&[Field::BidSize]).has(Field::Bid), "a quantity tells no price");
    }
}
