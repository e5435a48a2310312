//! One filter's place on one thread: its VM, replaced when it fails, and the streams' way back into a new one.
//!
//! A VM that failed is thrown away at once. The first failure costs nothing more; repeated ones back off, so
//! that a module that dies on every message does not spend the thread on being born again.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chain::{StreamEnd, StreamToken};
use crate::error::Cause;
use crate::filter::FilterInner;
use crate::headers::Headers;
use crate::state::{Asked, Original, Shard, StreamShared, count};
use crate::stream::{Direction, Kept, Seat};
use crate::vm::{Action, Vm};

/// First rest; doubled with each further failure in a row.
const REST_MIN: Duration = Duration::from_millis(10);
/// Longest rest, and how long without a failure makes a clean record.
const REST_MAX: Duration = Duration::from_secs(10);

/// No verdict was given, for this cause.
pub(crate) struct Failure(pub(crate) Cause);

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Failure(cause)
    }
}

pub(crate) struct Slot {
    filter: Arc<FilterInner>,
    shard: Arc<Shard>,
    vm: Option<Vm>,
    /// Counts VMs, from 1: a seat of an earlier one is void.
    incarnation: u32,
    failures: u32,
    failed_at: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Slot {
    pub(crate) fn new(filter: Arc<FilterInner>) -> Self {
        let shard = filter.shard();
        Slot { filter, shard, vm: None, incarnation: 0, failures: 0, failed_at: None, rests_until: None }
    }

    pub(crate) fn filter(&self) -> &FilterInner {
        &self.filter
    }

    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The VM, made if there is none and the filter does not rest.
    fn vm(&mut self) -> Result<&mut Vm, Failure> {
        if self.vm.is_none() {
            if self.rests_until.is_some_and(|until| Instant::now() < until) {
                return Err(Failure(Cause::Resting));
            }
            match Vm::start(&self.filter, self.shard.clone()) {
                Ok(vm) => {
                    self.vm = Some(vm);
                    self.incarnation = self.incarnation.wrapping_add(1).max(1);
                }
                Err(error) => {
                    tracing::error!(filter = &*self.filter.name, %error, "no new VM");
                    self.failed();
                    return Err(Failure(Cause::Start));
                }
            }
        }
        self.vm.as_mut().ok_or(Failure(Cause::Start))
    }

    /// Throws the VM away and counts.
    fn failed(&mut self) {
        self.vm = None;
        let now = Instant::now();
        if self.failed_at.is_some_and(|at| now.duration_since(at) > REST_MAX) {
            self.failures = 0;
        }
        self.failed_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        // The first failure rests not at all: other streams go on in a new VM.
        self.rests_until =
            (self.failures > 1).then(|| now + REST_MIN.saturating_mul(1 << (self.failures - 2).min(16)).min(REST_MAX));
    }

    /// Runs `work` on the VM; a failure throws the VM away.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Vm) -> Result<T, Cause>) -> Result<T, Failure> {
        let result = work(self.vm()?);
        result.map_err(|cause| {
            self.failed();
            Failure(cause)
        })
    }

    /// A new stream: a context, and the request's head.
    pub(crate) fn join(
        &mut self,
        seat: &mut Seat,
        shared: &Rc<StreamShared>,
        request: &mut Headers,
    ) -> Result<Action, Failure> {
        let shared = shared.clone();
        let before = request.clone();
        let taken = std::mem::take(request);
        let result = self.guarded(|vm| {
            let state = vm.store.data_mut();
            let context = state.add_context(shared);
            state.request = taken;
            vm.create_context(context)?;
            Ok((context, vm.request_headers(context)?))
        });
        match result {
            Ok((context, action)) => {
                (seat.context, seat.incarnation) = (context, self.incarnation);
                if let Some(vm) = &mut self.vm {
                    *request = std::mem::take(&mut vm.store.data_mut().request);
                }
                self.unpaused(action)
            }
            Err(failure) => {
                *request = before;
                Err(failure)
            }
        }
    }

    /// A head that nothing will resume, unless the filter answered it.
    fn unpaused(&self, action: Action) -> Result<Action, Failure> {
        if action == Action::Pause && !self.has_asks() { Err(Failure(Cause::Paused)) } else { Ok(action) }
    }

    pub(crate) fn response_head(&mut self, seat: &Seat, response: &mut Headers) -> Result<Action, Failure> {
        let before = response.clone();
        let taken = std::mem::take(response);
        let context = seat.context;
        let result = self.guarded(|vm| {
            vm.store.data_mut().response = taken;
            vm.response_headers(context)
        });
        match result {
            Ok(action) => {
                if let Some(vm) = &mut self.vm {
                    *response = std::mem::take(&mut vm.store.data_mut().response);
                }
                self.unpaused(action)
            }
            Err(failure) => {
                *response = before;
                Err(failure)
            }
        }
    }

    /// Makes sure that the stream has a context in the VM that lives now: after a failure it gets a new one,
    /// from the handshake that it kept. `under_way`: the part of the handshake that is not behind it yet.
    #[inline]
    pub(crate) fn seated(
        &mut self,
        seat: &mut Seat,
        shared: &Rc<StreamShared>,
        kept: &Kept,
        under_way: Direction,
    ) -> Result<(), Failure> {
        if self.vm.is_some() && seat.incarnation == self.incarnation && seat.context != 0 {
            return Ok(());
        }
        self.reseat(seat, shared, kept, under_way)
    }

