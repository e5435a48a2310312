//! `bawaba-channel`: the channel server of one exchange. See `docs/recording.md` for its recordings.
//!
//! The path of an update: sim or replay → hub → fan → outbox → session. The path of a request: http → handshake
//! → session → hub → subscribe or orders.

mod admin;
mod calendar;
mod config;
mod fan;
mod feed;
mod handshake;
mod http;
mod hub;
mod orders;
mod outbox;
mod replay;
mod ring;
mod serve;
mod session;
mod sim;

use std::io::Write as _;

use clap::Parser as _;

use bawaba_channels::listing::Listing;
use config::{Cli, Command, Symbols};

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BAWABA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Serve(serve) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve::run(serve))
        }
        Command::Symbols(symbols) => list(&symbols),
        Command::Calendar(asked) => calendar::print(&asked),
        Command::Record(record) => replay::record(&record),
    }
}

fn list(symbols: &Symbols) -> anyhow::Result<()> {
    let listing = Listing::embedded(&symbols.exchange)?;
    let mut out = std::io::stdout().lock();
    for instrument in &listing.instruments {
        if symbols.json {
            serde_json::to_writer(&mut out, instrument)?;
            writeln!(out)?;
        } else {
            let (symbol, isin) = (instrument.symbol.as_str(), instrument.isin.as_deref().unwrap_or("-"));
            writeln!(
                out,
                "{symbol:<12} {isin:<12} {:<6} {} {}",
                instrument.asset_type, instrument.currency, instrument.name
            )?;
        }
    }
    Ok(())
}
