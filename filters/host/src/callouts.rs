//! Calls that filters make to other services: what the host hands out, and what comes back. The host
//! opens no socket: the edge carries each call through its own clusters, with its own timeouts, and
//! tells the worker chain what came of it ([`crate::WorkerChain::callout_event`]).

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::headers::Headers;

/// Names a call to the edge: which filter's VM made it, and under which number the guest knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CalloutId {
    pub(crate) place: u32,
    pub(crate) life: u32,
    pub(crate) token: u32,
}

/// An HTTP request that a filter wants made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// The cluster, by the edge's name for it.
    pub cluster: String,
    /// `:method`, `:path` and `:authority` are there, others as the filter gave them.
    pub headers: Headers,
    /// The body; where it is not empty, `content-length` says so.
    pub body: Vec<u8>,
    /// Trailers, mostly none.
    pub trailers: Headers,
    /// How long the filter waits for the whole response; `None` is as long as the edge lets it.
    pub timeout: Option<Duration>,
}

/// A gRPC method that a filter wants called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcCall {
    /// The cluster, by the edge's name for it.
    pub cluster: String,
    /// As `package.Service`.
    pub service: String,
    /// As `Method`.
    pub method: String,
    /// Request headers besides those of the protocol.
    pub metadata: Headers,
    /// `None` is as long as the edge lets it; streams have none.
    pub timeout: Option<Duration>,
}

/// Why a call was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalloutRefusal {
    /// The edge knows no such cluster.
    UnknownCluster,
    /// The edge carries as many calls as it may.
    Overloaded,
}

/// What came of a call, in the order in which it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalloutEvent {
    /// The whole response to an HTTP call; `:status` is among the headers. A call that ran into its
    /// timeout or found no endpoint is answered as Envoy answers it: by a 504 or a 503.
    Http {
        /// Headers.
        headers: Headers,
        /// Body.
        body: Vec<u8>,
        /// Trailers.
        trailers: Headers,
    },
    /// The connection of an HTTP call broke before a response. The guest sees a response of no headers.
    HttpReset,
    /// Response headers of a gRPC call or stream.
    GrpcInitialMetadata(Headers),
    /// One message: the response of a call, or the next of a stream.
    GrpcMessage(Vec<u8>),
    /// Trailers of a stream.
    GrpcTrailingMetadata(Headers),
    /// The end of a call that failed, or of a stream.
    GrpcClose {
        /// gRPC status, 0 is well.
        status: u32,
        /// Its message.
        message: String,
    },
}

/// Carries the calls of one thread's chain. Calls return at once; what comes of them is told later,
/// never from within one of these functions.
pub trait Callouts {
    /// Starts an HTTP request.
    fn http(&self, id: CalloutId, call: HttpCall) -> Result<(), CalloutRefusal>;
    /// Starts a unary gRPC call with its one message.
    fn grpc_call(&self, id: CalloutId, call: GrpcCall, message: Vec<u8>) -> Result<(), CalloutRefusal>;
    /// Opens a gRPC stream.
    fn grpc_stream(&self, id: CalloutId, call: GrpcCall) -> Result<(), CalloutRefusal>;
    /// Sends a message on a stream; with `end`, nothing follows.
    fn grpc_send(&self, id: CalloutId, message: Vec<u8>, end: bool);
    /// Ends the filter's half of a stream.
    fn grpc_close(&self, id: CalloutId);
    /// The filter no longer wants to know: nothing more is told of this call.
    fn cancel(&self, id: CalloutId);
}

/// No cluster is known.
pub(crate) struct NoCallouts;

impl Callouts for NoCallouts {
    fn http(&self, _: CalloutId, _: HttpCall) -> Result<(), CalloutRefusal> {
        Err(CalloutRefusal::UnknownCluster)
    }
    fn grpc_call(&self, _: CalloutId, _: GrpcCall, _: Vec<u8>) -> Result<(), CalloutRefusal> {
        Err(CalloutRefusal::UnknownCluster)
    }
    fn grpc_stream(&self, _: CalloutId, _: GrpcCall) -> Result<(), CalloutRefusal> {
        Err(CalloutRefusal::UnknownCluster)
    }
    fn grpc_send(&self, _: CalloutId, _: Vec<u8>, _: bool) {}
    fn grpc_close(&self, _: CalloutId) {}
    fn cancel(&self, _: CalloutId) {}
}

