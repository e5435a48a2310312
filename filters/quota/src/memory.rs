//! What one session holds: granted when asked for, settled when answered, released when given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bawaba_policies::quota::{Limits, Refused, Usage};

/// Requests in flight that are remembered. More means a backend that does not answer; what the oldest took then stays
/// taken until the session ends.
const ASKED_MAX: usize = 1024;
/// Symbols that requests in flight may name together.
const ASKED_SYMBOLS_MAX: usize = 16_384;

/// One session.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    limits: Option<Limits>,
    usage: Usage,
    held: BTreeMap<String, BTreeSet<String>>,
    asked: VecDeque<(Option<u64>, Asked)>,
}

/// A request that went to the backend.
#[derive(Debug)]
enum Asked {
    /// So many symbols were taken for it, beside one subscription.
    Subscribe(u32),
    /// It gives these up; all if empty.
    Unsubscribe(String, Vec<String>),
}

impl Memory {
    /// Begins with these limits.
    pub(crate) const fn limit(&mut self, limits: Limits) {
        self.limits = Some(limits);
    }

    /// The limits and what was used of them; `None` before the handshake was judged.
    pub(crate) const fn usage(&mut self) -> Option<(&Limits, &mut Usage)> {
        match &self.limits {
            Some(limits) => Some((limits, &mut self.usage)),
            None => None,
        }
    }

    /// Takes room for a subscription of up to `symbols` symbols, until its answer says how many it has.
    pub(crate) fn subscribe(&mut self, id: Option<u64>, symbols: u32) -> Option<Refused> {
        let (limits, usage) = self.usage()?;
        if let Err(refused) = usage.subscribe(limits, symbols) {
            return Some(refused);
        }
        self.ask(id, Asked::Subscribe(symbols));
        None
    }

    /// Notes an unsubscribe; what it gives up is released when it is answered.
    pub(crate) fn unsubscribe(&mut self, id: Option<u64>, subscription: String, symbols: Vec<String>) {
        self.ask(id, Asked::Unsubscribe(subscription, symbols));
    }

    fn ask(&mut self, id: Option<u64>, asked: Asked) {
        self.asked.push_back((id, asked));
        let named = |(_, asked): &(Option<u64>, Asked)| match asked {
            Asked::Subscribe(_) => 0,
            Asked::Unsubscribe(_, symbols) => symbols.len(),
        };
        let mut symbols: usize = self.asked.iter().map(named).sum();
        while self.asked.len() > ASKED_MAX || symbols > ASKED_SYMBOLS_MAX {
            let Some(oldest) = self.asked.pop_front() else { break };
            symbols -= named(&oldest);
        }
    }

    /// `subscribed`: settles for what was accepted. Returns the accepted symbols that there was no room for.
    pub(crate) fn subscribed(
        &mut self,
        id: Option<u64>,
        subscription: Option<&str>,
        accepted: Vec<String>,
    ) -> Vec<String> {
        let at = self.asked.iter().position(|(known, asked)| *known == id && matches!(asked, Asked::Subscribe(_)));
        let taken = match at.and_then(|at| self.asked.remove(at)) {
            Some((_, Asked::Subscribe(taken))) => taken,
            _ => return Vec::new(),
        };
        self.usage.unsubscribe(taken);
        let (Some(limits), Some(subscription), false) = (self.limits, subscription, accepted.is_empty()) else {
            return Vec::new();
        };
        let known = self.held.contains_key(subscription);
        if !known && self.usage.subscribe(&limits, 0).is_err() {
            return accepted;
        }
        let held = self.held.entry(subscription.to_owned()).or_default();
        let usage = &mut self.usage;
        let fits = |symbol: &String| {
            held.contains(symbol) || (usage.extend(&limits, 1).is_ok() && held.insert(symbol.clone()))
        };
        // A channel without symbols is accepted as one entry without a name.
        let named = accepted.into_iter().filter(|symbol| !symbol.is_empty());
        let (_, over): (Vec<_>, Vec<_>) = named.partition(fits);
        over
    }

    /// `unsubscribed`: releases what the request gave up.
    pub(crate) fn unsubscribed(&mut self, id: Option<u64>) {
        let at = self.asked.iter().position(|(known, asked)| *known == id && matches!(asked, Asked::Unsubscribe(..)));
        if let Some((_, Asked::Unsubscribe(subscription, symbols))) = at.and_then(|at| self.asked.remove(at)) {
            self.release(&subscription, &symbols);
        }
    }

    /// `error`: nothing came of the request.
    pub(crate) fn refused(&mut self, id: Option<u64>) {
        let at = self.asked.iter().position(|(known, _)| id.is_some() && *known == id);
        if let Some((_, Asked::Subscribe(taken))) = at.and_then(|at| self.asked.remove(at)) {
            self.usage.unsubscribe(taken);
        }
    }

    /// Releases symbols of a subscription; all of it if `symbols` is empty, or when none is left.
    pub(crate) fn release(&mut self, subscription: &str, symbols: &[String]) {
        let Some(held) = self.held.get_mut(subscription) else { return };
        if symbols.is_empty() {
            // As many as there are symbols held, and that fits the u32 they were taken by.
            self.usage.unsubscribe(held.len() as u32);
            self.held.remove(subscription);
            return;
        }
        let gone = symbols.iter().filter(|symbol| held.remove(*symbol)).count();
        self.usage.release_symbols(gone as u32);
        if held.is_empty() {
            self.usage.unsubscribe(0);
            self.held.remove(subscription);
        }
    }
}
