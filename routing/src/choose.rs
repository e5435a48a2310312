//! The choice of an endpoint: the sticky token's, then where the user was, then the cluster's policy; in the nearest region
//! that is not too loaded; among those that serve, can do what is asked, and are not full.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::chance::{cost_of, hash_of, mix};
use crate::endpoint::{Endpoint, WARM};
use crate::roster::Roster;
use crate::set::{Lane, Set};
use crate::settings::Policy;
use crate::state::State;

/// Draws before all are looked at in turn: with half of them away, one in 65,536 choices comes to that.
const DRAWS_MAX: usize = 16;

/// For whom an endpoint is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Who: the same user gets the same endpoint, as long as it takes sessions. Empty for nobody, who is not remembered.
    pub user: &'a str,
    /// The address that a verified sticky token names.
    pub place: Option<&'a str>,
    /// The lane that a route puts the session on: its endpoints first, all others if none of them takes it.
    pub lane: Option<&'a str>,
    /// Where the client is.
    pub region: Option<&'a str>,
    /// The exchange that is asked for.
    pub exchange: Option<&'a str>,
    /// What the endpoint must be able to do.
    pub requires: &'a [&'a str],
    /// Another policy than the cluster's.
    pub policy: Option<Policy>,
}

/// Why it is this endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The sticky token names it.
    Token,
    /// The user was there.
    Remembered,
    /// A policy chose it.
    Policy(Policy),
    /// None is known to serve; this one is not known not to.
    Unchecked,
}

impl Why {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Token => "sticky token",
            Self::Remembered => "remembered",
            Self::Policy(policy) => policy.word(),
            Self::Unchecked => "unchecked",
        }
    }
}

/// Where to look, and what is fair there.
struct Scope {
    range: Range<usize>,
    sessions: u64,
    weight: u64,
}

impl Roster {
    /// The endpoint for `ask`. What it costs is the policy's; the walk over all endpoints is only for those that none of
    /// [`DRAWS_MAX`] draws found.
    pub fn choose(&self, ask: &Ask<'_>, now: Duration) -> Option<Arc<Endpoint>> {
        self.choose_why(ask, now).map(|(endpoint, _)| endpoint)
    }

    /// The same, and why.
    pub fn choose_why(&self, ask: &Ask<'_>, now: Duration) -> Option<(Arc<Endpoint>, Why)> {
        let set = self.set();
        let user = hash_of(ask.user.as_bytes());
        let (place, why) = self.place_for(&set, ask, user, now)?;
        let endpoint = Arc::clone(&set.endpoints[place]);
        if let Some(table) = self.table.as_ref().filter(|_| !ask.user.is_empty()) {
            table.put(user, endpoint.hash, now);
        }
        Some((endpoint, why))
    }

    fn place_for(&self, set: &Set, ask: &Ask<'_>, user: u64, now: Duration) -> Option<(usize, Why)> {
        let is_its_lane = |place: usize| {
            let lane = set.endpoints[place].about.lane.as_deref();
            lane.is_none() || lane == ask.lane
        };
        let named = ask.place.and_then(|address| set.place(address)).filter(|place| is_its_lane(*place));
        if let Some(place) = named
            && [State::Serving, State::Unchecked].iter().any(|state| self.takes(&set.endpoints[place], ask, *state))
        {
            return Some((place, Why::Token));
        }
        let was = self.table.as_ref().filter(|_| !ask.user.is_empty()).and_then(|table| table.get(user, now));
        if let Some(place) = was.and_then(|hash| set.place_of_hash(hash)).filter(|place| is_its_lane(*place))
            && self.takes(&set.endpoints[place], ask, State::Serving)
        {
            return Some((place, Why::Remembered));
        }
        let policy = ask.policy.unwrap_or(self.settings.policy);
        let lanes = || ask.lane.map(Some).into_iter().chain([None]).filter_map(|name| set.lane(name));
        for lane in lanes() {
            for scope in self.scopes(set, lane, ask) {
                if let Some(place) = self.by_policy(set, &scope, policy, ask, user, now) {
                    return Some((place, Why::Policy(policy)));
                }
            }
        }
        let unchecked = |at: &Endpoint| self.takes(at, ask, State::Unchecked);
        lanes()
            .find_map(|lane| self.highest(set, lane.range.clone(), user, now, unchecked))
            .map(|at| (at, Why::Unchecked))
    }

