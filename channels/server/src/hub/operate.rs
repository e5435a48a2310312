//! What operators and services ask of the hub: announcements, halts, days called off. Each is counted and kept as an
//! audit record, also when it is refused. Who asks was verified by [`crate::admin`].

use std::collections::VecDeque;

use bawaba_channels::calendar::{DayPlan, Phase};
use bawaba_channels::market::{Said, Source};
use bawaba_channels::name::{Channel, Symbol};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{Alert, Event, MarketStatus, Timestamp};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::info;

use super::{Hub, Refusal};

/// Audit records kept in memory; all of them are in the log too.
const RECORDS_MAX: usize = 1000;
/// Longest text for people, in bytes.
const TEXT_BYTES_MAX: usize = 2000;

/// An announcement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publication {
    /// A stable word, such as `exchange.announcement`.
    code: String,
    /// The sentence for people.
    reason: String,
    /// The instrument that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    symbol: Option<Symbol>,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Tells everyone who follows `alerts`.
    Publish(Publication),
    /// Says what phase it is, of the market or of one instrument, against everyone else's word.
    #[serde(rename = "override")]
    Override {
        /// The instrument; the whole market without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        symbol: Option<Symbol>,
        /// The phase; absent takes the word back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
        /// When it ends by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
    /// Decides for one day: no session, a session by the timetable of this name, or as the calendar has it.
    Day {
        /// The exchange's local day.
        date: Date,
        /// `closed`, `calendar`, or a timetable's name.
        plan: String,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
}

/// An operation, who asks for it, and where the answer goes.
pub(crate) struct Ordered {
    pub(crate) by: String,
    pub(crate) operation: Operation,
    pub(crate) answer: oneshot::Sender<Result<Report, Refusal>>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Followers that it was put in line for: sessions, and edges that stand for more.
    told: usize,
    /// The market as it stands now.
    market: MarketStatus,
    /// Instruments that are not in the market's phase.
    instruments: Vec<MarketStatus>,
}

/// An audit record.
#[derive(Debug, Serialize)]
struct Record {
    at: Timestamp,
    by: String,
    operation: Operation,
    /// `done`, or the refusal word.
    outcome: &'static str,
    told: usize,
}

/// The newest audit records, and how many there ever were.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Records {
    done: u64,
    refused: u64,
    newest: VecDeque<Record>,
}

impl Hub {
    pub(super) fn operate(&mut self, ordered: Ordered) {
        let Ordered { by, operation, answer } = ordered;
        let now = super::now();
        let done = self.carry_out(&operation, now);
        let (outcome, told) = match &done {
            Ok(told) => ("done", *told),
            Err(refusal) => (refusal.reason.word(), 0),
        };
        match done {
            Ok(_) => self.records.done += 1,
            Err(_) => self.records.refused += 1,
        }
        info!(target: "audit", %by, ?operation, outcome, told, "operator");
        if self.records.newest.len() == RECORDS_MAX {
            self.records.newest.pop_front();
        }
        self.records.newest.push_back(Record { at: Timestamp(now), by, operation, outcome, told });
        // Whoever asked may have gone; it is done all the same.
        let _ = answer.send(done.map(|told| self.report(told)));
    }

    pub(super) fn report(&self, told: usize) -> Report {
        Report { told, market: self.status(), instruments: self.special() }
    }

    pub(super) fn audit(&self) -> String {
        serde_json::to_string(&self.records).unwrap_or_default()
    }

    fn carry_out(&mut self, operation: &Operation, now: i64) -> Result<usize, Refusal> {
        let malformed = |text: String| Refusal::new(Reason::ProtocolMalformed, text);
        match operation {
            Operation::Publish(publication) => {
                let Publication { code, reason, symbol } = publication;
                let word = code.split_once('.').is_some_and(|(family, rest)| !family.is_empty() && !rest.is_empty());
                let plain =
                    code.len() <= 64 && code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_'));
                if !word || !plain {
                    return Err(malformed("code: a word such as \"exchange.announcement\"".into()));
                }
                self.known(*symbol)?;
                let alert = Alert {
                    code: code.clone(),
                    reason: text(reason)?,
                    exchange: Some(self.listing.exchange.as_str().into()),
                    symbol: symbol.map(|symbol| symbol.as_str().into()),
                    subscription: None,
                    time: Some(now),
                };
                self.announce(Channel::Alerts, |name| {
                    Event::Alert(Alert { subscription: Some(name.into()), ..alert.clone() })
                });
                Ok(self.followers(Channel::Alerts))
            }
            Operation::Override { symbol, phase, until, reason } => {
                if until.is_some_and(|until| until.0 <= now) {
                    return Err(malformed("until: it is past".into()));
                }
                self.known(*symbol)?;
                let reason = Some(text(reason)?).filter(|reason| !reason.is_empty());
                let said = phase.map(|phase| Said { phase, until: until.map(|at| at.0), reason, at: now });
                match symbol {
                    Some(symbol) => self.market.say_of(*symbol, Source::Override, said),
                    None => self.market.say(Source::Override, said),
                }
                self.turn(now);
                Ok(self.followers(Channel::MarketStatus))
            }
            Operation::Day { date, plan, reason } => {
                let reason = text(reason)?;
                let plan = match plan.as_str() {
                    "calendar" => {
                        self.market.calendar_mut().unplan(*date);
                        None
                    }
                    "closed" => Some(DayPlan::Closed { reason }),
                    name => Some(DayPlan::Schedule { name: name.into(), reason }),
                };
                if let Some(plan) = plan {
                    self.market.calendar_mut().plan(*date, plan).map_err(|error| malformed(error.to_string()))?;
                }
                self.turn(now);
                Ok(self.followers(Channel::MarketStatus))
            }
        }
    }

    fn known(&self, symbol: Option<Symbol>) -> Result<(), Refusal> {
        match symbol.filter(|symbol| self.listing.index(symbol.as_str()).is_none()) {
            Some(symbol) => {
                let text = format!("{symbol} is not listed on {}", self.listing.exchange);
                Err(Refusal::new(Reason::ChannelSymbolUnknown, text))
            }
            None => Ok(()),
        }
    }

    fn followers(&self, channel: Channel) -> usize {
        self.fans.get(&channel).map_or(0, |fans| fans.iter().map(|fan| fan.members(0).len()).sum())
    }
}

fn text(text: &str) -> Result<String, Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        let text = format!("reason: at most {TEXT_BYTES_MAX} bytes");
        return Err(Refusal::new(Reason::ProtocolTooLarge, text));
    }
    Ok(text.to_owned())
}
