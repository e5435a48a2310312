//! The configuration file: TOML, one shape, unknown keys refused with line, column and a hint.
//!
//! Types only say what may be written; [`crate::check`] says what must hold between the parts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bawaba_routing::Announced;
use serde::Deserialize;

pub mod balance;
mod duration;
mod filter;
mod load;
mod redacted;
pub mod source;

pub use filter::{Canary, Filter, OnFailure, Scope, Shadow, Variant};
#[cfg(test)]
pub(crate) use load::load_source;
pub use load::{Loaded, load};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Process-wide settings.
    #[serde(default)]
    pub edge: Edge,
    /// Where clients connect.
    pub listener: Vec<Listener>,
    /// The private listener for operators.
    pub admin: Option<Admin>,
    /// How tokens are verified.
    pub identity: Identity,
    /// Bounds on what the network may take.
    #[serde(default)]
    pub limits: Limits,
    /// Time limits, each with its own close code and log line.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How sessions find their way back.
    #[serde(default)]
    pub sticky: Sticky,
    /// The usage record; absent: none is kept.
    pub usage: Option<crate::usage::Settings>,
    /// Groups of endpoints, by name.
    #[serde(default)]
    pub cluster: BTreeMap<String, Cluster>,
    /// Filters, by name.
    #[serde(default)]
    pub filter: BTreeMap<String, Filter>,
    /// Routes; the first whose `path` (and `host`) matches is taken.
    pub route: Vec<Route>,
}

/// Process-wide settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// Worker threads; 0 for one per core.
    pub workers: usize,
    /// The edge's name towards channel servers and in logs.
    pub name: String,
    /// `json` or `text`; the environment's `BAWABA_LOG_FORMAT` comes before it.
    pub log_format: String,
    /// On SIGTERM: how long open sessions are closed in a paced way before the process ends.
    #[serde(with = "duration")]
    pub drain_window: Duration,
    /// Where changes made over the admin listener are kept, and what filters were before; absent: they can't be made.
    pub state_directory: Option<PathBuf>,
    /// Earlier revisions of each filter that are kept there to go back to.
    pub revisions_kept_max: u32,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            workers: 0,
            name: "bawaba".into(),
            log_format: "text".into(),
            drain_window: Duration::from_secs(30),
            state_directory: None,
            revisions_kept_max: 10,
        }
    }
}

/// Where clients connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address to bind.
    pub address: SocketAddr,
    /// Certificate and key, PEM; absent for plain TCP.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 without TLS (h2c, prior knowledge) is taken. With TLS, ALPN decides.
    #[serde(default)]
    pub h2c: bool,
}

/// A certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// The private listener for operators.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Address to bind; keep it off public networks.
    pub address: SocketAddr,
}

/// How tokens are verified.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Keys, each from a file.
    #[serde(default)]
    pub key: Vec<Key>,
    /// A JWKS file (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Required `aud`.
    pub audience: Option<String>,
    /// Tolerated clock difference.
    #[serde(default = "leeway", with = "duration")]
    pub leeway: Duration,
}

fn leeway() -> Duration {
    Duration::from_secs(5)
}

/// One verification key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The `kid` it answers to; absent: tokens without `kid`.
    pub kid: Option<String>,
    /// `HS256`, `RS256`, `ES256` or `EdDSA`.
    pub algorithm: String,
    /// PEM (public keys) or raw secret (HS256, at least 32 bytes).
    pub file: PathBuf,
}

/// Bounds on what the network may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open sessions in the process.
    pub sessions_max: u32,
    /// Open sessions from one client address; 0 for no limit.
    pub sessions_per_address_max: u32,
    /// Connections in the listener's care at once: handshakes under way, plain HTTP kept alive, HTTP/2 connections.
    pub handshakes_max: u32,
    /// Request head, in bytes.
    pub request_head_bytes_max: u32,
    /// Inbound message on channel routes, in bytes.
    pub message_bytes_max: u32,
    /// Inbound message on relay routes, in bytes.
    pub relay_message_bytes_max: u32,
    /// Bytes waiting for one session's socket before the slow-reader ladder begins.
    pub outbox_bytes_max: u32,
    /// Bytes held by one cohort log.
    pub log_bytes_max: u32,
    /// Updates of one instrument that wait for a delayed licence: beyond, state is folded, and trades have a gap.
    pub delayed_updates_max: u32,
    /// Symbols that one session may follow.
    pub symbols_per_session_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            sessions_per_address_max: 0,
            handshakes_max: 10_000,
            request_head_bytes_max: 16 * 1024,
            message_bytes_max: 64 * 1024,
            relay_message_bytes_max: 1024 * 1024,
            outbox_bytes_max: 256 * 1024,
            log_bytes_max: 64 * 1024,
            delayed_updates_max: 4_096,
            symbols_per_session_max: 5_000,
        }
    }
}

