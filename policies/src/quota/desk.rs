//! The desk: where sessions of one holder take and give back, for their user and their tenant, from values that many
//! holders share.
//!
//! A value is changed by compare-and-swap: read, change, write if nobody wrote meanwhile, else again. So the sum of
//! what is granted never exceeds a limit, over any interleaving of holders. Users and tenants are spread over a fixed
//! number of cells, because a store of shared values forgets nothing by itself. Knows no store: see [`Cells`].

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::code::{Reader, put_text};
use super::held::{Admit, Holdings, Lease, Taken};
use super::rates::{Delivered, Rates};
use super::{Entitled, Limits, Refused};
use crate::license::AtLimit;
use crate::{Reason, UnixNanos};

/// Cells for users, and as many for tenants.
const CELLS: u64 = 256;
/// Tries of one change before it is refused. Each failed one means that somebody else got through.
const TRIES_MAX: u32 = 10_000;
/// How long a lease holds without renewal: three times the renewal's interval and the longest stall in between.
pub const LEASE_MS: u64 = 30_000;
/// A lease is renewed when less than this is left of it.
const RENEW_BELOW_MS: u64 = 20_000;

/// A store of shared values with compare-and-swap.
pub trait Cells {
    /// The value and its version; `None` if there is none.
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)>;

    /// Writes the value if its version still is the one that was read (`None`: if there still is none). False if it
    /// was not written.
    fn swap(&self, key: &str, value: &[u8], version: Option<u32>) -> bool;
}

/// Whose quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    User,
    Tenant,
}

/// A user or a tenant, as the cells name it.
type Key = (Scope, String);

/// Who takes: one session.
#[derive(Clone, Debug)]
pub struct Client {
    /// What the user and the tenant may have.
    pub entitled: Entitled,
    /// What is counted as its connection: the same for connections that take each other's place.
    pub unit: u64,
}

impl Client {
    fn scopes(&self) -> impl Iterator<Item = (Key, &Limits, AtLimit)> {
        let entitled = &self.entitled;
        // A user is known by tenant and name: the same name at two tenants is two people.
        let user = (Scope::User, format!("{}\n{}", entitled.tenant, entitled.user));
        let tenant = entitled
            .of_tenant
            .as_ref()
            .map(|limits| ((Scope::Tenant, entitled.tenant.clone()), limits, entitled.at_tenant_limit));
        [(user, &entitled.of_user, entitled.at_user_limit)].into_iter().chain(tenant)
    }
}

