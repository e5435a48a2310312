//! The one place that owns the market's streams and everyone who follows them: a single task, no locks.
//!
//! Commands come in through a bounded queue; frames go out through each session's bounded outbox, never waiting
//! for it. Reads the clock and hands the time to everything below it. Knows no socket.

mod market;
mod operate;
mod streams;
mod subscribe;
mod trading;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bawaba_channels::claims::Claims;
use bawaba_channels::close::CloseCode;
use bawaba_channels::market::{Market, Said};
use bawaba_channels::name::Channel;
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{
    Alert, Drain, Encoding, ErrorEvent, Event, Pong, Refreshed, Request, Timestamp, Update, Welcome,
};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::fan::{Fan, SessionId};
use crate::feed::{Feed, Happening};
use crate::orders::Accounts;
use crate::outbox::{Closing, Outbox, event_frame};
use bawaba_channels::listing::Listing;
use market::Told;
use operate::Records;
pub(crate) use operate::{Operation, Ordered};
use streams::Streams;
use subscribe::Followed;

/// Most happenings handled before commands are looked at again.
const BATCH_MAX: usize = 512;
/// Commands that wait for the hub before sessions wait themselves.
const COMMANDS_MAX: usize = 1024;
/// Shortest nap between two looks at the feed.
const NAP: Duration = Duration::from_millis(1);

/// What sessions and the shell ask of the hub.
pub(crate) enum Command {
    /// A session begins; it is welcomed.
    Join(SessionId, Box<Joining>),
    /// A session's request.
    Ask(SessionId, Box<Request>),
    /// A session ended.
    Leave(SessionId),
    /// Everyone is told that this server goes away.
    Drain {
        /// When to come back at the earliest.
        retry_after: Duration,
    },
    /// Every connection is closed with 1012.
    CloseAll,
    /// An operator's or a service's request; it is answered.
    Operate(Box<Ordered>),
    /// The market as it is told, as JSON.
    Report(oneshot::Sender<String>),
    /// The audit records, as JSON.
    Audit(oneshot::Sender<String>),
}

/// A session as the hub needs it.
pub(crate) struct Joining {
    pub(crate) claims: Arc<Claims>,
    pub(crate) encoding: Encoding,
    pub(crate) outbox: Outbox,
    /// How often it is pinged.
    pub(crate) heartbeat: Duration,
}

/// How much there is to do: for `/load`.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Sessions that were welcomed and not left.
    pub(crate) sessions: AtomicUsize,
    /// Their subscriptions.
    pub(crate) subscriptions: AtomicUsize,
}

/// What the hub is told at its start.
pub(crate) struct Settings {
    /// Newest updates kept per stream.
    pub(crate) ring: usize,
    /// Subscriptions of one session; on a trunk, of one edge.
    pub(crate) subscriptions_per_session: usize,
    /// Names this process: private streams and sessions do not outlive it.
    pub(crate) boot: String,
}

struct Member {
    claims: Arc<Claims>,
    encoding: Encoding,
    outbox: Outbox,
    followed: HashMap<String, Followed>,
}

impl Member {
    fn tell(&self, event: &Event) {
        self.outbox.tell(self.encoding, event);
    }

    fn refuse(&self, id: Option<u64>, refusal: Refusal) {
        self.tell(&refusal.event(id));
    }
}

/// A request that can't be served: the word, and the exact sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    pub(crate) fn event(self, id: Option<u64>) -> Event {
        Event::Error(ErrorEvent { id, code: self.reason.word().into(), reason: self.text, retry_after_ms: None })
    }
}

/// One frame in each encoding, made when first needed.
#[derive(Default)]
struct Frames([Option<Bytes>; 2]);

impl Frames {
    fn get(&mut self, encoding: Encoding, event: &Event) -> Bytes {
        self.0[encoding as usize].get_or_insert_with(|| event_frame(encoding, event)).clone()
    }
}

/// The hub's state; see the module.
pub(crate) struct Hub {
    listing: Arc<Listing>,
    feed: Feed,
    settings: Settings,
    load: Arc<Load>,
    streams: Streams,
    market: Market,
    told: Told,
    records: Records,
    members: HashMap<SessionId, Member>,
    fans: HashMap<Channel, Vec<Fan>>,
    accounts: Accounts,
    happenings: Vec<Happening>,
}

