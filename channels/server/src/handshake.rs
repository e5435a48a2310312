//! From a request head to an accepted WebSocket, or to the answer that says what is wrong.
//!
//! Pure: bytes in, decision out. The network in front of this server is trusted to have verified the claims.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bawaba_channels::claims::Claims;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, Timestamp};
use sha1::{Digest as _, Sha1};

/// RFC 6455, 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Most header lines of a request.
const HEADERS_MAX: usize = 100;

/// A parsed request head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// Path without the query.
    pub(crate) path: String,
    /// The query, without its question mark.
    pub(crate) query: String,
    minor_version: u8,
    /// Lower-case names, values trimmed, in order.
    headers: Vec<(String, String)>,
    /// Length of the head in bytes.
    pub(crate) len: usize,
}

/// A handshake that may go on to the 101.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// How messages are written.
    pub(crate) encoding: Encoding,
    /// Whose session it is.
    pub(crate) claims: Arc<Claims>,
    /// The 101, whole.
    pub(crate) response: String,
}

/// An answer that is not a 101.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
    /// A further header line, whole, with its line end.
    pub(crate) header: &'static str,
}

impl Refused {
    pub(crate) fn new(status: u16, reason: Reason, text: impl Into<String>) -> Self {
        Self { status, code: reason.word(), reason: text.into(), header: "" }
    }
}

/// Whether a session needs claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Without claims: 401.
    Required,
    /// Without claims: a nameless session, which has no private channels.
    Optional,
}

impl Head {
    /// Reads a head; `Ok(None)` while it is not whole.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, Refused> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(bytes).map_err(|error| match error {
            httparse::Error::TooManyHeaders => {
                Refused::new(431, Reason::ProtocolTooLarge, format!("more than {HEADERS_MAX} header lines"))
            }
            error => Refused::new(400, Reason::ProtocolMalformed, format!("not an HTTP/1.1 request: {error}")),
        })?;
        let httparse::Status::Complete(len) = status else { return Ok(None) };
        let target = request.path.unwrap_or_default();
        let mut lines = Vec::new();
        for header in request.headers.iter() {
            let value = str::from_utf8(header.value).map_err(|_| {
                Refused::new(400, Reason::ProtocolMalformed, format!("header {} is not UTF-8", header.name))
            })?;
            lines.push((header.name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(Self {
            method: request.method.unwrap_or_default().into(),
            path: target.split('?').next().unwrap_or_default().into(),
            query: target.split_once('?').map(|(_, query)| query.into()).unwrap_or_default(),
            minor_version: request.version.unwrap_or(0),
            headers: lines,
            len,
        }))
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Items of a comma-separated header, over all its lines.
    fn items<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
    }

    /// The one value of a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        values.next().filter(|_| values.next().is_none()).map(|(_, value)| value.as_str())
    }

    /// The one value of a header; `None` if it is missing or given twice.
    fn only<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

