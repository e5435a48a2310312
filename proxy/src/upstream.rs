//! The client's half of a WebSocket handshake over HTTP/1.1: with a service behind a relay route, for a trunk, and for
//! `bawaba connect`. Bounded in space; in time by whoever waits.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::chain::Headers;
use crate::handshake;

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of an answer.
const HEADERS_MAX: usize = 96;
/// Most characters of a refusal that an error quotes.
const QUOTED_CHARS_MAX: usize = 200;
/// Longest body of a refusal that is passed on.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The connection failed or broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It answered, but not as a WebSocket server.
    #[error("its answer is wrong: {0}")]
    Answer(&'static str),
    /// It refuses.
    #[error("it answered {status}: {body}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
}

/// What the service answered.
pub enum Answer {
    /// The WebSocket is open.
    Open {
        /// Frames that came with the answer.
        early: Vec<u8>,
        /// Headers that concern the client: not those of the connection.
        headers: Headers,
    },
    /// It refuses.
    Refused {
        /// Status.
        status: u16,
        /// Headers that concern the client.
        headers: Headers,
        /// Body.
        body: Bytes,
    },
}

/// What a client of our own asks for.
pub struct Ask<'a> {
    /// `host:port`.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The subprotocol that must be selected.
    pub subprotocol: &'a str,
    /// One more header: its name in lower case, and its value.
    pub credential: (&'a str, &'a str),
}

/// Shakes hands on `socket` as [`Ask`] says; bytes that came right behind the answer. A refusal is an error that
/// quotes it.
pub async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    ask: &Ask<'_>,
) -> Result<Vec<u8>, UpstreamError> {
    let (name, value) = ask.credential;
    let request: Headers =
        [(":path", ask.path), (":authority", ask.host), ("sec-websocket-protocol", ask.subprotocol), (name, value)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    match open(socket, ask.host, &request).await? {
        Answer::Open { early, headers } => {
            let is_selected =
                |(name, value): &(String, String)| name == "sec-websocket-protocol" && value == ask.subprotocol;
            if !headers.iter().any(is_selected) {
                return Err(UpstreamError::Answer("it did not select the subprotocol"));
            }
            Ok(early)
        }
        Answer::Refused { status, body, .. } => {
            let body = String::from_utf8_lossy(&body).chars().take(QUOTED_CHARS_MAX).collect();
            Err(UpstreamError::Refused { status, body })
        }
    }
}

/// Opens a WebSocket on a socket to `address` with the request as the filters left it.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    address: &str,
    request: &Headers,
) -> Result<Answer, UpstreamError> {
    let key = random_key()?;
    socket.write_all(&request_head(request, address, &key)).await?;
    let (status, headers, mut rest) = read_head(socket).await?;
    if status != 101 {
        let body = read_body(socket, &headers, &mut rest).await;
        return Ok(Answer::Refused { status, headers: end_to_end(headers), body });
    }
    let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    if !value("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err(UpstreamError::Answer("101 without Upgrade: websocket"));
    }
    if value("sec-websocket-accept") != Some(handshake::accept(&key).as_str()) {
        return Err(UpstreamError::Answer("Sec-WebSocket-Accept does not fit the key"));
    }
    if value("sec-websocket-extensions").is_some_and(|value| !value.trim().is_empty()) {
        return Err(UpstreamError::Answer("an extension that nobody offered"));
    }
    let offered = request.iter().filter(|(name, _)| name == "sec-websocket-protocol");
    if let Some(selected) = value("sec-websocket-protocol")
        && !offered.flat_map(|(_, offers)| offers.split(',')).any(|offer| offer.trim() == selected)
    {
        return Err(UpstreamError::Answer("a subprotocol that nobody offered"));
    }
    Ok(Answer::Open { early: rest, headers: end_to_end(headers) })
}

fn random_key() -> io::Result<String> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(STANDARD.encode(key))
}

/// The request on the wire. The key is the edge's own: with HTTP/2 the client has none.
fn request_head(request: &Headers, address: &str, key: &str) -> Vec<u8> {
    let value = |name: &str| request.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let path = value(":path").unwrap_or("/");
    let host = value(":authority").filter(|host| !host.is_empty()).unwrap_or(address);
    let mut head = String::with_capacity(512);
    let mut line = |parts: &[&str]| {
        // Filters may have written what they like: a line break would forge a header or a second request.
        if parts.iter().all(|part| !part.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
            parts.iter().for_each(|part| head.push_str(part));
            head.push_str("\r\n");
        }
    };
    line(&["GET ", if path.contains(' ') { "/" } else { path }, " HTTP/1.1"]);
    line(&["host: ", host]);
    line(&["upgrade: websocket"]);
    line(&["connection: Upgrade"]);
    line(&["sec-websocket-version: 13"]);
    line(&["sec-websocket-key: ", key]);
    for (name, value) in request {
        let written = matches!(
            name.as_str(),
            "host"
                | "upgrade"
                | "connection"
                | "sec-websocket-version"
                | "sec-websocket-key"
                | "sec-websocket-extensions"
        );
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !written && is_name {
            line(&[name, ": ", value]);
        }
    }
    head.push_str("\r\n");
    head.into_bytes()
}

