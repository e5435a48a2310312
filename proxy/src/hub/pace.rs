//! Slow readers: a ladder down while the socket is full, and the way up again when it is not.
//!
//! First the state channels go to a slower rate. Logs that run over skip to a snapshot (`flush.rs`). What may lose
//! nothing ends with 4008 and a token to come back with. Whoever keeps up again gets back the rate it asked for.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Degraded, Event};

use super::feed::{Feed, FeedKey};
use super::seat::Owed;
use super::{BATCH_BYTES_MAX, Hub};

/// The rate that slow readers of state channels are moved to.
const DEGRADED_RATE_MS: u32 = 1000;
/// A burst of answers over the limit is taken within this time, or is no burst,
const BURST_WITHIN: Duration = Duration::from_secs(1);
/// and is at most this many times the limit.
const BURSTS_MAX: usize = 4;
/// A session that falls back again and again stays at the slower rate up to this many times as long.
const LONGER_MAX: u32 = 16;

impl Hub {
    /// The slow reader's ladder, walked while its socket is full: a slower rate, then, when its own frames pile up,
    /// the end.
    pub(super) fn ladder(&mut self, index: usize) {
        let limit = self.shared.config.limits.outbox_bytes_max as usize;
        let seat = &self.seats[index];
        if seat.closing.is_some() {
            return;
        }
        let (waiting, most) = (seat.outbox.waiting_bytes(), limit + BATCH_BYTES_MAX);
        let is_stuck = seat.outbox.stalled_since().is_some_and(|since| since.elapsed() > BURST_WITHIN);
        if waiting > BURSTS_MAX * most || (waiting > most && is_stuck) {
            self.close_slow(index);
        } else if seat.outbox.waiting_bytes() + seat.backlog_bytes > limit / 2 && !seat.degraded {
            self.degrade(index);
        }
    }

    /// Moves every state channel of a session to the slower rate.
    fn degrade(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        seat.degraded = true;
        seat.degraded_times += 1;
        self.change_rate(index, |asked| asked.max(DEGRADED_RATE_MS));
        self.seats[index].backlog_bytes = 0;
    }

    /// Sessions that were slow and have kept up for as long as `after` get back the rate that they asked for.
    pub(super) fn recover(&mut self, now: Instant, after: Duration) {
        let kept_up = |seat: &super::Seat| {
            let after = after * seat.degraded_times.clamp(1, LONGER_MAX);
            seat.degraded && !seat.blocked && seat.closing.is_none() && now.duration_since(seat.blocked_at) >= after
        };
        let recovered: Vec<usize> =
            self.seats.iter().filter(|(_, seat)| kept_up(seat)).map(|(index, _)| index).collect();
        for index in recovered {
            self.seats[index].degraded = false;
            self.change_rate(index, |asked| asked);
        }
    }

    /// Puts the follows of state channels on feeds of the rate that `rate` makes of the one asked for, and tells the
    /// session, once for each subscription. What it has not read is folded.
    fn change_rate(&mut self, index: usize, rate: impl Fn(u32) -> u32) {
        let subscriptions = self.seats[index].subscriptions.iter();
        let changes: Vec<(Rc<str>, u32, Vec<usize>)> = subscriptions
            .map(|(name, subscription)| {
                (Rc::clone(name), rate(subscription.rate_ms), subscription.slots.values().copied().collect())
            })
            .collect();
        for (name, rate_ms, slots) in changes {
            let mut told = false;
            for slot in slots {
                let Some(follow) = self.seats[index].follows.get(slot) else { continue };
                let Feed { key, source, cohort, .. } = &self.feeds[follow.feed];
                let (key, cohort, channel) = (key.clone(), *cohort, self.sources[*source].key.channel);
                if !channel.is_state() || channel == Channel::MarketStatus || key.rate_ms == rate_ms {
                    continue;
                }
                if !told {
                    told = true;
                    if rate_ms > key.rate_ms {
                        self.counters.add_degraded(1);
                    }
                    let event = Degraded { subscription: name.to_string(), update_rate_ms: rate_ms };
                    self.notice(index, &Event::Degraded(event));
                }
                self.move_follow(index, slot, FeedKey { rate_ms, ..key }, cohort, Owed::Fold);
            }
        }
    }
}
