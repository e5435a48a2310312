//! The load: connections that are opened at a rate, held, or kept busy with a window of messages.
//!
//! One thread. Messages are one prebuilt frame, and echoes are counted by their bytes, so that the load costs
//! little beside the proxy it measures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bawaba_tests::client::{Connect, TEXT, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::upgrade;

/// Bytes of a message's payload.
const MESSAGE_BYTES: usize = 128;
/// Bytes of its echo: an unmasked frame with a two-byte length.
const ECHO_BYTES: usize = MESSAGE_BYTES + 4;
/// Connections opened before memory is first read, so that pools and caches have been made.
const WARM_UP: usize = 200;
/// Connections opened at once when only their number counts.
const OPENING_MAX: usize = 32;

/// What stands behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The echo backend.
    Echo,
    /// A channel server, which says `welcome` first.
    Channel,
}

/// Where to connect, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) connect: Connect,
    pub(crate) kind: Kind,
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Opens one WebSocket, to its 101 and, before a channel server, to its `welcome`.
async fn open(target: &Target, request: &[u8]) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(2048);
    let whole = |answer: &[u8]| {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        end.is_some_and(|end| target.kind == Kind::Echo || answer[end..].ends_with(b"}"))
    };
    while !whole(&answer) {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    if !answer.starts_with(b"HTTP/1.1 101") {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        return Err(std::io::Error::other(format!("not upgraded: {shown}")));
    }
    Ok(stream)
}

/// Median and 99th percentile of the time from the first SYN to the end of the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectTimes {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Opens `per_second` connections a second for `length`, each at its own moment whatever became of those before.
pub(crate) fn connect_times(target: &Target, per_second: u32, length: Duration) -> ConnectTimes {
    let count = per_second * u32::try_from(length.as_secs()).unwrap_or(1);
    let request: Arc<[u8]> = upgrade(target).into();
    let target = Arc::new(target.clone());
    let mut times = run(async {
        let mut clock = tokio::time::interval(Duration::from_secs(1) / per_second);
        let mut opening = Vec::new();
        for _ in 0..count {
            let due = clock.tick().await.into_std();
            let (target, request) = (Arc::clone(&target), Arc::clone(&request));
            opening.push(tokio::spawn(async move {
                let stream = open(&target, &request).await.expect("the proxy accepts");
                // From when it was due, not from when this thread got to it: a stall counts for all it delays.
                (due.elapsed(), stream)
            }));
        }
        let mut times = Vec::new();
        for one in opening {
            times.push(one.await.expect("an open does not panic").0);
        }
        times
    });
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    ConnectTimes { p50: at(0.50), p99: at(0.99) }
}

async fn open_many(target: &Target, request: &[u8], count: usize) -> Vec<TcpStream> {
    let target = Arc::new(target.clone());
    let request: Arc<[u8]> = request.into();
    let mut open_streams = Vec::with_capacity(count);
    while open_streams.len() < count {
        let batch: Vec<_> = (0..OPENING_MAX.min(count - open_streams.len()))
            .map(|_| {
                let (target, request) = (Arc::clone(&target), Arc::clone(&request));
                tokio::spawn(async move { open(&target, &request).await })
            })
            .collect();
        for one in batch {
            open_streams.push(one.await.expect("an open does not panic").expect("the proxy accepts"));
        }
    }
    open_streams
}

/// Resident memory that each further idle connection costs, in bytes.
pub(crate) fn idle_bytes(target: &Target, connections: usize, resident: impl Fn() -> u64) -> f64 {
    let request = upgrade(target);
    run(async {
        let warm = open_many(target, &request, WARM_UP).await;
        let before = resident();
        let idle = open_many(target, &request, connections).await;
        let after = resident();
        drop((warm, idle));
        after.saturating_sub(before) as f64 / connections as f64
    })
}

/// CPU that the proxy spends on one message and its echo, in seconds.
pub(crate) fn cpu_per_message(
    target: &Target,
    connections: usize,
    window: usize,
    length: Duration,
    cpu: impl Fn() -> f64,
) -> f64 {
    let request = upgrade(target);
    // A request that any filter lets pass, padded to the length.
    let mut message = br#"{"type":"ping","id":1"#.to_vec();
    message.resize(MESSAGE_BYTES - 1, b' ');
    message.push(b'}');
    let message: Arc<[u8]> = frame(TEXT, &message).into();
    let echoed = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    run(async {
        let streams = open_many(target, &request, connections).await;
        let mut busy = Vec::new();
        for stream in streams {
            let (message, echoed, stop) = (Arc::clone(&message), Arc::clone(&echoed), Arc::clone(&stop));
            busy.push(tokio::spawn(keep_busy(stream, message, window, echoed, stop)));
        }
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        // The first tick is at once, and the first second is warm-up.
        seconds.tick().await;
        seconds.tick().await;
        let (from_cpu, from_count, from) = (cpu(), echoed.load(Ordering::Relaxed), Instant::now());
        for _ in 0..length.as_secs() {
            seconds.tick().await;
        }
        let used = cpu() - from_cpu;
        let messages = echoed.load(Ordering::Relaxed) - from_count;
        eprintln!(
            "  {connections} connections, window {window}: {:.0} messages/s",
            messages as f64 / from.elapsed().as_secs_f64()
        );
        stop.store(true, Ordering::Relaxed);
        for one in busy {
            one.abort();
        }
        used / messages.max(1) as f64
    })
}

async fn keep_busy(
    mut stream: TcpStream,
    message: Arc<[u8]>,
    window: usize,
    echoed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    let burst = message.repeat(window);
    let mut input = vec![0; ECHO_BYTES * window.max(8)];
    let mut partial = 0;
    if stream.write_all(&burst).await.is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        let Ok(n @ 1..) = stream.read(&mut input).await else {
            return;
        };
        let whole = (partial + n) / ECHO_BYTES;
        partial = (partial + n) % ECHO_BYTES;
        echoed.fetch_add(whole as u64, Ordering::Relaxed);
        if stream.write_all(&burst[..whole * message.len()]).await.is_err() {
            return;
        }
    }
}
