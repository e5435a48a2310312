//! A seat: one session in the hub. What it follows, what waits for it, its stream through the chain, its socket.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{Decoder, Sender};
use bawaba_channels::log::Cursor;
use bawaba_channels::message::Assembler;
use bawaba_channels::wire::{Encoding, Update};
use slab::Slab;
use tokio::io::AsyncWrite;

use super::lane::LaneKey;
use crate::chain::{ChainStream, Facts, Headers, RouteChain};
use crate::context::ConnectionContext;
use crate::downstream::Stream;
use crate::grants::Grants;
use crate::outbox::Outbox;
use crate::shared::SessionPlace;
use crate::sticky::Places;

/// Names a seat for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatKey {
    pub(crate) index: usize,
    pub(crate) serial: u64,
}

/// What a session brings when it takes a seat: its handshake is done, its stream is open.
pub(crate) struct NewSeat {
    pub(crate) context: Arc<ConnectionContext>,
    pub(crate) place: SessionPlace,
    pub(crate) chain: Rc<RouteChain>,
    pub(crate) stream: ChainStream,
    pub(crate) facts: Rc<Facts>,
    pub(crate) encoding: Encoding,
    pub(crate) io: Stream,
    pub(crate) sticky: Places,
}

/// A session follows one source through one feed.
pub(crate) struct Follow {
    pub(crate) source: usize,
    pub(crate) feed: usize,
    /// Its place among the feed's followers.
    pub(crate) follower: usize,
    pub(crate) cursor: Cursor,
    /// The newest number and epoch that the session was sent.
    pub(crate) seq: u64,
    pub(crate) epoch: Rc<str>,
    /// It is in the seat's `ready` list.
    pub(crate) queued: bool,
    /// What it gets before it reads on in its feed.
    pub(crate) owed: Owed,
}

/// What a follow gets before it reads on in its feed: made when the socket has room for it, not before.
#[derive(Debug)]
pub(crate) enum Owed {
    /// Nothing: it reads on.
    Nothing,
    /// What stands, if that is what the server says next.
    First,
    /// What stands, as it begins.
    Snapshot,
    /// What stands, as one update that folds all that it has not read.
    Fold,
    /// Word of what it lost, then what stands.
    Gap,
    /// What it missed while it was away, newest first.
    Replay(Vec<Rc<Update>>),
}

/// A subscription as the client named it.
pub(crate) struct Subscription {
    /// The rate that it asked for.
    pub(crate) rate_ms: u32,
    /// Follows by symbol.
    pub(crate) slots: BTreeMap<Rc<str>, usize>,
    /// The private source, on private channels.
    pub(crate) private: Option<usize>,
    /// It was asked for as all symbols at once.
    pub(crate) all: bool,
}

/// A close that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    pub(crate) code: CloseCode,
    pub(crate) deadline: Instant,
    /// The client's Close frame came.
    pub(crate) peer_closed: bool,
}

/// See the module.
pub(crate) struct Seat {
    pub(crate) serial: u64,
    pub(crate) context: Arc<ConnectionContext>,
    pub(crate) place: SessionPlace,
    pub(crate) chain: Rc<RouteChain>,
    /// `None` only while it is being moved, or after a filter ended it.
    pub(crate) stream: Option<ChainStream>,
    pub(crate) facts: Rc<Facts>,
    /// What the filters asked for it.
    pub(crate) grants: Grants,
    /// The products that it uses.
    pub(crate) in_use: super::used::InUse,
    /// The screening lists that it was told of.
    pub(crate) lists: String,
    pub(crate) encoding: Encoding,
    pub(crate) cohort: usize,
    pub(crate) sticky: Places,
    pub(crate) lanes: Vec<LaneKey>,
    pub(crate) subscriptions: BTreeMap<Rc<str>, Subscription>,
    pub(crate) follows: Slab<Follow>,
    /// Follows with something to read.
    pub(crate) ready: Vec<usize>,
    /// About how much they have to read.
    pub(crate) backlog_bytes: usize,
    pub(crate) outbox: Outbox,
    pub(crate) io: Stream,
    pub(crate) decoder: Decoder,
    pub(crate) assembler: Assembler,
    /// The beginning of a frame whose end has not come.
    pub(crate) partial: Vec<u8>,
    pub(crate) waker: Option<Waker>,
    pub(crate) dirty: bool,
    /// The socket is full, and the session's task waits for it.
    pub(crate) blocked: bool,
    /// The socket is not read until the session has taken what waits for it; nobody but the writer can tell when.
    pub(crate) read_paused: bool,
    /// It reads slowly, and is at a slower rate for it.
    pub(crate) degraded: bool,
    /// How often that has happened: each time it stays so longer.
    pub(crate) degraded_times: u32,
    /// When its socket was last found full.
    pub(crate) blocked_at: Instant,
    /// `partial` holds whole frames, whose turn comes when what they ask for has room.
    pub(crate) held_back: bool,
    /// Weight of the requests that wait for an answer from a server.
    pub(crate) waiting: usize,
    pub(crate) malformed_in_a_row: u32,
    pub(crate) opened_at: Instant,
    pub(crate) heard_at: Instant,
    pub(crate) sent_at: Instant,
    pub(crate) pinged_at: Option<Instant>,
    pub(crate) close_at: Option<Instant>,
    pub(crate) closing: Option<Closing>,
}

impl Seat {
    pub(crate) fn new(new: NewSeat, serial: u64, cohort: usize, message_bytes_max: u32, now: Instant) -> Self {
        Self {
            serial,
            context: new.context,
            place: new.place,
            chain: new.chain,
            stream: Some(new.stream),
            facts: new.facts,
            grants: Grants::default(),
            in_use: super::used::InUse::new(),
            lists: String::new(),
            encoding: new.encoding,
            cohort,
            sticky: new.sticky,
            lanes: Vec::new(),
            subscriptions: BTreeMap::new(),
            follows: Slab::new(),
            ready: Vec::new(),
            backlog_bytes: 0,
            outbox: Outbox::default(),
            io: new.io,
            decoder: Decoder::new(Sender::Client, message_bytes_max),
            assembler: Assembler::new(),
            partial: Vec::new(),
            waker: None,
            dirty: false,
            blocked: false,
            read_paused: false,
            degraded: false,
            degraded_times: 0,
            blocked_at: now,
            held_back: false,
            waiting: 0,
            malformed_in_a_row: 0,
            opened_at: now,
            heard_at: now,
            sent_at: now,
            pinged_at: None,
            close_at: None,
            closing: None,
        }
    }

    /// The handshake as the client sent it.
    pub(crate) fn request(&self) -> Headers {
        self.facts.request()
    }

    /// Lets the session's task run.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Pushes out what a stream over TLS or HTTP/2 holds back.
    pub(crate) fn poll_io_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Boxed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// How many symbols it follows.
    pub(crate) fn symbols(&self) -> usize {
        self.follows.len()
    }
}
