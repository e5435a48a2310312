//! The listener: request heads within limits, the four plain pages, and sessions for `/ws`.
//!
//! One request per connection. A whole HTTP server would be another attack surface for four pages, so the
//! head is read by httparse and everything else answered with `Connection: close`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bawaba_channels::listing::Listing;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Timestamp;
use bytes::{Buf as _, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::config::SessionLimits;
use crate::handshake::{Head, Identity, Refused, accept};
use crate::hub::{Command, Load, now};
use crate::session::{self, Opening};

/// Instruments in an answer of `/symbols`, unless `limit` says otherwise, and at most.
const SYMBOLS_DEFAULT: usize = 20;
const SYMBOLS_MAX: usize = 1000;

/// What every connection shares.
pub(crate) struct Shared {
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) load: Arc<Load>,
    pub(crate) listing: Arc<Listing>,
    pub(crate) limits: SessionLimits,
    pub(crate) identity: Identity,
    /// New sessions are welcome: the feed has caught up and no drain has begun.
    pub(crate) ready: AtomicBool,
    pub(crate) next_session: AtomicU64,
    /// One permit per connection.
    pub(crate) connections: Arc<Semaphore>,
}

/// The body of `/load`.
#[derive(Serialize)]
struct LoadReport {
    sessions: usize,
    subscriptions: usize,
    /// Part of the connections in use, 0 to 1.
    load: f64,
}

#[derive(Serialize)]
struct Problem<'a> {
    code: &'a str,
    reason: &'a str,
}

/// Accepts connections until told to stop.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<()>) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: let some connections end.
                    warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stop.changed() => return,
        };
        let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
            tokio::spawn(turn_away(stream));
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            connection(stream, &shared).await;
            drop(permit);
        });
    }
}

async fn turn_away(mut stream: TcpStream) {
    let refused = Refused::new(503, Reason::EdgeOverloaded, "this server is at its connection limit: come back later");
    answer(&mut stream, &Refused { header: "Retry-After: 1\r\n", ..refused }).await;
}

async fn connection(mut stream: TcpStream, shared: &Shared) {
    let mut buffer = BytesMut::new();
    let head = match timeout(shared.limits.handshake_timeout, read_head(&mut stream, &mut buffer, shared)).await {
        Ok(Ok(Some(head))) => head,
        Ok(Ok(None)) => return,
        Ok(Err(refused)) => return answer(&mut stream, &refused).await,
        Err(_) => {
            return answer(
                &mut stream,
                &Refused::new(408, Reason::ProtocolMalformed, "the request head took too long"),
            )
            .await;
        }
    };
    buffer.advance(head.len);
    let ready = shared.ready.load(Ordering::Relaxed);
    let refused = match (head.path.as_str(), head.method.as_str()) {
        ("/ws", _) if !ready => {
            let refused = Refused::new(503, Reason::EdgeDraining, "this server is not ready: come back");
            Refused { header: "Retry-After: 1\r\n", ..refused }
        }
        ("/ws", _) => match accept(&head, shared.identity, Timestamp(now())) {
            Ok(accepted) => {
                if stream.write_all(accepted.response.as_bytes()).await.is_err() {
                    return;
                }
                let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
                let (encoding, claims) = (accepted.encoding, accepted.claims);
                let (hub, limits) = (shared.hub.clone(), shared.limits.clone());
                return session::run(Opening { id, stream, pre_read: buffer, encoding, claims, hub, limits }).await;
            }
            Err(refused) => refused,
        },
        ("/livez" | "/readyz" | "/load" | "/symbols", "GET" | "HEAD") => {
            return page(&mut stream, &head, shared, ready).await;
        }
        ("/livez" | "/readyz" | "/load" | "/symbols", _) => {
            let refused = Refused::new(405, Reason::ProtocolUnsupported, "GET only");
            Refused { header: "Allow: GET, HEAD\r\n", ..refused }
        }
        _ => Refused::new(404, Reason::ChannelUnknown, "there are /ws, /symbols, /livez, /readyz and /load"),
    };
    debug!(status = refused.status, code = refused.code, "request refused");
    answer(&mut stream, &refused).await;
}

pub(crate) async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    shared: &Shared,
) -> Result<Option<Head>, Refused> {
    loop {
        match stream.read_buf(buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Ok(None),
        }
        if let Some(head) = Head::parse(buffer)? {
            return Ok(Some(head));
        }
        let most = shared.limits.head_bytes_max;
        if buffer.len() > most {
            return Err(Refused::new(
                431,
                Reason::ProtocolTooLarge,
                format!("the request head is longer than {most} bytes"),
            ));
        }
    }
}

async fn page(stream: &mut TcpStream, head: &Head, shared: &Shared, ready: bool) {
    let body = match head.path.as_str() {
        "/load" => {
            let all = shared.limits.connections_max.max(1);
            let used = all.saturating_sub(shared.connections.available_permits());
            let report = LoadReport {
                sessions: shared.load.sessions.load(Ordering::Relaxed),
                subscriptions: shared.load.subscriptions.load(Ordering::Relaxed),
                load: (used as f64 / all as f64 * 1000.0).round() / 1000.0,
            };
            (200, "application/json", serde_json::to_string(&report).unwrap_or_default())
        }
        "/symbols" => (200, "application/json", found(&shared.listing, &head.query)),
        "/readyz" if !ready => (503, "text/plain", "not ready\n".into()),
        _ => (200, "text/plain", "ok\n".into()),
    };
    let (status, kind, body) = body;
    respond(
        stream,
        status,
        kind,
        "",
        if head.method == "HEAD" { Body::Length(body.len()) } else { Body::Whole(&body) },
    )
    .await;
}

/// The instruments that a query asks for: `query` is words, `limit` how many at most.
fn found(listing: &Listing, query: &str) -> String {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| plain(value))
    };
    let most = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(SYMBOLS_DEFAULT).min(SYMBOLS_MAX);
    let instruments = listing.search(&value("query").unwrap_or_default(), most);
    let report = serde_json::json!({ "exchange": listing.exchange, "mic": listing.mic, "instruments": instruments });
    report.to_string()
}

/// A value of a query: `+` and `%20` are spaces; what is no UTF-8 is left out.
fn plain(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => b' ',
                }
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A page of JSON.
pub(crate) async fn reply(stream: &mut TcpStream, body: &str) {
    respond(stream, 200, "application/json", "", Body::Whole(body)).await;
}

pub(crate) async fn answer(stream: &mut TcpStream, refused: &Refused) {
    let problem = Problem { code: refused.code, reason: &refused.reason };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    respond(stream, refused.status, "application/json", refused.header, Body::Whole(&body)).await;
}

enum Body<'a> {
    Whole(&'a str),
    /// To a HEAD.
    Length(usize),
}

async fn respond(stream: &mut TcpStream, status: u16, kind: &str, header: &str, body: Body<'_>) {
    let phrase = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let (len, body) = match body {
        Body::Whole(body) => (body.len(), body),
        Body::Length(len) => (len, ""),
    };
    let response = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n{header}Connection: close\r\n\r\n{body}"
    );
    let finish = async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await?;
        // What the client still sends is read, so that the answer is not lost to a reset; within bounds.
        let mut rest = [0; 4096];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // The peer may be gone; there is nobody to tell.
    let _ = timeout(Duration::from_secs(2), finish).await;
}
