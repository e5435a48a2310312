//! What the edge knows of a connection once its token is verified. Never what a client says about itself.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::wire::Encoding;

/// The verified facts of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionContext {
    /// Random id of the session, unguessable; its public name in logs, admin and `welcome`.
    pub session: String,
    /// The client's address.
    pub client: SocketAddr,
    /// `sub` of the token; empty on routes without authentication.
    pub user: String,
    /// `sid` of the token: a newer connection with the same (user, sid) takes this one's place.
    pub sid: Option<String>,
    /// `tenant` of the token.
    pub tenant: String,
    /// The token's payload, base64url without padding; empty on routes without authentication.
    pub payload: Box<str>,
    /// When the token ends, in seconds since the epoch.
    pub expires_at: Option<i64>,
    /// The form the client speaks; `None`: no subprotocol was selected.
    pub encoding: Option<Encoding>,
    /// Whether the client came by HTTP/2.
    pub http2: bool,
    /// Whether the token is that of another edge, whose requests are its users'.
    pub is_edge: bool,
    /// Name of the route that was taken.
    pub route: Arc<str>,
}

impl ConnectionContext {
    /// The verified claims; `null` where there are none.
    pub fn claims(&self) -> serde_json::Value {
        let payload = URL_SAFE_NO_PAD.decode(&*self.payload).unwrap_or_default();
        serde_json::from_slice(&payload).unwrap_or_default()
    }

    /// For whom a request acts: an edge names the user, everyone else is one.
    pub fn actor(&self, named: Option<&str>) -> Option<String> {
        let user = if self.is_edge { named.unwrap_or_default() } else { &self.user };
        (!user.is_empty()).then(|| user.to_owned())
    }

    /// Whose place a connection with this `sid` takes.
    pub fn sid_key(&self, sid: String) -> crate::shared::SidKey {
        [self.route.to_string(), self.tenant.clone(), self.user.clone(), sid]
    }
}
