//! One instance of a module: started, configured, and called back under a CPU budget. It knows its own
//! contexts by number; which stream they belong to is the chain's business.

use std::sync::Arc;

use wasmtime::{AsContextMut, Instance, Store, Trap, TypedFunc, WasmParams, WasmResults};

use crate::error::{BuildError, Cause};
use crate::filter::{AbiVersion, FilterInner};
use crate::state::{Call, Phase, ROOT_CONTEXT, Shard, State, VM_CONTEXT, count};

/// What a headers or body callback answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Continue,
    Pause,
}

type Create = TypedFunc<(u32, u32), ()>;
type Ask = TypedFunc<(u32, u32), u32>;
type OnBody = TypedFunc<(u32, u32, u32), u32>;

#[derive(Clone)]
enum OnHeaders {
    /// ABI 0.1.0: context, number of headers.
    Old(Ask),
    /// Later: and the end of the stream.
    New(OnBody),
}

/// The callbacks that a module exports.
struct Callbacks {
    context_create: Option<Create>,
    request_headers: Option<OnHeaders>,
    request_body: Option<OnBody>,
    response_headers: Option<OnHeaders>,
    response_body: Option<OnBody>,
    done: Option<TypedFunc<u32, u32>>,
    log: Option<TypedFunc<u32, ()>>,
    delete: Option<TypedFunc<u32, ()>>,
    tick: Option<TypedFunc<u32, ()>>,
    queue_ready: Option<TypedFunc<(u32, u32), ()>>,
}

pub(crate) struct Vm {
    pub(crate) store: Store<State>,
    callbacks: Callbacks,
    callback_ticks: u64,
}

impl Drop for Vm {
    fn drop(&mut self) {
        count(&self.store.data().counters.vms_dropped);
    }
}

impl Vm {
    /// Instantiates, starts and configures.
    pub(crate) fn start(filter: &Arc<FilterInner>, shard: Arc<Shard>) -> Result<Self, BuildError> {
        let mut store = Store::new(filter.instance.module().engine(), State::new(filter.clone(), shard));
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(filter.start_ticks);
        let instance = filter.instance.instantiate(&mut store).map_err(|error| match cause_of(&store, &error) {
            Cause::Trap if error.downcast_ref::<Trap>().is_none() => BuildError::Instantiate(format!("{error:#}")),
            cause => BuildError::Start { callback: "start function", cause, said: said(&mut store) },
        })?;
        count(&store.data().counters.vms_created);
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        if store.data().memory.is_none() {
            return Err(BuildError::MissingExport("memory"));
        }
        let callbacks = callbacks(&mut store, instance, filter.abi)?;
        let malloc = match export(&mut store, instance, "proxy_on_memory_allocate")? {
            Some(malloc) => Some(malloc),
            None => export(&mut store, instance, "malloc")?,
        };
        store.data_mut().malloc = malloc;
        let mut vm = Vm { store, callbacks, callback_ticks: filter.callback_ticks };
        vm.begin(instance, filter)?;
        let log = &mut vm.store.data_mut().log;
        (log.listening, log.said) = (false, None);
        Ok(vm)
    }

    fn begin(&mut self, instance: Instance, filter: &FilterInner) -> Result<(), BuildError> {
        let ticks = filter.start_ticks;
        let store = &mut self.store;
        if let Some(initialize) = export::<(), ()>(store, instance, "_initialize")? {
            self.must(initialize, (), "_initialize", Call::IDLE, ticks)?;
            if let Some(main) = export::<(u32, u32), u32>(&mut self.store, instance, "main")? {
                self.must(main, (0, 0), "main", Call::IDLE, ticks)?;
            }
        } else if let Some(start) = export::<(), ()>(store, instance, "_start")? {
            self.must(start, (), "_start", Call::IDLE, ticks)?;
        }
        if let Some(create) = self.callbacks.context_create.clone() {
            let call = Call::new(ROOT_CONTEXT, Phase::Quiet);
            self.must(create, (ROOT_CONTEXT, VM_CONTEXT), "proxy_on_context_create", call, ticks)?;
        }
        let asks = [
            ("proxy_on_vm_start", "VM configuration", filter.vm_configuration.len(), Phase::Quiet),
            ("proxy_on_configure", "settings", filter.settings.len(), Phase::Configure),
        ];
        for (callback, what, len, phase) in asks {
            let Some(ask) = export::<(u32, u32), u32>(&mut self.store, instance, callback)? else { continue };
            let call = Call::new(ROOT_CONTEXT, phase);
            if self.must(ask, (ROOT_CONTEXT, len as u32), callback, call, ticks)? == 0 {
                return Err(BuildError::Refused { what, callback, said: said(&mut self.store) });
            }
        }
        Ok(())
    }

