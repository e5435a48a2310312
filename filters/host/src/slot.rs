//! One filter's place on one thread: its VM, thrown away when it fails and made again on demand.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::callouts::Callouts;
use crate::error::Cause;
use crate::filter::Filter;
use crate::rest::Rest;
use crate::state::{Home, Shard, count};
use crate::tap::Tap;
use crate::vm::{StartFailure, Vm};

pub(crate) struct Slot {
    pub(crate) filter: Filter,
    pub(crate) vm: Option<Vm>,
    /// Counts VMs, from 1; a seat of another life must be taken anew.
    pub(crate) life: u32,
    rest: Rest,
    pub(crate) counters: Arc<Shard>,
    place: usize,
    callouts: Rc<dyn Callouts>,
    /// Who looks on.
    pub(crate) tap: Option<Box<dyn Tap>>,
}

impl Slot {
    pub(crate) fn new(filter: &Filter, place: usize, callouts: Rc<dyn Callouts>) -> Self {
        let counters = filter.inner.metrics.shard();
        Slot { filter: filter.clone(), vm: None, life: 0, rest: Rest::default(), counters, place, callouts, tap: None }
    }

    /// The VM, made if there is none and its rest is over.
    pub(crate) fn vm(&mut self) -> Result<&mut Vm, Cause> {
        if self.vm.is_none() {
            let now = Instant::now();
            if !self.rest.is_over(now) {
                return Err(Cause::Resting);
            }
            self.counters.resting.store(0, Ordering::Relaxed);
            let life = self.life.checked_add(1).unwrap_or(1);
            let home = Home { place: self.place, life, callouts: self.callouts.clone() };
            match Vm::start(&self.filter.inner, &self.counters, &home) {
                Ok(vm) => (self.vm, self.life) = (Some(vm), life),
                Err(failure) => return Err(self.not_started(failure)),
            }
        }
        self.vm.as_mut().ok_or(Cause::Start)
    }

    #[cold]
    fn not_started(&mut self, failure: StartFailure) -> Cause {
        self.strike();
        tracing::error!(target: "bawaba::filter", filter = &**self.filter.name(), ?failure, "no VM could be made");
        Cause::Start
    }

    /// Throws the VM away and counts a strike. The next stream to come makes a new one.
    #[cold]
    pub(crate) fn lose_vm(&mut self) {
        self.vm = None;
        self.strike();
    }

    /// After some failures in a row the filter rests, and `on_failure` is the verdict meanwhile.
    fn strike(&mut self) {
        if self.rest.strike(Instant::now()) {
            count(&self.counters.rests);
            self.counters.resting.store(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.counters.resting.store(0, Ordering::Relaxed);
    }
}
