//! A session of a relay route: one upstream socket for one client, chosen stickily, both directions judged by the
//! chain. Knows frames, no protocol inside them. Pings, Pongs and Closes of the two peers pass as they are.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{Opcode, Sender, encode};
use bawaba_channels::reason::Reason;
use bawaba_routing::Lease;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer;
use crate::chain::{ChainStream, Ended, Facts, Headers, Refused, RouteChain};
use crate::cluster::Cluster;
use crate::context::ConnectionContext;
use crate::downstream::{HandshakeReply, Stream};
use crate::hub::unix_now;
use crate::metrics::Outcome;
use crate::refusal::Refusal;
use crate::session::refusal as refusal_of;
use crate::upstream::{self, Answer, UpstreamError};
use crate::worker::{Handoff, WorkerContext};

mod control;
mod end;
mod lane;

pub use control::Control;
use end::End;
use lane::{Lane, LaneEnd, Passed, Turn};

/// Endpoints that are tried for one handshake.
const TRIES_MAX: usize = 3;

/// Serves one connection of a relay route to `cluster`, from its handshake to its end.
pub async fn serve(worker: &Rc<WorkerContext>, handoff: Handoff, chain: Rc<RouteChain>, cluster: Arc<Cluster>) {
    // The handshake's future is freed before the relay's life begins: it is many times larger.
    let Some(mut relay) = Box::pin(open(worker, handoff, chain, &cluster)).await else { return };
    let end = poll_fn(|cx| relay.turn(cx)).await;
    // Boxed, so that an idle relay does not hold room for its end.
    Box::pin(relay.finish(end)).await;
}

/// A relay in its life.
struct Relay {
    worker: Rc<WorkerContext>,
    control: Rc<Control>,
    chain: Rc<RouteChain>,
    stream: Option<ChainStream>,
    client: Stream,
    service: TcpStream,
    inbound: Lane,
    outbound: Lane,
    is_inbound_over: bool,
    is_outbound_over: bool,
    sid: Option<Box<crate::shared::SidKey>>,
    _load: Lease,
    _permit: crate::limits::SessionPermit,
    _open: crate::metrics::OpenSession,
    _used: Option<crate::usage::SessionUse>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Inbound,
    Outbound,
}

