//! Workers: one thread per core, each with its own runtime, sessions, hub, trunks and filter VMs. A session
//! never changes its worker, and workers share nothing on the message path.

use std::sync::Arc;

use bytes::BytesMut;

use crate::context::ConnectionContext;
use crate::downstream::Downstream;

/// A connection on its way from the listener to a worker. The worker answers the handshake.
pub struct Handoff {
    /// The client's bytes.
    pub downstream: Downstream,
    /// Bytes that the client sent right behind its request.
    pub pre_read: BytesMut,
    /// What is known of the connection.
    pub context: Arc<ConnectionContext>,
    /// The request as the filters see it: pseudo-headers first, names in lower case, forged ones stripped, the
    /// claims header written.
    pub request: Vec<(String, String)>,
    /// `sec-websocket-accept`, computed from the request's key; empty on HTTP/2.
    pub accept: String,
    /// The sticky token that the client presented (`?resume=`), not yet verified.
    pub sticky: Option<String>,
}
