//! A trunk: one socket to a channel server (or to another edge), carrying what all sessions of a lane want.
//!
//! Connects, greets, reads events for the hub, writes the lane's requests; and when the endpoint is lost or leaves,
//! begins again elsewhere. Sessions notice nothing of it. What the messages mean is the hub's.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bawaba_channels::claims::{Claims, ROLE_EDGE};
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, Event, SUBPROTOCOL_PROTO};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{Cluster, Endpoint, State};
use crate::hub::LaneKey;
use crate::jitter::Jitter;
use crate::upstream::{Ask, UpstreamError, shake_hands};
use crate::worker::WorkerContext;

/// Largest message from a server: the answer to a subscription to every symbol of an exchange.
const MESSAGE_BYTES_MAX: u32 = 4 << 20;
/// First and longest pause between attempts while no endpoint takes us.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How long a trunk that is to be left waits for answers to orders.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Why a trunk ended.
#[derive(Debug)]
enum Lost {
    /// Nobody needs the lane any more.
    Unneeded,
    /// The cluster says that the endpoint goes away, or the lane belongs to another cluster now.
    Leaving,
    /// The socket failed, was closed, or fell silent.
    Broken(String),
}

/// Keeps a lane connected until nobody needs it.
pub async fn run(context: Weak<WorkerContext>, lane: LaneKey) {
    let mut jitter = Jitter::new();
    let mut pause = BACKOFF.0;
    loop {
        let Some(context) = context.upgrade() else { return };
        let Some((cluster, target)) = context.hub.borrow_mut().lane_target(lane) else { return };
        let mut states = cluster.states();
        states.mark_unchanged();
        if let Some(endpoint) = target {
            let connect_within = context.shared.config.timeouts.connect;
            let (opening, begun) = (endpoint.open(), Instant::now());
            match timeout(connect_within, open(&context.shared.config.edge.name, &cluster, &endpoint)).await {
                Ok(Ok((socket, early))) => {
                    pause = BACKOFF.0;
                    cluster.opened(&endpoint, begun.elapsed());
                    drop(opening);
                    tracing::info!(cluster = %cluster.name, endpoint = %endpoint.address, "trunk up");
                    context.hub.borrow_mut().lane_up(lane);
                    let lost = pump(&context, lane, &cluster, &endpoint, socket, early, &mut jitter).await;
                    let (endpoint_name, cluster_name) = (&endpoint.address, &cluster.name);
                    match lost {
                        Lost::Broken(ref why) => {
                            cluster.suspect(&endpoint);
                            tracing::warn!(cluster = %cluster_name, endpoint = %endpoint_name, %why, "trunk lost");
                        }
                        Lost::Leaving | Lost::Unneeded => {
                            tracing::info!(cluster = %cluster_name, endpoint = %endpoint_name, "trunk left");
                        }
                    }
                    context.hub.borrow_mut().lane_down(lane);
                    if matches!(lost, Lost::Unneeded) {
                        return;
                    }
                    continue;
                }
                Ok(Err(error)) => {
                    tracing::warn!(cluster = %cluster.name, endpoint = %endpoint.address, %error, "trunk refused");
                    cluster.suspect(&endpoint);
                }
                Err(_) => {
                    tracing::warn!(cluster = %cluster.name, endpoint = %endpoint.address, "no answer to a trunk's handshake");
                    cluster.suspect(&endpoint);
                }
            }
            if cluster.pick("", None).is_some() {
                // Another endpoint serves: no reason to wait, but never a busy loop.
                tokio::time::sleep(jitter.up_to(BACKOFF.0)).await;
                continue;
            }
        }
        drop(context);
        tokio::select! {
            _ = states.changed() => {}
            () = tokio::time::sleep(jitter.around(pause)) => pause = (pause * 2).min(BACKOFF.1),
        }
    }
}

/// Connects and shakes hands; the socket, and bytes that came right behind the answer.
async fn open(edge: &str, cluster: &Cluster, endpoint: &Endpoint) -> Result<(TcpStream, Vec<u8>), UpstreamError> {
    let mut socket = TcpStream::connect(&endpoint.address).await?;
    socket.set_nodelay(true)?;
    let credential = match &cluster.token {
        Some(token) => ("authorization", format!("Bearer {token}")),
        None => {
            let claims =
                Claims { sub: Some(format!("edge:{edge}")), role: Some(ROLE_EDGE.to_owned()), ..Claims::default() };
            (CLAIMS_HEADER, claims.to_header())
        }
    };
    let ask = Ask {
        host: &endpoint.address,
        path: &cluster.settings.path,
        subprotocol: SUBPROTOCOL_PROTO,
        credential: (credential.0, &credential.1),
    };
    let early = shake_hands(&mut socket, &ask).await?;
    Ok((socket, early))
}

