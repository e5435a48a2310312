//! The host: what all filters of a process share. The engine, the functions that modules import, the
//! thread that counts time for CPU budgets, compiled modules by digest, shared data, counters.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, Module, OptLevel, PoolingAllocationConfig, Val};

use crate::abi::{Imports, wasi};
use crate::aot::Cache;
use crate::callouts::SilentCallouts;
use crate::error::{BuildError, HostError};
use crate::filter::{Filter, FilterInner, FilterSpec, ticks};
use crate::foreign::ForeignFunctions;
use crate::image;
use crate::limits::{HostLimits, TABLE_ELEMENTS_MAX};
use crate::metrics::{Board, BoardCollector};
use crate::module::{Exports, abi_version, custom_sections, missing_wasi};
use crate::shared::Shared;
use crate::state::Home;
use crate::vm::{StartFailure, Vm};

const WASM_MAGIC: [u8; 8] = [0, b'a', b's', b'm', 1, 0, 0, 0];
/// Bytes of a VM's memory that stay mapped when its slot is given back, to be zeroed instead of faulted in again.
const KEEP_RESIDENT_BYTES: usize = 128 << 10;

/// One for the function pointers of a language runtime, one for references.
const TABLES_PER_MODULE_MAX: u32 = 2;
/// Frames of a trapped guest in the log: enough to name the function, few enough to stay cheap.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// What a host may have besides its limits.
#[derive(Clone, Default)]
pub struct HostOptions {
    /// Functions of our own for filters to call by name.
    pub functions: ForeignFunctions,
    /// Where compiled modules are kept for the next start. A directory of this user alone; made if it is not there.
    pub cache_directory: Option<PathBuf>,
}

/// One per process.
pub struct Host {
    engine: Engine,
    imports: Imports,
    limits: HostLimits,
    shared: Arc<Shared>,
    foreign: ForeignFunctions,
    cache: Option<Cache>,
    board: Arc<Board>,
    /// Compiled modules, the most recently used last.
    compiled: Mutex<Vec<(String, Module)>>,
}

impl Host {
    /// Makes the engine and starts the thread that enforces CPU budgets.
    pub fn new(limits: HostLimits) -> Result<Arc<Host>, HostError> {
        Host::with(limits, HostOptions::default())
    }

    /// The same, with more than every host has.
    pub fn with(limits: HostLimits, options: HostOptions) -> Result<Arc<Host>, HostError> {
        limits.check()?;
        let engine = engine(&limits)?;
        let imports = Imports::new(&engine).map_err(|error| HostError::Engine(format!("{error:#}")))?;
        start_ticker(&engine, limits.epoch_tick)?;
        let shared = Arc::new(Shared::new(limits.clone()));
        let HostOptions { functions: foreign, cache_directory } = options;
        let cache = cache_directory
            .map(|directory| Cache::open(&directory).map_err(|error| HostError::Cache { directory, error }));
        let cache = cache.transpose()?;
        Ok(Arc::new(Host {
            engine,
            imports,
            limits,
            shared,
            foreign,
            cache,
            board: Arc::default(),
            compiled: Mutex::default(),
        }))
    }

    /// Compiles, links, starts and configures a module once, as a test of it. Slow (hundreds of
    /// milliseconds for a module not seen before): call it off the path.
    pub fn build(&self, spec: FilterSpec) -> Result<Filter, BuildError> {
        let counted_as = spec.name.clone();
        self.build_as(spec, &counted_as)
    }

    /// The same for a filter that is counted under another name than the guest reads: a candidate, say.
    pub fn build_as(&self, spec: FilterSpec, counted_as: &str) -> Result<Filter, BuildError> {
        let digest = hex(&Sha256::digest(&spec.module));
        self.check(&spec.module)?;
        // With its globals in reach, so that a configured VM can be kept as an image.
        let prepared = image::prepare(&spec.module);
        let imaged_globals = prepared.as_ref().map(|(_, globals)| *globals);
        let wasm = prepared.map_or(Cow::Borrowed(&spec.module[..]), |(wasm, _)| wasm);
        let module = self.compile(&digest, &wasm)?;
        let abi = abi_version(&module)?;
        let exports = Exports::find(&module, abi)?;
        let pre = self.link(&module)?;
        self.shared.enter(&spec.vm_id);
        let tick = self.limits.epoch_tick;
        let mut limits = spec.limits;
        limits.memory_bytes_max = limits.memory_bytes_max.min(self.limits.vm_memory_bytes_max);
        let inner = Arc::new(FilterInner {
            metrics: self.board.counters(counted_as),
            name: spec.name.into(),
            digest,
            sections: custom_sections(&spec.module),
            settings: spec.settings,
            vm_configuration: spec.vm_configuration,
            vm_id: spec.vm_id,
            root_id: spec.root_id,
            on_failure: spec.on_failure,
            tick,
            callback_ticks: ticks(limits.callback_budget, tick),
            start_ticks: ticks(limits.start_budget, tick),
            limits,
            abi,
            exports,
            pre,
            shared: self.shared.clone(),
            foreign: self.foreign.clone(),
            imaged_globals,
            image: OnceLock::new(),
        });
        // The self-test: a VM that is thrown away at once.
        let home = Home { place: 0, life: 0, callouts: Rc::new(SilentCallouts) };
        match Vm::start(&inner, &inner.metrics.shard(), &home) {
            Ok(vm) => vm.shut_down(),
            Err(failure) => return Err(failure.into()),
        }
        Ok(Filter { inner })
    }

