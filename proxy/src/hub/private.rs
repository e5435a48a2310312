//! Private channels: a user's own orders and positions, one stream per user on a trunk, shared by the user's sessions.
//!
//! Each session asks the server for itself, from where it was: what it missed, or what stands, comes behind the
//! server's answer and is for it alone; what is new is for all of them. When the trunk has moved, one request for all
//! of them goes on from where they are.

use std::rc::Rc;

use bawaba_channels::wire::{Accepted, Event, Gap, Refused, Request, Subscribe, Subscribed};

use super::Hub;
use super::lane::{InFlight, SourceRef};
use super::seat::SeatKey;
use super::source::channel_of;
use super::subscribe::Outcome;

impl Hub {
    /// Asks for a private source on behalf of one pending subscription; without a connection, when there is one.
    pub(super) fn ask_to_join(&mut self, index: usize, number: u64) {
        let Some(pending) = self.pending.get(&number) else { return };
        let resume = pending.resume.get("").map(|position| (String::new(), position.clone()));
        let snapshot = Some(pending.snapshot);
        self.ask_private(
            index,
            Some(number),
            Subscribe { resume: resume.into_iter().collect(), snapshot, ..Subscribe::default() },
        );
    }

    /// The trunk is up: the followers of a private source go on from where they are, and whoever waits is asked for.
    pub(super) fn ask_private_again(&mut self, index: usize) {
        let Some(source) = self.sources.get(index) else { return };
        if !source.private.is_empty() {
            let resume = source.stream.position().map(|position| (String::new(), position));
            self.ask_private(index, None, Subscribe { resume: resume.into_iter().collect(), ..Subscribe::default() });
        }
        for number in self.sources[index].waiters.clone() {
            self.ask_to_join(index, number);
        }
    }

    fn ask_private(&mut self, index: usize, joiner: Option<u64>, request: Subscribe) {
        let Some(source) = self.sources.get(index) else { return };
        let key = &source.key;
        let request = Subscribe {
            channel: key.channel.as_str().into(),
            exchange: key.exchange.as_str().into(),
            user: key.user.as_deref().map(str::to_owned),
            ..request
        };
        let awaited = InFlight::Private { source: SourceRef { index, serial: source.serial }, joiner };
        let Some(lane) = self.lanes.get_mut(key.lane).filter(|lane| lane.connected) else { return };
        lane.send(Request::Subscribe(request), Some(awaited));
    }

    /// The server's answer: who it is for gets what comes next and is not new.
    pub(super) fn on_private_answer(&mut self, source: SourceRef, joiner: Option<u64>, answer: &Subscribed) {
        let Some(at) = self.source_mut(source) else { return };
        let Some(accepted) = answer.accepted.first() else {
            let refused = answer.refused.first().cloned().unwrap_or_else(super::deliver::unanswered);
            return self.on_private_refused(source, joiner, &refused);
        };
        at.subscription = answer.subscription.as_deref().map(Into::into);
        at.live = true;
        let moved = *at.stream.epoch() != accepted.epoch.as_str().into();
        if moved || (joiner.is_none() && !accepted.recovered) {
            at.stream.restart(&accepted.epoch, accepted.seq);
        }
        match joiner {
            None => at.joining = if accepted.recovered { Vec::new() } else { at.private.clone() },
            Some(number) => {
                at.joining.clear();
                at.waiters.retain(|waiter| *waiter != number);
                self.complete_private(number, accepted.clone());
            }
        }
    }

    fn complete_private(&mut self, number: u64, accepted: Accepted) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.waiting = 0;
        pending.own = Some(accepted);
        self.complete(number);
    }

    pub(super) fn on_private_refused(&mut self, source: SourceRef, joiner: Option<u64>, refused: &Refused) {
        let Some(at) = self.source_mut(source) else { return };
        match joiner {
            None => self.revoke_source(source.index, refused),
            Some(number) => {
                at.waiters.retain(|waiter| *waiter != number);
                self.answered(number, source.index, &Outcome::Refused(refused.clone()));
                self.release_source(source.index);
            }
        }
    }

    /// The server could not go on from where it was asked to.
    pub(super) fn on_private_gap(&mut self, index: usize, gap: &Gap) {
        for (seat, name) in self.sources[index].joining.clone() {
            if let Some(seat) = self.seat_index(seat) {
                self.send(seat, &Event::Gap(Gap { subscription: name.to_string(), ..gap.clone() }));
            }
        }
    }

    /// An event of one user: judged for each of the user's sessions by its own stream.
    pub(super) fn on_private(&mut self, lane: usize, mut event: Event) {
        let Some(channel) = channel_of(&event) else { return };
        let (exchange, user, epoch, seq) = match &mut event {
            Event::OrderUpdate(update) => (&update.exchange, update.user.take(), &update.epoch, update.seq),
            Event::PositionUpdate(update) => (&update.exchange, update.user.take(), &update.epoch, update.seq),
            _ => return,
        };
        let (Ok(exchange), Some(user)) = (exchange.parse(), user) else { return };
        let key = super::SourceKey {
            lane,
            channel,
            exchange,
            symbol: "".into(),
            user: Some(user.as_str().into()),
            late: crate::grants::Late::Now,
        };
        let Some(&id) = self.source_index.get(&key) else { return };
        let source = &mut self.sources[id];
        let told = if source.stream.note(epoch, seq) { source.private.clone() } else { source.joining.clone() };
        if let Event::OrderUpdate(update) = &event {
            self.orders.note(&user, &update.order_id, exchange);
        }
        for (seat, name) in told {
            let Some(index) = self.seat_index(seat) else { continue };
            // Only another edge is told whose it is.
            let whose = self.seats[index].context.is_edge.then(|| user.clone());
            let mut event = event.clone();
            match &mut event {
                Event::OrderUpdate(update) => (update.subscription, update.user) = (Some(name.to_string()), whose),
                Event::PositionUpdate(update) => (update.subscription, update.user) = (Some(name.to_string()), whose),
                _ => {}
            }
            self.send(index, &event);
        }
    }

    /// A session follows a private source from now on.
    pub(super) fn follow_private(&mut self, index: usize, source: usize, name: &Rc<str>) {
        let member = (SeatKey { index, serial: self.seats[index].serial }, Rc::clone(name));
        if !self.sources[source].private.iter().any(|(seat, _)| *seat == member.0) {
            self.use_begins(index, source);
        }
        let at = &mut self.sources[source];
        at.private.retain(|(seat, _)| *seat != member.0);
        at.private.push(member.clone());
        at.joining.push(member);
    }

    pub(super) fn leave_private(&mut self, index: usize, source: usize) {
        let serial = self.seats[index].serial;
        self.use_ends(index, source);
        if let Some(at) = self.sources.get_mut(source) {
            at.private.retain(|(seat, _)| seat.serial != serial);
            at.joining.retain(|(seat, _)| seat.serial != serial);
        }
        self.release_source(source);
    }
}
