//! A filter: a module that was compiled, linked, started and configured once, and can be again at any time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::InstancePre;

use crate::foreign::ForeignFunctions;
use crate::image::Image;
use crate::limits::FilterLimits;
use crate::metrics::Counters;
use crate::module::Exports;
use crate::shared::Shared;
use crate::state::State;

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
    /// Streams open.
    pub streams: u64,
    /// Streams attached again after their VM was lost.
    pub reattached: u64,
    /// Log lines dropped by the rate limit.
    pub log_lines_dropped: u64,
    /// Calls made to other services.
    pub callouts: u64,
    /// Calls refused because too many were under way.
    pub callouts_refused: u64,
    /// Times that the filter was left alone for a while because it failed again and again.
    pub rests: u64,
    /// Threads on which it rests now: `on_failure` is its verdict there.
    pub resting: u64,
}

/// The ABI that a module speaks, by the version that it exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbiVersion {
    V0_1_0,
    V0_2_0,
    V0_2_1,
}

impl AbiVersion {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AbiVersion::V0_1_0 => "0.1.0",
            AbiVersion::V0_2_0 => "0.2.0",
            AbiVersion::V0_2_1 => "0.2.1",
        }
    }
}

/// A module ready to be chained. Cheap to clone.
#[derive(Clone)]
pub struct Filter {
    pub(crate) inner: Arc<FilterInner>,
}

pub(crate) struct FilterInner {
    pub(crate) name: Arc<str>,
    pub(crate) digest: String,
    pub(crate) sections: Vec<(String, Vec<u8>)>,
    pub(crate) settings: Vec<u8>,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) vm_id: String,
    pub(crate) root_id: String,
    pub(crate) on_failure: OnFailure,
    pub(crate) limits: FilterLimits,
    pub(crate) abi: AbiVersion,
    pub(crate) exports: Exports,
    pub(crate) pre: InstancePre<State>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) foreign: ForeignFunctions,
    /// Mutable globals that the module exports for its image; `None` where it can have no image.
    pub(crate) imaged_globals: Option<usize>,
    /// A configured VM, once one was had that an image stands for.
    pub(crate) image: OnceLock<Image>,
    pub(crate) metrics: Arc<Counters>,
    /// Length of a tick, in which the budgets below are counted.
    pub(crate) tick: Duration,
    pub(crate) callback_ticks: u64,
    pub(crate) start_ticks: u64,
}

/// A budget in epoch ticks: rounded up, and one more because the first tick is already under way.
pub(crate) fn ticks(budget: Duration, tick: Duration) -> u64 {
    budget.as_nanos().div_ceil(tick.as_nanos().max(1)) as u64 + 1
}

impl Drop for FilterInner {
    fn drop(&mut self) {
        self.shared.leave(&self.vm_id);
    }
}

impl Filter {
    /// The configured name.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// SHA-256 of the module, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// The version of the proxy-wasm ABI that the module speaks, as `0.2.1`.
    pub fn abi_version(&self) -> &'static str {
        self.inner.abi.as_str()
    }

    /// What the configuration says of failures.
    pub fn on_failure(&self) -> OnFailure {
        self.inner.on_failure
    }

    /// The contents of a custom section of the module, as `bawaba.audience`.
    pub fn custom_section(&self, name: &str) -> Option<&[u8]> {
        self.inner.sections.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Whether new VMs begin from an image of a configured one instead of running the module's start again.
    pub fn starts_from_image(&self) -> bool {
        self.inner.image.get().is_some()
    }

    /// The counters now.
    pub fn metrics(&self) -> FilterMetrics {
        self.inner.metrics.sum()
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("name", &self.inner.name).field("digest", &self.inner.digest).finish()
    }
}
