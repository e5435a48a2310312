//! The host: what all filters of a process share.

use std::sync::Arc;

use crate::error::{BuildError, HostError};
use crate::filter::{Filter, FilterSpec};
use crate::limits::HostLimits;

/// One per process.
pub struct Host {
    limits: HostLimits,
}

impl Host {
    /// Makes the engine and starts the thread that enforces CPU budgets.
    pub fn new(limits: HostLimits) -> Result<Arc<Host>, HostError> {
        limits.check()?;
        Ok(Arc::new(Host { limits }))
    }

    /// Compiles, links, starts and configures a module once, as a test of it. Slow (hundreds of
    /// milliseconds for a module not seen before): call it off the path.
    pub fn build(&self, spec: FilterSpec) -> Result<Filter, BuildError> {
        if spec.module.len() > self.limits.module_bytes_max {
            return Err(BuildError::TooLarge { bytes: spec.module.len(), bytes_max: self.limits.module_bytes_max });
        }
        Ok(Filter::new(spec))
    }
}
