//! The host: what all filters of a process share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Module, PoolingAllocationConfig};

use crate::abi::Imports;
use crate::abi::metrics::{GuestMetric, MetricRegistry};
use crate::error::{BuildError, HostError};
use crate::filter::{Filter, FilterSpec};
use crate::limits::{HostLimits, TABLE_ELEMENTS_MAX};
use crate::shared::Shared;

/// One per process.
pub struct Host {
    pub(crate) limits: HostLimits,
    pub(crate) engine: Engine,
    pub(crate) imports: Imports,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<MetricRegistry>,
    /// By digest, oldest first out.
    modules: Mutex<(HashMap<[u8; 32], Module>, Vec<[u8; 32]>)>,
    ended: Arc<AtomicBool>,
}

impl Host {
    /// Makes the engine and starts the thread that enforces CPU budgets.
    pub fn new(limits: HostLimits) -> Result<Arc<Host>, HostError> {
        limits.check()?;
        let broken = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        let engine = Engine::new(&config(&limits)).map_err(broken)?;
        let imports = Imports::new(&engine).map_err(broken)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (ticking, stop, period) = (engine.weak(), ended.clone(), limits.epoch_tick);
        let tick = move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(period);
                match ticking.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        };
        std::thread::Builder::new().name("filter-budget".into()).spawn(tick).map_err(HostError::Ticker)?;
        let shared = Arc::new(Shared::new(limits.clone()));
        Ok(Arc::new(Host {
            limits,
            engine,
            imports,
            shared,
            metrics: Arc::default(),
            modules: Mutex::default(),
            ended,
        }))
    }

    /// Compiles, links, starts and configures a module once, as a test of it. Slow (hundreds of
    /// milliseconds for a module not seen before): call it off the path.
    pub fn build(&self, spec: FilterSpec) -> Result<Filter, BuildError> {
        if spec.module.len() > self.limits.module_bytes_max {
            return Err(BuildError::TooLarge { bytes: spec.module.len(), bytes_max: self.limits.module_bytes_max });
        }
        if !spec.module.starts_with(b"\0asm\x01\0\0\0") {
            let first = spec.module.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            let found = if first.is_empty() { "nothing".into() } else { first };
            return Err(BuildError::NotWasm { found });
        }
        let digest: [u8; 32] = Sha256::digest(&spec.module).into();
        let module = self.compiled(digest, &spec.module)?;
        Filter::new(self, spec, digest, &module)
    }

    /// Metrics that filters defined, by filter and name.
    pub fn guest_metrics(&self) -> Vec<GuestMetric> {
        self.metrics.read()
    }

    fn compiled(&self, digest: [u8; 32], wasm: &[u8]) -> Result<Module, BuildError> {
        let lock = || self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = lock().0.get(&digest) {
            return Ok(module.clone());
        }
        let module = Module::new(&self.engine, wasm).map_err(|error| BuildError::Compile(format!("{error:#}")))?;
        let mut modules = lock();
        if modules.0.insert(digest, module.clone()).is_none() {
            modules.1.push(digest);
        }
        while modules.1.len() > self.limits.modules_cached_max {
            let oldest = modules.1.remove(0);
            modules.0.remove(&oldest);
        }
        Ok(module)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn config(limits: &HostLimits) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(limits.vms_max)
        .total_memories(limits.vms_max)
        .total_tables(limits.vms_max * 2)
        .max_tables_per_module(2)
        .max_memory_size(limits.vm_memory_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        // A slot that is used again keeps its first pages, so that a new VM is microseconds away.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(32 << 10);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .max_wasm_stack(limits.wasm_stack_bytes_max)
        // Modules are small and their traps are logged by word, not by frame.
        .wasm_backtrace_max_frames(None);
    config
}