/// Takes every call and never tells what came of it: for the test of a module before it is in use.
pub(crate) struct SilentCallouts;

impl Callouts for SilentCallouts {
    fn http(&self, _: CalloutId, _: HttpCall) -> Result<(), CalloutRefusal> {
        Ok(())
    }
    fn grpc_call(&self, _: CalloutId, _: GrpcCall, _: Vec<u8>) -> Result<(), CalloutRefusal> {
        Ok(())
    }
    fn grpc_stream(&self, _: CalloutId, _: GrpcCall) -> Result<(), CalloutRefusal> {
        Ok(())
    }
    fn grpc_send(&self, _: CalloutId, _: Vec<u8>, _: bool) {}
    fn grpc_close(&self, _: CalloutId) {}
    fn cancel(&self, _: CalloutId) {}
}

/// Envoy tells kinds of calls apart by the two low bits of their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Http = 0,
    GrpcCall = 1,
    GrpcStream = 2,
}

const KIND_MASK: u32 = 3;
const NUMBER_STEP: u32 = 4;

impl Kind {
    pub(crate) fn of(token: u32) -> Option<Kind> {
        Some(match token & KIND_MASK {
            0 => Kind::Http,
            1 => Kind::GrpcCall,
            2 => Kind::GrpcStream,
            _ => return None,
        })
    }
}

/// Which half of a stream has ended.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Halves {
    pub(crate) local: bool,
    pub(crate) remote: bool,
}

/// The calls of one VM that are under way.
pub(crate) struct Table {
    carrier: Rc<dyn Callouts>,
    place: u32,
    life: u32,
    last: [u32; 3],
    open: HashMap<u32, Halves>,
    open_max: usize,
}

impl Table {
    pub(crate) fn new(carrier: Rc<dyn Callouts>, place: usize, life: u32, open_max: usize) -> Self {
        let last = [Kind::Http as u32, Kind::GrpcCall as u32, Kind::GrpcStream as u32];
        Table { carrier, place: place as u32, life, last, open: HashMap::new(), open_max }
    }

    pub(crate) fn carrier(&self) -> Rc<dyn Callouts> {
        self.carrier.clone()
    }

    pub(crate) fn id(&self, token: u32) -> CalloutId {
        CalloutId { place: self.place, life: self.life, token }
    }

    /// A number for a new call, never one in use; `None` past the bound.
    pub(crate) fn next(&mut self, kind: Kind) -> Option<u32> {
        if self.open.len() >= self.open_max {
            return None;
        }
        let last = &mut self.last[kind as usize];
        loop {
            *last = last.wrapping_add(NUMBER_STEP);
            if *last > KIND_MASK && !self.open.contains_key(last) {
                return Some(*last);
            }
        }
    }

    pub(crate) fn add(&mut self, token: u32) {
        self.open.insert(token, Halves::default());
    }

    pub(crate) fn get(&mut self, token: u32) -> Option<&mut Halves> {
        self.open.get_mut(&token)
    }

    pub(crate) fn remove(&mut self, token: u32) -> bool {
        self.open.remove(&token).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// The VM goes: nobody waits any more.
    pub(crate) fn cancel_all(&mut self) {
        for (token, _) in std::mem::take(&mut self.open) {
            self.carrier.cancel(self.id(token));
        }
    }
}

/// What the guest may read of a call while it is told of it.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) http_headers: Option<Headers>,
    pub(crate) http_trailers: Option<Headers>,
    pub(crate) http_body: Option<Vec<u8>>,
    pub(crate) initial_metadata: Option<Headers>,
    pub(crate) trailing_metadata: Option<Headers>,
    pub(crate) message: Option<Vec<u8>>,
}
