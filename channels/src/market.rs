//! The state of a market as it is told: what an operator says goes before what the exchange says, and that before what
//! the calendar says; whoever disagrees is named, not hidden.
//!
//! A word of the exchange holds until its own end, or else until the end of the local day on which it was said: an
//! exchange that fell silent must not keep tomorrow closed. Pure: instants are arguments.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::calendar::{Calendar, Certainty, Phase};
use crate::name::Symbol;

/// Who says what phase it is, by rank: the last goes before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The exchange's timetable and holidays.
    Calendar,
    /// The exchange's own status, from its feed.
    Upstream,
    /// An operator.
    Override,
}

impl Source {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Calendar => "calendar",
            Self::Upstream => "upstream",
            Self::Override => "override",
        }
    }
}

/// A phase that somebody says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The phase.
    pub phase: Phase,
    /// Until when, if that is known.
    pub until: Option<i64>,
    /// Why, for people.
    pub reason: Option<String>,
    /// When it was said.
    pub at: i64,
}

/// The state of a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The phase that counts.
    pub phase: Phase,
    /// When it ends at the latest, if that is known.
    pub until: Option<i64>,
    /// When it may end at the earliest, where the end is random.
    pub ends_from: Option<i64>,
    /// When continuous trading next begins by the calendar, unless it is on.
    pub next_open: Option<i64>,
    /// Whose word counts.
    pub source: Source,
    /// How sure the calendar is of this day.
    pub certainty: Certainty,
    /// Why, for people.
    pub reason: Option<String>,
    /// Who says otherwise, and what.
    pub conflicts: Vec<(Source, Phase)>,
}

/// The state of one instrument that is not in the market's own phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolState {
    /// Its phase.
    pub phase: Phase,
    /// When that ends, if it is known.
    pub until: Option<i64>,
    /// Whose word counts.
    pub source: Source,
    /// Why, for people.
    pub reason: Option<String>,
    /// Who says otherwise, and what.
    pub conflicts: Vec<(Source, Phase)>,
}

/// The word of the exchange and that of an operator.
#[derive(Clone, Debug, Default)]
struct Words {
    upstream: Option<Said>,
    ordered: Option<Said>,
}

impl Words {
    const fn of(&mut self, source: Source) -> Option<&mut Option<Said>> {
        match source {
            Source::Upstream => Some(&mut self.upstream),
            Source::Override => Some(&mut self.ordered),
            Source::Calendar => None,
        }
    }

    /// The words that hold at an instant, the stronger first.
    fn holding<'a>(&'a self, calendar: &Calendar, now: i64) -> Vec<(Source, &'a Said)> {
        let mut words = Vec::new();
        if let Some(said) = self.ordered.as_ref().filter(|said| said.until.is_none_or(|until| now < until)) {
            words.push((Source::Override, said));
        }
        if let Some(said) = self.upstream.as_ref().filter(|said| now < holds_until(said, calendar)) {
            words.push((Source::Upstream, said));
        }
        words
    }

    /// When a word that holds now ends by itself.
    fn next_end(&self, calendar: &Calendar, now: i64) -> Option<i64> {
        let ordered = self.ordered.as_ref().and_then(|said| said.until);
        let upstream = self.upstream.as_ref().map(|said| holds_until(said, calendar));
        ordered.into_iter().chain(upstream).filter(|end| *end > now).min()
    }
}

fn holds_until(said: &Said, calendar: &Calendar) -> i64 {
    said.until.unwrap_or_else(|| calendar.midnight_after(said.at))
}

/// A market: its calendar, and what was said against it.
#[derive(Clone, Debug)]
pub struct Market {
    calendar: Calendar,
    whole: Words,
    symbols: BTreeMap<Symbol, Words>,
}

impl Market {
    /// A market of which nobody has said anything yet.
    pub const fn new(calendar: Calendar) -> Self {
        Self { calendar, whole: Words { upstream: None, ordered: None }, symbols: BTreeMap::new() }
    }

    /// Its calendar, to set what was decided for a day.
    pub const fn calendar_mut(&mut self) -> &mut Calendar {
        &mut self.calendar
    }

    /// Its calendar.
    pub const fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// Notes what the exchange or an operator says of the whole market; `None` takes it back. The calendar is not
    /// told what to say.
    pub fn say(&mut self, source: Source, said: Option<Said>) {
        if let Some(word) = self.whole.of(source) {
            *word = said;
        }
    }

