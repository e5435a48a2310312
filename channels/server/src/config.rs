//! What the process is told: command line, and a TOML file for what rarely changes. Unknown keys are refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bawaba_channels::wire::Timestamp;
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::sim::RATE_MAX;
use bawaba_channels::listing::Listing;

/// The channel server: EGX and ADX over the TradSys v3 protocol, simulated or replayed.
#[derive(Debug, Parser)]
#[command(name = "bawaba-channel", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve an exchange's channels; prints "listening on ADDRESS" once bound.
    Serve(Serve),
    /// List an exchange's instruments.
    Symbols(Symbols),
    /// Print when an exchange trades, day by day, and what that rests on.
    Calendar(Calendar),
    /// Write a recording of the simulation; the same settings write the same bytes.
    Record(Record),
}

/// Which exchange.
#[derive(Debug, Args)]
pub(crate) struct Exchange {
    /// EGX, ADX, DFM, or the exchange of --data.
    #[arg(long, default_value = "EGX")]
    pub(crate) exchange: String,
    /// Data file of an exchange that is not built in (see channels/data).
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
}

impl Exchange {
    pub(crate) fn listing(&self) -> anyhow::Result<Listing> {
        listing(&self.exchange, self.data.as_deref())
    }
}

/// The exchange of this name: of a file, or built in.
pub(crate) fn listing(exchange: &str, file: Option<&Path>) -> anyhow::Result<Listing> {
    let Some(path) = file else { return Ok(Listing::embedded(exchange)?) };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let listing = Listing::parse(&text).with_context(|| path.display().to_string())?;
    let found = listing.exchange;
    ensure!(found.as_str() == exchange, "{} holds {found}, not {exchange}", path.display());
    Ok(listing)
}

/// What decides a simulation.
#[derive(Debug, Args)]
pub(crate) struct Simulation {
    /// Seed of the simulation.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// When the simulation begins. Servers with the same seed, anchor and rate serve the same streams, so give
    /// every server of a fleet the same one. Default: the exchange's midnight.
    #[arg(long, value_name = "RFC3339")]
    pub(crate) anchor: Option<Timestamp>,
    /// Trade always, whatever the exchange's hours.
    #[arg(long)]
    pub(crate) round_the_clock: bool,
    /// Quote updates per second, over all instruments.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    pub(crate) updates_per_second: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) exchange: Exchange,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Limits and timeouts (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) simulation: Simulation,
    /// Play a recording instead of the simulation.
    #[arg(long, value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
    /// Begin the recording again when it ends; sequence numbers go on.
    #[arg(long = "loop", requires = "replay")]
    pub(crate) looped: bool,
    /// End at once when standard input closes: whoever holds its other end is gone, however it ended.
    #[arg(long)]
    pub(crate) end_with_input: bool,
    /// Address that operators talk to; needs --operators.
    #[arg(long, value_name = "ADDRESS", requires = "operators")]
    pub(crate) admin: Option<SocketAddr>,
    /// Operators: lines of NAME TOKEN.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(crate) operators: Option<PathBuf>,
    /// Whether sessions need the claims header that the edge writes.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) require_claims: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Symbols {
    /// EGX, ADX or DFM.
    pub(crate) exchange: String,
    /// One JSON object per line, with source and confidence.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Calendar {
    /// EGX, ADX, DFM, or the exchange of --data.
    pub(crate) exchange: String,
    /// Data file of an exchange that is not built in.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// First day.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) from: jiff::civil::Date,
    /// Last day.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) to: jiff::civil::Date,
}

#[derive(Debug, Args)]
pub(crate) struct Record {
    #[command(flatten)]
    pub(crate) exchange: Exchange,
    #[command(flatten)]
    pub(crate) simulation: Simulation,
    /// How long, in simulated seconds.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Only these symbols, by commas.
    #[arg(long, value_delimiter = ',')]
    pub(crate) symbols: Vec<String>,
    /// Where to write.
    pub(crate) file: PathBuf,
}