/// The handshake: the chain judges the request, the service answers, the chain judges the answer.
async fn open(
    worker: &Rc<WorkerContext>,
    handoff: Handoff,
    chain: Rc<RouteChain>,
    cluster: &Arc<Cluster>,
) -> Option<Relay> {
    let Handoff { downstream, pre_read, context, mut request, accept, sticky, permit, begun_at } = handoff;
    let metrics = Arc::clone(&worker.shared.metrics);
    let facts = (!chain.is_empty()).then(|| Facts::new(&context, &request));
    let opened = match &facts {
        Some(facts) => chain.open(&mut request, facts).map(Some),
        None => Ok(None),
    };
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(refused) => {
            if let Some(usage) = &worker.shared.usage {
                usage.refused(&context, crate::hub::refused_word(&refused).0.word());
            }
            refuse(worker, downstream, refusal_of(&refused), &accept).await;
            return None;
        }
    };
    let answered = ask(worker, cluster, &context, sticky.as_deref(), &request).await;
    let (service, load, early, mut headers) = match answered {
        Ok((service, load, Answer::Open { early, headers })) => (service, load, early, headers),
        Ok((.., Answer::Refused { status, headers, body })) => {
            tracing::info!(session = %context.session, route = chain.route().name(), status, "the service refused a session");
            close_stream(&chain, stream);
            refuse(worker, downstream, HandshakeReply { status, headers, body }, &accept).await;
            return None;
        }
        Err(reason) => {
            close_stream(&chain, stream);
            refuse(worker, downstream, Refusal::new(reason).reply(), &accept).await;
            return None;
        }
    };
    if let Err(ended) = judge_answer(&chain, stream.as_mut(), &mut headers) {
        tracing::warn!(session = %context.session, ?ended, "a filter refused the answer to a handshake");
        close_stream(&chain, stream);
        refuse(worker, downstream, Refusal::new(Reason::EdgeFilterFailed).reply(), &accept).await;
        return None;
    }
    let reply = HandshakeReply { status: 101, headers, body: Bytes::new() };
    let Ok(Some(client)) = answer::answer(downstream, reply, &accept).await else {
        metrics.handshake(Outcome::Failed);
        close_stream(&chain, stream);
        return None;
    };
    metrics.handshake(Outcome::Opened);
    metrics.connect_seconds.observe(begun_at.elapsed().as_secs_f64());
    let place = worker.next_session();
    let sid = context.sid.clone().map(|sid| Box::new(context.sid_key(sid)));
    if let Some(old) = sid.as_ref().and_then(|sid| worker.shared.sids.enter(sid, place)) {
        worker.workers.close(old, CloseCode::REPLACED, "a newer connection of the same session took over");
    }
    tracing::info!(session = %context.session, route = chain.route().name(), client = %context.client, "session opened");
    let limit = worker.shared.config.limits.relay_message_bytes_max;
    let token = stream.as_ref().and_then(ChainStream::token);
    let control = Rc::new(Control::new(place.number, &context, token));
    worker.relays.borrow_mut().insert(place.number, Rc::clone(&control));
    let mut relay = Relay {
        control,
        _open: metrics.session(chain.route().name()),
        _used: worker.shared.usage.as_ref().map(|usage| usage.session(&context)),
        _load: load,
        _permit: permit,
        worker: Rc::clone(worker),
        chain,
        stream,
        client,
        service,
        inbound: Lane::new(Sender::Client, limit),
        outbound: Lane::new(Sender::Server, limit),
        is_inbound_over: false,
        is_outbound_over: false,
        sid,
    };
    if let Err((side, end)) = relay.take_early(&pre_read, &early) {
        relay.finish(End::Lane(side, end)).await;
        return None;
    }
    Some(relay)
}

/// The service's answer, from the first endpoint that gives one.
async fn ask(
    worker: &WorkerContext,
    cluster: &Cluster,
    context: &ConnectionContext,
    sticky: Option<&str>,
    request: &Headers,
) -> Result<(TcpStream, Lease, Answer), Reason> {
    let places = sticky.and_then(|token| worker.shared.sticky.verify(token, &context.user, unix_now()));
    let place = places.as_ref().and_then(|places| places.get(&cluster.name)).map(String::as_str);
    // Without a user, the client's address keeps it where it was.
    let who = if context.user.is_empty() { context.client.ip().to_string() } else { context.user.clone() };
    cluster.attempt();
    for attempt in 0..TRIES_MAX {
        if attempt > 0 && !cluster.may_retry() {
            tracing::warn!(cluster = %cluster.name, "the retry budget is spent");
            break;
        }
        let Some(endpoint) = cluster.pick(&who, place) else { break };
        let (opening, begun) = (endpoint.open(), Instant::now());
        let limit = worker.shared.config.timeouts.connect;
        let why = match timeout(limit, dial(&endpoint.address, request)).await {
            Ok(Ok((socket, answer))) => {
                cluster.opened(&endpoint, begun.elapsed());
                return Ok((socket, endpoint.carry(1), answer));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s (timeout connect)", limit.as_secs_f64()),
        };
        drop(opening);
        tracing::warn!(cluster = %cluster.name, endpoint = %endpoint.address, %why, "an endpoint failed");
        cluster.suspect(&endpoint);
    }
    Err(Reason::EdgeNoEndpoint)
}

async fn dial(address: &str, request: &Headers) -> Result<(TcpStream, Answer), UpstreamError> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let answer = upstream::open(&mut socket, address, request).await?;
    Ok((socket, answer))
}

