//! What a VM's host functions can see and change while a callback runs: the store's data.
//! Knows the streams of its own VM by number only; who owns them is the worker chain's business.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wasmtime::{Memory, ResourceLimiter, TypedFunc, UpdateDeadline};

use crate::abi::log::LogGate;
use crate::abi::metrics::MetricTable;
use crate::callouts::{Callouts, Table, Told};
use crate::chain::{LocalResponse, Properties, StreamToken, Way};
use crate::filter::FilterInner;
use crate::flow::{Flow, Place};
use crate::headers::Headers;
use crate::shared::Mailbox;

/// The context that stands for the VM itself, before any plugin.
pub(crate) const VM_CONTEXT: u32 = 0;
/// The one root context of a VM: one filter has one VM a thread.
pub(crate) const ROOT_CONTEXT: u32 = 1;

/// What the guest is being asked, which decides what it may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing of a stream: ticks, queues, `on_vm_start`, contexts coming and going.
    Quiet,
    /// The plugin's configuration is readable.
    Configure,
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    /// `on_log`: headers are readable only.
    Log,
}

/// The callback under way. Copied around every call, so it stays small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) context: u32,
    /// 0, or the context chosen by `proxy_set_effective_context`.
    pub(crate) effective: u32,
    pub(crate) phase: Phase,
    /// After `proxy_continue_stream` Envoy takes the request's headers and body away.
    pub(crate) request_gone: bool,
    /// A body callback with nothing behind it: trailers may be added.
    pub(crate) ends: bool,
}

impl Call {
    pub(crate) const IDLE: Call = Call::new(VM_CONTEXT, Phase::Quiet);

    pub(crate) const fn new(context: u32, phase: Phase) -> Self {
        Call { context, effective: 0, phase, request_gone: false, ends: false }
    }

    /// The phase as seen from the effective context: another stream has nothing under way.
    pub(crate) fn effective_phase(&self) -> Phase {
        if self.effective == 0 || self.effective == self.context { self.phase } else { Phase::Quiet }
    }
}

/// What a guest asked to happen to a stream.
#[derive(Debug)]
pub(crate) enum Asked {
    Close,
    Respond(Box<LocalResponse>),
}

/// The part of a stream that every filter of its chain sees.
pub(crate) struct StreamShared {
    pub(crate) token: StreamToken,
    pub(crate) properties: Rc<dyn Properties>,
    /// `proxy_set_property`: raw path, value.
    pub(crate) stored: RefCell<Vec<(Box<[u8]>, Box<[u8]>)>>,
    /// Counts what filters stored: who reads it sees whether anything is new.
    pub(crate) stored_version: Cell<u32>,
    /// What stopped on its way; nothing for most streams.
    pub(crate) flow: RefCell<Option<Box<Flow>>>,
    /// What a filter (by its place) asked for the stream outside the stream's own callbacks.
    pub(crate) asked: RefCell<Option<(usize, Asked)>>,
}

impl StreamShared {
    pub(crate) fn new(token: StreamToken, properties: Rc<dyn Properties>) -> Rc<Self> {
        let (stored, stored_version, flow, asked) = Default::default();
        Rc::new(StreamShared { token, properties, stored, stored_version, flow, asked })
    }

    /// Runs `f` on where a filter stopped a direction, if it did.
    pub(crate) fn stopped<R>(&self, way: Way, place: usize, f: impl FnOnce(&mut Place) -> R) -> Option<R> {
        let mut flow = self.flow.borrow_mut();
        let place = flow.as_mut()?.place(way, place);
        (!place.is_idle()).then(|| f(place))
    }
}

/// What the body was before the guest touched it, so that a failure can put it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Original {
    /// Not touched.
    Same,
    /// Only appended to: the original is this many bytes long.
    Prefix(usize),
    /// Replaced: the original is in `spare`.
    Spare,
}

/// Whether what a VM did while it started can be had again from an image of its memory: nothing that it
/// learned (the time, randomness, shared data) or told others may be in it.
pub(crate) struct Starting {
    pub(crate) is_pure: bool,
}

impl Starting {
    #[inline]
    pub(crate) fn impure(&mut self) {
        self.is_pure = false;
    }
}

