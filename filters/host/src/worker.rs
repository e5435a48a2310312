//! One thread's instance of a chain: a VM for each filter, made when first needed and replaced when
//! it fails, and the way of handshakes and bytes through them. Knows nothing of frames or sockets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chain::{Chain, ChainStream, Opening, Properties, Seat, StreamEnd, StreamToken};
use crate::error::Cause;
use crate::filter::OnFailure;
use crate::headers::Headers;
use crate::kept::Keeper;
use crate::slot::Slot;
use crate::state::{Asked, StreamShared, count};
use crate::vm::Vm;

/// How late a VM may learn of an item that another thread put into its shared queue.
const QUEUE_POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Request = 0,
    Response = 1,
}

/// What the next filter gets.
enum Step {
    On,
    /// Held back: no further filter sees anything of it.
    Stop,
}

/// One thread's instance of a [`Chain`].
pub struct WorkerChain {
    chain: Chain,
    slots: Box<[Slot]>,
    keeper: Keeper,
    closed: Vec<StreamToken>,
}

impl WorkerChain {
    pub(crate) fn new(chain: Chain) -> Self {
        WorkerChain {
            slots: chain.filters().iter().map(Slot::new).collect(),
            chain,
            keeper: Keeper::default(),
            closed: Vec::new(),
        }
    }

    /// The chain that this is an instance of.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A handshake: `on_context_create`, `on_request_headers` (not the end of the stream) and an empty
    /// `on_request_body`, filter by filter, as Envoy does for an upgrade. `request` leaves as the
    /// filters want it to go upstream.
    pub fn open(&mut self, request: &mut Headers, properties: Rc<dyn Properties>) -> Opening {
        self.open_as(StreamToken::next(), request, properties)
    }

    /// Takes over a stream of another generation's chain, from the handshake that it kept: the request
    /// as it first came, and the response if there was one. The old stream stays as it was: close it
    /// with its own chain. What the filters now make of the headers changes nothing any more, only
    /// their verdict counts.
    pub fn reopen(&mut self, old: &ChainStream) -> Opening {
        let mut request = old.request.view(0);
        let opening = self.open_as(old.token(), &mut request, old.shared.properties.clone());
        match (opening, &old.response) {
            (Opening::Stream(mut stream), Some(response)) => {
                match self.response_headers(&mut stream, &mut response.view(0)) {
                    Ok(()) => Opening::Stream(stream),
                    Err(end) => {
                        self.close(stream);
                        end.into()
                    }
                }
            }
            (opening, _) => opening,
        }
    }

    fn open_as(&mut self, token: StreamToken, request: &mut Headers, properties: Rc<dyn Properties>) -> Opening {
        let shared =
            Rc::new(StreamShared { token, properties, stored: RefCell::default(), stored_version: Cell::new(0) });
        let mut stream = ChainStream {
            shared,
            seats: self.slots.iter().map(|_| Seat::default()).collect(),
            request: Default::default(),
            response: None,
            early: Default::default(),
        };
        for slot in &self.slots {
            count(&slot.counters.streams_opened);
        }
        let entered = self.enter_all(&mut stream, request);
        stream.request = self.keeper.finish();
        let result = entered.and_then(|()| {
            let mut early = Vec::new();
            self.pass(&mut stream, Way::Request, &mut early)?;
            stream.early[Way::Request as usize] = early;
            Ok(())
        });
        match result {
            Ok(()) => Opening::Stream(stream),
            Err(end) => {
                self.close(stream);
                end.into()
            }
        }
    }

    fn enter_all(&mut self, stream: &mut ChainStream, request: &mut Headers) -> Result<(), StreamEnd> {
        self.keeper.begin();
        self.keeper.push(request);
        for index in 0..self.slots.len() {
            if self.slots[index].filter.inner.exports.sees_streams() {
                self.enter(index, stream, request)?;
            }
            self.keeper.push(request);
        }
        Ok(())
    }

