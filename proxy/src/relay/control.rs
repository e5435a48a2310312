//! What others may know and ask of one relay session: operators list it, time and drain end it, a filter's timer
//! closes it. One walk over all a few times a second ([`Control::sweep`]), instead of a timer for each.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_filter_host::StreamToken;

use crate::context::ConnectionContext;
use crate::worker::SessionSummary;

/// What a worker knows of each of its relay sessions: enough to list them, to end them, and to notice that they stand.
pub struct Control {
    /// The session's number on its worker.
    pub number: u64,
    /// What admin shows.
    pub summary: SessionSummary,
    /// When its token ends, in seconds since the epoch.
    pub expires_at: Option<i64>,
    /// Its stream in the chain.
    pub(super) token: Cell<Option<StreamToken>>,
    /// How it is to end, once somebody has decided.
    end: Cell<Option<(CloseCode, &'static str)>>,
    /// When a paced close is due.
    close_at: Cell<Option<Instant>>,
    pub(super) last_data: Cell<Instant>,
    pub(super) stalled_since: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Control {
    pub(super) fn new(number: u64, context: &Arc<ConnectionContext>, token: Option<StreamToken>) -> Self {
        let now = Instant::now();
        Self {
            number,
            summary: SessionSummary { context: Arc::clone(context), opened_at: now },
            expires_at: context.expires_at,
            token: Cell::new(token),
            end: Cell::new(None),
            close_at: Cell::new(None),
            last_data: Cell::new(now),
            stalled_since: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// How it is to end, once somebody has decided.
    pub(super) fn end(&self) -> Option<(CloseCode, &'static str)> {
        self.end.get()
    }

    /// Wakes this task when the session is to end.
    pub(super) fn watch(&self, waker: &Waker) {
        let mut watching = self.waker.borrow_mut();
        if !watching.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *watching = Some(waker.clone());
        }
    }

    /// Ends the session, if nobody else has.
    pub fn close(&self, code: CloseCode, reason: &'static str) {
        if self.end.get().is_none() {
            self.end.set(Some((code, reason)));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ends it at `at`, unless an earlier end was decided.
    pub fn close_at(&self, at: Instant) {
        self.close_at.set(Some(self.close_at.get().map_or(at, |known| known.min(at))));
    }

    /// Whether a filter closed this stream.
    pub fn is(&self, token: StreamToken) -> bool {
        self.token.get() == Some(token)
    }

    /// Looks at its time limits.
    pub fn sweep(&self, now: Instant, unix: i64, timeouts: &crate::config::Timeouts) {
        let over = |since: Instant, limit: std::time::Duration| !limit.is_zero() && now.duration_since(since) >= limit;
        if self.close_at.get().is_some_and(|at| now >= at) {
            self.close(CloseCode::RESTART, "the edge restarts: come back");
        } else if self.expires_at.is_some_and(|end| unix >= end) {
            self.close(CloseCode::AUTH_ENDED, "the token has expired");
        } else if over(self.last_data.get(), timeouts.relay_idle) {
            self.close(CloseCode::GOING_AWAY, "no message in either direction (timeout relay_idle)");
        } else if self.stalled_since.get().is_some_and(|since| over(since, timeouts.write_stall)) {
            self.close(CloseCode::SLOW, "nothing was taken for too long (timeout write_stall)");
        }
    }
}
