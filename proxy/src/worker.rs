//! Workers: one thread per core, each with its own runtime, sessions, hub, trunks and filter VMs. A session
//! never changes its worker, and workers share nothing on the message path.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bawaba_channels::close::CloseCode;
use bawaba_channels::reason::Reason;
use bytes::BytesMut;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::answer;
use crate::chain::RouteChain;
use crate::context::ConnectionContext;
use crate::counters::{Counted, Counters};
use crate::downstream::Downstream;
use crate::drain::Drain;
use crate::generation::{Generation, Target};
use crate::hub::{Hub, SeatKey};
use crate::jitter::Jitter;
use crate::limits::SessionPermit;
use crate::refusal::Refusal;
use crate::shared::{SessionPlace, Shared};
use crate::{relay, session, trunk};

mod chains;

use chains::Chains;

/// Handshakes that wait for one worker before it is full.
const HANDOFFS_MAX: usize = 1024;
/// Commands that wait for one worker.
const COMMANDS_MAX: usize = 1024;
/// How often a worker looks at the time limits of its sessions: each is kept to this much.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Stack of a worker: the filters' own stack is part of it.
const STACK_BYTES: usize = 4 << 20;

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
    /// The session's place among `limits.sessions_max`: held until the session ends.
    pub permit: SessionPermit,
    /// When the client began to ask, for `bawaba_connect_seconds`.
    pub begun_at: Instant,
}

/// What others ask of a worker.
pub enum Command {
    /// Close a session.
    Close {
        /// Its number.
        number: u64,
        /// With this code.
        code: CloseCode,
        /// And this reason, for people.
        reason: &'static str,
    },
    /// List open sessions, at most `max`.
    List {
        /// The most to list.
        max: usize,
        /// Takes the list.
        reply: oneshot::Sender<Vec<SessionSummary>>,
    },
}

/// A session as operators see it.
#[derive(Clone, Debug)]
pub struct SessionSummary {
    /// What is known of its connection.
    pub context: Arc<ConnectionContext>,
    /// Since when.
    pub opened_at: Instant,
}

/// All workers.
pub struct Workers {
    handles: Vec<Handle>,
}

struct Handle {
    handoffs: mpsc::Sender<Handoff>,
    commands: mpsc::Sender<Command>,
    sessions: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Workers {
    /// Starts the threads.
    pub fn start(shared: &Arc<Shared>) -> io::Result<Arc<Self>> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = match shared.config.edge.workers {
            0 => cores(),
            count => count,
        };
        let mut handles = Vec::with_capacity(count);
        let mut inboxes = Vec::with_capacity(count);
        for _ in 0..count {
            let (handoffs, handoffs_inbox) = mpsc::channel(HANDOFFS_MAX);
            let (commands, commands_inbox) = mpsc::channel(COMMANDS_MAX);
            let sessions = Arc::new(AtomicUsize::new(0));
            let counters = Arc::new(Counters::default());
            handles.push(Handle {
                handoffs,
                commands,
                sessions: Arc::clone(&sessions),
                counters: Arc::clone(&counters),
            });
            inboxes.push((handoffs_inbox, commands_inbox, sessions, counters));
        }
        let workers = Arc::new(Self { handles });
        for (index, (handoffs, commands, sessions, counters)) in inboxes.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, workers) = (Arc::clone(shared), Arc::clone(&workers));
            let inbox = Inbox { handoffs, commands };
            std::thread::Builder::new().name(format!("worker-{index}")).stack_size(STACK_BYTES).spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, async move {
                    let context = WorkerContext::new(index, shared, workers, sessions, counters);
                    run(context, inbox).await;
                });
            })?;
        }
        Ok(workers)
    }

    /// Hands a connection to the worker with the fewest sessions; given back when that one's queue is full.
    pub fn place(&self, handoff: Handoff) -> Result<(), Box<Handoff>> {
        let Some(handle) = self.handles.iter().min_by_key(|handle| handle.sessions.load(Ordering::Relaxed)) else {
            return Err(Box::new(handoff));
        };
        handle.sessions.fetch_add(1, Ordering::Relaxed);
        handle.handoffs.try_send(handoff).map_err(|error| {
            handle.sessions.fetch_sub(1, Ordering::Relaxed);
            Box::new(error.into_inner())
        })
    }

    /// Open sessions (and handshakes under way) of all workers.
    pub fn sessions(&self) -> usize {
        self.handles.iter().map(|handle| handle.sessions.load(Ordering::Relaxed)).sum()
    }

    /// What all workers counted so far.
    pub fn counted(&self) -> Counted {
        let mut sum = Counted::default();
        for handle in &self.handles {
            handle.counters.sum_into(&mut sum);
        }
        sum
    }

    /// At most `max` open sessions.
    pub async fn list(&self, max: usize) -> Vec<SessionSummary> {
        let mut all = Vec::new();
        for handle in &self.handles {
            let (reply, list) = oneshot::channel();
            if handle.commands.send(Command::List { max: max - all.len(), reply }).await.is_ok() {
                all.extend(list.await.unwrap_or_default());
            }
        }
        all
    }

    /// Asks a worker to close a session; nothing happens if it is gone, or if that worker has too much to do.
    pub fn close(&self, place: SessionPlace, code: CloseCode, reason: &'static str) {
        if let Some(handle) = self.handles.get(place.worker) {
            let command = Command::Close { number: place.number, code, reason };
            if handle.commands.try_send(command).is_err() {
                tracing::warn!(worker = place.worker, "commands overflow: a session was not closed");
            }
        }
    }
}

