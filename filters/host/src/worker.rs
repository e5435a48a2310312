//! One thread's instance of a chain: a VM for each filter, made when first needed and replaced when
//! it fails, and the way of requests, responses and upgraded bytes through them. Knows nothing of
//! frames or sockets.

mod seats;
mod steps;
mod taps;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::callouts::{CalloutEvent, CalloutId, Callouts};
use crate::chain::{
    Chain, ChainStream, LocalResponse, Opening, Part, Properties, StreamEnd, StreamKind, StreamToken, Way,
};
use crate::error::Cause;
use crate::flow::Flow;
use crate::headers::Headers;
use crate::kept::Keeper;
use crate::slot::Slot;
use crate::state::{Asked, StreamShared, count};
use crate::vm::Vm;

/// How late a VM may learn of an item that another thread put into its shared queue.
const QUEUE_POLL: Duration = Duration::from_millis(20);

/// Why a part of a stream goes no further.
pub(crate) enum Halt {
    /// The stream ends.
    End(StreamEnd),
    /// A filter answered.
    Answer(Box<LocalResponse>),
}

impl From<StreamEnd> for Halt {
    fn from(end: StreamEnd) -> Self {
        Halt::End(end)
    }
}

/// After the head has gone out only a close is left of an answer.
impl From<Halt> for StreamEnd {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::End(end) => end,
            Halt::Answer(response) => StreamEnd::LocalResponse(*response),
        }
    }
}

/// One thread's instance of a [`Chain`].
pub struct WorkerChain {
    chain: Chain,
    slots: Box<[Slot]>,
    keeper: Keeper,
    closed: Vec<StreamToken>,
    woken: Vec<StreamToken>,
}

