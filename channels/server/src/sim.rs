//! The simulated exchange: seeded, and a pure function of (listing, seed, anchor, rate, hours).
//!
//! Step `k` happens at `anchor + k × interval`, whenever anybody looks: two processes with the same settings
//! produce the same epoch, sequence numbers and content, so an edge can leave one and resume at the other without a
//! gap. A late starter computes the steps that it missed. Integers only; reads no clock; knows no subscriber.
//!
//! Each step moves one instrument, chosen by weight: perhaps a trade at the best price, then the quote walks by at
//! most a tick, drawn back towards the previous close. In auctions orders gather and one trade ends them; at the
//! close trades happen at the closing price only; nothing happens while the market is closed.

mod draw;
mod line;

use std::sync::Arc;

use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Alert, Data, News, Update};
use jiff::civil::Date;

use crate::feed::Happening;
use bawaba_channels::calendar::Phase;
use bawaba_channels::listing::Listing;
use draw::{Draw, mix};
use line::{Line, Move};

/// Changes whenever the same settings would give other content.
const VERSION: u64 = 1;
/// A headline comes about this often.
const NEWS_EVERY_NS: i64 = 20_000_000_000;
/// Most updates per second of a simulated exchange.
pub(crate) const RATE_MAX: u32 = 100_000;
const SECOND_NS: i64 = 1_000_000_000;

/// What decides a simulation, besides the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The seed.
    pub(crate) seed: u64,
    /// When step 0 happens, in nanoseconds since the epoch.
    pub(crate) anchor: i64,
    /// Steps per second, 1 to [`RATE_MAX`].
    pub(crate) updates_per_second: u32,
    /// When the market trades.
    pub(crate) hours: Hours,
}

/// When the market trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hours {
    /// As the exchange's calendar says.
    Calendar,
    /// Always in continuous trading; a new day begins at local midnight.
    RoundTheClock,
}

/// A simulated exchange and where it stands.
pub(crate) struct Sim {
    listing: Arc<Listing>,
    settings: Settings,
    epoch: String,
    key: u64,
    interval_ns: i64,
    news_every_steps: i64,
    /// The next step.
    step: i64,
    lines: Vec<Line>,
    /// Running sums of the instruments' weights.
    weights: Vec<u64>,
    news_seq: u64,
    phase: Phase,
    /// When `phase` must be looked at again.
    look_again: i64,
    day: Date,
    /// The opening state has been given out.
    opened: bool,
}

impl Sim {
    /// The simulation at its anchor, before its first step.
    pub(crate) fn new(listing: Arc<Listing>, settings: Settings) -> Self {
        let rate = settings.updates_per_second.clamp(1, RATE_MAX);
        let name =
            listing.exchange.as_str().bytes().fold(0u64, |sum, b| sum.wrapping_mul(257).wrapping_add(u64::from(b)));
        let mut key = mix(settings.seed, name);
        for part in
            [VERSION, settings.anchor as u64, u64::from(rate), u64::from(settings.hours == Hours::RoundTheClock)]
        {
            key = mix(key, part);
        }
        let mut lines = Vec::new();
        let mut weights = Vec::new();
        let mut total = 0;
        for (index, instrument) in listing.instruments.iter().enumerate() {
            for byte in instrument.symbol.as_str().bytes() {
                key = mix(key, u64::from(byte));
            }
            key = mix(key, instrument.reference() as u64);
            // As on a real exchange a few names make most of the turnover.
            total += [8, 1, 2, 1][index * 7 % 4];
            weights.push(total);
        }
        for (index, instrument) in listing.instruments.iter().enumerate() {
            let mut line = Line::new(
                &listing.rules.ticks,
                listing.limits(index),
                listing.rules.lot,
                instrument.reference(),
                mix(key, index as u64),
            );
            line.time = settings.anchor;
            lines.push(line);
        }
        let mut sim = Self {
            epoch: format!("sim-{key:016x}"),
            key,
            interval_ns: SECOND_NS / i64::from(rate),
            news_every_steps: (NEWS_EVERY_NS / (SECOND_NS / i64::from(rate))).max(1),
            step: 0,
            lines,
            weights,
            news_seq: 0,
            phase: Phase::Closed,
            look_again: settings.anchor,
            day: listing.calendar.day_at(settings.anchor),
            opened: false,
            listing,
            settings,
        };
        sim.look(settings.anchor);
        sim
    }

    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// What this exchange says of itself, where it does not go by its calendar.
    pub(crate) fn says(&self) -> Option<Phase> {
        (self.settings.hours == Hours::RoundTheClock).then_some(self.phase)
    }

