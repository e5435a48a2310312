//! The answer to a handshake, written by the worker: 101 and the bytes are a WebSocket, or a refusal with its word.

use std::fmt::Write as _;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::downstream::{Downstream, HandshakeReply, Stream};

/// Writes `reply`; the client's stream when it opens the WebSocket, `None` after a refusal (the connection is closed).
///
/// `accept` is the value of `sec-websocket-accept` (HTTP/1.1).
pub async fn answer(downstream: Downstream, reply: HandshakeReply, accept: &str) -> io::Result<Option<Stream>> {
    let opens = reply.status == 101;
    let mut stream = match downstream {
        Downstream::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            let socket = TcpStream::from_std(socket)?;
            socket.set_nodelay(true)?;
            Stream::Tcp(socket)
        }
        Downstream::Tls(stream) => Stream::Boxed(stream),
        Downstream::Http2 { reply: answer, bytes } => {
            if answer.send(reply).is_err() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            return Ok(opens.then(|| Stream::Boxed(Box::new(bytes))));
        }
    };
    stream.write_all(head(&reply, accept).as_bytes()).await?;
    stream.write_all(&reply.body).await?;
    stream.flush().await?;
    if opens {
        return Ok(Some(stream));
    }
    stream.shutdown().await?;
    Ok(None)
}

fn head(reply: &HandshakeReply, accept: &str) -> String {
    let phrase =
        http::StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let mut head = format!("HTTP/1.1 {} {phrase}\r\n", reply.status);
    // Writing to a String cannot fail. Header values come from filters: a line break would forge a header.
    for (name, value) in &reply.headers {
        if !name.bytes().chain(value.bytes()).any(|byte| byte == b'\r' || byte == b'\n') {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    if reply.status == 101 {
        let _ = write!(head, "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n");
    } else {
        let _ = write!(head, "content-length: {}\r\nconnection: close\r\n\r\n", reply.body.len());
    }
    head
}

#[cfg(test)]
mod tests {
    use bawaba_channels::reason::Reason;
    use bytes::Bytes;

    use super::*;
    use crate::refusal::Refusal;

    #[test]
    fn a_header_with_a_line_break_is_left_out() {
        let reply = HandshakeReply {
            status: 101,
            headers: vec![("x-a".into(), "1".into()), ("x-b".into(), "2\r\nset-cookie: forged".into())],
            body: Bytes::new(),
        };
        let head = head(&reply, "abc=");
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\nx-a: 1\r\nconnection: Upgrade\r\n"), "{head}");
        assert!(!head.contains("forged"));
    }

    #[test]
    fn a_refusal_says_its_word_and_when_to_come_back() {
        let reply = Refusal::new(Reason::EdgeNoEndpoint).reply();
        assert_eq!(reply.status, 503);
        let head = head(&reply, "");
        assert!(head.contains("retry-after: 1\r\n") && head.contains("content-type: application/json\r\n"), "{head}");
        assert!(reply.body.starts_with(br#"{"code":"edge.no_endpoint""#));
    }
}