impl WorkerChain {
    pub(crate) fn new(chain: Chain, callouts: Rc<dyn Callouts>) -> Self {
        let slots = chain.filters().iter().enumerate();
        WorkerChain {
            slots: slots.map(|(place, filter)| Slot::new(filter, place, callouts.clone())).collect(),
            chain,
            keeper: Keeper::default(),
            closed: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// The chain that this is an instance of.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A handshake that is judged at once: `on_context_create`, `on_request_headers` (not the end of the
    /// stream) and an empty `on_request_body`, filter by filter, as Envoy does for an upgrade. `request`
    /// leaves as the filters want it to go upstream. A filter that pauses gives no verdict here: use
    /// [`WorkerChain::begin`] where filters may wait for calls to other services.
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
        match opening {
            Opening::Stream(mut stream) if !old.response.is_empty() => {
                match self.response_headers(&mut stream, &mut old.response.view(0)) {
                    Ok(()) => Opening::Stream(stream),
                    Err(end) => {
                        self.close(stream);
                        end.into()
                    }
                }
            }
            opening => opening,
        }
    }

    fn open_as(&mut self, token: StreamToken, request: &mut Headers, properties: Rc<dyn Properties>) -> Opening {
        let mut stream = self.begin_as(token, properties, StreamKind::Upgrade);
        let part = Part::Headers { headers: std::mem::take(request), ends: false };
        let result = self.advance(&mut stream, Way::Request, part);
        let end = match result {
            Ok(parts) => match self.opened(&mut stream, request, parts) {
                Ok(()) => return Opening::Stream(stream),
                Err(end) => end,
            },
            Err(Halt::Answer(response)) => self.refusal(&mut stream, response),
            Err(Halt::End(end)) => end,
        };
        *request = stream.request.last();
        self.close(stream);
        end.into()
    }

    /// The head as it goes upstream; a handshake that something holds back is refused.
    fn opened(&mut self, stream: &mut ChainStream, request: &mut Headers, parts: Vec<Part>) -> Result<(), StreamEnd> {
        for part in parts {
            match part {
                Part::Headers { headers, .. } => *request = headers,
                Part::Data { data, .. } => stream.early[Way::Request as usize].extend_from_slice(&data),
                Part::Trailers(_) => {}
            }
        }
        let paused = (0..self.slots.len()).find(|index| {
            stream.shared.stopped(Way::Request, *index, |place| place.head.is_some()).unwrap_or_default()
        });
        match paused {
            Some(index) => self.refuse(index, Cause::Paused),
            None => Ok(()),
        }
    }

    /// An answer to a handshake as the client gets it: the filters see it pass like any response.
    fn refusal(&mut self, stream: &mut ChainStream, response: Box<LocalResponse>) -> StreamEnd {
        let mut whole = response.clone();
        if let Err(end) = self.answer(stream, *response) {
            return end;
        }
        (whole.headers, whole.body) = Default::default();
        while let Some(part) = self.pull(stream, Way::Response) {
            match part {
                Part::Headers { headers, .. } => whole.headers = headers,
                Part::Data { data, .. } => whole.body.extend_from_slice(&data),
                Part::Trailers(_) => {}
            }
        }
        if let Some(status) = whole.headers.get(":status").and_then(|status| status.parse().ok()) {
            whole.status = status;
        }
        whole.headers.remove(":status");
        StreamEnd::LocalResponse(*whole)
    }

    /// A stream of which nothing came yet. What comes goes in by [`WorkerChain::push`] and out by
    /// [`WorkerChain::pull`].
    pub fn begin(&mut self, properties: Rc<dyn Properties>, kind: StreamKind) -> ChainStream {
        self.begin_as(StreamToken::next(), properties, kind)
    }

    fn begin_as(&mut self, token: StreamToken, properties: Rc<dyn Properties>, kind: StreamKind) -> ChainStream {
        for slot in &self.slots {
            count(&slot.counters.streams_opened);
        }
        ChainStream {
            shared: StreamShared::new(token, properties),
            seats: vec![Default::default(); self.slots.len()].into(),
            request: Default::default(),
            response: Default::default(),
            early: Default::default(),
            kind,
            response_seen: false,
            response_out: false,
        }
    }

    /// A part came. Afterwards take what passed, both ways: an answer of a filter comes out as a response,
    /// and [`ChainStream::answered`] then says so.
    pub fn push(&mut self, stream: &mut ChainStream, way: Way, part: Part) -> Result<(), StreamEnd> {
        if stream.answered().is_some() {
            return Ok(()); // nobody reads the request, nobody else may answer
        }
        match self.advance(stream, way, part) {
            Ok(parts) => {
                self.put_out(stream, way, parts);
                Ok(())
            }
            Err(Halt::Answer(response)) => self.answer(stream, *response),
            Err(Halt::End(end)) => Err(end),
        }
    }

    /// The next part that passed all filters on this way.
    pub fn pull(&mut self, stream: &mut ChainStream, way: Way) -> Option<Part> {
        let mut flow = stream.shared.flow.borrow_mut();
        flow.as_mut()?.ways[way as usize].out.pop_front()
    }

    /// Lets a stream go on that [`WorkerChain::take_woken`] named. Afterwards take what passed.
    pub fn wake(&mut self, stream: &mut ChainStream) -> Result<(), StreamEnd> {
        let asked = stream.shared.asked.borrow_mut().take();
        match asked {
            Some((index, Asked::Close)) => return Err(self.closed_by(index)),
            Some((_, Asked::Respond(response))) => return self.answer(stream, *response),
            None => {}
        }
        for way in [Way::Request, Way::Response] {
            match self.go_on(stream, way) {
                Ok(parts) => self.put_out(stream, way, parts),
                Err(Halt::Answer(response)) => return self.answer(stream, *response),
                Err(Halt::End(end)) => return Err(end),
            }
        }
        Ok(())
    }

    fn put_out(&mut self, stream: &mut ChainStream, way: Way, parts: Vec<Part>) {
        let mut flow = stream.shared.flow.borrow_mut();
        if !parts.is_empty() {
            let flow = flow.get_or_insert_with(|| Box::new(Flow::new(self.slots.len())));
            flow.ways[way as usize].out.extend(parts);
        }
        if flow.as_ref().is_some_and(|flow| flow.is_idle()) {
            *flow = None;
        }
    }

    /// A filter answered: before any response it passes the filters like one; when a head has come but not
    /// gone out it takes its place; afterwards only a close is left. As in Envoy.
    fn answer(&mut self, stream: &mut ChainStream, response: LocalResponse) -> Result<(), StreamEnd> {
        if stream.response_out || stream.answered().is_some() {
            return Err(StreamEnd::LocalResponse(response));
        }
        let mut flow = Box::new(Flow::new(self.slots.len()));
        let parts = response.parts(&stream.request.view(0));
        flow.answer = Some(Box::new(response));
        *stream.shared.flow.borrow_mut() = Some(flow);
        if stream.response_seen {
            stream.response_out = true;
            self.put_out(stream, Way::Response, parts);
            return Ok(());
        }
        for part in parts {
            let passed = self.advance(stream, Way::Response, part)?;
            self.put_out(stream, Way::Response, passed);
        }
        Ok(())
    }

    /// The server's answer to the handshake: `on_response_headers` and an empty `on_response_body`, last filter first.
    pub fn response_headers(&mut self, stream: &mut ChainStream, response: &mut Headers) -> Result<(), StreamEnd> {
        let part = Part::Headers { headers: std::mem::take(response), ends: false };
        for part in self.advance(stream, Way::Response, part)? {
            match part {
                Part::Headers { headers, .. } => *response = headers,
                Part::Data { data, .. } => stream.early[Way::Response as usize].extend_from_slice(&data),
                Part::Trailers(_) => {}
            }
        }
        let paused = (0..self.slots.len()).find(|index| {
            stream.shared.stopped(Way::Response, *index, |place| place.head.is_some()).unwrap_or_default()
        });
        match paused {
            Some(index) => self.refuse(index, Cause::Paused),
            None => Ok(()),
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

    /// The stream is over: `on_log`, `on_done`, `on_delete`.
    pub fn close(&mut self, stream: ChainStream) {
        let mut heads = None;
        for (slot, seat) in self.slots.iter_mut().zip(&stream.seats) {
            count(&slot.counters.streams_closed);
            let Some(vm) = slot.vm.as_mut().filter(|_| seat.life == slot.life) else { continue };
            let ended = if vm.logs() {
                let (request, response) = heads.get_or_insert_with(|| (stream.request.last(), stream.response.last()));
                vm.end_context(seat.context, request, response)
            } else {
                vm.end_context(seat.context, &Headers::new(), &Headers::new())
            };
            if ended.is_err() {
                slot.lose_vm();
            }
        }
        for tap in self.slots.iter_mut().filter_map(|slot| slot.tap.as_mut()) {
            tap.closed(stream.token());
        }
        self.settle_others(None);
    }

    /// Tells a filter what came of a call that it made. Then look at [`WorkerChain::take_woken`].
    pub fn callout_event(&mut self, id: CalloutId, event: CalloutEvent) {
        let Some(slot) = self.slots.get_mut(id.place as usize) else { return };
        let Some(vm) = slot.vm.as_mut().filter(|_| slot.life == id.life) else { return };
        if vm.callout_event(id.token, event).is_err() {
            slot.lose_vm();
        }
        self.settle_others(None);
    }

    /// Calls that filters have under way.
    pub fn callouts(&self) -> usize {
        self.slots.iter().filter_map(|slot| slot.vm.as_ref()).map(Vm::callouts).sum()
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

    /// Upgraded streams that a filter closed outside their own callbacks. Close them.
    pub fn take_closed(&mut self) -> Vec<StreamToken> {
        std::mem::take(&mut self.closed)
    }

    /// Streams that a filter let go on, answered or closed outside their own callbacks. Give each to
    /// [`WorkerChain::wake`].
    pub fn take_woken(&mut self) -> Vec<StreamToken> {
        std::mem::take(&mut self.woken)
    }

    /// VMs alive in this thread.
    pub fn vms(&self) -> usize {
        self.slots.iter().filter(|slot| slot.vm.is_some()).count()
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