    /// When the next step happens.
    pub(crate) const fn next_at(&self) -> i64 {
        self.settings.anchor.saturating_add(self.step.saturating_mul(self.interval_ns))
    }

    /// Computes the steps up to `now`; the last of them, `keep` per instrument on average, and the state of
    /// every instrument before those come out.
    pub(crate) fn start(&mut self, now: i64, keep: usize, out: &mut Vec<Happening>) {
        let kept = i64::try_from(keep.saturating_mul(self.lines.len())).unwrap_or(i64::MAX);
        let quiet_until = now.saturating_sub(kept.saturating_mul(self.interval_ns));
        while self.next_at() < quiet_until {
            self.step(None);
        }
        self.open(out);
        while self.next_at() <= now {
            self.step(Some(out));
        }
    }

    /// Gives out the state of every instrument as it stands.
    fn open(&mut self, out: &mut Vec<Happening>) {
        for index in 0..self.lines.len() {
            self.emit_state(index, out);
            let seq = self.lines[index].trades;
            out.push(Happening::Standing { channel: Channel::Trades, instrument: Some(index), seq });
        }
        out.push(Happening::Standing { channel: Channel::News, instrument: None, seq: self.news_seq });
        self.opened = true;
    }

    /// One step. With `None` it is computed but not told.
    pub(crate) fn step(&mut self, mut out: Option<&mut Vec<Happening>>) {
        if !self.opened
            && let Some(out) = out.as_deref_mut()
        {
            self.open(out);
        }
        let now = self.next_at();
        if now >= self.look_again {
            self.turn(now, out.as_deref_mut());
        }
        if self.phase == Phase::Closed {
            // Nothing happens until then: go to the first step that is not before it.
            let wait = self.look_again.saturating_sub(self.settings.anchor);
            let skip_to = wait.saturating_add(self.interval_ns - 1) / self.interval_ns;
            self.step = skip_to.max(self.step + 1);
            return;
        }
        let mut draw = Draw::new(mix(self.key, self.step as u64));
        let total = self.weights.last().copied().unwrap_or(1);
        let ticket = draw.below(total);
        let index = self.weights.partition_point(|sum| *sum <= ticket);
        self.lines[index].time = now;
        let moved = self.lines[index].step(&self.listing.rules.ticks, self.phase, &mut draw);
        if let Some(out) = out.as_deref_mut() {
            self.emit_move(index, &moved, out);
        }
        if self.step % self.news_every_steps == self.news_every_steps / 2 {
            self.news(now, &mut draw, out);
        }
        self.step += 1;
    }

    /// Looks at the calendar: the phase at `now`, and when to look again.
    fn look(&mut self, now: i64) {
        let calendar = &self.listing.calendar;
        match self.settings.hours {
            Hours::RoundTheClock => {
                self.phase = Phase::Continuous;
                self.look_again = calendar.midnight_after(now);
            }
            Hours::Calendar => {
                let found = calendar.phase_at(now);
                self.phase = found.phase;
                self.look_again = found.until.unwrap_or(i64::MAX);
            }
        }
    }

    /// The phase or the day turns: auctions end with a trade, a new day begins from the last price.
    fn turn(&mut self, now: i64, mut out: Option<&mut Vec<Happening>>) {
        let before = self.phase;
        self.look(now);
        if let Some(out) = out.as_deref_mut().filter(|_| self.phase != before) {
            out.push(Happening::Phase(self.phase));
            let text = format!("the market is now in phase {} (simulated)", self.phase.as_str());
            out.push(Happening::Alert(self.alert("market.phase", text, None)));
        }
        let day = self.listing.calendar.day_at(now);
        let new_day = day != self.day && self.phase != Phase::Closed;
        let uncross = before.is_auction() && self.phase != before;
        if !new_day && !uncross {
            return;
        }
        for index in 0..self.lines.len() {
            self.lines[index].time = now;
            if new_day {
                self.lines[index].begin_day(&self.listing.rules.ticks);
            }
            let mut draw = Draw::new(mix(mix(self.key, self.step as u64), index as u64 + 1));
            let moved = if uncross { self.lines[index].uncross(&mut draw) } else { self.lines[index].restate() };
            if let Some(out) = out.as_deref_mut() {
                self.emit_move(index, &moved, out);
            }
        }
        self.day = day;
    }