    /// Counters and guest metrics of all filters, for a prometheus registry.
    pub fn collector(&self) -> Box<dyn prometheus::core::Collector> {
        Box::new(BoardCollector::new(self.board.clone()))
    }

    fn check(&self, bytes: &[u8]) -> Result<(), BuildError> {
        if !bytes.starts_with(&WASM_MAGIC) {
            let found = if bytes.is_empty() { "nothing".to_owned() } else { spaced_hex(&bytes[..bytes.len().min(8)]) };
            return Err(BuildError::NotWasm { found });
        }
        if bytes.len() > self.limits.module_bytes_max {
            return Err(BuildError::TooLarge { bytes: bytes.len(), bytes_max: self.limits.module_bytes_max });
        }
        Ok(())
    }

    /// From memory, from disk, or by the compiler.
    fn compile(&self, digest: &str, bytes: &[u8]) -> Result<Module, BuildError> {
        if let Some(module) = self.cached(digest) {
            self.board.modules.remembered();
            return Ok(module);
        }
        let module = match self.cache.as_ref().and_then(|cache| cache.load(&self.engine, bytes)) {
            Some(module) => {
                self.board.modules.loaded();
                module
            }
            None => {
                let module = Module::from_binary(&self.engine, bytes);
                let module = module.map_err(|error| BuildError::Compile(format!("{error:#}")))?;
                self.board.modules.compiled();
                if let Some(cache) = &self.cache {
                    cache.store(&self.engine, bytes, &module);
                }
                module
            }
        };
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.len() >= self.limits.modules_cached_max && !compiled.is_empty() {
            compiled.remove(0);
        }
        compiled.push((digest.to_owned(), module.clone()));
        Ok(module)
    }

    fn cached(&self, digest: &str) -> Option<Module> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let at = compiled.iter().position(|(known, _)| known == digest)?;
        let entry = compiled.remove(at);
        let module = entry.1.clone();
        compiled.push(entry);
        Some(module)
    }

    fn link(&self, module: &Module) -> Result<wasmtime::InstancePre<crate::state::State>, BuildError> {
        let mut linker = self.imports.linker.clone();
        for (from, name, ty) in missing_wasi(module, &self.imports)? {
            let answers = ty.results().len();
            let defined = linker.func_new(&from, &name, ty, move |_, _, results| {
                if answers == 1 {
                    results[0] = Val::I32(wasi::NOSYS);
                }
                Ok(())
            });
            defined.map_err(|error| BuildError::Instantiate(format!("{error:#}")))?;
        }
        linker.instantiate_pre(module).map_err(|error| {
            let text = format!("{error:#}");
            // The engine names a function of the wrong type between backticks.
            match text.split('`').nth(1) {
                Some(name) if text.contains("incompatible import type") => {
                    BuildError::Signature { name: name.replace("::", "."), detail: text.clone() }
                }
                _ => BuildError::Instantiate(text),
            }
        })
    }
}

impl From<StartFailure> for BuildError {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::Instantiate(text) => BuildError::Instantiate(text),
            StartFailure::Failed { callback, cause, said } => BuildError::Start { callback, cause, said },
            StartFailure::Refused { what, callback, said } => BuildError::Refused { what, callback, said },
        }
    }
}

/// Address space reserved for one memory: with all of 4 GiB reserved, compiled code needs no bounds
/// checks. It is only address space, but where a machine forbids so much, checks take its place.
fn engine(limits: &HostLimits) -> Result<Engine, HostError> {
    let whole = 4u64 << 30;
    let exact = (limits.vm_memory_bytes_max as u64).next_multiple_of(64 << 10);
    let first = Engine::new(&config(limits, whole));
    first.or_else(|_| Engine::new(&config(limits, exact))).map_err(|error| HostError::Engine(format!("{error:#}")))
}

fn config(limits: &HostLimits, reservation_bytes: u64) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(limits.vms_max)
        .total_memories(limits.vms_max)
        .total_tables(limits.vms_max.saturating_mul(TABLES_PER_MODULE_MAX))
        .max_memories_per_module(1)
        .max_tables_per_module(TABLES_PER_MODULE_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(limits.vm_memory_bytes_max)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .max_unused_warm_slots(limits.vms_max.min(64))
        // Where the kernel can tell (Linux 6.7), only pages that a VM wrote to are cleaned behind it.
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(reservation_bytes)
        .epoch_interruption(true)
        .max_wasm_stack(limits.wasm_stack_bytes_max)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_multi_memory(false)
        .wasm_memory64(false);
    config
}

/// Counts time for as long as any filter of this engine lives, also after its `Host` is gone.
fn start_ticker(engine: &Engine, tick: Duration) -> Result<(), HostError> {
    let engine = engine.weak();
    let run = move || {
        loop {
            std::thread::sleep(tick);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => break,
            }
        }
    };
    std::thread::Builder::new().name("filter-epoch".to_owned()).spawn(run).map(drop).map_err(HostError::Ticker)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn spaced_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
