//! A filter: a module that was compiled, linked, started and configured once, and can be again at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::{ExternType, InstancePre, Module, Val, ValType};

use crate::abi::metrics::MetricRegistry;
use crate::abi::wasi;
use crate::error::BuildError;
use crate::host::Host;
use crate::limits::FilterLimits;
use crate::shared::Shared;
use crate::state::{Shard, State};
use crate::vm::Vm;

/// What happens to a message on which the filter could give no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is refused, and its stream ends.
    Deny,
    /// It passes as it came.
    Allow,
}

/// What a filter is made of.
#[derive(Debug, Clone)]
pub struct FilterSpec {
    /// Name in logs and metrics; the guest reads it as `plugin_name`.
    pub name: String,
    /// The wasm bytes.
    pub module: Vec<u8>,
    /// Plugin configuration.
    pub settings: Vec<u8>,
    /// VM configuration.
    pub vm_configuration: Vec<u8>,
    /// Namespace of shared data and queues; the guest reads it as `plugin_vm_id`.
    pub vm_id: String,
    /// Which of a module's root contexts; the guest reads it as `plugin_root_id`.
    pub root_id: String,
    /// Verdict where the module gives none.
    pub on_failure: OnFailure,
    /// Its bounds.
    pub limits: FilterLimits,
}

/// Counters of one filter name, summed over threads and over rebuilds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterMetrics {
    /// Callbacks made.
    pub calls: u64,
    /// Callbacks that trapped, for whatever reason.
    pub traps: u64,
    /// Traps because the CPU budget was spent.
    pub budget_exceeded: u64,
    /// Traps because memory was refused.
    pub memory_exceeded: u64,
    /// Messages that passed without a verdict (`on_failure = allow`).
    pub passed_unjudged: u64,
    /// Messages or handshakes denied for want of a verdict (`on_failure = deny`).
    pub denied: u64,
    /// VMs made since the start of the process.
    pub vms_created: u64,
    /// VMs alive.
    pub vms: u64,
    /// Streams attached again after their VM was lost.
    pub reattached: u64,
    /// Log lines dropped by the rate limit.
    pub log_lines_dropped: u64,
}

/// A module ready to be chained. Cheap to clone.
#[derive(Clone)]
pub struct Filter {
    pub(crate) inner: Arc<FilterInner>,
}

/// The ABI versions that this host speaks; they differ in a few arguments and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbiVersion {
    V0_1_0,
    V0_2_0,
    V0_2_1,
}

/// What every VM of a filter is made from.
pub(crate) struct FilterInner {
    pub(crate) name: Arc<str>,
    pub(crate) root_id: String,
    pub(crate) vm_id: String,
    pub(crate) settings: Vec<u8>,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) on_failure: OnFailure,
    pub(crate) limits: FilterLimits,
    pub(crate) abi: AbiVersion,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metric_registry: Arc<MetricRegistry>,
    pub(crate) instance: InstancePre<State>,
    /// CPU budgets in ticks of the epoch.
    pub(crate) callback_ticks: u64,
    pub(crate) start_ticks: u64,
    digest: String,
    sections: Vec<(String, Vec<u8>)>,
    shards: Mutex<Vec<Arc<Shard>>>,
}

impl Drop for FilterInner {
    fn drop(&mut self) {
        self.shared.leave(&self.vm_id);
    }
}

impl FilterInner {
    /// Counters for one more thread.
    pub(crate) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        shard
    }
}

impl Filter {
    pub(crate) fn new(host: &Host, spec: FilterSpec, digest: [u8; 32], module: &Module) -> Result<Self, BuildError> {
        let abi = abi_version(module)?;
        let instance = link(host, module)?;
        let ticks = |budget: Duration| {
            // One more: the tick under way may end at once.
            1 + budget.as_nanos().div_ceil(host.limits.epoch_tick.as_nanos().max(1)) as u64
        };
        let mut limits = spec.limits;
        limits.memory_bytes_max = limits.memory_bytes_max.min(host.limits.vm_memory_bytes_max);
        host.shared.enter(&spec.vm_id);
        let inner = Arc::new(FilterInner {
            name: spec.name.into(),
            root_id: spec.root_id,
            vm_id: spec.vm_id,
            settings: spec.settings,
            vm_configuration: spec.vm_configuration,
            on_failure: spec.on_failure,
            callback_ticks: ticks(limits.callback_budget),
            start_ticks: ticks(limits.start_budget),
            limits,
            abi,
            shared: host.shared.clone(),
            metric_registry: host.metrics.clone(),
            instance,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            sections: custom_sections(&spec.module),
            shards: Mutex::default(),
        });
        // The self-test: a module that can't start or takes no liking to its settings never becomes a filter.
        let shard = inner.shard();
        drop(Vm::start(&inner, shard)?);
        Ok(Filter { inner })
    }

