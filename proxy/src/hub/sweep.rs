//! What time does to sessions: pings, heartbeats, stalled writes, tokens that end, requests that nobody answered,
//! drain. One walk over all seats a few times a second, instead of timers by the thousand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bawaba_channels::claims::Claims;
use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{self, Opcode};
use bawaba_channels::name::Exchange;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Timestamp;
use bawaba_channels::wire::{Drain, Event, Market, Welcome};

use super::{Hub, NewSeat, Seat, SeatKey, unix_now};
use crate::jitter::Jitter;
use crate::worker::SessionSummary;

impl Hub {
    /// A session takes its seat.
    pub(crate) fn enter(&mut self, new: NewSeat) -> SeatKey {
        let serial = self.next_serial();
        let cohort = self.enter_cohort(&new.chain, &new.context.session, &new.facts);
        let message_bytes_max = self.shared.config.limits.message_bytes_max;
        let index = self.seats.insert(Seat::new(new, serial, cohort, message_bytes_max, Instant::now()));
        // The phases come with a trunk: it is opened now, so that the next session's `welcome` has them.
        if let crate::generation::Target::Channel(exchanges) = &self.seats[index].chain.route().target {
            let clusters: Vec<_> = exchanges.values().cloned().collect();
            for cluster in clusters {
                self.lane_for(index, &cluster);
            }
        }
        self.entered(index);
        SeatKey { index, serial }
    }

    /// Whether the phases of all exchanges of a session's route are known.
    pub(crate) fn knows_markets(&self, key: SeatKey) -> bool {
        let Some(index) = self.seat_index(key) else { return true };
        match &self.seats[index].chain.route().target {
            crate::generation::Target::Channel(exchanges) => {
                exchanges.keys().all(|exchange| self.markets.contains_key(exchange))
            }
            crate::generation::Target::Relay { .. } => true,
        }
    }