    /// Whether an endpoint in this state may get the session.
    fn takes(&self, endpoint: &Endpoint, ask: &Ask<'_>, wanted: State) -> bool {
        let (breaker, about) = (self.settings.breaker, &endpoint.about);
        let has_room = |most: u32, now: u32| most == 0 || now < most;
        endpoint.state() == wanted
            && has_room(breaker.sessions_max, endpoint.sessions())
            && has_room(breaker.pending_max, endpoint.pending())
            && ask.exchange.is_none_or(|exchange| about.exchanges.is_empty() || about.exchanges.contains(exchange))
            && ask.requires.iter().all(|feature| about.features.contains(*feature))
    }

    /// Where to look, in order: the whole lane; or, by regions, the client's own first, then the one that answers most
    /// quickly, each while it is not too loaded; at last the whole lane in any case.
    fn scopes(&self, set: &Set, lane: &Lane, ask: &Ask<'_>) -> Vec<Scope> {
        let (sessions, weight) = lane.load();
        let mut scopes = Vec::with_capacity(1);
        if let Some(percent) = self.settings.region_percent_max.filter(|_| lane.regions.len() > 1) {
            let mut regions: Vec<_> = lane.regions.iter().filter(|region| region.weight() > 0).collect();
            regions.sort_by_cached_key(|region| {
                let is_own = ask.region.is_some() && region.name.as_deref() == ask.region;
                // Its quickest: a region is as near as its nearest endpoint.
                let quickest = region.range.clone().filter_map(|place| set.endpoints[place].latency()).min();
                (!is_own, quickest.unwrap_or(Duration::MAX))
            });
            let fair = |its: u64| ((sessions + 1) * its * u64::from(percent)).div_ceil(100 * weight.max(1));
            let not_too_loaded = regions.iter().filter(|region| region.sessions() < fair(region.weight()));
            scopes.extend(not_too_loaded.map(|region| Scope {
                range: region.range.clone(),
                sessions: region.sessions(),
                weight: region.weight(),
            }));
        }
        scopes.push(Scope { range: lane.range.clone(), sessions, weight });
        scopes
    }

    fn by_policy(
        &self,
        set: &Set,
        scope: &Scope,
        policy: Policy,
        ask: &Ask<'_>,
        user: u64,
        now: Duration,
    ) -> Option<usize> {
        if scope.weight == 0 {
            return None;
        }
        let serves = |endpoint: &Endpoint| self.takes(endpoint, ask, State::Serving);
        match policy {
            Policy::Hash => {
                let percent = u64::from(self.settings.load_percent_max);
                let share = u128::from((scope.sessions + 1) * percent);
                let is_under = |endpoint: &Endpoint| {
                    let most = (share * u128::from(endpoint.about.weight)).div_ceil(u128::from(100 * scope.weight));
                    percent == 0 || u128::from(endpoint.sessions()) < most
                };
                let bounded = |endpoint: &Endpoint| serves(endpoint) && is_under(endpoint);
                self.highest(set, scope.range.clone(), user, now, bounded)
                    .or_else(|| self.highest(set, scope.range.clone(), user, now, serves))
            }
            Policy::LeastConnections | Policy::PeakEwma => {
                let first = self.draw(set, scope, now, &serves)?;
                let is_other = |endpoint: &Endpoint| *endpoint != *set.endpoints[first] && serves(endpoint);
                let cost = |place: usize| self.cost(set, place, policy, now);
                let second = self.draw(set, scope, now, &is_other).filter(|second| cost(*second) < cost(first));
                Some(second.unwrap_or(first))
            }
            Policy::RoundRobin => {
                let len = scope.range.len();
                let from = self.turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as usize;
                (0..len).map(|n| scope.range.start + (from + n) % len).find(|place| serves(&set.endpoints[*place]))
            }
            Policy::Weighted => {
                let before = set.weights_before[scope.range.start];
                let total = set.weights_before[scope.range.end] - before;
                for _ in 0..DRAWS_MAX {
                    // Steps of the golden ratio: as even as can be, however the weights lie.
                    let turn = self.turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let x = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    let at = before + ((u128::from(x) * u128::from(total)) >> 64) as u64;
                    let place = set.weights_before.partition_point(|sum| *sum <= at) - 1;
                    if serves(&set.endpoints[place]) && self.is_warm_enough(&set.endpoints[place], now) {
                        return Some(place);
                    }
                }
                self.draw(set, scope, now, &serves)
            }
            Policy::Random => self.draw(set, scope, now, &serves),
        }
    }

