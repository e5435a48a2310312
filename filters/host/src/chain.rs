//! Filters in order, and the streams that pass through them.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::error::Cause;
use crate::filter::Filter;
use crate::headers::Headers;

/// What a filter may ask about a stream, by Envoy's attribute paths and in Envoy's encodings
/// (integers 8 bytes little-endian, booleans 1 byte, strings raw). The host answers `plugin_*` and
/// what filters stored themselves; everything else comes from here.
pub trait Properties {
    /// The value at `path`, as `["source", "address"]`.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
}

/// A response that a filter gave instead of letting the stream through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// HTTP status, 200 to 599.
    pub status: u16,
    /// Headers that the filter wants on it.
    pub headers: Headers,
    /// The body, may be empty.
    pub body: Vec<u8>,
    /// Response code details, for logs.
    pub details: String,
    /// gRPC status, if one was set.
    pub grpc_status: Option<u32>,
    /// The filter.
    pub filter: Arc<str>,
}

/// What became of a handshake.
pub enum Opening {
    /// All filters let it through.
    Stream(ChainStream),
    /// A filter answered it.
    Refused(LocalResponse),
    /// A filter gave no verdict, and its `on_failure` is deny.
    Failed {
        /// Name of the filter.
        filter: Arc<str>,
        /// Why.
        cause: Cause,
    },
}

/// Why a stream must end now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// A filter gave no verdict, and its `on_failure` is deny.
    Denied {
        /// Name of the filter.
        filter: Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// A filter called `proxy_close_stream`.
    ClosedByFilter {
        /// Name of the filter.
        filter: Arc<str>,
    },
    /// A filter answered in the server's place. Before the 101 this is the HTTP response; after it
    /// only a close is left.
    LocalResponse(LocalResponse),
}

/// Names a stream to the edge; unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamToken(u64);

/// Ordered filters and the generation of the configuration that they belong to. Cheap to clone.
#[derive(Clone)]
pub struct Chain {
    generation: u64,
    filters: Arc<[Filter]>,
}

impl Chain {
    /// Requests meet the filters in this order, responses in the reverse.
    pub fn new(generation: u64, filters: Vec<Filter>) -> Self {
        Chain { generation, filters: filters.into() }
    }

    /// The generation given to [`Chain::new`].
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The filters, in order.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// This thread's VMs; each is made when the first stream needs it.
    pub fn attach(&self) -> WorkerChain {
        WorkerChain { chain: self.clone(), closed: Vec::new(), _thread: PhantomData }
    }
}

/// One thread's instance of a [`Chain`].
pub struct WorkerChain {
    chain: Chain,
    closed: Vec<StreamToken>,
    _thread: PhantomData<Rc<()>>,
}

/// One stream through a [`WorkerChain`]. Give it back by [`WorkerChain::close`]; dropping it only
/// leaks the guests' contexts until their VM is replaced.
pub struct ChainStream {
    token: StreamToken,
}

impl ChainStream {
    /// The stream's name in [`WorkerChain::take_closed`].
    pub fn token(&self) -> StreamToken {
        self.token
    }
}

impl WorkerChain {
    /// The chain that this is an instance of.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A handshake: `on_context_create`, `on_request_headers` (not the end of the stream) and an empty
    /// `on_request_body`, filter by filter, as Envoy does for an upgrade. `request` leaves as the
    /// filters want it to go upstream.
    pub fn open(&mut self, request: &mut Headers, properties: Rc<dyn Properties>) -> Opening {
        let _ = (request, properties);
        Opening::Stream(ChainStream { token: StreamToken(0) })
    }

    /// Takes over a stream of another generation's chain, from the handshake that it kept. The old
    /// stream stays as it was: close it with its own chain.
    pub fn reopen(&mut self, old: &ChainStream) -> Opening {
        Opening::Stream(ChainStream { token: old.token })
    }

    /// The server's answer to the handshake: `on_response_headers` and an empty `on_response_body`, last filter first.
    pub fn response_headers(&mut self, stream: &mut ChainStream, response: &mut Headers) -> Result<(), StreamEnd> {
        let _ = (stream, response);
        Ok(())
    }

    /// Bytes from the client. `data` leaves as the filters want it to go on; it may be empty.
    pub fn request_data(&mut self, stream: &mut ChainStream, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        let _ = (stream, data);
        Ok(())
    }

    /// Bytes from the server, last filter first. `data` leaves as the filters want it to go on; it may be empty.
    pub fn response_data(&mut self, stream: &mut ChainStream, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        let _ = (stream, data);
        Ok(())
    }

    /// The stream is over: `on_log`, `on_done`, `on_delete`.
    pub fn close(&mut self, stream: ChainStream) {
        let _ = stream;
    }

    /// Runs what is due: ticks, and notices of shared queues.
    pub fn tick(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`WorkerChain::tick`] is next wanted.
    pub fn next_tick(&self) -> Option<Instant> {
        None
    }

    /// Streams that a filter closed outside their own callbacks. Close them.
    pub fn take_closed(&mut self) -> Vec<StreamToken> {
        std::mem::take(&mut self.closed)
    }
}
