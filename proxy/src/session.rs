//! A session of a channel route, from its handshake to its end: the chain judges the handshake, the hub gives it a
//! seat, and this task turns whenever its socket has or takes something.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bawaba_channels::close::CloseCode;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Encoding;
use tokio::io::AsyncWrite;

use crate::answer;
use crate::chain::{ChainStream, Ended, Facts, Headers, Refused, RouteChain};
use crate::downstream::HandshakeReply;
use crate::hub::{Gone, NewSeat, SeatKey, unix_now};
use crate::limits::SessionPermit;
use crate::metrics::{OpenSession, Outcome};
use crate::refusal::Refusal;
use crate::shared::{SessionPlace, SidKey};
use crate::usage::SessionUse;
use crate::worker::{Handoff, WorkerContext};

/// How long a `welcome` waits for the phases of the market, when no trunk has brought them yet.
const MARKETS_WITHIN: Duration = Duration::from_millis(500);

/// How long the goodbye to a socket may take.
const GOODBYE_WITHIN: Duration = Duration::from_millis(100);

/// Serves one connection of a channel route, from its handshake to its end.
pub async fn serve(worker: &Rc<WorkerContext>, handoff: Handoff, chain: Rc<RouteChain>) {
    // The handshake's future is freed before the session's life begins: it is many times larger.
    let Some(session) = Box::pin(open(worker, handoff, chain)).await else { return };
    let gone = poll_fn(|cx| session.turn(cx)).await;
    Box::pin(session.finish(gone)).await;
}

/// A session in its life: everything else about it is in its seat.
struct Session {
    worker: Rc<WorkerContext>,
    seat: SeatKey,
    /// The name under which a newer connection takes its place.
    sid: Option<Box<SidKey>>,
    place: SessionPlace,
    _permit: SessionPermit,
    _open: OpenSession,
    used: Option<SessionUse>,
}

/// The handshake: the chain judges the request and the answer to it, and the hub gives the session a seat.
async fn open(worker: &Rc<WorkerContext>, handoff: Handoff, chain: Rc<RouteChain>) -> Option<Session> {
    let Handoff { downstream, mut pre_read, context, mut request, accept, sticky, permit, begun_at } = handoff;
    let metrics = Arc::clone(&worker.shared.metrics);
    let encoding = context.encoding.unwrap_or(Encoding::Json);
    if worker.shared.usage.as_ref().is_some_and(|usage| !usage.has_room()) {
        // What can't be recorded is not let in.
        metrics.handshake(Outcome::Refused);
        drop(answer::answer(downstream, Refusal::new(Reason::EdgeOverloaded).reply(), &accept).await);
        return None;
    }
    let facts = Facts::new(&context, &request);
    facts.host.speak();
    let (stream, reply) = match open_stream(&chain, &mut request, &facts, encoding) {
        Ok((stream, headers)) => (stream, opening(headers, context.encoding)),
        Err(refused) => {
            let reply = refusal(&refused);
            metrics.handshake(Outcome::Refused);
            if let Some(usage) = &worker.shared.usage {
                usage.refused(&context, crate::hub::refused_word(&refused).0.word());
            }
            tracing::info!(session = %context.session, status = reply.status, "the chain refused a session");
            if let Err(error) = answer::answer(downstream, reply, &accept).await {
                tracing::debug!(%error, "the client left before its answer");
            }
            return None;
        }
    };
    let io = match answer::answer(downstream, reply, &accept).await {
        Ok(Some(io)) => io,
        Ok(None) => {
            chain.close(stream);
            return None;
        }
        Err(error) => {
            metrics.handshake(Outcome::Failed);
            tracing::debug!(session = %context.session, %error, "the client left before its answer");
            chain.close(stream);
            return None;
        }
    };
    metrics.handshake(Outcome::Opened);
    metrics.connect_seconds.observe(begun_at.elapsed().as_secs_f64());
    let open = metrics.session(chain.route().name());
    let place = worker.next_session();
    let sid = context.sid.clone().map(|sid| Box::new(context.sid_key(sid)));
    if let Some(old) = sid.as_ref().and_then(|sid| worker.shared.sids.enter(sid, place)) {
        worker.workers.close(old, CloseCode::REPLACED, "a newer connection of the same session took over");
    }
    let sticky = sticky.and_then(|token| worker.shared.sticky.verify(&token, &context.user, unix_now()));
    tracing::info!(session = %context.session, route = chain.route().name(), client = %context.client, "session opened");
    let used = worker.shared.usage.as_ref().map(|usage| usage.session(&context));
    let sticky = sticky.unwrap_or_default();
    let seat = NewSeat { context, place, chain, stream, facts, encoding, io, sticky };
    let seat = worker.hub.borrow_mut().enter(seat);
    worker.start_trunks();
    // The chain may have changed between the handshake and here: the seat is moved like any other.
    worker.settle_seat(seat);
    let deadline = tokio::time::Instant::now() + MARKETS_WITHIN;
    while !worker.hub.borrow().knows_markets(seat) {
        if tokio::time::timeout_at(deadline, worker.markets_known.notified()).await.is_err() {
            break;
        }
    }
    worker.hub.borrow_mut().welcome(seat);
    if !pre_read.is_empty() {
        worker.hub.borrow_mut().on_pre_read(seat, &mut pre_read);
    }
    Some(Session { worker: Rc::clone(worker), seat, sid, place, _permit: permit, _open: open, used })
}

