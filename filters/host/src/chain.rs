//! Filters in order, the streams that pass through them, and what can become of a stream.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Cause;
use crate::filter::Filter;
use crate::headers::Headers;
use crate::kept::Kept;
use crate::state::StreamShared;
use crate::worker::WorkerChain;

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
#[must_use]
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

impl StreamToken {
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        StreamToken(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

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
        WorkerChain::new(self.clone())
    }
}

/// One stream through a [`WorkerChain`]. Give it back by [`WorkerChain::close`]; dropping it only
/// leaks the guests' contexts until their VM is replaced.
pub struct ChainStream {
    pub(crate) shared: Rc<StreamShared>,
    pub(crate) seats: Box<[Seat]>,
    /// The request before each filter, and as it went upstream.
    pub(crate) request: Kept,
    /// The response before each filter (last filter first), and as it went downstream.
    pub(crate) response: Option<Kept>,
    /// What filters put into the empty body callbacks of the handshake; it goes before the next data.
    pub(crate) early: [Vec<u8>; 2],
}

/// A stream's place in one filter's VM.
#[derive(Default)]
pub(crate) struct Seat {
    /// Which VM of the filter: each replacement counts one up. 0 is none.
    pub(crate) life: u32,
    pub(crate) context: u32,
    /// Bytes held back by a filter that answered Pause, by direction.
    pub(crate) held: Option<Box<[Held; 2]>>,
}

#[derive(Default)]
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    /// Whether the filter is shown what it held (StopIterationAndBuffer) or only what is new (AndWatermark).
    pub(crate) shown: bool,
}

impl Seat {
    /// Shows a filter again what it held back, with what is new behind it.
    #[cold]
    pub(crate) fn show_held(&mut self, way: usize, data: &mut Vec<u8>) {
        let Some(ways) = self.held.as_mut() else { return };
        let Held { bytes, shown } = &mut ways[way];
        if *shown {
            bytes.append(data);
            std::mem::swap(bytes, data);
        }
    }
}

impl ChainStream {
    /// The stream's name in [`WorkerChain::take_closed`]; it stays the same over [`WorkerChain::reopen`].
    pub fn token(&self) -> StreamToken {
        self.shared.token
    }

    /// Counts up whenever a filter stores something on the stream.
    pub fn stored_version(&self) -> u32 {
        self.shared.stored_version.get()
    }

    /// What filters stored on the stream under paths that begin with this element (`proxy_set_property`): the rest
    /// of the path, and the value.
    pub fn stored(&self, first: &str) -> Vec<(String, Vec<u8>)> {
        let rest = |path: &[u8]| Some(str::from_utf8(path).ok()?.strip_prefix(first)?.strip_prefix('\0')?.to_owned());
        let stored = self.shared.stored.borrow();
        stored.iter().filter_map(|(path, value)| Some((rest(path)?, value.to_vec()))).collect()
    }
}

impl From<StreamEnd> for Opening {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::LocalResponse(response) => Opening::Refused(response),
            StreamEnd::Denied { filter, cause } => Opening::Failed { filter, cause },
            StreamEnd::ClosedByFilter { filter } => Opening::Failed { filter, cause: Cause::Closed },
        }
    }
}
