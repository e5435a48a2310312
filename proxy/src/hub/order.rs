//! Orders: each goes to its exchange with the session's user, and each comes back with exactly one answer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bawaba_channels::name::Exchange;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{ErrorEvent, Event, Order, Request};

use super::lane::{IN_FLIGHT_MAX, InFlight, InFlightOrder};
use super::{Hub, SeatKey};

/// How long a server may take to answer an order.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Orders whose exchange is remembered, for cancels that do not name it.
const HOMES_MAX: usize = 65_536;

/// Which exchange a user's order lives on; the oldest are forgotten. Exchanges number their orders as they like: where
/// two of them gave a user the same number, it names neither.
#[derive(Default)]
pub(super) struct Homes {
    by_order: HashMap<String, Option<Exchange>>,
    age: VecDeque<String>,
}

impl Homes {
    pub(super) fn note(&mut self, user: &str, order: &str, exchange: Exchange) {
        let order = key(user, order);
        if let Some(known) = self.by_order.get_mut(&order) {
            *known = known.filter(|known| *known == exchange);
            return;
        }
        if self.age.len() >= HOMES_MAX
            && let Some(oldest) = self.age.pop_front()
        {
            self.by_order.remove(&oldest);
        }
        self.by_order.insert(order.clone(), Some(exchange));
        self.age.push_back(order);
    }

    fn get(&self, user: &str, order: &str) -> Option<Exchange> {
        self.by_order.get(&key(user, order)).copied().flatten()
    }
}

fn key(user: &str, order: &str) -> String {
    format!("{order}\n{user}")
}

impl Hub {
    /// Takes an `order` that the chain let through.
    pub(super) fn order(&mut self, index: usize, mut request: Order) {
        let id = request.id;
        let Some(user) = self.seats[index].context.actor(request.user.as_deref()) else {
            return self.refuse(index, id, Reason::AuthMissing, "orders need a token with a subject".into());
        };
        request.user = Some(user);
        let Some(exchange) = self.home_of(index, &request) else {
            let text = "the order's exchange is not known here: name it in \"exchange\"".to_owned();
            return self.refuse(index, id, Reason::OrderUnknown, text);
        };
        let Some((_, cluster)) = self.exchange_cluster(index, exchange.as_str()) else {
            return self.refuse(index, id, Reason::ChannelUnknown, "this exchange is not served here".into());
        };
        let Some(lane) = self.lane_for(index, &cluster) else {
            return self.refuse_for_now(index, id, Reason::EdgeNoEndpoint);
        };
        let at = &mut self.lanes[lane];
        if at.in_flight.len() + at.resend.len() >= IN_FLIGHT_MAX {
            return self.refuse_for_now(index, id, Reason::EdgeOverloaded);
        }
        let seat = &mut self.seats[index];
        seat.waiting += 1;
        let order = Box::new(InFlightOrder {
            seat: SeatKey { index, serial: seat.serial },
            id,
            deadline: Instant::now() + ANSWER_WITHIN,
            order: request.clone(),
        });
        if at.connected {
            at.send(Request::Order(request), Some(InFlight::Order(order)));
        } else {
            // Never sent: it may be sent when there is a connection, whether or not it can be repeated.
            at.resend.push_back(order);
        }
    }

    fn home_of(&self, index: usize, request: &Order) -> Option<Exchange> {
        if let Ok(exchange) = request.exchange.parse() {
            return Some(exchange);
        }
        let user = request.user.as_deref().unwrap_or_default();
        if let Some(home) = request.order_id.as_deref().and_then(|order| self.orders.get(user, order)) {
            return Some(home);
        }
        match &self.seats[index].chain.route().target {
            crate::generation::Target::Channel(exchanges) if exchanges.len() == 1 => exchanges.keys().next().copied(),
            _ => None,
        }
    }

    pub(super) fn on_order_answer(&mut self, lane: usize, event: Event) {
        let Event::OrderUpdate(mut update) = event else { return };
        let Some(InFlight::Order(order)) = update.id.and_then(|id| self.lanes[lane].in_flight.remove(&id)) else {
            return;
        };
        if let Ok(exchange) = update.exchange.parse() {
            self.orders.note(order.order.user.as_deref().unwrap_or_default(), &update.order_id, exchange);
        }
        let Some(index) = self.seat_index(order.seat) else { return };
        self.seats[index].waiting = self.seats[index].waiting.saturating_sub(1);
        self.seats[index].wake();
        update.user = None;
        update.id = order.id;
        if order.id.is_some() {
            self.send(index, &Event::OrderUpdate(update));
        }
    }

    /// The order's fate is not known: it is answered so, once.
    pub(super) fn order_failed(&mut self, order: &InFlightOrder) {
        let Some(index) = self.seat_index(order.seat) else { return };
        self.seats[index].waiting = self.seats[index].waiting.saturating_sub(1);
        self.seats[index].wake();
        let error = ErrorEvent {
            id: order.id,
            code: Reason::EdgeNoEndpoint.word().into(),
            reason: "the exchange's server was lost before it answered: look at your orders before you try again, or \
                     send a client_order_id, which may be sent twice"
                .into(),
            retry_after_ms: Some(1000),
        };
        self.send(index, &Event::Error(error));
    }

    /// Answers the orders that no server answered in time.
    pub(super) fn sweep_orders(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (_, lane) in &mut self.lanes {
            let ids: Vec<u64> = lane
                .in_flight
                .iter()
                .filter(|(_, awaited)| matches!(awaited, InFlight::Order(order) if order.deadline <= now))
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                if let Some(InFlight::Order(order)) = lane.in_flight.remove(&id) {
                    late.push(order);
                }
            }
            while lane.resend.front().is_some_and(|order| order.deadline <= now) {
                late.extend(lane.resend.pop_front());
            }
        }
        for order in late {
            self.order_failed(&order);
        }
    }
}
