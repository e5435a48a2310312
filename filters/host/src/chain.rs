//! Filters in order, and the streams that pass through them.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::error::Cause;
use crate::filter::{Filter, OnFailure};
use crate::headers::Headers;
use crate::slot::{Failure, Slot};
use crate::state::{StreamShared, count};
use crate::stream::{Direction, Kept, Seat};
use crate::vm::Action;

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

impl StreamToken {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        StreamToken(LAST.fetch_add(1, Ordering::Relaxed))
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
        let slots = self.filters.iter().map(|filter| Slot::new(filter.inner.clone())).collect();
        WorkerChain { chain: self.clone(), slots, closed: VecDeque::new() }
    }
}

/// One thread's instance of a [`Chain`].
pub struct WorkerChain {
    chain: Chain,
    slots: Vec<Slot>,
    closed: VecDeque<StreamToken>,
}

/// One stream through a [`WorkerChain`]. Give it back by [`WorkerChain::close`]; dropping it only
/// leaks the guests' contexts until their VM is replaced.
pub struct ChainStream {
    shared: Rc<StreamShared>,
    kept: Kept,
    seats: Box<[Seat]>,
}

impl ChainStream {
    /// The stream's name in [`WorkerChain::take_closed`].
    pub fn token(&self) -> StreamToken {
        self.shared.token
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
        let shared = StreamShared { token: StreamToken::next(), properties, stored: Default::default() };
        let seats = self.slots.iter().map(|_| Seat::default()).collect();
        self.handshake(ChainStream { shared: Rc::new(shared), kept: Kept::new(request), seats }, request)
    }

    /// Takes over a stream of another generation's chain, from the handshake that it kept. The old
    /// stream stays as it was: close it with its own chain.
    pub fn reopen(&mut self, old: &ChainStream) -> Opening {
        let mut request = old.kept.request();
        let mut opening = self.open(&mut request, old.shared.properties.clone());
        if let (Opening::Stream(stream), Some(mut response)) = (&mut opening, old.kept.response())
            && let Err(end) = self.response_headers(stream, &mut response)
        {
            let refused = match end {
                StreamEnd::Denied { filter, cause } => Opening::Failed { filter, cause },
                StreamEnd::ClosedByFilter { filter } => Opening::Failed { filter, cause: Cause::Closed },
                StreamEnd::LocalResponse(response) => Opening::Refused(response),
            };
            if let Opening::Stream(stream) = std::mem::replace(&mut opening, refused) {
                self.close(stream);
            }
        }
        opening
    }

    fn handshake(&mut self, mut stream: ChainStream, request: &mut Headers) -> Opening {
        let result = self.each_request_head(&mut stream, request);
        let end = match result.and_then(|()| self.request_data(&mut stream, &mut Vec::new())) {
            Ok(()) => return Opening::Stream(stream),
            Err(end) => end,
        };
        self.close(stream);
        match end {
            StreamEnd::Denied { filter, cause } => Opening::Failed { filter, cause },
            StreamEnd::ClosedByFilter { filter } => Opening::Failed { filter, cause: Cause::Closed },
            StreamEnd::LocalResponse(response) => Opening::Refused(response),
        }
    }

    fn each_request_head(&mut self, stream: &mut ChainStream, request: &mut Headers) -> Result<(), StreamEnd> {
        for (slot, seat) in self.slots.iter_mut().zip(&mut stream.seats) {
            let result = slot.join(seat, &stream.shared, request);
            settle(slot, seat, result, &mut self.closed)?;
        }
        Ok(())
    }

    /// The server's answer to the handshake: `on_response_headers` and an empty `on_response_body`, last filter first.
    pub fn response_headers(&mut self, stream: &mut ChainStream, response: &mut Headers) -> Result<(), StreamEnd> {
        stream.kept.keep_response(response);
        for (slot, seat) in self.slots.iter_mut().zip(&mut stream.seats).rev() {
            let result = slot.seated(seat, &stream.shared, &stream.kept, Direction::Request);
            let result = result.and_then(|()| slot.response_head(seat, response));
            settle(slot, seat, result, &mut self.closed)?;
        }
        self.response_data(stream, &mut Vec::new())
    }

    /// Bytes from the client. `data` leaves as the filters want it to go on; it may be empty.
    pub fn request_data(&mut self, stream: &mut ChainStream, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        for (slot, seat) in self.slots.iter_mut().zip(&mut stream.seats) {
            let result = slot.body(seat, &stream.shared, &stream.kept, Direction::Request, data);
            settle(slot, seat, result, &mut self.closed)?;
        }
        Ok(())
    }

    /// Bytes from the server, last filter first. `data` leaves as the filters want it to go on; it may be empty.
    pub fn response_data(&mut self, stream: &mut ChainStream, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        for (slot, seat) in self.slots.iter_mut().zip(&mut stream.seats).rev() {
            let result = slot.body(seat, &stream.shared, &stream.kept, Direction::Response, data);
            settle(slot, seat, result, &mut self.closed)?;
        }
        Ok(())
    }

    /// The stream is over: `on_log`, `on_done`, `on_delete`.
    pub fn close(&mut self, stream: ChainStream) {
        for (slot, seat) in self.slots.iter_mut().zip(&stream.seats) {
            slot.leave(seat);
            slot.asked_of_others(0, &mut self.closed);
        }
    }

    /// Runs what is due: ticks, and notices of shared queues.
    pub fn tick(&mut self, now: Instant) {
        for slot in &mut self.slots {
            slot.tick(now);
            slot.asked_of_others(0, &mut self.closed);
        }
    }

    /// When [`WorkerChain::tick`] is next wanted.
    pub fn next_tick(&self) -> Option<Instant> {
        self.slots.iter().filter_map(Slot::next_tick).min()
    }

    /// Streams that a filter closed outside their own callbacks. Close them.
    pub fn take_closed(&mut self) -> Vec<StreamToken> {
        self.closed.drain(..).collect()
    }
}

/// What a callback's outcome means for its stream.
#[inline]
fn settle(
    slot: &mut Slot,
    seat: &Seat,
    result: Result<Action, Failure>,
    closed: &mut VecDeque<StreamToken>,
) -> Result<(), StreamEnd> {
    match result {
        Ok(_) if !slot.has_asks() => Ok(()),
        Ok(_) => {
            let own = slot.asked_of_others(seat.context(), closed);
            own.map_or(Ok(()), Err)
        }
        Err(Failure(cause)) => {
            let filter = slot.filter();
            match filter.on_failure {
                OnFailure::Deny => {
                    count(&slot.shard().denied);
                    Err(StreamEnd::Denied { filter: filter.name.clone(), cause })
                }
                OnFailure::Allow => {
                    count(&slot.shard().passed_unjudged);
                    Ok(())
                }
            }
        }
    }
}
