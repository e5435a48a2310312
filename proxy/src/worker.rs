//! Workers: one thread per core, each with its own runtime, sessions, hub, trunks and filter VMs. A session
//! never changes its worker, and workers share nothing on the message path.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::reason::Reason;
use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::answer;
use crate::chain::RouteChain;
use crate::context::ConnectionContext;
use crate::downstream::Downstream;
use crate::generation::{Generation, Target};
use crate::shared::{SessionPlace, Shared};

/// Handshakes that wait for one worker before it is full.
const HANDOFFS_MAX: usize = 1024;
/// Commands that wait for one worker.
const COMMANDS_MAX: usize = 1024;

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
            handles.push(Handle { handoffs, commands, sessions: Arc::clone(&sessions) });
            inboxes.push((handoffs_inbox, commands_inbox, sessions));
        }
        let workers = Arc::new(Self { handles });
        for (index, (handoffs, commands, sessions)) in inboxes.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, workers) = (Arc::clone(shared), Arc::clone(&workers));
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, run(index, shared, workers, sessions, handoffs, commands));
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
    generation: RefCell<Arc<Generation>>,
    chains: RefCell<BTreeMap<String, Rc<RouteChain>>>,
    sessions_count: Arc<AtomicUsize>,
    next_session: Cell<u64>,
}

impl WorkerContext {
    /// The generation that this worker has moved to.
    pub fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.borrow())
    }

    /// The chain of a route, in that generation.
    pub fn chain(&self, route: &str) -> Option<Rc<RouteChain>> {
        if let Some(chain) = self.chains.borrow().get(route) {
            return Some(Rc::clone(chain));
        }
        let chain = RouteChain::attach(self.generation.borrow().route(route)?);
        self.chains.borrow_mut().insert(route.to_owned(), Rc::clone(&chain));
        Some(chain)
    }

    /// A number for a new session on this worker.
    pub fn next_session(&self) -> SessionPlace {
        self.next_session.set(self.next_session.get() + 1);
        SessionPlace { worker: self.index, number: self.next_session.get() }
    }
}

/// A worker's life.
async fn run(
    index: usize,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    sessions_count: Arc<AtomicUsize>,
    mut handoffs: mpsc::Receiver<Handoff>,
    mut commands: mpsc::Receiver<Command>,
) {
    let generation = RefCell::new(shared.generation());
    let context = Rc::new(WorkerContext {
        index,
        shared,
        workers,
        generation,
        chains: RefCell::default(),
        sessions_count,
        next_session: Cell::new(0),
    });
    let mut generations = context.shared.generations();
    loop {
        tokio::select! {
            Some(handoff) = handoffs.recv() => {
                let context = Rc::clone(&context);
                tokio::task::spawn_local(async move {
                    serve(&context, handoff).await;
                    context.sessions_count.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(command) = commands.recv() => match command {
                Command::Close { .. } => {}
                Command::List { reply, .. } => drop(reply.send(Vec::new())),
            },
            Ok(()) = generations.changed() => {
                *context.generation.borrow_mut() = context.shared.generation();
                context.chains.borrow_mut().clear();
            }
            else => return,
        }
    }
}

/// One connection, from its handshake to its end.
async fn serve(context: &Rc<WorkerContext>, handoff: Handoff) {
    let route = context.generation().route(&handoff.context.route).cloned();
    let refused = match route.as_deref().map(|route| &route.target) {
        // The sessions of both kinds of route come with their own stations.
        Some(Target::Channel(_) | Target::Relay { .. }) | None => Reason::EdgeNoEndpoint,
    };
    if let Err(error) = answer::answer(handoff.downstream, answer::refusal(refused), &handoff.accept).await {
        tracing::debug!(%error, "the client left before its answer");
    }
}
