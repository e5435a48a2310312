//! What a shadow's workers counted together. Touched only where there is a shadow.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bawaba_filter_host::Way;
use serde_json::{Value, json};

use super::Difference;

/// Differences that are shown, the newest of each kind.
const SAMPLES_MAX: usize = 5;
/// Bytes of a message in a sample.
const SAMPLE_BYTES_MAX: usize = 400;

/// Counters, and a few differences to look at.
#[derive(Debug, Default)]
pub struct Tally {
    compared: AtomicU64,
    same: AtomicU64,
    skipped: AtomicU64,
    failures: AtomicU64,
    active_nanos: AtomicU64,
    candidate_nanos: AtomicU64,
    differences: [AtomicU64; Difference::ALL.len()],
    is_off: AtomicBool,
    newest_failure: Mutex<Option<&'static str>>,
    samples: Mutex<[VecDeque<Value>; Difference::ALL.len()]>,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Tally {
    /// Whether it failed too often.
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// A callback that it had no time for.
    pub(super) fn skip(&self) {
        add(&self.skipped, 1);
    }

    /// A callback of both, and their time.
    pub(super) fn judged(&self, active: Duration, candidate: Duration) {
        add(&self.compared, 1);
        add(&self.active_nanos, nanos(active));
        add(&self.candidate_nanos, nanos(candidate));
    }

    pub(super) fn same(&self) {
        add(&self.same, 1);
    }

    pub(super) fn differs(&self, difference: Difference, way: Way, input: &[u8], active: &[u8], candidate: &[u8]) {
        let at = Difference::ALL.iter().position(|known| *known == difference).unwrap_or(0);
        add(&self.differences[at], 1);
        let direction = if way == Way::Request { "inbound" } else { "outbound" };
        let sample = json!({
            "direction": direction, "input": shown(way, input), "active": shown(way, active), "candidate": shown(way, candidate),
        });
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples[at].len() >= SAMPLES_MAX {
            samples[at].pop_front();
        }
        samples[at].push_back(sample);
    }

    pub(super) fn failed(&self, cause: &'static str, failures_max: u32) {
        *self.newest_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures >= u64::from(failures_max) && !self.is_off.swap(true, Ordering::Relaxed) {
            tracing::error!(cause, failures, "a shadow failed too often and is switched off");
        }
    }

    /// What admin shows.
    pub fn shown(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let each = |nanos: &AtomicU64| read(nanos) / read(&self.compared).max(1);
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let by_reason = |value: &dyn Fn(usize) -> Value| {
            let rows =
                Difference::ALL.iter().enumerate().map(|(at, difference)| (difference.label().to_owned(), value(at)));
            Value::Object(rows.collect())
        };
        json!({
            "state": if self.is_off() { "off" } else { "on" },
            "compared": read(&self.compared),
            "same": read(&self.same),
            "skipped": read(&self.skipped),
            "failures": read(&self.failures),
            "newest_failure": *self.newest_failure.lock().unwrap_or_else(PoisonError::into_inner),
            "differences": by_reason(&|at| read(&self.differences[at]).into()),
            "cost_ns": { "active": each(&self.active_nanos), "candidate": each(&self.candidate_nanos) },
            "samples": by_reason(&|at| samples[at].iter().cloned().collect()),
        })
    }

    /// How many differences of a kind.
    pub fn differences(&self, difference: Difference) -> u64 {
        let at = Difference::ALL.iter().position(|known| *known == difference).unwrap_or(0);
        self.differences[at].load(Ordering::Relaxed)
    }
}

/// A counter of a tally.
type Read = fn(&Tally) -> u64;

const COUNTERS: [(&str, &str, Read); 5] = [
    ("bawaba_shadow_compared_total", "Callbacks judged by a shadow too.", |t| t.compared.load(Ordering::Relaxed)),
    ("bawaba_shadow_skipped_total", "Callbacks that a shadow had no time for.", |t| t.skipped.load(Ordering::Relaxed)),
    ("bawaba_shadow_failures_total", "Failures of a shadow.", |t| t.failures.load(Ordering::Relaxed)),
    ("bawaba_shadow_active_nanoseconds_total", "Time of the filter in force in callbacks that were compared.", |t| {
        t.active_nanos.load(Ordering::Relaxed)
    }),
    ("bawaba_shadow_candidate_nanoseconds_total", "Time of the shadow in them.", |t| {
        t.candidate_nanos.load(Ordering::Relaxed)
    }),
];

/// What the shadows of these filters counted, in Prometheus' text form: one group for each metric.
pub fn write(out: &mut String, tallies: &[(&str, &Tally)]) {
    if tallies.is_empty() {
        return;
    }
    // Writing to a string does not fail.
    let mut group = |name: &str, help: &str, kind: &str, lines: Vec<String>| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{}", lines.concat());
    };
    for (name, help, read) in COUNTERS {
        let line = |(filter, tally): &(&str, &Tally)| format!("{name}{{filter=\"{filter}\"}} {}\n", read(tally));
        group(name, help, "counter", tallies.iter().map(line).collect());
    }
    let name = "bawaba_shadow_differences_total";
    let lines = tallies.iter().flat_map(|(filter, tally)| {
        Difference::ALL.map(|difference| {
            let (reason, count) = (difference.label(), tally.differences(difference));
            format!("{name}{{filter=\"{filter}\",reason=\"{reason}\"}} {count}\n")
        })
    });
    group(name, "What a shadow would have done otherwise.", "counter", lines.collect());
    let name = "bawaba_shadow_off";
    let line =
        |(filter, tally): &(&str, &Tally)| format!("{name}{{filter=\"{filter}\"}} {}\n", u8::from(tally.is_off()));
    group(name, "1 once a shadow was switched off for its failures.", "gauge", tallies.iter().map(line).collect());
}

/// The messages in a run of frames, as people read them, cut short.
fn shown(way: Way, bytes: &[u8]) -> String {
    let messages = super::compare::texts(way, bytes);
    let mut text = messages.join(" | ");
    if let Some((at, _)) = text.char_indices().nth(SAMPLE_BYTES_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}