/// What everything on one worker can reach. Never leaves its thread.
pub struct WorkerContext {
    /// Which worker.
    pub index: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// All workers.
    pub workers: Arc<Workers>,
    /// Sessions of channel routes, and all that they follow.
    pub(crate) hub: RefCell<Hub>,
    /// Sessions of relay routes, by number.
    pub(crate) relays: RefCell<BTreeMap<u64, Rc<relay::Control>>>,
    /// Woken when a trunk brought phases of a market.
    pub(crate) markets_known: Notify,
    generation: RefCell<Arc<Generation>>,
    chains: RefCell<Chains>,
    sessions_count: Arc<AtomicUsize>,
    next_session: Cell<u64>,
}

/// What a worker is sent.
struct Inbox {
    handoffs: mpsc::Receiver<Handoff>,
    commands: mpsc::Receiver<Command>,
}

impl WorkerContext {
    fn new(
        index: usize,
        shared: Arc<Shared>,
        workers: Arc<Workers>,
        sessions_count: Arc<AtomicUsize>,
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        let generation = RefCell::new(shared.generation());
        let hub = RefCell::new(Hub::new(&shared, counters));
        Rc::new(Self {
            index,
            shared,
            workers,
            hub,
            relays: RefCell::default(),
            markets_known: Notify::new(),
            generation,
            chains: RefCell::default(),
            sessions_count,
            next_session: Cell::new(0),
        })
    }

    /// The chain that a session takes on a route, in the generation of this worker.
    pub fn chain(&self, route: &str, context: &ConnectionContext) -> Option<Rc<RouteChain>> {
        self.chains.borrow_mut().of(&self.generation.borrow(), route, context)
    }

    /// A number for a new session on this worker.
    pub fn next_session(&self) -> SessionPlace {
        self.next_session.set(self.next_session.get() + 1);
        SessionPlace { worker: self.index, number: self.next_session.get() }
    }

    /// Gives every new lane its task.
    pub(crate) fn start_trunks(self: &Rc<Self>) {
        let lanes = self.hub.borrow_mut().take_new_lanes();
        for lane in lanes {
            tokio::task::spawn_local(trunk::run(Rc::downgrade(self), lane));
        }
    }

    /// Moves a session that was opened under a generation that has ended meanwhile.
    pub(crate) fn settle_seat(&self, seat: SeatKey) {
        self.hub.borrow_mut().move_seats(Some(seat), |route, context| self.chain(route, context));
    }

    /// Moves this worker to the generation in force: changed routes get new chains, and their sessions with them.
    fn move_to_newest(&self) {
        let next = self.shared.generation();
        *self.generation.borrow_mut() = Arc::clone(&next);
        self.chains.borrow_mut().keep_those_of(&next);
        self.hub.borrow_mut().move_seats(None, |route, context| self.chain(route, context));
        self.hub.borrow_mut().close_route(|route| next.route(route).is_some());
        self.hub.borrow_mut().relane(&next);
        tracing::info!(worker = self.index, generation = next.number, "moved to the new generation");
    }

