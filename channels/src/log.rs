//! The cohort log: finished frames in order, shared by every session that follows them, each with a cursor.
//!
//! One append, however many readers. The log is bounded in bytes: what is pushed out at the old end is a
//! loss only for readers that had not come so far, and they learn of it. It knows bytes and positions,
//! not messages.

use alloc::collections::VecDeque;

use bytes::Bytes;

/// A reader's place: the number of the next entry to read. Numbers start at 0 and never repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cursor(pub u64);

/// One entry: a finished frame, and the sequence number it brings a reader to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The frame, ready to write.
    pub frame: Bytes,
    /// The last sequence number that the frame holds.
    pub seq: u64,
}

/// A bounded run of finished frames.
#[derive(Debug)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// Number of the first entry held.
    first: u64,
    bytes: usize,
    bytes_max: usize,
}

/// The reader was overtaken: entries before [`Lost::first`] are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The oldest entry still held.
    pub first: Cursor,
    /// How many entries the reader lost.
    pub missed: u64,
}

impl Log {
    /// An empty log that holds at most `bytes_max` bytes of frames, and always the newest one.
    pub const fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), first: 0, bytes: 0, bytes_max }
    }

    /// Appends a finished frame; old entries make room.
    pub fn append(&mut self, frame: Bytes, seq: u64) {
        self.bytes += frame.len();
        self.entries.push_back(Entry { frame, seq });
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            if let Some(old) = self.entries.pop_front() {
                self.bytes -= old.frame.len();
                self.first += 1;
            }
        }
    }

    /// The place after the newest entry: where a new reader starts.
    pub fn end(&self) -> Cursor {
        Cursor(self.first + self.entries.len() as u64)
    }

    /// The place of the oldest entry held.
    pub const fn start(&self) -> Cursor {
        Cursor(self.first)
    }

    /// Bytes of frames held.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest entry.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// The entries from `cursor` on, oldest first; [`Lost`] if the reader was overtaken.
    pub fn read(&self, cursor: Cursor) -> Result<impl Iterator<Item = &Entry> + '_, Lost> {
        if cursor.0 < self.first {
            return Err(Lost { first: Cursor(self.first), missed: self.first - cursor.0 });
        }
        let skip = usize::try_from(cursor.0 - self.first).unwrap_or(usize::MAX).min(self.entries.len());
        Ok(self.entries.range(skip..))
    }

    /// Drops every entry, as when what they hold may no longer be seen; readers that had not read them
    /// are told of the loss.
    pub fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Against a log that forgets nothing: a reader gets exactly what was appended, or is told how much it lost.
        #[test]
        fn a_reader_gets_every_entry_or_is_told_how_many_it_lost(
            steps in prop::collection::vec((0usize..40, prop::bool::weighted(0.3)), 1..200),
            bytes_max in 0usize..200,
        ) {
            let mut log = Log::new(bytes_max);
            let mut all: Vec<Bytes> = Vec::new();
            let mut cursor = Cursor(0);
            for (len, read) in steps {
                let frame = Bytes::from(alloc::vec![all.len() as u8; len]);
                all.push(frame.clone());
                log.append(frame, all.len() as u64);
                prop_assert_eq!(log.end().0, all.len() as u64);
                prop_assert!(log.bytes() <= bytes_max || log.start().0 + 1 == log.end().0);
                if read {
                    if let Err(lost) = log.read(cursor).map(|_| ()) {
                        prop_assert_eq!(lost.first.0 - cursor.0, lost.missed);
                        cursor = lost.first;
                    }
                    let got: Vec<_> = log.read(cursor).unwrap().map(|e| e.frame.clone()).collect();
                    prop_assert_eq!(&got[..], &all[cursor.0 as usize..]);
                    cursor = log.end();
                }
            }
        }
    }
}
