//! The simulated account of each user: orders, fills and positions.
//!
//! Orders fill against the public book as it stands and leave no trace in it, so that two servers with the same
//! seed keep the same book; what an account took from one state of the book is not there for the next order.
//! Accounts live in this process only. Rules take facts: the market comes in as an argument. Knows no session
//! but by number.

mod account;
mod matching;

use std::collections::HashMap;
use std::sync::Arc;

use bawaba_channels::name::Channel;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Order as Request, OrderUpdate};

use crate::fan::SessionId;
use crate::hub::Refusal;
use account::{Account, Order, Remainder, SHORT_SALE, Side, Stamp};
pub(crate) use account::{Private, Watcher};
use bawaba_channels::calendar::Phase;
use bawaba_channels::listing::Listing;
use bawaba_channels::price::Mils;
use bawaba_channels::rules::{Asked, Breach, Facts, Sized};
pub(crate) use matching::BookView;
use matching::Taken;

/// Most users with an account on one server.
const ACCOUNTS_MAX: usize = 50_000;
/// What the market looks like to an order.
#[derive(Clone, Debug)]
pub(crate) struct MarketView {
    /// The market's phase.
    pub(crate) market: Phase,
    /// The instrument's own phase, where it is not the market's.
    pub(crate) instrument: Option<Phase>,
    /// Last price.
    pub(crate) last: Mils,
    /// The close that today's limits count from.
    pub(crate) close: Mils,
    /// The book.
    pub(crate) book: BookView,
}

impl MarketView {
    /// The phase that counts for matching.
    pub(crate) fn phase(&self) -> Phase {
        self.instrument.unwrap_or(self.market)
    }
}

/// Every account of this server.
pub(crate) struct Accounts {
    listing: Arc<Listing>,
    epoch: String,
    accounts: HashMap<String, Account>,
    /// By instrument: who has an order that rests there, and its number.
    resting: Vec<Vec<(String, u64)>>,
    taken: Vec<Taken>,
    next_order: u64,
}

/// What an order request came to.
pub(crate) struct Outcome {
    /// The order as it stands now: the answer.
    pub(crate) answer: OrderUpdate,
    /// What became of it, for the user's subscribers, in order.
    pub(crate) news: Vec<Private>,
}

fn rejected(text: impl Into<String>) -> Refusal {
    Refusal::new(Reason::OrderRejected, text)
}

impl Accounts {
    pub(crate) fn new(listing: Arc<Listing>, epoch: String) -> Self {
        let count = listing.instruments.len();
        Self {
            resting: vec![Vec::new(); count],
            taken: vec![Taken::default(); count],
            accounts: HashMap::new(),
            next_order: 1,
            listing,
            epoch,
        }
    }

    /// The epoch of every private stream: accounts end with the process.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// A user's account, opened when first needed.
    pub(crate) fn open(&mut self, user: &str) -> Result<&mut Account, Refusal> {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(user) {
            let text = format!("this server keeps at most {ACCOUNTS_MAX} simulated accounts");
            return Err(Refusal::new(Reason::EdgeOverloaded, text));
        }
        Ok(self.accounts.entry(user.to_owned()).or_insert_with(|| Account::new(user)))
    }

    /// Stops telling a session of a user's channel.
    pub(crate) fn unwatch(&mut self, user: &str, channel: Channel, session: SessionId) {
        if let Some(account) = self.accounts.get_mut(user) {
            account.watchers.retain(|w| (w.session, w.channel) != (session, channel));
            if account.is_blank() {
                self.accounts.remove(user);
            }
        }
    }

    /// A user's account, if it has one.
    pub(crate) fn get(&self, user: &str) -> Option<&Account> {
        self.accounts.get(user)
    }

    /// Places an order. The same `client_order_id` with the same order again is answered with that order's state.
    pub(crate) fn place(
        &mut self,
        user: &str,
        index: usize,
        request: &Request,
        market: &MarketView,
        now: i64,
    ) -> Result<Outcome, Refusal> {
        let mut order = self.read(index, request)?;
        let account = self.open(user)?;
        if let Some(earlier) = request.client_order_id.as_deref().and_then(|key| account.by_client_id(key)) {
            if !earlier.is_same_request(&order) {
                return Err(rejected("client_order_id was used before, for another order"));
            }
            let number = earlier.number;
            return Ok(Outcome { answer: self.shown(user, number, now)?, news: Vec::new() });
        }
        self.admit(user, &order, request, market)?;
        let number = self.next_order;
        self.next_order += 1;
        order.number = number;
        let fills = self.taken[index].fill(&order, market);
        let stamp = Stamp { listing: &self.listing, epoch: &self.epoch, now };
        let Some(account) = self.accounts.get_mut(user) else { return Err(rejected("the account is gone")) };
        account.insert(order);
        let news = account.settle(number, &fills, Remainder::Judged, &stamp);
        let order = account.order(number).ok_or_else(|| rejected("the order is gone"))?;
        if order.is_open() {
            self.resting[index].push((user.to_owned(), number));
        }
        Ok(Outcome { answer: stamp.order(user, order), news })
    }

