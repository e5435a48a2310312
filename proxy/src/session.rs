//! A session of a channel route, from its handshake to its end: the chain judges the handshake, the hub gives it a
//! seat, and this task turns whenever its socket has or takes something.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bawaba_channels::close::CloseCode;
use bawaba_channels::wire::Encoding;
use tokio::io::AsyncWrite;

use crate::answer;
use crate::chain::{ChainStream, Ended, Facts, Headers, Refused, RouteChain};
use crate::downstream::{HandshakeReply, Stream};
use crate::hub::{Gone, NewSeat, unix_now};
use crate::metrics::Outcome;
use crate::worker::{Handoff, WorkerContext};

/// How long a `welcome` waits for the phases of the market, when no trunk has brought them yet.
const MARKETS_WITHIN: Duration = Duration::from_millis(500);

/// Serves one connection of a channel route.
pub async fn serve(context: &Rc<WorkerContext>, handoff: Handoff, chain: Rc<RouteChain>) {
    let Handoff { downstream, mut pre_read, context: connection, request, accept, sticky, permit, begun_at } = handoff;
    let metrics = Arc::clone(&context.shared.metrics);
    let encoding = connection.encoding.unwrap_or(Encoding::Json);
    if context.shared.usage.as_ref().is_some_and(|usage| !usage.has_room()) {
        // What can't be recorded is not let in.
        metrics.handshake(Outcome::Refused);
        let reply = answer::refusal(bawaba_channels::reason::Reason::EdgeOverloaded);
        drop(answer::answer(downstream, reply, &accept).await);
        return;
    }
    let facts = Facts::new(&connection, request.clone());
    facts.host.speak();
    let mut request = request;
    let (stream, reply) = match open_stream(&chain, &mut request, &facts, connection.encoding.unwrap_or(encoding)) {
        Ok((stream, headers)) => (stream, opening(headers, connection.encoding)),
        Err(refused) => {
            let reply = refusal(&refused);
            metrics.handshake(Outcome::Refused);
            if let Some(usage) = &context.shared.usage {
                usage.refused(&connection, crate::hub::refused_word(&refused).0.word());
            }
            tracing::info!(session = %connection.session, status = reply.status, "the chain refused a session");
            if let Err(error) = answer::answer(downstream, reply, &accept).await {
                tracing::debug!(%error, "the client left before its answer");
            }
            return;
        }
    };
    let io = match answer::answer(downstream, reply, &accept).await {
        Ok(Some(io)) => io,
        Ok(None) => return chain.close(stream),
        Err(error) => {
            metrics.handshake(Outcome::Failed);
            tracing::debug!(session = %connection.session, %error, "the client left before its answer");
            return chain.close(stream);
        }
    };
    metrics.handshake(Outcome::Opened);
    metrics.connect_seconds.observe(begun_at.elapsed().as_secs_f64());
    let counted = metrics.session(chain.route().name());
    let place = context.next_session();
    let sid = connection.sid.clone().map(|sid| connection.sid_key(sid));
    if let Some(old) = sid.as_ref().and_then(|sid| context.shared.sids.enter(sid, place)) {
        context.workers.close(old, CloseCode::REPLACED, "a newer connection of the same session took over");
    }
    let places = sticky.and_then(|token| context.shared.sticky.verify(&token, &connection.user, unix_now()));
    let opened_at = Instant::now();
    let mut used = context.shared.usage.as_ref().map(|usage| usage.session(&connection));
    let session = Arc::clone(&connection);
    tracing::info!(session = %session.session, route = chain.route().name(), client = %session.client, "session opened");
    // The chain may have changed between the handshake and here: the seat is moved like any other.
    let seat = context.hub.borrow_mut().enter(NewSeat {
        context: connection,
        place,
        chain,
        stream,
        facts,
        encoding,
        io,
        sticky: places.unwrap_or_else(BTreeMap::new),
    });
    context.start_trunks();
    context.settle_seat(seat);
    let deadline = tokio::time::Instant::now() + MARKETS_WITHIN;
    while !context.hub.borrow().knows_markets(seat) {
        if tokio::time::timeout_at(deadline, context.markets_known.notified()).await.is_err() {
            break;
        }
    }
    context.hub.borrow_mut().welcome(seat);
    if !pre_read.is_empty() {
        context.hub.borrow_mut().on_pre_read(seat, &mut pre_read);
    }
    let gone = poll_fn(|cx| {
        let turn = context.hub.borrow_mut().poll_seat(seat, cx);
        context.start_trunks();
        turn
    })
    .await;
    // Says goodbye to the socket, without waiting for a peer that is gone.
    let _ = tokio::time::timeout(
        Duration::from_millis(100),
        poll_fn(|cx| match context.hub.borrow_mut().seat_mut(seat) {
            Some(seat) => match &mut seat.io {
                Stream::Tcp(io) => Pin::new(io).poll_shutdown(cx),
                Stream::Boxed(io) => Pin::new(io).poll_shutdown(cx),
            },
            None => std::task::Poll::Ready(Ok(())),
        }),
    )
    .await;
    context.hub.borrow_mut().leave(seat);
    if let Gone::Closed(code) = gone {
        metrics.closed(code);
    }
    if let Some(used) = &mut used {
        used.reason = match gone {
            Gone::Closed(code) => code.0.to_string(),
            Gone::Reset => "reset".into(),
        };
    }
    if let Some(sid) = &sid {
        context.shared.sids.leave(sid, place);
    }
    tracing::info!(session = %session.session, ?gone, age_s = opened_at.elapsed().as_secs(), "session closed");
    drop((counted, permit));
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
            answer::refusal(bawaba_channels::reason::Reason::EdgeFilterFailed)
        }
    }
}
