//! What a connection and a message cost, beside the proxies that people run today: `make bench`.
//!
//! One proxy at a time, one worker each, on loopback, before the same echo server. CPU time and memory are the
//! proxy's own, read from `/proc`, so they bear a busy machine better than messages per second do. It prints a table
//! and the machine; it asserts nothing about speed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod load;
mod proxies;

use std::time::Duration;

use bawaba_tests::keys::Keys;

use load::{Connections, Echo};
use proxies::{Kind, Proxy};

/// Connections held open to measure memory.
const IDLE: usize = 2_000;
/// Handshakes, and their pace.
const OPENED: usize = 1_000;
const PACE: Duration = Duration::from_millis(10);
/// Bytes of a message's payload.
const PAYLOAD_BYTES: usize = 128;
/// One message under way on each of many connections; many under way on each of few.
const ALTERNATING: Flow = Flow { connections: 200, window: 1, rounds: 500 };
const STREAMING: Flow = Flow { connections: 50, window: 64, rounds: 100 };

#[derive(Clone, Copy)]
struct Flow {
    connections: usize,
    window: usize,
    rounds: usize,
}

struct Row {
    name: String,
    idle_bytes: f64,
    opening_ms: (f64, f64),
    alternating_us: f64,
    streaming_us: f64,
}

fn main() {
    // `cargo test --all-targets` runs benches too, to see that they start.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    load::raise_file_limit();
    let keys = Keys::generate();
    let echo = Echo::start();
    let mut rows = Vec::new();
    // `cargo bench … -- haproxy` measures only the rows whose name holds the word.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |kind: &Kind| words.is_empty() || words.iter().any(|word| kind.name().to_lowercase().contains(word));
    for kind in Kind::ALL.into_iter().filter(wanted) {
        match kind.missing() {
            Some(program) => println!("{}: left out, there is no {program}", kind.name()),
            None => rows.push(measure(kind, &keys, &echo)),
        }
    }
    print(&rows);
}

/// All figures of one proxy, each from a fresh process.
fn measure(kind: Kind, keys: &Keys, echo: &Echo) -> Row {
    let start = || Proxy::start(kind, keys, echo.address());
    println!("{} …", kind.name());
    let row = Row {
        name: kind.name().into(),
        idle_bytes: idle_bytes(&start(), keys),
        opening_ms: opening_ms(&start(), keys),
        alternating_us: cpu_us(&start(), keys, ALTERNATING),
        streaming_us: cpu_us(&start(), keys, STREAMING),
    };
    println!("{}", cells(&row, None));
    row
}

/// Resident memory for each further idle connection, in bytes; the first hundred pay for pools and lazy tables.
fn idle_bytes(proxy: &Proxy, keys: &Keys) -> f64 {
    let mut connections = Connections::open(proxy.address(), keys, 100);
    connections.exchange(1, PAYLOAD_BYTES);
    let before = proxy.resident_bytes();
    let mut further = Connections::open(proxy.address(), keys, IDLE);
    further.exchange(1, PAYLOAD_BYTES);
    proxy.resident_bytes().saturating_sub(before) as f64 / IDLE as f64
}

/// Milliseconds from the moment a connection was due to its 101: median and 99th percentile.
fn opening_ms(proxy: &Proxy, keys: &Keys) -> (f64, f64) {
    let (_connections, mut took) = Connections::open_paced(proxy.address(), keys, OPENED, PACE);
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    (at(0.5), at(0.99))
}

/// The proxy's CPU time for one message there and back, in microseconds.
fn cpu_us(proxy: &Proxy, keys: &Keys, flow: Flow) -> f64 {
    let mut connections = Connections::open(proxy.address(), keys, flow.connections);
    for _ in 0..flow.rounds / 10 {
        connections.exchange(flow.window, PAYLOAD_BYTES);
    }
    let before = proxy.cpu_seconds();
    for _ in 0..flow.rounds {
        connections.exchange(flow.window, PAYLOAD_BYTES);
    }
    let messages = flow.connections * flow.window * flow.rounds;
    (proxy.cpu_seconds() - before) * 1e6 / messages as f64
}

fn print(rows: &[Row]) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |m| m.1);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "\nMachine: {model}, {cores} cores, Linux {}; loopback, one proxy worker, {PAYLOAD_BYTES}-byte messages.",
        kernel.trim()
    );
    println!("CPU is the proxy's own for one message there and back. Ratios are to HAProxy.\n");
    println!(
        "| proxy | idle KiB a connection | connect p50, p99 ms at 100/s | CPU µs a message, {} × 1 | CPU µs a message, {} × {} |",
        ALTERNATING.connections, STREAMING.connections, STREAMING.window
    );
    println!("|---|---|---|---|---|");
    let base = rows.iter().find(|row| row.name.starts_with("HAProxy"));
    for row in rows {
        println!("{}", cells(row, base));
    }
}

fn cells(row: &Row, base: Option<&Row>) -> String {
    let ratio =
        |value: fn(&Row) -> f64| base.map_or(String::new(), |base| format!(" ({:.2}×)", value(row) / value(base)));
    format!(
        "| {} | {:.1}{} | {:.2}, {:.2} | {:.2}{} | {:.3}{} |",
        row.name,
        row.idle_bytes / 1024.0,
        ratio(|row| row.idle_bytes),
        row.opening_ms.0,
        row.opening_ms.1,
        row.alternating_us,
        ratio(|row| row.alternating_us),
        row.streaming_us,
        ratio(|row| row.streaming_us),
    )
}
