//! From a request to a decision: which route, who asks, and whether there is room. One function of named steps, the
//! same for both versions of HTTP.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::reason::Reason;
use bytes::BytesMut;
use http::Version;
use http::request::Parts;

use super::Connection;
use crate::context::ConnectionContext;
use crate::downstream::Downstream;
use crate::generation;
use crate::handshake::{self, Headers, KeepAuthorization, Kind, Origin, Target, Token, WebSocketRequest};
use crate::identity::Verified;
use crate::limits::SessionPermit;
use crate::metrics::Outcome;
use crate::refusal::Refusal;
use crate::usage::Who;
use crate::worker::Handoff;

/// What is to be done with a request.
pub(super) enum Decision {
    /// It opens a WebSocket, if the worker agrees.
    Session(Box<Admitted>),
    /// It is plain HTTP for the service behind this relay route.
    Http(Box<Passed>),
}

/// A plain request that may pass.
pub(super) struct Passed {
    pub(super) route: Arc<generation::Route>,
    pub(super) target: Target,
    /// The verified payload, for the claims header; `None` on routes without authentication.
    pub(super) claims: Option<String>,
    /// For the choice of endpoint.
    pub(super) user: String,
}

/// A handshake that may go on, with its place.
pub(super) struct Admitted {
    context: ConnectionContext,
    request: Headers,
    accept: String,
    sticky: Option<String>,
    permit: SessionPermit,
    begun_at: Instant,
}

impl Admitted {
    /// The hand-over to a worker, with the client's stream and what it sent behind its request.
    pub(super) fn into_handoff(self, downstream: Downstream, pre_read: BytesMut) -> Handoff {
        Handoff {
            downstream,
            pre_read,
            context: Arc::new(self.context),
            request: self.request,
            accept: self.accept,
            sticky: self.sticky,
            permit: self.permit,
            begun_at: self.begun_at,
        }
    }
}

impl Connection {
    /// Judges a request. `begun_at` is when the client began to ask.
    pub(super) fn judge(&self, parts: &Parts, begun_at: Instant) -> Result<Decision, Refusal> {
        let target = Target::read(parts)?;
        if self.door.shared.is_draining() {
            return Err(Refusal::new(Reason::EdgeDraining));
        }
        let generation = self.door.shared.generation();
        let route = crate::route::find(&generation, target.host(), target.path())
            .ok_or_else(|| Refusal::new(Reason::EdgeNotFound))?;
        match handshake::kind(parts) {
            Kind::WebSocket => self.admit(parts, target, route, begun_at).map(Box::new).map(Decision::Session),
            Kind::Http => self.pass(parts, target, route).map(Box::new).map(Decision::Http),
        }
    }

    fn admit(
        &self,
        parts: &Parts,
        mut target: Target,
        route: &Arc<generation::Route>,
        begun_at: Instant,
    ) -> Result<Admitted, Refusal> {
        let mut asked = WebSocketRequest::read(parts)?;
        self.origin(parts, &target, route)?;
        let token = handshake::bearer(&parts.headers).or(asked.token.take()).or(target.token.take());
        let verified = self.verify(route, token).inspect_err(|refusal| self.turned_away(route, None, refusal))?;
        let is_channel = matches!(route.target, generation::Target::Channel(_));
        let encoding = if is_channel {
            let encoding = asked.encoding()?;
            // Filters and the hub see the one subprotocol that is spoken.
            asked.offers.retain(|offer| encoding.is_some_and(|encoding| offer == encoding.subprotocol()));
            encoding
        } else {
            None
        };
        let permit = self.door.limiter.session(self.client.ip()).map_err(|full| {
            tracing::warn!(client = %self.client, route = route.name(), limit = full.limit(), "a limit is reached");
            let refusal = Refusal::new(Reason::EdgeOverloaded);
            self.turned_away(route, verified.as_ref(), &refusal);
            refusal
        })?;
        let keep = if is_channel { KeepAuthorization::No } else { KeepAuthorization::Yes };
        let claims = verified.as_ref().map(|verified| verified.payload.as_str());
        let origin = Origin { client: self.client, tls: self.tls };
        let request = handshake::request_headers(parts, &target, &asked, origin, claims, keep)?;
        let context = ConnectionContext {
            session: session_id()?,
            client: self.client,
            http2: parts.version == Version::HTTP_2,
            route: route.name().into(),
            encoding,
            expires_at: verified.as_ref().map(|verified| verified.expires_at),
            ..context_of(verified, self.client)
        };
        Ok(Admitted { context, request, accept: asked.accept, sticky: target.resume, permit, begun_at })
    }

