//! What waits to be written to one session: bounded in frames and bytes, filled by the hub without waiting.
//!
//! At the bound the session is slow, and its connection is closed with 4008. Knows no protocol above frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Opcode};
use bawaba_channels::wire::{Encoding, Event};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// Most frames and bytes that wait for one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Frames.
    pub(crate) frames: usize,
    /// Bytes, of frames.
    pub(crate) bytes: usize,
}

/// How a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    /// The code.
    pub(crate) code: CloseCode,
    /// The sentence for people.
    pub(crate) reason: &'static str,
}

/// The filling end.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    frames: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
    closing: watch::Sender<Option<Closing>>,
}

/// The end that is written to the socket.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) frames: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    pub(crate) closing: watch::Receiver<Option<Closing>>,
}

/// An empty outbox.
pub(crate) fn outbox(bounds: Bounds) -> (Outbox, Drained) {
    let (sender, frames) = mpsc::channel(bounds.frames.max(1));
    let (close, closing) = watch::channel(None);
    let waiting = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox { frames: sender, waiting: waiting.clone(), bytes_max: bounds.bytes, closing: close };
    (outbox, Drained { frames, waiting, closing })
}

impl Outbox {
    /// Puts a frame in line. At the bound the frame is dropped and the connection closes as slow.
    pub(crate) fn put(&self, frame: Bytes) {
        let len = frame.len();
        let waiting = self.waiting.fetch_add(len, Ordering::Relaxed) + len;
        if waiting > self.bytes_max || self.frames.try_send(frame).is_err() {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            self.close(Closing { code: CloseCode::SLOW, reason: "the client reads too slowly" });
        }
    }

    /// Puts an event in line.
    pub(crate) fn tell(&self, encoding: Encoding, event: &Event) {
        self.put(event_frame(encoding, event));
    }

    /// Closes the connection, after what still waits unless the session is slow. The first reason given counts.
    pub(crate) fn close(&self, closing: Closing) {
        self.closing.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(closing);
            first
        });
    }

    /// Whether it is being closed: nothing more need be put in line.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.borrow().is_some() || self.frames.is_closed()
    }
}

impl Drained {
    /// Records that a frame was taken from the line.
    pub(crate) fn taken(&self, frame: &Bytes) {
        self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
    }
}

/// An event as one finished frame.
pub(crate) fn event_frame(encoding: Encoding, event: &Event) -> Bytes {
    let mut payload = Vec::with_capacity(512);
    event.encode(encoding, &mut payload);
    let mut out = Vec::with_capacity(payload.len() + frame::HEADER_BYTES_MAX);
    frame::encode(&mut out, true, encoding.opcode(), &payload, None);
    Bytes::from(out)
}

/// A Ping without payload.
pub(crate) fn ping_frame() -> Bytes {
    let mut out = Vec::new();
    frame::encode(&mut out, true, Opcode::Ping, &[], None);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_closes_as_slow_and_the_first_reason_stands() {
        for bounds in [Bounds { frames: 2, bytes: 1000 }, Bounds { frames: 100, bytes: 20 }] {
            let (outbox, mut drained) = outbox(bounds);
            for _ in 0..2 {
                outbox.put(Bytes::from_static(&[0; 10]));
            }
            assert!(!outbox.is_closing());
            outbox.put(Bytes::from_static(&[0; 10]));
            outbox.close(Closing { code: CloseCode::RESTART, reason: "later" });
            assert_eq!(drained.closing.borrow_and_update().unwrap().code, CloseCode::SLOW);
            let frame = drained.frames.try_recv().unwrap();
            drained.taken(&frame);
            assert_eq!(drained.waiting.load(Ordering::Relaxed), 10);
        }
    }
}
