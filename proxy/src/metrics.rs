//! What the edge counts. Labels come from enums, or from the names of routes and clusters in the configuration:
//! never from users, symbols, channels or anything else that the network can choose.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cluster::State;
use crate::counters::Counted;
use crate::generation::Generation;
use crate::sources::Role;
use crate::store::{self, How};
use crate::usage::Usage;
use bawaba_channels::close::CloseCode;
use bawaba_channels::reason::Reason;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The WebSocket opened.
    Opened,
    /// It was refused, with a word.
    Refused,
    /// The request did not arrive in time.
    TimedOut,
    /// The client left, or TLS failed.
    Failed,
}

impl Outcome {
    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
        }
    }
}

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Inbound,
    /// To the client.
    Outbound,
}

impl Direction {
    const fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Messages and bytes of one direction.
#[derive(Clone)]
pub struct Traffic {
    messages: IntCounter,
    bytes: IntCounter,
}

impl Traffic {
    /// Counts at once what one read or write carried.
    pub fn add(&self, messages: u64, bytes: u64) {
        if messages > 0 {
            self.messages.inc_by(messages);
        }
        self.bytes.inc_by(bytes);
    }
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    handshakes: IntCounterVec,
    refusals: IntCounterVec,
    closes: IntCounterVec,
    sessions: IntGaugeVec,
    http_requests: IntCounterVec,
    filter_changes: IntCounterVec,
    /// From the accepted connection (or the request, where a connection carries several) to the answer.
    pub connect_seconds: Histogram,
    /// From a client.
    pub inbound: Traffic,
    /// To a client.
    pub outbound: Traffic,
    /// Connections in the listener's care.
    pub connections: IntGauge,
    /// The generation in force.
    pub generation: IntGauge,
    /// Generations that could not be built: the one before stays in force.
    pub generation_failures: IntCounter,
    /// 1 while the process drains.
    pub draining: IntGauge,
}

/// One open session, counted under its route until dropped.
pub struct OpenSession(IntGauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// All at zero; every label that comes from an enum is there from the start, so that rates have a beginning.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let messages = counters("bawaba_messages_total", "WebSocket messages passed, by direction.", &["direction"])?;
        let bytes = counters("bawaba_bytes_total", "WebSocket bytes passed, by direction.", &["direction"])?;
        let traffic = |direction: Direction| Traffic {
            messages: messages.with_label_values(&[direction.label()]),
            bytes: bytes.with_label_values(&[direction.label()]),
        };
        let sessions = IntGaugeVec::new(Opts::new("bawaba_sessions", "Open sessions, by route."), &["route"])?;
        registry.register(Box::new(sessions.clone()))?;
        let connect_seconds = Histogram::with_opts(
            HistogramOpts::new("bawaba_connect_seconds", "Time from request to answer of handshakes that opened.")
                .buckets(vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0]),
        )?;
        registry.register(Box::new(connect_seconds.clone()))?;
        let generation_failures =
            IntCounter::new("bawaba_generation_failures_total", "Generations that could not be built.")?;
        registry.register(Box::new(generation_failures.clone()))?;
        let metrics = Self {
            handshakes: counters("bawaba_handshakes_total", "Handshakes, by how they ended.", &["outcome"])?,
            refusals: counters("bawaba_refusals_total", "Refusals, by their word.", &["reason"])?,
            closes: counters("bawaba_closes_total", "Sessions closed by the edge, by close code.", &["code"])?,
            http_requests: counters(
                "bawaba_http_requests_total",
                "Plain HTTP requests passed, by status class.",
                &["status"],
            )?,
            filter_changes: counters(
                "bawaba_filter_changes_total",
                "Changes of filters, by how they came and what became of them.",
                &["filter", "how", "outcome"],
            )?,
            inbound: traffic(Direction::Inbound),
            outbound: traffic(Direction::Outbound),
            connections: gauge(
                "bawaba_connections",
                "Connections in the listener's care: handshakes, plain HTTP, HTTP/2.",
            )?,
            generation: gauge("bawaba_generation", "The generation in force.")?,
            draining: gauge("bawaba_draining", "1 while the process drains.")?,
            sessions,
            connect_seconds,
            generation_failures,
            registry,
        };
        metrics.touch();
        Ok(Arc::new(metrics))
    }

    fn touch(&self) {
        for outcome in [Outcome::Opened, Outcome::Refused, Outcome::TimedOut, Outcome::Failed] {
            self.handshakes.with_label_values(&[outcome.label()]);
        }
        for reason in Reason::ALL {
            self.refusals.with_label_values(&[reason.word()]);
        }
        for (_, label, ..) in CloseCode::TABLE {
            self.closes.with_label_values(&[*label]);
        }
    }

    /// A handshake ended.
    pub fn handshake(&self, outcome: Outcome) {
        self.handshakes.with_label_values(&[outcome.label()]).inc();
    }

    /// Something was refused: a handshake or a request on an open session.
    pub fn refused(&self, reason: Reason) {
        self.refusals.with_label_values(&[reason.word()]).inc();
    }

    /// A session ended with this code.
    pub fn closed(&self, code: CloseCode) {
        self.closes.with_label_values(&[code.label()]).inc();
    }

    /// A session opened on `route`, which must be a name from the configuration.
    pub fn session(&self, route: &str) -> OpenSession {
        let gauge = self.sessions.with_label_values(&[route]);
        gauge.inc();
        OpenSession(gauge)
    }

    /// A plain HTTP request was answered.
    pub fn http_request(&self, status: u16) {
        let class = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "none",
        };
        self.http_requests.with_label_values(&[class]).inc();
    }

    /// A change of `filter`, which must be a name from the configuration.
    pub fn filter_change(&self, filter: &str, how: How, outcome: store::Outcome) {
        self.filter_changes.with_label_values(&[filter, how.label(), outcome.label()]).inc();
    }

    /// Everything in Prometheus' text form.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }
}