/// Time limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the first byte of a request to its end.
    #[serde(with = "duration")]
    pub request_head: Duration,
    /// For the upstream handshake of a relay or trunk.
    #[serde(with = "duration")]
    pub connect: Duration,
    /// How often the edge pings an idle client.
    #[serde(with = "duration")]
    pub ping_interval: Duration,
    /// No traffic and no Pong for this long: close 4408.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// After our Close frame: how long the peer has to answer.
    #[serde(with = "duration")]
    pub close: Duration,
    /// A relay without a data message in either direction for this long: close 1001; `0s` for never.
    #[serde(with = "duration")]
    pub relay_idle: Duration,
    /// A client that takes no byte for this long: close 4008.
    #[serde(with = "duration")]
    pub write_stall: Duration,
    /// How long a slow reader that keeps up again stays at the slower rate; longer each time.
    #[serde(with = "duration")]
    pub degraded: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_head: Duration::from_secs(10),
            connect: Duration::from_secs(3),
            ping_interval: Duration::from_secs(20),
            heartbeat: Duration::from_secs(60),
            close: Duration::from_secs(5),
            relay_idle: Duration::ZERO,
            write_stall: Duration::from_secs(30),
            degraded: Duration::from_secs(5),
        }
    }
}

/// How sessions find their way back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sticky {
    /// File with the secret that signs sticky tokens (at least 32 bytes); absent: a random one per process.
    pub key_file: Option<PathBuf>,
}

/// A group of endpoints that serve the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// `host:port` of each, or a table that says more; sources may announce further ones.
    pub endpoints: Vec<Announced>,
    /// Path of the WebSocket on the endpoints of a channel route.
    pub path: String,
    /// Active health checks.
    pub health: Health,
    /// File with a bearer token that the edge presents (edge before edge).
    pub token_file: Option<PathBuf>,
    /// Who gets which endpoint.
    pub balance: balance::Balance,
    /// What an endpoint may carry at most.
    pub breaker: balance::Breaker,
    /// When an endpoint that answers its checks is left alone all the same.
    pub outlier: balance::Outlier,
    /// How much of what failed is tried elsewhere.
    pub retry: balance::Retry,
    /// In this time an endpoint that comes (back) while others serve grows to its whole weight; `0s` for at once.
    #[serde(with = "duration")]
    pub slow_start: Duration,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            path: "/ws".into(),
            health: Health::default(),
            token_file: None,
            balance: balance::Balance::default(),
            breaker: balance::Breaker::default(),
            outlier: balance::Outlier::default(),
            retry: balance::Retry::default(),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// Active health checks: an HTTP GET that must answer 200 (or, with `path = ""`, a TCP connect).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Path to GET; empty for a TCP connect only.
    pub path: String,
    /// Time between checks.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Time for one check.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: "/readyz".into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            unhealthy_after: 2,
            healthy_after: 1,
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in logs and metrics.
    pub name: String,
    /// `Host` it answers to; absent for any.
    pub host: Option<String>,
    /// Path: exact, or a prefix when it ends in `*`.
    pub path: String,
    /// Filters, in the order of the request; the response passes them in reverse.
    #[serde(default)]
    pub filters: Vec<String>,
    /// Whether a token is required.
    #[serde(default = "yes")]
    pub authenticate: bool,
    /// Allowed `Origin`s; empty allows requests without `Origin` and any origin that equals the host. `["*"]` for all.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Channel route: the cluster of each exchange.
    pub channel: Option<BTreeMap<String, String>>,
    /// Relay route: the cluster behind it.
    pub relay: Option<Relay>,
}

fn yes() -> bool {
    true
}

/// What a relay route does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// The cluster behind it.
    pub cluster: String,
    /// Whether plain HTTP requests on this route pass too.
    #[serde(default)]
    pub http: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every configuration that an operator can copy out of the documentation has the right form.
    #[test]
    fn the_documents_show_configurations_that_can_be_read() {
        let text = include_str!("../../docs/operate.md");
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(blocks.len() >= 2);
        for block in blocks {
            let read: Result<Config, _> = toml::from_str(block);
            assert!(read.is_ok(), "{}\n{block}", read.unwrap_err());
        }
    }
}