    /// As [`Self::say`], of one instrument. A phase of the market itself means that nothing is special any more.
    pub fn say_of(&mut self, symbol: Symbol, source: Source, said: Option<Said>) {
        let special = |said: &Said| matches!(said.phase, Phase::Auction | Phase::Halted | Phase::Suspended);
        let words = self.symbols.entry(symbol).or_default();
        if let Some(word) = words.of(source) {
            // An operator may say that it trades although the exchange says otherwise.
            *word = said.filter(|said| special(said) || source == Source::Override);
        }
        if words.upstream.is_none() && words.ordered.is_none() {
            self.symbols.remove(&symbol);
        }
    }

    /// The state at an instant.
    pub fn state(&self, now: i64) -> State {
        let by_calendar = self.calendar.phase_at(now);
        let day = if by_calendar.planned { Source::Override } else { Source::Calendar };
        let words = self.whole.holding(&self.calendar, now);
        // A plan for the day is an operator's word too: it goes before the exchange's.
        let leads = words.first().filter(|(source, _)| *source >= day || !by_calendar.planned);
        let (phase, source) = leads.map_or((by_calendar.phase, day), |(source, said)| (said.phase, *source));
        let others = words.iter().map(|(source, said)| (*source, said.phase)).chain([(day, by_calendar.phase)]);
        let conflicts = others.filter(|(from, said)| *from != source && *said != phase).collect();
        let agrees = by_calendar.phase == phase;
        State {
            phase,
            until: leads.and_then(|(_, said)| said.until).or(by_calendar.until.filter(|_| agrees)),
            ends_from: by_calendar.ends_from.filter(|_| agrees && leads.is_none()),
            next_open: by_calendar.next_open.filter(|_| phase != Phase::Continuous),
            source,
            certainty: if source == Source::Calendar { by_calendar.certainty } else { Certainty::High },
            reason: leads.map_or(by_calendar.why, |(_, said)| said.reason.clone()),
            conflicts,
        }
    }

    /// The state of an instrument, if it is not the market's.
    pub fn symbol(&self, symbol: Symbol, now: i64) -> Option<SymbolState> {
        let words = self.symbols.get(&symbol)?.holding(&self.calendar, now);
        let (source, said) = words.first()?;
        let special = matches!(said.phase, Phase::Auction | Phase::Halted | Phase::Suspended);
        let conflicts: Vec<_> =
            words.iter().skip(1).filter(|(_, other)| other.phase != said.phase).map(|(s, o)| (*s, o.phase)).collect();
        (special || !conflicts.is_empty()).then(|| SymbolState {
            phase: if special { said.phase } else { self.state(now).phase },
            until: said.until,
            source: *source,
            reason: said.reason.clone(),
            conflicts,
        })
    }

    /// Every instrument whose state is not the market's.
    pub fn special(&self, now: i64) -> BTreeMap<Symbol, SymbolState> {
        self.symbols.keys().filter_map(|symbol| Some((*symbol, self.symbol(*symbol, now)?))).collect()
    }

