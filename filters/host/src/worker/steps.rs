//! Parts of a stream, filter by filter: shown, held back, let go on. Statuses mean what they mean in
//! Envoy's filter manager.

use std::time::Instant;

use crate::chain::{ChainStream, Part, StreamEnd, StreamKind, Way};
use crate::error::Cause;
use crate::flow::{Flow, Place, Stopped};
use crate::headers::Headers;

use super::{Halt, WorkerChain};

/// `FilterHeadersStatus`: Continue, and a number that Envoy knows no better than to continue on.
const HEADERS_GO_ON: [u32; 2] = [0, 2];

impl WorkerChain {
    /// A part through all filters, and whatever goes on with it.
    pub(super) fn advance(&mut self, stream: &mut ChainStream, way: Way, part: Part) -> Result<Vec<Part>, Halt> {
        // Behind the head of an upgrade comes an empty piece of body.
        let upgrade = stream.kind == StreamKind::Upgrade && matches!(part, Part::Headers { ends: false, .. });
        if way == Way::Response {
            stream.response_seen = true;
        }
        let mut parts = self.feed(stream, way, 0, part)?;
        if upgrade && stream.answered().is_none() {
            parts.extend(self.feed(stream, way, 0, Part::Data { data: Vec::new(), ends: false })?);
        }
        if stream.shared.flow.borrow().is_some() {
            parts.extend(self.go_on(stream, way)?);
            let mut flow = stream.shared.flow.borrow_mut();
            if flow.as_ref().is_some_and(|flow| flow.is_idle()) {
                *flow = None;
            }
        }
        Ok(parts)
    }

    /// A part through the filters from a position on; what passed them all.
    fn feed(&mut self, stream: &mut ChainStream, way: Way, from: usize, part: Part) -> Result<Vec<Part>, Halt> {
        let mut parts = vec![part];
        for position in from..self.slots.len() {
            let index = way.turn(position, self.slots.len());
            let mut on = Vec::with_capacity(1);
            for part in parts {
                self.step(stream, way, index, part, &mut on)?;
            }
            parts = on;
            if parts.is_empty() {
                return Ok(parts);
            }
        }
        for part in &parts {
            if let Part::Headers { headers, .. } = part {
                self.keep(stream, way, headers);
                match way {
                    Way::Request => stream.request.shrink(),
                    Way::Response => {
                        stream.response.shrink();
                        stream.response_out = true;
                    }
                }
            }
        }
        Ok(parts)
    }

    fn step(
        &mut self,
        stream: &mut ChainStream,
        way: Way,
        index: usize,
        part: Part,
        on: &mut Vec<Part>,
    ) -> Result<(), Halt> {
        match part {
            Part::Headers { headers, ends } => self.step_headers(stream, way, index, headers, ends, on),
            part if stream.shared.stopped(way, index, |place| place.stopped == Stopped::AtHeaders) == Some(true) => {
                let held = stream.shared.stopped(way, index, |place| {
                    place.waiting.push_back(part);
                    place.held_bytes()
                });
                self.bound(stream, way, index, held.unwrap_or_default(), on)
            }
            Part::Data { data, ends } => self.step_data(stream, way, index, data, ends, on),
            Part::Trailers(trailers) => self.step_trailers(stream, way, index, trailers, on),
        }
    }

    fn step_headers(
        &mut self,
        stream: &mut ChainStream,
        way: Way,
        index: usize,
        mut headers: Headers,
        ends: bool,
        on: &mut Vec<Part>,
    ) -> Result<(), Halt> {
        self.keep(stream, way, &headers);
        if !self.slots[index].filter.inner.exports.sees_streams() {
            on.push(Part::Headers { headers, ends });
            return Ok(());
        }
        let before = headers.clone();
        let seated = match way {
            Way::Request => self.take_seat(index, stream).map(|()| true),
            Way::Response => Ok(self.ensure_seat(index, stream)?),
        };
        let result = seated.and_then(|seated| {
            let vm = self.slots[index].vm.as_mut().filter(|_| seated);
            vm.map_or(Ok(0), |vm| vm.headers(way, stream.seats[index].context, &mut headers, ends))
        });
        match result {
            Ok(status) => {
                self.settle_asked(index, stream)?;
                if HEADERS_GO_ON.contains(&status) {
                    on.push(Part::Headers { headers, ends });
                } else {
                    self.stop(stream, way, index, Stopped::AtHeaders, |place| {
                        (place.head, place.head_ends) = (Some(headers), ends);
                    });
                }
            }
            Err(cause) => {
                self.fail(index, cause)?;
                on.push(Part::Headers { headers: before, ends });
            }
        }
        Ok(())
    }