async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> Result<(u16, Headers, Vec<u8>), UpstreamError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(UpstreamError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&bytes) {
            Err(_) => return Err(UpstreamError::Answer("no HTTP that can be read")),
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(UpstreamError::Answer("its head is too long"));
            }
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(end)) => {
                let status = response.code.unwrap_or(0);
                let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
                let parsed: Headers =
                    response.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect();
                if status != 101 && (100..200).contains(&status) {
                    // 100, 103: the answer is still to come.
                    bytes.drain(..end);
                    continue;
                }
                if !(101..600).contains(&status) {
                    return Err(UpstreamError::Answer("its status is none"));
                }
                return Ok((status, parsed, bytes.split_off(end)));
            }
        }
    }
}

/// The body of a refusal, cut at its limit. A body of unknown length ends with the connection, which is ours alone.
async fn read_body(socket: &mut (impl AsyncRead + Unpin), headers: &Headers, bytes: &mut Vec<u8>) -> Bytes {
    let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let chunked = value("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
    let length = value("content-length").and_then(|value| value.parse::<usize>().ok());
    let wanted = match length {
        Some(length) if !chunked => length.min(BODY_BYTES_MAX),
        _ => BODY_BYTES_MAX,
    };
    while bytes.len() < wanted {
        if chunked && (bytes.ends_with(b"\r\n0\r\n\r\n") || bytes.as_slice() == b"0\r\n\r\n") {
            break;
        }
        match socket.read_buf(bytes).await {
            Ok(0) => break,
            Ok(_) => {}
            // What has arrived of a refusal is better than none.
            Err(_) => break,
        }
    }
    bytes.truncate(wanted);
    let bytes = std::mem::take(bytes);
    Bytes::from(if chunked { unchunk(&bytes) } else { bytes })
}

/// The data of a chunked body, as far as it is whole.
fn unchunk(mut input: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(input.len());
    while let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(input) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            break;
        }
        let rest = &input[at..];
        let chunk = &rest[..size.min(rest.len())];
        data.extend_from_slice(chunk);
        input = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    data
}

/// Headers for the client: not those of this connection, and not those that whoever writes the answer adds.
fn end_to_end(headers: Headers) -> Headers {
    const OF_THE_CONNECTION: [&str; 9] = [
        "connection",
        "upgrade",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "content-length",
        "trailer",
    ];
    headers.into_iter().filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_a_filter_forged_with_a_line_break_is_left_out() {
        let request: Headers = [
            (":path", "/ws"),
            (":authority", "h"),
            ("x-a", "1"),
            ("x-b", "2\r\nx-admin: yes"),
            ("x c", "3"),
            ("sec-websocket-key", "forged"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .into();
        let head = String::from_utf8(request_head(&request, "a:1", "KEY")).unwrap();
        assert_eq!(
            head,
            "GET /ws HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: KEY\r\nx-a: 1\r\n\r\n"
        );
    }

    /// What becomes of a handshake for `tradsys.v3.proto` when the server answers `answer`; `KEY` stands for what fits.
    async fn asked(answer: &str) -> Result<Vec<u8>, UpstreamError> {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let answer = answer.to_owned();
        let server = async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                theirs.read_buf(&mut request).await.unwrap();
            }
            let request = String::from_utf8(request).unwrap();
            let key = request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
            theirs.write_all(answer.replace("KEY", &handshake::accept(key)).as_bytes()).await.unwrap();
        };
        let ask = Ask { host: "h:1", path: "/ws", subprotocol: "tradsys.v3.proto", credential: ("authorization", "x") };
        let (asked, ()) = tokio::join!(shake_hands(&mut ours, &ask), server);
        asked
    }

    #[tokio::test]
    async fn only_the_right_answer_to_a_handshake_is_taken() {
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n\
                    Sec-WebSocket-Protocol: tradsys.v3.proto\r\n\r\nearly";
        assert_eq!(asked(good).await.unwrap(), b"early");
        let wrong = [
            ("HTTP/1.1 101", "HTTP/1.1 503", "it answered 503: early"),
            ("KEY", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "Sec-WebSocket-Accept does not fit"),
            ("v3.proto", "v3.json", "nobody offered"),
            ("Sec-WebSocket-Protocol: tradsys.v3.proto\r\n", "", "did not select"),
            ("Upgrade: websocket\r\n", "", "without Upgrade"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "an extension"),
        ];
        for (from, to, why) in wrong {
            let error = asked(&good.replace(from, to)).await.unwrap_err().to_string();
            assert!(error.contains(why), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn a_chunked_body_is_read_as_far_as_it_is_whole() {
        assert_eq!(unchunk(b"4\r\nWiki\r\n6\r\npedia \r\n0\r\n\r\n"), b"Wikipedia ");
        assert_eq!(unchunk(b"ff\r\nshort"), b"short");
        assert_eq!(unchunk(b"ffffffffffffffff\r\nx"), b"x");
        assert_eq!(unchunk(b"nonsense"), b"");
    }
}