    #[cold]
    fn reseat(
        &mut self,
        seat: &mut Seat,
        shared: &Rc<StreamShared>,
        kept: &Kept,
        under_way: Direction,
    ) -> Result<(), Failure> {
        seat.held = None;
        let mut request = kept.request();
        self.join(seat, shared, &mut request)?;
        self.empty_body(seat, Direction::Request)?;
        if under_way == Direction::Response
            && let Some(mut response) = kept.response()
        {
            self.response_head(seat, &mut response)?;
            self.empty_body(seat, Direction::Response)?;
        }
        count(&self.shard.reattached);
        Ok(())
    }

    fn empty_body(&mut self, seat: &Seat, direction: Direction) -> Result<(), Failure> {
        let context = seat.context;
        self.guarded(|vm| {
            let state = vm.store.data_mut();
            state.body.clear();
            state.original = Original::Same;
            match direction {
                Direction::Request => vm.request_body(context),
                Direction::Response => vm.response_body(context),
            }
        })?;
        if let Some(vm) = &mut self.vm {
            vm.store.data_mut().body.clear();
        }
        Ok(())
    }

    /// One body callback: `data` goes in and comes out as the filter wants it.
    #[inline]
    pub(crate) fn body(
        &mut self,
        seat: &mut Seat,
        shared: &Rc<StreamShared>,
        kept: &Kept,
        direction: Direction,
        data: &mut Vec<u8>,
    ) -> Result<Action, Failure> {
        // The whole handshake is replayed, the response too once it is known: bytes follow both.
        self.seated(seat, shared, kept, Direction::Response)?;
        if seat.held.is_some() {
            let held = seat.held(direction);
            if !held.is_empty() {
                held.append(data);
                std::mem::swap(held, data);
            }
        }
        let Some(vm) = &mut self.vm else { return Err(Failure(Cause::Start)) };
        let judges = match direction {
            Direction::Request => vm.judges_requests(),
            Direction::Response => vm.judges_responses(),
        };
        if !judges {
            return Ok(Action::Continue);
        }
        let state = vm.store.data_mut();
        std::mem::swap(&mut state.body, data);
        state.original = Original::Same;
        let result = match direction {
            Direction::Request => vm.request_body(seat.context),
            Direction::Response => vm.response_body(seat.context),
        };
        let state = vm.store.data_mut();
        if result.is_err() {
            state.restore_body();
        }
        std::mem::swap(&mut state.body, data);
        match result {
            Ok(Action::Continue) => Ok(Action::Continue),
            Ok(Action::Pause) => {
                let held = seat.held(direction);
                std::mem::swap(held, data);
                data.clear();
                if held.len() > self.filter.limits.held_bytes_max {
                    held.clear();
                    return Err(Failure(Cause::Held));
                }
                Ok(Action::Pause)
            }
            Err(cause) => {
                self.failed();
                Err(Failure(cause))
            }
        }
    }

    /// The stream ends. A guest that fails at this loses its VM; the stream is over all the same.
    pub(crate) fn leave(&mut self, seat: &Seat) {
        let Some(vm) = &mut self.vm else { return };
        if seat.context != 0 && seat.incarnation == self.incarnation && vm.end_context(seat.context).is_err() {
            self.failed();
        }
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        let Some(vm) = &mut self.vm else { return };
        let state = vm.store.data_mut();
        let mut result = Ok(());
        if state.next_tick.is_some_and(|due| due <= now) {
            // From now, not from when it was due: a thread that was late does not run ticks in a burst.
            state.next_tick = state.tick_period.map(|period| now + period);
            result = vm.tick();
        }
        if result.is_ok() && vm.store.data().mailbox.has_mail() {
            let mailbox = vm.store.data().mailbox.clone();
            result = mailbox.take().into_iter().try_for_each(|token| vm.queue_ready(token));
        }
        if result.is_err() {
            self.failed();
        }
    }

    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let state = self.vm.as_ref()?.store.data();
        if !state.mailbox.in_use() {
            return state.next_tick;
        }
        // Another thread may have put something in a queue; nothing wakes this one, so it looks.
        let look = Instant::now() + if state.mailbox.has_mail() { Duration::ZERO } else { REST_MIN };
        Some(state.next_tick.map_or(look, |due| due.min(look)))
    }

    #[inline]
    pub(crate) fn has_asks(&self) -> bool {
        self.vm.as_ref().is_some_and(|vm| !vm.store.data().asked.is_empty())
    }

    /// What the guest asked meanwhile: for stream `own` it is returned, for others their tokens go to `closed`.
    pub(crate) fn asked_of_others(&mut self, own: u32, closed: &mut VecDeque<StreamToken>) -> Option<StreamEnd> {
        let vm = self.vm.as_mut()?;
        let state = vm.store.data_mut();
        let mut answer = None;
        for (context, asked) in std::mem::take(&mut state.asked) {
            if context == own {
                answer = Some(match asked {
                    Asked::Close => StreamEnd::ClosedByFilter { filter: self.filter.name.clone() },
                    Asked::Respond(response) => StreamEnd::LocalResponse(*response),
                });
            } else if let Some(stream) = state.contexts.get(&context) {
                closed.push_back(stream.token);
            }
        }
        answer
    }
}
