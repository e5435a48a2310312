//! The choice of an endpoint.

use std::sync::Arc;
use std::time::Duration;

use crate::chance::{cost_of, hash_of, mix};
use crate::endpoint::Endpoint;
use crate::roster::Roster;
use crate::set::Set;
use crate::state::State;

/// For whom an endpoint is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Who: the same user gets the same endpoint, as long as it takes sessions.
    pub user: &'a str,
    /// The address that a verified sticky token names.
    pub place: Option<&'a str>,
}

impl Roster {
    /// The endpoint for `ask`: the sticky one while it takes sessions, else the one with the highest rendezvous score
    /// among those that serve (or are unchecked, where none is known to serve). O(N).
    pub fn choose(&self, ask: &Ask<'_>, now: Duration) -> Option<Arc<Endpoint>> {
        let set = self.set();
        if let Some(place) = ask.place.and_then(|address| set.place(address))
            && matches!(set.endpoints[place].state(), State::Serving | State::Unchecked)
        {
            return Some(Arc::clone(&set.endpoints[place]));
        }
        let user = hash_of(ask.user.as_bytes());
        let by = |wanted| self.highest(&set, user, now, |endpoint| endpoint.state() == wanted);
        let place = by(State::Serving).or_else(|| by(State::Unchecked))?;
        Some(Arc::clone(&set.endpoints[place]))
    }

    /// Weighted rendezvous: the least -log(hash) / weight. Hashes of equal weight are compared as they are, so that a
    /// logarithm is taken once for each weight, and an endpoint is looked at only when it would win.
    fn highest(&self, set: &Set, user: u64, now: Duration, takes: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let mut best: Option<(u64, u64, usize)> = None;
        let mut at = 0;
        while at < set.hashes.len() {
            let weight = set.weights[at];
            let mut of_weight: Option<(u64, usize)> = None;
            while at < set.hashes.len() && set.weights[at] == weight {
                let score = mix(set.hashes[at] ^ user);
                if of_weight.is_none_or(|(highest, _)| score > highest) && takes(&set.endpoints[at]) {
                    let warmth = set.endpoints[at].life.warmth(now, self.settings.slow_start);
                    if warmth == crate::endpoint::WARM {
                        of_weight = Some((score, at));
                    } else {
                        better(&mut best, cost_of(score), u64::from(weight) * warmth, at);
                    }
                }
                at += 1;
            }
            if let Some((score, place)) = of_weight {
                better(&mut best, cost_of(score), u64::from(weight) * crate::endpoint::WARM, place);
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