    fn step_data(
        &mut self,
        stream: &mut ChainStream,
        way: Way,
        index: usize,
        mut data: Vec<u8>,
        ends: bool,
        on: &mut Vec<Part>,
    ) -> Result<(), Halt> {
        if !self.slots[index].filter.inner.exports.sees_body(way) || !self.ensure_seat(index, stream)? {
            on.push(Part::Data { data, ends });
            return Ok(());
        }
        stream.shared.stopped(way, index, |place| {
            if place.body_shown && !place.body.is_empty() {
                place.body.append(&mut data);
                data = std::mem::take(&mut place.body);
            }
        });
        let Some(vm) = self.slots[index].vm.as_mut() else { return Ok(()) };
        match vm.body(way, stream.seats[index].context, &mut data, ends) {
            Ok(status) => {
                let added = vm.take_added_trailers();
                self.settle_asked(index, stream)?;
                self.settle_data(stream, way, index, status, Piece { data, ends, added }, on)
            }
            Err(cause) => {
                self.fail(index, cause)?;
                on.push(Part::Data { data, ends });
                Ok(())
            }
        }
    }

    fn settle_data(
        &mut self,
        stream: &mut ChainStream,
        way: Way,
        index: usize,
        status: u32,
        piece: Piece,
        on: &mut Vec<Part>,
    ) -> Result<(), Halt> {
        let Piece { mut data, ends, added } = piece;
        if status == 0 {
            stream.shared.stopped(way, index, |place| {
                place.body.append(&mut data);
                data = std::mem::take(&mut place.body);
                *place = Place::default();
            });
            on.push(Part::Data { data, ends: ends && added.is_none() });
            on.extend(added.map(Part::Trailers));
            return Ok(());
        }
        let held = self.stop(stream, way, index, Stopped::AtBody, |place| {
            if status <= 2 {
                place.body.append(&mut data);
                place.body_shown = status == 1;
            }
            place.body_ends |= ends;
            if added.is_some() {
                place.trailers = added;
            }
        });
        self.bound(stream, way, index, held, on)
    }

    fn step_trailers(
        &mut self,
        stream: &mut ChainStream,
        way: Way,
        index: usize,
        mut trailers: Headers,
        on: &mut Vec<Part>,
    ) -> Result<(), Halt> {
        let sees = self.slots[index].filter.inner.exports.sees_streams() && self.ensure_seat(index, stream)?;
        let vm = self.slots[index].vm.as_mut().filter(|_| sees);
        let before = trailers.clone();
        match vm.map_or(Ok(0), |vm| vm.trailers(way, stream.seats[index].context, &mut trailers)) {
            Ok(0) => {
                self.settle_asked(index, stream)?;
                let held = stream.shared.stopped(way, index, |place| std::mem::take(place).body);
                on.extend(held.filter(|data| !data.is_empty()).map(|data| Part::Data { data, ends: false }));
                on.push(Part::Trailers(trailers));
            }
            Ok(_) => {
                self.settle_asked(index, stream)?;
                self.stop(stream, way, index, Stopped::AtTrailers, |place| place.trailers = Some(trailers));
            }
            Err(cause) => {
                self.fail(index, cause)?;
                on.push(Part::Trailers(before));
            }
        }
        Ok(())
    }

    /// The filter answered a pause; the bytes that it now holds back.
    fn stop(
        &mut self,
        stream: &ChainStream,
        way: Way,
        index: usize,
        stopped: Stopped,
        fill: impl FnOnce(&mut Place),
    ) -> usize {
        let mut flow = stream.shared.flow.borrow_mut();
        let flow = flow.get_or_insert_with(|| Box::new(Flow::new(self.slots.len())));
        let place = flow.place(way, index);
        place.stopped = stopped;
        fill(place);
        place.held_bytes()
    }

    /// A filter that holds back too much gives no verdict on it.
    fn bound(
        &mut self,
        stream: &ChainStream,
        way: Way,
        index: usize,
        held: usize,
        on: &mut Vec<Part>,
    ) -> Result<(), Halt> {
        if held <= self.slots[index].filter.inner.limits.held_bytes_max {
            return Ok(());
        }
        self.refuse(index, Cause::Held)?;
        if let Some(parts) = stream.shared.stopped(way, index, release) {
            on.extend(parts);
        }
        Ok(())
    }

