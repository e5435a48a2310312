//! Where updates come from: the simulation or a recording, behind one shape.
//!
//! A feed assigns epoch and sequence numbers, by one per update of a (channel, instrument). It knows no subscriber.

use bawaba_channels::name::{Channel, Symbol};
use bawaba_channels::wire::{Alert, Update};

use crate::replay::Replay;
use crate::sim::Sim;
use bawaba_channels::calendar::Phase;

/// One thing that happened on the exchange.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are updates, and each moves straight into a ring")]
pub(crate) enum Happening {
    /// A sequenced public update, its `subscription` still empty.
    Update {
        /// Which channel it belongs to.
        channel: Channel,
        /// The instrument's place in the listing; `None` for news.
        instrument: Option<usize>,
        /// The update.
        update: Update,
    },
    /// A stream stands at this sequence number, of which nothing is told any more.
    Standing {
        /// Which channel.
        channel: Channel,
        /// The instrument's place in the listing; `None` for news.
        instrument: Option<usize>,
        /// The newest sequence number given out.
        seq: u64,
    },
    /// An announcement.
    Alert(Alert),
    /// The phase turned, of an exchange that goes by its calendar or plays a recording; see [`Feed::says`].
    Phase(Phase),
    /// What the exchange says of its market or of one instrument; `phase: None` takes it back.
    Status {
        /// The instrument; `None` for the whole market.
        symbol: Option<Symbol>,
        /// The phase.
        phase: Option<Phase>,
        /// When it ends, if that is known.
        until: Option<i64>,
        /// Why, for people.
        reason: Option<String>,
    },
}

/// A source of updates.
pub(crate) enum Feed {
    /// Seeded simulation.
    Sim(Box<Sim>),
    /// A recording, played once or over and over.
    Replay(Box<Replay>),
}

impl Feed {
    /// The epoch of every public stream.
    pub(crate) fn epoch(&self) -> &str {
        match self {
            Self::Sim(sim) => sim.epoch(),
            Self::Replay(replay) => replay.epoch(),
        }
    }

    /// What the exchange says of itself at this moment, where it does not go by its calendar.
    pub(crate) fn says(&self) -> Option<Phase> {
        match self {
            Self::Sim(sim) => sim.says(),
            Self::Replay(replay) => Some(replay.phase()),
        }
    }

    /// When something happens next, in nanoseconds since the epoch; `None` when nothing more will.
    pub(crate) fn next_at(&self) -> Option<i64> {
        match self {
            Self::Sim(sim) => Some(sim.next_at()),
            Self::Replay(replay) => replay.next_at(),
        }
    }

    /// Catches up with `now` from the beginning; of what happened before, about the newest `keep_per_stream`
    /// updates of each stream and the state before them come out.
    pub(crate) fn start(&mut self, now: i64, keep_per_stream: usize, out: &mut Vec<Happening>) {
        match self {
            Self::Sim(sim) => sim.start(now, keep_per_stream, out),
            Self::Replay(replay) => replay.start(now, keep_per_stream, out),
        }
    }

    /// What happened up to and with `now`, at most about `most` of it; more is due while [`Self::next_at`] is not
    /// after `now`.
    pub(crate) fn advance(&mut self, now: i64, most: usize, out: &mut Vec<Happening>) {
        while out.len() < most && self.next_at().is_some_and(|at| at <= now) {
            match self {
                Self::Sim(sim) => sim.step(Some(out)),
                Self::Replay(replay) => replay.step(Some(out)),
            }
        }
    }
}