/// Carries messages until the trunk ends.
async fn pump(
    context: &Rc<WorkerContext>,
    lane: LaneKey,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    mut socket: TcpStream,
    early: Vec<u8>,
    jitter: &mut Jitter,
) -> Lost {
    let mut states = cluster.states();
    let mut reader = Reader::new(early);
    let health = &cluster.settings.health;
    // As patient with a silent trunk as the health checks are with a silent endpoint.
    let silence_max = health.interval * health.unhealthy_after.max(1) + health.timeout;
    let mut heard_at = Instant::now();
    let mut pinged = false;
    let write_within = context.shared.config.timeouts.connect;
    let mut leaves_by: Option<Instant> = None;
    loop {
        let mut replies = Vec::new();
        match reader.events(&mut replies, jitter) {
            Ok(events) => {
                if !events.is_empty() {
                    let mut hub = context.hub.borrow_mut();
                    for event in events {
                        let brings_markets = matches!(event, Event::Welcome(_) | Event::MarketStatus(_));
                        hub.on_trunk(lane, event);
                        if brings_markets {
                            context.markets_known.notify_waiters();
                        }
                    }
                    hub.flush();
                }
            }
            Err(error) => return Lost::Broken(error),
        }
        let work = {
            let mut hub = context.hub.borrow_mut();
            hub.send_wanted(lane.index);
            let Some(at) = hub.lane(lane) else { return Lost::Unneeded };
            replies.append(&mut at.out);
            let work = Rc::clone(&at.work);
            let state = cluster.state(endpoint);
            let leaves = !Arc::ptr_eq(&at.cluster, cluster)
                || state == State::Gone
                || (state == State::Draining && cluster.is_serving());
            if leaves && leaves_by.is_none() {
                // Orders that it has get their answers from it; what is asked from now on waits for the next.
                leaves_by = Some(Instant::now() + LEAVE_WITHIN);
                hub.lane_leaves(lane);
            }
            if leaves_by.is_some_and(|by| state == State::Gone || Instant::now() >= by || !hub.awaits_orders(lane)) {
                return Lost::Leaving;
            }
            work
        };
        if !replies.is_empty() {
            match timeout(write_within, socket.write_all(&replies)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Lost::Broken(error.to_string()),
                Err(_) => return Lost::Broken("the server takes no data".into()),
            }
        }
        let silent_for = heard_at.elapsed();
        let next = if pinged { silence_max } else { health.interval };
        tokio::select! {
            read = socket.read_buf(&mut reader.buffer) => match read {
                Ok(0) => return Lost::Broken("the server closed the connection".into()),
                Ok(_) => {
                    heard_at = Instant::now();
                    pinged = false;
                }
                Err(error) => return Lost::Broken(error.to_string()),
            },
            () = work.notified() => {}
            Ok(()) = states.changed() => {}
            () = tokio::time::sleep(leaves_by.map_or(silence_max, |by| by.saturating_duration_since(Instant::now()))),
                if leaves_by.is_some() => {}
            () = tokio::time::sleep(next.saturating_sub(silent_for)) => {
                if pinged {
                    return Lost::Broken("the server fell silent".into());
                }
                pinged = true;
                let mut ping = Vec::new();
                frame::encode(&mut ping, true, Opcode::Ping, &[], Some(jitter.mask()));
                if !matches!(timeout(write_within, socket.write_all(&ping)).await, Ok(Ok(()))) {
                    return Lost::Broken("the server takes no data".into());
                }
            }
        }
    }
}

/// Reads a server's frames.
struct Reader {
    buffer: Vec<u8>,
    decoder: Decoder,
    assembler: Assembler,
}

impl Reader {
    fn new(early: Vec<u8>) -> Self {
        let mut buffer = early;
        buffer.reserve(64 * 1024);
        Self { buffer, decoder: Decoder::new(Sender::Server, MESSAGE_BYTES_MAX), assembler: Assembler::new() }
    }

    /// The events in the bytes read so far; answers to control frames are appended to `replies`. An event of a kind
    /// that this version does not know is passed over.
    fn events(&mut self, replies: &mut Vec<u8>, jitter: &mut Jitter) -> Result<Vec<Event>, String> {
        let (mut events, mut at) = (Vec::new(), 0);
        while at < self.buffer.len() {
            let frame = match self.decoder.decode(&mut self.buffer[at..]) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Err(error.to_string()),
            };
            at += frame.header.frame_len();
            match self.assembler.push(frame).map_err(|error| error.to_string())? {
                Some(Message::Binary(bytes)) => match Event::decode(Encoding::Proto, bytes) {
                    Ok(event) => events.push(event),
                    Err(error) => tracing::warn!(%error, "a server sent what cannot be read"),
                },
                Some(Message::Ping(payload)) => {
                    frame::encode(replies, true, Opcode::Pong, payload, Some(jitter.mask()))
                }
                Some(Message::Close(code)) => {
                    return Err(
                        code.map_or_else(|| "closed".to_owned(), |(code, reason)| format!("closed: {code} {reason}"))
                    );
                }
                Some(Message::Text(_) | Message::Pong(_)) | None => {}
            }
        }
        self.buffer.drain(..at);
        if self.buffer.is_empty() && self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::with_capacity(64 * 1024);
        }
        Ok(events)
    }
}
