//! Counters of filters and metrics that guests define, and how both leave the process.
//! Keyed by the filter's configured name, so that a rebuild goes on counting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use crate::filter::FilterMetrics;
use crate::state::Shard;

/// Kinds of guest metrics, numbered as in the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

impl Kind {
    pub(crate) fn parse(raw: u32) -> Option<Kind> {
        Some(match raw {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => Kind::Histogram,
            _ => return None,
        })
    }
}

/// Bucket `n` counts values up to 4^n: 16 buckets reach 10^9, so nanoseconds up to a second.
const BUCKETS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct GuestMetric {
    pub(crate) value: AtomicU64,
    count: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl GuestMetric {
    pub(crate) fn observe(&self, value: u64) {
        self.value.fetch_add(value, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        let bucket = (0..BUCKETS).find(|n| value <= 1 << (2 * n));
        if let Some(bucket) = bucket {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All that is counted for one filter name.
#[derive(Default)]
pub(crate) struct Counters {
    inner: Mutex<CountersInner>,
    guest: Mutex<BTreeMap<(Kind, String), Arc<GuestMetric>>>,
}

#[derive(Default)]
struct CountersInner {
    live: Vec<Arc<Shard>>,
    past: FilterMetrics,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    /// A shard for one thread. It counts on after the thread let go of it.
    pub(crate) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::<Shard>::default();
        let mut inner = lock(&self.inner);
        // Threads that ended are folded into one sum, so that swaps don't make this list grow.
        let inner = &mut *inner;
        inner.live.retain(|shard| {
            let gone = Arc::strong_count(shard) == 1;
            if gone {
                add(&mut inner.past, shard);
            }
            !gone
        });
        inner.live.push(shard.clone());
        shard
    }

    pub(crate) fn sum(&self) -> FilterMetrics {
        let inner = lock(&self.inner);
        let mut sum = inner.past;
        for shard in &inner.live {
            add(&mut sum, shard);
        }
        sum
    }

    /// The metric of this name and kind, new or not; None past the bound.
    pub(crate) fn define(&self, name: &str, kind: Kind, metrics_max: usize) -> Option<Arc<GuestMetric>> {
        let mut guest = lock(&self.guest);
        if let Some(metric) = guest.get(&(kind, name.to_owned())) {
            return Some(metric.clone());
        }
        if guest.len() >= metrics_max {
            return None;
        }
        let metric = Arc::<GuestMetric>::default();
        guest.insert((kind, name.to_owned()), metric.clone());
        Some(metric)
    }
}

fn add(sum: &mut FilterMetrics, shard: &Shard) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    sum.calls += read(&shard.calls);
    sum.traps += read(&shard.traps);
    sum.budget_exceeded += read(&shard.budget_exceeded);
    sum.memory_exceeded += read(&shard.memory_exceeded);
    sum.passed_unjudged += read(&shard.passed_unjudged);
    sum.denied += read(&shard.denied);
    sum.vms_created += read(&shard.vms_created);
    sum.vms = (sum.vms + read(&shard.vms_created)).saturating_sub(read(&shard.vms_dropped));
    sum.reattached += read(&shard.reattached);
    sum.callouts += read(&shard.callouts);
    sum.callouts_refused += read(&shard.callouts_refused);
    sum.rests += read(&shard.rests);
    sum.resting += read(&shard.resting);
    sum.log_lines_dropped += read(&shard.log_lines_dropped);
    sum.streams = (sum.streams + read(&shard.streams_opened)).saturating_sub(read(&shard.streams_closed));
}

/// Where built modules came from.
#[derive(Default)]
pub(crate) struct Modules([AtomicU64; 3]);

impl Modules {
    pub(crate) fn compiled(&self) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn loaded(&self) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remembered(&self) {
        self.0[2].fetch_add(1, Ordering::Relaxed);
    }

    fn family(&self) -> proto::MetricFamily {
        let metrics = ["compiler", "disk", "memory"].into_iter().zip(&self.0).map(|(from, count)| {
            let mut metric = counter("", count.load(Ordering::Relaxed));
            metric.set_label(vec![label("from", from)]);
            metric
        });
        let help = "Modules built, by where their code came from.";
        family("bawaba_filter_modules_total", help, proto::MetricType::COUNTER, metrics.collect())
    }
}

/// Every filter name that the host ever built, with its counters.
#[derive(Default)]
pub(crate) struct Board {
    pub(crate) modules: Modules,
    filters: Mutex<BTreeMap<String, Arc<Counters>>>,
}

impl Board {
    pub(crate) fn counters(&self, name: &str) -> Arc<Counters> {
        lock(&self.filters).entry(name.to_owned()).or_default().clone()
    }

    fn all(&self) -> Vec<(String, Arc<Counters>)> {
        lock(&self.filters).iter().map(|(name, counters)| (name.clone(), counters.clone())).collect()
    }
}

type Read = fn(&FilterMetrics) -> u64;
const COUNTERS: [(&str, &str, Read); 12] = [
    ("bawaba_filter_calls_total", "Callbacks into a filter.", |m| m.calls),
    ("bawaba_filter_traps_total", "Callbacks that ended abnormally.", |m| m.traps),
    ("bawaba_filter_budget_exceeded_total", "Callbacks cut for their CPU budget.", |m| m.budget_exceeded),
    ("bawaba_filter_memory_exceeded_total", "Callbacks that failed for want of memory.", |m| m.memory_exceeded),
    ("bawaba_filter_passed_unjudged_total", "Messages passed without a verdict.", |m| m.passed_unjudged),
    ("bawaba_filter_denied_total", "Messages and handshakes denied for want of a verdict.", |m| m.denied),
    ("bawaba_filter_vms_created_total", "VMs made.", |m| m.vms_created),
    ("bawaba_filter_reattached_total", "Streams attached again after their VM was lost.", |m| m.reattached),
    ("bawaba_filter_log_lines_dropped_total", "Log lines dropped by the rate limit.", |m| m.log_lines_dropped),
    ("bawaba_filter_callouts_total", "Calls made to other services.", |m| m.callouts),
    ("bawaba_filter_callouts_refused_total", "Calls refused because too many were under way.", |m| m.callouts_refused),
    ("bawaba_filter_rests_total", "Times that a filter rested after repeated failure.", |m| m.rests),
];
const GAUGES: [(&str, &str, Read); 3] = [
    ("bawaba_filter_vms", "VMs alive.", |m| m.vms),
    ("bawaba_filter_streams", "Streams open.", |m| m.streams),
    ("bawaba_filter_resting", "Workers on which a filter rests: on_failure is its verdict there.", |m| m.resting),
];

/// Puts the board into a prometheus registry.
pub(crate) struct BoardCollector {
    board: Arc<Board>,
    descriptions: Vec<Desc>,
}

impl BoardCollector {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        let label = vec!["filter".to_owned()];
        let describe = |(name, help, _): &(&str, &str, Read)| {
            Desc::new((*name).to_owned(), (*help).to_owned(), label.clone(), Default::default()).ok()
        };
        BoardCollector { board, descriptions: COUNTERS.iter().chain(&GAUGES).filter_map(describe).collect() }
    }
}

impl Collector for BoardCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let filters = self.board.all();
        if filters.is_empty() {
            return Vec::new();
        }
        let sums: Vec<_> = filters.iter().map(|(name, counters)| (name.as_str(), counters.sum())).collect();
        let mut families = Vec::new();
        for (name, help, read) in COUNTERS {
            let metrics = sums.iter().map(|(filter, sum)| counter(filter, read(sum))).collect();
            families.push(family(name, help, proto::MetricType::COUNTER, metrics));
        }
        for (name, help, read) in GAUGES {
            let metrics = sums.iter().map(|(filter, sum)| gauge(filter, read(sum))).collect();
            families.push(family(name, help, proto::MetricType::GAUGE, metrics));
        }
        families.push(self.board.modules.family());
        families.extend(guest_families(&filters));
        families
    }
}

