//! Close codes: those of RFC 6455, 7.4.1, and our own in the private range. One table.

use core::fmt;

/// A WebSocket close code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

macro_rules! codes {
    ($($name:ident = $code:literal, $label:literal, $reconnect:literal, $doc:literal;)*) => {
        impl CloseCode {
            $(#[doc = $doc] pub const $name: Self = Self($code);)*

            /// Every code that this project sends: code, label, whether a client should come back by itself.
            pub const TABLE: &'static [(Self, &'static str, bool, &'static str)] =
                &[$((Self($code), $label, $reconnect, $doc)),*];
        }
    };
}

codes! {
    NORMAL = 1000, "normal", false, "The purpose of the connection is fulfilled.";
    GOING_AWAY = 1001, "going_away", true, "The server or the page goes away.";
    PROTOCOL_ERROR = 1002, "protocol_error", false, "The peer broke RFC 6455.";
    UNSUPPORTED_DATA = 1003, "unsupported_data", false, "A kind of message that this endpoint does not take.";
    INVALID_PAYLOAD = 1007, "invalid_payload", false, "Text that is not UTF-8.";
    POLICY = 1008, "policy", false, "Refused by a policy.";
    TOO_LARGE = 1009, "too_large", false, "A message over the limit.";
    INTERNAL = 1011, "internal", true, "This side failed.";
    RESTART = 1012, "restart", true, "The edge restarts: come back.";
    TRY_LATER = 1013, "try_later", true, "Overloaded, or nothing to route to: come back later.";
    SLOW = 4008, "slow", true, "The client reads too slowly for a channel that may lose nothing.";
    AUTH_ENDED = 4401, "auth_ended", false, "The token expired or was revoked.";
    NOT_ENTITLED = 4403, "not_entitled", false, "The licence no longer allows this connection.";
    HEARTBEAT = 4408, "heartbeat", true, "No traffic and no Pong within the limit.";
    REPLACED = 4409, "replaced", false, "A newer connection of the same session took over.";
    QUOTA = 4429, "quota", true, "A quota is used up: come back later.";
    COMPLIANCE = 4451, "compliance", false, "Refused for compliance.";
}

impl CloseCode {
    /// Whether RFC 6455 lets this code stand in a Close frame on the wire.
    pub const fn may_be_received(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// The stable label for metrics and logs; `"other"` for codes outside [`Self::TABLE`].
    pub fn label(self) -> &'static str {
        Self::TABLE.iter().find(|row| row.0 == self).map_or("other", |row| row.1)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.label())
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
