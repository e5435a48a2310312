//! A session of a relay route: one upstream socket to an existing WebSocket service, chosen stickily, frames judged
//! by the chain in both directions. It knows frames and no protocol inside them.
//!
//! One task, no timer, and no buffer while nothing waits: bytes are read into the thread's scratch buffer, cut at the
//! last whole frame, judged, and written on; only a cut frame or what the other side does not take yet is kept.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{Decoder, FrameError, Sender, encode_close};
use bawaba_channels::reason::Reason;
use bawaba_filter_host::StreamToken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::answer;
use crate::chain::{ChainStream, Ended, Facts, Refused, RouteChain};
use crate::cluster::Cluster;
use crate::downstream::Stream;
use crate::metrics::{Metrics, Outcome};
use crate::session::refusal;
use crate::worker::{Handoff, SessionSummary, WorkerContext};

mod upstream;

/// Read at once from one side.
const SCRATCH_BYTES: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// What a worker knows of each of its relay sessions: enough to list them, to end them, and to notice that they stand.
pub struct Control {
    /// The session's number on its worker.
    pub number: u64,
    /// What admin shows.
    pub summary: SessionSummary,
    /// When its token ends, in seconds since the epoch.
    pub expires_at: Option<i64>,
    /// Its stream in the chain.
    token: Cell<Option<StreamToken>>,
    /// How it is to end, once somebody has decided.
    end: Cell<Option<(CloseCode, &'static str)>>,
    /// When a paced close is due.
    close_at: Cell<Option<Instant>>,
    last_data: Cell<Instant>,
    stalled_since: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Control {
    /// Ends the session, if nobody else has.
    pub fn close(&self, code: CloseCode, reason: &'static str) {
        if self.end.get().is_none() {
            self.end.set(Some((code, reason)));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ends it at `at`, unless an earlier end was decided.
    pub fn close_at(&self, at: Instant) {
        self.close_at.set(Some(self.close_at.get().map_or(at, |known| known.min(at))));
    }

    /// Whether a filter closed this stream.
    pub fn is(&self, token: StreamToken) -> bool {
        self.token.get() == Some(token)
    }

    /// Looks at its time limits.
    pub fn sweep(&self, now: Instant, unix: i64, timeouts: &crate::config::Timeouts) {
        let over = |since: Instant, limit: std::time::Duration| !limit.is_zero() && now.duration_since(since) >= limit;
        if self.close_at.get().is_some_and(|at| now >= at) {
            self.close(CloseCode::RESTART, "the edge restarts: come back");
        } else if self.expires_at.is_some_and(|end| unix >= end) {
            self.close(CloseCode::AUTH_ENDED, "the token has expired");
        } else if over(self.last_data.get(), timeouts.relay_idle) {
            self.close(CloseCode::GOING_AWAY, "no message in either direction (timeout relay_idle)");
        } else if self.stalled_since.get().is_some_and(|since| over(since, timeouts.write_stall)) {
            self.close(CloseCode::SLOW, "nothing was taken for too long (timeout write_stall)");
        }
    }
}

/// Serves one connection of a relay route.
pub async fn serve(context: &Rc<WorkerContext>, handoff: Handoff, chain: Rc<RouteChain>, cluster: Arc<Cluster>) {
    let Handoff { downstream, pre_read, context: connection, mut request, accept, sticky, permit, begun_at } = handoff;
    let metrics = Arc::clone(&context.shared.metrics);
    let facts = Facts::new(&connection, request.clone());
    let mut stream = match chain.open(&mut request, &facts) {
        Ok(stream) => stream,
        Err(refused) => {
            metrics.handshake(Outcome::Refused);
            tracing::info!(session = %connection.session, route = %connection.route, "the chain refused a session");
            drop(answer::answer(downstream, refusal(&refused), &accept).await);
            return;
        }
    };
    let key = if connection.user.is_empty() { connection.client.ip().to_string() } else { connection.user.clone() };
    let place = sticky
        .and_then(|token| context.shared.sticky.verify(&token, &key, crate::hub::unix_now()))
        .and_then(|mut places| places.remove(&cluster.name));
    let opened =
        upstream::open(&cluster, &key, place.as_deref(), &request, context.shared.config.timeouts.connect).await;
    let (upstream, early, mut response) = match opened {
        Ok(upstream::Opened { socket, early, headers }) => (socket, early, headers),
        Err(refused) => {
            metrics.handshake(Outcome::Refused);
            tracing::info!(session = %connection.session, route = %connection.route, status = refused.status, "the upstream refused a session");
            chain.close(stream);
            drop(answer::answer(downstream, refused, &accept).await);
            return;
        }
    };
    if let Err(ended) = chain.answer(&mut stream, &mut response) {
        metrics.handshake(Outcome::Refused);
        chain.close(stream);
        let (Ended::Failed(filter) | Ended::Closed(filter)) = ended;
        drop(answer::answer(downstream, refusal(&Refused::Failed(filter)), &accept).await);
        return;
    }
    let io = match answer::answer(downstream, upstream::reply(response), &accept).await {
        Ok(Some(io)) => io,
        Ok(None) | Err(_) => {
            metrics.handshake(Outcome::Failed);
            return chain.close(stream);
        }
    };
    metrics.handshake(Outcome::Opened);
    metrics.connect_seconds.observe(begun_at.elapsed().as_secs_f64());
    let counted = metrics.session(&connection.route);
    let control = Rc::new(Control {
        number: context.next_session().number,
        summary: SessionSummary { context: Arc::clone(&connection), opened_at: Instant::now() },
        expires_at: connection.expires_at,
        token: Cell::new(stream.token()),
        end: Cell::new(None),
        close_at: Cell::new(None),
        last_data: Cell::new(Instant::now()),
        stalled_since: Cell::new(None),
        waker: RefCell::new(None),
    });
    context.relays.borrow_mut().insert(control.number, Rc::clone(&control));
    tracing::info!(session = %connection.session, route = %connection.route, client = %connection.client, "session opened");
    let message_bytes_max = context.shared.config.limits.relay_message_bytes_max;
    let mut relay = Relay {
        context: Rc::clone(context),
        facts,
        chain,
        stream: Some(stream),
        control: Rc::clone(&control),
        metrics: Arc::clone(&metrics),
        down: io,
        up: Stream::Tcp(upstream),
        inbound: Flow::new(Sender::Client, message_bytes_max),
        outbound: Flow::new(Sender::Server, message_bytes_max),
    };
    let ended = relay.start(&pre_read, &early);
    drop((pre_read, early));
    let ended = match ended {
        Ok(()) => poll_fn(|cx| relay.poll(cx)).await,
        Err(end) => end,
    };
    let (code, reason) = relay.finish(ended, context.shared.config.timeouts.close).await;
    context.relays.borrow_mut().remove(&control.number);
    let age_s = control.summary.opened_at.elapsed().as_secs();
    tracing::info!(session = %connection.session, route = %connection.route, code = code.map(|code| code.0), reason, age_s, "session closed");
    drop((counted, permit));
}

/// Why a relay ends.
enum End {
    /// Both sides have said all.
    Over,
    /// A side is gone.
    Lost(&'static str),
    /// The edge ends it: Close towards both.
    Close(CloseCode, &'static str),
}

/// One direction.
struct Flow {
    decoder: Decoder,
    /// The front of a frame that is not whole yet.
    cut: Vec<u8>,
    /// Judged, and not taken yet by the other side.
    out: Vec<u8>,
    taken: usize,
    /// The source said that no more comes.
    ended: bool,
    /// That was passed on.
    shut: bool,
}

impl Flow {
    const fn new(sender: Sender, message_bytes_max: u32) -> Self {
        let decoder = Decoder::new(sender, message_bytes_max);
        Self { decoder, cut: Vec::new(), out: Vec::new(), taken: 0, ended: false, shut: false }
    }

    /// Bytes of whole frames at the front of `bytes`, and how many frames.
    fn whole(&mut self, bytes: &[u8]) -> Result<(usize, u64), FrameError> {
        let (mut at, mut frames) = (0, 0);
        while let Some(header) = self.decoder.peek(&bytes[at..])? {
            if bytes.len() - at < header.frame_len() {
                break;
            }
            self.decoder.take(&header);
            at += header.frame_len();
            frames += 1;
        }
        Ok((at, frames))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

struct Relay {
    context: Rc<WorkerContext>,
    facts: Rc<Facts>,
    chain: Rc<RouteChain>,
    stream: Option<ChainStream>,
    control: Rc<Control>,
    metrics: Arc<Metrics>,
    down: Stream,
    up: Stream,
    inbound: Flow,
    outbound: Flow,
}

impl Relay {
    /// What was read behind the two handshakes.
    fn start(&mut self, from_client: &[u8], from_server: &[u8]) -> Result<(), End> {
        self.take(Way::In, from_client)?;
        self.take(Way::Out, from_server)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some((code, reason)) = self.control.end.get() {
            return Poll::Ready(End::Close(code, reason));
        }
        *self.control.waker.borrow_mut() = Some(cx.waker().clone());
        for way in [Way::In, Way::Out] {
            if let Err(end) = self.carry(way, cx) {
                return Poll::Ready(end);
            }
        }
        let waits = self.inbound.out.len() > self.inbound.taken || self.outbound.out.len() > self.outbound.taken;
        match (waits, self.control.stalled_since.get()) {
            (true, None) => self.control.stalled_since.set(Some(Instant::now())),
            (false, Some(_)) => self.control.stalled_since.set(None),
            _ => {}
        }
        if self.inbound.shut && self.outbound.shut { Poll::Ready(End::Over) } else { Poll::Pending }
    }

    /// Moves one direction on, until one of its two sides has to be waited for.
    fn carry(&mut self, way: Way, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            match self.drain(way, cx) {
                Poll::Ready(done) => done?,
                Poll::Pending => return Ok(()),
            }
            let flow = if way == Way::In { &self.inbound } else { &self.outbound };
            if flow.ended {
                return Ok(());
            }
            // Taken out, for judging needs the thread's other scratch buffer.
            let mut scratch = SCRATCH.with_borrow_mut(|(scratch, _)| std::mem::take(scratch));
            scratch.resize(SCRATCH_BYTES, 0);
            let source = if way == Way::In { &mut self.down } else { &mut self.up };
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = Pin::new(source).poll_read(cx, &mut buffer);
            let length = buffer.filled().len();
            let result = match read {
                Poll::Pending => Ok(false),
                Poll::Ready(Err(_)) => Err(End::Lost(if way == Way::In { "client" } else { "upstream" })),
                Poll::Ready(Ok(())) if length == 0 => {
                    let flow = if way == Way::In { &mut self.inbound } else { &mut self.outbound };
                    flow.ended = true;
                    Ok(true)
                }
                Poll::Ready(Ok(())) => self.take(way, &scratch[..length]).map(|()| true),
            };
            SCRATCH.with_borrow_mut(|(place, _)| *place = scratch);
            if !result? {
                return Ok(());
            }
        }
    }

    /// Writes what waits, and passes the end on once nothing does.
    fn drain(&mut self, way: Way, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let (flow, sink, whose) = match way {
            Way::In => (&mut self.inbound, &mut self.up, "upstream"),
            Way::Out => (&mut self.outbound, &mut self.down, "client"),
        };
        while flow.taken < flow.out.len() {
            match Pin::new(&mut *sink).poll_write(cx, &flow.out[flow.taken..]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Lost(whose))),
                Poll::Ready(Ok(taken)) => {
                    flow.taken += taken;
                    self.control.stalled_since.set(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if !flow.out.is_empty() {
            // Not cleared but dropped: an idle session keeps no buffer.
            flow.out = Vec::new();
            flow.taken = 0;
        }
        if flow.ended && !flow.shut {
            match Pin::new(sink).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => flow.shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Lost(whose))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what was read: whole frames are judged and wait to be written, a cut one is kept.
    fn take(&mut self, way: Way, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.move_to_newest()?;
        let flow = if way == Way::In { &mut self.inbound } else { &mut self.outbound };
        let joined;
        let bytes = if flow.cut.is_empty() {
            bytes
        } else {
            let mut cut = std::mem::take(&mut flow.cut);
            cut.extend_from_slice(bytes);
            joined = cut;
            &joined
        };
        let (whole, frames) = flow.whole(bytes).map_err(|error| wrong(way, error))?;
        flow.cut = bytes[whole..].to_vec();
        if whole == 0 {
            return Ok(());
        }
        self.control.last_data.set(Instant::now());
        let traffic = if way == Way::In { &self.metrics.inbound } else { &self.metrics.outbound };
        traffic.add(frames, whole as u64);
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if self.chain.is_empty() {
            flow.out.extend_from_slice(&bytes[..whole]);
            return Ok(());
        }
        SCRATCH
            .with_borrow_mut(|(_, judged)| {
                judged.clear();
                judged.extend_from_slice(&bytes[..whole]);
                let verdict = match way {
                    Way::In => self.chain.inbound(stream, judged),
                    Way::Out => self.chain.outbound(stream, judged),
                };
                flow.out.extend_from_slice(judged);
                verdict
            })
            .map_err(|ended| match ended {
                Ended::Failed(filter) => {
                    tracing::warn!(%filter, "a filter failed: the session ends");
                    End::Close(CloseCode::INTERNAL, Reason::EdgeFilterFailed.word())
                }
                Ended::Closed(_) => End::Close(CloseCode::POLICY, "a policy ended the session"),
            })
    }

    /// Moves to the chain in force, where no message is half way through.
    fn move_to_newest(&mut self) -> Result<(), End> {
        let Some(newest) = self.context.chain(&self.control.summary.context.route) else {
            return Err(End::Close(CloseCode::GOING_AWAY, "the route is gone"));
        };
        let between = self.inbound.decoder.at_message_boundary() && self.outbound.decoder.at_message_boundary();
        if Rc::ptr_eq(&newest, &self.chain) || !between {
            return Ok(());
        }
        let Some(old) = self.stream.take() else { return Ok(()) };
        let moved = newest.reopen(&old).unwrap_or_else(|| newest.open(&mut self.facts.request().clone(), &self.facts));
        self.chain.close(old);
        self.chain = newest;
        match moved {
            Ok(stream) => {
                self.control.token.set(stream.token());
                self.stream = Some(stream);
                Ok(())
            }
            Err(_) => Err(End::Close(CloseCode::NOT_ENTITLED, "the policies in force refuse this session")),
        }
    }

    /// The last words, and the end of both sockets.
    async fn finish(mut self, end: End, limit: std::time::Duration) -> (Option<CloseCode>, &'static str) {
        let (code, reason) = match end {
            End::Over => (None, "both sides ended"),
            End::Lost(whose) => (None, whose),
            End::Close(code, reason) => (Some(code), reason),
        };
        if let Some(code) = code {
            self.metrics.closed(code);
            encode_close(&mut self.outbound.out, code, reason, None);
            let away = if matches!(code, CloseCode::PROTOCOL_ERROR) { CloseCode::GOING_AWAY } else { code };
            let mut mask = [0; 4];
            // Without randomness the mask is zero, which is a legal one.
            let _ = getrandom::fill(&mut mask);
            encode_close(&mut self.inbound.out, away, reason, Some(mask));
        }
        (self.inbound.ended, self.outbound.ended) = (true, true);
        let gone = poll_fn(|cx| {
            // Each side gets what is left for it, whatever became of the other.
            let done = [Way::In, Way::Out].map(|way| self.drain(way, cx).is_ready());
            if done == [true, true] { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout(limit, gone).await.is_err() {
            tracing::debug!("a side did not take its last words in time");
        }
        if let Some(stream) = self.stream.take() {
            self.chain.close(stream);
        }
        (code, reason)
    }
}

fn wrong(way: Way, error: FrameError) -> End {
    tracing::info!(%error, from = if way == Way::In { "client" } else { "upstream" }, "a frame breaks RFC 6455");
    match (way, error) {
        (Way::In, FrameError::TooLarge { .. }) => End::Close(CloseCode::TOO_LARGE, "the message is too large"),
        (Way::In, _) => End::Close(error.close_code(), "a frame breaks RFC 6455"),
        (Way::Out, _) => End::Close(CloseCode::INTERNAL, "the service broke RFC 6455"),
    }
}
