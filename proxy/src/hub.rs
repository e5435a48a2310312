//! The hub: every session, source, cohort and feed of one worker, as one state machine without locks.
//!
//! Trunks bring events in, sessions bring requests in; each event is judged once per cohort and encoded once per
//! feed, and a flush copies to every session what is new for it, in one write. Opens no socket.

mod cohort;
mod deliver;
mod feed;
mod flush;
mod grant;
mod lane;
mod lanes;
mod late;
mod order;
mod pace;
mod private;
mod rejudge;
mod relane;
mod reply;
mod request;
mod resume;
mod revoke;
mod seat;
mod source;
mod subscribe;
mod swap;
mod sweep;
mod used;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame;
use bawaba_channels::name::Exchange;
use bawaba_channels::wire::{Event, Gap, Market};
use slab::Slab;
use tokio::sync::Notify;

use crate::counters::Counters;
use crate::shared::Shared;
use cohort::{Cohort, CohortKey};
use feed::{Feed, FeedKey, Follower, encode_into};
use lane::Lane;
pub(crate) use lane::LaneKey;
pub(crate) use request::{Gone, refused_word};
use seat::Closing;
use seat::Owed;
pub(crate) use seat::{NewSeat, Seat, SeatKey};
use source::{SourceKey, Stream};
use subscribe::PendingSubscribe;

/// Bytes copied for one session before they are written: a large write costs little more than a small one, and
/// several of these fit the socket's buffer.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// One stream from a trunk, and who follows it.
struct Source {
    serial: u64,
    key: SourceKey,
    stream: Stream,
    /// The newest message of a channel that has state but no sequence (market status).
    status: Option<Event>,
    live: bool,
    groups: Vec<Group>,
    /// Sessions on a private channel, with their subscription's name.
    private: Vec<(SeatKey, Rc<str>)>,
    /// Of those, whom the server's answer was for: what is not new is for them.
    joining: Vec<(SeatKey, Rc<str>)>,
    /// Its name on the trunk.
    subscription: Option<Rc<str>>,
    /// Pending subscriptions that wait for it.
    waiters: Vec<u64>,
    /// Pending subscriptions that count on it.
    held: usize,
    /// Pending subscriptions for which the server replays what is no longer kept here.
    histories: Vec<u64>,
    /// Asked for again because of a hole: what comes before the answer is dropped.
    recovering: bool,
    /// The late sources that hang on it.
    late: Vec<usize>,
    /// On a late source: what comes later.
    line: Option<Box<late::Line>>,
}

impl Source {
    fn new(serial: u64, key: SourceKey) -> Self {
        Self {
            serial,
            key,
            stream: Stream::default(),
            status: None,
            live: false,
            groups: Vec::new(),
            private: Vec::new(),
            joining: Vec::new(),
            subscription: None,
            waiters: Vec::new(),
            held: 0,
            histories: Vec::new(),
            recovering: false,
            late: Vec::new(),
            line: None,
        }
    }
}

impl Source {
    /// Whether anyone follows it, or waits to.
    fn is_used(&self) -> bool {
        !self.groups.is_empty()
            || !self.private.is_empty()
            || !self.waiters.is_empty()
            || self.held > 0
            || !self.late.is_empty()
    }
}

/// The feeds of one cohort at one source.
struct Group {
    cohort: usize,
    feeds: Vec<usize>,
    /// The judged snapshot at a place.
    snapshot: Option<(String, u64, Rc<[Event]>)>,
}

/// See the module.
pub(crate) struct Hub {
    shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    seats: Slab<Seat>,
    serials: u64,
    sources: Slab<Source>,
    source_index: HashMap<SourceKey, usize>,
    feeds: Slab<Feed>,
    cohorts: Slab<Cohort>,
    cohort_index: HashMap<CohortKey, usize>,
    lanes: Slab<Lane>,
    /// Lanes that need a task; the worker takes them.
    new_lanes: Vec<LaneKey>,
    pending: BTreeMap<u64, PendingSubscribe>,
    next_pending: u64,
    markets: BTreeMap<Exchange, Market>,
    /// Where open orders live, for cancels that do not name an exchange.
    orders: order::Homes,
    dirty: Vec<usize>,
    /// Sessions that have had all that they were allowed.
    spent: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// When lines of late sources have something due.
    late_timers: BinaryHeap<Reverse<(Instant, usize)>>,
    late_sources: BTreeSet<usize>,
    /// Woken when an earlier timer was set.
    pub(crate) timer_set: Rc<Notify>,
    scratch: Vec<u8>,
    read_buffer: Vec<u8>,
}

