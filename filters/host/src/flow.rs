//! What of a stream has stopped on its way through the filters, and where. Most streams never stop:
//! they have no flow, and cost none.

use std::collections::VecDeque;

use crate::chain::{LocalResponse, Part, Way};
use crate::headers::Headers;

/// How a filter stopped a direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stopped {
    #[default]
    No,
    /// At the headers: nothing behind them is shown to the filter.
    AtHeaders,
    /// At the body: what follows is still shown.
    AtBody,
    AtTrailers,
}

/// One filter's side of a direction.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) stopped: Stopped,
    /// The filter said `proxy_continue_stream`: it goes on at the next chance.
    pub(crate) resumed: bool,
    pub(crate) head: Option<Headers>,
    pub(crate) head_ends: bool,
    /// Body held back, and whether the filter is shown it again with what follows.
    pub(crate) body: Vec<u8>,
    pub(crate) body_shown: bool,
    pub(crate) body_ends: bool,
    pub(crate) trailers: Option<Headers>,
    /// What came after the headers at which it stopped.
    pub(crate) waiting: VecDeque<Part>,
}

impl Place {
    pub(crate) fn is_idle(&self) -> bool {
        self.stopped == Stopped::No && self.body.is_empty() && self.waiting.is_empty()
    }

    /// Bytes of body that this place keeps from going on.
    pub(crate) fn held_bytes(&self) -> usize {
        let data = |part: &Part| if let Part::Data { data, .. } = part { data.len() } else { 0 };
        self.body.len() + self.waiting.iter().map(data).sum::<usize>()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// By the filter's place in the chain.
    pub(crate) places: Box<[Place]>,
    /// What has passed all filters and was not taken yet.
    pub(crate) out: VecDeque<Part>,
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) ways: [Direction; 2],
    /// A filter answered in the server's place: the request goes nowhere.
    pub(crate) answer: Option<Box<LocalResponse>>,
}

impl Flow {
    pub(crate) fn new(filters: usize) -> Self {
        let direction = || Direction { places: (0..filters).map(|_| Place::default()).collect(), out: VecDeque::new() };
        Flow { ways: [direction(), direction()], answer: None }
    }

    pub(crate) fn place(&mut self, way: Way, index: usize) -> &mut Place {
        &mut self.ways[way as usize].places[index]
    }

    /// Nothing is held, nothing waits: the stream needs no flow.
    pub(crate) fn is_idle(&self) -> bool {
        self.answer.is_none() && self.ways.iter().all(|way| way.out.is_empty() && way.places.iter().all(Place::is_idle))
    }
}
