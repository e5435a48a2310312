//! What one session holds: taken at the desk when asked for, settled when answered, given back when given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bawaba_filter_kit::SharedData;
use bawaba_filter_kit::channels::reason::Reason;
use bawaba_policies::UnixNanos;
use bawaba_policies::quota::{Admit, Client, Clocks, Day, Delivered, Desk, Limit, Limits, Refused, Taken};

/// Requests in flight that are remembered. More means a backend that does not answer; what the oldest took then stays
/// taken until the session ends.
const ASKED_MAX: usize = 1024;
/// Symbols that requests in flight may name together.
const ASKED_SYMBOLS_MAX: usize = 16_384;
/// Parts of a day's deliveries that one session is allowed at a time: small enough to share, large enough to be asked
/// for seldom.
const ALLOWANCES_PER_DAY: u64 = 64;

/// Where a session takes from.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) desk: Desk<SharedData>,
    pub(crate) clocks: Clocks,
    pub(crate) day_of: String,
}

/// One session.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    client: Option<Client>,
    /// By subscription: its symbols with their exchange, and whether it is counted as one.
    held: BTreeMap<String, BTreeSet<String>>,
    asked: VecDeque<(Option<u64>, Asked)>,
    /// Requests that were forgotten: what was taken for them.
    lost: (u32, Vec<String>),
    allowance: Option<Allowance>,
    /// Why no allowance was to be had.
    exhausted: Option<Refused>,
    warnings: Vec<Reason>,
}

/// What the host may deliver before it asks again. `None`: without limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    pub(crate) messages: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) day: Day,
    taken: Delivered,
}

/// A request that went to the backend.
#[derive(Debug)]
enum Asked {
    /// These were taken for it, beside one subscription.
    Subscribe { exchange: String, taken: Vec<String> },
    /// It gives these up; all if empty.
    Unsubscribe(String, Vec<String>),
}

const fn nobody() -> Refused {
    Refused { reason: bawaba_policies::Reason::QuotaMessages, retry_after_ms: None }
}

fn full(exchange: &str, symbol: &str) -> String {
    format!("{exchange}/{symbol}")
}

impl Memory {
    /// Takes the connection, and a first allowance where the host counts deliveries.
    pub(crate) fn connect(
        &mut self,
        books: &Books,
        client: Client,
        admit: Admit,
        counts: bool,
        now: UnixNanos,
    ) -> Result<(), Refused> {
        let taken = books.desk.connect(&client, admit, now)?;
        self.warn(taken, Reason::QuotaConnections);
        self.client = Some(client);
        if counts {
            self.allow(books, now);
        }
        Ok(())
    }

    /// Takes one message.
    pub(crate) fn message(&mut self, books: &Books, now: UnixNanos) -> Result<(), Refused> {
        let client = self.client.as_ref().ok_or(nobody())?;
        books.desk.spend(client, now, |rates, limits| rates.message(limits, now)).map(drop)
    }

    /// Takes one order.
    pub(crate) fn order(&mut self, books: &Books, exchange: &str, now: UnixNanos) -> Result<(), Refused> {
        let client = self.client.as_ref().ok_or(nobody())?;
        let day = books.clocks.day(exchange, now);
        let warned = books.desk.spend(client, now, |rates, limits| rates.order(limits, day, now))?;
        if warned.contains(&true) {
            self.warnings.push(Reason::QuotaOrders);
        }
        Ok(())
    }

    /// A `subscribe`: takes a subscription and the symbols that it may come to.
    pub(crate) fn subscribe(
        &mut self,
        books: &Books,
        admit: Admit,
        id: Option<u64>,
        (exchange, symbols): (String, Vec<String>),
        now: UnixNanos,
    ) -> Result<(), Refused> {
        if self.exhausted.is_some() {
            self.allow(books, now);
        }
        if let Some(exhausted) = self.exhausted {
            return Err(exhausted);
        }
        let client = self.client.as_ref().ok_or(nobody())?;
        if admit == Admit::Within {
            books.desk.spend(client, now, |rates, limits| rates.subscribe(limits, now))?;
        }
        let names: BTreeSet<String> = symbols.iter().map(|symbol| full(&exchange, symbol)).collect();
        let taken: Vec<String> = names.into_iter().collect();
        let warned = books.desk.subscribe(client, admit, 1, &taken, now)?;
        self.warn(warned, Reason::QuotaSymbols);
        self.ask(id, Asked::Subscribe { exchange, taken });
        Ok(())
    }

