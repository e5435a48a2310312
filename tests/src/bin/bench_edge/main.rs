//! `make bench`: idle memory, connect time and relay CPU of the edge beside HAProxy, nginx and Envoy.
//!
//! One echo backend behind all of them, one core for each proxy, load and backend on another. It measures and
//! prints a Markdown table; it asserts nothing by time. `scripts/bench` builds the release profile and runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that can't be made ends with what was seen; its result goes to stdout"
)]

mod echo;
mod load;
mod peers;
mod report;

use std::process::Command;
use std::time::Duration;

use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::process::Process;

use load::Target;
use peers::{Peer, Proxy};
use report::{Row, Table};

const USAGE: &str = "\
bench_edge [--connections N] [--seconds S] [--only NAME,NAME…]

  --connections N   idle connections for the memory row (default 3000)
  --seconds S       length of each load (default 5)
  --only NAMES      of: bawaba-channel, bawaba-relay-filtered, bawaba, haproxy, nginx, envoy,
                    envoy-filtered";

/// What to measure.
struct Options {
    connections: usize,
    length: Duration,
    only: Vec<String>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut options = Options { connections: 3000, length: Duration::from_secs(5), only: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage(&format!("{argument} wants a value")));
        match argument.as_str() {
            "echo" => return echo::serve(),
            "--connections" => options.connections = number(&value()),
            "--seconds" => options.length = Duration::from_secs(number(&value()) as u64),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            other => usage(&format!("unknown argument {other}")),
        }
    }
    measure(&options);
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| usage(&format!("{text} is no number")))
}

fn usage(problem: &str) -> ! {
    eprintln!("bench_edge: {problem}\n\n{USAGE}");
    std::process::exit(2);
}

fn measure(options: &Options) {
    let scratch = Scratch::new();
    let keys = Keys::generate();
    let mut backend = Command::new(std::env::current_exe().expect("its own path"));
    let backend = Process::spawn("echo", backend.arg("echo"));
    let echo = backend.listening();
    let mut table = Table::default();
    for peer in Peer::ALL {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == peer.name()) {
            continue;
        }
        eprintln!("measuring {} …", peer.name());
        match Proxy::start(peer, &scratch, &keys, echo) {
            Ok(proxy) => table.rows.push(measure_one(&proxy, options)),
            Err(why) => eprintln!("{} is left out: {why}", peer.name()),
        }
    }
    println!("{}", table.markdown(options.connections));
}

fn measure_one(proxy: &Proxy, options: &Options) -> Row {
    let target = &proxy.target;
    let connect = load::connect_times(target, 100, options.length);
    let idle_bytes = load::idle_bytes(target, options.connections, || proxy.process.resident_bytes());
    // A channel server answers a ping with a pong; nothing there echoes.
    let relays = matches!(target.kind, load::Kind::Echo);
    let cpu = |connections, window| {
        relays
            .then(|| load::cpu_per_message(target, connections, window, options.length, || proxy.process.cpu_seconds()))
    };
    Row {
        name: proxy.peer.name(),
        version: proxy.version.clone(),
        idle_bytes,
        connect,
        cpu_single: cpu(200, 1),
        cpu_batched: cpu(50, 64),
    }
}

/// The WebSocket upgrade request for a target.
fn upgrade(target: &Target) -> Vec<u8> {
    target.connect.request(target.address)
}
