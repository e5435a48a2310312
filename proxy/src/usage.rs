//! The usage record: who used which product, at what level, from when to when, by which licence and lists, and what was
//! refused and why. Written off the message path by one thread, into a chained ledger on disk.
//!
//! The queue to the writer is bounded. What finds no room is counted, and the ledger itself says how much is missing;
//! with `when_full = "refuse"` nothing new is let in while there is no room, so that nothing goes unrecorded.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub mod command;
mod door;
pub mod ledger;
pub mod report;

use crate::context::ConnectionContext;
use door::Door;
pub use door::Who;
use ledger::Ledger;

/// Records of one transaction: a few milliseconds of writing.
const BATCH_MAX: usize = 4096;
/// How long the first record of a batch waits for others.
const GATHER: Duration = Duration::from_millis(20);

/// `[usage]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The ledger; made if it is not there.
    pub file: PathBuf,
    /// Records that wait to be written.
    #[serde(default = "queue_max")]
    pub queue_max: u32,
    /// What happens when no more can wait.
    #[serde(default)]
    pub when_full: WhenFull,
    /// Whose days and months reports count in (IANA name).
    #[serde(default = "time_zone")]
    pub time_zone: String,
}

const fn queue_max() -> u32 {
    65_536
}

fn time_zone() -> String {
    "Africa/Cairo".into()
}

/// What happens when no more records can wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The edge goes on; the ledger says how many records are missing.
    #[default]
    Count,
    /// New sessions and subscriptions are refused until there is room.
    Refuse,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The edge began to write; whatever was open before is not any more.
    Start,
    /// A session, at its beginning and at its end.
    Session,
    /// The use of a product by a session, at its beginning and at its end.
    Product,
    /// A request to subscribe that was accepted.
    Subscription,
    /// A handshake, subscription or order that was refused.
    Refusal,
    /// A subscription that was ended by a policy.
    Revocation,
    /// Records before this one were lost.
    Lost,
}

/// One record. What does not apply is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What it is about.
    pub kind: Option<Kind>,
    /// When it was made, in nanoseconds since the epoch.
    pub at: i64,
    /// The session.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// `tenant` of the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// `sub` of the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Exchange and channel: `EGX/market_data`; the route, for sessions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product: String,
    /// How late: `real_time`, `delayed_ms=900000`, `end_of_day`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub level: String,
    /// The symbols that it names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub symbols: Vec<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// When it ended; absent: not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// `admitted`, `refused`, `revoked`, `ended`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub verdict: String,
    /// The refusal word, or the code that a session closed with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Licence and editions, as the filters said them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basis: String,
    /// Screening lists in force.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lists: String,
    /// How many records are missing.
    #[serde(skip_serializing_if = "is_zero")]
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The way to the writer.
pub struct Usage {
    queue: SyncSender<Record>,
    lost: Arc<AtomicU64>,
    written: Arc<Written>,
    door: Door,
    waiting: Arc<AtomicU64>,
    queue_max: u64,
    when_full: WhenFull,
    /// What was written.
    pub ledger: Arc<Ledger>,
    /// Whose days and months reports count in.
    pub time_zone: String,
}

/// What became of records, since the start.
#[derive(Debug, Default)]
pub struct Written {
    /// On disk.
    pub records: AtomicU64,
    /// Found no room, and are counted in the ledger only.
    pub lost: AtomicU64,
    /// Could not be written, and are counted in the ledger once it can be.
    pub failed: AtomicU64,
}

impl Usage {
    /// What became of records, and how many wait.
    pub fn written(&self) -> (&Written, u64) {
        (&self.written, self.waiting.load(Ordering::Relaxed))
    }

    /// A request was refused before it was anybody's session; see [`Door`].
    pub fn turned_away(&self, who: Who, reason: &'static str) {
        for record in self.door.note(who, reason, unix_nanos()) {
            self.record(record);
        }
    }

