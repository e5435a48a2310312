//! The life of the process: bind, start the feed and the hub, serve, drain on SIGTERM, end within the deadline.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::info;

use crate::admin::{self, Operators};
use crate::config::{Config, Serve, Simulation};
use crate::feed::Feed;
use crate::handshake::Identity;
use crate::http::{Shared, serve};
use crate::hub::{self, Command, Hub, Load, now};
use crate::replay::Replay;
use crate::sim::{Hours, Settings, Sim};
use bawaba_channels::listing::Listing;

/// The settings of a simulation.
///
/// Without an anchor it begins with the exchange's day: servers started on the same day agree, also one that
/// restarts, and a day at the default rate (8.6 million steps) is caught up with in about a second.
pub(crate) fn settings(simulation: &Simulation, listing: &Listing, now: i64) -> Settings {
    Settings {
        seed: simulation.seed,
        anchor: simulation.anchor.map_or_else(|| listing.calendar.midnight_before(now), |at| at.0),
        updates_per_second: simulation.updates_per_second,
        hours: if simulation.round_the_clock { Hours::RoundTheClock } else { Hours::Calendar },
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(command: Serve) -> anyhow::Result<()> {
    if command.end_with_input {
        end_with_input()?;
    }
    let config = Config::read(command.config.as_deref())?;
    let listing = Arc::new(command.exchange.listing()?);
    let (listing, feed) = feed(&command, listing)?;
    let listener = TcpListener::bind(command.listen).await.with_context(|| format!("listen on {}", command.listen))?;
    let address = listener.local_addr()?;
    let admin = match (command.admin, &command.operators) {
        (Some(address), Some(file)) => {
            let operators = Arc::new(Operators::read(file)?);
            let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
            Some((listener.local_addr()?, listener, operators))
        }
        _ => None,
    };
    let admin_address = admin.as_ref().map(|(address, ..)| *address);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let load = Arc::new(Load::default());
    let boot = format!("{:x}-{}", now(), std::process::id());
    let hub_settings =
        hub::Settings { ring: config.ring_updates, subscriptions_per_session: config.subscriptions_max, boot };
    info!(exchange = %listing.exchange, mic = listing.mic, instruments = listing.instruments.len(), epoch = feed.epoch(), "starting");
    let (ready, caught_up) = oneshot::channel();
    let hub = hub::start(Hub::new(listing.clone(), feed, hub_settings, load.clone()), ready);
    let limits = config.session_limits();
    let shared = Arc::new(Shared {
        hub: hub.clone(),
        load,
        listing,
        identity: if command.require_claims { Identity::Required } else { Identity::Optional },
        ready: AtomicBool::new(false),
        next_session: AtomicU64::new(1),
        connections: Arc::new(Semaphore::new(limits.connections_max)),
        limits,
    });
    let (stop, stopping) = watch::channel(());
    if let Some((_, listener, operators)) = admin {
        tokio::spawn(admin::serve(listener, shared.clone(), operators, stopping.clone()));
    }
    let accepting = tokio::spawn(serve(listener, shared.clone(), stopping));
    let serving = async {
        caught_up.await.context("the feed ended before it caught up with the clock")?;
        shared.ready.store(true, Ordering::Relaxed);
        announce(address, admin_address)?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        failed = serving => return failed,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shared.ready.store(false, Ordering::Relaxed);
    let deadline = Duration::from_millis(config.drain_deadline_ms);
    info!(deadline_ms = config.drain_deadline_ms, "draining");
    if tokio::time::timeout(deadline, drain(&hub, &shared, &config)).await.is_err() {
        info!("some sessions did not close within the deadline");
    }
    // Health checks are answered to the end.
    let _ = stop.send(());
    let _ = accepting.await;
    Ok(())
}

fn feed(command: &Serve, listing: Arc<Listing>) -> anyhow::Result<(Arc<Listing>, Feed)> {
    match &command.replay {
        Some(path) => {
            let start = command.simulation.anchor.map_or_else(now, |at| at.0);
            let (listing, replay) = Replay::open(path, &listing, start, command.looped)?;
            Ok((listing, Feed::Replay(Box::new(replay))))
        }
        None => {
            let sim = Sim::new(listing.clone(), settings(&command.simulation, &listing, now()));
            Ok((listing, Feed::Sim(Box::new(sim))))
        }
    }
}

/// Ends the process when nobody holds the other end of its input any more.
fn end_with_input() -> std::io::Result<()> {
    std::thread::Builder::new().name("input".into()).spawn(|| {
        // What is written there is of no interest, nor is why it cannot be read.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    })?;
    Ok(())
}

/// The line (with an admin listener two) for whoever started this process, once sessions are welcome; everything else
/// goes to the log on stderr.
fn announce(address: std::net::SocketAddr, admin: Option<std::net::SocketAddr>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    if let Some(admin) = admin {
        writeln!(out, "admin on {admin}")?;
    }
    out.flush()?;
    Ok(())
}

/// Tells every session to go, closes those that stay, waits for all.
async fn drain(hub: &tokio::sync::mpsc::Sender<Command>, shared: &Shared, config: &Config) {
    let window = Duration::from_millis(config.drain_ms);
    // A hub that is gone has no sessions left to tell.
    let _ = hub.send(Command::Drain { retry_after: window }).await;
    let all = u32::try_from(shared.limits.connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(window, shared.connections.acquire_many(all)).await.is_ok() {
        return;
    }
    let _ = hub.send(Command::CloseAll).await;
    let _ = shared.connections.acquire_many(all).await;
}
