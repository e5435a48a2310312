//! A stream's seats in the filters' VMs: taken, taken again after a loss, and what becomes of a stream
//! when a filter gives no verdict or asks for something.

use crate::chain::{ChainStream, Seat, StreamEnd, StreamKind, Way};
use crate::error::Cause;
use crate::filter::OnFailure;
use crate::headers::Headers;
use crate::state::{Asked, count};
use crate::vm::Vm;

use super::{Halt, WorkerChain};

impl WorkerChain {
    /// A context of the stream in the filter's present VM, which is made if there is none.
    pub(super) fn take_seat(&mut self, index: usize, stream: &mut ChainStream) -> Result<(), Cause> {
        let slot = &mut self.slots[index];
        let vm = slot.vm()?;
        let context = vm.create_context(stream.shared.clone())?;
        stream.seats[index] = Seat { life: slot.life, context };
        Ok(())
    }

    /// Whether the filter's VM knows the stream; where it was lost, the stream is attached to the new one.
    /// False: the filter has no say, and its failure lets things pass.
    pub(super) fn ensure_seat(&mut self, index: usize, stream: &mut ChainStream) -> Result<bool, Halt> {
        let (slot, seat) = (&self.slots[index], stream.seats[index]);
        if seat.life == slot.life && slot.vm.is_some() {
            return Ok(true);
        }
        if stream.kind == StreamKind::Http || stream.answered().is_some() {
            if seat.life != 0 {
                self.refuse(index, Cause::Lost)?;
                stream.seats[index] = Seat::default();
            }
            return Ok(false); // or the request never came as far as this filter
        }
        self.reattach(index, stream)?;
        Ok(stream.seats[index].life == self.slots[index].life && self.slots[index].vm.is_some())
    }

    /// Takes the stream's seat again: the handshake is replayed, and only its verdict counts.
    #[cold]
    fn reattach(&mut self, index: usize, stream: &mut ChainStream) -> Result<(), Halt> {
        if stream.is_waiting(Way::Request) || stream.is_waiting(Way::Response) {
            // What the lost VM held back can't be judged by one that never saw it.
            let held = [Way::Request, Way::Response]
                .into_iter()
                .any(|way| stream.shared.stopped(way, index, |_| ()).is_some());
            if held {
                return Ok(self.refuse(index, Cause::Lost)?);
            }
        }
        match self.replay(index, stream) {
            Ok(status) => {
                count(&self.slots[index].counters.reattached);
                self.settle_asked(index, stream)?;
                if status != 0 {
                    self.refuse(index, Cause::Paused)?;
                }
                Ok(())
            }
            Err(cause) => Ok(self.fail(index, cause)?),
        }
    }

    fn replay(&mut self, index: usize, stream: &mut ChainStream) -> Result<u32, Cause> {
        self.take_seat(index, stream)?;
        let position = Way::Response.turn(index, self.slots.len());
        let slot = &mut self.slots[index];
        let vm = slot.vm.as_mut().ok_or(Cause::Start)?;
        let context = stream.seats[index].context;
        let mut status = vm.headers(Way::Request, context, &mut stream.request.view(index), false)?;
        // What a filter injects into a replay was injected the first time already.
        vm.body(Way::Request, context, &mut Vec::new(), false)?;
        if !stream.response.is_empty() {
            status |= vm.headers(Way::Response, context, &mut stream.response.view(position), false)?;
            vm.body(Way::Response, context, &mut Vec::new(), false)?;
        }
        Ok(status)
    }

    /// The filter failed: its VM goes, and the verdict is what `on_failure` says.
    #[cold]
    pub(super) fn fail(&mut self, index: usize, cause: Cause) -> Result<(), StreamEnd> {
        // A VM that never came up has had its strike.
        if !matches!(cause, Cause::Resting | Cause::Start) {
            self.slots[index].lose_vm();
        }
        self.refuse(index, cause)
    }

    /// No verdict: what `on_failure` says.
    pub(super) fn refuse(&mut self, index: usize, cause: Cause) -> Result<(), StreamEnd> {
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

    pub(super) fn closed_by(&self, index: usize) -> StreamEnd {
        StreamEnd::ClosedByFilter { filter: self.slots[index].filter.name().clone() }
    }

    /// What a callback of `stream` asked for it; what it asked for others is noted.
    pub(super) fn settle_asked(&mut self, index: usize, stream: &ChainStream) -> Result<(), Halt> {
        let slot = &mut self.slots[index];
        if !slot.vm.as_ref().is_some_and(Vm::has_asked) {
            return Ok(());
        }
        match self.settle_others(Some((index, stream.seats[index].context))) {
            Some(Asked::Respond(response)) => Err(Halt::Answer(response)),
            Some(Asked::Close) => Err(self.closed_by(index).into()),
            None => Ok(()),
        }
    }

    /// Notes the streams that filters closed, answered or let go on; gives back what was asked for `own`.
    pub(super) fn settle_others(&mut self, own: Option<(usize, u32)>) -> Option<Asked> {
        let filters = self.slots.len();
        let mut found = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(vm) = slot.vm.as_mut().filter(|vm| vm.has_asked()) else { continue };
            for (stream, context, way) in vm.take_resumed() {
                let mut flow = stream.flow.borrow_mut();
                if own == Some((index, context)) {
                    // Before the callback's own pause, if it answers one: that then ends at once.
                    let flow = flow.get_or_insert_with(|| Box::new(crate::flow::Flow::new(filters)));
                    flow.place(way, index).resumed = true;
                } else if let Some(place) = flow.as_mut().map(|flow| flow.place(way, index)).filter(|p| !p.is_idle()) {
                    place.resumed = true;
                    if !self.woken.contains(&stream.token) {
                        self.woken.push(stream.token);
                    }
                }
            }
            for (stream, context, asked) in vm.take_asked() {
                if own == Some((index, context)) {
                    found = Some(asked);
                    continue;
                }
                // After the 101 a local response can only close, in Envoy too.
                stream.asked.borrow_mut().get_or_insert((index, asked));
                for list in [&mut self.closed, &mut self.woken] {
                    if !list.contains(&stream.token) {
                        list.push(stream.token);
                    }
                }
            }
        }
        found
    }

    /// The head as it is now is what the filter at this position meets.
    pub(super) fn keep(&mut self, stream: &mut ChainStream, way: Way, headers: &Headers) {
        let of = (stream.shared.token, way);
        let kept = if way == Way::Request { &mut stream.request } else { &mut stream.response };
        self.keeper.push(of, kept, headers);
    }
}