impl Session {
    fn turn(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        let turn = self.worker.hub.borrow_mut().poll_seat(self.seat, cx);
        self.worker.start_trunks();
        turn
    }

    async fn finish(mut self, gone: Gone) {
        // Says goodbye to the socket, without waiting for a peer that is gone.
        let goodbye = poll_fn(|cx| match self.worker.hub.borrow_mut().seat_mut(self.seat) {
            Some(seat) => Pin::new(&mut seat.io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        });
        let _ = tokio::time::timeout(GOODBYE_WITHIN, goodbye).await;
        if let Gone::Closed(code) = gone {
            self.worker.shared.metrics.closed(code);
        }
        if let Some(used) = &mut self.used {
            used.reason = match gone {
                Gone::Closed(code) => code.0.to_string(),
                Gone::Reset => "reset".into(),
            };
        }
        if let Some(seat) = self.worker.hub.borrow_mut().seat_mut(self.seat) {
            let age_s = seat.opened_at.elapsed().as_secs();
            tracing::info!(session = %seat.context.session, ?gone, age_s, "session closed");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.worker.hub.borrow_mut().leave(self.seat);
        if let Some(sid) = &self.sid {
            self.worker.shared.sids.leave(sid, self.place);
        }
    }
}

/// Runs a handshake through a chain: the request, then the answer to it. The headers are the answer's, without
/// `:status`.
pub fn open_stream(
    chain: &RouteChain,
    request: &mut Headers,
    facts: &Rc<Facts>,
    encoding: Encoding,
) -> Result<(ChainStream, Headers), Refused> {
    let mut stream = chain.open(request, facts)?;
    let mut response: Headers = vec![
        (":status".to_owned(), "101".to_owned()),
        ("upgrade".to_owned(), "websocket".to_owned()),
        ("connection".to_owned(), "Upgrade".to_owned()),
        ("sec-websocket-protocol".to_owned(), encoding.subprotocol().to_owned()),
    ];
    if let Err(ended) = chain.answer(&mut stream, &mut response) {
        chain.close(stream);
        return Err(match ended {
            Ended::Failed(filter) | Ended::Closed(filter) => Refused::Failed(filter),
        });
    }
    response.retain(|(name, _)| !matches!(name.as_str(), ":status" | "upgrade" | "connection"));
    Ok((stream, response))
}

/// The 101; a client that offered no subprotocol is told of none.
fn opening(mut headers: Headers, selected: Option<Encoding>) -> HandshakeReply {
    if selected.is_none() {
        headers.retain(|(name, _)| name != "sec-websocket-protocol");
    }
    HandshakeReply { status: 101, headers, body: bytes::Bytes::new() }
}

pub(crate) fn refusal(refused: &Refused) -> HandshakeReply {
    match refused {
        Refused::Response { status, headers, body } => {
            let mut headers: Headers = headers
                .iter()
                .filter(|(name, _)| !name.starts_with(':') && !matches!(name.as_str(), "content-length" | "connection"))
                .cloned()
                .collect();
            if !headers.iter().any(|(name, _)| name == "content-type") && body.first() == Some(&b'{') {
                headers.push(("content-type".to_owned(), "application/json".to_owned()));
            }
            HandshakeReply { status: *status, headers, body: body.clone() }
        }
        Refused::Failed(filter) => {
            tracing::warn!(%filter, "a filter failed on a handshake");
            Refusal::new(Reason::EdgeFilterFailed).reply()
        }
    }
}