    /// An `unsubscribe`: settled when it is answered.
    pub(crate) fn unsubscribe(&mut self, _: &Books, id: Option<u64>, subscription: String, symbols: Vec<String>) {
        self.ask(id, Asked::Unsubscribe(subscription, symbols));
    }

    fn ask(&mut self, id: Option<u64>, asked: Asked) {
        self.asked.push_back((id, asked));
        let named = |(_, asked): &(Option<u64>, Asked)| match asked {
            Asked::Subscribe { taken, .. } => taken.len(),
            Asked::Unsubscribe(_, symbols) => symbols.len(),
        };
        let mut symbols: usize = self.asked.iter().map(named).sum();
        while self.asked.len() > ASKED_MAX || symbols > ASKED_SYMBOLS_MAX {
            let Some(oldest) = self.asked.pop_front() else { break };
            symbols -= named(&oldest);
            if let Asked::Subscribe { taken, .. } = oldest.1 {
                self.lost.0 += 1;
                self.lost.1.extend(taken);
            }
        }
    }

    /// `subscribed`: settles for what was accepted. Returns the accepted symbols that there was no room for.
    pub(crate) fn subscribed(
        &mut self,
        books: &Books,
        id: Option<u64>,
        subscription: Option<&str>,
        accepted: Vec<String>,
        now: UnixNanos,
    ) -> Vec<String> {
        let Some(client) = &self.client else { return Vec::new() };
        let at = self.asked.iter().position(|(known, asked)| *known == id && matches!(asked, Asked::Subscribe { .. }));
        let Some((_, Asked::Subscribe { exchange, taken })) = at.and_then(|at| self.asked.remove(at)) else {
            return Vec::new();
        };
        let (Some(name), false) = (subscription, accepted.is_empty()) else {
            books.desk.unsubscribe(client, 1, &taken);
            return Vec::new();
        };
        let known = self.held.contains_key(name);
        let held = self.held.entry(name.to_owned()).or_default();
        let mut spare: BTreeSet<String> = taken.into_iter().collect();
        let mut over = Vec::new();
        // A channel without symbols is accepted as one entry without a name.
        for symbol in accepted.into_iter().filter(|symbol| !symbol.is_empty()) {
            let name = full(&exchange, &symbol);
            if held.contains(&name) {
                continue;
            }
            let one = core::slice::from_ref(&name);
            if spare.remove(&name) || books.desk.subscribe(client, Admit::Within, 0, one, now).is_ok() {
                held.insert(name);
            } else {
                over.push(symbol);
            }
        }
        let spare: Vec<String> = spare.into_iter().collect();
        books.desk.unsubscribe(client, u32::from(known), &spare);
        over
    }

    /// `unsubscribed`: gives back what the request gave up.
    pub(crate) fn unsubscribed(&mut self, books: &Books, id: Option<u64>) {
        let at = self.asked.iter().position(|(known, asked)| *known == id && matches!(asked, Asked::Unsubscribe(..)));
        if let Some((_, Asked::Unsubscribe(subscription, symbols))) = at.and_then(|at| self.asked.remove(at)) {
            self.release(books, &subscription, &symbols);
        }
    }

    /// `error`: nothing came of the request.
    pub(crate) fn refused(&mut self, books: &Books, id: Option<u64>) {
        let at = self.asked.iter().position(|(known, _)| id.is_some() && *known == id);
        if let Some((_, Asked::Subscribe { taken, .. })) = at.and_then(|at| self.asked.remove(at))
            && let Some(client) = &self.client
        {
            books.desk.unsubscribe(client, 1, &taken);
        }
    }

    /// Gives back symbols of a subscription; all of it if `symbols` is empty, or when none is left.
    pub(crate) fn release(&mut self, books: &Books, subscription: &str, symbols: &[String]) {
        let (Some(client), Some(held)) = (&self.client, self.held.get_mut(subscription)) else { return };
        let gone: Vec<String> = if symbols.is_empty() {
            core::mem::take(held).into_iter().collect()
        } else {
            let named =
                |name: &String| name.split_once('/').is_some_and(|(_, symbol)| symbols.iter().any(|s| s == symbol));
            let gone: Vec<String> = held.iter().filter(|name| named(name)).cloned().collect();
            held.retain(|name| !named(name));
            gone
        };
        let ends = held.is_empty();
        books.desk.unsubscribe(client, u32::from(ends), &gone);
        if ends {
            self.held.remove(subscription);
        }
    }