    /// The configured name.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// SHA-256 of the module, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// What the configuration says of failures.
    pub fn on_failure(&self) -> OnFailure {
        self.inner.on_failure
    }

    /// The contents of a custom section of the module, as `bawaba.audience`.
    pub fn custom_section(&self, name: &str) -> Option<&[u8]> {
        self.inner.sections.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// The counters now.
    pub fn metrics(&self) -> FilterMetrics {
        let shards = self.inner.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let sum =
            |field: fn(&Shard) -> &AtomicU64| shards.iter().map(|shard| field(shard).load(Ordering::Relaxed)).sum();
        let vms_created: u64 = sum(|shard| &shard.vms_created);
        let vms_dropped: u64 = sum(|shard| &shard.vms_dropped);
        FilterMetrics {
            calls: sum(|shard| &shard.calls),
            traps: sum(|shard| &shard.traps),
            budget_exceeded: sum(|shard| &shard.budget_exceeded),
            memory_exceeded: sum(|shard| &shard.memory_exceeded),
            passed_unjudged: sum(|shard| &shard.passed_unjudged),
            denied: sum(|shard| &shard.denied),
            vms_created,
            vms: vms_created.saturating_sub(vms_dropped),
            reattached: sum(|shard| &shard.reattached),
            log_lines_dropped: sum(|shard| &shard.log_lines_dropped),
        }
    }
}

fn abi_version(module: &Module) -> Result<AbiVersion, BuildError> {
    let mut found = Vec::new();
    for export in module.exports() {
        match export.name().strip_prefix("proxy_abi_version_") {
            Some("0_2_1") => return Ok(AbiVersion::V0_2_1),
            Some("0_2_0") => return Ok(AbiVersion::V0_2_0),
            Some("0_1_0") => return Ok(AbiVersion::V0_1_0),
            Some(other) => found.push(other.replace('_', ".")),
            None => {}
        }
    }
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    Err(BuildError::Abi { found })
}

/// Links a module: every import must be one that a proxy-wasm host offers; what WASI has besides answers ENOSYS.
fn link(host: &Host, module: &Module) -> Result<InstancePre<State>, BuildError> {
    let mut linker = host.imports.linker.clone();
    for import in module.imports() {
        let (from, name) = (import.module(), import.name());
        if host.imports.names.contains(&(from, name)) {
            continue;
        }
        let unknown = || BuildError::UnknownImport { module: from.into(), name: name.into() };
        let (true, ExternType::Func(signature)) = (wasi::MODULES.contains(&from), import.ty()) else {
            return Err(unknown());
        };
        let results = signature.results().collect::<Vec<_>>();
        linker
            .func_new(from, name, signature, move |_, _, answers| {
                for (answer, kind) in answers.iter_mut().zip(&results) {
                    *answer = match kind {
                        ValType::I32 => Val::I32(wasi::NOSYS),
                        _ => Val::I64(0),
                    };
                }
                Ok(())
            })
            .map_err(|_| unknown())?;
    }
    linker
        .instantiate_pre(module)
        .map_err(|error| BuildError::Signature { name: "import".into(), detail: format!("{error:#}") })
}

/// Name and contents of every custom section. The module has been validated before.
fn custom_sections(wasm: &[u8]) -> Vec<(String, Vec<u8>)> {
    fn leb(bytes: &mut &[u8]) -> Option<usize> {
        let mut value = 0usize;
        for shift in (0..35).step_by(7) {
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= usize::from(first & 0x7F) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    let mut sections = Vec::new();
    let mut rest = wasm.get(8..).unwrap_or_default();
    while let Some((id, after)) = rest.split_first() {
        rest = after;
        let Some(len) = leb(&mut rest) else { break };
        let Some((mut body, after)) = rest.split_at_checked(len) else { break };
        rest = after;
        if *id == 0
            && let Some(name_len) = leb(&mut body)
            && let Some((name, contents)) = body.split_at_checked(name_len)
        {
            sections.push((String::from_utf8_lossy(name).into_owned(), contents.to_vec()));
        }
    }
    sections
}