fn judge_answer(chain: &RouteChain, stream: Option<&mut ChainStream>, headers: &mut Headers) -> Result<(), Ended> {
    let Some(stream) = stream else { return Ok(()) };
    let of_the_switch = [(":status", "101"), ("upgrade", "websocket"), ("connection", "Upgrade")];
    headers.splice(0..0, of_the_switch.map(|(name, value)| (name.to_owned(), value.to_owned())));
    chain.answer(stream, headers)?;
    headers.retain(|(name, _)| !name.starts_with(':') && !matches!(name.as_str(), "upgrade" | "connection"));
    Ok(())
}

fn close_stream(chain: &RouteChain, stream: Option<ChainStream>) {
    if let Some(stream) = stream {
        chain.close(stream);
    }
}

async fn refuse(
    worker: &WorkerContext,
    downstream: crate::downstream::Downstream,
    reply: HandshakeReply,
    accept: &str,
) {
    worker.shared.metrics.handshake(Outcome::Refused);
    let word = serde_json::from_slice::<serde_json::Value>(&reply.body).ok();
    let reason = word.as_ref().and_then(|body| body.get("code")?.as_str()?.parse::<Reason>().ok());
    if let Some(reason) = reason {
        worker.shared.metrics.refused(reason);
    }
    if let Err(error) = answer::answer(downstream, reply, accept).await {
        tracing::debug!(%error, "the client left before its answer");
    }
}

impl Relay {
    fn take_early(&mut self, from_client: &[u8], from_service: &[u8]) -> Result<(), (Side, LaneEnd)> {
        for (side, early) in [(Side::Inbound, from_client), (Side::Outbound, from_service)] {
            if early.is_empty() {
                continue;
            }
            let mut passed = Passed { bytes: early.len(), ..Passed::default() };
            let (lane, chain) =
                (if side == Side::Inbound { &mut self.inbound } else { &mut self.outbound }, &self.chain);
            let taken = match &mut self.stream {
                None => lane.take_early(early, None, &mut passed),
                Some(stream) => {
                    let mut judge = |frames: &mut Vec<u8>| judge(chain, side, stream, frames);
                    lane.take_early(early, Some(&mut judge), &mut passed)
                }
            };
            taken.map_err(|end| (side, end))?;
            self.count(side, passed);
        }
        Ok(())
    }

    /// Both directions, as far as they go.
    fn turn(&mut self, cx: &mut std::task::Context<'_>) -> Poll<End> {
        if let Some((code, reason)) = self.control.end() {
            return Poll::Ready(End::Ours(code, reason));
        }
        self.control.watch(cx.waker());
        if let Err((code, reason)) = self.move_to_newest() {
            return Poll::Ready(End::Ours(code, reason));
        }
        for side in [Side::Inbound, Side::Outbound] {
            let mut passed = Passed::default();
            let turned = self.turn_side(cx, side, &mut passed);
            self.count(side, passed);
            match turned {
                Err(end) => return Poll::Ready(End::Lane(side, end)),
                Ok(Turn::Over) if side == Side::Inbound => self.is_inbound_over = true,
                Ok(Turn::Over) => self.is_outbound_over = true,
                Ok(Turn::Waiting) => {}
            }
        }
        self.note_stall();
        if self.is_inbound_over && self.is_outbound_over { Poll::Ready(End::Over) } else { Poll::Pending }
    }

    fn turn_side(&mut self, cx: &mut std::task::Context<'_>, side: Side, passed: &mut Passed) -> Result<Turn, LaneEnd> {
        let chain = &self.chain;
        let stream = &mut self.stream;
        let mut judging = stream.as_mut().map(|stream| move |frames: &mut Vec<u8>| judge(chain, side, stream, frames));
        let judge = judging.as_mut().map(|judge| judge as &mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>);
        let (client, service) = (Pin::new(&mut self.client), Pin::new(&mut self.service));
        match side {
            Side::Inbound => self.inbound.turn(cx, client, service, judge, passed),
            Side::Outbound => self.outbound.turn(cx, service, client, judge, passed),
        }
    }

