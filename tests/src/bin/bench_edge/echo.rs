//! The backend: accepts any WebSocket and sends each frame back, unmasked. One thread, no allocation per message.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers to the sample key of RFC 6455, which is the only one that this program's load sends.
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
    sec-websocket-accept: ";

/// Listens on a free port, says which, and echoes for ever.
pub(crate) fn serve() {
    tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime").block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        println!("listening on {}", listener.local_addr().expect("bound"));
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A client that goes away is the normal end.
                let _ = echo(stream).await;
            });
        }
    });
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(1024);
    let head_end = loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        if let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&input[..head_end]).into_owned();
    input.drain(..head_end);
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    let Some(key) = key else {
        // A health check.
        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    };
    let mut answer = ACCEPTED.to_vec();
    answer.extend_from_slice(tungstenite::handshake::derive_accept_key(key.as_bytes()).as_bytes());
    answer.extend_from_slice(b"\r\n\r\n");
    stream.write_all(&answer).await?;
    frames(&mut stream, input).await
}

async fn frames(stream: &mut TcpStream, mut input: Vec<u8>) -> std::io::Result<()> {
    let mut output = Vec::new();
    loop {
        let mut at = 0;
        while let Some(used) = one(&input[at..], &mut output) {
            at += used;
        }
        input.drain(..at);
        if !output.is_empty() {
            stream.write_all(&output).await?;
            output.clear();
        }
        if input.is_empty() {
            // Idle connections keep no buffer, here as little as anywhere.
            input = Vec::new();
            output = Vec::new();
            stream.readable().await?;
        }
        input.reserve(16 * 1024);
        match stream.try_read_buf(&mut input) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Turns one whole frame around; `None` if there is none. Ping becomes Pong, everything else comes back as it is.
fn one(input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
    let (&[first, second], rest) = input.split_first_chunk()?;
    let masked = second & 0x80 != 0;
    let (length, extra) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, 8),
        short => (usize::from(short), 0),
    };
    let mask: [u8; 4] = if masked { *rest.get(extra..)?.first_chunk()? } else { [0; 4] };
    let start = 2 + extra + if masked { 4 } else { 0 };
    let payload = input.get(start..start + length)?;
    output.push(if first & 0x0f == 9 { first ^ 3 } else { first });
    output.push(second & 0x7f);
    output.extend_from_slice(&input[2..2 + extra]);
    output.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    Some(start + length)
}
