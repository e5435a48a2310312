//! Orders and the private channels: whose they are, who is told.
//!
//! Every change of a user's orders goes to each session that follows that user's `orders`, with its sequence number;
//! the answer to a request is a copy of the newest of them with the request's `id`.

use std::sync::atomic::Ordering;

use bawaba_channels::name::Channel;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Accepted, Data, Event, Gap, Order, Position, Subscribe, Subscribed};

use super::subscribe::Followed;
use super::{Hub, Member, Refusal};
use crate::fan::SessionId;
use crate::orders::{BookView, MarketView, Private, Watcher};
use crate::ring::Begin;
use bawaba_channels::price::mils;

/// Longest name of a user.
const USER_BYTES_MAX: usize = 256;

impl Member {
    /// For whom a request acts: an edge names the user, everyone else is one.
    fn actor(&self, named: Option<&String>) -> Result<String, Refusal> {
        let fits = |user: &&String| !user.is_empty() && user.len() <= USER_BYTES_MAX;
        if self.claims.is_edge() {
            let text =
                format!("on a trunk, orders and private channels name their user, in at most {USER_BYTES_MAX} bytes");
            return named.filter(fits).cloned().ok_or_else(|| Refusal::new(Reason::ProtocolMalformed, text));
        }
        let text = format!("orders and private channels need a token with a subject of at most {USER_BYTES_MAX} bytes");
        self.claims.sub.as_ref().filter(fits).cloned().ok_or_else(|| Refusal::new(Reason::AuthMissing, text))
    }

    /// A private update as this session sees it: only a trunk is told whose it is.
    fn private(&self, update: &Private, subscription: Option<&str>, id: Option<u64>) -> Event {
        let user = |user: &Option<String>| user.clone().filter(|_| self.claims.is_edge());
        let subscription = subscription.map(Into::into);
        match update {
            Private::Order(u) => {
                let mut u = u.clone();
                (u.id, u.user, u.subscription) = (id, user(&u.user), subscription);
                Event::OrderUpdate(u)
            }
            Private::Position(u) => {
                let mut u = u.clone();
                (u.user, u.subscription) = (user(&u.user), subscription);
                Event::PositionUpdate(u)
            }
        }
    }
}

impl Hub {
    pub(super) fn order(&mut self, id: SessionId, request: &Order) -> Result<(), Refusal> {
        let Some(member) = self.members.get(&id) else { return Ok(()) };
        let user = member.actor(request.user.as_ref())?;
        let now = super::now();
        let outcome = if request.op == "cancel" {
            self.accounts.cancel(&user, request, now)?
        } else {
            let ours = self.listing.exchange;
            if request.exchange != ours.as_str() {
                let text = format!("this server speaks for {ours}, not for {}", request.exchange);
                return Err(Refusal::new(Reason::ChannelUnknown, text));
            }
            let index = self.listing.index(&request.symbol).ok_or_else(|| {
                Refusal::new(Reason::ChannelSymbolUnknown, format!("{} is not listed on {ours}", request.symbol))
            })?;
            let market = self
                .market_view(index)
                .ok_or_else(|| Refusal::new(Reason::OrderRejected, "there is no book of this instrument yet"))?;
            self.accounts.place(&user, index, request, &market, now)?
        };
        if let Some(member) = self.members.get(&id) {
            member.tell(&member.private(&Private::Order(outcome.answer), None, request.id));
        }
        self.tell_watchers(&user, &outcome.news);
        Ok(())
    }

    /// What an order on this instrument meets; `None` before its first book.
    fn market_view(&self, index: usize) -> Option<MarketView> {
        let (quote, book) = (
            self.streams.ring(Channel::MarketData, Some(index)).newest()?,
            self.streams.ring(Channel::OrderBook, Some(index)).newest()?,
        );
        let (Some(Data::Quote(quote)), Some(Data::Book(levels))) = (&quote.data, &book.data) else { return None };
        Some(MarketView {
            market: self.phase(),
            instrument: self.symbol_phase(self.listing.instruments[index].symbol),
            last: mils(quote.last?)?,
            close: mils(quote.close?)?,
            book: BookView::new(book.seq, levels),
        })
    }

