//! The opening handshake (RFC 6455, 4.2; RFC 8441 for HTTP/2): what a request asks for, and the request as filters
//! and upstreams may see it.
//!
//! Pure: bytes in, a [`WebSocketRequest`] or a [`Refusal`] out. Credentials leave the request here, before anything
//! is logged or passed on, and so does every header that only the edge may write.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, SUBPROTOCOL_BEARER};
use http::header::{HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, Version};
use sha1::{Digest as _, Sha1};

use crate::refusal::Refusal;

/// Headers with this prefix are the edge's own: inbound copies are forged.
pub const OWN_HEADER_PREFIX: &str = "x-bawaba-";
/// Appended to the client's key (RFC 6455, 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Most subprotocols that are looked at.
const OFFERS_MAX: usize = 32;

/// Names in lower case, pseudo-headers first.
pub type Headers = Vec<(String, String)>;

/// How a request presents its credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It asks for a WebSocket (rightly or not).
    WebSocket,
    /// Plain HTTP.
    Http,
}

/// What kind of request this is.
pub fn kind(parts: &Parts) -> Kind {
    let upgrade = has_token(&parts.headers, "upgrade", "websocket");
    let connect = parts.extensions.get::<h2::ext::Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if upgrade || connect { Kind::WebSocket } else { Kind::Http }
}

/// The target of a request, without the parts that only the edge may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Path and query, without `token` and `resume`.
    pub path_and_query: String,
    /// `?token=`.
    pub token: Option<Token>,
    /// `?resume=`: a sticky token.
    pub resume: Option<String>,
    /// Host and port that the client named; empty if it named none.
    pub authority: String,
}

impl Target {
    /// The path alone.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }

    /// The host without its port.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// Reads the target. Paths that another server may read as another path (dot segments, encoded or not, encoded
    /// slashes, backslashes) are refused: a route must not be entered by the name of another.
    pub fn read(parts: &Parts) -> Result<Self, Refusal> {
        let malformed = |what: &'static str| Refusal::new(Reason::ProtocolMalformed).detail(what);
        let path = parts.uri.path();
        if !path.starts_with('/') {
            return Err(malformed("the request names no path"));
        }
        let lower = path.to_ascii_lowercase();
        let ambiguous = lower.contains("%2f") || lower.contains("%5c") || lower.contains('\\');
        let dots = lower.replace("%2e", ".").split('/').any(|segment| matches!(segment, "." | ".."));
        if ambiguous || dots {
            return Err(malformed("the path is ambiguous: write it without dot segments and encoded slashes"));
        }
        let mut hosts = parts.headers.get_all("host").iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(malformed("the request names two hosts"));
        }
        let authority = match (parts.uri.authority(), host) {
            (Some(authority), _) => authority.as_str().to_owned(),
            (None, Some(host)) => host.to_str().map_err(|_| malformed("the host is not readable"))?.to_owned(),
            (None, None) => String::new(),
        };
        let mut target = Self { path_and_query: path.to_owned(), token: None, resume: None, authority };
        let mut separator = '?';
        for pair in parts.uri.query().into_iter().flat_map(|query| query.split('&')) {
            match pair.split_once('=') {
                Some(("token", value)) => target.token = Some(Token(value.to_owned())),
                Some(("resume", value)) => target.resume = Some(value.to_owned()),
                _ => {
                    target.path_and_query.push(separator);
                    target.path_and_query.push_str(pair);
                    separator = '&';
                }
            }
        }
        Ok(target)
    }
}

/// A request for a WebSocket that keeps to the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketRequest {
    /// `sec-websocket-accept`; empty on HTTP/2.
    pub accept: String,
    /// Subprotocols that the client offers, in its order, without its token.
    pub offers: Vec<String>,
    /// `bearer.JWT` among the subprotocols.
    pub token: Option<Token>,
}

impl WebSocketRequest {
    /// Checks a request that asks for a WebSocket.
    pub fn read(parts: &Parts) -> Result<Self, Refusal> {
        let accept = if parts.version == Version::HTTP_2 { read_http2(parts)? } else { read_http1(parts)? };
        let (offers, token) = read_offers(&parts.headers)?;
        Ok(Self { accept, offers, token })
    }

