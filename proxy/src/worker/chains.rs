//! A worker's chains: of each route the one in force, and the one that its canary sessions take.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::chain::RouteChain;
use crate::context::ConnectionContext;
use crate::generation::Generation;

/// See the file's description. Made when first asked for.
#[derive(Default)]
pub(super) struct Chains {
    in_force: BTreeMap<String, Rc<RouteChain>>,
    canary: BTreeMap<String, Rc<RouteChain>>,
}

impl Chains {
    /// The chain of a session.
    pub(super) fn of(
        &mut self,
        generation: &Generation,
        route: &str,
        context: &ConnectionContext,
    ) -> Option<Rc<RouteChain>> {
        let canary = generation.canaries.get(route).filter(|canary| canary.takes(context));
        let (chains, wanted) = match canary {
            Some(canary) => (&mut self.canary, &canary.route),
            None => (&mut self.in_force, generation.route(route)?),
        };
        if let Some(chain) = chains.get(route) {
            return Some(Rc::clone(chain));
        }
        let chain = RouteChain::attach(wanted);
        if canary.is_none() {
            chain.shadow_by(generation);
        }
        chains.insert(route.to_owned(), Rc::clone(&chain));
        Some(chain)
    }

    /// Forgets the chains that `next` has not: what comes asks for new ones.
    pub(super) fn keep_those_of(&mut self, next: &Generation) {
        let is_kept = |wanted: Option<&Arc<crate::generation::Route>>, chain: &Rc<RouteChain>| {
            wanted.is_some_and(|wanted| Arc::ptr_eq(wanted, chain.route()))
        };
        self.in_force.retain(|name, chain| is_kept(next.route(name), chain));
        for chain in self.in_force.values() {
            chain.shadow_by(next);
        }
        self.canary.retain(|name, chain| is_kept(next.canaries.get(name).map(|canary| &canary.route), chain));
    }

    /// All that are in use.
    pub(super) fn all(&self) -> Vec<Rc<RouteChain>> {
        self.in_force.values().chain(self.canary.values()).cloned().collect()
    }
}