/// What this holder's sessions hold of one user's or tenant's quota.
#[derive(Debug, Default)]
struct Own {
    until: UnixNanos,
    connections: BTreeMap<u64, u32>,
    subscriptions: u32,
    symbols: BTreeMap<String, u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Desk<C> {
    cells: C,
    holder: u64,
    own: RefCell<BTreeMap<Key, Own>>,
}

impl<C: Cells> Desk<C> {
    /// A desk over `cells`; `holder` must be its own among all that share them.
    pub const fn new(cells: C, holder: u64) -> Self {
        Self { cells, holder, own: RefCell::new(BTreeMap::new()) }
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// [`Reason::QuotaConnections`]; nothing was taken.
    pub fn connect(&self, client: &Client, admit: Admit, now: UnixNanos) -> Result<Taken, Refused> {
        let taken = self.each(client, now, |held, limits, at_limit, lease| {
            held.connect(limits, at_limit, admit, lease, client.unit)
        });
        let undo = |key: &Key| self.give(key, Some(client.unit), 0, &[]);
        self.settle(
            client,
            taken,
            undo,
            |own| {
                *own.connections.entry(client.unit).or_default() += 1;
            },
            now,
        )
    }

    /// Takes subscriptions and symbols, all or nothing.
    ///
    /// # Errors
    /// [`Reason::QuotaSubscriptions`] or [`Reason::QuotaSymbols`]; nothing was taken.
    pub fn subscribe(
        &self,
        client: &Client,
        admit: Admit,
        subscriptions: u32,
        symbols: &[String],
        now: UnixNanos,
    ) -> Result<Taken, Refused> {
        let taken = self
            .each(client, now, |held, limits, _, lease| held.subscribe(limits, admit, lease, subscriptions, symbols));
        let undo = |key: &Key| {
            let fresh = self.not_held(key, symbols);
            self.give(key, None, subscriptions, &fresh);
        };
        self.settle(
            client,
            taken,
            undo,
            |own| {
                own.subscriptions = own.subscriptions.saturating_add(subscriptions);
                for symbol in symbols {
                    *own.symbols.entry(symbol.clone()).or_default() += 1;
                }
            },
            now,
        )
    }

    /// Gives back subscriptions, and each of these symbols once.
    pub fn unsubscribe(&self, client: &Client, subscriptions: u32, symbols: &[String]) {
        for (key, ..) in client.scopes() {
            let mut gone = Vec::new();
            if let Some(own) = self.own.borrow_mut().get_mut(&key) {
                own.subscriptions = own.subscriptions.saturating_sub(subscriptions);
                for symbol in symbols {
                    if leave(&mut own.symbols, symbol) {
                        gone.push(symbol.clone());
                    }
                }
            }
            if subscriptions > 0 || !gone.is_empty() {
                self.give(&key, None, subscriptions, &gone);
            }
        }
    }

    /// Gives back a connection.
    pub fn disconnect(&self, client: &Client) {
        for (key, ..) in client.scopes() {
            let gone = match self.own.borrow_mut().get_mut(&key) {
                Some(own) => leave(&mut own.connections, &client.unit),
                None => false,
            };
            if gone {
                self.give(&key, Some(client.unit), 0, &[]);
            }
            let mut all = self.own.borrow_mut();
            if all.get(&key).is_some_and(|own| own.connections.is_empty() && own.symbols.is_empty()) {
                all.remove(&key);
            }
        }
    }

    /// Takes from what is spent: a message, a subscribe, an order, an allowance. All or nothing.
    ///
    /// # Errors
    /// What `take` refuses; nothing was taken.
    pub fn spend<T>(
        &self,
        client: &Client,
        now: UnixNanos,
        mut take: impl FnMut(&mut Rates, &Limits) -> Result<T, Refused>,
    ) -> Result<Vec<T>, Refused> {
        // The tenant's own limits first: a refusal of the user's then costs the tenant one, which is given back with
        // its window; the other way round a full tenant would eat the allowance of each user.
        let mut all = Vec::new();
        let mut scopes: Vec<_> = client.scopes().collect();
        scopes.reverse();
        for (key, limits, _) in scopes {
            all.push(self.change("r", &key, now, |rates: &mut Rates| take(rates, limits))?);
        }
        Ok(all)
    }

    /// Gives back an allowance of deliveries that was not used.
    pub fn undelivered(&self, client: &Client, unspent: Delivered, day: u32, now: UnixNanos) {
        for (key, ..) in client.scopes() {
            let _ = self.change("r", &key, now, |rates: &mut Rates| {
                rates.undelivered(unspent, day);
                Ok(())
            });
        }
    }

    /// Renews the leases that come to their end. What a stall let run out is taken again: it may be over the limit
    /// then, until something is given back, and nothing new is granted meanwhile.
    pub fn renew(&self, now: UnixNanos) {
        let until = now.plus_millis(LEASE_MS);
        let soon = now.plus_millis(RENEW_BELOW_MS);
        let due: Vec<Key> =
            self.own.borrow().iter().filter(|(_, own)| own.until < soon).map(|(key, _)| key.clone()).collect();
        let lease = Lease { holder: self.holder, until };
        for key in due {
            let renewed = self.change("h", &key, now, |held: &mut Holdings| {
                if held.renew(lease) {
                    return Ok(());
                }
                let all = self.own.borrow();
                let Some(own) = all.get(&key) else { return Ok(()) };
                for unit in own.connections.keys() {
                    held.connect(&Limits::UNLIMITED, AtLimit::Count, Admit::Again, lease, *unit)?;
                }
                let symbols: Vec<String> = own.symbols.keys().cloned().collect();
                held.subscribe(&Limits::UNLIMITED, Admit::Again, lease, own.subscriptions, &symbols).map(drop)
            });
            if renewed.is_ok()
                && let Some(own) = self.own.borrow_mut().get_mut(&key)
            {
                own.until = until;
            }
        }
    }

    /// What a client's user holds now, over all holders: connections, subscriptions, symbols.
    pub fn held(&self, client: &Client, now: UnixNanos) -> Option<(u32, u32, u32)> {
        let (key, ..) = client.scopes().next()?;
        self.change("h", &key, now, |held: &mut Holdings| {
            Ok((held.connections(), held.subscriptions(), held.symbols()))
        })
        .ok()
    }

    /// Takes for the user, then for the tenant; a refusal of the second gives back the first. Which scopes took.
    fn each(
        &self,
        client: &Client,
        now: UnixNanos,
        mut take: impl FnMut(&mut Holdings, &Limits, AtLimit, Lease) -> Result<Taken, Refused>,
    ) -> Result<Taken, (Vec<Key>, Refused)> {
        let lease = Lease { holder: self.holder, until: now.plus_millis(LEASE_MS) };
        let mut sum = Taken::default();
        let mut done = Vec::new();
        for (key, limits, at_limit) in client.scopes() {
            let taken = self.change("h", &key, now, |held: &mut Holdings| {
                held.expire(now);
                take(held, limits, at_limit, lease)
            });
            match taken {
                Ok(taken) => {
                    sum = Taken { warned: sum.warned || taken.warned, over: sum.over || taken.over };
                    done.push(key);
                }
                Err(refused) => return Err((done, refused)),
            }
        }
        Ok(sum)
    }

    fn settle(
        &self,
        client: &Client,
        taken: Result<Taken, (Vec<Key>, Refused)>,
        undo: impl Fn(&Key),
        note: impl Fn(&mut Own),
        now: UnixNanos,
    ) -> Result<Taken, Refused> {
        match taken {
            Ok(taken) => {
                let mut all = self.own.borrow_mut();
                for (key, ..) in client.scopes() {
                    let own = all.entry(key).or_default();
                    own.until = now.plus_millis(LEASE_MS);
                    note(own);
                }
                Ok(taken)
            }
            Err((done, refused)) => {
                done.iter().for_each(undo);
                Err(refused)
            }
        }
    }

    fn not_held(&self, key: &Key, symbols: &[String]) -> Vec<String> {
        let all = self.own.borrow();
        let own = all.get(key);
        symbols.iter().filter(|symbol| own.is_none_or(|own| !own.symbols.contains_key(*symbol))).cloned().collect()
    }

    fn give(&self, key: &Key, unit: Option<u64>, subscriptions: u32, symbols: &[String]) {
        // A connection that another session of this holder still has is not given back.
        let unit =
            unit.filter(|unit| !self.own.borrow().get(key).is_some_and(|own| own.connections.contains_key(unit)));
        let _ = self.change("h", key, UnixNanos(0), |held: &mut Holdings| {
            held.release(self.holder, unit, subscriptions, symbols);
            Ok(())
        });
    }

    /// Changes one user's or tenant's value in its cell, by compare-and-swap.
    fn change<V: Value, T>(
        &self,
        kind: &str,
        key: &Key,
        now: UnixNanos,
        mut change: impl FnMut(&mut V) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let cell = cell_name(kind, key);
        for _ in 0..TRIES_MAX {
            let (bytes, version) = match self.cells.read(&cell) {
                Some((bytes, version)) => (bytes, Some(version)),
                None => (Vec::new(), None),
            };
            // What cannot be read is not taken for empty: nothing is granted on it.
            let Some(mut values) = read_cell::<V>(&bytes) else { return Err(Refused::for_good(Reason::QuotaMessages)) };
            let before = values.get(&key.1).cloned().unwrap_or_default();
            let mut after = before.clone();
            let result = change(&mut after);
            if result.is_err() && after == before {
                return result;
            }
            if after.is_over(now) {
                values.remove(&key.1);
            } else {
                values.insert(key.1.clone(), after);
            }
            if self.cells.swap(&cell, &write_cell(&values), version) {
                return result;
            }
        }
        Err(Refused { reason: Reason::QuotaMessages, retry_after_ms: Some(100) })
    }
}

/// Gives back one of a counted thing; whether it was the last.
fn leave<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: &K) -> bool {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        Some(_) => counts.remove(key).is_some(),
        None => false,
    }
}

