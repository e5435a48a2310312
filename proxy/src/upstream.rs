//! The client's half of a WebSocket handshake over HTTP/1.1, as trunks and `bawaba connect` make it.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::jitter::Jitter;

/// Longest answer that is read.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What is asked for.
pub struct Ask<'a> {
    /// `host:port`.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The subprotocol that must be selected.
    pub subprotocol: &'a str,
    /// One more header line, without its line end.
    pub credential: &'a str,
}

/// Shakes hands on `socket`; bytes that came right behind the answer.
pub async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    ask: &Ask<'_>,
    jitter: &mut Jitter,
) -> io::Result<Vec<u8>> {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&jitter.next_u64().to_ne_bytes());
    nonce[8..].copy_from_slice(&jitter.next_u64().to_ne_bytes());
    let key = STANDARD.encode(nonce);
    let Ask { host, path, subprotocol, credential } = ask;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: {key}\r\nsec-websocket-protocol: {subprotocol}\r\n{credential}\r\n\r\n",
    );
    socket.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("the answer to the handshake is too long"));
        }
        if socket.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let early = head.split_off(end);
    if let Err(error) = check(&head, &key, subprotocol) {
        let body: String = String::from_utf8_lossy(&early).chars().take(200).collect();
        return Err(if body.is_empty() { error } else { io::Error::other(format!("{error}: {body}")) });
    }
    Ok(early)
}

/// Whether the answer to the handshake is the right one (RFC 6455, 4.1).
fn check(head: &[u8], key: &str, subprotocol: &str) -> io::Result<()> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(io::Error::other(format!(
            "the server answered \"{}\"",
            status.chars().take(80).collect::<String>()
        )));
    }
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let has = |name: &str, value: &str| headers.iter().any(|(known, found)| known == name && *found == value);
    if !has("sec-websocket-accept", &accept(key)) {
        return Err(io::Error::other("sec-websocket-accept is wrong: no WebSocket server"));
    }
    if !has("sec-websocket-protocol", subprotocol) {
        return Err(io::Error::other(format!("the server did not select {subprotocol}")));
    }
    Ok(())
}

fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_to_the_handshake_is_taken() {
        // RFC 6455, 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: \
                    s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: tradsys.v3.proto\r\n\r\n";
        assert!(check(good.as_bytes(), key, "tradsys.v3.proto").is_ok());
        for (from, to) in [("101", "503"), ("s3pP", "s3pQ"), ("v3.proto", "v3.json")] {
            assert!(check(good.replace(from, to).as_bytes(), key, "tradsys.v3.proto").is_err(), "{to}");
        }
    }
}
