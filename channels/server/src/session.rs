//! One WebSocket from the 101 to the Close: frames in, requests to the hub, the outbox out.
//!
//! Two halves: the reader decodes and asks, the writer drains the outbox in large writes. Knows nothing of what
//! the requests mean.

use std::sync::Arc;
use std::time::Duration;

use bawaba_channels::claims::Claims;
use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Encoding, Malformed, Request};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::config::SessionLimits;
use crate::fan::SessionId;
use crate::hub::{Command, Joining, Refusal};
use crate::outbox::{Bounds, Closing, Drained, Outbox, outbox, ping_frame};

/// One write to the socket gathers about this much.
const WRITE_BYTES: usize = 64 * 1024;
/// Unreadable messages in a row before the connection is closed.
const MALFORMED_MAX: u32 = 16;
/// How long the peer may take to answer a Close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// What a session needs to begin.
pub(crate) struct Opening {
    pub(crate) id: SessionId,
    pub(crate) stream: TcpStream,
    /// Bytes that came after the request head.
    pub(crate) pre_read: BytesMut,
    pub(crate) encoding: Encoding,
    pub(crate) claims: Arc<Claims>,
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) limits: SessionLimits,
}

/// Runs a session to its end.
pub(crate) async fn run(opening: Opening) {
    let Opening { id, stream, pre_read, encoding, claims, hub, limits } = opening;
    // Updates are small and late ones worthless; an error here costs latency, not correctness.
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let (message_bytes_max, bytes) = if claims.is_edge() {
        (limits.trunk_message_bytes_max, limits.trunk_outbox_bytes_max)
    } else {
        (limits.message_bytes_max, limits.outbox_bytes_max)
    };
    let (outbox, drained) = outbox(Bounds { frames: limits.outbox_frames_max, bytes });
    let began = Instant::now();
    let joining = Joining { claims, encoding, outbox: outbox.clone(), heartbeat: limits.ping_interval };
    if hub.send(Command::Join(id, Box::new(joining))).await.is_err() {
        return;
    }
    let writer = tokio::spawn(write_all(write, drained, limits.write_timeout));
    let reader = Reader {
        id,
        read,
        buffer: pre_read,
        encoding,
        decoder: Decoder::new(Sender::Client, message_bytes_max),
        assembler: Assembler::new(),
        malformed: 0,
        outbox,
        hub: hub.clone(),
    };
    let ended = reader.run(writer, &limits).await;
    // The hub drops its end of the outbox; a hub that is gone has none.
    let _ = hub.send(Command::Leave(id)).await;
    info!(
        session = id,
        age_s = began.elapsed().as_secs(),
        code = ended.code.0,
        reason = ended.reason,
        "session closed"
    );
}

struct Reader {
    id: SessionId,
    read: OwnedReadHalf,
    buffer: BytesMut,
    encoding: Encoding,
    decoder: Decoder,
    assembler: Assembler,
    malformed: u32,
    outbox: Outbox,
    hub: mpsc::Sender<Command>,
}

/// What one frame asks for.
enum Step {
    /// More bytes are needed.
    More,
    /// Nothing to do.
    Taken,
    Ask(Box<Request>),
    Refuse(Malformed),
    Pong(Bytes),
    End(Closing),
}

impl Reader {
    async fn run(mut self, mut writer: tokio::task::JoinHandle<Option<Closing>>, limits: &SessionLimits) -> Closing {
        let mut ping = tokio::time::interval_at(Instant::now() + limits.ping_interval, limits.ping_interval);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let closing = loop {
            if let Err(closing) = self.take_frames().await {
                break closing;
            }
            tokio::select! {
                read = self.read.read_buf(&mut self.buffer) => match read {
                    Ok(1..) => heard = Instant::now(),
                    Ok(0) | Err(_) => break Closing { code: CloseCode::GOING_AWAY, reason: "the peer is gone" },
                },
                _ = ping.tick() => {
                    if heard.elapsed() > limits.idle_timeout {
                        break Closing { code: CloseCode::HEARTBEAT, reason: "no traffic and no Pong" };
                    }
                    self.outbox.put(ping_frame());
                }
                // The writer ended first: it closed the connection, or the socket failed.
                ended = &mut writer => {
                    let closing = ended.ok().flatten();
                    self.drain().await;
                    return closing.unwrap_or(Closing { code: CloseCode::GOING_AWAY, reason: "the socket failed" });
                }
            }
        };
        self.outbox.close(closing);
        // The writer says the Close and ends; a peer that reads nothing does not hold the session.
        let _ = timeout(CLOSE_WAIT, &mut writer).await;
        writer.abort();
        if !self.decoder.is_closed() {
            self.drain().await;
        }
        closing
    }

    /// Handles every whole frame in the buffer.
    async fn take_frames(&mut self) -> Result<(), Closing> {
        loop {
            match self.step()? {
                Step::More => return Ok(()),
                Step::Taken => {}
                Step::Pong(frame) => self.outbox.put(frame),
                Step::Ask(request) => {
                    self.malformed = 0;
                    let gone = Closing { code: CloseCode::RESTART, reason: "the server stops" };
                    self.hub.send(Command::Ask(self.id, request)).await.map_err(|_| gone)?;
                }
                Step::Refuse(malformed) => {
                    let refusal = Refusal::new(Reason::ProtocolMalformed, malformed.detail);
                    self.outbox.tell(self.encoding, &refusal.event(malformed.id));
                    self.malformed += 1;
                    if self.malformed >= MALFORMED_MAX {
                        return Err(Closing {
                            code: CloseCode::POLICY,
                            reason: "too many malformed messages in a row",
                        });
                    }
                }
                Step::End(closing) => return Err(closing),
            }
        }
    }

