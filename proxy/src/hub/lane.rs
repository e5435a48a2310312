//! A lane: the hub's side of one trunk. Which requests are on their way, which sources hang on it, what is to be
//! written. It outlives the endpoint that it is connected to.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bawaba_channels::frame::{self, Opcode};
use bawaba_channels::wire::{Encoding, Order, Request};
use bawaba_routing::Lease;
use tokio::sync::Notify;

use super::SeatKey;
use crate::cluster::{Cluster, Endpoint};
use crate::jitter::Jitter;

/// Requests under way on one trunk before orders are refused as `edge.overloaded`.
pub(crate) const IN_FLIGHT_MAX: usize = 8192;

/// Names a lane for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneKey {
    pub(crate) index: usize,
    pub(crate) serial: u64,
}

/// An order on its way to an exchange.
#[derive(Clone, Debug)]
pub(crate) struct InFlightOrder {
    /// Who gets the answer.
    pub(crate) seat: SeatKey,
    /// Under which id; `None` if the client did not ask for one.
    pub(crate) id: Option<u64>,
    /// The request, with its user.
    pub(crate) order: Order,
    /// When it is answered with an error.
    pub(crate) deadline: Instant,
}

/// Names a source for as long as the process lives: an answer may come when its place has been given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceRef {
    pub(crate) index: usize,
    pub(crate) serial: u64,
}

/// What an answer from the server will be about.
#[derive(Clone, Debug)]
pub(crate) enum InFlight {
    /// These sources were subscribed to.
    Subscribe(Vec<SourceRef>),
    /// A private source: for one pending subscription, or from where it stands for everyone who follows it.
    Private {
        /// The source.
        source: SourceRef,
        /// The pending subscription.
        joiner: Option<u64>,
    },
    /// What a pending subscription missed, which is no longer kept here.
    History(u64),
    /// All symbols were asked for, on behalf of a pending subscription.
    Wildcard(u64),
    /// An order.
    Order(Box<InFlightOrder>),
}

/// See the module.
pub(crate) struct Lane {
    pub(crate) serial: u64,
    pub(crate) cluster: Arc<Cluster>,
    /// Where it is connected, or is connecting.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) connected: bool,
    /// Every source that hangs on it.
    pub(crate) sources: Vec<usize>,
    /// Sources to subscribe to at the next write.
    pub(crate) wanted: Vec<usize>,
    pub(crate) in_flight: HashMap<u64, InFlight>,
    /// Orders that wait for a connection.
    pub(crate) resend: VecDeque<Box<InFlightOrder>>,
    /// Pending subscriptions to all symbols that wait for a connection.
    pub(crate) wildcards: Vec<u64>,
    pub(crate) out: Vec<u8>,
    pub(crate) last_used: Instant,
    /// Woken when there is something to write.
    pub(crate) work: Rc<Notify>,
    /// What its sessions count as on its endpoint.
    load: Option<Lease>,
    seats: u32,
    next_id: u64,
    jitter: Jitter,
}

impl Lane {
    pub(crate) fn new(serial: u64, cluster: Arc<Cluster>, endpoint: Option<Arc<Endpoint>>, now: Instant) -> Self {
        Self {
            serial,
            cluster,
            endpoint,
            connected: false,
            sources: Vec::new(),
            wanted: Vec::new(),
            in_flight: HashMap::new(),
            resend: VecDeque::new(),
            wildcards: Vec::new(),
            out: Vec::new(),
            last_used: now,
            work: Rc::new(Notify::new()),
            load: None,
            seats: 0,
            next_id: 1,
            jitter: Jitter::new(),
        }
    }

    /// One more session is served through it.
    pub(crate) fn sit(&mut self) {
        self.seats += 1;
        self.weigh();
    }

    /// One session fewer.
    pub(crate) fn stand(&mut self) {
        self.seats = self.seats.saturating_sub(1);
        self.weigh();
    }

    /// Connects elsewhere from now on, and its sessions count there.
    pub(crate) fn go_to(&mut self, endpoint: Option<Arc<Endpoint>>) {
        self.endpoint = endpoint;
        self.weigh();
    }

    fn weigh(&mut self) {
        // The new lease first, so that nobody sees its sessions nowhere.
        self.load = self.endpoint.as_ref().map(|endpoint| endpoint.carry(self.seats));
    }

    /// Appends a request; with an id of its own if an answer is awaited.
    pub(crate) fn send(&mut self, mut request: Request, awaited: Option<InFlight>) {
        let id = self.next_id;
        self.next_id += 1;
        request.set_id(Some(id));
        if let Some(awaited) = awaited {
            self.in_flight.insert(id, awaited);
        }
        let mut payload = Vec::with_capacity(128);
        request.encode(Encoding::Proto, &mut payload);
        let mask = self.jitter.mask();
        frame::encode(&mut self.out, true, Opcode::Binary, &payload, Some(mask));
        self.work.notify_one();
    }
}
