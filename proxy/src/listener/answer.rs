//! Answers that the listener writes itself: refusals on HTTP/1.1. The 101 is the worker's.

use std::time::Duration;

use bawaba_channels::reason::Reason;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// How long a refused client may take to read its refusal.
const LINGER: Duration = Duration::from_secs(2);
/// How much of what a refused client still sends is read away, so that the kernel does not answer it with a reset,
/// which would overtake the refusal.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// The refusal as HTTP/1.1 bytes; the connection ends behind it.
pub(super) fn to_http1(refusal: &Refusal) -> Vec<u8> {
    let status = http::StatusCode::from_u16(refusal.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let body = refusal.body();
    let mut text = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    );
    for (name, value) in &refusal.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// Writes a refusal and ends the connection without losing it on the way.
pub(super) async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, refusal: &Refusal) {
    let bytes = to_http1(refusal);
    let ended = timeout(LINGER, async {
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        let mut read_away = 0;
        while read_away < LINGER_BYTES_MAX {
            match stream.read(&mut scratch).await? {
                0 => break,
                count => read_away += count,
            }
        }
        Ok::<(), std::io::Error>(())
    });
    if let Ok(Err(error)) = ended.await {
        tracing::debug!(%error, "the client left before its answer");
    }
}

/// Turns a connection away before anything is read of it: one write that cannot wait, then the end. Over TLS there
/// is nobody yet to read an answer.
pub(super) fn turn_away(tcp: TcpStream, is_tls: bool, metrics: &Metrics) {
    metrics.refused(Reason::EdgeOverloaded);
    if !is_tls {
        // A client that cannot take 200 bytes at once gets none: this path must not wait.
        drop(tcp.try_write(&to_http1(&Refusal::new(Reason::EdgeOverloaded))));
    }
}
