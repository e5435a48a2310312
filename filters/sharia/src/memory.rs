//! What is kept of one stream: its screening, verdicts already reached, requests in flight, what it was told.
//!
//! Everything is bounded, and forgetting costs a look-up or a repeated notice, never a leak.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use bawaba_filter_kit::channels::name::Instrument;
use bawaba_policies::sharia::{self, Mode, Register, Screening, Subject};
use bawaba_policies::{InstrumentRef, UnixNanos};

use crate::judged::Judged;

const VERDICTS_MAX: usize = 2048;
const ASKED_MAX: usize = 1024;
const ASKED_SYMBOLS_MAX: usize = 8192;
const TOLD_MAX: usize = 4096;

/// Verdicts of one screening, shared by every stream that has it: a session costs no table of its own.
#[derive(Debug)]
pub(crate) struct Verdicts {
    screening: Screening,
    known: RefCell<Known>,
}

#[derive(Debug)]
struct Known {
    verdicts: HashMap<Instrument, Judged>,
    /// They hold until here: nothing in the register changes before.
    until: UnixNanos,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Memory {
    verdicts: Rc<Verdicts>,
    /// Each `subscribe` in flight, by id.
    asked: VecDeque<(Option<u64>, Asked)>,
    asked_symbols: usize,
    /// By subscription: symbols that the client knows to be refused.
    told: BTreeMap<String, BTreeSet<String>>,
    told_count: usize,
}

/// What the answer to a `subscribe` does not say.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its exchange.
    pub(crate) exchange: String,
    /// What its updates are.
    pub(crate) subject: Subject,
    /// Symbols that were refused on the way in: the client is told with the answer.
    pub(crate) refused: Vec<String>,
}

impl Verdicts {
    /// No verdict reached yet.
    pub(crate) fn new(screening: Screening) -> Self {
        Self { screening, known: RefCell::new(Known { verdicts: HashMap::new(), until: UnixNanos(0) }) }
    }

    fn read<T>(
        &self,
        register: &Register,
        exchange: &str,
        symbol: &str,
        now: UnixNanos,
        read: impl FnOnce(&Judged) -> T,
    ) -> T {
        let instrument = InstrumentRef::new(exchange, symbol);
        let verdict = || sharia::judge(register, &self.screening, instrument, now);
        let fresh = || Judged::of(&verdict(), register.rules(), instrument.exchange);
        let (Ok(exchange), Ok(symbol)) = (exchange.parse(), symbol.parse()) else { return read(&fresh()) };
        let mut known = self.known.borrow_mut();
        if now >= known.until || known.verdicts.len() > VERDICTS_MAX {
            known.verdicts.clear();
            known.until = register.next_change(now).unwrap_or(UnixNanos(u64::MAX));
        }
        read(known.verdicts.entry(Instrument { exchange, symbol }).or_insert_with(fresh))
    }
}

impl Memory {
    /// The memory of a stream with this screening.
    pub(crate) const fn new(verdicts: Rc<Verdicts>) -> Self {
        Self { verdicts, asked: VecDeque::new(), asked_symbols: 0, told: BTreeMap::new(), told_count: 0 }
    }

    /// The screening.
    pub(crate) fn screening(&self) -> &Screening {
        &self.verdicts.screening
    }

    /// What verdicts do in this stream; claims that can't be read refuse everything.
    pub(crate) fn mode(&self) -> Mode {
        match self.screening() {
            Screening::Off => Mode::Off,
            Screening::Malformed => Mode::Filter,
            Screening::On(screened) => screened.mode,
        }
    }

    /// Reads the verdict on an instrument; a name that is no name is refused like any unknown one.
    pub(crate) fn judged<T>(
        &self,
        register: &Register,
        exchange: &str,
        symbol: &str,
        now: UnixNanos,
        read: impl FnOnce(&Judged) -> T,
    ) -> T {
        self.verdicts.read(register, exchange, symbol, now, read)
    }

    /// Notes a subscribe that goes to the backend.
    pub(crate) fn ask(&mut self, id: Option<u64>, asked: Asked) {
        self.asked_symbols += asked.refused.len();
        self.asked.push_back((id, asked));
        while self.asked.len() > ASKED_MAX || self.asked_symbols > ASKED_SYMBOLS_MAX {
            let Some((_, oldest)) = self.asked.pop_front() else { break };
            self.asked_symbols -= oldest.refused.len();
        }
    }

    /// The subscribe that this id answers, if it is remembered.
    pub(crate) fn answered(&mut self, id: Option<u64>) -> Option<Asked> {
        let at = self.asked.iter().position(|(known, _)| *known == id)?;
        let (_, asked) = self.asked.remove(at)?;
        self.asked_symbols -= asked.refused.len();
        Some(asked)
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
