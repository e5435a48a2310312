//! What must hold between the parts of a configuration, and the files that it names. Each finding says where,
//! what, and what to do; all of them are found in one run. Starts nothing and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use bawaba_channels::name::Exchange;

use crate::config::source::{Problem, Severity, Source, Step, nearest};
use crate::config::{Cluster, Config, Route};
use crate::identity::Verifier;

/// Fewest bytes of a shared secret: the output of SHA-256 (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Earlier revisions of a filter that may be kept: at 16 MiB a module, a gibibyte.
const REVISIONS_KEPT_MAX: u32 = 64;

/// Fewest usage records that may wait: a session, its products and subscriptions.
const USAGE_QUEUE_MIN: u32 = 16;

macro_rules! at {
    ($($step:expr),* $(,)?) => { &[$(Step::from($step)),*] };
}

mod filter;

struct Checker<'a> {
    config: &'a Config,
    source: &'a Source,
    problems: Vec<Problem>,
}

/// Every finding of `config`, in the order of the file.
pub fn check(config: &Config, source: &Source) -> Vec<Problem> {
    let mut checker = Checker { config, source, problems: Vec::new() };
    checker.edge();
    checker.listeners();
    checker.admin();
    checker.identity();
    checker.limits();
    checker.timeouts();
    checker.sticky();
    checker.usage();
    for (name, cluster) in &config.cluster {
        checker.cluster(name, cluster);
    }
    for (name, filter) in &config.filter {
        checker.filter(name, filter);
    }
    for (index, route) in config.route.iter().enumerate() {
        checker.route(index, route);
    }
    // What a mistake left unused is not a second mistake.
    if checker.problems.iter().all(|problem| problem.severity == Severity::Warning) {
        checker.unused();
    }
    checker.problems.sort_by_key(|problem| problem.at);
    checker.problems
}