/// Guest metrics as `bawaba_guest_<name>`, one family for each name and kind over all filters.
fn guest_families(filters: &[(String, Arc<Counters>)]) -> Vec<proto::MetricFamily> {
    let mut families: BTreeMap<(String, Kind), Vec<proto::Metric>> = BTreeMap::new();
    for (filter, counters) in filters {
        for ((kind, name), metric) in lock(&counters.guest).iter() {
            let (suffix, value) = match kind {
                Kind::Counter => ("_total", counter(filter, metric.value.load(Ordering::Relaxed))),
                Kind::Gauge => ("", gauge(filter, metric.value.load(Ordering::Relaxed))),
                Kind::Histogram => ("_histogram", histogram(filter, metric)),
            };
            let mut value = value;
            // Two guest names may fall together once cleaned; the label keeps them apart.
            let mut labels = value.take_label();
            labels.push(label("metric", name));
            value.set_label(labels);
            families.entry((format!("bawaba_guest_{}{suffix}", clean(name)), *kind)).or_default().push(value);
        }
    }
    families
        .into_iter()
        .map(|((name, kind), metrics)| {
            let kind = match kind {
                Kind::Counter => proto::MetricType::COUNTER,
                Kind::Gauge => proto::MetricType::GAUGE,
                Kind::Histogram => proto::MetricType::HISTOGRAM,
            };
            family(&name, "Defined by a filter.", kind, metrics)
        })
        .collect()
}

fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn counter(filter: &str, value: u64) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    let mut metric = proto::Metric::from_label(vec![label("filter", filter)]);
    metric.set_counter(counter);
    metric
}

fn gauge(filter: &str, value: u64) -> proto::Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = proto::Metric::from_label(vec![label("filter", filter)]);
    metric.set_gauge(gauge);
    metric
}

fn histogram(filter: &str, guest: &GuestMetric) -> proto::Metric {
    let mut below = 0;
    let buckets = guest.buckets.iter().enumerate().map(|(n, bucket)| {
        below += bucket.load(Ordering::Relaxed);
        let mut point = proto::Bucket::default();
        point.set_upper_bound((1u64 << (2 * n)) as f64);
        point.set_cumulative_count(below);
        point
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(guest.count.load(Ordering::Relaxed));
    histogram.set_sample_sum(guest.value.load(Ordering::Relaxed) as f64);
    let mut metric = proto::Metric::from_label(vec![label("filter", filter)]);
    metric.set_histogram(histogram);
    metric
}

fn family(name: &str, help: &str, kind: proto::MetricType, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