    fn sweep(&self) {
        let now = Instant::now();
        let chains = self.chains.borrow().all();
        let mut hub = self.hub.borrow_mut();
        for chain in &chains {
            match chain.route().target {
                Target::Channel(_) => hub.tick_chain(chain, now),
                Target::Relay { .. } => self.tick_relays(chain, now),
            }
        }
        hub.sweep(now);
        let unix = crate::hub::unix_now();
        for relay in self.relays.borrow().values() {
            relay.sweep(now, unix, &self.shared.config.timeouts);
        }
    }

    /// Runs the timers of a relay route's filters, and ends the sessions that they closed.
    fn tick_relays(&self, chain: &RouteChain, now: Instant) {
        for token in chain.tick(now) {
            for relay in self.relays.borrow().values().filter(|relay| relay.is(token)) {
                relay.close(CloseCode::POLICY, "a policy ended the session");
            }
        }
    }

    fn close_session(&self, number: u64, code: CloseCode, reason: &'static str) {
        if let Some(relay) = self.relays.borrow().get(&number) {
            return relay.close(code, reason);
        }
        self.hub.borrow_mut().close_number(number, code, reason);
    }

    fn list(&self, max: usize) -> Vec<SessionSummary> {
        let mut all = self.hub.borrow().list(max);
        let relays = self.relays.borrow();
        let left = max - all.len();
        all.extend(relays.values().take(left).map(|relay| relay.summary.clone()));
        all
    }

    fn begin_drain(&self, jitter: &mut Jitter) {
        if let Drain::Draining { window, .. } = *self.shared.drain.borrow() {
            self.hub.borrow_mut().drain(window, jitter);
            // What travels on a relay is not ours: no `drain` message, only the paced close.
            for relay in self.relays.borrow().values() {
                relay.close_at(Instant::now() + jitter.up_to(window * 4 / 5));
            }
        }
    }
}

/// A worker's life.
async fn run(context: Rc<WorkerContext>, mut inbox: Inbox) {
    let mut generations = context.shared.generations();
    let mut drain = context.shared.drain.subscribe();
    let mut jitter = Jitter::new();
    tokio::task::spawn_local(settle_in_time(Rc::clone(&context)));
    let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
    sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(handoff) = inbox.handoffs.recv() => {
                let context = Rc::clone(&context);
                tokio::task::spawn_local(async move {
                    serve(&context, handoff).await;
                    context.sessions_count.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(command) = inbox.commands.recv() => match command {
                Command::Close { number, code, reason } => context.close_session(number, code, reason),
                // Whoever asked may have gone.
                Command::List { max, reply } => drop(reply.send(context.list(max))),
            },
            Ok(()) = generations.changed() => context.move_to_newest(),
            Ok(()) = drain.changed() => context.begin_drain(&mut jitter),
            _ = sweeps.tick() => context.sweep(),
            else => return,
        }
    }
}

/// Sends conflated updates when they are due.
async fn settle_in_time(context: Rc<WorkerContext>) {
    let timer_set = Rc::clone(&context.hub.borrow().timer_set);
    loop {
        let next = context.hub.borrow().next_timer();
        match next {
            None => timer_set.notified().await,
            Some(at) => {
                tokio::select! {
                    () = timer_set.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => context.hub.borrow_mut().settle(Instant::now()),
                }
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn serve(context: &Rc<WorkerContext>, handoff: Handoff) {
    let reason = match context.chain(&handoff.context.route, &handoff.context) {
        _ if context.shared.is_draining() => Reason::EdgeDraining,
        Some(chain) => match chain.route().target {
            Target::Channel(_) => return session::serve(context, handoff, chain).await,
            Target::Relay { ref cluster, .. } => {
                let cluster = Arc::clone(cluster);
                return relay::serve(context, handoff, chain, cluster).await;
            }
        },
        None => Reason::EdgeNoEndpoint,
    };
    if let Err(error) = answer::answer(handoff.downstream, Refusal::new(reason).reply(), &handoff.accept).await {
        tracing::debug!(%error, "the client left before its answer");
    }
}
