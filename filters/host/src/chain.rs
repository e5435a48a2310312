//! Filters in order, the streams that pass through them, and what can become of a stream.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::callouts::{Callouts, NoCallouts};
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

/// Which way something travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Request = 0,
    /// From the server to the client.
    Response = 1,
}

impl Way {
    /// The filter at a position on this way: requests meet filters in order, responses in the reverse.
    /// It is its own inverse.
    pub(crate) fn turn(self, position: usize, filters: usize) -> usize {
        if self == Way::Request { position } else { filters - 1 - position }
    }
}

/// A piece of a request or a response. One that `ends` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The head, with its pseudo-headers.
    Headers {
        /// The header map.
        headers: Headers,
        /// Nothing follows.
        ends: bool,
    },
    /// Some of the body; may be empty.
    Data {
        /// The bytes.
        data: Vec<u8>,
        /// Nothing follows.
        ends: bool,
    },
    /// The trailers; nothing follows.
    Trailers(Headers),
}

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A request and its response. A filter that loses its VM meanwhile gives no verdict on it.
    Http,
    /// A handshake, and bytes both ways after its 101. A filter that loses its VM gets the stream back
    /// by a replay of the handshake.
    Upgrade,
}

impl LocalResponse {
    /// The response as Envoy makes it: a gRPC request gets the status in its way, others get text.
    pub(crate) fn parts(&self, request: &Headers) -> Vec<Part> {
        let mut headers = Headers::new();
        headers.add(":status", self.status.to_string());
        for (name, value) in self.headers.iter() {
            headers.add(name, value);
        }
        if request.get("content-type").is_some_and(is_grpc) {
            headers.set(":status", "200");
            headers.set("content-type", "application/grpc");
            let status = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
            headers.set("grpc-status", status.to_string());
            if !self.body.is_empty() {
                headers.set("grpc-message", percent_encoded(&self.body));
            }
            return vec![Part::Headers { headers, ends: true }];
        }
        if self.body.is_empty() {
            headers.remove("content-length");
            headers.remove("content-type");
            return vec![Part::Headers { headers, ends: true }];
        }
        headers.set("content-length", self.body.len().to_string());
        if headers.get("content-type").is_none() {
            headers.add("content-type", "text/plain");
        }
        if request.get(":method") == Some("HEAD") {
            return vec![Part::Headers { headers, ends: true }];
        }
        vec![Part::Headers { headers, ends: false }, Part::Data { data: self.body.clone(), ends: true }]
    }
}

fn is_grpc(content_type: &str) -> bool {
    let rest = content_type.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

/// The gRPC status that stands for an HTTP status (gRPC's own table, `http-grpc-status-mapping.md`).
fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The encoding of `grpc-message`: printable ASCII but `%` as it is.
fn percent_encoded(text: &[u8]) -> String {
    text.iter().fold(String::new(), |mut to, byte| {
        match byte {
            b' '..=b'~' if *byte != b'%' => to.push(char::from(*byte)),
            _ => to.push_str(&format!("%{byte:02X}")),
        }
        to
    })
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

    /// This thread's VMs; each is made when the first stream needs it. No cluster is known to its filters.
    pub fn attach(&self) -> WorkerChain {
        self.attach_with(Rc::new(NoCallouts))
    }

    /// The same, with someone who carries the filters' calls to other services.
    pub fn attach_with(&self, callouts: Rc<dyn Callouts>) -> WorkerChain {
        WorkerChain::new(self.clone(), callouts)
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
    pub(crate) response: Kept,
    /// What filters put into the empty body callbacks of the handshake; it goes before the next data.
    pub(crate) early: [Vec<u8>; 2],
    pub(crate) kind: StreamKind,
    pub(crate) response_seen: bool,
    pub(crate) response_out: bool,
}

/// A stream's place in one filter's VM.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seat {
    /// Which VM of the filter: each replacement counts one up. 0 is none.
    pub(crate) life: u32,
    pub(crate) context: u32,
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

    /// The answer of a filter in the server's place: its details are for logs, what the client gets comes
    /// out of [`WorkerChain::pull`]. The request then goes nowhere.
    pub fn answered(&self) -> Option<LocalResponse> {
        self.shared.flow.borrow().as_ref().and_then(|flow| flow.answer.as_deref().cloned())
    }

    /// Whether a filter holds back something of this direction.
    pub fn is_waiting(&self, way: Way) -> bool {
        let flow = self.shared.flow.borrow();
        flow.as_ref().is_some_and(|flow| flow.ways[way as usize].places.iter().any(|place| !place.is_idle()))
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