    /// What filters let go on after a pause, through the rest of the chain.
    pub(super) fn go_on(&mut self, stream: &mut ChainStream, way: Way) -> Result<Vec<Part>, Halt> {
        let mut passed = Vec::new();
        loop {
            let found = (0..self.slots.len()).find(|position| {
                let index = way.turn(*position, self.slots.len());
                let resumed = |place: &mut Place| place.resumed && place.stopped != Stopped::No;
                stream.shared.stopped(way, index, resumed) == Some(true)
            });
            let Some(position) = found else { break };
            let index = way.turn(position, self.slots.len());
            self.lost_with_its_vm(index, stream)?;
            let Some(mut place) = stream.shared.stopped(way, index, std::mem::take) else { break };
            let waiting = std::mem::take(&mut place.waiting);
            for part in release(&mut place) {
                passed.extend(self.feed(stream, way, position + 1, part)?);
            }
            for part in waiting {
                passed.extend(self.feed(stream, way, position, part)?);
            }
        }
        if let Some(flow) = stream.shared.flow.borrow_mut().as_mut() {
            for place in flow.ways[way as usize].places.iter_mut().filter(|place| place.is_idle()) {
                place.resumed = false;
            }
        }
        Ok(passed)
    }

    fn lost_with_its_vm(&mut self, index: usize, stream: &ChainStream) -> Result<(), StreamEnd> {
        let (slot, seat) = (&self.slots[index], stream.seats[index]);
        if seat.life == slot.life && slot.vm.is_some() { Ok(()) } else { self.refuse(index, Cause::Lost) }
    }

    /// Bytes of an upgraded stream, in place.
    #[inline]
    pub(super) fn pass(&mut self, stream: &mut ChainStream, way: Way, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        if stream.shared.flow.borrow().is_some() {
            return self.pass_parts(stream, way, data);
        }
        let count = self.slots.len();
        for position in 0..count {
            let index = way.turn(position, count);
            let slot = &mut self.slots[index];
            if !slot.filter.inner.exports.sees_body(way) {
                continue;
            }
            if stream.seats[index].life != slot.life || slot.vm.is_none() {
                self.ensure_seat(index, stream)?;
            }
            let (slot, seat) = (&mut self.slots[index], stream.seats[index]);
            let Some(vm) = slot.vm.as_mut().filter(|_| seat.life == slot.life) else {
                continue; // no VM, and its failure lets things pass
            };
            let watched = slot.tap.is_some().then(|| (data.clone(), Instant::now()));
            let result = vm.body(way, seat.context, data, false);
            if let Some((input, begun)) = watched {
                self.show(index, stream, way, (&input, data), begun.elapsed(), &result);
            }
            let Some(vm) = self.slots[index].vm.as_ref() else { continue };
            match result {
                Ok(0) if !vm.has_asked() => {}
                Ok(status) => {
                    self.settle_asked(index, stream)?;
                    let mut on = Vec::new();
                    let piece = Piece { data: std::mem::take(data), ends: false, added: None };
                    self.settle_data(stream, way, index, status, piece, &mut on)?;
                    let mut passed = Vec::new();
                    for part in on {
                        passed.extend(self.feed(stream, way, position + 1, part)?);
                    }
                    passed.extend(self.go_on(stream, way)?);
                    return self.join(stream, way, passed, data);
                }
                Err(cause) => self.fail(index, cause)?,
            }
        }
        Ok(())
    }

    /// The same where something is held back.
    #[cold]
    fn pass_parts(&mut self, stream: &mut ChainStream, way: Way, data: &mut Vec<u8>) -> Result<(), StreamEnd> {
        let part = Part::Data { data: std::mem::take(data), ends: false };
        let passed = self.advance(stream, way, part)?;
        self.join(stream, way, passed, data)
    }

    /// Parts of an upgraded stream are its bytes; those that passed before come first.
    fn join(
        &mut self,
        stream: &mut ChainStream,
        way: Way,
        passed: Vec<Part>,
        to: &mut Vec<u8>,
    ) -> Result<(), StreamEnd> {
        self.put_out(stream, way, passed);
        while let Some(part) = self.pull(stream, way) {
            if let Part::Data { mut data, .. } = part {
                to.append(&mut data);
            }
        }
        self.put_out(stream, way, Vec::new());
        Ok(())
    }
}

/// A piece of body as a filter left it.
struct Piece {
    data: Vec<u8>,
    ends: bool,
    added: Option<Headers>,
}

/// What a place held back, in order; the place holds nothing any more.
fn release(place: &mut Place) -> Vec<Part> {
    let place = std::mem::take(place);
    let mut parts = Vec::new();
    parts.extend(place.head.map(|headers| Part::Headers { headers, ends: place.head_ends }));
    let ends = place.body_ends && place.trailers.is_none();
    if !place.body.is_empty() || ends {
        parts.push(Part::Data { data: place.body, ends });
    }
    parts.extend(place.trailers.map(Part::Trailers));
    parts.extend(place.waiting);
    parts
}
