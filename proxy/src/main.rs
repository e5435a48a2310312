//! `bawaba`: the edge, and the commands that people use with it.

#![allow(missing_docs, unreachable_pub, reason = "a binary: nothing here is anybody's API")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admin;
mod answer;
mod canary;
mod cases;
mod chain;
mod change;
mod check;
mod cluster;
mod config;
mod connect;
mod context;
mod control;
mod counters;
mod demo;
mod downstream;
mod drain;
mod explain;
mod generation;
mod grants;
mod handshake;
mod health;
mod hub;
mod identity;
mod jitter;
mod limits;
mod lint;
mod listener;
mod loading;
mod metrics;
mod outbox;
mod passthrough;
mod refusal;
mod relay;
mod revision;
mod route;
mod serve;
mod session;
mod shadow;
mod shared;
mod signature;
mod sources;
mod sticky;
mod store;
mod token;
mod trunk;
mod upstream;
mod usage;
mod worker;

/// A WebSocket edge for market data and trading.
#[derive(Parser)]
#[command(name = "bawaba", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the edge.
    Serve {
        /// The configuration (TOML).
        file: PathBuf,
    },
    /// Say everything that is wrong with a configuration, with line, column and what to do.
    Check {
        /// The configuration (TOML).
        file: PathBuf,
        /// The file is an Envoy configuration (YAML): say where messages would pass the filters by.
        #[arg(long)]
        envoy: bool,
    },
    /// Run an edge with simulated EGX and ADX behind it, and print how to try it.
    Demo(demo::Arguments),
    /// Mint and inspect development tokens.
    #[command(subcommand)]
    Token(token::Command),
    /// Ask the policies of a configuration.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What was used: reports, exports, and whether the ledger is what was written.
    Usage {
        #[command(subcommand)]
        command: usage::command::Command,
        /// Whose days and months count (IANA name), for a ledger read from its file.
        #[arg(long, default_value = "Africa/Cairo")]
        time_zone: String,
    },
    /// Subscribe from a terminal and watch.
    Connect(connect::Arguments),
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Say who decides what about a user and an instrument, by which version, and why.
    Explain {
        /// The configuration (TOML).
        #[arg(long)]
        config: PathBuf,
        /// `sub` of the token.
        #[arg(long)]
        user: String,
        /// `tenant` of the token.
        #[arg(long)]
        tenant: Option<String>,
        /// Further claims, as a JSON object: `{"tier": "basic"}`.
        #[arg(long)]
        claims: Option<String>,
        /// The exchange.
        #[arg(long)]
        exchange: String,
        /// The symbol.
        #[arg(long, default_value = "")]
        symbol: String,
        /// The channel.
        #[arg(long, default_value = "market_data")]
        channel: String,
        /// The route; the first channel route if absent.
        #[arg(long)]
        route: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve { file } => serve::load(&file).and_then(|loaded| {
            log_to_stderr("info", &loaded.config.edge.log_format);
            serve::run(&file, loaded, |_| {})
        }),
        Command::Check { file, envoy: true } => return linted(&file),
        Command::Check { file, envoy: false } => return checked(&file),
        Command::Demo(arguments) => {
            log_to_stderr("warn", "text");
            demo::run(&arguments)
        }
        Command::Token(command) => token::run(&command),
        Command::Policy(command) => explained(command),
        Command::Usage { command, time_zone } => usage::command::run(&command, &time_zone),
        Command::Connect(arguments) => watch(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The generation that the files alone make: what an operator chose over them is the running edge's.
fn built(config: config::Config) -> anyhow::Result<generation::Generation> {
    let config = std::sync::Arc::new(config);
    let sources = sources::resolve(&config, &store::Store::open(None, 1)?)?;
    Ok(generation::Generation::build(config, &sources, None)?)
}

#[expect(clippy::print_stdout, reason = "what the command is for")]
fn explained(command: PolicyCommand) -> anyhow::Result<()> {
    let PolicyCommand::Explain { config, user, tenant, claims, exchange, symbol, channel, route, json } = command;
    let generation = built(serve::load(&config)?.config)?;
    let more = claims.as_deref().map(serde_json::from_str).transpose()?;
    let claims = explain::Question::claims_of(&user, tenant.as_deref(), more);
    let question = explain::Question { claims, exchange, symbol, channel, route };
    let explained = explain::explain(&generation, &question).map_err(anyhow::Error::msg)?;
    if json {
        println!("{explained}");
    } else {
        print!("{}", explain::text(&explained));
    }
    Ok(())
}

fn watch(arguments: &connect::Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(connect::run(arguments))?)
}

/// Facts for machines and people, on standard error; `BAWABA_LOG` says how much (`info`, `bawaba=debug`, …), and
/// `BAWABA_LOG_FORMAT` in which format (`json`, `text`), where it shall differ from the configuration's.
fn log_to_stderr(level: &str, format: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BAWABA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let json = std::env::var("BAWABA_LOG_FORMAT").map_or(format == "json", |wanted| wanted == "json");
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { builder.json().init() } else { builder.init() }
}

#[expect(clippy::print_stderr, reason = "a command's last words")]
fn say_error(text: &str) {
    eprintln!("bawaba: {text}");
}

#[expect(clippy::print_stdout, reason = "what the command is for")]
fn checked(file: &std::path::Path) -> ExitCode {
    let loaded = match config::load(file) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in &problems {
                println!("{problem}");
            }
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        println!("{warning}");
    }
    // What only building it can show: modules that load, settings that filters take, keys that can be read.
    match built(loaded.config) {
        Ok(generation) => {
            let (routes, filters) = (generation.routes.len(), generation.filters.len());
            println!("{}: right: {routes} routes, {filters} filters", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}: {error:#}", file.display());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the command is for")]
fn linted(file: &std::path::Path) -> ExitCode {
    let report = lint::check(file);
    for problem in &report.problems {
        println!("{problem}");
    }
    if report.has_errors() {
        return ExitCode::FAILURE;
    }
    println!("{}: right: {} filters, {} listeners for WebSockets", file.display(), report.filters, report.doors);
    ExitCode::SUCCESS
}
