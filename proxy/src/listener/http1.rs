//! Requests over HTTP/1.1: read in bounded time and space, then refused, handed to a worker, or passed on.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bawaba_channels::reason::Reason;
use bytes::BytesMut;
use http::request::Parts;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v1::server::HttpSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use std::sync::Arc;
use tokio::time::timeout;

use super::inbound::Inbound;
use super::judge::{Admitted, Decision, Passed};
use super::{Connection, answer, http2};
use crate::metrics::Outcome;
use crate::refusal::Refusal;

#[async_trait]
impl HttpServerApp for Connection {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let is_first = self.reads_a_request();
        match session {
            ServerSession::H1(session) => self.http1(session, is_first, shutdown).await,
            ServerSession::H2(session) => {
                self.http2(session, shutdown).await;
                None
            }
            // Pingora makes the other kinds only for itself.
            _ => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(http2::options(self.door.shared.config.limits.request_head_bytes_max))
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

impl Connection {
    async fn http1(
        self: &Arc<Self>,
        mut session: HttpSession,
        is_first: bool,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // The clock of a first request runs from the accepted connection on.
        let begun_at = if is_first { self.accepted_at } else { Instant::now() };
        self.head.begin();
        let limit = self.door.shared.config.timeouts.request_head;
        let read = timeout(limit, session.read_request()).await;
        let has_begun = self.head.has_begun();
        let head = self.head.end();
        let refusal = match read {
            Ok(Ok(Some(head_len))) => match behind_head(&session, &head, head_len, self.head_bytes_max()) {
                Ok(pre_read) => return self.decide(session, pre_read, begun_at, shutdown).await,
                Err(refusal) => refusal,
            },
            Ok(Ok(None)) => return None,
            Ok(Err(_)) if self.head.is_over() => too_long(self.head_bytes_max()),
            Ok(Err(error)) if error.etype == pingora_core::ErrorType::InvalidHTTPHeader => {
                Refusal::new(Reason::ProtocolMalformed).detail("this is no HTTP request that can be read")
            }
            Ok(Err(_)) => {
                self.door.metrics.handshake(Outcome::Failed);
                tracing::info!(client = %self.client, "the client left in the middle of its request");
                return None;
            }
            Err(_) if has_begun => self.head_timed_out(limit),
            Err(_) => {
                // Nobody asked for anything: a connection kept alive, or opened ahead.
                tracing::debug!(client = %self.client, "idle connection closed");
                return None;
            }
        };
        self.refuse(session, &refusal, None).await;
        None
    }

    fn head_bytes_max(&self) -> usize {
        self.door.shared.config.limits.request_head_bytes_max as usize
    }

    fn head_timed_out(&self, limit: Duration) -> Refusal {
        self.door.metrics.handshake(Outcome::TimedOut);
        Refusal::new(Reason::ProtocolMalformed)
            .status(408)
            .detail(format!("the request did not end within {} s (timeout request_head)", limit.as_secs_f64()))
    }

    async fn decide(
        self: &Arc<Self>,
        session: HttpSession,
        pre_read: BytesMut,
        begun_at: Instant,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let parts: &Parts = session.req_header();
        match self.judge(parts, begun_at) {
            Ok(Decision::Session(admitted)) => {
                self.hand_over(session, pre_read, *admitted).await;
                None
            }
            Ok(Decision::Http(passed)) => self.pass_on(session, &pre_read, *passed, shutdown).await,
            Err(refusal) => {
                let path = parts.uri.path().to_owned();
                self.refuse(session, &refusal, Some(&path)).await;
                None
            }
        }
    }

    /// Takes the socket over and gives it to a worker, before anything is answered.
    async fn hand_over(&self, session: HttpSession, pre_read: BytesMut, admitted: Admitted) {
        let Some(inbound) = take_back(session) else { return };
        let downstream = match inbound.into_downstream() {
            Ok(downstream) => downstream,
            Err(error) => {
                self.door.metrics.handshake(Outcome::Failed);
                tracing::warn!(client = %self.client, %error, "a socket could not be handed over");
                return;
            }
        };
        if let Err(handoff) = self.door.workers.place(admitted.into_handoff(downstream, pre_read)) {
            let refusal = Refusal::new(Reason::EdgeOverloaded);
            self.note_refusal(&refusal, None);
            let written = crate::answer::answer(handoff.downstream, refusal.reply(), "");
            drop(timeout(Duration::from_secs(1), written).await);
        }
    }

    /// Gives a plain request to the service behind its route: rewritten, and with it the bytes behind its head.
    async fn pass_on(
        self: &Arc<Self>,
        session: HttpSession,
        pre_read: &[u8],
        passed: Passed,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let origin = crate::handshake::Origin { client: self.client, tls: self.tls };
        let claims = passed.claims.as_deref();
        let head = crate::passthrough::rewritten_head(session.req_header(), &passed.target, claims, origin);
        let mut head = match head {
            Ok(head) => head,
            Err(refusal) => {
                self.refuse(session, &refusal, Some(passed.target.path())).await;
                return None;
            }
        };
        head.extend_from_slice(pre_read);
        let mut rewritten = ServerSession::new_http1(session.into_inner());
        rewritten.set_keepalive(Some(self.door.shared.config.timeouts.heartbeat.as_secs().max(1)));
        rewritten.set_pipelined_prefix(head);
        self.door.passthrough.pass(&passed.route, &passed.user, rewritten, shutdown).await
    }

    async fn refuse(&self, session: HttpSession, refusal: &Refusal, path: Option<&str>) {
        self.note_refusal(refusal, path);
        if let Some(inbound) = take_back(session) {
            answer::refuse(*inbound, refusal).await;
        }
    }
}

/// The stream that was given to Pingora.
fn take_back(session: HttpSession) -> Option<Box<Inbound>> {
    session.into_inner().into_any().downcast::<Inbound>().ok()
}

fn too_long(limit: usize) -> Refusal {
    Refusal::new(Reason::ProtocolTooLarge).status(431).detail(format!("the request head is longer than {limit} bytes"))
}

/// The bytes that followed the head in what was read. Pingora must have parsed exactly what the client sent: where
/// it mended a head, nobody can say where that head ended.
fn behind_head(session: &HttpSession, read: &[u8], head_len: usize, bytes_max: usize) -> Result<BytesMut, Refusal> {
    if head_len > bytes_max {
        return Err(too_long(bytes_max));
    }
    if read.get(..head_len) != Some(&*session.get_headers_raw_bytes()) {
        return Err(
            Refusal::new(Reason::ProtocolMalformed).detail("the request line holds characters that must be escaped")
        );
    }
    Ok(BytesMut::from(&read[head_len..]))
}
