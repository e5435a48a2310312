//! What waits for one session's socket: whole frames of its own, and the rest of a write that was cut short.
//!
//! Bounded by its user, who asks [`Outbox::waiting_bytes`]; holds no memory while idle. Knows no message.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncWrite;

/// Frames for one socket only, and an unfinished write.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Whole frames not yet given to a write.
    direct: Vec<u8>,
    /// A write that the socket took only in part.
    writing: Vec<u8>,
    written: usize,
    /// Since when the socket takes nothing.
    stalled_since: Option<Instant>,
}

impl Outbox {
    /// The frames of this session alone; whole ones are appended here.
    pub const fn direct(&mut self) -> &mut Vec<u8> {
        &mut self.direct
    }

    /// Bytes that wait, without those in logs.
    pub fn waiting_bytes(&self) -> usize {
        self.direct.len() + self.writing.len() - self.written
    }

    /// Since when the socket has taken nothing, if it is stuck.
    pub const fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// Moves the session's own frames to the end of `batch`.
    pub fn take_direct(&mut self, batch: &mut Vec<u8>) {
        if !self.direct.is_empty() {
            batch.append(&mut self.direct);
            self.direct = Vec::new();
        }
    }

    /// Finishes the write that was cut short, if there is one.
    pub fn poll_finish(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<io::Result<()>> {
        while self.written < self.writing.len() {
            match Pin::new(&mut *io).poll_write(cx, &self.writing[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.stalled_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.stalled_since.get_or_insert(now);
                    return Poll::Pending;
                }
            }
        }
        self.writing = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes `batch`; what the socket does not take is kept, and the answer is `Pending`.
    ///
    /// Only after [`Self::poll_finish`] was ready.
    pub fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        batch: &[u8],
        now: Instant,
    ) -> Poll<io::Result<()>> {
        debug_assert!(self.writing.is_empty());
        let mut at = 0;
        while at < batch.len() {
            match Pin::new(&mut *io).poll_write(cx, &batch[at..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => at += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.writing = batch[at..].to_vec();
                    self.written = 0;
                    self.stalled_since = Some(now);
                    return Poll::Pending;
                }
            }
        }
        self.stalled_since = None;
        Poll::Ready(Ok(()))
    }

    /// Forgets everything that waits: before a close that may not wait for it.
    pub fn discard_direct(&mut self) {
        self.direct = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::task::Waker;

    /// A socket that takes as much as it is told, then blocks.
    struct Narrow {
        room: usize,
        got: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.got.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn a_narrow_socket_gets_every_byte_once_and_in_order(steps in prop::collection::vec((0usize..30, 0usize..30), 1..60)) {
            let mut cx = Context::from_waker(Waker::noop());
            let (mut outbox, mut io) = (Outbox::default(), Narrow { room: 0, got: Vec::new() });
            let (mut sent, mut next) = (Vec::new(), 0u8);
            let now = Instant::now();
            for (put, room) in steps {
                for _ in 0..put {
                    outbox.direct().push(next);
                    sent.push(next);
                    next = next.wrapping_add(1);
                }
                io.room += room;
                if outbox.poll_finish(&mut io, &mut cx, now).is_ready() {
                    let mut batch = Vec::new();
                    outbox.take_direct(&mut batch);
                    let _ = outbox.poll_write(&mut io, &mut cx, &batch, now);
                }
                prop_assert_eq!(io.got.len() + outbox.waiting_bytes(), sent.len());
            }
            io.room = usize::MAX;
            prop_assert!(outbox.poll_finish(&mut io, &mut cx, now).is_ready());
            let mut batch = Vec::new();
            outbox.take_direct(&mut batch);
            prop_assert!(outbox.poll_write(&mut io, &mut cx, &batch, now).is_ready());
            prop_assert_eq!(io.got, sent);
            prop_assert_eq!(outbox.stalled_since(), None);
        }
    }
}