    fn pass(&self, parts: &Parts, mut target: Target, route: &Arc<generation::Route>) -> Result<Passed, Refusal> {
        if !matches!(route.target, generation::Target::Relay { http: true, .. }) {
            return Err(Refusal::new(Reason::ProtocolUnsupported)
                .status(426)
                .detail("only WebSockets are served here: ask with Upgrade: websocket")
                .header("upgrade", "websocket"));
        }
        self.origin(parts, &target, route)?;
        let token = handshake::bearer(&parts.headers).or(target.token.take());
        let verified = self.verify(route, token)?;
        let (claims, user) = verified.map_or((None, self.client.ip().to_string()), |v| (Some(v.payload), v.user));
        Ok(Passed { route: Arc::clone(route), target, claims, user })
    }

    fn origin(&self, parts: &Parts, target: &Target, route: &generation::Route) -> Result<(), Refusal> {
        if handshake::origin_is_allowed(&route.settings.origins, &parts.headers, &target.authority) {
            return Ok(());
        }
        Err(Refusal::new(Reason::EdgeForbidden).detail("pages of this origin may not open this route"))
    }

    fn verify(&self, route: &generation::Route, token: Option<Token>) -> Result<Option<Verified>, Refusal> {
        if !route.settings.authenticate {
            return Ok(None);
        }
        let token = token.ok_or_else(|| Refusal::new(Reason::AuthMissing))?;
        self.door
            .identity
            .verify(&token.0)
            .map(Some)
            .map_err(|rejected| Refusal::new(rejected.reason).detail(rejected.detail))
    }

    /// Puts a refusal at the door into the usage record: who tried to use what, as far as it is known.
    fn turned_away(&self, route: &generation::Route, verified: Option<&Verified>, refusal: &Refusal) {
        if let Some(usage) = &self.door.shared.usage {
            let (tenant, user) = verified.map_or_else(Default::default, |v| (v.tenant.clone(), v.user.clone()));
            usage.turned_away(Who { route: route.name().into(), tenant, user }, refusal.reason.word());
        }
    }

    /// Notes a refusal where people and machines look for it.
    pub(super) fn note_refusal(&self, refusal: &Refusal, path: Option<&str>) {
        self.door.metrics.handshake(Outcome::Refused);
        self.door.metrics.refused(refusal.reason);
        tracing::info!(
            client = %self.client,
            path = path.unwrap_or(""),
            status = refusal.status,
            reason = refusal.reason.word(),
            detail = %refusal.detail,
            "request refused"
        );
    }
}

fn context_of(verified: Option<Verified>, client: std::net::SocketAddr) -> ConnectionContext {
    let (user, sid, tenant, is_edge, payload) = match verified {
        Some(verified) => (verified.user, verified.sid, verified.tenant, verified.is_edge, verified.payload),
        None => (String::new(), None, String::new(), false, String::new()),
    };
    ConnectionContext {
        session: String::new(),
        client,
        user,
        sid,
        tenant,
        expires_at: None,
        encoding: None,
        http2: false,
        is_edge,
        payload: payload.into(),
        route: Arc::from(""),
    }
}

/// 128 random bits: public in logs and `welcome`, yet nobody can guess another's.
fn session_id() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the operating system gives no random bytes");
        Refusal::new(Reason::EdgeOverloaded)
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
