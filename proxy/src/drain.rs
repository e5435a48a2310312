//! Drain: how the process ends without dropping anyone. Readiness goes off, new sessions are refused, open ones are
//! told when and where to come back and closed in a paced way, and at the deadline the process ends.

use std::time::{Duration, Instant};

use crate::shared::Shared;

/// Whether the process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// No.
    Serving,
    /// Yes.
    Draining {
        /// Since when.
        since: Instant,
        /// Over how long the open sessions are closed.
        window: Duration,
    },
}

/// Begins to drain; again has no effect.
pub fn begin(shared: &Shared) {
    let window = shared.config.edge.drain_window;
    shared.drain.send_if_modified(|drain| {
        let first = *drain == Drain::Serving;
        if first {
            *drain = Drain::Draining { since: Instant::now(), window };
        }
        first
    });
}