    /// The encoding on a channel route: the first supported offer; `None` where nothing is offered (JSON is spoken,
    /// and no subprotocol selected).
    pub fn encoding(&self) -> Result<Option<Encoding>, Refusal> {
        if self.offers.is_empty() {
            return Ok(None);
        }
        let encoding = self.offers.iter().find_map(|offer| Encoding::of_subprotocol(offer));
        encoding.map(Some).ok_or_else(|| {
            Refusal::new(Reason::ProtocolUnsupported)
                .detail("none of the subprotocols is spoken here: offer tradsys.v3.json or tradsys.v3.proto")
        })
    }
}

fn malformed(what: &'static str) -> Refusal {
    Refusal::new(Reason::ProtocolMalformed).detail(what)
}

fn version_13(headers: &HeaderMap) -> Result<(), Refusal> {
    if one(headers, "sec-websocket-version")? == Some("13") {
        return Ok(());
    }
    Err(Refusal::new(Reason::ProtocolUnsupported)
        .status(426)
        .detail("the WebSocket version must be 13")
        .header("sec-websocket-version", "13")
        .header("upgrade", "websocket"))
}

fn read_http1(parts: &Parts) -> Result<String, Refusal> {
    let headers = &parts.headers;
    if parts.method != Method::GET {
        let refusal = malformed("a WebSocket begins with GET").status(405).header("allow", "GET");
        return Err(refusal);
    }
    if parts.version != Version::HTTP_11 {
        return Err(malformed("a WebSocket needs HTTP/1.1 or HTTP/2"));
    }
    if parts.uri.authority().is_none() && !headers.contains_key("host") {
        return Err(malformed("the request names no host"));
    }
    if !has_token(headers, "connection", "upgrade") {
        return Err(malformed("the header Connection must contain Upgrade"));
    }
    no_body(headers)?;
    version_13(headers)?;
    let key = one(headers, "sec-websocket-key")?.unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        return Err(malformed("the header Sec-WebSocket-Key must hold 16 bytes in base64"));
    }
    Ok(accept(key))
}

fn read_http2(parts: &Parts) -> Result<String, Refusal> {
    if parts.method != Method::CONNECT {
        return Err(malformed("over HTTP/2 a WebSocket begins with an extended CONNECT")
            .status(405)
            .header("allow", "CONNECT"));
    }
    if parts.headers.contains_key("content-length") {
        return Err(malformed("a request for a WebSocket has no body"));
    }
    version_13(&parts.headers)?;
    Ok(String::new())
}

/// `sec-websocket-accept` for a client's key (RFC 6455, 4.2.2).
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize())
}

fn no_body(headers: &HeaderMap) -> Result<(), Refusal> {
    let length = one(headers, "content-length")?.unwrap_or("0");
    if length != "0" || headers.contains_key("transfer-encoding") {
        return Err(malformed("a request for a WebSocket has no body"));
    }
    Ok(())
}

fn read_offers(headers: &HeaderMap) -> Result<(Vec<String>, Option<Token>), Refusal> {
    let mut offers = Vec::new();
    for value in headers.get_all("sec-websocket-protocol") {
        let value = value.to_str().map_err(|_| malformed("the subprotocols are not readable"))?;
        offers.extend(value.split(',').map(str::trim).filter(|offer| !offer.is_empty()).map(str::to_owned));
        if offers.len() > OFFERS_MAX {
            return Err(malformed("too many subprotocols are offered"));
        }
    }
    let token = match offers.last().and_then(|last| last.strip_prefix(SUBPROTOCOL_BEARER)) {
        Some(token) => {
            let token = Token(token.to_owned());
            offers.pop();
            Some(token)
        }
        None => None,
    };
    if offers.iter().any(|offer| offer.starts_with(SUBPROTOCOL_BEARER)) {
        return Err(malformed("the subprotocol bearer.TOKEN must be offered once, and last"));
    }
    Ok((offers, token))
}