    fn count(&self, side: Side, passed: Passed) {
        if passed.bytes == 0 {
            return;
        }
        if passed.messages > 0 {
            self.control.last_data.set(Instant::now());
        }
        let metrics = &self.worker.shared.metrics;
        let traffic = if side == Side::Inbound { &metrics.inbound } else { &metrics.outbound };
        traffic.add(passed.messages as u64, passed.bytes as u64);
    }

    fn note_stall(&self) {
        let is_stalled = self.inbound.is_waiting() || self.outbound.is_waiting();
        let since = if is_stalled { self.control.stalled_since.get().or_else(|| Some(Instant::now())) } else { None };
        self.control.stalled_since.set(since);
    }

    /// Moves to the route's newest chain, at a message boundary of both directions: the next message is judged by it.
    fn move_to_newest(&mut self) -> Result<(), (CloseCode, &'static str)> {
        let name = self.chain.route().name();
        let Some(newest) = self.worker.chain(name, &self.control.summary.context) else {
            return Err((CloseCode::RESTART, "the route is no more: come back"));
        };
        let is_between = self.inbound.is_at_message_boundary() && self.outbound.is_at_message_boundary();
        if Rc::ptr_eq(&newest, &self.chain) || !is_between {
            return Ok(());
        }
        self.take_answers();
        let reopened = match (&self.stream, newest.is_empty()) {
            (_, true) => Ok(None),
            (Some(stream), false) => newest.reopen(stream).transpose(),
            // There was nothing to judge before, and the handshake was not kept: the client comes back for it.
            (None, false) => return Err((CloseCode::RESTART, "the route has filters now: come back")),
        };
        match reopened {
            Ok(stream) => {
                close_stream(&self.chain, std::mem::replace(&mut self.stream, stream));
                self.control.token.set(self.stream.as_ref().and_then(ChainStream::token));
                self.chain = newest;
                self.worker.hub.borrow().counters.add_moved(1);
                Ok(())
            }
            Err(Refused::Failed(filter)) => {
                tracing::warn!(%filter, "a filter failed on a session that was open");
                Err((CloseCode::INTERNAL, "edge.filter_failed: a policy could not judge"))
            }
            Err(Refused::Response { .. }) => Err((CloseCode::POLICY, "no longer allowed")),
        }
    }
}

impl Relay {
    /// Takes from the stream what it still has to say to the client: the answer to a request that it refused waits for the
    /// service's next frame, which the next stream would get. An unsolicited Pong (RFC 6455, 5.5.3) is such a frame.
    fn take_answers(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut payload = [0; 8];
        if getrandom::fill(&mut payload).is_err() {
            return;
        }
        let mut pong = Vec::with_capacity(2 + payload.len());
        encode(&mut pong, true, Opcode::Pong, &payload, None);
        let mut bytes = pong.clone();
        // A filter that fails now is no longer asked.
        if self.chain.outbound(stream, &mut bytes).is_ok() {
            self.outbound.put(bytes.strip_suffix(pong.as_slice()).unwrap_or(&bytes));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        close_stream(&self.chain, self.stream.take());
        self.worker.relays.borrow_mut().remove(&self.control.number);
        if let Some(sid) = &self.sid {
            let place = crate::shared::SessionPlace { worker: self.worker.index, number: self.control.number };
            self.worker.shared.sids.leave(sid, place);
        }
    }
}

fn judge(chain: &RouteChain, side: Side, stream: &mut ChainStream, frames: &mut Vec<u8>) -> Result<(), Ended> {
    match side {
        Side::Inbound => chain.inbound(stream, frames),
        Side::Outbound => chain.outbound(stream, frames),
    }
}