    /// Cancels an open order.
    pub(crate) fn cancel(&mut self, user: &str, request: &Request, now: i64) -> Result<Outcome, Refusal> {
        let unknown = || Refusal::new(Reason::OrderUnknown, Reason::OrderUnknown.sentence());
        let account = self.accounts.get_mut(user).ok_or_else(unknown)?;
        let found = match (&request.order_id, &request.client_order_id) {
            (Some(id), _) => Order::number_of(id).and_then(|number| account.order(number)),
            (None, Some(key)) => account.by_client_id(key),
            (None, None) => return Err(rejected("cancel needs an order_id or a client_order_id")),
        };
        let order = found.ok_or_else(unknown)?;
        let (number, index) = (order.number, order.instrument);
        if !order.is_open() {
            return Err(Refusal::new(Reason::OrderUnknown, format!("the order is {} already", order.status.as_str())));
        }
        let stamp = Stamp { listing: &self.listing, epoch: &self.epoch, now };
        let news = account.settle(number, &[], Remainder::Cancelled, &stamp);
        self.resting[index].retain(|(_, resting)| *resting != number);
        let order = account.order(number).ok_or_else(unknown)?;
        Ok(Outcome { answer: stamp.order(user, order), news })
    }

    /// Whether an order rests on this instrument.
    pub(crate) fn rests_on(&self, index: usize) -> bool {
        !self.resting[index].is_empty()
    }

    /// The market moved: resting orders that it reaches are filled, oldest first.
    pub(crate) fn reach(&mut self, index: usize, market: &MarketView, now: i64) -> Vec<(String, Vec<Private>)> {
        let mut told = Vec::new();
        let stamp = Stamp { listing: &self.listing, epoch: &self.epoch, now };
        let (accounts, taken) = (&mut self.accounts, &mut self.taken[index]);
        self.resting[index].retain(|(user, number)| {
            let Some(account) = accounts.get_mut(user) else { return false };
            let Some(order) = account.order(*number) else { return false };
            let fills = taken.fill(order, market);
            if !fills.is_empty() {
                told.push((user.clone(), account.settle(*number, &fills, Remainder::Judged, &stamp)));
            }
            account.order(*number).is_some_and(Order::is_open)
        });
        told
    }

    /// The day is over: what still rests is cancelled.
    pub(crate) fn end_day(&mut self, now: i64) -> Vec<(String, Vec<Private>)> {
        let stamp = Stamp { listing: &self.listing, epoch: &self.epoch, now };
        let mut told = Vec::new();
        for (user, number) in self.resting.iter_mut().flat_map(std::mem::take) {
            if let Some(account) = self.accounts.get_mut(&user) {
                let news = account.settle(number, &[], Remainder::Cancelled, &stamp);
                told.push((user, news));
            }
        }
        told
    }

    /// A user's open orders, or positions, as they stand, oldest word first: the snapshot of a private channel.
    pub(crate) fn standing(&self, user: &str, channel: Channel, now: i64) -> Vec<Private> {
        let stamp = Stamp { listing: &self.listing, epoch: &self.epoch, now };
        self.accounts.get(user).map_or(Vec::new(), |account| account.standing(channel, &stamp))
    }

    fn shown(&self, user: &str, number: u64, now: i64) -> Result<OrderUpdate, Refusal> {
        let stamp = Stamp { listing: &self.listing, epoch: &self.epoch, now };
        let order = self.accounts.get(user).and_then(|account| account.order(number));
        order.map(|order| stamp.order(user, order)).ok_or_else(|| rejected("the order is gone"))
    }

    /// Reads an order's own form: what can be judged without market or account.
    fn read(&self, index: usize, request: &Request) -> Result<Order, Refusal> {
        let asked = Asked {
            side: &request.side,
            order_type: &request.order_type,
            price: request.price,
            quantity: request.quantity,
        };
        let sized = self.listing.rules.form(&asked).map_err(refused)?;
        let side = if request.side == "buy" { Side::Buy } else { Side::Sell };
        if let Some(flag) = request.flags.iter().find(|flag| !matches!(flag.as_str(), SHORT_SALE | "margin")) {
            let flag: String = flag.chars().take(40).collect();
            return Err(rejected(format!("flag {flag:?} is neither \"short_sale\" nor \"margin\"")));
        }
        Ok(Order::new(index, side, sized.price, sized.quantity, request))
    }

    /// Judges an order against the market and the account.
    fn admit(&self, user: &str, order: &Order, request: &Request, market: &MarketView) -> Result<(), Refusal> {
        let bare = Facts {
            asset_type: "",
            board: "",
            market: market.market,
            instrument: market.instrument,
            close: Some(market.close),
        };
        let sized = Sized { price: order.price, quantity: order.quantity };
        let facts = self.listing.facts(order.instrument, bare);
        self.listing.rules.admit(&request.order_type, &sized, &facts).map_err(refused)?;
        let Some(account) = self.accounts.get(user) else { return Err(rejected("the account is gone")) };
        if !account.has_room() {
            return Err(Refusal::new(Reason::QuotaOrders, format!("at most {} open orders", account::ORDERS_MAX)));
        }
        if order.side == Side::Sell && !order.short_sale {
            let free = account.free_to_sell(order.instrument);
            if order.quantity > free {
                return Err(rejected(format!(
                    "only {free} are held and not yet offered: flag a sale of more as short_sale"
                )));
            }
        }
        Ok(())
    }
}

fn refused(breach: Breach) -> Refusal {
    Refusal::new(breach.reason, breach.text)
}

#[cfg(test)]
mod tests;