/// What a cell holds of each user or tenant.
trait Value: Clone + Default + PartialEq {
    fn put(&self, out: &mut Vec<u8>);
    fn take(from: &mut Reader<'_>) -> Option<Self>;
    fn is_over(&self, now: UnixNanos) -> bool;
}

impl Value for Rates {
    fn put(&self, out: &mut Vec<u8>) {
        self.write(out);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Self::read(from)
    }

    fn is_over(&self, now: UnixNanos) -> bool {
        *self == Self::default() || self.is_over(now)
    }
}

impl Value for Holdings {
    fn put(&self, out: &mut Vec<u8>) {
        self.write(out);
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Self::read(from)
    }

    fn is_over(&self, _: UnixNanos) -> bool {
        self.is_empty()
    }
}

fn cell_name(kind: &str, key: &Key) -> String {
    // FNV-1a: spreads names evenly, and the same in every process.
    let hash = key
        .1
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    let scope = if key.0 == Scope::User { "u" } else { "t" };
    format!("quota/{kind}{scope}/{}", hash % CELLS)
}

fn read_cell<V: Value>(bytes: &[u8]) -> Option<BTreeMap<String, V>> {
    let mut from = Reader(bytes);
    let mut values = BTreeMap::new();
    while !from.is_empty() {
        let name = from.text()?;
        values.insert(name, V::take(&mut from)?);
    }
    Some(values)
}

fn write_cell<V: Value>(values: &BTreeMap<String, V>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in values {
        put_text(&mut out, name);
        value.put(&mut out);
    }
    out
}
