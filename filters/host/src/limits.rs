//! Every bound of the host in one place, with its arithmetic. Knows no wasmtime type.

use std::time::Duration;

use crate::error::HostError;

/// Elements of one guest table (function pointers); Rust modules have hundreds.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;

/// Bounds of the whole process.
#[derive(Debug, Clone)]
pub struct HostLimits {
    /// VMs alive at once. Each open chain needs (threads x filters), twice while a swap is under way;
    /// 256 serves 8 threads x 4 filters x 4 routes with room for one swap.
    pub vms_max: u32,
    /// The most linear memory that any filter may be given, bytes.
    pub vm_memory_bytes_max: usize,
    /// Largest module accepted, bytes.
    pub module_bytes_max: usize,
    /// Compiled modules kept by digest, so that a roll-back or a second route compiles nothing.
    pub modules_cached_max: usize,
    /// Resolution of CPU budgets: one thread wakes this often.
    pub epoch_tick: Duration,
    /// Native stack that a guest may use, bytes; worker threads must have more.
    pub wasm_stack_bytes_max: usize,
    /// Shared data, keys in all.
    pub shared_keys_max: usize,
    /// Shared data, bytes in all (keys and values).
    pub shared_bytes_max: usize,
    /// Shared queues in all.
    pub queues_max: usize,
    /// Items waiting in one shared queue.
    pub queue_items_max: usize,
    /// Bytes waiting in one shared queue.
    pub queue_bytes_max: usize,
}

impl Default for HostLimits {
    fn default() -> Self {
        HostLimits {
            vms_max: 256,
            vm_memory_bytes_max: 64 << 20,
            module_bytes_max: 16 << 20,
            modules_cached_max: 32,
            epoch_tick: Duration::from_millis(2),
            wasm_stack_bytes_max: 512 << 10,
            shared_keys_max: 65_536,
            shared_bytes_max: 64 << 20,
            queues_max: 1_024,
            queue_items_max: 4_096,
            queue_bytes_max: 4 << 20,
        }
    }
}

impl HostLimits {
    pub(crate) fn check(&self) -> Result<(), HostError> {
        let refuse = |name, value: String, hint| Err(HostError::Limit { name, value, hint });
        if self.vms_max == 0 {
            return refuse("vms_max", "0".into(), "at least 1");
        }
        if self.epoch_tick < Duration::from_micros(100) {
            return refuse(
                "epoch_tick",
                format!("{:?}", self.epoch_tick),
                "at least 100 µs, or the ticker eats a core",
            );
        }
        if !(1 << 16..=1 << 32).contains(&(self.vm_memory_bytes_max as u64)) {
            return refuse("vm_memory_bytes_max", self.vm_memory_bytes_max.to_string(), "between 64 KiB and 4 GiB");
        }
        if self.wasm_stack_bytes_max < 64 << 10 {
            return refuse("wasm_stack_bytes_max", self.wasm_stack_bytes_max.to_string(), "at least 64 KiB");
        }
        Ok(())
    }
}

/// Bounds of one filter.
#[derive(Debug, Clone)]
pub struct FilterLimits {
    /// Time that one callback may take before it is cut: half of it wall-clock, the rest CPU time of its
    /// thread, so that an endless loop ends and a thread that had to wait is not blamed.
    pub callback_budget: Duration,
    /// The same for start and configuration, which parse settings and data.
    pub start_budget: Duration,
    /// Linear memory of one VM, bytes; at most [`HostLimits::vm_memory_bytes_max`].
    pub memory_bytes_max: usize,
    /// Log lines a second and VM; more are counted and dropped.
    pub log_lines_per_second_max: u32,
    /// Metrics that one VM may define.
    pub metrics_max: usize,
    /// Bytes that the filter may hold back per stream and direction by answering Pause.
    pub held_bytes_max: usize,
    /// The largest body that the filter may make of a chunk, bytes.
    pub body_bytes_max: usize,
    /// Bytes of `proxy_set_property` per stream.
    pub stored_bytes_max: usize,
    /// Calls to other services that one VM may have under way.
    pub callouts_max: usize,
}

impl Default for FilterLimits {
    fn default() -> Self {
        FilterLimits {
            callback_budget: Duration::from_millis(50),
            start_budget: Duration::from_secs(2),
            memory_bytes_max: 32 << 20,
            log_lines_per_second_max: 100,
            metrics_max: 256,
            held_bytes_max: 1 << 20,
            body_bytes_max: 4 << 20,
            stored_bytes_max: 16 << 10,
            callouts_max: 256,
        }
    }
}
