//! Refused parts of requests in flight, until their answer comes by.

use std::collections::VecDeque;

use crate::policy::Refusal;

/// By request id, in order; bounded.
#[derive(Debug)]
pub(super) struct Merges {
    waiting: VecDeque<(u64, Vec<(String, Refusal)>)>,
    max: usize,
}

impl Merges {
    pub(super) const fn new(max: usize) -> Self {
        Self { waiting: VecDeque::new(), max }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.max
    }

    pub(super) fn put(&mut self, id: u64, refused: Vec<(String, Refusal)>) {
        self.waiting.push_back((id, refused));
    }

    /// What was refused of the oldest request with this id.
    pub(super) fn take(&mut self, id: u64) -> Option<Vec<(String, Refusal)>> {
        if self.waiting.is_empty() {
            return None;
        }
        let at = self.waiting.iter().position(|(known, _)| *known == id)?;
        self.waiting.remove(at).map(|(_, refused)| refused)
    }
}