    /// The stream's first callbacks in one filter.
    fn enter(&mut self, index: usize, stream: &mut ChainStream, request: &mut Headers) -> Result<(), StreamEnd> {
        let before = request.clone();
        let result = self.take_seat(index, stream).and_then(|()| {
            let slot = &mut self.slots[index];
            let vm = slot.vm.as_mut().ok_or(Cause::Start)?;
            vm.request_headers(stream.seats[index].context, request)
        });
        match result {
            Ok(status) => self.settle_headers(index, stream, status),
            Err(cause) => {
                *request = before;
                self.fail(index, cause)
            }
        }
    }

    /// Headers were judged: what was asked comes first, then a pause that nothing will end.
    fn settle_headers(&mut self, index: usize, stream: &ChainStream, status: u32) -> Result<(), StreamEnd> {
        self.settle_asked(index, stream)?;
        if status == 0 { Ok(()) } else { self.refuse(index, Cause::Paused) }
    }

    /// The server's answer to the handshake: `on_response_headers` and an empty `on_response_body`, last filter first.
    pub fn response_headers(&mut self, stream: &mut ChainStream, response: &mut Headers) -> Result<(), StreamEnd> {
        self.keeper.begin();
        self.keeper.push(response);
        for index in (0..self.slots.len()).rev() {
            if self.slots[index].filter.inner.exports.sees_streams() {
                self.respond(index, stream, response)?;
            }
            self.keeper.push(response);
        }
        stream.response = Some(self.keeper.finish());
        let mut early = Vec::new();
        self.pass(stream, Way::Response, &mut early)?;
        stream.early[Way::Response as usize] = early;
        Ok(())
    }

    fn respond(&mut self, index: usize, stream: &mut ChainStream, response: &mut Headers) -> Result<(), StreamEnd> {
        let before = response.clone();
        self.ensure_seat(index, stream)?;
        if stream.seats[index].life != self.slots[index].life {
            return Ok(()); // no VM, and its failure lets things pass
        }
        let slot = &mut self.slots[index];
        let Some(vm) = slot.vm.as_mut() else { return Ok(()) };
        match vm.response_headers(stream.seats[index].context, response) {
            Ok(status) => self.settle_headers(index, stream, status),
            Err(cause) => {
                *response = before;
                self.fail(index, cause)
            }
        }
    }

    /// Bytes from the client. `data` leaves as the filters want it to go on; it may be empty.
    pub fn request_data(&mut self, stream: &mut ChainStream, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        self.pass(stream, Way::Request, data)?;
        prepend_early(&mut stream.early[Way::Request as usize], data);
        Ok(())
    }

    /// Bytes from the server, last filter first. `data` leaves as the filters want it to go on; it may be empty.
    pub fn response_data(&mut self, stream: &mut ChainStream, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        self.pass(stream, Way::Response, data)?;
        prepend_early(&mut stream.early[Way::Response as usize], data);
        Ok(())
    }

    #[inline]
    fn pass(&mut self, stream: &mut ChainStream, way: Way, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        let count = self.slots.len();
        for place in 0..count {
            let index = if way == Way::Request { place } else { count - 1 - place };
            if let Step::Stop = self.judge(index, stream, way, data)? {
                break;
            }
        }
        Ok(())
    }

    #[inline]
    fn judge(
        &mut self,
        index: usize,
        stream: &mut ChainStream,
        way: Way,
        data: &mut Vec<u8>,
    ) -> Result<Step, StreamEnd> {
        let exports = &self.slots[index].filter.inner.exports;
        let interested = if way == Way::Request { exports.sees_request_body() } else { exports.sees_response_body() };
        if !interested {
            return Ok(Step::On);
        }
        let slot = &self.slots[index];
        if stream.seats[index].life != slot.life || slot.vm.is_none() {
            self.ensure_seat(index, stream)?;
        }
        let slot = &mut self.slots[index];
        let seat = &mut stream.seats[index];
        let Some(vm) = slot.vm.as_mut().filter(|_| seat.life == slot.life) else {
            return Ok(Step::On); // no VM, and its failure lets things pass
        };
        if seat.held.is_some() {
            seat.show_held(way as usize, data);
        }
        let result = if way == Way::Request {
            vm.request_body(seat.context, data)
        } else {
            vm.response_body(seat.context, data)
        };
        match result {
            Ok(0) if !vm.has_asked() && seat.held.is_none() => Ok(Step::On),
            Ok(status) => self.settle_body(index, stream, way, status, data),
            Err(cause) => self.fail(index, cause).map(|()| Step::On),
        }
    }