    /// The next instant after `now` at which the state may change by itself.
    pub fn next_change(&self, now: i64) -> Option<i64> {
        let ends = self.symbols.values().chain([&self.whole]).filter_map(|words| words.next_end(&self.calendar, now));
        ends.chain(self.calendar.phase_at(now).until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::DayPlan;
    use crate::listing::Listing;
    use crate::wire::Timestamp;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().0
    }

    fn said(phase: Phase, at: i64, until: Option<i64>) -> Option<Said> {
        Some(Said { phase, until, reason: Some("because".into()), at })
    }

    fn market() -> Market {
        Market::new(Listing::embedded("EGX").unwrap().calendar)
    }

    const OPEN: &str = "2026-11-24T09:00:00Z";

    #[test]
    fn an_operator_goes_before_the_exchange_and_that_before_the_calendar() {
        let (mut market, now) = (market(), at(OPEN));
        let calendar = market.state(now);
        assert_eq!((calendar.phase, calendar.source), (Phase::Continuous, Source::Calendar));
        assert!(calendar.conflicts.is_empty());
        market.say(Source::Upstream, said(Phase::Closed, now, None));
        let upstream = market.state(now);
        assert_eq!((upstream.phase, upstream.source), (Phase::Closed, Source::Upstream));
        assert_eq!(upstream.conflicts, [(Source::Calendar, Phase::Continuous)]);
        assert_eq!((upstream.until, upstream.reason.as_deref()), (None, Some("because")));
        market.say(Source::Override, said(Phase::Halted, now, Some(now + 60)));
        let ordered = market.state(now);
        assert_eq!((ordered.phase, ordered.source), (Phase::Halted, Source::Override));
        assert_eq!(ordered.conflicts, [(Source::Upstream, Phase::Closed), (Source::Calendar, Phase::Continuous)]);
        // It ends by itself, or is taken back.
        assert_eq!(market.next_change(now), Some(now + 60));
        assert_eq!(market.state(now + 60).source, Source::Upstream);
        market.say(Source::Upstream, None);
        assert_eq!(market.state(now + 60).source, Source::Calendar);
    }

    #[test]
    fn who_agrees_is_no_conflict_and_keeps_the_calendars_end() {
        let (mut market, now) = (market(), at(OPEN));
        market.say(Source::Upstream, said(Phase::Continuous, now, None));
        let state = market.state(now);
        assert_eq!((state.source, state.until), (Source::Upstream, Some(at("2026-11-24T12:15:00Z"))));
        assert!(state.conflicts.is_empty());
    }

    #[test]
    fn an_exchange_that_fell_silent_does_not_keep_the_next_day_closed() {
        let (mut market, now) = (market(), at("2026-11-24T12:30:00Z"));
        market.say(Source::Upstream, said(Phase::Closed, now, None));
        let midnight = at("2026-11-24T22:00:00Z");
        assert_eq!(market.state(midnight - 1).source, Source::Upstream);
        assert_eq!(market.state(midnight).source, Source::Calendar);
        assert_eq!(market.state(at("2026-11-25T09:00:00Z")).phase, Phase::Continuous);
    }

    #[test]
    fn a_day_called_off_is_an_operators_word() {
        let (mut market, now) = (market(), at(OPEN));
        let date = market.calendar().day_at(now);
        market.calendar_mut().plan(date, DayPlan::Closed { reason: "fire".into() }).unwrap();
        market.say(Source::Upstream, said(Phase::Continuous, now, None));
        let state = market.state(now);
        assert_eq!(
            (state.phase, state.source, state.reason.as_deref()),
            (Phase::Closed, Source::Override, Some("fire"))
        );
        assert_eq!(state.conflicts, [(Source::Upstream, Phase::Continuous)]);
        assert_eq!(state.next_open, Some(at("2026-11-25T08:00:00Z")));
    }

    #[test]
    fn an_instrument_is_halted_by_the_exchange_or_an_operator_and_free_when_both_are_done() {
        let (mut market, now) = (market(), at(OPEN));
        let comi: Symbol = "COMI".parse().unwrap();
        assert_eq!(market.symbol(comi, now), None);
        market.say_of(comi, Source::Upstream, said(Phase::Auction, now, Some(now + 10)));
        market.say_of(comi, Source::Override, said(Phase::Suspended, now, None));
        let state = market.symbol(comi, now).unwrap();
        assert_eq!((state.phase, state.source), (Phase::Suspended, Source::Override));
        assert_eq!(state.conflicts, [(Source::Upstream, Phase::Auction)]);
        assert_eq!(market.next_change(now), Some(now + 10));
        market.say_of(comi, Source::Override, None);
        assert_eq!(market.symbol(comi, now).unwrap().phase, Phase::Auction);
        assert_eq!(market.symbol(comi, now + 10), None);
        // The exchange says that it trades again.
        market.say_of(comi, Source::Upstream, said(Phase::Continuous, now, None));
        assert!(market.special(now).is_empty());
    }

    proptest! {
        /// Between two changes that it announces the state never changes: whoever looks at those instants only
        /// tells every transition once.
        #[test]
        fn the_state_changes_only_when_announced(
            start in 0i64..7 * 86_400,
            words in prop::collection::vec((0u8..3, 0usize..8, 0i64..100_000, prop::option::of(1i64..100_000)), 0..6),
        ) {
            let base = at("2026-11-20T00:00:00Z");
            let mut market = market();
            let now = base + start * 1_000_000_000;
            let comi: Symbol = "COMI".parse().unwrap();
            for (kind, phase, ago, lasts) in words {
                let word = said(Phase::ALL[phase], now - ago * 1_000_000_000, lasts.map(|s| now + s * 1_000_000_000));
                match kind {
                    0 => market.say(Source::Upstream, word),
                    1 => market.say(Source::Override, word),
                    _ => market.say_of(comi, Source::Upstream, word),
                }
            }
            let mut now = now;
            for _ in 0..10 {
                let Some(next) = market.next_change(now) else { break };
                prop_assert!(next > now);
                let state = market.state(now);
                for between in [now + (next - now) / 3, now + (next - now) / 2, next - 1] {
                    prop_assert_eq!(market.state(between), state.clone());
                    prop_assert_eq!(market.special(between), market.special(now));
                }
                now = next;
            }
        }
    }
}
