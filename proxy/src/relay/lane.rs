//! One direction of a relay: read, find frame borders, let the chain judge whole frames, write. Holds no buffer while
//! nothing is cut or waiting: reads go into scratch space of the thread.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bawaba_channels::frame::{Decoder, FrameError, HEADER_BYTES_MAX, Sender};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::chain::Ended;

/// One read.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a direction cannot go on.
#[derive(Debug)]
pub enum LaneEnd {
    /// The reading side's socket broke.
    Read(io::Error),
    /// The writing side's socket broke.
    Write(io::Error),
    /// The sender broke RFC 6455.
    Frame(FrameError),
    /// The chain ended the stream.
    Chain(Ended),
}

/// What a turn of a direction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It waits for one of its sockets.
    Waiting,
    /// The sender has ended its side, and the receiver knows.
    Over,
}

/// What passed in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Data messages that ended.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
}

/// See the file's description.
pub struct Lane {
    decoder: Decoder,
    /// The beginning of a frame (or, without a chain, of a header) whose rest has not come yet.
    cut: Vec<u8>,
    /// Bytes of the frame under way that have still to come; only without a chain.
    frame_left: usize,
    /// Judged bytes that the receiver has not taken yet.
    waiting: Vec<u8>,
    waiting_from: usize,
    needs_flush: bool,
    is_ended: bool,
    is_shut: bool,
}

impl Lane {
    /// The direction that begins at `sender`.
    pub fn new(sender: Sender, message_bytes_max: u32) -> Self {
        Self {
            decoder: Decoder::new(sender, message_bytes_max),
            cut: Vec::new(),
            frame_left: 0,
            waiting: Vec::new(),
            waiting_from: 0,
            needs_flush: false,
            is_ended: false,
            is_shut: false,
        }
    }

    /// Whether the receiver would take a frame of the edge's own now: nothing of a frame under way has been passed
    /// on (the beginning of a cut frame or header is held back).
    pub const fn is_at_border(&self) -> bool {
        self.frame_left == 0
    }

    /// Whether a new message may begin: the moment to move to another chain.
    pub fn is_at_message_boundary(&self) -> bool {
        self.decoder.at_message_boundary() && self.cut.is_empty() && self.frame_left == 0
    }

    /// Whether the sender has said goodbye.
    pub const fn is_closed(&self) -> bool {
        self.decoder.is_closed()
    }

    /// Whether bytes wait for the receiver.
    pub fn is_waiting(&self) -> bool {
        self.waiting_from < self.waiting.len()
    }

    /// Puts bytes of the edge's own behind what waits.
    pub fn put(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// What waits, for the last write of all.
    pub fn take_waiting(&mut self) -> Vec<u8> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.drain(..std::mem::take(&mut self.waiting_from));
        waiting
    }

    /// Takes bytes that were read before the relay began.
    pub fn take_early(
        &mut self,
        early: &[u8],
        judge: Option<&mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>>,
        passed: &mut Passed,
    ) -> Result<(), LaneEnd> {
        FRAMES.with_borrow_mut(|frames| {
            frames.clear();
            self.admit(early, judge, frames, passed)?;
            self.waiting.extend_from_slice(frames);
            Ok(())
        })
    }

