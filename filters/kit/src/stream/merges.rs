//! Refused parts of requests in flight, until their answer comes by.

use std::collections::VecDeque;

use crate::policy::Refusal;

/// Refused symbols that wait, over all requests in flight: four requests of the most symbols that one may name.
const REFUSED_MAX: usize = 4096;

/// By request id, in order; bounded.
#[derive(Debug)]
pub(super) struct Merges {
    waiting: VecDeque<(u64, Vec<(String, Refusal)>)>,
    refused: usize,
    max: usize,
}

impl Merges {
    pub(super) const fn new(max: usize) -> Self {
        Self { waiting: VecDeque::new(), refused: 0, max }
    }

    /// Whether there is room for a request with this many refused symbols.
    pub(super) fn has_room(&self, refused: usize) -> bool {
        self.waiting.len() < self.max && self.refused + refused <= REFUSED_MAX
    }

    pub(super) fn put(&mut self, id: u64, refused: Vec<(String, Refusal)>) {
        self.refused += refused.len();
        self.waiting.push_back((id, refused));
    }

    /// What was refused of the oldest request with this id.
    pub(super) fn take(&mut self, id: u64) -> Option<Vec<(String, Refusal)>> {
        let at = self.waiting.iter().position(|(known, _)| *known == id)?;
        let (_, refused) = self.waiting.remove(at)?;
        self.refused -= refused.len();
        Some(refused)
    }
}
