//! The upstream handshake of a relay session (RFC 6455, section 4.1), by hand: the headers are those that the
//! filters left, and what the service answers, also a refusal, reaches the client.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bawaba_channels::reason::Reason;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer;
use crate::chain::Headers;
use crate::cluster::{Cluster, Endpoint};
use crate::downstream::HandshakeReply;
use crate::handshake::accept;

const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Of a refusal's body that is passed on.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// An open upstream WebSocket.
pub(super) struct Opened {
    pub(super) socket: TcpStream,
    /// Bytes that came behind its answer.
    pub(super) early: Vec<u8>,
    /// Its answer, `:status` first.
    pub(super) headers: Headers,
}

enum Failure {
    /// The endpoint can't be used: try another.
    Unreachable(String),
    /// It answered, but with no WebSocket.
    Refused(HandshakeReply),
}

/// Opens the WebSocket at the endpoint for `key`, or at another one when that can't be reached.
pub(super) async fn open(
    cluster: &Arc<Cluster>,
    key: &str,
    sticky: Option<&str>,
    request: &Headers,
    limit: Duration,
) -> Result<Opened, HandshakeReply> {
    for _ in 0..cluster.endpoints().len() {
        let Some(endpoint) = cluster.pick(key, sticky) else { break };
        let tried = timeout(limit, try_one(&endpoint, request)).await;
        let why = match tried {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(Failure::Refused(reply))) => return Err(reply),
            Ok(Err(Failure::Unreachable(why))) => why,
            Err(_) => format!("no answer within {} ms (timeout connect)", limit.as_millis()),
        };
        tracing::warn!(cluster = %cluster.name, endpoint = %endpoint.address, %why, "an endpoint failed");
        cluster.suspect(&endpoint);
    }
    Err(answer::refusal(Reason::EdgeNoEndpoint))
}

async fn try_one(endpoint: &Endpoint, request: &Headers) -> Result<Opened, Failure> {
    let broken = |error: std::io::Error| Failure::Unreachable(error.to_string());
    let mut socket = TcpStream::connect(&endpoint.address).await.map_err(broken)?;
    socket.set_nodelay(true).map_err(broken)?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| Failure::Unreachable(error.to_string()))?;
    let key = STANDARD.encode(nonce);
    socket.write_all(head(request, &key).as_bytes()).await.map_err(broken)?;
    let mut read = Vec::with_capacity(1024);
    loop {
        if socket.read_buf(&mut read).await.map_err(broken)? == 0 {
            return Err(Failure::Unreachable("closed in the middle of its answer".into()));
        }
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut room);
        match response.parse(&read) {
            Ok(httparse::Status::Complete(length)) => {
                let status = response.code.unwrap_or(502);
                let headers = pairs(&response);
                let early = read.split_off(length);
                return finish(socket, early, status, headers, &key).await;
            }
            Ok(httparse::Status::Partial) if read.len() < HEAD_BYTES_MAX => {}
            Ok(httparse::Status::Partial) => return Err(Failure::Unreachable("its answer's head is too long".into())),
            Err(error) => return Err(Failure::Unreachable(format!("its answer is no HTTP: {error}"))),
        }
    }
}

fn pairs(response: &httparse::Response<'_, '_>) -> Headers {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    response.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value))).collect()
}

fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

async fn finish(
    mut socket: TcpStream,
    early: Vec<u8>,
    status: u16,
    mut headers: Headers,
    key: &str,
) -> Result<Opened, Failure> {
    if status == 101 {
        if get(&headers, "sec-websocket-accept") != Some(accept(key).as_str()) {
            return Err(Failure::Unreachable("its Sec-WebSocket-Accept does not answer our key".into()));
        }
        if get(&headers, "sec-websocket-extensions").is_some() {
            return Err(Failure::Unreachable("it negotiated an extension that was not offered".into()));
        }
        headers.insert(0, (":status".into(), "101".into()));
        return Ok(Opened { socket, early, headers });
    }
    let length: usize = get(&headers, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = early;
    let wanted = length.min(BODY_BYTES_MAX);
    while body.len() < wanted {
        match socket.read_buf(&mut body).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    body.truncate(wanted);
    headers.retain(|(name, _)| {
        !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "keep-alive" | "upgrade")
    });
    Err(Failure::Refused(HandshakeReply { status, headers, body: Bytes::from(body) }))
}

fn head(request: &Headers, key: &str) -> String {
    let path = get(request, ":path").unwrap_or("/");
    let authority = get(request, ":authority").unwrap_or("");
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n");
    for (name, value) in request {
        let ours = name.starts_with(':')
            || matches!(
                name.as_str(),
                "host"
                    | "connection"
                    | "upgrade"
                    | "sec-websocket-key"
                    | "sec-websocket-version"
                    | "sec-websocket-extensions"
            );
        // Filters may have written headers: a line break would forge another.
        if !ours && !name.bytes().chain(value.bytes()).any(|byte| byte == b'\r' || byte == b'\n') {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
    }
    head.push_str("connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ");
    head.push_str(key);
    head.push_str("\r\n\r\n");
    head
}

/// The answer to the client: the service's, with what the edge's own writer adds left out.
pub(super) fn reply(mut headers: Headers) -> HandshakeReply {
    headers.retain(|(name, _)| {
        !name.starts_with(':')
            && !matches!(name.as_str(), "upgrade" | "connection" | "sec-websocket-accept" | "content-length")
    });
    HandshakeReply { status: 101, headers, body: Bytes::new() }
}
