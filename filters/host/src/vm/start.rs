//! How a VM comes up: instantiated, started, configured.

use std::sync::Arc;

use wasmtime::{AsContextMut, Store, Trap};

use super::{Vm, classify, enter};
use crate::error::Cause;
use crate::filter::FilterInner;
use crate::image::{Baseline, Image};
use crate::module::Callbacks;
use crate::state::{Budget, Call, Home, Phase, ROOT_CONTEXT, Shard, State, VM_CONTEXT, count};

/// Why a VM did not come up.
#[derive(Debug)]
pub(crate) enum StartFailure {
    Instantiate(String),
    Failed { callback: &'static str, cause: Cause, said: Option<String> },
    Refused { what: &'static str, callback: &'static str, said: Option<String> },
}

impl Vm {
    /// Instantiates, starts and configures. Every step is under the start budget.
    pub(crate) fn start(filter: &Arc<FilterInner>, counters: &Arc<Shard>, home: &Home) -> Result<Vm, StartFailure> {
        let mut store = Store::new(filter.pre.module().engine(), State::new(filter.clone(), counters.clone(), home));
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().budget.spent()));
        store.set_epoch_deadline(store.data().budget.half_ticks);
        let instance = match filter.pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) if error.is::<Trap>() => {
                let cause = classify(&error, store.data());
                return Err(StartFailure::Failed { callback: "start", cause, said: None });
            }
            Err(error) => return Err(StartFailure::Instantiate(format!("{error:#}"))),
        };
        let broken = |error: wasmtime::Error| StartFailure::Instantiate(format!("{error:#}"));
        let callbacks = filter.exports.resolve(&instance, store.as_context_mut()).map_err(broken)?;
        let malloc = filter.exports.malloc(&instance, store.as_context_mut()).map_err(broken)?;
        let memory =
            instance.get_module_export(&mut store, &filter.exports.memory).and_then(|found| found.into_memory());
        let state = store.data_mut();
        (state.memory, state.malloc) = (memory, malloc);
        count(&counters.vms_created);
        let mut vm = Vm { store, callbacks };
        match filter.image.get() {
            Some(image) => image.put(&instance, &mut vm.store).map_err(broken)?,
            None => {
                // Only the first VM, the self-test, is one to take an image of: it runs off the path.
                let baseline = memory.filter(|_| home.is_self_test()).map(|memory| Baseline::of(memory, &vm.store));
                vm.initialize()?;
                vm.configure()?;
                if let (Some(baseline), Some(globals)) = (baseline, filter.imaged_globals)
                    && let Some(image) = Image::take(&baseline, globals, &instance, &mut vm.store)
                {
                    // Set once: there is one self-test.
                    let _ = filter.image.set(image);
                }
            }
        }
        let state = vm.store.data_mut();
        state.log.listening = false;
        state.budget = Budget::new(filter.callback_ticks, filter.tick);
        Ok(vm)
    }

    fn initialize(&mut self) -> Result<(), StartFailure> {
        let Callbacks { initialize, start, main, main_void, .. } = &self.callbacks;
        let store = &mut self.store;
        let call = Call::new(VM_CONTEXT, Phase::Quiet);
        let result = if let Some(initialize) = initialize {
            enter(store, initialize, (), call).map_err(|cause| ("_initialize", cause)).and_then(|()| {
                match (main, main_void) {
                    (Some(main), _) => enter(store, main, (0, 0), call).map_err(|cause| ("main", cause)).map(drop),
                    (None, Some(main)) => enter(store, main, (), call).map_err(|cause| ("main", cause)).map(drop),
                    (None, None) => Ok(()),
                }
            })
        } else if let Some(start) = start {
            enter(store, start, (), call).map_err(|cause| ("_start", cause))
        } else {
            Ok(())
        };
        result.map_err(|(callback, cause)| self.failed(callback, cause))
    }

    fn configure(&mut self) -> Result<(), StartFailure> {
        let Callbacks { on_context_create, on_vm_start, on_configure, .. } = &self.callbacks;
        let store = &mut self.store;
        let sizes = (store.data().filter.vm_configuration.len() as u32, store.data().filter.settings.len() as u32);
        let configure = Call::new(ROOT_CONTEXT, Phase::Configure);
        if let Some(create) = on_context_create
            && let Err(cause) = enter(store, create, (ROOT_CONTEXT, 0), configure)
        {
            return Err(self.failed("proxy_on_context_create", cause));
        }
        if let Some(on_vm_start) = on_vm_start {
            let call = Call::new(ROOT_CONTEXT, Phase::Quiet);
            match enter(store, on_vm_start, (ROOT_CONTEXT, sizes.0), call) {
                Ok(0) => return Err(self.refused("VM configuration", "proxy_on_vm_start")),
                Ok(_) => {}
                Err(cause) => return Err(self.failed("proxy_on_vm_start", cause)),
            }
        }
        if let Some(on_configure) = on_configure {
            match enter(store, on_configure, (ROOT_CONTEXT, sizes.1), configure) {
                Ok(0) => return Err(self.refused("settings", "proxy_on_configure")),
                Ok(_) => {}
                Err(cause) => return Err(self.failed("proxy_on_configure", cause)),
            }
        }
        Ok(())
    }

    fn failed(&mut self, callback: &'static str, cause: Cause) -> StartFailure {
        StartFailure::Failed { callback, cause, said: self.store.data_mut().log.said.take() }
    }

    fn refused(&mut self, what: &'static str, callback: &'static str) -> StartFailure {
        StartFailure::Refused { what, callback, said: self.store.data_mut().log.said.take() }
    }
}
