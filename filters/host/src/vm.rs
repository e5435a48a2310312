//! One VM: an instance of a filter's module on one thread, started and configured, and the way in.
//! It judges nothing: what a status means for a stream is the worker chain's business.

mod start;

pub(crate) use start::StartFailure;

use std::mem;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use wasmtime::{Store, Trap, TypedFunc, WasmParams, WasmResults};

use crate::callouts::{CalloutEvent, Kind};
use crate::chain::Way;
use crate::error::Cause;
use crate::headers::Headers;
use crate::module::{Callbacks, HeadersEntry};
use crate::state::{Asked, Call, Original, Phase, ROOT_CONTEXT, State, StreamShared, count};

/// Vectors that swapped through a VM keep at most this much, so that one giant message is not
/// remembered in every session's buffer.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// What `proxy_get_status` says of a call whose connection broke: a status of proxy-wasm, not of gRPC.
const BROKEN_CONNECTION: u32 = 11;

pub(crate) struct Vm {
    store: Store<State>,
    callbacks: Callbacks,
}

impl Vm {
    /// Calls `function` under the budget. After an error the VM must be thrown away.
    #[inline]
    fn call<P: WasmParams, R: WasmResults>(
        store: &mut Store<State>,
        function: &TypedFunc<P, R>,
        parameters: P,
        call: Call,
    ) -> Result<R, Cause> {
        count(&store.data().counters.calls);
        enter(store, function, parameters, call)
    }

    pub(crate) fn create_context(&mut self, stream: Rc<StreamShared>) -> Result<u32, Cause> {
        let id = self.store.data_mut().add_context(stream);
        if let Some(create) = &self.callbacks.on_context_create {
            Self::call(&mut self.store, create, (id, ROOT_CONTEXT), Call::new(id, Phase::Quiet))?;
        }
        Ok(id)
    }

    /// `on_request_headers` or `on_response_headers`; its status is Envoy's: 0 goes on, nearly all else stops.
    pub(crate) fn headers(&mut self, way: Way, context: u32, headers: &mut Headers, ends: bool) -> Result<u32, Cause> {
        let (entry, phase) = match way {
            Way::Request => (&self.callbacks.on_request_headers, Phase::RequestHeaders),
            Way::Response => (&self.callbacks.on_response_headers, Phase::ResponseHeaders),
        };
        let Some(entry) = entry else { return Ok(0) };
        let size = headers.len() as u32;
        swap_map(&mut self.store, way, headers);
        let call = Call::new(context, phase);
        let result = match entry {
            HeadersEntry::Old(old) => Self::call(&mut self.store, old, (context, size), call),
            HeadersEntry::New(new) => Self::call(&mut self.store, new, (context, size, u32::from(ends)), call),
        };
        swap_map(&mut self.store, way, headers);
        result
    }

    /// `on_request_body` or `on_response_body`. Envoy's data status: 0 goes on, 1 and 2 hold back, more
    /// drops. After an error `data` is as it was.
    #[inline]
    pub(crate) fn body(&mut self, way: Way, context: u32, data: &mut Vec<u8>, ends: bool) -> Result<u32, Cause> {
        let (entry, phase) = match way {
            Way::Request => (&self.callbacks.on_request_body, Phase::RequestBody),
            Way::Response => (&self.callbacks.on_response_body, Phase::ResponseBody),
        };
        let Some(entry) = entry else { return Ok(0) };
        let state = self.store.data_mut();
        mem::swap(&mut state.body, data);
        state.original = Original::Same;
        let size = state.body.len() as u32;
        let call = Call { ends, ..Call::new(context, phase) };
        let result = Self::call(&mut self.store, entry, (context, size, u32::from(ends)), call);
        let state = self.store.data_mut();
        if result.is_err() {
            state.restore_body();
        }
        mem::swap(&mut state.body, data);
        if state.spare.capacity() > SPARE_BYTES_MAX {
            state.spare = Vec::new();
        }
        result
    }

    /// Trailers that the guest added behind the body that it was just shown the end of.
    pub(crate) fn take_added_trailers(&mut self) -> Option<Headers> {
        self.store.data_mut().trailers.take().filter(|trailers| !trailers.is_empty())
    }

    /// `on_request_trailers` or `on_response_trailers`: 0 goes on, all else stops.
    pub(crate) fn trailers(&mut self, way: Way, context: u32, trailers: &mut Headers) -> Result<u32, Cause> {
        let (entry, phase) = match way {
            Way::Request => (&self.callbacks.on_request_trailers, Phase::RequestTrailers),
            Way::Response => (&self.callbacks.on_response_trailers, Phase::ResponseTrailers),
        };
        let Some(entry) = entry else { return Ok(0) };
        let size = trailers.len() as u32;
        self.store.data_mut().trailers = Some(mem::take(trailers));
        let result = Self::call(&mut self.store, entry, (context, size), Call::new(context, phase));
        *trailers = self.store.data_mut().trailers.take().unwrap_or_default();
        result
    }

