//! Plain HTTP on a relay route, passed to the service behind it by pingora-proxy. Judged already: route, origin and
//! token are [`crate::listener`]'s; here the request is rewritten and an endpoint chosen. Filters do not see it yet,
//! so a route with filters does not let it pass ([`crate::check`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::CLAIMS_HEADER;
use bytes::BytesMut;
use http::header::HeaderName;
use pingora_core::apps::{HttpServerApp as _, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};

use crate::cluster::{Cluster, Endpoint};
use crate::generation::{Route, Target as RouteTarget};
use crate::handshake::{self, OWN_HEADER_PREFIX, Origin, Target};
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// Where a request goes, carried through pingora-proxy beside it.
#[derive(Clone)]
struct Way {
    route: Arc<Route>,
    user: String,
}

/// Passes plain requests on.
pub struct Passthrough {
    proxy: Arc<HttpProxy<Upstream>>,
}

impl Passthrough {
    /// `connect` bounds the connection to an endpoint.
    pub fn new(connect: Duration, metrics: Arc<Metrics>) -> Self {
        let mut proxy = HttpProxy::new(Upstream { connect, metrics }, Arc::new(ServerConf::default()));
        proxy.handle_init_modules();
        Self { proxy: Arc::new(proxy) }
    }

    /// Passes one request on; its connection comes back if it can carry another.
    pub async fn pass(
        &self,
        route: &Arc<Route>,
        user: &str,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let way = Way { route: Arc::clone(route), user: user.to_owned() };
        if session.is_http2() {
            session.req_header_mut().extensions_mut().insert(way);
        } else {
            // HTTP/1.1 is parsed anew from the rewritten head, so nothing can be tied to the header.
            session.set_connection_user_context(Some(Box::new(way)));
        }
        self.proxy.process_new_http(session, shutdown).await
    }
}

/// The request as the service may see it: no credential in its target, no forged header, the verified claims.
pub fn rewrite(
    header: &mut RequestHeader,
    target: &Target,
    claims: Option<&str>,
    origin: Origin,
) -> std::result::Result<(), Refusal> {
    let malformed = || Refusal::new(Reason::ProtocolMalformed).detail("the request cannot be passed on");
    let uri = target.path_and_query.parse().map_err(|_| malformed())?;
    let forwarded_for = handshake::forwarded_for(&header.headers, origin.client);
    let dropped: Vec<HeaderName> = header.headers.keys().filter(|name| is_dropped(name)).cloned().collect();
    for name in &dropped {
        // All values of the name go.
        header.remove_header(name);
    }
    if !header.headers.contains_key("host") && !target.authority.is_empty() {
        header.insert_header("host", &target.authority).map_err(|_| malformed())?;
    }
    header.set_uri(uri);
    header.insert_header("x-forwarded-for", forwarded_for).map_err(|_| malformed())?;
    header.insert_header("x-forwarded-proto", origin.scheme()).map_err(|_| malformed())?;
    if let Some(claims) = claims {
        header.insert_header(CLAIMS_HEADER, claims).map_err(|_| malformed())?;
    }
    Ok(())
}

/// The same as bytes of HTTP/1.1, ready to be parsed.
pub fn rewritten_head(
    header: &RequestHeader,
    target: &Target,
    claims: Option<&str>,
    origin: Origin,
) -> std::result::Result<BytesMut, Refusal> {
    let mut header = header.clone();
    rewrite(&mut header, target, claims, origin)?;
    http_req_header_to_wire(&header)
        .ok_or_else(|| Refusal::new(Reason::ProtocolMalformed).detail("the request cannot be passed on"))
}

fn is_dropped(name: &HeaderName) -> bool {
    let name = name.as_str();
    // A switch to another protocol would leave the edge blind.
    name.starts_with(OWN_HEADER_PREFIX) || matches!(name, "upgrade" | "http2-settings" | "x-forwarded-proto")
}

struct Upstream {
    connect: Duration,
    metrics: Arc<Metrics>,
}

/// What is known of one request on its way.
#[derive(Default)]
struct Passing {
    way: Option<Way>,
    /// Where it went, to be suspected when the connection fails.
    endpoint: Option<(Arc<Cluster>, Arc<Endpoint>)>,
}

#[async_trait]
impl ProxyHttp for Upstream {
    type CTX = Passing;

    fn new_ctx(&self) -> Passing {
        Passing::default()
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        passing: &mut Passing,
        context: Box<dyn std::any::Any + Send + Sync>,
    ) {
        passing.way = context.downcast::<Way>().ok().map(|way| *way);
    }

    async fn upstream_peer(&self, session: &mut Session, passing: &mut Passing) -> Result<Box<HttpPeer>> {
        if passing.way.is_none() {
            passing.way = session.req_header().extensions.get::<Way>().cloned();
        }
        let no_endpoint = || Error::new_up(ErrorType::HTTPStatus(503));
        let way = passing.way.as_ref().ok_or_else(no_endpoint)?;
        let RouteTarget::Relay { cluster, .. } = &way.route.target else { return Err(no_endpoint()) };
        let endpoint = cluster.pick(&way.user, None).ok_or_else(no_endpoint)?;
        // Resolved here, as Pingora would resolve on the worker thread and panic on a name that is unknown.
        let resolved = tokio::time::timeout(self.connect, tokio::net::lookup_host(endpoint.address.clone())).await;
        let address = match resolved {
            Ok(Ok(mut addresses)) => addresses.next(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(address) = address else {
            cluster.suspect(&endpoint);
            return Err(no_endpoint());
        };
        passing.endpoint = Some((Arc::clone(cluster), endpoint));
        let mut peer = Box::new(HttpPeer::new(address, false, String::new()));
        peer.options.connection_timeout = Some(self.connect);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        passing: &mut Passing,
        error: Box<Error>,
    ) -> Box<Error> {
        if let Some((cluster, endpoint)) = passing.endpoint.take() {
            cluster.suspect(&endpoint);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, passing: &mut Passing) -> FailToProxy {
        let route = passing.way.as_ref().map_or("", |way| way.route.name());
        tracing::warn!(route, %error, "a plain request could not be passed on");
        let refusal = match error.esource() {
            pingora_core::ErrorSource::Downstream => Refusal::new(Reason::ProtocolMalformed),
            _ => Refusal::new(Reason::EdgeNoEndpoint),
        };
        self.metrics.refused(refusal.reason);
        let status = refusal.status;
        if let Err(error) = respond(session, &refusal).await {
            tracing::debug!(%error, "the client left before its answer");
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, passing: &mut Passing) {
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        self.metrics.http_request(status);
        let route = passing.way.as_ref().map_or("", |way| way.route.name());
        tracing::info!(route, status, method = %session.req_header().method, "plain request");
    }
}

async fn respond(session: &mut Session, refusal: &Refusal) -> Result<()> {
    let body = refusal.body();
    let mut header = ResponseHeader::build_no_case(refusal.status, None)?;
    header.insert_header("content-type", "application/json")?;
    header.insert_header("content-length", body.len())?;
    for (name, value) in &refusal.headers {
        header.insert_header(*name, value)?;
    }
    session.write_response_header(Box::new(header), false).await?;
    session.write_response_body(Some(body), true).await
}
