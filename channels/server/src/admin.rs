//! The operators' listener: announcements, halts and days called off, by HTTP with a token each.
//!
//! Bind it to a private address; it is not the listener that sessions use. One request per connection, within the same
//! bounds. Knows names and tokens, not what is asked: that is the hub's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bawaba_channels::reason::Reason;
use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::handshake::{Head, Refused};
use crate::http::{Shared, answer, read_head, reply};
use crate::hub::{Command, Operation, Ordered};

/// Longest body.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Shortest token: 128 bits in base64.
const TOKEN_BYTES_MIN: usize = 22;

/// Who may ask, by token.
pub(crate) struct Operators(Vec<(String, String)>);

impl Operators {
    /// Reads a file of lines `NAME TOKEN`; `#` begins a comment.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut operators = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [name, token] if token.len() >= TOKEN_BYTES_MIN => operators.push(((*name).into(), (*token).into())),
                _ => anyhow::bail!("line {}: NAME TOKEN, the token of {TOKEN_BYTES_MIN} bytes or more", index + 1),
            }
        }
        ensure!(!operators.is_empty(), "there is no operator");
        Ok(Self(operators))
    }

    /// Whose token this is. Compares every byte of every token, so that the time tells nothing.
    fn find(&self, token: &str) -> Option<&str> {
        let same = |known: &str| {
            let differs = known.bytes().zip(token.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
            known.len() == token.len() && differs == 0
        };
        self.0.iter().fold(None, |found, (name, known)| if same(known) { Some(name.as_str()) } else { found })
    }
}

/// Answers operators until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    operators: Arc<Operators>,
    mut stop: watch::Receiver<()>,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            _ = stop.changed() => return,
        };
        let (shared, operators) = (shared.clone(), operators.clone());
        tokio::spawn(connection(stream, shared, operators));
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>, operators: Arc<Operators>) {
    let within = shared.limits.handshake_timeout;
    match timeout(within, handle(&mut stream, &shared, &operators)).await {
        Ok(Ok(body)) => reply(&mut stream, &body).await,
        Ok(Err(refused)) => answer(&mut stream, &refused).await,
        Err(_) => answer(&mut stream, &Refused::new(408, Reason::ProtocolMalformed, "the request took too long")).await,
    }
}

async fn handle(stream: &mut TcpStream, shared: &Shared, operators: &Operators) -> Result<String, Refused> {
    let mut buffer = BytesMut::new();
    let gone = || Refused::new(400, Reason::ProtocolMalformed, "half a request");
    let head = read_head(stream, &mut buffer, shared).await?.ok_or_else(gone)?;
    buffer.advance(head.len);
    let token = head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let by = operators.find(token.unwrap_or_default()).ok_or_else(|| {
        let reason = if token.is_some() { Reason::AuthInvalid } else { Reason::AuthMissing };
        Refused::new(401, reason, "an operator's token is needed: Authorization: Bearer TOKEN")
    })?;
    let command = match (head.method.as_str(), head.path.as_str()) {
        ("GET", "/audit") => {
            let (answer, audit) = oneshot::channel();
            return ask(shared, Command::Audit(answer), audit).await;
        }
        ("GET", "/market") => {
            let (answer, report) = oneshot::channel();
            return ask(shared, Command::Report(answer), report).await;
        }
        ("POST", path @ ("/publish" | "/override" | "/day")) => {
            let body = body(stream, buffer, &head).await?;
            let kind = path.trim_start_matches('/');
            let text = std::str::from_utf8(&body).unwrap_or_default();
            let operation: Operation = serde_json::from_str(&format!("{{\"{kind}\":{text}}}"))
                .map_err(|error| Refused::new(400, Reason::ProtocolMalformed, format!("{kind}: {error}")))?;
            operation
        }
        ("GET", _) => return Err(Refused::new(404, Reason::EdgeNotFound, "GET /market and /audit")),
        _ => return Err(Refused::new(404, Reason::EdgeNotFound, "POST /publish, /override and /day")),
    };
    let (answer, done) = oneshot::channel();
    let ordered = Ordered { by: by.to_owned(), operation: command, answer };
    let stopping = || Refused::new(503, Reason::EdgeDraining, "the server stops");
    shared.hub.send(Command::Operate(Box::new(ordered))).await.map_err(|_| stopping())?;
    match done.await.map_err(|_| stopping())? {
        Ok(report) => Ok(serde_json::to_string(&report).unwrap_or_default()),
        Err(refusal) => Err(Refused::new(refusal.reason.http_status(), refusal.reason, refusal.text)),
    }
}

async fn ask(shared: &Shared, command: Command, answer: oneshot::Receiver<String>) -> Result<String, Refused> {
    let stopping = |_| Refused::new(503, Reason::EdgeDraining, "the server stops");
    shared.hub.send(command).await.map_err(|_| stopping(()))?;
    answer.await.map_err(|_| stopping(()))
}

async fn body(stream: &mut TcpStream, mut buffer: BytesMut, head: &Head) -> Result<BytesMut, Refused> {
    let length = head.header("content-length").and_then(|length| length.parse::<usize>().ok());
    let length = length.filter(|length| *length <= BODY_BYTES_MAX).ok_or_else(|| {
        let text = format!("a body with a Content-Length of at most {BODY_BYTES_MAX} is needed");
        Refused::new(413, Reason::ProtocolTooLarge, text)
    })?;
    while buffer.len() < length {
        if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
            return Err(Refused::new(400, Reason::ProtocolMalformed, "half a body"));
        }
    }
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_operators_and_a_short_one_is_refused() {
        let operators =
            Operators::parse("# who\namina 0123456789abcdef012345\nfeed 543210fedcba9876543210 # ours\n").unwrap();
        assert_eq!(operators.find("0123456789abcdef012345"), Some("amina"));
        assert_eq!(operators.find("543210fedcba9876543210"), Some("feed"));
        assert_eq!(operators.find("0123456789abcdef01234"), None);
        assert_eq!(operators.find(""), None);
        assert!(Operators::parse("amina short").is_err() && Operators::parse("# nobody").is_err());
    }
}
