//! A new generation: sessions move to the new chain at a message boundary, cohorts begin again, and what the old
//! chain let into logs and snapshots is forgotten, so that the next message is judged by the new one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::reason::Reason;

use super::Hub;
use super::cohort::Cohort;
use super::feed::FeedKey;
use super::request::refused_word;
use super::seat::{Owed, Seat, SeatKey};
use crate::chain::RouteChain;
use crate::context::ConnectionContext;

impl Hub {
    /// Moves sessions (one, or all) that are on another chain than the one that `chain_of` names for them.
    pub(crate) fn move_seats(
        &mut self,
        only: Option<SeatKey>,
        chain_of: impl Fn(&str, &ConnectionContext) -> Option<Rc<RouteChain>>,
    ) {
        let wanted = |seat: &Seat| {
            let chain = chain_of(seat.chain.route().name(), &seat.context)?;
            (!Rc::ptr_eq(&seat.chain, &chain)).then_some(chain)
        };
        let moved: Vec<(usize, Rc<RouteChain>)> = match only {
            Some(key) => {
                let index = self.seat_index(key);
                index.and_then(|index| Some((index, wanted(&self.seats[index])?))).into_iter().collect()
            }
            None => self.seats.iter().filter_map(|(index, seat)| Some((index, wanted(seat)?))).collect(),
        };
        for (index, chain) in moved {
            self.move_seat(index, &chain);
        }
        self.flush();
    }

    /// Sessions of routes that are no more come back and are routed anew.
    pub(crate) fn close_route(&mut self, keeps: impl Fn(&str) -> bool) {
        let gone: Vec<usize> =
            self.seats.iter().filter(|(_, seat)| !keeps(seat.chain.route().name())).map(|(index, _)| index).collect();
        for index in gone {
            self.close(index, CloseCode::RESTART, "the route is no more: come back");
        }
        self.flush();
    }

    fn move_seat(&mut self, index: usize, chain: &Rc<RouteChain>) {
        let seat = &mut self.seats[index];
        let old_chain = std::mem::replace(&mut seat.chain, Rc::clone(chain));
        let Some(old) = seat.stream.take() else { return };
        let encoding = seat.encoding;
        let facts = Rc::clone(&seat.facts);
        let moved = match chain.reopen(&old) {
            Some(moved) => moved,
            None => {
                let mut request = seat.request();
                crate::session::open_stream(chain, &mut request, &facts, encoding).map(|(stream, _)| stream)
            }
        };
        old_chain.close(old);
        match moved {
            Ok(stream) => {
                self.seats[index].stream = Some(stream);
                self.counters.add_moved(1);
                self.regroup(index);
                self.judged_anew(index);
            }
            Err(refused) => {
                let (reason, _) = refused_word(&refused);
                self.regroup(index);
                self.close(index, close_code_of(reason), reason.sentence());
            }
        }
    }

    /// Puts a session into the cohort of its present chain and claims, and its follows on that cohort's feeds. What
    /// it had not read yet was judged for the old cohort: it is judged again.
    pub(super) fn regroup(&mut self, index: usize) {
        let seat = &self.seats[index];
        let chain = Rc::clone(&seat.chain);
        let context = Arc::clone(&seat.context);
        let facts = Rc::clone(&seat.facts);
        let cohort = self.enter_cohort(&chain, &context.session, &facts);
        let old = std::mem::replace(&mut self.seats[index].cohort, cohort);
        let slots: Vec<usize> = self.seats[index].follows.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let key: FeedKey = self.feeds[self.seats[index].follows[slot].feed].key.clone();
            if old != cohort {
                self.move_follow(index, slot, key, cohort, Owed::Fold);
            }
        }
        self.leave_cohort(old);
    }

    /// The cohort of a session, entered.
    pub(super) fn enter_cohort(
        &mut self,
        chain: &Rc<RouteChain>,
        session: &str,
        facts: &Rc<crate::chain::Facts>,
    ) -> usize {
        let claims = facts.claims();
        let key = Cohort::key(chain, &claims, session);
        // A cohort of another generation's chain is another cohort: its index entry is taken over.
        if let Some(&known) = self.cohort_index.get(&key)
            && Rc::ptr_eq(&self.cohorts[known].chain, chain)
        {
            self.cohorts[known].members += 1;
            return known;
        }
        let mut cohort = Cohort::new(key.clone(), Rc::clone(chain), &claims, facts);
        cohort.members = 1;
        let id = self.cohorts.insert(cohort);
        self.cohort_index.insert(key, id);
        id
    }

    pub(super) fn leave_cohort(&mut self, id: usize) {
        let Some(cohort) = self.cohorts.get_mut(id) else { return };
        cohort.members -= 1;
        if cohort.members > 0 {
            return;
        }
        let mut cohort = self.cohorts.remove(id);
        cohort.close();
        if self.cohort_index.get(&cohort.key) == Some(&id) {
            self.cohort_index.remove(&cohort.key);
        }
    }

    /// Runs the timers of a chain's filters, and closes the sessions that they closed.
    pub(crate) fn tick_chain(&mut self, chain: &Rc<RouteChain>, now: Instant) {
        let closed = chain.tick(now);
        if closed.is_empty() {
            return;
        }
        let is_closed = |stream: &Option<crate::chain::ChainStream>| {
            stream.as_ref().and_then(crate::chain::ChainStream::token).is_some_and(|token| closed.contains(&token))
        };
        let here: Vec<usize> = self
            .seats
            .iter()
            .filter(|(_, seat)| Rc::ptr_eq(&seat.chain, chain) && is_closed(&seat.stream))
            .map(|(index, _)| index)
            .collect();
        for index in here {
            self.stream_ended(index, &crate::chain::Ended::Closed("a timer".into()));
        }
        self.flush();
    }
}

/// The close code that says a refusal word on an open socket.
pub(super) fn close_code_of(reason: Reason) -> CloseCode {
    let family = reason.word().split('.').next().unwrap_or("");
    match family {
        "auth" => CloseCode::AUTH_ENDED,
        "license" => CloseCode::NOT_ENTITLED,
        "quota" => CloseCode::QUOTA,
        "sharia" => CloseCode::COMPLIANCE,
        _ if reason == Reason::EdgeFilterFailed => CloseCode::INTERNAL,
        _ => CloseCode::POLICY,
    }
}