/// Starts the hub on its own task; `ready` is told once the feed has caught up with the clock.
pub(crate) fn start(hub: Hub, ready: oneshot::Sender<()>) -> mpsc::Sender<Command> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    tokio::spawn(hub.run(commands, ready));
    sender
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

impl Hub {
    pub(crate) fn new(listing: Arc<Listing>, feed: Feed, settings: Settings, load: Arc<Load>) -> Self {
        let instruments = listing.instruments.len();
        let market = Market::new(listing.calendar.clone());
        Self {
            streams: Streams::new(instruments, settings.ring),
            told: Told::new(&market, now()),
            records: Records::default(),
            market,
            accounts: Accounts::new(listing.clone(), format!("acct-{}", settings.boot)),
            members: HashMap::new(),
            fans: HashMap::new(),
            happenings: Vec::new(),
            listing,
            feed,
            settings,
            load,
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, ready: oneshot::Sender<()>) {
        let mut happenings = std::mem::take(&mut self.happenings);
        // Hours of steps may have to be computed: not on a thread that serves connections.
        let caught_up = tokio::task::spawn_blocking(move || {
            self.feed.start(now(), self.settings.ring, &mut happenings);
            (self, happenings)
        });
        let Ok((caught_up, happenings)) = caught_up.await else { return };
        self = caught_up;
        self.happenings = happenings;
        self.apply_all(now());
        self.turn(now());
        // The shell may have gone already; then nobody is left to tell.
        let _ = ready.send(());
        loop {
            let nap = self.nap(now());
            tokio::select! {
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    self.command(command);
                    for _ in 0..64 {
                        let Ok(command) = commands.try_recv() else { break };
                        self.command(command);
                    }
                }
                () = tokio::time::sleep(nap) => {}
            }
            let now = now();
            self.turn(now);
            self.feed.advance(now, BATCH_MAX, &mut self.happenings);
            self.apply_all(now);
            self.flush(now);
        }
    }