/// Where a VM lives: its filter's place in a worker chain, which life of that place it is, and who
/// carries its calls.
pub(crate) struct Home {
    pub(crate) place: usize,
    pub(crate) life: u32,
    pub(crate) callouts: Rc<dyn Callouts>,
}

impl Home {
    /// Not in any chain: lives of a place begin with 1.
    pub(crate) fn is_self_test(&self) -> bool {
        self.life == 0
    }
}

pub(crate) struct State {
    pub(crate) filter: Arc<FilterInner>,
    pub(crate) call: Call,
    pub(crate) limiter: Limiter,
    pub(crate) budget: Budget,
    pub(crate) memory: Option<Memory>,
    /// Taken while the guest's allocator runs, so that it can't be entered twice.
    pub(crate) malloc: Option<TypedFunc<u32, u32>>,
    pub(crate) body: Vec<u8>,
    pub(crate) spare: Vec<u8>,
    pub(crate) original: Original,
    pub(crate) request: Headers,
    pub(crate) response: Headers,
    /// Trailers under way, or those that a guest adds behind a body.
    pub(crate) trailers: Option<Headers>,
    /// The filter's place in its chain.
    pub(crate) place: usize,
    pub(crate) callouts: Table,
    /// What came of a call, while the guest is told of it.
    pub(crate) told: Option<Box<Told>>,
    /// `proxy_get_status`: how the last call ended.
    pub(crate) call_status: (u32, String),
    pub(crate) contexts: HashMap<u32, Rc<StreamShared>>,
    next_context: u32,
    /// At most one entry a context; empty nearly always.
    pub(crate) asked: Vec<(u32, Asked)>,
    /// Directions that go on after a pause.
    pub(crate) resumed: Vec<(u32, Way)>,
    pub(crate) tick_period: Option<Duration>,
    pub(crate) next_tick: Option<Instant>,
    pub(crate) starting: Starting,
    pub(crate) log: LogGate,
    pub(crate) metrics: MetricTable,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) counters: Arc<Shard>,
}

impl State {
    pub(crate) fn new(filter: Arc<FilterInner>, counters: Arc<Shard>, home: &Home) -> Self {
        let limits = &filter.limits;
        State {
            callouts: Table::new(home.callouts.clone(), home.place, home.life, limits.callouts_max),
            place: home.place,
            told: None,
            starting: Starting { is_pure: true },
            call_status: (0, String::new()),
            trailers: None,
            resumed: Vec::new(),
            limiter: Limiter { memory_bytes_max: limits.memory_bytes_max, bytes: 0, refused: false },
            budget: Budget::new(filter.start_ticks, filter.tick),
            log: LogGate::new(limits.log_lines_per_second_max),
            metrics: MetricTable::new(limits.metrics_max),
            filter,
            call: Call::IDLE,
            memory: None,
            malloc: None,
            body: Vec::new(),
            spare: Vec::new(),
            original: Original::Same,
            request: Headers::new(),
            response: Headers::new(),
            contexts: HashMap::new(),
            next_context: ROOT_CONTEXT + 1,
            asked: Vec::new(),
            tick_period: None,
            next_tick: None,
            mailbox: Arc::default(),
            counters,
        }
    }

    /// A number for a new stream context; never one in use.
    pub(crate) fn add_context(&mut self, stream: Rc<StreamShared>) -> u32 {
        loop {
            let id = self.next_context;
            self.next_context = self.next_context.checked_add(1).unwrap_or(ROOT_CONTEXT + 1);
            if let std::collections::hash_map::Entry::Vacant(place) = self.contexts.entry(id) {
                place.insert(stream);
                return id;
            }
        }
    }

    /// The context that host functions act on.
    pub(crate) fn effective_context(&self) -> u32 {
        match self.call.effective {
            0 => self.call.context,
            // The context may have gone meanwhile: Envoy falls back to the true one.
            id if id == ROOT_CONTEXT || self.contexts.contains_key(&id) => id,
            _ => self.call.context,
        }
    }

    pub(crate) fn effective_stream(&self) -> Option<Rc<StreamShared>> {
        self.contexts.get(&self.effective_context()).cloned()
    }

