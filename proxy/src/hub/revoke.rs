//! What was subscribed to and may no longer be had: its sessions are told with `revoked`, and no longer follow it.

use std::rc::Rc;

use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Event, Refused, Revoked};

use super::Hub;

impl Hub {
    /// What this edge follows may no longer be had here, says the one that it stands before.
    pub(super) fn on_revoked(&mut self, lane: usize, revoked: &Revoked) {
        let is_meant = |id: &usize| {
            self.sources.get(*id).is_some_and(|source| {
                source.subscription.as_deref() == Some(revoked.subscription.as_str())
                    && (revoked.symbols.is_empty()
                        || revoked.symbols.iter().any(|symbol| **symbol == *source.key.symbol))
            })
        };
        let meant: Vec<usize> = self.lanes[lane].sources.iter().copied().filter(is_meant).collect();
        for id in meant {
            let symbol = self.sources[id].key.symbol.to_string();
            self.revoke_source(
                id,
                &Refused { symbol, code: revoked.code.clone(), reason: revoked.reason.clone(), metadata: None },
            );
        }
    }

    /// A server refuses what sessions follow already, as one may after a failover.
    pub(super) fn revoke_source(&mut self, id: usize, refused: &Refused) {
        let Some(source) = self.sources.get_mut(id) else { return };
        // Refused: there is nothing to unsubscribe from.
        source.live = false;
        let symbol = Rc::clone(&source.key.symbol);
        let private = source.private.clone();
        let feeds = source.groups.iter().flat_map(|group| &group.feeds).filter_map(|feed| self.feeds.get(*feed));
        let followers: Vec<(usize, usize)> =
            feeds.flat_map(|feed| feed.followers.iter().map(|(_, follower)| (follower.seat, follower.slot))).collect();
        if followers.is_empty() && private.is_empty() {
            return self.release_source(id);
        }
        tracing::warn!(channel = %self.sources[id].key.channel, %symbol, code = %refused.code, sessions = followers.len() + private.len(), "a server refuses what flowed: revoked");
        // Held while its last followers go.
        self.sources[id].held += 1;
        for (index, slot) in followers {
            self.revoke(index, slot, refused);
        }
        for (seat, name) in private {
            if let Some(index) = self.seat_index(seat) {
                self.revoke_private(index, id, &name, refused);
            }
        }
        if let Some(source) = self.sources.get_mut(id) {
            source.held -= 1;
        }
        self.release_source(id);
    }

    /// A session no longer follows a symbol, and is told so behind what it has not read yet.
    pub(super) fn revoke(&mut self, index: usize, slot: usize, refused: &Refused) {
        let Some(follow) = self.seats[index].follows.get(slot) else { return };
        let name = Rc::clone(&self.feeds[follow.feed].key.subscription);
        let symbol = Rc::clone(&self.sources[follow.source].key.symbol);
        let mut unread = std::mem::take(self.seats[index].outbox.direct());
        if self.seats[index].follows[slot].queued {
            // One that was overtaken, or is owed something, loses it: it may not be had any more.
            self.copy(index, slot, &mut unread);
        }
        *self.seats[index].outbox.direct() = unread;
        if let Some(subscription) = self.seats[index].subscriptions.get_mut(&name) {
            subscription.slots.remove(&symbol);
            if subscription.slots.is_empty() {
                self.seats[index].subscriptions.remove(&name);
            }
        }
        self.drop_follow(index, slot);
        let symbols = if symbol.is_empty() { Vec::new() } else { vec![symbol.to_string()] };
        self.say_revoked(index, &name, symbols, refused);
    }

    /// A session no longer follows a channel of its own.
    pub(super) fn revoke_private(&mut self, index: usize, source: usize, name: &Rc<str>, refused: &Refused) {
        self.seats[index].subscriptions.remove(name);
        self.leave_private(index, source);
        self.say_revoked(index, name, Vec::new(), refused);
    }

    fn say_revoked(&mut self, index: usize, subscription: &str, symbols: Vec<String>, refused: &Refused) {
        if let Ok(reason) = refused.code.parse::<Reason>() {
            self.shared.metrics.refused(reason);
        }
        let revoked = Revoked {
            subscription: subscription.to_owned(),
            symbols,
            code: refused.code.clone(),
            reason: refused.reason.clone(),
        };
        // Through the session's own filters: what they count for it is given back.
        self.send(index, &Event::Revoked(revoked));
    }
}