/// What workers counted on the message path, in Prometheus' text form.
pub fn write_counted(out: &mut Vec<u8>, counted: &Counted) {
    let rows = [
        ("bawaba_channel_messages_in_total", "Messages from clients of channel routes.", counted.messages_in),
        ("bawaba_channel_messages_out_total", "Messages to clients of channel routes.", counted.messages_out),
        ("bawaba_channel_bytes_in_total", "Bytes from clients of channel routes.", counted.bytes_in),
        ("bawaba_channel_bytes_out_total", "Bytes to clients of channel routes.", counted.bytes_out),
        ("bawaba_gaps_total", "Gap messages to slow readers.", counted.gaps),
        ("bawaba_degraded_total", "Subscriptions moved to a slower rate.", counted.degraded),
        ("bawaba_slow_total", "Sessions closed as slow.", counted.slow),
        ("bawaba_judged_total", "Verdicts on public messages, one per cohort.", counted.judged),
        ("bawaba_trunk_events_total", "Events from channel servers.", counted.trunk_events),
        ("bawaba_trunks_lost_total", "Trunks lost.", counted.trunks_lost),
        ("bawaba_sessions_moved_total", "Sessions moved to another generation's chain.", counted.moved),
    ];
    for (name, help, value) in rows {
        head(out, name, help, "counter");
        out.extend_from_slice(format!("{name} {value}\n").as_bytes());
    }
}

/// What became of usage records.
pub fn write_usage(out: &mut Vec<u8>, usage: &Usage) {
    let (written, waiting) = usage.written();
    let name = "bawaba_usage_records_total";
    head(out, name, "Usage records: on disk, without room in the queue, or not written for an error.", "counter");
    for (outcome, count) in [("written", &written.records), ("lost", &written.lost), ("failed", &written.failed)] {
        let count = count.load(Ordering::Relaxed);
        out.extend_from_slice(format!("{name}{{outcome=\"{outcome}\"}} {count}\n").as_bytes());
    }
    let name = "bawaba_usage_records_waiting";
    head(out, name, "Usage records that wait to be written.", "gauge");
    out.extend_from_slice(format!("{name} {waiting}\n").as_bytes());
}

