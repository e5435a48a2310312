//! Requests over HTTP/2: an extended CONNECT (RFC 8441) becomes a byte stream, like the socket of HTTP/1.1.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bawaba_channels::reason::Reason;
use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::request::Parts;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, HttpSession, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Connection;
use super::judge::{Admitted, Decision};
use crate::downstream::{Downstream, HandshakeReply};
use crate::metrics::Outcome;
use crate::refusal::Refusal;

/// Bytes between a stream and its worker, each way. Grows only when used.
const DUPLEX_BYTES: usize = 16 * 1024;
/// What a client may send on one stream before it is read.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What a client may send on one connection before it is read.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long the worker may take to answer beyond its own time limits.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// How long a client may still send after the edge ended its side.
const LINGER: Duration = Duration::from_secs(5);

/// HTTP/2 as we speak it: extended CONNECT, bounded heads and windows.
pub(super) fn options(head_bytes_max: u32) -> H2Options {
    let mut options = default_h2_options();
    options
        .enable_connect_protocol()
        .max_header_list_size(head_bytes_max)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    options
}

impl Connection {
    pub(super) async fn http2(self: &Arc<Self>, mut session: HttpSession, shutdown: &ShutdownWatch) {
        let begun_at = Instant::now();
        let parts: &Parts = session.req_header();
        match self.judge(parts, begun_at) {
            Ok(Decision::Session(admitted)) => self.stream(session, *admitted).await,
            Ok(Decision::Http(passed)) => {
                let origin = crate::handshake::Origin { client: self.client, tls: self.tls };
                let claims = passed.claims.as_deref();
                match crate::passthrough::rewrite(session.req_header_mut(), &passed.target, claims, origin) {
                    Ok(()) => {
                        let session = ServerSession::new_http2(session);
                        self.door.passthrough.pass(&passed.route, &passed.user, session, shutdown).await;
                    }
                    Err(refusal) => self.refuse_http2(session, &refusal, Some(passed.target.path())).await,
                }
            }
            Err(refusal) => {
                let path = parts.uri.path().to_owned();
                self.refuse_http2(session, &refusal, Some(&path)).await;
            }
        }
    }

    async fn refuse_http2(&self, session: HttpSession, refusal: &Refusal, path: Option<&str>) {
        self.note_refusal(refusal, path);
        answer(session, refusal.reply()).await;
    }

    /// Hands the stream to a worker and carries bytes between the two until both sides have ended.
    async fn stream(&self, session: HttpSession, admitted: Admitted) {
        let (reply, answered) = oneshot::channel();
        let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        let downstream = Downstream::Http2 { reply, bytes: theirs };
        if self.door.workers.place(admitted.into_handoff(downstream, BytesMut::new())).is_err() {
            return self.refuse_http2(session, &Refusal::new(Reason::EdgeOverloaded), None).await;
        }
        let limit = self.door.shared.config.timeouts.connect + ANSWER_SLACK;
        let reply = match timeout(limit, answered).await {
            Ok(Ok(reply)) => reply,
            // The worker has dropped the handshake, or hangs: the client must not wait for ever.
            Ok(Err(_)) | Err(_) => Refusal::new(Reason::EdgeOverloaded).reply(),
        };
        if reply.status != 101 {
            return answer(session, reply).await;
        }
        let mut session = session;
        let begun = header(&reply, 200).and_then(|header| session.write_response_header(Box::new(header), false));
        if let Err(error) = begun {
            self.door.metrics.handshake(Outcome::Failed);
            tracing::debug!(client = %self.client, %error, "the client left before its answer");
            return;
        }
        if let Some(writer) = session.take_response_body_writer() {
            carry(session, writer, ours).await;
        }
    }
}

fn header(reply: &HandshakeReply, status: u16) -> Result<ResponseHeader, pingora_core::BError> {
    let mut header = ResponseHeader::build_no_case(status, Some(reply.headers.len()))?;
    for (name, value) in &reply.headers {
        // A value that filters made and HTTP cannot carry is left out.
        if header.append_header(name.clone(), value.as_str()).is_err() {
            tracing::warn!(name, "a header could not be sent");
        }
    }
    Ok(header)
}

async fn answer(mut session: HttpSession, reply: HandshakeReply) {
    let written = async {
        let header = header(&reply, reply.status)?;
        session.write_response_header(Box::new(header), reply.body.is_empty())?;
        if !reply.body.is_empty() {
            session.write_body(reply.body, true).await?;
        }
        session.finish()
    };
    if let Ok(Err(error)) = timeout(LINGER, written).await {
        tracing::debug!(%error, "the client left before its answer");
    }
}

/// Carries bytes both ways; each direction ends by itself, so that a half-closed stream goes on.
async fn carry(session: HttpSession, writer: SendStream<Bytes>, ours: DuplexStream) {
    let (from_worker, to_worker) = tokio::io::split(ours);
    let mut inbound = std::pin::pin!(to_worker_from_client(session, to_worker));
    let mut outbound = std::pin::pin!(to_client_from_worker(writer, from_worker));
    tokio::select! {
        in_order = &mut inbound => {
            // A stream that was reset has nobody left to write to.
            if in_order {
                outbound.await;
            }
        }
        () = &mut outbound => drop(timeout(LINGER, inbound).await),
    }
}

/// Whether the client ended its side in order.
async fn to_worker_from_client(mut session: HttpSession, mut worker: WriteHalf<DuplexStream>) -> bool {
    loop {
        match session.read_body_bytes().await {
            Ok(Some(bytes)) => {
                // The next bytes are read once these are taken: HTTP/2's window does the rest.
                if worker.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            Ok(None) => {
                let ended = worker.shutdown().await.is_ok();
                return ended;
            }
            Err(_) => return false,
        }
    }
}

async fn to_client_from_worker(mut writer: SendStream<Bytes>, mut worker: ReadHalf<DuplexStream>) {
    loop {
        let mut bytes = match poll_fn(|cx| poll_bytes(&mut worker, cx)).await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) | Err(_) => {
                // Nothing to do for a client that has already gone.
                drop(writer.send_data(Bytes::new(), true));
                return;
            }
        };
        while !bytes.is_empty() {
            writer.reserve_capacity(bytes.len());
            let granted = match poll_fn(|cx| writer.poll_capacity(cx)).await {
                Some(Ok(granted)) => granted.min(bytes.len()),
                Some(Err(_)) | None => return,
            };
            if writer.send_data(bytes.split_to(granted), false).is_err() {
                return;
            }
        }
    }
}

/// What the worker has written, as one piece: a client takes many small DATA frames for an attack. The room is on the
/// stack, so that an idle stream holds none.
fn poll_bytes(worker: &mut ReadHalf<DuplexStream>, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut room = [0; DUPLEX_BYTES];
    let mut buffer = ReadBuf::new(&mut room);
    ready!(Pin::new(worker).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
}
