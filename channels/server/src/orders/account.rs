//! One user's orders and positions, each change with its sequence number.

use std::collections::{BTreeMap, HashMap};

use bawaba_channels::decimal::Decimal;
use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Order as Request, OrderUpdate, PositionUpdate};

use crate::fan::SessionId;
use crate::ring::Ring;
use bawaba_channels::listing::Listing;
use bawaba_channels::price::{Mils, Ticks, quantity};

/// Orders kept per account; finished ones make room, oldest first.
pub(super) const ORDERS_MAX: usize = 1_000;
/// Private updates kept per stream for those who resume.
const RING: usize = 256;
/// The flag of a sale of what is not held.
pub(super) const SHORT_SALE: &str = "short_sale";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Buy,
    Sell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Open,
    PartiallyFilled,
    Filled,
    Cancelled,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::PartiallyFilled => "partially_filled",
            Self::Filled => "filled",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What becomes of the part of an order that was not filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remainder {
    /// A limit order's rests, a market order's is cancelled.
    Judged,
    /// It is cancelled.
    Cancelled,
}

#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) number: u64,
    pub(super) instrument: usize,
    pub(super) side: Side,
    /// Limit; `None` for a market order.
    pub(super) price: Option<Mils>,
    pub(super) quantity: i64,
    pub(super) short_sale: bool,
    pub(super) status: Status,
    filled: i64,
    /// Sum of price × quantity of the fills.
    paid: i128,
    client_order_id: Option<String>,
    flags: Vec<String>,
    /// Of its newest update.
    seq: u64,
    time: i64,
}

impl Order {
    pub(super) fn new(instrument: usize, side: Side, price: Option<Mils>, quantity: i64, request: &Request) -> Self {
        Self {
            number: 0,
            instrument,
            side,
            price,
            quantity,
            short_sale: request.flags.iter().any(|flag| flag == SHORT_SALE),
            status: Status::Open,
            filled: 0,
            paid: 0,
            client_order_id: request.client_order_id.clone(),
            flags: request.flags.clone(),
            seq: 0,
            time: 0,
        }
    }

    /// The order number that an id on the wire stands for.
    pub(super) fn number_of(id: &str) -> Option<u64> {
        id.strip_prefix("o-").and_then(|number| number.parse().ok())
    }

    pub(super) fn is_same_request(&self, other: &Self) -> bool {
        (self.instrument, self.side, self.price, self.quantity)
            == (other.instrument, other.side, other.price, other.quantity)
            && self.flags == other.flags
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.status, Status::Open | Status::PartiallyFilled)
    }

    pub(super) const fn open_quantity(&self) -> i64 {
        self.quantity - self.filled
    }

    /// Whether it may trade at `price`.
    pub(super) fn accepts(&self, price: Mils) -> bool {
        self.price.is_none_or(|limit| match self.side {
            Side::Buy => price <= limit,
            Side::Sell => price >= limit,
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Position {
    quantity: i64,
    /// Sum of price × quantity of what is held.
    cost: i128,
    seq: u64,
    time: i64,
}

impl Position {
    fn trade(&mut self, signed: i64, price: Mils) {
        let grows = self.quantity == 0 || (self.quantity > 0) == (signed > 0);
        if grows {
            self.cost += i128::from(price) * i128::from(signed);
        } else if signed.abs() <= self.quantity.abs() {
            // What leaves, leaves at the average.
            self.cost += self.cost * i128::from(signed) / i128::from(self.quantity);
        } else {
            self.cost = i128::from(price) * i128::from(self.quantity + signed);
        }
        self.quantity += signed;
        if self.quantity == 0 {
            self.cost = 0;
        }
    }
}

/// A private update.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Private {
    /// On `orders`.
    Order(OrderUpdate),
    /// On `positions`.
    Position(PositionUpdate),
}

/// A session that follows one of a user's channels.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    pub(crate) session: SessionId,
    pub(crate) channel: Channel,
    /// The subscription's name there.
    pub(crate) name: String,
    /// It has everything up to and with this sequence number.
    pub(crate) after: u64,
}

/// What private updates are written with.
pub(super) struct Stamp<'a> {
    pub(super) listing: &'a Listing,
    pub(super) epoch: &'a str,
    pub(super) now: i64,
}

impl Stamp<'_> {
    /// An order as it stands.
    pub(super) fn order(&self, user: &str, order: &Order) -> OrderUpdate {
        let ticks = &self.listing.rules.ticks;
        OrderUpdate {
            id: None,
            order_id: format!("o-{}", order.number),
            client_order_id: order.client_order_id.clone(),
            exchange: self.listing.exchange.as_str().into(),
            symbol: self.listing.instruments[order.instrument].symbol.as_str().into(),
            side: if order.side == Side::Buy { "buy" } else { "sell" }.into(),
            order_type: if order.price.is_some() { "limit" } else { "market" }.into(),
            status: order.status.as_str().into(),
            price: order.price.map(|price| ticks.decimal(price)),
            quantity: quantity(order.quantity),
            filled_quantity: quantity(order.filled),
            average_price: average(ticks, order.paid, order.filled),
            epoch: self.epoch.into(),
            seq: order.seq,
            user: Some(user.into()),
            time: order.time,
            subscription: None,
        }
    }

    fn position(&self, user: &str, index: usize, position: &Position) -> PositionUpdate {
        PositionUpdate {
            exchange: self.listing.exchange.as_str().into(),
            symbol: self.listing.instruments[index].symbol.as_str().into(),
            quantity: quantity(position.quantity),
            average_price: average(&self.listing.rules.ticks, position.cost, position.quantity),
            epoch: self.epoch.into(),
            seq: position.seq,
            time: position.time,
            subscription: None,
            user: Some(user.into()),
        }
    }
}