/// The value of a header that may stand once at most.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(value) => Ok(Some(value.trim())),
            Err(_) => Err(malformed("a header is not readable")),
        },
        (Some(_), Some(_)) => Err(malformed("a header that may stand once stands twice")),
    }
}

fn has_token(headers: &HeaderMap, name: &'static str, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The token of `Authorization: Bearer`. Another scheme is not ours to judge.
pub fn bearer(headers: &HeaderMap) -> Option<Token> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Token(token.trim().to_owned()))
}

/// Whether a page of `origin` may open this route: listed, any with `*`; where none is listed, no origin at all or
/// the same host (a browser always says its origin, other clients need not).
pub fn origin_is_allowed(origins: &[String], headers: &HeaderMap, authority: &str) -> bool {
    let mut values = headers.get_all("origin").iter();
    let Some(origin) = values.next() else { return true };
    let (Ok(origin), None) = (origin.to_str(), values.next()) else { return false };
    if origins.is_empty() {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        return !host.is_empty() && host.eq_ignore_ascii_case(authority);
    }
    origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

/// Where a request came from, as upstreams are told.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub client: SocketAddr,
    /// Whether it came over TLS.
    pub tls: bool,
}

impl Origin {
    /// The scheme that the client used.
    pub const fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Whether a client's header is dropped at the door: ours, of one connection only, or rewritten by the edge.
fn is_dropped(name: &HeaderName, http2: bool) -> bool {
    let name = name.as_str();
    name.starts_with(OWN_HEADER_PREFIX)
        || matches!(
            name,
            // No extension is negotiated: what is compressed cannot be judged.
            "sec-websocket-extensions"
                | "sec-websocket-protocol"
                | "host"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "content-length"
                | "x-forwarded-proto"
        )
        || (http2 && matches!(name, "connection" | "upgrade"))
}

/// The handshake as filters and upstreams see it, the same for both versions of HTTP (as Envoy shows it):
/// pseudo-headers first, then the client's headers without forged and hop-by-hop ones, then what the edge adds.
/// `claims` is the verified payload. Refused where a header is not UTF-8.
pub fn request_headers(
    parts: &Parts,
    target: &Target,
    request: &WebSocketRequest,
    origin: Origin,
    claims: Option<&str>,
    keep_authorization: KeepAuthorization,
) -> Result<Headers, Refusal> {
    let http2 = parts.version == Version::HTTP_2;
    let mut headers: Headers = vec![
        (":method".into(), "GET".into()),
        (":scheme".into(), origin.scheme().into()),
        (":authority".into(), target.authority.clone()),
        (":path".into(), target.path_and_query.clone()),
    ];
    if http2 {
        headers.push(("upgrade".into(), "websocket".into()));
        headers.push(("connection".into(), "Upgrade".into()));
    }
    for (name, value) in &parts.headers {
        let drop_authorization = name == "authorization" && keep_authorization == KeepAuthorization::No;
        if is_dropped(name, http2) || drop_authorization || name == "x-forwarded-for" {
            continue;
        }
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| malformed("a header is not UTF-8"))?;
        headers.push((name.as_str().to_owned(), value.to_owned()));
    }
    if !request.offers.is_empty() {
        headers.push(("sec-websocket-protocol".into(), request.offers.join(", ")));
    }
    headers.push(("x-forwarded-for".into(), forwarded_for(&parts.headers, origin.client)));
    headers.push(("x-forwarded-proto".into(), origin.scheme().into()));
    if let Some(claims) = claims {
        headers.push((CLAIMS_HEADER.into(), claims.to_owned()));
    }
    Ok(headers)
}

/// Whether the upstream gets the client's `Authorization` too: services behind a relay may check it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAuthorization {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// `x-forwarded-for` with the client appended.
pub fn forwarded_for(headers: &HeaderMap, client: SocketAddr) -> String {
    let mut all: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let client = client.ip().to_canonical().to_string();
    all.push(&client);
    all.join(", ")
}

#[cfg(test)]
mod tests;