    /// `on_log`, `on_done`, `on_delete` of a stream: the order in which Envoy ends one.
    pub(crate) fn end_context(&mut self, context: u32, request: &Headers, response: &Headers) -> Result<(), Cause> {
        let result = self.log_context(context, request, response).and_then(|()| {
            let (store, quiet) = (&mut self.store, Call::new(context, Phase::Quiet));
            if let Some(on_done) = &self.callbacks.on_done {
                Self::call(store, on_done, context, quiet)?;
            }
            if let Some(on_delete) = &self.callbacks.on_delete {
                Self::call(store, on_delete, context, quiet)?;
            }
            Ok(())
        });
        let state = self.store.data_mut();
        state.contexts.remove(&context);
        state.asked.retain(|(id, _)| *id != context);
        state.resumed.retain(|(id, _)| *id != context);
        result
    }

    fn log_context(&mut self, context: u32, request: &Headers, response: &Headers) -> Result<(), Cause> {
        let Some(on_log) = &self.callbacks.on_log else { return Ok(()) };
        let state = self.store.data_mut();
        state.request.clone_from(request);
        state.response.clone_from(response);
        let result = Self::call(&mut self.store, on_log, context, Call::new(context, Phase::Log));
        let state = self.store.data_mut();
        state.request.clear();
        state.response.clear();
        result
    }

    /// Whether `on_log` wants to see the heads.
    pub(crate) fn logs(&self) -> bool {
        self.callbacks.on_log.is_some()
    }

    /// Tells the root context what came of a call that it has under way; anything else is not told.
    pub(crate) fn callout_event(&mut self, token: u32, event: CalloutEvent) -> Result<(), Cause> {
        let state = self.store.data_mut();
        let (Some(kind), Some(_)) = (Kind::of(token), state.callouts.get(token)) else { return Ok(()) };
        let told = state.told.insert(Box::default());
        let quiet = Call::new(ROOT_CONTEXT, Phase::Quiet);
        let len = |map: &Headers| map.len() as u32;
        // Which callback, with which last arguments; whether the call is over with it.
        let (entry, size, over) = match event {
            CalloutEvent::Http { headers, body, trailers } if kind == Kind::Http => {
                let sizes = (len(&headers), body.len() as u32, len(&trailers));
                (told.http_headers, told.http_body) = (Some(headers), Some(body));
                told.http_trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
                return self.http_response(token, sizes);
            }
            CalloutEvent::HttpReset if kind == Kind::Http => {
                state.call_status = (BROKEN_CONNECTION, "reset".to_owned());
                return self.http_response(token, (0, 0, 0));
            }
            CalloutEvent::GrpcInitialMetadata(map) if kind != Kind::Http => {
                let size = len(&map);
                told.initial_metadata = Some(map);
                (&self.callbacks.on_grpc_receive_initial_metadata, size, false)
            }
            CalloutEvent::GrpcMessage(message) if kind != Kind::Http => {
                let size = message.len() as u32;
                told.message = Some(message);
                (&self.callbacks.on_grpc_receive, size, kind == Kind::GrpcCall)
            }
            CalloutEvent::GrpcTrailingMetadata(map) if kind != Kind::Http => {
                let size = len(&map);
                told.trailing_metadata = Some(map);
                (&self.callbacks.on_grpc_receive_trailing_metadata, size, false)
            }
            CalloutEvent::GrpcClose { status, message } if kind != Kind::Http => {
                state.call_status = (status, message);
                (&self.callbacks.on_grpc_close, status, true)
            }
            _ => {
                state.told = None;
                return Ok(());
            }
        };
        let result = match entry {
            Some(entry) => Self::call(&mut self.store, entry, (ROOT_CONTEXT, token, size), quiet),
            None => Ok(()),
        };
        let state = self.store.data_mut();
        state.told = None;
        state.call_status.1.clear();
        if over {
            // A stream lives until both halves ended; a call is over with its answer or its failure.
            let wait = match state.callouts.get(token) {
                Some(halves) if kind == Kind::GrpcStream && !halves.local => {
                    halves.remote = true;
                    true
                }
                _ => false,
            };
            if !wait {
                state.callouts.remove(token);
            }
        }
        result
    }

    fn http_response(&mut self, token: u32, (headers, body, trailers): (u32, u32, u32)) -> Result<(), Cause> {
        let quiet = Call::new(ROOT_CONTEXT, Phase::Quiet);
        let result = match &self.callbacks.on_http_call_response {
            Some(entry) => Self::call(&mut self.store, entry, (ROOT_CONTEXT, token, headers, body, trailers), quiet),
            None => Ok(()),
        };
        let state = self.store.data_mut();
        state.told = None;
        state.call_status.1.clear();
        state.callouts.remove(token);
        result
    }

