//! What is held: connections, subscriptions, symbols. Each holder (a worker, a process) has a lease on what its sessions
//! hold; a holder that no longer renews it holds nothing, so that a crash gives everything back.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use super::code::{Reader, put, put_text};
use super::{Limits, Refused};
use crate::license::AtLimit;
use crate::{Reason, UnixNanos};

/// Whether limits are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Only within the limit.
    Within,
    /// In any case: it was admitted before, and is only taken over.
    Again,
}

/// What all holders of one user or tenant hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    holders: Vec<Holder>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holder {
    id: u64,
    until: UnixNanos,
    subscriptions: u32,
    connections: BTreeSet<u64>,
    symbols: BTreeSet<String>,
}

/// Who asks, and until when it holds what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The holder.
    pub holder: u64,
    /// Until when, unless it is renewed.
    pub until: UnixNanos,
}

/// Something was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// It is the first beyond 80 hundredths of a limit.
    pub warned: bool,
    /// It is over a limit, and was admitted to be counted.
    pub over: bool,
}

impl Holdings {
    /// Forgets holders whose lease is over.
    pub fn expire(&mut self, now: UnixNanos) {
        self.holders.retain(|holder| holder.until > now && !holder.is_empty());
    }

    /// Connections at once.
    pub fn connections(&self) -> u32 {
        let all: BTreeSet<u64> = self.holders.iter().flat_map(|holder| &holder.connections).copied().collect();
        all.len() as u32
    }

    /// Subscriptions at once.
    pub fn subscriptions(&self) -> u32 {
        self.holders.iter().fold(0, |sum, holder| sum.saturating_add(holder.subscriptions))
    }

    /// Distinct symbols at once.
    pub fn symbols(&self) -> u32 {
        let all: BTreeSet<&String> = self.holders.iter().flat_map(|holder| &holder.symbols).collect();
        all.len() as u32
    }

    /// Takes a connection. `unit` is what is counted: two connections of one unit count once.
    ///
    /// # Errors
    /// [`Reason::QuotaConnections`].
    pub fn connect(
        &mut self,
        limits: &Limits,
        at_limit: AtLimit,
        admit: Admit,
        lease: Lease,
        unit: u64,
    ) -> Result<Taken, Refused> {
        let known = self.holders.iter().any(|holder| holder.connections.contains(&unit));
        let used = self.connections();
        let over = !known && limits.connections.left(used) == 0;
        if over && at_limit == AtLimit::Refuse && admit == Admit::Within {
            return Err(Refused::for_good(Reason::QuotaConnections));
        }
        self.holder(lease).connections.insert(unit);
        Ok(Taken { warned: !known && limits.connections.is_first_warned(used, used + 1), over })
    }

    /// Takes `subscriptions` more, and these symbols for as long as the holder has them: all or nothing.
    ///
    /// # Errors
    /// [`Reason::QuotaSubscriptions`] or [`Reason::QuotaSymbols`]; nothing was taken.
    pub fn subscribe(
        &mut self,
        limits: &Limits,
        admit: Admit,
        lease: Lease,
        subscriptions: u32,
        symbols: &[String],
    ) -> Result<Taken, Refused> {
        let held = self.subscriptions();
        let mut distinct: BTreeSet<&String> = self.holders.iter().flat_map(|holder| &holder.symbols).collect();
        let used = distinct.len() as u32;
        distinct.extend(symbols);
        let after = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
        if admit == Admit::Within {
            if subscriptions > limits.subscriptions.left(held) {
                return Err(Refused::for_good(Reason::QuotaSubscriptions));
            }
            if after - used > limits.symbols.left(used) {
                return Err(Refused::for_good(Reason::QuotaSymbols));
            }
        }
        let warned = limits.subscriptions.is_first_warned(held, held.saturating_add(subscriptions))
            || limits.symbols.is_first_warned(used, after);
        let holder = self.holder(lease);
        holder.subscriptions = holder.subscriptions.saturating_add(subscriptions);
        holder.symbols.extend(symbols.iter().cloned());
        Ok(Taken { warned, over: false })
    }

    /// Gives back what a holder no longer holds.
    pub fn release(&mut self, holder: u64, unit: Option<u64>, subscriptions: u32, symbols: &[String]) {
        let Some(held) = self.holders.iter_mut().find(|known| known.id == holder) else { return };
        if let Some(unit) = unit {
            held.connections.remove(&unit);
        }
        held.subscriptions = held.subscriptions.saturating_sub(subscriptions);
        for symbol in symbols {
            held.symbols.remove(symbol);
        }
    }

    /// Prolongs a lease; false if it is over already, and everything has to be taken again.
    pub fn renew(&mut self, lease: Lease) -> bool {
        match self.holders.iter_mut().find(|known| known.id == lease.holder) {
            Some(held) => {
                held.until = held.until.max(lease.until);
                true
            }
            None => false,
        }
    }

    fn holder(&mut self, lease: Lease) -> &mut Holder {
        let at = match self.holders.iter().position(|known| known.id == lease.holder) {
            Some(at) => at,
            None => {
                self.holders.push(Holder { id: lease.holder, ..Holder::default() });
                self.holders.len() - 1
            }
        };
        let holder = &mut self.holders[at];
        holder.until = holder.until.max(lease.until);
        holder
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holders.iter().all(Holder::is_empty)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, self.holders.len() as u64);
        for holder in &self.holders {
            put(out, holder.id);
            put(out, holder.until.0);
            put(out, u64::from(holder.subscriptions));
            put(out, holder.connections.len() as u64);
            holder.connections.iter().for_each(|unit| put(out, *unit));
            put(out, holder.symbols.len() as u64);
            holder.symbols.iter().for_each(|symbol| put_text(out, symbol));
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut holders = Vec::new();
        for _ in 0..from.u64()? {
            let (id, until, subscriptions) = (from.u64()?, UnixNanos(from.u64()?), from.u32()?);
            let connections = (0..from.u64()?).map(|_| from.u64()).collect::<Option<_>>()?;
            let symbols = (0..from.u64()?).map(|_| from.text()).collect::<Option<_>>()?;
            holders.push(Holder { id, until, subscriptions, connections, symbols });
        }
        Some(Self { holders })
    }
}

impl Holder {
    fn is_empty(&self) -> bool {
        self.subscriptions == 0 && self.connections.is_empty() && self.symbols.is_empty()
    }
}
