//! The refusals that policies give, one word each.
//!
//! The words and sentences are those of the protocol's table (`bawaba_channels::reason`); this crate may not import
//! it, so the filter kit's tests hold the two tables equal.

use core::fmt;

macro_rules! reasons {
    ($($variant:ident = $word:literal, $sentence:literal;)*) => {
        /// Why a policy refused. The word is the API; the sentence is for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $sentence] $variant,)* }

        impl Reason {
            /// Every reason a policy can give.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable word, such as `sharia.not_listed`.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The sentence for people. It never names an instrument.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

reasons! {
    AuthInvalid = "auth.invalid", "the token is not valid here";
    LicenseNotFound = "license.not_found", "no licence was found for this account";
    LicenseExpired = "license.expired", "the licence has expired";
    LicenseInactive = "license.inactive", "the licence is suspended";
    LicenseFeature = "license.feature", "the licence does not include this feature";
    LicenseExchange = "license.exchange", "the licence does not include this exchange";
    LicenseAssetType = "license.asset_type", "the licence does not include this asset type";
    LicenseDepth = "license.depth", "the licence does not include this depth of book";
    QuotaConnections = "quota.connections", "too many connections at once";
    QuotaSubscriptions = "quota.subscriptions", "too many subscriptions";
    QuotaSymbols = "quota.symbols", "too many symbols";
    QuotaMessages = "quota.messages", "too many messages: slow down";
    QuotaOrders = "quota.orders", "too many orders";
    QuotaBytes = "quota.bytes", "too many bytes";
    ShariaNotCompliant = "sharia.not_compliant", "the board found this instrument not compliant";
    ShariaNotListed = "sharia.not_listed", "the instrument is not on the board's list";
    ShariaDoubtful = "sharia.doubtful", "the board holds this instrument doubtful";
    ShariaUnderReview = "sharia.under_review", "the board is reviewing this instrument";
    ShariaListStale = "sharia.list_stale", "the board's list has expired";
    ShariaListMissing = "sharia.list_missing", "no list of this board is loaded";
    ShariaBoardDisagrees = "sharia.board_disagrees", "not all required boards allow this instrument";
    ShariaInstrumentBarred = "sharia.instrument_barred", "this kind of instrument is barred from screened sessions";
    ShariaDelisted = "sharia.delisted", "the instrument left the board's list";
    ChannelUnknown = "channel.unknown", "there is no such channel";
    ChannelSymbolUnknown = "channel.symbol_unknown", "there is no such symbol on this exchange";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