    /// Calls under way.
    pub(crate) fn callouts(&self) -> usize {
        self.store.data().callouts.len()
    }

    /// Runs `on_tick` if it is due, and `on_queue_ready` for what arrived.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), Cause> {
        let quiet = Call::new(ROOT_CONTEXT, Phase::Quiet);
        let state = self.store.data_mut();
        if let (Some(due), Some(period)) = (state.next_tick, state.tick_period)
            && due <= now
        {
            // Late ticks are not made up for.
            state.next_tick = Some(now + period);
            if let Some(on_tick) = &self.callbacks.on_tick {
                Self::call(&mut self.store, on_tick, ROOT_CONTEXT, quiet)?;
            }
        }
        if self.store.data().mailbox.has_mail() {
            let tokens = self.store.data().mailbox.take();
            if let Some(on_queue_ready) = &self.callbacks.on_queue_ready {
                for token in tokens {
                    Self::call(&mut self.store, on_queue_ready, (ROOT_CONTEXT, token), quiet)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.callbacks.on_tick.as_ref().and(self.store.data().next_tick)
    }

    pub(crate) fn waits_for_queues(&self) -> bool {
        self.store.data().mailbox.in_use()
    }

    /// Whether the last callback asked for anything; false nearly always.
    #[inline]
    pub(crate) fn has_asked(&self) -> bool {
        let state = self.store.data();
        !(state.asked.is_empty() && state.resumed.is_empty())
    }

    /// Whether it asked for this stream to end.
    pub(crate) fn has_asked_for(&self, context: u32) -> bool {
        self.store.data().asked.iter().any(|(id, _)| *id == context)
    }

    /// The directions that go on, of which streams.
    pub(crate) fn take_resumed(&mut self) -> Vec<(Rc<StreamShared>, u32, Way)> {
        let state = self.store.data_mut();
        let resumed = mem::take(&mut state.resumed);
        resumed.into_iter().filter_map(|(id, way)| Some((state.contexts.get(&id)?.clone(), id, way))).collect()
    }

    /// What was asked, with the streams that it was asked for.
    pub(crate) fn take_asked(&mut self) -> Vec<(Rc<StreamShared>, u32, Asked)> {
        let state = self.store.data_mut();
        let asked = mem::take(&mut state.asked);
        asked.into_iter().filter_map(|(id, asked)| Some((state.contexts.get(&id)?.clone(), id, asked))).collect()
    }

    /// The root context ends with its VM.
    pub(crate) fn shut_down(mut self) {
        let quiet = Call::new(ROOT_CONTEXT, Phase::Quiet);
        if let Some(on_done) = &self.callbacks.on_done
            && Self::call(&mut self.store, on_done, ROOT_CONTEXT, quiet).is_err()
        {
            return;
        }
        if let Some(on_delete) = &self.callbacks.on_delete {
            // It is over either way.
            let _ = Self::call(&mut self.store, on_delete, ROOT_CONTEXT, quiet);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.store.data_mut().callouts.cancel_all();
        count(&self.store.data().counters.vms_dropped);
    }
}

/// Gives a head to the host functions, or takes it back.
fn swap_map(store: &mut Store<State>, way: Way, headers: &mut Headers) {
    let state = store.data_mut();
    mem::swap(if way == Way::Request { &mut state.request } else { &mut state.response }, headers);
}

#[inline]
fn enter<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    function: &TypedFunc<P, R>,
    parameters: P,
    call: Call,
) -> Result<R, Cause> {
    let state = store.data_mut();
    state.call = call;
    state.budget.since = None;
    let ticks = state.budget.half_ticks;
    store.set_epoch_deadline(ticks);
    match function.call(&mut *store, parameters) {
        Ok(result) => Ok(result),
        Err(error) => Err(trapped(store, &error, call)),
    }
}

#[cold]
#[inline(never)]
fn trapped(store: &mut Store<State>, error: &wasmtime::Error, call: Call) -> Cause {
    let state = store.data();
    let cause = classify(error, state);
    let counters = &state.counters;
    count(&counters.traps);
    match cause {
        Cause::Budget => count(&counters.budget_exceeded),
        Cause::Memory => count(&counters.memory_exceeded),
        _ => {}
    }
    tracing::warn!(
        target: "bawaba::filter",
        filter = &*state.filter.name, cause = %cause, phase = ?call.phase, context = call.context,
        memory_bytes = state.limiter.bytes, traps = counters.traps.load(Ordering::Relaxed),
        error = format!("{error:#}"), "filter trapped, its VM is replaced"
    );
    cause
}

fn classify(error: &wasmtime::Error, state: &State) -> Cause {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Cause::Budget,
        _ if state.limiter.refused => Cause::Memory,
        _ => Cause::Trap,
    }
}
