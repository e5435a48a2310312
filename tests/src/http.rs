//! Just enough HTTP/1.1 to ask, and to see exactly what was answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::{Deadline, PATIENCE, by};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    /// The body, or, behind a 101, the first bytes of what follows.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// `GET path` on a fresh connection that is closed after it.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    ask(address, head.as_bytes()).map(|(answer, _)| answer)
}

/// Sends `request` as it is and reads one answer; the connection too, as after a 101 it lives on.
pub fn ask(address: SocketAddr, request: &[u8]) -> std::io::Result<(Answer, TcpStream)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(request)?;
    let answer = read_answer(&mut stream, by(PATIENCE))?;
    Ok((answer, stream))
}

/// Reads one answer from a stream.
pub fn read_answer(stream: &mut TcpStream, deadline: Deadline) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at;
        }
        if fill(stream, &mut bytes, deadline)? == 0 {
            let seen = String::from_utf8_lossy(&bytes).into_owned();
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                format!("closed before the end of the answer's head: {seen:?}"),
            ));
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let status = status
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {status:?}")))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: bytes.split_off(head_end + 4) };
    if status != 101 {
        read_body(stream, &mut answer, deadline)?;
    }
    Ok(answer)
}

fn read_body(stream: &mut TcpStream, answer: &mut Answer, deadline: Deadline) -> std::io::Result<()> {
    if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().map_err(std::io::Error::other)?;
        while answer.body.len() < length && fill(stream, &mut answer.body, deadline)? > 0 {}
        answer.body.truncate(length);
        return Ok(());
    }
    let chunked = answer.header("transfer-encoding") == Some("chunked");
    while !(chunked && answer.body.ends_with(b"0\r\n\r\n")) {
        if fill(stream, &mut answer.body, deadline)? == 0 {
            break;
        }
    }
    if chunked {
        answer.body = unchunk(&answer.body);
    }
    Ok(())
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(rest, b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..end]).into_owned();
        let size = usize::from_str_radix(size.split(';').next().unwrap_or("0").trim(), 16);
        let size = size.unwrap_or(0);
        rest = &rest[end + 2..];
        if size == 0 || rest.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    body
}

fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>, deadline: Deadline) -> std::io::Result<usize> {
    let left = deadline.left().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::TimedOut))?;
    stream.set_read_timeout(Some(left))?;
    let mut chunk = [0; 4096];
    let n = stream.read(&mut chunk)?;
    bytes.extend_from_slice(&chunk[..n]);
    Ok(n)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Sends a request with a body on a fresh connection that is closed after it.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    ask(address, &request).map(|(answer, _)| answer)
}
