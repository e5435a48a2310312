//! What is kept of one stream: its screening, verdicts already reached, requests in flight, what it was told.
//!
//! Everything is bounded, and forgetting costs a look-up or a repeated notice, never a leak.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bawaba_filter_kit::channels::name::Instrument;
use bawaba_filter_kit::{Metadata, PreparedMetadata};
use bawaba_policies::sharia::{self, Mode, Register, Screening, Verdict};
use bawaba_policies::{InstrumentRef, Reason, UnixNanos};

const VERDICTS_MAX: usize = 2048;
const ASKED_MAX: usize = 1024;
const TOLD_MAX: usize = 4096;

/// One stream.
#[derive(Debug)]
pub(crate) struct Memory {
    screening: Screening,
    verdicts: HashMap<Instrument, Judged>,
    /// Verdicts hold until here: nothing in the register changes before.
    until: UnixNanos,
    /// Each `subscribe` in flight, by id.
    asked: VecDeque<(Option<u64>, Asked)>,
    /// By subscription: symbols that the client knows to be refused.
    told: BTreeMap<String, BTreeSet<String>>,
    told_count: usize,
}

/// What the answer to a `subscribe` does not say.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its exchange.
    pub(crate) exchange: String,
    /// Symbols that were refused on the way in: the client is told with the answer.
    pub(crate) refused: Vec<String>,
}

/// A verdict, with what it says to the client already put together.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Why it may not flow, if it may not.
    pub(crate) refusal: Option<Reason>,
    /// What an update carries.
    pub(crate) metadata: PreparedMetadata,
}

impl Judged {
    fn of(verdict: &Verdict<'_>) -> Self {
        let annotation = verdict.annotation();
        let metadata = Metadata {
            compliant: verdict.is_compliant(),
            board: annotation.as_ref().map_or("", |annotation| &annotation.compliance_board),
            level: annotation.as_ref().map_or("strict", |annotation| annotation.compliance_level),
            result: verdict.outcome.word(),
            list: annotation.as_ref().map_or("", |annotation| &annotation.list),
        };
        Self { refusal: verdict.refusal(), metadata: metadata.prepare() }
    }
}

impl Memory {
    /// The memory of a stream with this screening.
    pub(crate) fn new(screening: Screening) -> Self {
        Self {
            screening,
            verdicts: HashMap::new(),
            until: UnixNanos(0),
            asked: VecDeque::new(),
            told: BTreeMap::new(),
            told_count: 0,
        }
    }

    /// The screening.
    pub(crate) const fn screening(&self) -> &Screening {
        &self.screening
    }

    /// What verdicts do in this stream; claims that can't be read refuse everything.
    pub(crate) const fn mode(&self) -> Mode {
        match &self.screening {
            Screening::Off => Mode::Off,
            Screening::Malformed => Mode::Filter,
            Screening::On(screened) => screened.mode,
        }
    }

    /// Reads the verdict on an instrument; a name that is no name is refused like any unknown one.
    pub(crate) fn judged<T>(
        &mut self,
        register: &Register,
        exchange: &str,
        symbol: &str,
        now: UnixNanos,
        read: impl FnOnce(&Judged) -> T,
    ) -> T {
        let fresh =
            |screening| Judged::of(&sharia::judge(register, screening, InstrumentRef::new(exchange, symbol), now));
        let (Ok(exchange), Ok(code)) = (exchange.parse(), symbol.parse()) else { return read(&fresh(&self.screening)) };
        if now >= self.until || self.verdicts.len() > VERDICTS_MAX {
            self.verdicts.clear();
            self.until = register.next_change(now).unwrap_or(UnixNanos(u64::MAX));
        }
        let key = Instrument { exchange, symbol: code };
        read(self.verdicts.entry(key).or_insert_with(|| fresh(&self.screening)))
    }

    /// Notes a subscribe that goes to the backend.
    pub(crate) fn ask(&mut self, id: Option<u64>, asked: Asked) {
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((id, asked));
    }

    /// The subscribe that this id answers, if it is remembered.
    pub(crate) fn answered(&mut self, id: Option<u64>) -> Option<Asked> {
        let at = self.asked.iter().position(|(known, _)| *known == id)?;
        self.asked.remove(at).map(|(_, asked)| asked)
    }

    /// Whether the client still has to be told that this symbol no longer flows. Once the memory is full nobody is
    /// told any more; nothing flows either way.
    pub(crate) fn tell(&mut self, subscription: &str, symbol: &str) -> bool {
        if self.told.get(subscription).is_some_and(|told| told.contains(symbol)) || self.told_count >= TOLD_MAX {
            return false;
        }
        self.told_count += 1;
        self.told.entry(subscription.to_owned()).or_default().insert(symbol.to_owned())
    }

    /// The symbol flows (again) in this subscription.
    pub(crate) fn flows(&mut self, subscription: &str, symbol: &str) {
        if self.told.get_mut(subscription).is_some_and(|told| told.remove(symbol)) {
            self.told_count -= 1;
        }
    }
}
