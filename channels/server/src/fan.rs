//! One subscription shared by everyone who asked for the same thing: (channel, rate, fields).
//!
//! Updates are encoded once per encoding and the bytes shared. With a rate, only the newest state leaves in each
//! window, with the span of sequence numbers that it stands for. Knows members by number, not their sockets.

use std::collections::BTreeSet;

use bawaba_channels::filter::{Filter, Sent};
use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Filters, Update};

/// A session's number within this process.
pub(crate) type SessionId = u64;

/// Rates are rounded up to this, so that the number of distinct subscriptions stays bounded.
const RATE_STEP_MS: u32 = 10;
/// Slowest rate.
const RATE_MAX_MS: u32 = 60_000;

/// What makes subscriptions the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The channel.
    pub(crate) channel: Channel,
    /// Shortest time between two updates of an instrument; 0 for every update.
    rate_ms: u32,
    /// What is left out.
    pub(crate) filter: Filter,
}

impl Key {
    /// The key for a request; the error names what is not supported.
    pub(crate) fn new(channel: Channel, rate_ms: u32, filters: Option<&Filters>) -> Result<Self, String> {
        let filter = Filter::new(channel, filters)?;
        let conflates = matches!(channel, Channel::MarketData | Channel::OrderBook);
        let rate_ms = if conflates { rate_ms.min(RATE_MAX_MS).next_multiple_of(RATE_STEP_MS) } else { 0 };
        Ok(Self { channel, rate_ms, filter })
    }

    /// The subscription's name on the wire: the same for everyone with the same key.
    pub(crate) fn name(&self, exchange: &str) -> String {
        let mut name = format!("{}/{}", exchange.to_ascii_lowercase(), self.channel);
        if self.rate_ms > 0 {
            name.push_str(&format!("@{}ms", self.rate_ms));
        }
        name.push_str(&self.filter.to_string());
        name
    }

    const fn rate_ns(&self) -> i64 {
        self.rate_ms as i64 * 1_000_000
    }

    /// An update as this subscription carries it.
    pub(crate) fn dress(&self, update: &Update, subscription: &str) -> Update {
        let mut update = Update { subscription: subscription.into(), ..update.clone() };
        self.filter.dress(&mut update);
        update
    }
}

/// A follower of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Who.
    pub(crate) session: SessionId,
    /// It has everything up to and with this sequence number.
    pub(crate) after: u64,
}

/// Where one stream of a subscription stands.
#[derive(Debug, Default)]
struct Lane {
    members: Vec<Member>,
    /// First number that waits: for the end of the window, or for an update that the filter lets out.
    waiting_from: Option<u64>,
    /// Something that the filter lets out waits for the end of the window.
    is_due: bool,
    /// The prices of what was sent last.
    sent: Option<Sent>,
    /// The window is open until then.
    due: i64,
}

/// A shared subscription.
#[derive(Debug)]
pub(crate) struct Fan {
    /// What it carries.
    pub(crate) key: Key,
    /// Its name on the wire.
    pub(crate) name: String,
    /// One per instrument; a single one on channels without symbols.
    lanes: Vec<Lane>,
    /// When conflated lanes are due.
    due: BTreeSet<(i64, usize)>,
    members: usize,
}

impl Fan {
    pub(crate) fn new(key: Key, name: String, lanes: usize) -> Self {
        let lanes = std::iter::repeat_with(Lane::default).take(lanes.max(1)).collect();
        Self { key, name, lanes, due: BTreeSet::new(), members: 0 }
    }

    /// Adds a member to a lane, or moves where it stands.
    pub(crate) fn join(&mut self, lane: usize, member: Member) {
        let lane = &mut self.lanes[lane];
        match lane.members.iter_mut().find(|m| m.session == member.session) {
            Some(there) => *there = member,
            None => {
                lane.members.push(member);
                self.members += 1;
            }
        }
    }

    /// Takes a member out of a lane; whether it was there.
    pub(crate) fn leave(&mut self, lane: usize, session: SessionId) -> bool {
        let members = &mut self.lanes[lane].members;
        let found = members.iter().position(|m| m.session == session);
        if let Some(place) = found {
            members.swap_remove(place);
            self.members -= 1;
        }
        found.is_some()
    }

    /// Whether nobody follows any of it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Who follows a lane.
    pub(crate) fn members(&self, lane: usize) -> &[Member] {
        &self.lanes[lane].members
    }

    /// An update came in: `Some(first_seq)` if it leaves now, `None` if it waits or nobody follows.
    pub(crate) fn offer(&mut self, lane_index: usize, update: &Update, now: i64) -> Option<Option<u64>> {
        let lane = &mut self.lanes[lane_index];
        if lane.members.is_empty() {
            (lane.waiting_from, lane.sent, lane.is_due) = (None, None, false);
            return None;
        }
        if !lane.is_due && !self.key.filter.passes(update, lane.sent.as_ref()) {
            lane.waiting_from.get_or_insert(update.seq);
            return None;
        }
        if self.key.rate_ms > 0 {
            if now < lane.due {
                lane.waiting_from.get_or_insert(update.seq);
                if !lane.is_due {
                    lane.is_due = true;
                    self.due.insert((lane.due, lane_index));
                }
                return None;
            }
            lane.due = now + self.key.rate_ns();
            lane.is_due = false;
        }
        lane.sent = Some(Sent::of(update));
        Some(lane.waiting_from.take())
    }

