//! One filter's place on one thread: its VM, thrown away when it fails and made again on demand.

use std::sync::Arc;
use std::time::Instant;

use crate::error::Cause;
use crate::filter::Filter;
use crate::rest::Rest;
use crate::state::Shard;
use crate::vm::{StartFailure, Vm};

pub(crate) struct Slot {
    pub(crate) filter: Filter,
    pub(crate) vm: Option<Vm>,
    /// Counts VMs, from 1; a seat of another life must be taken anew.
    pub(crate) life: u32,
    rest: Rest,
    pub(crate) counters: Arc<Shard>,
}

impl Slot {
    pub(crate) fn new(filter: &Filter) -> Self {
        let counters = filter.inner.metrics.shard();
        Slot { filter: filter.clone(), vm: None, life: 0, rest: Rest::default(), counters }
    }

    /// The VM, made if there is none and its rest is over.
    pub(crate) fn vm(&mut self) -> Result<&mut Vm, Cause> {
        if self.vm.is_none() {
            let now = Instant::now();
            if !self.rest.is_over(now) {
                return Err(Cause::Resting);
            }
            let vm = Vm::start(&self.filter.inner, &self.counters).map_err(|failure| self.not_started(failure))?;
            self.life = self.life.checked_add(1).unwrap_or(1);
            self.vm = Some(vm);
        }
        self.vm.as_mut().ok_or(Cause::Start)
    }

    #[cold]
    fn not_started(&self, failure: StartFailure) -> Cause {
        tracing::error!(target: "bawaba::filter", filter = &**self.filter.name(), ?failure, "no VM could be made");
        Cause::Start
    }

    /// Throws the VM away and counts a strike. The next stream to come makes a new one.
    #[cold]
    pub(crate) fn lose_vm(&mut self) {
        self.vm = None;
        self.rest.strike(Instant::now());
    }
}