    /// Greets a session.
    pub(crate) fn welcome(&mut self, key: SeatKey) {
        let Some(index) = self.seat_index(key) else { return };
        let seat = &self.seats[index];
        let context = Arc::clone(&seat.context);
        let claims = match seat.facts.claims() {
            serde_json::Value::Null => Ok(Claims::default()),
            claims => Claims::from_json(claims.to_string().as_bytes()),
        };
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(session = %context.session, %error, "claims that cannot be read");
                return self.close(index, CloseCode::POLICY, "auth.invalid: a claim has the wrong form");
            }
        };
        let served: Vec<Exchange> = match &seat.chain.route().target {
            crate::generation::Target::Channel(exchanges) => exchanges.keys().copied().collect(),
            crate::generation::Target::Relay { .. } => Vec::new(),
        };
        // Whoever has late data learns phases late too, from `market_status`.
        let current = self.seats[index].grants.late == crate::grants::Late::Now;
        let markets: BTreeMap<String, Market> = served
            .iter()
            .filter(|_| current)
            .filter_map(|exchange| Some((exchange.as_str().to_owned(), self.markets.get(exchange)?.clone())))
            .collect();
        let heartbeat = u32::try_from(self.shared.config.timeouts.ping_interval.as_millis()).unwrap_or(u32::MAX);
        let now = Timestamp::from_millis(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        );
        let welcome = Welcome::for_claims(&claims, context.session.clone(), now, heartbeat, markets);
        self.send(index, &Event::Welcome(welcome));
        self.flush();
    }

    /// A session is gone: nothing of it stays.
    pub(crate) fn leave(&mut self, key: SeatKey) {
        let Some(index) = self.seat_index(key) else { return };
        self.unfollow_all(index);
        let mut seat = self.seats.remove(index);
        for key in std::mem::take(&mut seat.lanes) {
            if let Some(lane) = self.lane(key) {
                lane.stand();
            }
        }
        if let Some(stream) = seat.stream.take() {
            seat.chain.close(stream);
        }
        self.leave_cohort(seat.cohort);
    }

    /// A seat's socket, when its session is over.
    pub(crate) fn seat_mut(&mut self, key: SeatKey) -> Option<&mut Seat> {
        self.seat_index(key).and_then(|index| self.seats.get_mut(index))
    }

    /// The seat of a session by its number on this worker.
    pub(crate) fn close_number(&mut self, number: u64, code: CloseCode, reason: &'static str) {
        let found = self.seats.iter().find(|(_, seat)| seat.place.number == number).map(|(index, _)| index);
        if let Some(index) = found {
            self.close(index, code, reason);
            self.flush();
        }
    }

    /// At most `max` sessions as operators see them.
    pub(crate) fn list(&self, max: usize) -> Vec<SessionSummary> {
        let summary = |(_, seat): (usize, &Seat)| SessionSummary {
            context: Arc::clone(&seat.context),
            opened_at: seat.opened_at,
        };
        self.seats.iter().take(max).map(summary).collect()
    }

    /// Tells every session when and where to come back, and sets the time at which it is closed.
    pub(crate) fn drain(&mut self, window: Duration, jitter: &mut Jitter) {
        let now = Instant::now();
        let indices: Vec<usize> = self.seats.iter().map(|(index, _)| index).collect();
        for index in indices {
            if self.seats[index].close_at.is_some() || self.seats[index].closing.is_some() {
                continue;
            }
            // Closed within the first four fifths, so that the last fifth is left for slow goodbyes.
            let after = jitter.up_to(window * 4 / 5);
            let retry_after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            let resume = self.sticky_token(index);
            self.send(index, &Event::Drain(Drain { retry_after_ms, resume }));
            self.seats[index].close_at = Some(now + after);
        }
        self.flush();
    }

    /// The walk. Call it a few times a second.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let timeouts = self.shared.config.timeouts.clone();
        let unix = unix_now();
        let mut closes: Vec<(usize, CloseCode, &'static str)> = Vec::new();
        let mut pings: Vec<usize> = Vec::new();
        for (index, seat) in &mut self.seats {
            if let Some(closing) = seat.closing {
                if now >= closing.deadline {
                    seat.wake();
                }
                continue;
            }
            let idle = now.duration_since(seat.heard_at);
            if seat.context.expires_at.is_some_and(|at| at <= unix) {
                closes.push((index, CloseCode::AUTH_ENDED, "auth.expired: the token has expired"));
            } else if idle > timeouts.heartbeat && !seat.read_paused {
                closes.push((index, CloseCode::HEARTBEAT, "no traffic and no pong"));
            } else if seat.outbox.stalled_since().is_some_and(|since| now.duration_since(since) > timeouts.write_stall)
            {
                closes.push((index, CloseCode::SLOW, "slow: the client takes no data"));
            } else if seat.close_at.is_some_and(|at| at <= now) {
                closes.push((index, CloseCode::RESTART, "the edge restarts: come back"));
            } else if idle > timeouts.ping_interval
                && seat.pinged_at.is_none_or(|at| now.duration_since(at) > timeouts.ping_interval)
            {
                seat.pinged_at = Some(now);
                pings.push(index);
            }
        }
        for (index, code, reason) in closes {
            if code == CloseCode::SLOW {
                self.close_slow(index);
            } else {
                self.close(index, code, reason);
            }
        }
        self.recover(now, timeouts.degraded);
        for index in pings {
            let mut frames = Vec::new();
            frame::encode(&mut frames, true, Opcode::Ping, &[], None);
            self.send_frames(index, frames);
        }
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(number, _)| *number).collect();
        for number in late {
            self.fail_pending(number, Reason::EdgeNoEndpoint.word(), Reason::EdgeNoEndpoint.sentence());
        }
        self.sweep_grants();
        self.sweep_late(now);
        self.sweep_orders(now);
        self.sweep_lanes(now);
        self.flush();
    }
}