    /// The rare ends of a body callback: something was asked, or held back.
    #[cold]
    fn settle_body(
        &mut self,
        index: usize,
        stream: &mut ChainStream,
        way: Way,
        status: u32,
        data: &mut Vec<u8>,
    ) -> Result<Step, StreamEnd> {
        self.settle_asked(index, stream)?;
        let held_bytes_max = self.slots[index].filter.inner.limits.held_bytes_max;
        let seat = &mut stream.seats[index];
        let held = &mut seat.held.get_or_insert_default()[way as usize];
        let step = match status {
            0 => {
                held.bytes.append(data);
                std::mem::swap(&mut held.bytes, data);
                held.bytes = Vec::new();
                Step::On
            }
            1 | 2 => {
                held.bytes.append(data);
                held.shown = status == 1;
                Step::Stop
            }
            _ => {
                data.clear();
                Step::Stop
            }
        };
        let held_bytes = held.bytes.len();
        if seat.held.as_ref().is_some_and(|ways| ways.iter().all(|held| held.bytes.is_empty())) {
            seat.held = None;
        }
        if held_bytes > held_bytes_max {
            return self.refuse(index, Cause::Held).map(|()| Step::Stop);
        }
        Ok(step)
    }

    /// The stream is over: `on_log`, `on_done`, `on_delete`.
    pub fn close(&mut self, stream: ChainStream) {
        let (mut request, mut response) = (None, None);
        for (slot, seat) in self.slots.iter_mut().zip(&stream.seats) {
            count(&slot.counters.streams_closed);
            let Some(vm) = slot.vm.as_mut().filter(|_| seat.life == slot.life) else { continue };
            let request = &*request.get_or_insert_with(|| stream.request.last());
            let response =
                &*response.get_or_insert_with(|| stream.response.as_ref().map(|kept| kept.last()).unwrap_or_default());
            if vm.end_context(seat.context, request, response).is_err() {
                slot.lose_vm();
            }
        }
        self.settle_others(None);
    }

