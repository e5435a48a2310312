//! Showing those who look on what a filter did.

use std::time::{Duration, Instant};

use super::WorkerChain;
use crate::chain::{ChainStream, Way};
use crate::error::Cause;
use crate::tap::{Handshake, Seen, Tap, Verdict};

impl WorkerChain {
    /// Lets somebody look on at the filter of this place, or nobody any more.
    pub fn set_tap(&mut self, place: usize, tap: Option<Box<dyn Tap>>) {
        if let Some(slot) = self.slots.get_mut(place) {
            slot.tap = tap;
        }
    }

    /// Tells those who look on that time goes on.
    pub fn tick_taps(&mut self, now: Instant) {
        for tap in self.slots.iter_mut().filter_map(|slot| slot.tap.as_mut()) {
            tap.tick(now);
        }
    }

    /// A body callback of the filter came to `result`; `bytes` are what it got, and what they are now.
    #[cold]
    pub(super) fn show(
        &mut self,
        index: usize,
        stream: &ChainStream,
        way: Way,
        bytes: (&[u8], &[u8]),
        took: Duration,
        result: &Result<u32, Cause>,
    ) {
        let last = self.slots.len() - 1;
        let slot = &mut self.slots[index];
        let has_asked = slot.vm.as_ref().is_some_and(|vm| vm.has_asked_for(stream.seats[index].context));
        let Some(tap) = &mut slot.tap else { return };
        let verdict = match result {
            Ok(_) if has_asked => Verdict::Ended,
            Ok(0) => Verdict::Passed(bytes.1),
            Ok(_) => Verdict::Held,
            Err(cause) => Verdict::Failed(*cause),
        };
        let handshake = || Handshake {
            request: stream.request.view(index),
            response: (!stream.response.is_empty()).then(|| stream.response.view(last - index)),
            properties: stream.shared.properties.clone(),
        };
        tap.judged(&Seen { token: stream.token(), way, input: bytes.0, verdict, took }, &handshake);
    }
}