    /// How long until something is due.
    fn nap(&self, now: i64) -> Duration {
        let fans = self.fans.values().flatten().filter_map(Fan::next_due).min();
        let next = self.feed.next_at().into_iter().chain(fans).chain(self.next_turn(now)).min();
        next.map_or(Duration::from_secs(1), |at| Duration::from_nanos(at.saturating_sub(now).max(0) as u64))
            .clamp(NAP, Duration::from_secs(1))
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Join(id, joining) => self.join(id, *joining),
            Command::Ask(id, request) => self.ask(id, *request),
            Command::Leave(id) => self.leave(id),
            Command::Drain { retry_after } => {
                let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
                let event = Event::Drain(Drain { retry_after_ms, resume: String::new() });
                let mut frames = Frames::default();
                for member in self.members.values() {
                    member.outbox.put(frames.get(member.encoding, &event));
                }
            }
            Command::Operate(ordered) => self.operate(*ordered),
            Command::Report(answer) => drop(answer.send(serde_json::to_string(&self.report(0)).unwrap_or_default())),
            Command::Audit(answer) => drop(answer.send(self.audit())),
            Command::CloseAll => {
                for member in self.members.values() {
                    member.outbox.close(Closing { code: CloseCode::RESTART, reason: "the server restarts: come back" });
                }
            }
        }
    }

    fn join(&mut self, id: SessionId, joining: Joining) {
        let Joining { claims, encoding, outbox, heartbeat } = joining;
        let session = claims.sid.clone().unwrap_or_else(|| format!("{}-{id}", self.settings.boot));
        let heartbeat_ms = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
        let markets = BTreeMap::from([(self.listing.exchange.as_str().to_owned(), self.market_on_the_wire())]);
        let welcome = Welcome::for_claims(&claims, session, Timestamp(now()), heartbeat_ms, markets);
        let member = Member { claims, encoding, outbox, followed: HashMap::new() };
        member.tell(&Event::Welcome(welcome));
        self.members.insert(id, member);
        self.load.sessions.store(self.members.len(), Ordering::Relaxed);
    }

    fn leave(&mut self, id: SessionId) {
        let Some(member) = self.members.remove(&id) else { return };
        debug!(session = id, subscriptions = member.followed.len(), "session left");
        for (_, followed) in member.followed {
            self.unfollow(id, &followed);
        }
        self.load.sessions.store(self.members.len(), Ordering::Relaxed);
    }

    fn ask(&mut self, id: SessionId, request: Request) {
        let request_id = request.id();
        let result = match request {
            Request::Subscribe(request) => self.subscribe(id, &request),
            Request::Unsubscribe(request) => self.unsubscribe(id, &request),
            Request::Order(request) => self.order(id, &request),
            // The token was verified in front of this server; the session goes on.
            Request::Refresh(_) => self.tell(id, &Event::Refreshed(Refreshed { id: request_id })),
            Request::Ping(_) => self.tell(id, &Event::Pong(Pong { id: request_id })),
        };
        if let (Err(refusal), Some(member)) = (result, self.members.get(&id)) {
            member.refuse(request_id, refusal);
        }
    }

    fn tell(&self, id: SessionId, event: &Event) -> Result<(), Refusal> {
        if let Some(member) = self.members.get(&id) {
            member.tell(event);
        }
        Ok(())
    }

    fn apply_all(&mut self, now: i64) {
        let mut happenings = std::mem::take(&mut self.happenings);
        for happening in happenings.drain(..) {
            self.apply(happening, now);
        }
        self.happenings = happenings;
    }

    fn apply(&mut self, happening: Happening, now: i64) {
        match happening {
            Happening::Standing { channel, instrument, seq } => self.streams.ring_mut(channel, instrument).stand(seq),
            Happening::Update { channel, instrument, update } => {
                let seq = update.seq;
                let update = self.streams.ring_mut(channel, instrument).push(seq, update);
                self.fan_out(channel, instrument, &update, now);
                if channel == Channel::OrderBook
                    && let Some(index) = instrument
                {
                    self.fill_resting(index, now);
                }
            }
            Happening::Alert(alert) => {
                self.announce(Channel::Alerts, |name| {
                    Event::Alert(Alert { subscription: Some(name.into()), ..alert.clone() })
                });
            }
            Happening::Phase(_) => self.turn(now),
            Happening::Status { symbol, phase, until, reason } => {
                let said = phase.map(|phase| Said { phase, until, reason, at: now });
                self.upstream(symbol, said);
                self.turn(now);
            }
        }
    }

    /// Gives an update to those who follow it now; conflated subscriptions may keep it for later.
    fn fan_out(&mut self, channel: Channel, instrument: Option<usize>, update: &Update, now: i64) {
        let lane = instrument.unwrap_or(0);
        for fan in self.fans.entry(channel).or_default() {
            if let Some(first_seq) = fan.offer(lane, update, now) {
                deliver(&self.members, fan, lane, update, first_seq);
            }
        }
    }

    /// Sends what waited for the end of a window: the newest state, with the numbers that it stands for.
    fn flush(&mut self, now: i64) {
        for (channel, fans) in &mut self.fans {
            for fan in fans {
                while let Some((lane, first)) = fan.take_due(now) {
                    if let Some(update) = self.streams.ring(*channel, Some(lane)).newest() {
                        fan.sent(lane, update);
                        deliver(&self.members, fan, lane, update, Some(first));
                    }
                }
            }
        }
    }

    /// Gives an event without a sequence number to everyone who follows the channel.
    fn announce(&mut self, channel: Channel, event: impl Fn(&str) -> Event) {
        for fan in self.fans.entry(channel).or_default() {
            let event = event(&fan.name);
            let mut frames = Frames::default();
            for follower in fan.members(0) {
                if let Some(member) = self.members.get(&follower.session) {
                    member.outbox.put(frames.get(member.encoding, &event));
                }
            }
        }
    }
}

fn deliver(members: &HashMap<SessionId, Member>, fan: &Fan, lane: usize, update: &Update, first: Option<u64>) {
    let mut dressed = fan.key.dress(update, &fan.name);
    dressed.first_seq = first.filter(|first| *first < update.seq);
    let event = Event::Update(dressed);
    let mut frames = Frames::default();
    for follower in fan.members(lane) {
        let Some(member) = members.get(&follower.session) else { continue };
        if update.seq > follower.after && !member.outbox.is_closing() {
            member.outbox.put(frames.get(member.encoding, &event));
        }
    }
}
