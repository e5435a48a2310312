//! Drain: how the process ends without dropping anyone. Readiness goes off, new sessions are refused, open ones are
//! told when and where to come back and closed in a paced way, and at the deadline the process ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};

use crate::shared::Shared;
use crate::worker::Workers;

/// How often the end of a drain is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

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

/// Waits until every session is closed, or the window and the time for goodbyes are over.
pub async fn finished(shared: &Shared, workers: &Workers) {
    let Drain::Draining { since, window } = *shared.drain.borrow() else { return };
    let deadline = since + window + shared.config.timeouts.close;
    while workers.sessions() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    tracing::info!(sessions_left = workers.sessions(), took_ms = since.elapsed().as_millis(), "drained");
}

/// What Pingora's server waits for: SIGTERM drains first, SIGINT ends at once, SIGQUIT hands the listeners over.
pub struct DrainOnTerminate {
    /// Shared state, to begin with.
    pub shared: Arc<Shared>,
    /// The workers, whose sessions are waited for.
    pub workers: Arc<Workers>,
}

#[async_trait]
impl ShutdownSignalWatch for DrainOnTerminate {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::quit()))
        else {
            tracing::error!("signals cannot be heard: the process ends");
            return ShutdownSignal::FastShutdown;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
            _ = quit.recv() => return ShutdownSignal::GracefulUpgrade,
        }
        tracing::info!("SIGTERM: draining");
        begin(&self.shared);
        tokio::select! {
            () = finished(&self.shared, &self.workers) => {}
            _ = interrupt.recv() => {}
        }
        ShutdownSignal::FastShutdown
    }
}