    /// Notes what the guest asked for a stream. The first answer wins, and an answer beats a close.
    pub(crate) fn ask(&mut self, context: u32, asked: Asked) {
        if !self.contexts.contains_key(&context) {
            return; // Envoy: a root context has no stream; the call is answered Ok and does nothing.
        }
        match self.asked.iter_mut().find(|(id, _)| *id == context) {
            Some((_, Asked::Respond(_))) => {}
            Some((_, close)) => *close = asked,
            None => self.asked.push((context, asked)),
        }
    }

    pub(crate) fn set_tick_period(&mut self, period: Option<Duration>) {
        self.tick_period = period;
        self.next_tick = period.map(|period| Instant::now() + period);
    }

    /// Notes that a direction of a stream goes on.
    pub(crate) fn resume(&mut self, context: u32, way: Way) {
        if self.contexts.contains_key(&context) && !self.resumed.contains(&(context, way)) {
            self.resumed.push((context, way));
        }
    }

    /// Puts the body back as it was before the callback that failed.
    pub(crate) fn restore_body(&mut self) {
        match self.original {
            Original::Same => {}
            Original::Prefix(len) => self.body.truncate(len),
            Original::Spare => std::mem::swap(&mut self.body, &mut self.spare),
        }
        self.original = Original::Same;
    }
}

/// The CPU budget of the callback under way. Ticks are wall-clock time, and on a busy machine a thread
/// may wait longer than it runs. So the first half of the budget is counted in ticks, which cost nothing;
/// a guest that is still running then must spend the other half on its thread's CPU clock before it is cut.
pub(crate) struct Budget {
    pub(crate) half_ticks: u64,
    tick: Duration,
    /// The CPU clock when the first half was over. Reset by each call.
    pub(crate) since: Option<Duration>,
}

impl Budget {
    pub(crate) fn new(ticks: u64, tick: Duration) -> Self {
        Budget { half_ticks: ticks.div_ceil(2), tick, since: None }
    }

    /// The deadline came: cut the guest, or let it run for some ticks more.
    #[cold]
    pub(crate) fn spent(&mut self) -> UpdateDeadline {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let now = Duration::new(clock.tv_sec as u64, clock.tv_nsec as u32);
        let Some(since) = self.since else {
            self.since = Some(now);
            return UpdateDeadline::Continue(self.half_ticks);
        };
        let allowed = self.tick.saturating_mul(u32::try_from(self.half_ticks).unwrap_or(u32::MAX));
        match allowed.checked_sub(now.saturating_sub(since) + self.tick) {
            Some(left) if !left.is_zero() => {
                UpdateDeadline::Continue(left.as_nanos().div_ceil(self.tick.as_nanos().max(1)) as u64)
            }
            _ => UpdateDeadline::Interrupt,
        }
    }
}

/// Linear memory and tables of one VM.
pub(crate) struct Limiter {
    memory_bytes_max: usize,
    pub(crate) bytes: usize,
    /// Whether the guest was refused memory in this call: tells a memory bomb from another trap.
    pub(crate) refused: bool,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let granted = desired <= self.memory_bytes_max && maximum.is_none_or(|max| desired <= max);
        if granted {
            self.bytes = desired;
        } else {
            self.refused = true;
        }
        Ok(granted)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= crate::limits::TABLE_ELEMENTS_MAX && maximum.is_none_or(|max| desired <= max))
    }
}

/// One thread's counters of one filter. A single writer, so a plain load and store suffice.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub(crate) calls: AtomicU64,
    pub(crate) traps: AtomicU64,
    pub(crate) budget_exceeded: AtomicU64,
    pub(crate) memory_exceeded: AtomicU64,
    pub(crate) passed_unjudged: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) vms_created: AtomicU64,
    pub(crate) vms_dropped: AtomicU64,
    pub(crate) reattached: AtomicU64,
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) callouts: AtomicU64,
    pub(crate) callouts_refused: AtomicU64,
    pub(crate) rests: AtomicU64,
    pub(crate) resting: AtomicU64,
    pub(crate) streams_opened: AtomicU64,
    pub(crate) streams_closed: AtomicU64,
}

/// Adds one to a counter that only this thread writes.
#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