    /// Opens the ledger and starts its writer.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, String> {
        let ledger = Arc::new(Ledger::open(&settings.file)?);
        let (queue, records) = sync_channel(settings.queue_max.max(1) as usize);
        let usage = Arc::new(Self {
            queue,
            lost: Arc::default(),
            written: Arc::default(),
            door: Door::default(),
            waiting: Arc::default(),
            queue_max: u64::from(settings.queue_max.max(1)),
            when_full: settings.when_full,
            ledger: Arc::clone(&ledger),
            time_zone: settings.time_zone.clone(),
        });
        let (lost, waiting, written) =
            (Arc::clone(&usage.lost), Arc::clone(&usage.waiting), Arc::clone(&usage.written));
        let writer = move || {
            let mut batch = vec![Record { kind: Some(Kind::Start), at: unix_nanos(), ..Record::default() }];
            let mut queued = 0;
            loop {
                let until = Instant::now() + GATHER;
                while batch.len() < BATCH_MAX {
                    match records.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        Ok(record) => batch.push(record),
                        Err(_) => break,
                    }
                    queued += 1;
                }
                let missing = lost.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    batch.push(Record {
                        kind: Some(Kind::Lost),
                        at: unix_nanos(),
                        count: missing,
                        ..Record::default()
                    });
                }
                let count = batch.len() as u64;
                match ledger.append(&batch) {
                    Ok(()) => drop(written.records.fetch_add(count, Ordering::Relaxed)),
                    Err(error) => {
                        tracing::error!(%error, records = count, "usage records cannot be written");
                        lost.fetch_add(count, Ordering::Relaxed);
                        written.failed.fetch_add(count, Ordering::Relaxed);
                    }
                }
                batch.clear();
                waiting.fetch_sub(std::mem::take(&mut queued), Ordering::Release);
                match records.recv() {
                    Ok(record) => batch.push(record),
                    Err(_) => return,
                }
                queued += 1;
            }
        };
        std::thread::Builder::new()
            .name("usage".into())
            .spawn(writer)
            .map_err(|error| format!("the usage writer cannot be started: {error}"))?;
        Ok(usage)
    }

    /// Puts a record down; never waits.
    pub fn record(&self, mut record: Record) {
        if record.at == 0 {
            record.at = unix_nanos();
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.written.lost.fetch_add(1, Ordering::Relaxed);
                if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(
                        "usage records come faster than they can be written: some are missing, and counted"
                    );
                }
            }
        }
    }

    /// A session has begun; its end is recorded when the answer is dropped.
    pub fn session(self: &Arc<Self>, context: &ConnectionContext) -> SessionUse {
        let from = unix_nanos();
        let begun =
            Record { kind: Some(Kind::Session), from: Some(from), verdict: "admitted".into(), ..Self::of(context) };
        self.record(begun.clone());
        SessionUse { usage: Arc::clone(self), begun, reason: String::new() }
    }

    /// A handshake was refused.
    pub fn refused(&self, context: &ConnectionContext, reason: &str) {
        let verdict = "refused".into();
        self.record(Record { kind: Some(Kind::Refusal), reason: reason.into(), verdict, ..Self::of(context) });
    }

    fn of(context: &ConnectionContext) -> Record {
        Record {
            session: context.session.clone(),
            tenant: context.tenant.clone(),
            user: context.user.clone(),
            product: context.route.to_string(),
            ..Record::default()
        }
    }

    /// Waits until everything so far is on disk, at most this long.
    pub fn flush(&self, within: Duration) {
        for record in self.door.settle() {
            self.record(record);
        }
        let until = Instant::now() + within;
        while self.waiting.load(Ordering::Acquire) > 0 && Instant::now() < until {
            std::thread::park_timeout(GATHER / 4);
        }
    }

    /// Whether anything new may be let in: with `when_full = "refuse"`, only what will be recorded.
    pub fn has_room(&self) -> bool {
        self.when_full == WhenFull::Count || self.waiting.load(Ordering::Relaxed) < self.queue_max / 2
    }
}

/// An open session, in the record.
pub struct SessionUse {
    usage: Arc<Usage>,
    begun: Record,
    /// Why it ended.
    pub reason: String,
}

impl Drop for SessionUse {
    fn drop(&mut self) {
        let (reason, to) = (std::mem::take(&mut self.reason), Some(unix_nanos()));
        self.usage.record(Record { at: 0, to, reason, verdict: "ended".into(), ..self.begun.clone() });
    }
}

/// Nanoseconds since the epoch.
pub fn unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
