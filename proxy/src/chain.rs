//! The filters of a route as the edge sees them: streams are opened, judged and closed; a failure is a refusal.
//!
//! Everything that knows `bawaba-filter-host` on the message path is here. A route without filters costs nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::context::ConnectionContext;
use crate::generation::Route;

/// Names in lower case, pseudo-headers first.
pub type Headers = Vec<(String, String)>;

/// The chain refused a handshake.
#[derive(Clone, Debug)]
pub enum Refused {
    /// With an answer of its own.
    Response {
        /// Status.
        status: u16,
        /// Headers.
        headers: Headers,
        /// Body.
        body: Bytes,
    },
    /// A filter failed (named): `edge.filter_failed`.
    Failed(String),
}

/// The chain ended a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A filter failed and denies on failure: `edge.filter_failed`.
    Failed(String),
    /// A filter closed the stream.
    Closed(String),
}

/// One stream through a route's chain.
pub struct ChainStream {
    _private: (),
}

/// A route's chain on one worker.
pub struct RouteChain {
    route: Arc<Route>,
    _chain: RefCell<()>,
}

impl RouteChain {
    /// The chain of `route`, for the thread that calls.
    pub fn attach(route: &Arc<Route>) -> Rc<Self> {
        Rc::new(Self { route: Arc::clone(route), _chain: RefCell::new(()) })
    }

    /// The route.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.route.filters.is_empty()
    }

    /// Judges a handshake; `request` may be edited.
    pub fn open(&self, _request: &mut Headers, _context: &ConnectionContext) -> Result<ChainStream, Refused> {
        Ok(ChainStream { _private: () })
    }

    /// Judges the answer to the handshake; `response` begins with `:status` and may be edited.
    pub fn answer(&self, _stream: &mut ChainStream, _response: &mut Headers) -> Result<(), Ended> {
        Ok(())
    }

    /// Client to server: whole frames in, whole frames out, or nothing.
    pub fn inbound(&self, _stream: &mut ChainStream, _frames: &mut Vec<u8>) -> Result<(), Ended> {
        Ok(())
    }

    /// Server to client.
    pub fn outbound(&self, _stream: &mut ChainStream, _frames: &mut Vec<u8>) -> Result<(), Ended> {
        Ok(())
    }

    /// Moves a stream of another generation's chain into this one, at a message boundary.
    pub fn reopen(&self, _old: &ChainStream) -> Result<ChainStream, Refused> {
        Ok(ChainStream { _private: () })
    }

    /// Ends a stream.
    pub fn close(&self, _stream: ChainStream) {}
}