    /// A book changed: orders that rest there may fill.
    pub(super) fn fill_resting(&mut self, index: usize, now: i64) {
        if !self.accounts.rests_on(index) {
            return;
        }
        let Some(market) = self.market_view(index) else { return };
        for (user, news) in self.accounts.reach(index, &market, now) {
            self.tell_watchers(&user, &news);
        }
    }

    /// The market closed: orders were for the day.
    pub(super) fn end_day(&mut self, now: i64) {
        for (user, news) in self.accounts.end_day(now) {
            self.tell_watchers(&user, &news);
        }
    }

    fn tell_watchers(&self, user: &str, news: &[Private]) {
        let Some(account) = self.accounts.get(user) else { return };
        for update in news {
            let (channel, seq) = match update {
                Private::Order(u) => (Channel::Orders, u.seq),
                Private::Position(u) => (Channel::Positions, u.seq),
            };
            for watcher in account.watchers.iter().filter(|w| w.channel == channel && seq > w.after) {
                if let Some(member) = self.members.get(&watcher.session) {
                    member.tell(&member.private(update, Some(&watcher.name), None));
                }
            }
        }
    }

    /// Subscribes to a user's `orders` or `positions`. A trunk's subscription is named for its user.
    pub(super) fn subscribe_private(
        &mut self,
        id: SessionId,
        channel: Channel,
        request: &Subscribe,
    ) -> Result<(), Refusal> {
        let Some(member) = self.members.get(&id) else { return Ok(()) };
        let user = member.actor(request.user.as_ref())?;
        let mut name = format!("{}/{channel}", request.exchange.to_ascii_lowercase());
        if member.claims.is_edge() {
            name.push('/');
            name.push_str(&user);
        }
        self.room_for(id, &name)?;
        let epoch = self.accounts.epoch().to_owned();
        let account = self.accounts.open(&user)?;
        let newest =
            if channel == Channel::Orders { account.order_updates.seq() } else { account.position_updates.seq() };
        // No other server plays this stream: a number that it has not reached was never anybody's.
        let nowhere = Position { epoch: String::new(), seq: 0 };
        let position = request.resume.get("").map(|at| if at.seq > newest { &nowhere } else { at });
        let (begin, seq): (Begin<Private>, u64) = if channel == Channel::Orders {
            (
                account.order_updates.begin(&epoch, position).map(|u| Private::Order(u.clone())),
                account.order_updates.seq(),
            )
        } else {
            (
                account.position_updates.begin(&epoch, position).map(|u| Private::Position(u.clone())),
                account.position_updates.seq(),
            )
        };
        let (recovered, after) = match &begin {
            Begin::Resumed { after, .. } => (true, *after),
            _ => (false, seq),
        };
        account.watchers.retain(|w| (w.session, w.channel) != (id, channel));
        account.watchers.push(Watcher { session: id, channel, name: name.clone(), after });
        let accepted = vec![Accepted { epoch, seq: after.max(seq), recovered, ..Accepted::default() }];
        let subscription = Some(name.clone());
        self.tell(
            id,
            &Event::Subscribed(Subscribed {
                id: request.id,
                subscription,
                accepted,
                refused: Vec::new(),
                market: None,
            }),
        )?;

        let standing = match begin {
            Begin::Resumed { missed, .. } => missed.into_iter().map(|update| (*update).clone()).collect(),
            Begin::Lost { missing } => {
                let (from_seq, to_seq) = missing.unwrap_or((1, 0));
                let (subscription, exchange) = (name.clone(), request.exchange.clone());
                self.tell(id, &Event::Gap(Gap { subscription, symbol: String::new(), from_seq, to_seq, exchange }))?;
                self.accounts.standing(&user, channel, super::now())
            }
            Begin::Fresh if request.snapshot == Some(false) => Vec::new(),
            Begin::Fresh => self.accounts.standing(&user, channel, super::now()),
        };
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let load = &self.load.subscriptions;
        member.followed.entry(name.clone()).or_insert_with(|| {
            load.fetch_add(1, Ordering::Relaxed);
            Followed::Private { channel, user }
        });
        for update in &standing {
            member.tell(&member.private(update, Some(&name), None));
        }
        Ok(())
    }
}