    fn must<P: WasmParams, R: WasmResults>(
        &mut self,
        function: TypedFunc<P, R>,
        arguments: P,
        callback: &'static str,
        call: Call,
        ticks: u64,
    ) -> Result<R, BuildError> {
        let result = call_back(&mut self.store, &function, arguments, call, ticks);
        result.map_err(|cause| BuildError::Start { callback, cause, said: said(&mut self.store) })
    }

    pub(crate) fn judges_requests(&self) -> bool {
        self.callbacks.request_body.is_some()
    }

    pub(crate) fn judges_responses(&self) -> bool {
        self.callbacks.response_body.is_some()
    }

    pub(crate) fn create_context(&mut self, context: u32) -> Result<(), Cause> {
        let Some(create) = &self.callbacks.context_create else { return Ok(()) };
        let call = Call::new(context, Phase::Quiet);
        call_back(&mut self.store, create, (context, ROOT_CONTEXT), call, self.callback_ticks)
    }

    /// `on_request_headers`, not the end of the stream; the map is the state's `request`.
    pub(crate) fn request_headers(&mut self, context: u32) -> Result<Action, Cause> {
        let headers = self.store.data().request.len() as u32;
        let call = Call::new(context, Phase::RequestHeaders);
        call_headers(
            &mut self.store,
            self.callbacks.request_headers.as_ref(),
            context,
            headers,
            call,
            self.callback_ticks,
        )
    }

    /// `on_response_headers`, not the end of the stream; the map is the state's `response`.
    pub(crate) fn response_headers(&mut self, context: u32) -> Result<Action, Cause> {
        let headers = self.store.data().response.len() as u32;
        let call = Call::new(context, Phase::ResponseHeaders);
        call_headers(
            &mut self.store,
            self.callbacks.response_headers.as_ref(),
            context,
            headers,
            call,
            self.callback_ticks,
        )
    }

    /// `on_request_body`, not the end of the stream; the bytes are the state's `body`.
    pub(crate) fn request_body(&mut self, context: u32) -> Result<Action, Cause> {
        let Some(on_body) = &self.callbacks.request_body else { return Ok(Action::Continue) };
        let size = self.store.data().body.len() as u32;
        let call = Call::new(context, Phase::RequestBody);
        call_back(&mut self.store, on_body, (context, size, 0), call, self.callback_ticks).map(action)
    }

    /// `on_response_body`, not the end of the stream; the bytes are the state's `body`.
    pub(crate) fn response_body(&mut self, context: u32) -> Result<Action, Cause> {
        let Some(on_body) = &self.callbacks.response_body else { return Ok(Action::Continue) };
        let size = self.store.data().body.len() as u32;
        let call = Call::new(context, Phase::ResponseBody);
        call_back(&mut self.store, on_body, (context, size, 0), call, self.callback_ticks).map(action)
    }

    /// `on_log`, `on_done`, `on_delete`: the context ends, whatever the guest answers.
    pub(crate) fn end_context(&mut self, context: u32) -> Result<(), Cause> {
        let result = self.say_goodbye(context);
        let state = self.store.data_mut();
        state.contexts.remove(&context);
        state.asked.retain(|(id, _)| *id != context);
        result
    }

    fn say_goodbye(&mut self, context: u32) -> Result<(), Cause> {
        let (store, ticks) = (&mut self.store, self.callback_ticks);
        if let Some(log) = &self.callbacks.log {
            call_back(store, log, context, Call::new(context, Phase::Log), ticks)?;
        }
        if let Some(done) = &self.callbacks.done {
            call_back(store, done, context, Call::new(context, Phase::Quiet), ticks)?;
        }
        if let Some(delete) = &self.callbacks.delete {
            call_back(store, delete, context, Call::new(context, Phase::Quiet), ticks)?;
        }
        Ok(())
    }