    /// Those who just joined have nothing from this number on: the next update stands for it too.
    pub(crate) fn owe(&mut self, lane_index: usize, from_seq: u64) {
        let lane = &mut self.lanes[lane_index];
        lane.waiting_from = Some(lane.waiting_from.map_or(from_seq, |first| first.min(from_seq)));
    }

    /// When a waiting lane is due.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The update of a lane from [`Self::take_due`] goes out.
    pub(crate) fn sent(&mut self, lane: usize, update: &Update) {
        self.lanes[lane].sent = Some(Sent::of(update));
    }

    /// A lane whose window has ended, and the first sequence number that waits there.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(usize, u64)> {
        while let Some(&(due, index)) = self.due.first().filter(|(due, _)| *due <= now) {
            self.due.pop_first();
            let lane = &mut self.lanes[index];
            if lane.due == due
                && core::mem::take(&mut lane.is_due)
                && let Some(first) = lane.waiting_from.take()
            {
                lane.due = now + self.key.rate_ns();
                return Some((index, first));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn update(seq: u64, side: &str) -> Update {
        let trade = bawaba_channels::wire::Trade { side: side.into(), ..Default::default() };
        Update { seq, data: Some(bawaba_channels::wire::Data::Trade(trade)), ..Update::default() }
    }

    #[test]
    fn the_same_request_has_the_same_name() {
        let filters =
            |names: &[&str]| Filters { fields: names.iter().map(|n| (*n).to_owned()).collect(), ..Filters::default() };
        let key = Key::new(Channel::MarketData, 245, Some(&filters(&["ask", "last"]))).unwrap();
        assert_eq!(key.name("EGX"), "egx/market_data@250ms:last,ask");
        assert_eq!(Key::new(Channel::MarketData, 250, Some(&filters(&["last", "ask", "ask"]))).unwrap(), key);
        assert_eq!(Key::new(Channel::Trades, 250, None).unwrap().name("ADX"), "adx/trades");
        assert!(Key::new(Channel::MarketData, 0, Some(&filters(&["price"]))).unwrap_err().contains("\"price\""));
    }

    #[test]
    fn what_a_filter_leaves_out_is_folded_into_what_it_lets_out() {
        let buys = Filters { sides: vec!["buy".into()], ..Filters::default() };
        let mut fan = Fan::new(Key::new(Channel::Trades, 0, Some(&buys)).unwrap(), String::new(), 1);
        fan.join(0, Member { session: 1, after: 0 });
        let offered = [(1, "buy"), (2, "sell"), (3, "sell"), (4, "buy"), (5, "buy")]
            .map(|(seq, side)| fan.offer(0, &update(seq, side), 0));
        assert_eq!(offered, [Some(None), None, None, Some(Some(2)), Some(None)]);
        // One that comes back from before what was left out is not told of a hole that is none.
        fan.owe(0, 3);
        assert_eq!(fan.offer(0, &update(6, "buy"), 0), Some(Some(3)));
    }

    proptest! {
        /// Spans follow each other without a hole, at most one per window, and the last update always leaves.
        #[test]
        fn a_conflated_lane_covers_every_number_once(gaps in prop::collection::vec(0i64..30, 1..200), rate in 1u32..5) {
            let mut fan = Fan::new(Key::new(Channel::MarketData, rate * 10, None).unwrap(), String::new(), 1);
            fan.join(0, Member { session: 1, after: 0 });
            let (mut now, mut covered, mut sent_at) = (1_000_000i64, 0u64, i64::MIN / 2);
            for (index, gap) in gaps.iter().enumerate() {
                let seq = index as u64 + 1;
                let until = now + gap * 1_000_000;
                while let Some(due) = fan.next_due().filter(|due| *due <= until) {
                    let Some((_, first)) = fan.take_due(due) else { break };
                    prop_assert_eq!(first, covered + 1);
                    prop_assert!(due - sent_at >= i64::from(rate) * 10_000_000);
                    (covered, sent_at) = (seq - 1, due);
                }
                now = until;
                if let Some(first) = fan.offer(0, &update(seq, "buy"), now) {
                    prop_assert_eq!(first.unwrap_or(seq), covered + 1);
                    prop_assert!(now - sent_at >= i64::from(rate) * 10_000_000);
                    (covered, sent_at) = (seq, now);
                }
            }
            while let Some(due) = fan.next_due() {
                if let Some((_, first)) = fan.take_due(due) {
                    prop_assert_eq!(first, covered + 1);
                    covered = gaps.len() as u64;
                }
            }
            prop_assert_eq!(covered, gaps.len() as u64);
        }
    }
}
