//! What messages there are: one table of names and protobuf tags for both directions.

macro_rules! kinds {
    ($($variant:ident = $name:literal, $tag:literal, $doc:literal;)*) => {
        /// What a message is. The first fifteen come from clients or answer them; see `docs/protocol.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $doc] $variant,)*
            /// Well formed, but of a type that this version does not know.
            Unknown,
            /// In a dialect that should be readable here, but not well formed.
            Unreadable,
            /// In a dialect that the kit does not read.
            Opaque,
        }

        impl Kind {
            pub(crate) fn of_name(name: &[u8]) -> Self {
                $(if name == $name.as_bytes() { return Self::$variant; })*
                Self::Unknown
            }

            /// The `type` of the JSON form.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Unknown => "unknown",
                    Self::Unreadable => "unreadable",
                    Self::Opaque => "opaque",
                }
            }
        }

        const TAGS: &[(u32, Kind)] = &[$(($tag, Kind::$variant)),*];
    };
}

// Most frequent first: JSON names are compared in this order. An update's protobuf tag (19) does not tell
// which update it is; its data's does (10 to 13 inside the body), kept here as 1000 and more.
kinds! {
    Quote = "market_data_update", 1010, "An update of quotes.";
    Trade = "trade_update", 1012, "A trade.";
    Book = "order_book_update", 1011, "An update of an order book.";
    Subscribe = "subscribe", 1, "A client subscribes.";
    Unsubscribe = "unsubscribe", 2, "A client unsubscribes.";
    Order = "order", 3, "A client places or cancels an order.";
    Refresh = "refresh", 4, "A client presents a new token.";
    Ping = "ping", 5, "A client pings.";
    Welcome = "welcome", 16, "The first event of a session.";
    Subscribed = "subscribed", 17, "Answers `subscribe`.";
    Unsubscribed = "unsubscribed", 18, "Answers `unsubscribe`.";
    OrderUpdate = "order_update", 20, "The state of an own order.";
    PositionUpdate = "position_update", 21, "The state of an own position.";
    Alert = "alert", 22, "A warning or announcement.";
    MarketStatus = "market_status", 23, "The phase of an exchange or instrument.";
    Gap = "gap", 24, "Updates are missing.";
    Degraded = "degraded", 25, "A slower rate from here on.";
    Revoked = "revoked", 26, "Something subscribed to may no longer be seen.";
    Drain = "drain", 27, "The edge is about to close.";
    Refreshed = "refreshed", 28, "Answers `refresh`.";
    Pong = "pong", 29, "Answers `ping`.";
    Error = "error", 30, "Refuses a request.";
    News = "news_update", 1013, "News.";
}

/// The protobuf tag of every update in the envelope.
pub(crate) const UPDATE_TAG: u32 = 19;

impl Kind {
    /// The kind of an envelope's body; for updates `1000 +` the tag of their data.
    pub(crate) fn of_tag(tag: u32) -> Self {
        TAGS.iter().find(|row| row.0 == tag).map_or(Self::Unknown, |row| row.1)
    }

    /// Whether a client sends it.
    pub const fn is_request(self) -> bool {
        matches!(self, Self::Subscribe | Self::Unsubscribe | Self::Order | Self::Refresh | Self::Ping)
    }

    /// Whether it is a public update (quote, book, trade or news).
    pub const fn is_update(self) -> bool {
        matches!(self, Self::Quote | Self::Book | Self::Trade | Self::News)
    }

    /// Whether it was read: a message of the protocol.
    pub const fn is_known(self) -> bool {
        !matches!(self, Self::Unknown | Self::Unreadable | Self::Opaque)
    }
}