/// Judges an upgrade request (RFC 6455, 4.2.1) and reads its claims.
pub(crate) fn accept(head: &Head, identity: Identity, now: Timestamp) -> Result<Accepted, Refused> {
    let malformed = |text: &str| Refused::new(400, Reason::ProtocolMalformed, text);
    let has = |name, token: &str| head.items(name).any(|item| item.eq_ignore_ascii_case(token));
    if head.method != "GET" {
        let refused = Refused::new(405, Reason::ProtocolUnsupported, "a WebSocket handshake is a GET");
        return Err(Refused { header: "Allow: GET\r\n", ..refused });
    }
    if head.minor_version != 1 {
        return Err(malformed("a WebSocket handshake is HTTP/1.1"));
    }
    if !has("upgrade", "websocket") {
        let refused = Refused::new(426, Reason::ProtocolUnsupported, "/ws is a WebSocket: send Upgrade: websocket");
        return Err(Refused { header: "Upgrade: websocket\r\n", ..refused });
    }
    if !has("connection", "upgrade") {
        return Err(malformed("the header Connection: Upgrade is missing"));
    }
    if head.only("sec-websocket-version") != Some("13") {
        let refused =
            Refused::new(426, Reason::ProtocolUnsupported, "Sec-WebSocket-Version: 13 is the only version here");
        return Err(Refused { header: "Sec-WebSocket-Version: 13\r\n", ..refused });
    }
    let key = head.only("sec-websocket-key").ok_or_else(|| malformed("one Sec-WebSocket-Key is needed"))?;
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return Err(malformed("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let claims = read_claims(head, identity, now)?;
    let chosen = head.items("sec-websocket-protocol").find_map(Encoding::of_subprotocol);
    let mut response =
        String::from("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize());
    response.push_str(&format!("Sec-WebSocket-Accept: {accept}\r\n"));
    if let Some(encoding) = chosen {
        response.push_str(&format!("Sec-WebSocket-Protocol: {}\r\n", encoding.subprotocol()));
    }
    response.push_str("\r\n");
    Ok(Accepted { encoding: chosen.unwrap_or(Encoding::Json), claims, response })
}

fn read_claims(head: &Head, identity: Identity, now: Timestamp) -> Result<Arc<Claims>, Refused> {
    let refused = |reason: Reason, text: String| Refused::new(401, reason, text);
    let mut values = head.values(CLAIMS_HEADER);
    let Some(value) = values.next() else {
        return match identity {
            Identity::Required => Err(refused(
                Reason::AuthMissing,
                format!("no verified claims: {CLAIMS_HEADER} is written by the edge in front of this server"),
            )),
            Identity::Optional => Ok(Arc::new(Claims::default())),
        };
    };
    if values.next().is_some() {
        return Err(refused(Reason::AuthInvalid, format!("{CLAIMS_HEADER} is there more than once")));
    }
    let claims = Claims::from_header(value).map_err(|error| refused(Reason::AuthInvalid, error.to_string()))?;
    if claims.is_expired(now) {
        return Err(refused(Reason::AuthExpired, Reason::AuthExpired.sentence().into()));
    }
    Ok(Arc::new(claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /ws?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn judge(head: &str, identity: Identity) -> Result<Accepted, Refused> {
        let head = Head::parse(format!("{head}\r\n").as_bytes())?.expect("a whole head");
        accept(&head, identity, Timestamp(2_000_000_000_000_000_000))
    }

    #[test]
    fn the_key_of_the_rfc_is_answered_as_the_rfc_does() {
        let accepted = judge(GOOD, Identity::Optional).unwrap();
        assert!(accepted.response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!accepted.response.contains("Protocol:"));
        assert_eq!(accepted.encoding, Encoding::Json);
    }

    #[test]
    fn the_first_subprotocol_that_is_spoken_here_is_chosen_in_the_client_s_order() {
        for (offer, chosen) in [
            ("tradsys.v3.proto, tradsys.v3.json", Encoding::Proto),
            ("chat, tradsys.v3.json,tradsys.v3.proto", Encoding::Json),
            ("tradsys.v3.proto\r\nSec-WebSocket-Protocol: tradsys.v3.json", Encoding::Proto),
        ] {
            let accepted = judge(&format!("{GOOD}Sec-WebSocket-Protocol: {offer}\r\n"), Identity::Optional).unwrap();
            assert_eq!(accepted.encoding, chosen, "{offer}");
            assert!(accepted.response.contains(&format!("Sec-WebSocket-Protocol: {}\r\n", chosen.subprotocol())));
        }
    }

    #[test]
    fn each_bad_handshake_is_refused_with_its_own_status() {
        let claims = |json: &str| {
            format!("{GOOD}{CLAIMS_HEADER}: {}\r\n", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json))
        };
        let rows: [(String, u16, &str); 10] = [
            (GOOD.replace("GET", "POST"), 405, "protocol.unsupported"),
            (GOOD.replace("HTTP/1.1", "HTTP/1.0"), 400, "protocol.malformed"),
            (GOOD.replace("Upgrade: websocket", "X: y"), 426, "protocol.unsupported"),
            (GOOD.replace("keep-alive, Upgrade", "keep-alive"), 400, "protocol.malformed"),
            (GOOD.replace("Version: 13", "Version: 8"), 426, "protocol.unsupported"),
            (GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400, "protocol.malformed"),
            (GOOD.to_owned(), 401, "auth.missing"),
            (format!("{GOOD}{CLAIMS_HEADER}: not base64\r\n"), 401, "auth.invalid"),
            (claims(r#"{"sub":"u","exp":1}"#), 401, "auth.expired"),
            (claims("{}").replace("\r\nx-", "\r\nX-") + &format!("{CLAIMS_HEADER}: e30\r\n"), 401, "auth.invalid"),
        ];
        for (head, status, code) in rows {
            let refused = judge(&head, Identity::Required).unwrap_err();
            assert_eq!((refused.status, refused.code), (status, code), "{head}\n{refused:?}");
        }
        assert!(judge(&claims(r#"{"sub":"u"}"#), Identity::Required).is_ok());
        assert_eq!(Head::parse(b"GET /ws HT\0P/1.1\r\n\r\n").unwrap_err().status, 400);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(Head::parse(many.as_bytes()).unwrap_err().status, 431);
    }
}
