//! The state of the market as this server tells it: turns with the calendar, the feed and operators, each turn once.

use std::collections::BTreeMap;

use bawaba_channels::calendar::Phase;
use bawaba_channels::market::{Said, Source, State, SymbolState};
use bawaba_channels::name::{Channel, Symbol};
use bawaba_channels::wire::{Conflict, Event, Market, MarketStatus};
use tracing::info;

use super::Hub;

/// What was told last.
#[derive(Clone, Debug)]
pub(super) struct Told {
    state: State,
    symbols: BTreeMap<Symbol, SymbolState>,
}

impl Told {
    pub(super) fn new(market: &bawaba_channels::market::Market, now: i64) -> Self {
        Self { state: market.state(now), symbols: market.special(now) }
    }
}

impl Hub {
    /// Looks at the market; what changed since the last look is told to everyone who follows it.
    pub(super) fn turn(&mut self, now: i64) {
        // A feed that lives says so with every look; a word of yesterday is no word.
        if let Some(phase) = self.feed.says() {
            let said = Said { phase, until: None, reason: None, at: now };
            self.market.say(Source::Upstream, Some(said));
        }
        let next = Told::new(&self.market, now);
        let before = std::mem::replace(&mut self.told, next);
        if before.state != self.told.state {
            let state = &self.told.state;
            info!(phase = state.phase.as_str(), source = state.source.as_str(), conflicts = ?state.conflicts, "market");
            if state.phase == Phase::Closed && before.state.phase != Phase::Closed {
                self.end_day(now);
            }
            self.tell_status(&self.status());
        }
        let symbols: Vec<Symbol> = before.symbols.keys().chain(self.told.symbols.keys()).copied().collect();
        for symbol in symbols.into_iter().collect::<std::collections::BTreeSet<_>>() {
            if before.symbols.get(&symbol) != self.told.symbols.get(&symbol) {
                let status = self.symbol_status(symbol);
                info!(%symbol, phase = %status.phase, source = %status.source, "instrument");
                self.tell_status(&status);
            }
        }
    }

    /// When the market must be looked at again by itself.
    pub(super) fn next_turn(&self, now: i64) -> Option<i64> {
        self.market.next_change(now)
    }

    /// What the exchange says, of its market or of one instrument.
    pub(super) fn upstream(&mut self, symbol: Option<Symbol>, said: Option<Said>) {
        match symbol {
            Some(symbol) => self.market.say_of(symbol, Source::Upstream, said),
            None => self.market.say(Source::Upstream, said),
        }
    }

    fn tell_status(&mut self, status: &MarketStatus) {
        let status = status.clone();
        self.announce(Channel::MarketStatus, move |name| {
            Event::MarketStatus(MarketStatus { subscription: Some(name.into()), ..status.clone() })
        });
    }

    /// The phase of the market.
    pub(super) const fn phase(&self) -> Phase {
        self.told.state.phase
    }

    /// The phase of an instrument, where it is not the market's.
    pub(super) fn symbol_phase(&self, symbol: Symbol) -> Option<Phase> {
        self.told.symbols.get(&symbol).map(|state| state.phase)
    }

    /// The market as `welcome` and answers have it.
    pub(super) fn market_on_the_wire(&self) -> Market {
        let State { phase, until, next_open, .. } = &self.told.state;
        Market { phase: phase.as_str().into(), until: *until, next_open: *next_open }
    }

    /// The phase, as a message without a subscription.
    pub(super) fn status(&self) -> MarketStatus {
        let state = &self.told.state;
        MarketStatus {
            exchange: self.listing.exchange.as_str().into(),
            phase: state.phase.as_str().into(),
            source: state.source.as_str().into(),
            next: state.until,
            symbol: None,
            subscription: None,
            next_open: state.next_open,
            ends_from: state.ends_from,
            certainty: (state.source == Source::Calendar).then(|| state.certainty.as_str().into()),
            reason: state.reason.clone(),
            conflicts: on_the_wire(&state.conflicts),
        }
    }

    /// As [`Self::status`], of one instrument; the market's own phase where nothing is special.
    pub(super) fn symbol_status(&self, symbol: Symbol) -> MarketStatus {
        let whole = MarketStatus { symbol: Some(symbol.as_str().into()), ..self.status() };
        let Some(state) = self.told.symbols.get(&symbol) else { return whole };
        MarketStatus {
            phase: state.phase.as_str().into(),
            source: state.source.as_str().into(),
            next: state.until,
            next_open: None,
            ends_from: None,
            certainty: None,
            reason: state.reason.clone(),
            conflicts: on_the_wire(&state.conflicts),
            ..whole
        }
    }

    /// The state of every instrument that is not in the market's phase.
    pub(super) fn special(&self) -> Vec<MarketStatus> {
        self.told.symbols.keys().map(|symbol| self.symbol_status(*symbol)).collect()
    }
}

fn on_the_wire(conflicts: &[(Source, Phase)]) -> Vec<Conflict> {
    let told =
        |(source, phase): &(Source, Phase)| Conflict { source: source.as_str().into(), phase: phase.as_str().into() };
    conflicts.iter().map(told).collect()
}