    fn update(&self, index: Option<usize>, seq: u64, time: i64, data: Data) -> Update {
        Update {
            subscription: String::new(),
            exchange: self.listing.exchange.as_str().into(),
            symbol: index.map(|i| self.listing.instruments[i].symbol.as_str().into()).unwrap_or_default(),
            epoch: self.epoch.clone(),
            seq,
            first_seq: None,
            snapshot: false,
            time,
            metadata: None,
            phase: None,
            data: Some(data),
        }
    }

    fn emit_state(&self, index: usize, out: &mut Vec<Happening>) {
        let line = &self.lines[index];
        let time = line.time;
        let quote = self.update(Some(index), line.quotes, time, Data::Quote(line.quote(&self.listing.rules.ticks)));
        let book = self.update(Some(index), line.quotes, time, Data::Book(line.book(&self.listing.rules.ticks)));
        out.push(Happening::Update { channel: Channel::MarketData, instrument: Some(index), update: quote });
        out.push(Happening::Update { channel: Channel::OrderBook, instrument: Some(index), update: book });
    }

    fn emit_move(&self, index: usize, moved: &Move, out: &mut Vec<Happening>) {
        if let Some(trade) = moved.trade(&self.listing.rules.ticks) {
            let line = &self.lines[index];
            let mut update = self.update(Some(index), line.trades, line.time, Data::Trade(trade));
            if let Some(Data::Trade(trade)) = &mut update.data {
                trade.trade_id =
                    format!("{}-{}-{}", self.listing.exchange, self.listing.instruments[index].symbol, update.seq);
            }
            out.push(Happening::Update { channel: Channel::Trades, instrument: Some(index), update });
        }
        self.emit_state(index, out);
        if let Some(percent) = moved.crossed_percent {
            let symbol = self.listing.instruments[index].symbol;
            let text = format!("{symbol} moved {percent} % from its previous close (simulated)");
            out.push(Happening::Alert(self.alert("market.move", text, Some(symbol.as_str()))));
        }
    }

    fn alert(&self, code: &str, reason: String, symbol: Option<&str>) -> Alert {
        Alert {
            code: code.into(),
            reason,
            exchange: Some(self.listing.exchange.as_str().into()),
            symbol: symbol.map(Into::into),
            subscription: None,
            time: None,
        }
    }

    fn news(&mut self, now: i64, draw: &mut Draw, out: Option<&mut Vec<Happening>>) {
        const HEADLINES: [&str; 5] = [
            "{} invites shareholders to a general meeting",
            "{} publishes its quarterly figures",
            "{} names a new head of finance",
            "{} signs a supply agreement",
            "Turnover picks up in {}",
        ];
        self.news_seq += 1;
        let headline = HEADLINES[draw.below(HEADLINES.len() as u64) as usize];
        let mut symbols: Vec<&str> = Vec::new();
        for _ in 0..=draw.below(3) {
            let symbol = self.listing.instruments[draw.below(self.lines.len() as u64) as usize].symbol.as_str();
            if !symbols.contains(&symbol) {
                symbols.push(symbol);
            }
        }
        let Some(out) = out else { return };
        let news = News {
            headline: format!("[simulated] {}", headline.replace("{}", &symbols.join(", "))),
            body: "A made-up headline of the simulation: nothing of the kind happened.".into(),
            symbols: symbols.into_iter().map(Into::into).collect(),
        };
        let update = self.update(None, self.news_seq, now, Data::News(news));
        out.push(Happening::Update { channel: Channel::News, instrument: None, update });
    }
}

#[cfg(test)]
mod tests;