    /// Runs what is due: ticks, and notices of shared queues.
    pub fn tick(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if let Some(vm) = slot.vm.as_mut()
                && vm.tick(now).is_err()
            {
                slot.lose_vm();
            }
        }
        self.settle_others(None);
    }

    /// When [`WorkerChain::tick`] is next wanted.
    pub fn next_tick(&self) -> Option<Instant> {
        let vms = || self.slots.iter().filter_map(|slot| slot.vm.as_ref());
        let tick = vms().filter_map(Vm::next_tick).min();
        let poll = vms().any(Vm::waits_for_queues).then(|| Instant::now() + QUEUE_POLL);
        tick.into_iter().chain(poll).min()
    }

    /// Streams that a filter closed outside their own callbacks. Close them.
    pub fn take_closed(&mut self) -> Vec<StreamToken> {
        std::mem::take(&mut self.closed)
    }

    /// VMs alive in this thread.
    pub fn vms(&self) -> usize {
        self.slots.iter().filter(|slot| slot.vm.is_some()).count()
    }

    /// A context of the stream in the filter's present VM, which is made if there is none.
    fn take_seat(&mut self, index: usize, stream: &mut ChainStream) -> Result<(), Cause> {
        let slot = &mut self.slots[index];
        let vm = slot.vm()?;
        let context = vm.create_context(stream.shared.clone())?;
        stream.seats[index] = Seat { life: slot.life, context, held: None };
        Ok(())
    }

    /// Takes the stream's seat again if its VM was lost: the handshake is replayed, and only its verdict counts.
    #[cold]
    fn ensure_seat(&mut self, index: usize, stream: &mut ChainStream) -> Result<(), StreamEnd> {
        if stream.seats[index].life == self.slots[index].life && self.slots[index].vm.is_some() {
            return Ok(());
        }
        match self.replay(index, stream) {
            Ok(status) => {
                count(&self.slots[index].counters.reattached);
                self.settle_headers(index, stream, status)
            }
            Err(cause) => self.fail(index, cause),
        }
    }

    fn replay(&mut self, index: usize, stream: &mut ChainStream) -> Result<u32, Cause> {
        self.take_seat(index, stream)?;
        let last = self.slots.len() - 1;
        let slot = &mut self.slots[index];
        let vm = slot.vm.as_mut().ok_or(Cause::Start)?;
        let context = stream.seats[index].context;
        let mut status = vm.request_headers(context, &mut stream.request.view(index))?;
        // What a filter injects into a replay was injected the first time already.
        vm.request_body(context, &mut Vec::new())?;
        if let Some(response) = &stream.response {
            status |= vm.response_headers(context, &mut response.view(last - index))?;
            vm.response_body(context, &mut Vec::new())?;
        }
        Ok(status)
    }

    /// The filter failed: its VM goes, and the verdict is what `on_failure` says.
    #[cold]
    fn fail(&mut self, index: usize, cause: Cause) -> Result<(), StreamEnd> {
        if cause != Cause::Resting {
            self.slots[index].lose_vm();
        }
        self.refuse(index, cause)
    }

    /// No verdict: what `on_failure` says.
    fn refuse(&mut self, index: usize, cause: Cause) -> Result<(), StreamEnd> {
        let slot = &self.slots[index];
        match slot.filter.on_failure() {
            OnFailure::Deny => {
                count(&slot.counters.denied);
                Err(StreamEnd::Denied { filter: slot.filter.name().clone(), cause })
            }
            OnFailure::Allow => {
                count(&slot.counters.passed_unjudged);
                Ok(())
            }
        }
    }

    /// What a callback of `stream` asked for it; what it asked for others is noted.
    fn settle_asked(&mut self, index: usize, stream: &ChainStream) -> Result<(), StreamEnd> {
        let slot = &mut self.slots[index];
        if !slot.vm.as_ref().is_some_and(Vm::has_asked) {
            return Ok(());
        }
        match self.settle_others(Some((index, stream.seats[index].context))) {
            Some(Asked::Respond(response)) => Err(StreamEnd::LocalResponse(*response)),
            Some(Asked::Close) => Err(StreamEnd::ClosedByFilter { filter: self.slots[index].filter.name().clone() }),
            None => Ok(()),
        }
    }

    /// Notes the streams that filters closed; gives back what was asked for `own`.
    fn settle_others(&mut self, own: Option<(usize, u32)>) -> Option<Asked> {
        let mut found = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(vm) = slot.vm.as_mut().filter(|vm| vm.has_asked()) else { continue };
            for (stream, context, asked) in vm.take_asked() {
                if own == Some((index, context)) {
                    found = Some(asked);
                } else if !self.closed.contains(&stream.token) {
                    // After the 101 a local response can only close, in Envoy too.
                    self.closed.push(stream.token);
                }
            }
        }
        found
    }
}

impl Drop for WorkerChain {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if let Some(vm) = slot.vm.take() {
                vm.shut_down();
            }
        }
    }
}

#[inline]
fn prepend_early(early: &mut Vec<u8>, data: &mut Vec<u8>) {
    if !early.is_empty() {
        early.append(data);
        std::mem::swap(early, data);
        *early = Vec::new();
    }
}
