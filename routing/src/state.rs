//! What is known of an endpoint, and how that changes: checks, failed connections, announcements, outliers.

use std::time::Duration;

use crate::settings::Outlier;

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No check has ended yet: taken only where nothing is known to serve.
    Unchecked,
    /// Takes sessions.
    Serving,
    /// A connection failed or a trunk was lost since the last good check: not taken until one succeeds.
    Suspect,
    /// Answers, but asks to be left (readiness is off, an announcement says so, or no source names it any more).
    Draining,
    /// Answers checks, but fails or delays what sessions ask of it: left alone for a while.
    Ejected,
    /// Does not answer.
    Gone,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unchecked, Self::Serving, Self::Suspect, Self::Draining, Self::Ejected, Self::Gone];

    /// The label in admin and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Serving => "serving",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Gone => "gone",
        }
    }

    pub(crate) const fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Unchecked,
            1 => Self::Serving,
            2 => Self::Suspect,
            3 => Self::Draining,
            4 => Self::Ejected,
            _ => Self::Gone,
        }
    }
}

/// What one check of an endpoint found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It serves.
    Ready,
    /// It answers, but not with 200.
    NotReady,
    /// No answer in time.
    Silent,
}

/// How many findings in a row make a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
}

/// The state of one endpoint, and what it hangs on.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    checked: State,
    good_in_a_row: u32,
    bad_in_a_row: u32,
    /// An announcement asks to leave it.
    pub(crate) asks_to_be_left: bool,
    /// No source names it any more.
    pub(crate) is_removed: bool,
    /// Connections of sessions that failed since one succeeded.
    pub(crate) failures_in_a_row: u32,
    /// Until when it is left alone.
    pub(crate) ejected_until: Option<Duration>,
    /// Looks in a row that found it slow.
    pub(crate) slow_looks: u32,
    /// How often in succession: each time is longer.
    pub(crate) ejections: u32,
    /// Whether it has served before, or was there from the start: what comes later begins slowly.
    pub(crate) begins_at_once: bool,
}

impl Tracker {
    pub(crate) const fn new(begins_at_once: bool) -> Self {
        Self {
            checked: State::Unchecked,
            good_in_a_row: 0,
            bad_in_a_row: 0,
            asks_to_be_left: false,
            is_removed: false,
            failures_in_a_row: 0,
            ejected_until: None,
            slow_looks: 0,
            ejections: 0,
            begins_at_once,
        }
    }

    /// The state that follows from everything known.
    pub(crate) fn state(&self, now: Duration) -> State {
        match self.checked {
            State::Serving | State::Unchecked if self.is_removed || self.asks_to_be_left => State::Draining,
            State::Serving if self.ejected_until.is_some_and(|until| now < until) => State::Ejected,
            checked => checked,
        }
    }

    /// Takes a finding.
    pub(crate) fn note(&mut self, finding: Finding, thresholds: Thresholds) {
        if finding == Finding::Ready {
            self.bad_in_a_row = 0;
            self.good_in_a_row = self.good_in_a_row.saturating_add(1);
            if self.checked == State::Unchecked || self.good_in_a_row >= thresholds.healthy_after {
                self.checked = State::Serving;
            }
        } else {
            self.good_in_a_row = 0;
            self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
            // An endpoint that never served or already failed a connection needs no second proof.
            let sure = matches!(self.checked, State::Unchecked | State::Suspect | State::Draining | State::Gone);
            if sure || self.bad_in_a_row >= thresholds.unhealthy_after {
                self.checked = if finding == Finding::NotReady { State::Draining } else { State::Gone };
            }
        }
    }

    /// A connection to it failed or broke.
    pub(crate) fn fail(&mut self) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if matches!(self.checked, State::Serving | State::Unchecked) {
            self.checked = State::Suspect;
            self.good_in_a_row = 0;
        }
    }

    /// Leaves it alone for a while: longer each time, and as at first after it was well for the longest while.
    pub(crate) fn eject(&mut self, outlier: &Outlier, now: Duration) {
        if self.ejected_until.is_some_and(|until| now >= until + outlier.ejection_max) {
            self.ejections = 0;
        }
        self.ejections = self.ejections.saturating_add(1);
        self.failures_in_a_row = 0;
        self.ejected_until = Some(now + (outlier.ejection * self.ejections).min(outlier.ejection_max));
    }

    /// A source names it again: nothing of before counts.
    pub(crate) fn come_back(&mut self) {
        *self = Self::new(false);
    }
}