/// The TOML file. Every key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Connections at once; more are answered 503.
    pub(crate) connections_max: usize,
    /// Longest message from a client, in bytes.
    pub(crate) message_bytes_max: u32,
    /// Longest message from an edge, in bytes.
    pub(crate) trunk_message_bytes_max: u32,
    /// Longest request head, in bytes.
    pub(crate) head_bytes_max: usize,
    /// Frames that wait for one session before it counts as slow.
    pub(crate) outbox_frames_max: usize,
    /// Bytes that wait for one session before it counts as slow.
    pub(crate) outbox_bytes_max: usize,
    /// Bytes that wait for one edge before it counts as slow: a trunk carries many users.
    pub(crate) trunk_outbox_bytes_max: usize,
    /// Subscriptions of one session.
    pub(crate) subscriptions_max: usize,
    /// Updates kept per stream for those who resume.
    pub(crate) ring_updates: usize,
    /// How often sessions are pinged.
    pub(crate) ping_interval_ms: u64,
    /// Without traffic for so long a session is closed (4408).
    pub(crate) idle_timeout_ms: u64,
    /// How long a request head may take.
    pub(crate) handshake_timeout_ms: u64,
    /// How long one write may take.
    pub(crate) write_timeout_ms: u64,
    /// After SIGTERM: between telling sessions to go and closing them.
    pub(crate) drain_ms: u64,
    /// After SIGTERM: when the process ends at the latest.
    pub(crate) drain_deadline_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            message_bytes_max: 64 * 1024,
            trunk_message_bytes_max: 1024 * 1024,
            head_bytes_max: 32 * 1024,
            outbox_frames_max: 65_536,
            outbox_bytes_max: 16 * 1024 * 1024,
            trunk_outbox_bytes_max: 64 * 1024 * 1024,
            subscriptions_max: 10_000,
            ring_updates: 256,
            ping_interval_ms: 20_000,
            idle_timeout_ms: 60_000,
            handshake_timeout_ms: 10_000,
            write_timeout_ms: 10_000,
            drain_ms: 1_000,
            drain_deadline_ms: 5_000,
        }
    }
}

/// What one connection needs of [`Config`].
#[derive(Clone, Debug)]
pub(crate) struct SessionLimits {
    pub(crate) connections_max: usize,
    pub(crate) message_bytes_max: u32,
    pub(crate) trunk_message_bytes_max: u32,
    pub(crate) head_bytes_max: usize,
    pub(crate) outbox_frames_max: usize,
    pub(crate) outbox_bytes_max: usize,
    pub(crate) trunk_outbox_bytes_max: usize,
    pub(crate) ping_interval: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

impl Config {
    /// Reads the file; errors name the file, line and column.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        ensure!(config.ping_interval_ms >= 10, "ping_interval_ms: at least 10");
        ensure!(config.idle_timeout_ms > config.ping_interval_ms, "idle_timeout_ms: more than ping_interval_ms");
        ensure!((1..=100_000).contains(&config.ring_updates), "ring_updates: 1 to 100000");
        ensure!((1..=1_000_000).contains(&config.connections_max), "connections_max: 1 to 1000000");
        ensure!((16..=1_000_000).contains(&config.outbox_frames_max), "outbox_frames_max: 16 to 1000000");
        let least = config.outbox_bytes_max.min(config.trunk_outbox_bytes_max);
        ensure!(least >= 64 * 1024, "outbox_bytes_max, trunk_outbox_bytes_max: at least 65536");
        ensure!(config.head_bytes_max >= 1024, "head_bytes_max: at least 1024");
        ensure!(config.drain_deadline_ms >= config.drain_ms, "drain_deadline_ms: not less than drain_ms");
        Ok(config)
    }

    pub(crate) fn session_limits(&self) -> SessionLimits {
        SessionLimits {
            connections_max: self.connections_max,
            message_bytes_max: self.message_bytes_max,
            trunk_message_bytes_max: self.trunk_message_bytes_max,
            head_bytes_max: self.head_bytes_max,
            outbox_frames_max: self.outbox_frames_max,
            outbox_bytes_max: self.outbox_bytes_max,
            trunk_outbox_bytes_max: self.trunk_outbox_bytes_max,
            ping_interval: Duration::from_millis(self.ping_interval_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            handshake_timeout: Duration::from_millis(self.handshake_timeout_ms),
            write_timeout: Duration::from_millis(self.write_timeout_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        assert_eq!(Config::parse("ring_updates = 7").unwrap().ring_updates, 7);
        let error = format!("{:#}", Config::parse("ring_updates = 7\nring_update = 7").unwrap_err());
        assert!(error.contains("line 2") && error.contains("ring_update"), "{error}");
        assert!(Config::parse("idle_timeout_ms = 5").is_err());
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let document = include_str!("../../../docs/channel-server.md");
        let (_, block) = document.split_once("```toml\n").unwrap();
        let (block, _) = block.split_once("```").unwrap();
        assert_eq!(Config::parse(block).unwrap(), Config::default());
        assert_eq!(block.lines().count(), 15, "every key is there");
    }

    #[test]
    fn the_documented_commands_are_commands() {
        for document in [include_str!("../../../docs/channel-server.md"), include_str!("../../../docs/recording.md")] {
            let joined = document.replace("\\\n", " ");
            let commands = joined.lines().filter(|line| line.starts_with("bawaba-channel "));
            for command in commands {
                let words = command.split('#').next().unwrap_or_default().split_whitespace();
                assert!(Cli::try_parse_from(words).is_ok(), "{command}");
            }
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