fn head(out: &mut Vec<u8>, name: &str, help: &str, kind: &str) {
    out.extend_from_slice(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").as_bytes());
}

/// What the filters' host counted, and the metrics that filters define.
pub fn write_filters(out: &mut Vec<u8>, generation: &Generation) {
    let families = generation.host.collector().collect();
    if let Err(error) = TextEncoder::new().encode(&families, out) {
        tracing::error!(%error, "the metrics of filters could not be written");
    }
}

/// What clusters know of their endpoints: by state, what they carry, how quickly they answer.
pub fn write_clusters(out: &mut Vec<u8>, generation: &Generation) {
    let clusters: Vec<_> = generation.clusters.iter().map(|(name, cluster)| (name, cluster.endpoints())).collect();
    let mut line = |text: String| out.extend_from_slice(text.as_bytes());
    line("# HELP bawaba_endpoints Endpoints, by cluster and state.\n# TYPE bawaba_endpoints gauge\n".into());
    for (name, endpoints) in &clusters {
        for state in State::ALL {
            let count = endpoints.iter().filter(|endpoint| endpoint.state() == state).count();
            line(format!("bawaba_endpoints{{cluster=\"{name}\",state=\"{}\"}} {count}\n", state.label()));
        }
    }
    line("# HELP bawaba_endpoint_sessions Sessions on endpoints: of all, and of the one with most.\n# TYPE bawaba_endpoint_sessions gauge\n".into());
    for (name, endpoints) in &clusters {
        let sum: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.sessions())).sum();
        let most = endpoints.iter().map(|endpoint| endpoint.sessions()).max().unwrap_or(0);
        line(format!("bawaba_endpoint_sessions{{cluster=\"{name}\",of=\"all\"}} {sum}\n"));
        line(format!("bawaba_endpoint_sessions{{cluster=\"{name}\",of=\"most\"}} {most}\n"));
    }
    line("# HELP bawaba_endpoint_latency_seconds Mean time of an answer: of the quickest, median and slowest endpoint.\n# TYPE bawaba_endpoint_latency_seconds gauge\n".into());
    for (name, endpoints) in &clusters {
        let mut means: Vec<_> = endpoints.iter().filter_map(|endpoint| endpoint.latency()).collect();
        means.sort_unstable();
        let (Some(quickest), Some(slowest)) = (means.first(), means.last()) else { continue };
        for (of, mean) in [("quickest", quickest), ("median", &means[means.len() / 2]), ("slowest", slowest)] {
            let seconds = mean.as_secs_f64();
            line(format!("bawaba_endpoint_latency_seconds{{cluster=\"{name}\",of=\"{of}\"}} {seconds}\n"));
        }
    }
}

/// What shadows counted.
pub fn write_shadows(out: &mut Vec<u8>, generation: &Generation) {
    let tallies: Vec<_> = generation
        .filters
        .iter()
        .filter_map(|(name, loaded)| Some((name.as_str(), loaded.candidate.as_deref()?)))
        .filter(|(_, candidate)| matches!(candidate.role, Role::Shadow(_)))
        .map(|(name, candidate)| (name, &candidate.tally))
        .collect();
    let mut text = String::new();
    crate::shadow::write(&mut text, &tallies);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_enumerated_label_is_there_from_the_start() {
        let metrics = Metrics::new().unwrap();
        let text = String::from_utf8(metrics.text()).unwrap();
        for reason in Reason::ALL {
            assert!(text.contains(&format!("bawaba_refusals_total{{reason=\"{}\"}} 0", reason.word())), "{text}");
        }
        assert!(text.contains("bawaba_handshakes_total{outcome=\"timed_out\"} 0"));
        assert!(text.contains("bawaba_closes_total{code=\"heartbeat\"} 0"));
    }

    #[test]
    fn a_session_is_counted_while_it_is_open() {
        let metrics = Metrics::new().unwrap();
        let session = metrics.session("quotes");
        assert!(String::from_utf8(metrics.text()).unwrap().contains("bawaba_sessions{route=\"quotes\"} 1"));
        drop(session);
        assert!(String::from_utf8(metrics.text()).unwrap().contains("bawaba_sessions{route=\"quotes\"} 0"));
    }
}