/// An average price: as the exchange writes prices if it is one, else with six digits, rounded half up.
fn average(ticks: &Ticks, paid: i128, held: i64) -> Option<Decimal> {
    if held == 0 {
        return None;
    }
    let (paid, held) = (paid.abs(), i128::from(held.abs()));
    if paid % held == 0 {
        return i64::try_from(paid / held).ok().map(|price| ticks.decimal(price));
    }
    i64::try_from((paid * 1000 * 2 + held) / (held * 2)).ok().map(|millionths| Decimal::new(millionths, 6))
}

/// One user's account.
#[derive(Debug)]
pub(crate) struct Account {
    user: String,
    orders: BTreeMap<u64, Order>,
    by_client_id: HashMap<String, u64>,
    positions: BTreeMap<usize, Position>,
    pub(crate) order_updates: Ring<OrderUpdate>,
    pub(crate) position_updates: Ring<PositionUpdate>,
    /// Who is told of changes.
    pub(crate) watchers: Vec<Watcher>,
}

impl Account {
    pub(super) fn new(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            orders: BTreeMap::new(),
            by_client_id: HashMap::new(),
            positions: BTreeMap::new(),
            order_updates: Ring::new(RING),
            position_updates: Ring::new(RING),
            watchers: Vec::new(),
        }
    }

    /// Nothing ever happened here and nobody watches: as if it had not been opened.
    pub(super) fn is_blank(&self) -> bool {
        self.orders.is_empty() && self.positions.is_empty() && self.watchers.is_empty()
    }

    pub(super) fn order(&self, number: u64) -> Option<&Order> {
        self.orders.get(&number)
    }

    pub(super) fn by_client_id(&self, key: &str) -> Option<&Order> {
        self.by_client_id.get(key).and_then(|number| self.orders.get(number))
    }

    /// Whether one more order can be kept.
    pub(super) fn has_room(&self) -> bool {
        self.orders.len() < ORDERS_MAX || self.orders.values().any(|order| !order.is_open())
    }

    /// What is held and not offered in open sales.
    pub(super) fn free_to_sell(&self, instrument: usize) -> i64 {
        let held = self.positions.get(&instrument).map_or(0, |position| position.quantity);
        let offered =
            self.orders.values().filter(|o| o.instrument == instrument && o.side == Side::Sell && o.is_open());
        held - offered.map(Order::open_quantity).sum::<i64>()
    }

    pub(super) fn insert(&mut self, order: Order) {
        if self.orders.len() >= ORDERS_MAX
            && let Some(number) = self.orders.values().find(|order| !order.is_open()).map(|order| order.number)
            && let Some(old) = self.orders.remove(&number)
            && let Some(key) = old.client_order_id
        {
            self.by_client_id.remove(&key);
        }
        if let Some(key) = &order.client_order_id {
            self.by_client_id.insert(key.clone(), order.number);
        }
        self.orders.insert(order.number, order);
    }

    /// Books fills, and what becomes of the rest; the updates that say so, in order.
    pub(super) fn settle(
        &mut self,
        number: u64,
        fills: &[(Mils, i64)],
        rest: Remainder,
        stamp: &Stamp<'_>,
    ) -> Vec<Private> {
        let Some(order) = self.orders.get_mut(&number) else { return Vec::new() };
        let position = self.positions.entry(order.instrument).or_default();
        for (price, size) in fills {
            order.filled += size;
            order.paid += i128::from(*price) * i128::from(*size);
            position.trade(if order.side == Side::Buy { *size } else { -*size }, *price);
        }
        order.status = if order.open_quantity() == 0 {
            Status::Filled
        } else if rest == Remainder::Cancelled || order.price.is_none() {
            Status::Cancelled
        } else if order.filled > 0 {
            Status::PartiallyFilled
        } else {
            Status::Open
        };
        order.seq = self.order_updates.seq() + 1;
        order.time = stamp.now;
        let update = stamp.order(&self.user, order);
        self.order_updates.push(update.seq, update.clone());
        let mut news = vec![Private::Order(update)];
        if !fills.is_empty() {
            position.seq = self.position_updates.seq() + 1;
            position.time = stamp.now;
            let update = stamp.position(&self.user, order.instrument, position);
            self.position_updates.push(update.seq, update.clone());
            news.push(Private::Position(update));
        }
        news
    }

    pub(super) fn standing(&self, channel: Channel, stamp: &Stamp<'_>) -> Vec<Private> {
        if channel == Channel::Orders {
            let mut open: Vec<&Order> = self.orders.values().filter(|order| order.is_open()).collect();
            open.sort_by_key(|order| order.seq);
            open.into_iter().map(|order| Private::Order(stamp.order(&self.user, order))).collect()
        } else {
            let mut held: Vec<_> = self.positions.iter().filter(|(_, position)| position.quantity != 0).collect();
            held.sort_by_key(|(_, position)| position.seq);
            held.into_iter().map(|(index, p)| Private::Position(stamp.position(&self.user, *index, p))).collect()
        }
    }
}