    /// Moves what can be moved. Never reads more than the receiver takes: while bytes wait, nothing is read.
    pub fn turn(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut dyn AsyncRead>,
        mut to: Pin<&mut dyn AsyncWrite>,
        mut judge: Option<&mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>>,
        passed: &mut Passed,
    ) -> Result<Turn, LaneEnd> {
        loop {
            if self.is_waiting() {
                match self.write_waiting(cx, to.as_mut())? {
                    Poll::Pending => return Ok(Turn::Waiting),
                    Poll::Ready(()) => continue,
                }
            }
            if self.needs_flush {
                match to.as_mut().poll_flush(cx).map_err(LaneEnd::Write)? {
                    Poll::Pending => return Ok(Turn::Waiting),
                    Poll::Ready(()) => self.needs_flush = false,
                }
            }
            if self.is_ended {
                if !self.is_shut {
                    match to.as_mut().poll_shutdown(cx).map_err(LaneEnd::Write)? {
                        Poll::Pending => return Ok(Turn::Waiting),
                        Poll::Ready(()) => self.is_shut = true,
                    }
                }
                return Ok(Turn::Over);
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                match from.as_mut().poll_read(cx, &mut buf).map_err(LaneEnd::Read)? {
                    Poll::Pending => Ok(Poll::Pending),
                    Poll::Ready(()) => {
                        let read = buf.filled();
                        let judge = judge.as_mut().map(|judge| &mut **judge as _);
                        self.pass(cx, read, to.as_mut(), judge, passed).map(Poll::Ready)
                    }
                }
            })?;
            match read {
                Poll::Pending => return Ok(Turn::Waiting),
                Poll::Ready(0) => self.is_ended = true,
                Poll::Ready(_) => {}
            }
        }
    }

    /// Admits what was read, and writes at once what the receiver takes; the rest waits.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        read: &[u8],
        mut to: Pin<&mut dyn AsyncWrite>,
        judge: Option<&mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>>,
        passed: &mut Passed,
    ) -> Result<usize, LaneEnd> {
        if read.is_empty() {
            return Ok(0);
        }
        passed.bytes += read.len();
        FRAMES.with_borrow_mut(|frames| {
            frames.clear();
            self.admit(read, judge, frames, passed)?;
            let mut written = 0;
            while written < frames.len() {
                match to.as_mut().poll_write(cx, &frames[written..]).map_err(LaneEnd::Write)? {
                    Poll::Ready(0) => return Err(LaneEnd::Write(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(count) => written += count,
                    Poll::Pending => {
                        self.waiting.extend_from_slice(&frames[written..]);
                        break;
                    }
                }
            }
            self.needs_flush = true;
            Ok(read.len())
        })
    }

    fn admit(
        &mut self,
        read: &[u8],
        judge: Option<&mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>>,
        out: &mut Vec<u8>,
        passed: &mut Passed,
    ) -> Result<(), LaneEnd> {
        match judge {
            None => self.track(read, out, passed),
            Some(judge) => {
                self.collect(read, out, passed)?;
                if out.is_empty() { Ok(()) } else { judge(out).map_err(LaneEnd::Chain) }
            }
        }
    }

    /// Without a chain: bytes pass as they come, headers are checked on the way.
    fn track(&mut self, mut read: &[u8], out: &mut Vec<u8>, passed: &mut Passed) -> Result<(), LaneEnd> {
        while !read.is_empty() {
            if self.frame_left > 0 {
                let count = self.frame_left.min(read.len());
                out.extend_from_slice(&read[..count]);
                self.frame_left -= count;
                read = &read[count..];
                continue;
            }
            // A header may be cut anywhere: its beginning is kept until the rest comes.
            let held = self.cut.len();
            let more = (HEADER_BYTES_MAX - held).min(read.len());
            let peeked = if held == 0 {
                self.decoder.peek(read)
            } else {
                self.cut.extend_from_slice(&read[..more]);
                self.decoder.peek(&self.cut)
            };
            match peeked.map_err(LaneEnd::Frame)? {
                None => {
                    if held == 0 {
                        self.cut.extend_from_slice(read);
                    }
                    return Ok(());
                }
                Some(header) => {
                    self.decoder.take(&header);
                    passed.messages += usize::from(header.fin && !header.opcode.is_control());
                    // The cut bytes are the beginning of this header: they pass now.
                    out.extend_from_slice(&self.cut[..held]);
                    self.cut = Vec::new();
                    self.frame_left = header.frame_len() - held;
                }
            }
        }
        Ok(())
    }

    /// With a chain: whole frames only; the rest is kept until it is whole. Bounded by the message limit.
    fn collect(&mut self, read: &[u8], out: &mut Vec<u8>, passed: &mut Passed) -> Result<(), LaneEnd> {
        let mut kept = std::mem::take(&mut self.cut);
        let bytes: &[u8] = if kept.is_empty() {
            read
        } else {
            kept.extend_from_slice(read);
            &kept
        };
        let mut whole = 0;
        while let Some(header) = self.decoder.peek(&bytes[whole..]).map_err(LaneEnd::Frame)? {
            let Some(end) = whole.checked_add(header.frame_len()).filter(|end| *end <= bytes.len()) else { break };
            self.decoder.take(&header);
            passed.messages += usize::from(header.fin && !header.opcode.is_control());
            whole = end;
        }
        out.extend_from_slice(&bytes[..whole]);
        if kept.is_empty() {
            self.cut = read[whole..].to_vec();
        } else if whole < kept.len() {
            kept.drain(..whole);
            self.cut = kept;
        }
        Ok(())
    }

    fn write_waiting(&mut self, cx: &mut Context<'_>, mut to: Pin<&mut dyn AsyncWrite>) -> Result<Poll<()>, LaneEnd> {
        while self.is_waiting() {
            match to.as_mut().poll_write(cx, &self.waiting[self.waiting_from..]).map_err(LaneEnd::Write)? {
                Poll::Ready(0) => return Err(LaneEnd::Write(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => self.waiting_from += count,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        // The memory goes back: an idle relay holds none.
        self.waiting = Vec::new();
        self.waiting_from = 0;
        self.needs_flush = true;
        Ok(Poll::Ready(()))
    }
}

#[cfg(test)]
mod tests;