    /// What the host may deliver; `None` where nothing is limited.
    pub(crate) const fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref()
    }

    /// Limits that were just used to 80 hundredths.
    pub(crate) fn take_warnings(&mut self) -> Vec<Reason> {
        core::mem::take(&mut self.warnings)
    }

    /// The session is over: everything is given back, and what was allowed and not delivered.
    pub(crate) fn close(&mut self, books: &Books, delivered: (u64, u64), now: UnixNanos) {
        let Some(client) = self.client.take() else { return };
        for symbols in core::mem::take(&mut self.held).into_values() {
            let symbols: Vec<String> = symbols.into_iter().collect();
            books.desk.unsubscribe(&client, 1, &symbols);
        }
        for (_, asked) in core::mem::take(&mut self.asked) {
            if let Asked::Subscribe { taken, .. } = asked {
                books.desk.unsubscribe(&client, 1, &taken);
            }
        }
        let (count, symbols) = core::mem::take(&mut self.lost);
        books.desk.unsubscribe(&client, count, &symbols);
        if let Some(allowance) = self.allowance.take() {
            let unspent = Delivered {
                messages: allowance.taken.messages.saturating_sub(delivered.0),
                bytes: allowance.taken.bytes.saturating_sub(delivered.1),
            };
            books.desk.undelivered(&client, unspent, allowance.day.number, now);
            // Snapshots and answers are sent in any case: what they came to beyond the allowance is charged.
            let beyond = Delivered {
                messages: delivered.0.saturating_sub(allowance.taken.messages),
                bytes: delivered.1.saturating_sub(allowance.taken.bytes),
            };
            if beyond != Delivered::default() {
                let day = allowance.day;
                let _ = books.desk.spend(&client, now, |rates, limits| rates.deliver(limits, beyond, day, now));
            }
        }
        books.desk.disconnect(&client);
    }

    /// Takes an allowance of deliveries, if they are limited.
    fn allow(&mut self, books: &Books, now: UnixNanos) {
        let Some(client) = &self.client else { return };
        let of = |limits: &Limits| (limits.delivered_messages_per_day, limits.delivered_kib_per_day);
        let (messages, kib) = of(&client.entitled.of_user);
        let (all_messages, all_kib) = client.entitled.of_tenant.as_ref().map_or((messages, kib), of);
        let part = |one: Limit, all: Limit, unit: u64| {
            match (one, all) {
                (Limit::Unlimited, Limit::Unlimited) => None,
                (Limit::AtMost(most), Limit::Unlimited) | (Limit::Unlimited, Limit::AtMost(most)) => Some(most),
                (Limit::AtMost(one), Limit::AtMost(all)) => Some(one.min(all)),
            }
            .map(|most| (u64::from(most) * unit).div_ceil(ALLOWANCES_PER_DAY).max(1))
        };
        let wanted = (part(messages, all_messages, 1), part(kib, all_kib, 1024));
        if wanted == (None, None) {
            return;
        }
        let day = books.clocks.day(&books.day_of, now);
        let wants = Delivered { messages: wanted.0.unwrap_or(0), bytes: wanted.1.unwrap_or(0) };
        let granted = books.desk.spend(client, now, |rates, limits| rates.deliver(limits, wants, day, now));
        match granted {
            Ok(granted) => {
                let least =
                    |of: fn(&Delivered) -> u64| granted.iter().map(|(granted, _)| of(granted)).min().unwrap_or(0);
                let taken = Delivered { messages: least(|of| of.messages), bytes: least(|of| of.bytes) };
                if granted.iter().any(|(_, warned)| *warned) {
                    self.warnings.push(Reason::QuotaMessages);
                }
                self.exhausted = None;
                self.allowance = Some(Allowance {
                    messages: wanted.0.map(|_| taken.messages),
                    bytes: wanted.1.map(|_| taken.bytes),
                    day,
                    taken,
                });
            }
            Err(refused) => {
                self.exhausted = Some(refused);
                self.allowance = Some(Allowance {
                    messages: wanted.0.map(|_| 0),
                    bytes: wanted.1.map(|_| 0),
                    day,
                    taken: Delivered::default(),
                });
            }
        }
    }

    fn warn(&mut self, taken: Taken, reason: Reason) {
        if taken.warned {
            self.warnings.push(reason);
        }
    }
}
