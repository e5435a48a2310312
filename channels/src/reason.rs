//! Refusal words: one stable word for each refusal, the same in reply, log, metric and audit record.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! reasons {
    ($($variant:ident = $word:literal, $status:literal, $sentence:literal;)*) => {
        /// Why something was refused. The word is the API; the sentence is for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $sentence] $variant,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable word, such as `license.expired`.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// The HTTP status when a handshake is refused for this reason.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

reasons! {
    AuthMissing = "auth.missing", 401, "no token was sent: use an Authorization header, a bearer subprotocol or ?token=";
    AuthInvalid = "auth.invalid", 401, "the token is not valid here";
    AuthExpired = "auth.expired", 401, "the token has expired: sign in again";
    AuthRevoked = "auth.revoked", 401, "the token was revoked: sign in again";
    LicenseNotFound = "license.not_found", 403, "no licence was found for this account";
    LicenseExpired = "license.expired", 403, "the licence has expired";
    LicenseInactive = "license.inactive", 403, "the licence is suspended";
    LicenseFeature = "license.feature", 403, "the licence does not include this feature";
    LicenseExchange = "license.exchange", 403, "the licence does not include this exchange";
    LicenseAssetType = "license.asset_type", 403, "the licence does not include this asset type";
    LicenseDepth = "license.depth", 403, "the licence does not include this depth of book";
    QuotaConnections = "quota.connections", 429, "too many connections at once";
    QuotaSubscriptions = "quota.subscriptions", 429, "too many subscriptions";
    QuotaSymbols = "quota.symbols", 429, "too many symbols";
    QuotaMessages = "quota.messages", 429, "too many messages: slow down";
    QuotaOrders = "quota.orders", 429, "too many orders";
    QuotaBytes = "quota.bytes", 429, "too many bytes";
    ShariaNotCompliant = "sharia.not_compliant", 403, "the board found this instrument not compliant";
    ShariaNotListed = "sharia.not_listed", 403, "the instrument is not on the board's list";
    ShariaDoubtful = "sharia.doubtful", 403, "the board holds this instrument doubtful";
    ShariaUnderReview = "sharia.under_review", 403, "the board is reviewing this instrument";
    ShariaListStale = "sharia.list_stale", 403, "the board's list has expired";
    ShariaListMissing = "sharia.list_missing", 403, "no list of this board is loaded";
    ShariaBoardDisagrees = "sharia.board_disagrees", 403, "not all required boards allow this instrument";
    ShariaInstrumentBarred = "sharia.instrument_barred", 403, "this kind of instrument is barred from screened sessions";
    ShariaDelisted = "sharia.delisted", 403, "the instrument left the board's list";
    ChannelUnknown = "channel.unknown", 404, "there is no such channel";
    ChannelSymbolUnknown = "channel.symbol_unknown", 404, "there is no such symbol on this exchange";
    ChannelClosed = "channel.closed", 409, "the market is closed for this request";
    ProtocolMalformed = "protocol.malformed", 400, "the message could not be read";
    ProtocolTooLarge = "protocol.too_large", 413, "the message is too large";
    ProtocolUnsupported = "protocol.unsupported", 400, "this is not supported here";
    EdgeOverloaded = "edge.overloaded", 503, "the edge is at its limit: come back later";
    EdgeNoEndpoint = "edge.no_endpoint", 503, "no server for this route is healthy: come back later";
    EdgeDraining = "edge.draining", 503, "the edge is restarting: come back";
    EdgeFilterFailed = "edge.filter_failed", 503, "a policy could not judge this, so it is refused";
    EdgeForbidden = "edge.forbidden", 403, "this route is not open to this token or origin";
    EdgeNotFound = "edge.not_found", 404, "nothing is served under this address";
    OrderRejected = "order.rejected", 400, "the exchange's rules refuse this order";
    OrderTick = "order.tick", 400, "the price is not on the grid of ticks";
    OrderPriceLimit = "order.price_limit", 400, "the price is outside the limits of the day";
    OrderLot = "order.lot", 400, "the quantity is not a multiple of the lot";
    OrderAssetType = "order.asset_type", 400, "the exchange does not list this asset type";
    OrderBoard = "order.board", 400, "the board takes no orders here";
    OrderPhase = "order.phase", 409, "the phase does not take this type of order";
    OrderHalted = "order.halted", 409, "the instrument or the market is halted or suspended";
    OrderUnknown = "order.unknown", 404, "there is no such open order";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text is no refusal word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a refusal word")]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|reason| reason.word() == word).ok_or(UnknownReason)
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = alloc::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        word.parse().map_err(serde::de::Error::custom)
    }
}