impl Checker<'_> {
    fn error(&mut self, path: &[Step], message: impl Into<String>) {
        self.problems.push(self.source.error_at(self.source.locate(path), message, None));
    }

    fn error_with(&mut self, path: &[Step], message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(self.source.error_at(self.source.locate(path), message, Some(hint.into())));
    }

    fn warning(&mut self, path: &[Step], message: impl Into<String>, hint: impl Into<String>) {
        let mut problem = self.source.error_at(self.source.locate(path), message, Some(hint.into()));
        problem.severity = Severity::Warning;
        self.problems.push(problem);
    }

    fn file(&mut self, path: &[Step], file: &Path) -> Option<Vec<u8>> {
        match fs::read(file) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(path, format!("{} cannot be read: {error}", file.display()));
                None
            }
        }
    }

    fn edge(&mut self) {
        let format = &self.config.edge.log_format;
        if !["json", "text"].contains(&format.as_str()) {
            self.error_with(
                at!["edge", "log_format"],
                format!("unknown log format \"{format}\""),
                "write \"text\" or \"json\"",
            );
        }
        if self.config.edge.name.is_empty() {
            self.error(at!["edge", "name"], "the edge's name is empty");
        }
        self.positive(at!["edge", "drain_window"], self.config.edge.drain_window);
        if let Some(directory) = &self.config.edge.state_directory
            && directory.exists()
            && !directory.is_dir()
        {
            self.error(at!["edge", "state_directory"], format!("{} is no directory", directory.display()));
        }
        if !(1..=REVISIONS_KEPT_MAX).contains(&self.config.edge.revisions_kept_max) {
            self.error(
                at!["edge", "revisions_kept_max"],
                format!("revisions_kept_max must lie between 1 and {REVISIONS_KEPT_MAX}"),
            );
        }
    }

    fn usage(&mut self) {
        let Some(usage) = &self.config.usage else { return };
        if jiff::tz::TimeZone::get(&usage.time_zone).is_err() {
            self.error_with(
                at!["usage", "time_zone"],
                format!("no time zone is called \"{}\"", usage.time_zone),
                "write an IANA name such as \"Africa/Cairo\" or \"Asia/Dubai\"",
            );
        }
        if usage.queue_max < USAGE_QUEUE_MIN {
            self.error(
                at!["usage", "queue_max"],
                format!("queue_max must be at least {USAGE_QUEUE_MIN}: a session writes several records"),
            );
        }
    }

    fn listeners(&mut self) {
        let config = self.config;
        if config.listener.is_empty() {
            self.error_with(
                at!["listener"],
                "there is no listener",
                "add [[listener]] with address = \"127.0.0.1:8080\"",
            );
        }
        for (index, listener) in config.listener.iter().enumerate() {
            let earlier = config.listener[..index].iter().any(|other| other.address == listener.address);
            if earlier && listener.address.port() != 0 {
                self.error(at!["listener", index, "address"], format!("{} is listened on twice", listener.address));
            }
            if let Some(tls) = &listener.tls {
                if let Err(error) = crate::listener::tls::load(tls) {
                    self.error(at!["listener", index, "tls"], error);
                }
                if listener.h2c {
                    self.error_with(
                        at!["listener", index, "h2c"],
                        "h2c is HTTP/2 without TLS, but this listener has TLS",
                        "remove h2c: over TLS the client chooses HTTP/2 by ALPN",
                    );
                }
            }
        }
    }

    fn admin(&mut self) {
        let Some(admin) = &self.config.admin else { return };
        if !is_private(admin.address.ip()) {
            self.warning(
                at!["admin", "address"],
                format!("the admin listener is open to other networks at {}", admin.address),
                "bind it to a loopback or private address: it tells names, endpoints and configuration without a password",
            );
        }
        if admin.address.port() != 0 && self.config.listener.iter().any(|listener| listener.address == admin.address) {
            self.error(at!["admin", "address"], format!("{} is also a public listener", admin.address));
        }
    }

    fn identity(&mut self) {
        let identity = &self.config.identity;
        match Verifier::load(identity) {
            Ok(verifier) => {
                if verifier.is_empty() && self.config.route.iter().any(|route| route.authenticate) {
                    self.error_with(
                        at!["identity"],
                        "there is no key, but routes require tokens",
                        "add [[identity.key]] with algorithm and file, or identity.jwks_file",
                    );
                }
            }
            Err(problems) => {
                for problem in problems {
                    match problem.key {
                        Some(index) => self.error(at!["identity", "key", index, problem.field], problem.message),
                        None => self.error(at!["identity", problem.field], problem.message),
                    }
                }
            }
        }
        if identity.leeway > Duration::from_secs(300) {
            self.error_with(
                at!["identity", "leeway"],
                "the leeway is over 5m: ended tokens would live on",
                "clocks that far apart need NTP, not leeway",
            );
        }
    }

    fn limits(&mut self) {
        let limits = &self.config.limits;
        let positive = [
            ("sessions_max", limits.sessions_max),
            ("handshakes_max", limits.handshakes_max),
            ("message_bytes_max", limits.message_bytes_max),
            ("relay_message_bytes_max", limits.relay_message_bytes_max),
            ("outbox_bytes_max", limits.outbox_bytes_max),
            ("log_bytes_max", limits.log_bytes_max),
            ("symbols_per_session_max", limits.symbols_per_session_max),
            ("delayed_updates_max", limits.delayed_updates_max),
        ];
        for (name, value) in positive {
            if value == 0 {
                self.error(at!["limits", name], format!("{name} is 0: nothing could pass"));
            }
        }
        let head = limits.request_head_bytes_max;
        if !(1024..=1024 * 1024).contains(&head) {
            self.error(
                at!["limits", "request_head_bytes_max"],
                format!("request_head_bytes_max is {head}: it must lie between 1024 and 1048576"),
            );
        }
    }

    fn positive(&mut self, path: &[Step], duration: Duration) {
        if duration.is_zero() {
            let name = path.iter().rev().find_map(|step| match step {
                Step::Key(key) => Some(key.clone()),
                Step::Index(_) => None,
            });
            self.error(path, format!("{} must be longer than 0", name.unwrap_or_default()));
        }
    }

    fn timeouts(&mut self) {
        let timeouts = &self.config.timeouts;
        let each = [
            ("request_head", timeouts.request_head),
            ("connect", timeouts.connect),
            ("ping_interval", timeouts.ping_interval),
            ("heartbeat", timeouts.heartbeat),
            ("close", timeouts.close),
            ("write_stall", timeouts.write_stall),
            ("degraded", timeouts.degraded),
        ];
        for (name, duration) in each {
            self.positive(at!["timeouts", name], duration);
        }
        if timeouts.ping_interval >= timeouts.heartbeat {
            self.error_with(
                at!["timeouts", "ping_interval"],
                format!(
                    "ping_interval ({}) is not shorter than heartbeat ({}): every quiet client would be closed with 4408",
                    seconds(timeouts.ping_interval),
                    seconds(timeouts.heartbeat)
                ),
                "set heartbeat to about three times ping_interval",
            );
        }
    }

    fn sticky(&mut self) {
        let Some(key_file) = &self.config.sticky.key_file else { return };
        if let Some(key) = self.file(at!["sticky", "key_file"], key_file)
            && key.len() < SECRET_BYTES_MIN
        {
            self.error_with(
                at!["sticky", "key_file"],
                format!("{} has {} bytes, at least {SECRET_BYTES_MIN} are needed", key_file.display(), key.len()),
                format!("openssl rand -hex {SECRET_BYTES_MIN} > {}", key_file.display()),
            );
        }
    }

    fn cluster(&mut self, name: &str, cluster: &Cluster) {
        if cluster.endpoints.is_empty() {
            self.error(at!["cluster", name, "endpoints"], format!("cluster \"{name}\" has no endpoint"));
        }
        for (index, endpoint) in cluster.endpoints.iter().enumerate() {
            let address = &endpoint.address;
            if !is_host_and_port(address) {
                self.error_with(
                    at!["cluster", name, "endpoints", index],
                    format!("\"{address}\" is no endpoint"),
                    "write host:port, such as \"10.0.0.5:7000\" or \"egx-1.internal:7000\"",
                );
            }
            if cluster.endpoints[..index].iter().any(|other| other.address == *address) {
                self.error(at!["cluster", name, "endpoints", index], format!("{address} is listed twice"));
            }
        }
        if !cluster.path.starts_with('/') {
            self.error(at!["cluster", name, "path"], format!("\"{}\" is no path: it must begin with /", cluster.path));
        }
        let health = &cluster.health;
        if !health.path.is_empty() && !health.path.starts_with('/') {
            self.error(
                at!["cluster", name, "health", "path"],
                format!("\"{}\" is no path: it must begin with /", health.path),
            );
        }
        self.positive(at!["cluster", name, "health", "interval"], health.interval);
        self.positive(at!["cluster", name, "health", "timeout"], health.timeout);
        for (key, value) in [("unhealthy_after", health.unhealthy_after), ("healthy_after", health.healthy_after)] {
            if value == 0 {
                self.error(at!["cluster", name, "health", key], format!("{key} must be at least 1"));
            }
        }
        let (balance, outlier) = (&cluster.balance, &cluster.outlier);
        if (1..=100).contains(&balance.load_percent_max) {
            self.error_with(
                at!["cluster", name, "balance", "load_percent_max"],
                format!(
                    "load_percent_max is {}: every endpoint would be full before all have their fair share",
                    balance.load_percent_max
                ),
                "write more than 100, such as 125, or 0 for no bound",
            );
        }
        if balance.region_percent_max.is_some_and(|percent| percent < 100) {
            self.error_with(
                at!["cluster", name, "balance", "region_percent_max"],
                "region_percent_max is under 100: the nearest region would be left before it has its fair share",
                "write 100 or more, such as 150",
            );
        }
        if !balance.remember.is_zero() && balance.remembered_max == 0 {
            self.error_with(
                at!["cluster", name, "balance", "remembered_max"],
                "remembered_max is 0: nobody could be remembered",
                "write remember = \"0s\" to remember nobody",
            );
        }
        if (1..=100).contains(&outlier.latency_percent) {
            self.error_with(
                at!["cluster", name, "outlier", "latency_percent"],
                "latency_percent is not over 100: half of all endpoints are slower than the median",
                "write more than 100, such as 300, or 0 for never",
            );
        }
        if outlier.ejected_percent_max > 100 {
            self.error(at!["cluster", name, "outlier", "ejected_percent_max"], "ejected_percent_max is over 100");
        }
        if outlier.ejection > outlier.ejection_max {
            self.error(at!["cluster", name, "outlier", "ejection"], "ejection is longer than ejection_max");
        }
        if let Some(token_file) = &cluster.token_file {
            self.file(at!["cluster", name, "token_file"], token_file);
        }
    }

    fn route(&mut self, index: usize, route: &Route) {
        let config = self.config;
        if route.name.is_empty() {
            self.error(at!["route", index, "name"], "the route has no name");
        }
        if config.route[..index].iter().any(|other| other.name == route.name) {
            self.error(at!["route", index, "name"], format!("there are two routes named \"{}\"", route.name));
        }
        let star = route.path.find('*');
        if !route.path.starts_with('/') || star.is_some_and(|star| star + 1 != route.path.len()) {
            self.error_with(
                at!["route", index, "path"],
                format!("\"{}\" is no route path", route.path),
                "write an exact path (\"/ws\") or a prefix that ends in * (\"/api/*\")",
            );
        }
        let earlier = config.route[..index].iter().find(|other| covers(other, route));
        if let Some(earlier) = earlier {
            self.warning(
                at!["route", index, "path"],
                format!(
                    "route \"{}\" is never taken: \"{}\" above it answers everything that it would",
                    route.name, earlier.name
                ),
                "the first route that matches is taken: put the narrower one first",
            );
        }
        for (place, filter) in route.filters.iter().enumerate() {
            if !config.filter.contains_key(filter) {
                self.unknown(at!["route", index, "filters", place], "filter", filter, config.filter.keys());
            }
            if route.filters[..place].contains(filter) {
                self.error(at!["route", index, "filters", place], format!("filter \"{filter}\" is listed twice"));
            }
        }
        self.canaries(index, route);
        self.target(index, route);
        for (place, origin) in route.origins.iter().enumerate() {
            if origin != "*" && !is_origin(origin) {
                self.error_with(
                    at!["route", index, "origins", place],
                    format!("\"{origin}\" is no origin"),
                    "write scheme and host as browsers do, without a path: \"https://app.example.com\"",
                );
            }
        }
    }

    fn target(&mut self, index: usize, route: &Route) {
        let clusters = &self.config.cluster;
        match (&route.channel, &route.relay) {
            (Some(exchanges), None) => {
                if exchanges.is_empty() {
                    self.error(at!["route", index, "channel"], "the channel route names no exchange");
                }
                for (exchange, cluster) in exchanges {
                    if let Err(error) = exchange.parse::<Exchange>() {
                        self.error(at!["route", index, "channel", exchange], format!("\"{exchange}\" is no exchange: {error}"));
                    }
                    if !clusters.contains_key(cluster) {
                        self.unknown(at!["route", index, "channel", exchange], "cluster", cluster, clusters.keys());
                    }
                }
            }
            (None, Some(relay)) => {
                if !clusters.contains_key(&relay.cluster) {
                    self.unknown(at!["route", index, "relay", "cluster"], "cluster", &relay.cluster, clusters.keys());
                }
                if relay.http && !route.filters.is_empty() {
                    self.error_with(
                        at!["route", index, "relay", "http"],
                        "filters do not judge plain HTTP yet, so a route with filters cannot let it pass",
                        "remove http = true, or give plain HTTP a route of its own without filters",
                    );
                }
            }
            _ => self.error_with(
                at!["route", index],
                format!("route \"{}\" must say where it leads: exactly one of channel and relay", route.name),
                "channel = { EGX = \"cluster\" } for our protocol, relay = { cluster = \"cluster\" } for an existing service",
            ),
        }
    }

    fn unknown<S: AsRef<str>>(&mut self, path: &[Step], what: &str, name: &str, known: impl IntoIterator<Item = S>) {
        let known: Vec<S> = known.into_iter().collect();
        let names = known.iter().map(AsRef::as_ref);
        let hint = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if known.is_empty() => format!("no {what} is configured"),
            None => format!("there are: {}", names.collect::<Vec<_>>().join(", ")),
        };
        self.error_with(path, format!("there is no {what} \"{name}\""), hint);
    }

    fn unused(&mut self) {
        let config = self.config;
        let mut used: BTreeMap<&str, ()> = BTreeMap::new();
        for route in &config.route {
            used.extend(route.channel.iter().flatten().map(|(_, cluster)| (cluster.as_str(), ())));
            used.extend(route.relay.iter().map(|relay| (relay.cluster.as_str(), ())));
        }
        for name in config.cluster.keys().filter(|name| !used.contains_key(name.as_str())) {
            self.warning(
                at!["cluster", name],
                format!("no route leads to cluster \"{name}\""),
                "remove it, or name it in a route",
            );
        }
        for name in config.filter.keys() {
            if !config.route.iter().any(|route| route.filters.contains(name)) {
                self.warning(
                    at!["filter", name],
                    format!("no route uses filter \"{name}\": it judges nothing"),
                    "name it in the filters of a route",
                );
            }
        }
    }
}

/// Whether every request of `route` is already taken by `earlier`.
fn covers(earlier: &Route, route: &Route) -> bool {
    let host = earlier.host.is_none() || earlier.host == route.host;
    let path = match earlier.path.strip_suffix('*') {
        Some(prefix) => route.path.starts_with(prefix),
        None => earlier.path == route.path,
    };
    host && path
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether this can be the address of an endpoint.
pub fn is_host_and_port(endpoint: &str) -> bool {
    endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        let host_is_good = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        host_is_good && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn is_origin(origin: &str) -> bool {
    origin.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme().is_some()
            && uri.authority().is_some()
            && uri.path() == "/"
            && !origin.ends_with('/')
            && uri.query().is_none()
    })
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