impl Hub {
    pub(crate) fn new(shared: &Arc<Shared>, counters: Arc<Counters>) -> Self {
        Self {
            shared: Arc::clone(shared),
            counters,
            seats: Slab::new(),
            serials: 0,
            sources: Slab::new(),
            source_index: HashMap::new(),
            feeds: Slab::new(),
            cohorts: Slab::new(),
            cohort_index: HashMap::new(),
            lanes: Slab::new(),
            new_lanes: Vec::new(),
            pending: BTreeMap::new(),
            next_pending: 1,
            markets: BTreeMap::new(),
            orders: order::Homes::default(),
            dirty: Vec::new(),
            spent: Vec::new(),
            timers: BinaryHeap::new(),
            late_timers: BinaryHeap::new(),
            late_sources: BTreeSet::new(),
            timer_set: Rc::new(Notify::new()),
            scratch: Vec::with_capacity(BATCH_BYTES_MAX * 2),
            read_buffer: vec![0; BATCH_BYTES_MAX],
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// The seat, if it is still the same session's.
    fn seat_index(&self, key: SeatKey) -> Option<usize> {
        self.seats.get(key.index).filter(|seat| seat.serial == key.serial).map(|_| key.index)
    }

    /// Sends an event to one session as the edge's own notice, past the chain: it holds nothing of the market.
    fn notice(&mut self, index: usize, event: &Event) {
        let seat = &mut self.seats[index];
        encode_into(seat.encoding, event, seat.outbox.direct());
        self.mark_dirty(index);
    }

    fn mark_dirty(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        if !seat.dirty {
            seat.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Tells a feed's followers that it grew by `bytes`.
    fn mark_feed(&mut self, feed: usize, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let Self { feeds, seats, dirty, .. } = self;
        let feed = &mut feeds[feed];
        for (_, follower) in &feed.followers {
            let Some(seat) = seats.get_mut(follower.seat) else { continue };
            let Some(follow) = seat.follows.get_mut(follower.slot) else { continue };
            seat.backlog_bytes += bytes;
            if !follow.queued {
                follow.queued = true;
                feed.lagging += 1;
                seat.ready.push(follower.slot);
            }
            if !seat.dirty {
                seat.dirty = true;
                dirty.push(follower.seat);
            }
        }
    }

    /// Puts a follow on another feed; if it is behind there, it begins with what `owed` says.
    fn move_follow(&mut self, index: usize, slot: usize, key: FeedKey, cohort: usize, owed: Owed) {
        let Some(source) = self.seats[index].follows.get(slot).map(|follow| follow.source) else { return };
        let unread = self.seats[index].follows.get(slot).is_some_and(|follow| follow.queued);
        self.unlink(index, slot);
        let feed = self.feed_for(source, cohort, key);
        let follower = self.feeds[feed].followers.insert(Follower { seat: index, slot });
        let Some(follow) = self.seats[index].follows.get_mut(slot) else { return };
        follow.feed = feed;
        follow.follower = follower;
        follow.cursor = self.feeds[feed].log.end();
        follow.queued = false;
        let at = &self.feeds[feed];
        let stream = &self.sources[source].stream;
        // What was conflated and not yet due on the old feed is as unread as what was in its log.
        let behind = match &at.base {
            Some(base) => *base.epoch != *follow.epoch || base.seq > follow.seq,
            None => stream.seq() > follow.seq,
        };
        if unread || behind {
            // What it was owed before, it is still.
            if matches!(follow.owed, Owed::Nothing) {
                follow.owed = owed;
            }
            self.queue(index, slot);
        }
    }

    /// Puts a follow among those that have something to read.
    fn queue(&mut self, index: usize, slot: usize) {
        let seat = &mut self.seats[index];
        let Some(follow) = seat.follows.get_mut(slot) else { return };
        if !follow.queued {
            follow.queued = true;
            seat.ready.push(slot);
            if let Some(feed) = self.feeds.get_mut(follow.feed) {
                feed.lagging += 1;
            }
        }
        self.mark_dirty(index);
    }

    /// Takes a follow off its feed, and the feed away if nobody else follows it.
    fn unlink(&mut self, index: usize, slot: usize) {
        let seat = &mut self.seats[index];
        seat.ready.retain(|ready| *ready != slot);
        let Some(follow) = seat.follows.get(slot) else { return };
        let (feed_id, follower, queued) = (follow.feed, follow.follower, follow.queued);
        let Some(feed) = self.feeds.get_mut(feed_id) else { return };
        feed.followers.try_remove(follower);
        if queued {
            feed.lagging = feed.lagging.saturating_sub(1);
        }
        if feed.followers.is_empty() {
            let feed = self.feeds.remove(feed_id);
            let source = &mut self.sources[feed.source];
            for group in &mut source.groups {
                group.feeds.retain(|id| *id != feed_id);
            }
            source.groups.retain(|group| !group.feeds.is_empty());
        }
    }

    /// The feed of this key at a source, made if there is none.
    fn feed_for(&mut self, source: usize, cohort: usize, key: FeedKey) -> usize {
        let Self { sources, feeds, .. } = self;
        let at = &mut sources[source];
        let group = match at.groups.iter().position(|group| group.cohort == cohort) {
            Some(place) => &mut at.groups[place],
            None => {
                at.groups.push(Group { cohort, feeds: Vec::new(), snapshot: None });
                let last = at.groups.len() - 1;
                &mut at.groups[last]
            }
        };
        if let Some(feed) = group.feeds.iter().find(|feed| feeds[**feed].key == key) {
            return *feed;
        }
        let log_bytes_max = self.shared.config.limits.log_bytes_max as usize;
        let mut feed = Feed::new(key, source, cohort, log_bytes_max);
        // The source's place, if it has one; else the first update says where it begins.
        if at.stream.position().is_some() {
            feed.begin_at(at.stream.epoch(), at.stream.seq(), at.stream.state().cloned());
        }
        let id = feeds.insert(feed);
        group.feeds.push(id);
        id
    }

    /// Closes a session for reading too slowly; a token says where to come back to.
    fn close_slow(&mut self, index: usize) {
        self.counters.add_slow(1);
        let resume = self.sticky_token(index);
        self.seats[index].outbox.discard_direct();
        let drain = bawaba_channels::wire::Drain { retry_after_ms: 0, resume };
        self.notice(index, &Event::Drain(drain));
        self.close(index, CloseCode::SLOW, "slow: the client reads too slowly");
    }

    /// Begins to close a session: the Close frame is the last that it gets.
    pub(crate) fn close(&mut self, index: usize, code: CloseCode, reason: &'static str) {
        let seat = &mut self.seats[index];
        if seat.closing.is_some() {
            return;
        }
        frame::encode_close(seat.outbox.direct(), code, reason, None);
        self.close_written(index, code);
    }

    /// The Close frame is in the outbox: nothing may come behind it.
    fn close_written(&mut self, index: usize, code: CloseCode) {
        let deadline = Instant::now() + self.shared.config.timeouts.close;
        self.unfollow_all(index);
        let seat = &mut self.seats[index];
        seat.closing = Some(Closing { code, deadline, peer_closed: false });
        seat.wake();
        self.mark_dirty(index);
    }

    /// Ends everything that a session follows.
    fn unfollow_all(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        // Nothing is read any more; each follow would be looked for here.
        seat.ready.clear();
        let slots: Vec<usize> = seat.follows.iter().map(|(slot, _)| slot).collect();
        let subscriptions = std::mem::take(&mut seat.subscriptions);
        for slot in slots {
            self.drop_follow(index, slot);
        }
        for source in subscriptions.values().filter_map(|subscription| subscription.private) {
            self.leave_private(index, source);
        }
    }

    /// Ends a follow, and its source where nobody is left.
    fn drop_follow(&mut self, index: usize, slot: usize) {
        let Some(source) = self.seats[index].follows.get(slot).map(|follow| follow.source) else { return };
        self.use_ends(index, source);
        self.unlink(index, slot);
        self.seats[index].follows.try_remove(slot);
        self.release_source(source);
    }

    /// A token that brings the session's user back to where its trunks are.
    fn sticky_token(&self, index: usize) -> String {
        let seat = &self.seats[index];
        let places = seat
            .lanes
            .iter()
            .filter_map(|key| self.lanes.get(key.index).filter(|lane| lane.serial == key.serial))
            .filter_map(|lane| Some((lane.cluster.name.clone(), lane.endpoint.as_ref()?.address.clone())))
            .collect();
        self.shared.sticky.mint(&seat.context.user, &places, unix_now())
    }
}

/// An event of a cohort under another subscription's name.
fn rename(event: &Event, subscription: &str) -> Event {
    let mut event = event.clone();
    match &mut event {
        Event::Update(update) => update.subscription = subscription.to_owned(),
        Event::Revoked(revoked) => revoked.subscription = subscription.to_owned(),
        Event::Gap(Gap { subscription: name, .. }) => *name = subscription.to_owned(),
        Event::Alert(alert) => alert.subscription = Some(subscription.to_owned()),
        Event::MarketStatus(status) => status.subscription = Some(subscription.to_owned()),
        _ => {}
    }
    event
}

/// Seconds since the epoch.
pub(crate) fn unix_now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