    /// `on_tick` of the root context.
    pub(crate) fn tick(&mut self) -> Result<(), Cause> {
        let Some(tick) = &self.callbacks.tick else { return Ok(()) };
        call_back(&mut self.store, tick, ROOT_CONTEXT, Call::new(ROOT_CONTEXT, Phase::Quiet), self.callback_ticks)
    }

    /// `on_queue_ready` of the root context.
    pub(crate) fn queue_ready(&mut self, token: u32) -> Result<(), Cause> {
        let Some(ready) = &self.callbacks.queue_ready else { return Ok(()) };
        let call = Call::new(ROOT_CONTEXT, Phase::Quiet);
        call_back(&mut self.store, ready, (ROOT_CONTEXT, token), call, self.callback_ticks)
    }
}

fn action(answer: u32) -> Action {
    if answer == 0 { Action::Continue } else { Action::Pause }
}

fn call_headers(
    store: &mut Store<State>,
    callback: Option<&OnHeaders>,
    context: u32,
    headers: u32,
    call: Call,
    ticks: u64,
) -> Result<Action, Cause> {
    match callback {
        None => Ok(Action::Continue),
        Some(OnHeaders::Old(callback)) => call_back(store, callback, (context, headers), call, ticks).map(action),
        Some(OnHeaders::New(callback)) => call_back(store, callback, (context, headers, 0), call, ticks).map(action),
    }
}

/// One callback under its budget. After an error the VM must not be called again.
#[inline]
fn call_back<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    function: &TypedFunc<P, R>,
    arguments: P,
    call: Call,
    ticks: u64,
) -> Result<R, Cause> {
    store.set_epoch_deadline(ticks);
    let state = store.data_mut();
    state.call = call;
    state.limiter.refused = false;
    count(&state.counters.calls);
    let result = function.call(store.as_context_mut(), arguments);
    store.data_mut().call = Call::IDLE;
    result.map_err(|error| fail(store, &error))
}

#[cold]
fn fail(store: &Store<State>, error: &wasmtime::Error) -> Cause {
    let cause = cause_of(store, error);
    let state = store.data();
    count(&state.counters.traps);
    match cause {
        Cause::Budget => count(&state.counters.budget_exceeded),
        Cause::Memory => count(&state.counters.memory_exceeded),
        _ => {}
    }
    tracing::warn!(filter = &*state.filter.name, cause = cause.as_str(), error = format!("{error:#}"), "filter failed");
    cause
}

fn cause_of(store: &Store<State>, error: &wasmtime::Error) -> Cause {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Cause::Budget,
        _ if store.data().limiter.refused => Cause::Memory,
        _ => Cause::Trap,
    }
}

fn said(store: &mut Store<State>) -> Option<String> {
    store.data_mut().log.said.take()
}

/// An export with the ABI's signature; `None` if there is none of the name.
fn export<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    instance: Instance,
    name: &'static str,
) -> Result<Option<TypedFunc<P, R>>, BuildError> {
    let Some(function) = instance.get_func(&mut *store, name) else { return Ok(None) };
    let typed = function.typed::<P, R>(&*store);
    typed.map(Some).map_err(|error| BuildError::Signature { name: name.into(), detail: format!("{error:#}") })
}

fn callbacks(store: &mut Store<State>, instance: Instance, abi: AbiVersion) -> Result<Callbacks, BuildError> {
    let mut headers = |name| {
        Ok(match abi {
            AbiVersion::V0_1_0 => export(store, instance, name)?.map(OnHeaders::Old),
            AbiVersion::V0_2_0 | AbiVersion::V0_2_1 => export(store, instance, name)?.map(OnHeaders::New),
        })
    };
    Ok(Callbacks {
        request_headers: headers("proxy_on_request_headers")?,
        response_headers: headers("proxy_on_response_headers")?,
        context_create: export(store, instance, "proxy_on_context_create")?,
        request_body: export(store, instance, "proxy_on_request_body")?,
        response_body: export(store, instance, "proxy_on_response_body")?,
        done: export(store, instance, "proxy_on_done")?,
        log: export(store, instance, "proxy_on_log")?,
        delete: export(store, instance, "proxy_on_delete")?,
        tick: export(store, instance, "proxy_on_tick")?,
        queue_ready: export(store, instance, "proxy_on_queue_ready")?,
    })
}