    /// Any that serves: drawn by weight, or the first from a drawn place on.
    fn draw(&self, set: &Set, scope: &Scope, now: Duration, serves: &impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let len = scope.range.len();
        let before = set.weights_before[scope.range.start];
        let total = set.weights_before[scope.range.end] - before;
        let any = || {
            let at = before + self.chance.below(total);
            set.weights_before.partition_point(|sum| *sum <= at) - 1
        };
        let drawn = (0..DRAWS_MAX).map(|_| any()).find(|place| {
            let endpoint = &set.endpoints[*place];
            serves(endpoint) && self.is_warm_enough(endpoint, now)
        });
        drawn.or_else(|| {
            let from = any();
            let in_turn = (0..len).map(|n| scope.range.start + (from - scope.range.start + n) % len);
            in_turn.into_iter().find(|place| serves(&set.endpoints[*place]))
        })
    }

    fn is_warm_enough(&self, endpoint: &Endpoint, now: Duration) -> bool {
        let warmth = endpoint.life.warmth(now, self.settings.slow_start);
        warmth == WARM || self.chance.below(WARM) < warmth
    }

    /// How dear one more session is there.
    fn cost(&self, set: &Set, place: usize, policy: Policy, now: Duration) -> f64 {
        let endpoint = &set.endpoints[place];
        let carried = f64::from(endpoint.sessions() + endpoint.pending() + 1);
        let announced = 1.0 + f64::from(endpoint.about.load_percent.unwrap_or(0).min(100)) / 100.0;
        // A little more than nothing, so that load decides where no latency is known yet.
        let latency = if policy == Policy::PeakEwma { endpoint.load.peak(now).max(1.0) } else { 1.0 };
        carried * announced * latency / f64::from(endpoint.about.weight)
    }

    /// Weighted rendezvous: the least -log(hash) / weight. Hashes of equal weight are compared as they are, so that a
    /// logarithm is taken once for each weight, and an endpoint is looked at only when it would win. O(N).
    fn highest(
        &self,
        set: &Set,
        range: Range<usize>,
        user: u64,
        now: Duration,
        takes: impl Fn(&Endpoint) -> bool,
    ) -> Option<usize> {
        let mut best: Option<(u64, u64, usize)> = None;
        let mut at = range.start;
        while at < range.end {
            let weight = set.weights[at];
            let mut of_weight: Option<(u64, usize)> = None;
            while at < range.end && set.weights[at] == weight {
                let score = mix(set.hashes[at] ^ user);
                if of_weight.is_none_or(|(highest, _)| score > highest) && takes(&set.endpoints[at]) {
                    let warmth = set.endpoints[at].life.warmth(now, self.settings.slow_start);
                    if warmth == WARM {
                        of_weight = Some((score, at));
                    } else {
                        better(&mut best, cost_of(score), u64::from(weight) * warmth, at);
                    }
                }
                at += 1;
            }
            if let Some((score, place)) = of_weight {
                better(&mut best, cost_of(score), u64::from(weight) * WARM, place);
            }
        }
        best.map(|(_, _, place)| place)
    }
}

/// Keeps the lesser of two costs per weight.
fn better(best: &mut Option<(u64, u64, usize)>, cost: u64, weight: u64, place: usize) {
    let is_better = best.is_none_or(|(least, its_weight, _)| {
        u128::from(cost) * u128::from(its_weight) < u128::from(least) * u128::from(weight)
    });
    if is_better {
        *best = Some((cost, weight, place));
    }
}

#[cfg(test)]
mod tests;
