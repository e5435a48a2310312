//! Plain HTTP on relay routes: judged at the door like a handshake, then carried by `pingora-proxy`. It knows no
//! WebSocket and no filter: a route that lets plain HTTP pass has none (see `check`).

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::CLAIMS_HEADER;
use bytes::{BufMut as _, BytesMut};
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use pingora_core::apps::{HttpServerApp as _, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};

use crate::cluster::Endpoint;
use crate::generation::{Route, Target as RouteTarget};
use crate::handshake::{Origin, Target, forwarded_for};
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// Carries the chosen endpoint to the proxy. Clients' headers of this prefix were dropped before.
const ENDPOINT_HEADER: &str = "x-bawaba-endpoint";

/// The proxy for plain HTTP.
pub struct Passthrough(Arc<HttpProxy<ToEndpoint>>);

impl Passthrough {
    /// With Pingora's own connection pool.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(http_proxy(&Arc::new(ServerConf::default()), ToEndpoint { metrics })))
    }

    /// Carries one request whose head was rewritten; the connection comes back when it may be used again.
    pub async fn pass(&self, session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        self.0.process_new_http(session, shutdown).await
    }
}

/// The endpoint for a plain request of `user`.
pub fn pick(route: &Route, user: &str) -> Result<Arc<Endpoint>, Refusal> {
    let RouteTarget::Relay { cluster, .. } = &route.target else {
        return Err(Refusal::new(Reason::ProtocolUnsupported));
    };
    cluster.pick(user, None).ok_or_else(|| Refusal::new(Reason::EdgeNoEndpoint))
}

/// Makes a client's request the upstream's: forged headers out, verified claims and the client's address in.
pub fn rewrite(
    request: &mut RequestHeader,
    target: &Target,
    claims: Option<&str>,
    origin: Origin,
    endpoint: &Endpoint,
) -> Result<(), Refusal> {
    let malformed = |_| Refusal::new(Reason::ProtocolMalformed).detail("the request's target cannot be read");
    let forwarded = forwarded_for(&request.headers, origin.client);
    let ours: Vec<HeaderName> =
        request.headers.keys().filter(|name| name.as_str().starts_with("x-bawaba-")).cloned().collect();
    for name in ours {
        request.remove_header(&name);
    }
    request.set_uri(
        target
            .path_and_query
            .parse()
            .map_err(|_| Refusal::new(Reason::ProtocolMalformed).detail("the request's target cannot be read"))?,
    );
    // A verified token has done its work here only where the edge says who it is.
    if claims.is_none() {
        request.remove_header(&AUTHORIZATION);
    }
    let scheme = if origin.tls { "https" } else { "http" };
    let mut set = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).map_err(malformed)?;
        request.insert_header(name, value).map_err(|_| Refusal::new(Reason::ProtocolMalformed))
    };
    set(HOST.as_str(), &target.authority)?;
    set("x-forwarded-for", &forwarded)?;
    set("x-forwarded-proto", scheme)?;
    set(ENDPOINT_HEADER, &endpoint.address)?;
    claims.map_or(Ok(()), |claims| set(CLAIMS_HEADER, claims))
}

/// The same for HTTP/1.1, as the bytes of the head.
pub fn rewritten_head(
    request: &RequestHeader,
    target: &Target,
    claims: Option<&str>,
    origin: Origin,
    endpoint: &Endpoint,
) -> Result<BytesMut, Refusal> {
    let mut request = request.clone();
    rewrite(&mut request, target, claims, origin, endpoint)?;
    let mut head = BytesMut::with_capacity(1024);
    head.put_slice(request.method.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(target.path_and_query.as_bytes());
    head.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in &request.headers {
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    head.put_slice(b"\r\n");
    Ok(head)
}

struct ToEndpoint {
    metrics: Arc<Metrics>,
}

#[async_trait]
impl ProxyHttp for ToEndpoint {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        let address = session.req_header().headers.get(ENDPOINT_HEADER).and_then(|value| value.to_str().ok());
        let address = address.ok_or_else(|| Error::new(ErrorType::InternalError))?;
        let resolved: Option<SocketAddr> = tokio::net::lookup_host(address).await.ok().and_then(|mut all| all.next());
        let resolved = resolved.ok_or_else(|| Error::new(ErrorType::ConnectError))?;
        Ok(Box::new(HttpPeer::new(resolved, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        (): &mut (),
    ) -> pingora_core::Result<()> {
        upstream.remove_header(ENDPOINT_HEADER);
        Ok(())
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, (): &mut ()) {
        let status = session.response_written().map_or(0, |response: &ResponseHeader| response.status.as_u16());
        self.metrics.http_request(status);
        tracing::info!(
            path = session.req_header().uri.path(),
            status,
            error = error.map(|error| error.etype().as_str()),
            "plain request passed"
        );
    }
}