    fn step(&mut self) -> Result<Step, Closing> {
        let fault = |error: frame::FrameError| Closing { code: error.close_code(), reason: reason_of(error) };
        let Some(frame) = self.decoder.decode(&mut self.buffer).map_err(fault)? else {
            if self.buffer.is_empty() && self.buffer.capacity() > WRITE_BYTES {
                self.buffer = BytesMut::new();
            }
            return Ok(Step::More);
        };
        let len = frame.header.frame_len();
        let step = match self.assembler.push(frame).map_err(fault)? {
            None | Some(Message::Pong(_)) => Step::Taken,
            Some(Message::Ping(payload)) => {
                let mut out = Vec::new();
                frame::encode(&mut out, true, Opcode::Pong, payload, None);
                Step::Pong(out.into())
            }
            Some(Message::Close(given)) => {
                Step::End(Closing { code: given.map_or(CloseCode::NORMAL, |(code, _)| code), reason: "" })
            }
            Some(Message::Text(text)) if self.encoding == Encoding::Json => read(Encoding::Json, text.as_bytes()),
            Some(Message::Binary(bytes)) if self.encoding == Encoding::Proto => read(Encoding::Proto, bytes),
            Some(_) => {
                let reason = match self.encoding {
                    Encoding::Json => "tradsys.v3.json is text frames",
                    Encoding::Proto => "tradsys.v3.proto is binary frames",
                };
                return Err(Closing { code: CloseCode::UNSUPPORTED_DATA, reason });
            }
        };
        self.buffer.advance(len);
        Ok(step)
    }

    /// Reads what the peer still sends until it closes, so that our Close is not lost to a reset.
    async fn drain(&mut self) {
        let drained = async {
            self.buffer.clear();
            while let Ok(1..) = self.read.read_buf(&mut self.buffer).await {
                self.buffer.clear();
            }
        };
        let _ = timeout(CLOSE_WAIT, drained).await;
    }
}

fn read(encoding: Encoding, bytes: &[u8]) -> Step {
    match Request::decode(encoding, bytes) {
        Ok(request) => Step::Ask(Box::new(request)),
        Err(malformed) => Step::Refuse(malformed),
    }
}

/// The sentence of a frame error, for the Close frame.
const fn reason_of(error: frame::FrameError) -> &'static str {
    use frame::FrameError as E;
    match error {
        E::ReservedBit => "a reserved bit is set",
        E::ReservedOpcode(_) => "a reserved opcode",
        E::Unmasked => "a client frame is not masked",
        E::Masked => "a server frame is masked",
        E::FragmentedControl => "a control frame is fragmented",
        E::LongControl => "a control frame is longer than 125 bytes",
        E::LengthForm => "the payload length is not in its shortest form",
        E::NothingToContinue => "a continuation without a message",
        E::MessageOpen => "a new message before the fragmented one ended",
        E::TooLarge { .. } => "the message is too large",
        E::AfterClose => "a frame after the close frame",
        E::CloseForm => "the close frame carries no valid code",
        E::NotUtf8 => "text is not valid UTF-8",
    }
}

/// Writes the outbox until the connection is to close or the socket fails; says how it closed.
async fn write_all(mut write: OwnedWriteHalf, mut drained: Drained, limit: Duration) -> Option<Closing> {
    let mut scratch = Vec::with_capacity(4096);
    loop {
        scratch.clear();
        tokio::select! {
            biased;
            closing = closing(&mut drained.closing) => return close(write, &mut drained, closing?, limit).await,
            frame = drained.frames.recv() => {
                let frame = frame?;
                drained.taken(&frame);
                scratch.extend_from_slice(&frame);
            }
        }
        while scratch.len() < WRITE_BYTES
            && let Ok(frame) = drained.frames.try_recv()
        {
            drained.taken(&frame);
            scratch.extend_from_slice(&frame);
        }
        let written = tokio::select! {
            written = timeout(limit, write.write_all(&scratch)) => matches!(written, Ok(Ok(()))),
            // A slow reader may never take the rest; then the connection just ends.
            () = slow(&mut drained.closing, CLOSE_WAIT) => false,
        };
        if !written {
            return *drained.closing.borrow();
        }
        if scratch.capacity() > 2 * WRITE_BYTES {
            scratch = Vec::with_capacity(4096);
        }
    }
}

/// Waits until the connection is to close.
async fn closing(watch: &mut tokio::sync::watch::Receiver<Option<Closing>>) -> Option<Closing> {
    watch.wait_for(Option::is_some).await.ok().and_then(|closing| *closing)
}

/// Waits until the connection is to close, and a while longer.
async fn slow(watch: &mut tokio::sync::watch::Receiver<Option<Closing>>, grace: Duration) {
    if closing(watch).await.is_none() {
        // Every filling end is gone; the write in hand decides.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(grace).await;
}

async fn close(mut write: OwnedWriteHalf, drained: &mut Drained, closing: Closing, limit: Duration) -> Option<Closing> {
    let mut out = Vec::new();
    // Answers that still wait go first; not to a reader that was too slow for them.
    while closing.code != CloseCode::SLOW
        && let Ok(frame) = drained.frames.try_recv()
    {
        out.extend_from_slice(&frame);
    }
    frame::encode_close(&mut out, closing.code, closing.reason, None);
    if let Ok(Ok(())) = timeout(limit.min(CLOSE_WAIT), write.write_all(&out)).await {
        // The peer's end is read until it closes too.
        let _ = write.shutdown().await;
    }
    Some(closing)
}
