//! Recordings: written from the simulation, played as a feed. The format is described in `docs/recording.md`.
//!
//! The same file played from the same instant gives the same epoch, sequence numbers and content. When it plays
//! over and over, numbers go on where the last round ended, so that no reader sees one twice.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bawaba_channels::name::Channel;
use bawaba_channels::wire::{Data, Event, Timestamp, Update};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config;
use crate::feed::Happening;
use crate::hub::now;
use crate::serve::settings;
use crate::sim::Sim;
use bawaba_channels::calendar::Phase;
use bawaba_channels::listing::Listing;

/// First word of a recording: what it is and the version of the format.
const FORMAT: &str = "bawaba-recording/1";
/// Largest recording that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// First line of a recording.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    exchange: String,
    epoch: String,
    /// Where the figures come from, for people.
    source: String,
    /// When the recorded time begins.
    began: Timestamp,
    /// How long it lasts: when the next round begins.
    duration_ns: i64,
    /// The phase that holds at the beginning.
    phase: Phase,
    instruments: Vec<String>,
}

/// Every further line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    /// Nanoseconds since the beginning.
    t: i64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    update: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusLine>,
}

/// The state of one instrument, from here on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusLine {
    symbol: String,
    phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A recording that plays.
pub(crate) struct Replay {
    epoch: String,
    start: i64,
    duration: i64,
    looped: bool,
    entries: Vec<(i64, Happening)>,
    /// By stream: how many numbers one round uses.
    per_round: HashMap<(Channel, Option<usize>), u64>,
    phase: Phase,
    /// The phase that every round begins with.
    opening: Phase,
    round: u64,
    next: usize,
}

impl Replay {
    /// Reads a recording that will play from `start`; the listing shrinks to what was recorded.
    pub(crate) fn open(
        path: &Path,
        listing: &Listing,
        start: i64,
        looped: bool,
    ) -> anyhow::Result<(Arc<Listing>, Self)> {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        Self::read(BufReader::new(file.take(FILE_BYTES_MAX)), listing, start, looped)
            .with_context(|| path.display().to_string())
    }

    fn read(
        mut lines: impl std::io::BufRead,
        listing: &Listing,
        start: i64,
        looped: bool,
    ) -> anyhow::Result<(Arc<Listing>, Self)> {
        let mut text = String::new();
        lines.read_line(&mut text)?;
        let header: Header = serde_json::from_str(&text).context("line 1: the header")?;
        ensure!(header.format == FORMAT, "line 1: format {:?} is not {FORMAT:?}", header.format);
        ensure!(
            header.exchange == listing.exchange.as_str(),
            "this is a recording of {}: serve it with --exchange {}",
            header.exchange,
            header.exchange
        );
        ensure!((1..=64).contains(&header.epoch.len()) && header.duration_ns > 0, "line 1: epoch or duration_ns");
        let listing = Arc::new(listing.only(&header.instruments)?);
        let opening = header.phase;
        let mut replay = Self {
            epoch: header.epoch,
            start,
            duration: header.duration_ns,
            looped,
            entries: Vec::new(),
            per_round: HashMap::new(),
            phase: opening,
            opening,
            round: 0,
            next: 0,
        };
        let mut newest: HashMap<(Channel, Option<usize>), u64> = HashMap::new();
        for (index, line) in lines.lines().enumerate() {
            let line = line?;
            replay.take(&line, &listing, &mut newest).with_context(|| format!("line {}", index + 2))?;
        }
        ensure!(!replay.entries.is_empty(), "the recording holds no updates");
        Ok((listing, replay))
    }

    fn take(
        &mut self,
        line: &str,
        listing: &Listing,
        newest: &mut HashMap<(Channel, Option<usize>), u64>,
    ) -> anyhow::Result<()> {
        let line: Line<'_> = serde_json::from_str(line)?;
        let last = self.entries.last().map_or(0, |(t, _)| *t);
        ensure!(line.t >= last && line.t < self.duration, "t goes back, or beyond duration_ns");
        if let Some(phase) = line.phase {
            self.entries.push((line.t, Happening::Phase(phase)));
        }
        if let Some(StatusLine { symbol, phase, reason }) = line.status {
            let index = listing.index(&symbol).with_context(|| format!("status: {symbol} is not in the header"))?;
            let symbol = listing.instruments[index].symbol;
            self.entries
                .push((line.t, Happening::Status { symbol: Some(symbol), phase: Some(phase), until: None, reason }));
        }
        let Some(update) = line.update else { return Ok(()) };
        let Event::Update(update) = Event::from_json(update.get().as_bytes())? else {
            bail!("update: only market_data_update, order_book_update, trade_update and news_update are recorded");
        };
        let channel = match &update.data {
            Some(Data::Quote(_)) => Channel::MarketData,
            Some(Data::Book(_)) => Channel::OrderBook,
            Some(Data::Trade(_)) => Channel::Trades,
            Some(Data::News(_)) => Channel::News,
            None => bail!("update: data is missing"),
        };
        let instrument = match channel {
            Channel::News => None,
            _ => {
                Some(listing.index(&update.symbol).with_context(|| format!("{} is not in the header", update.symbol))?)
            }
        };
        ensure!(update.exchange == listing.exchange.as_str(), "update: exchange {}", update.exchange);
        let stream = (channel, instrument);
        let seq = newest.entry(stream).or_insert_with(|| update.seq.saturating_sub(1));
        ensure!(update.seq == *seq + 1, "{channel} {}: seq {} follows {seq}", update.symbol, update.seq);
        *seq = update.seq;
        *self.per_round.entry(stream).or_insert(0) += 1;
        let update = Update { epoch: self.epoch.clone(), ..update };
        self.entries.push((line.t, Happening::Update { channel, instrument, update }));
        Ok(())
    }

    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// When the next entry plays; `None` at the end.
    pub(crate) fn next_at(&self) -> Option<i64> {
        let (t, _) = self.entries.get(self.next)?;
        let round = i64::try_from(self.round).ok()?;
        Some(self.start.saturating_add(round.saturating_mul(self.duration)).saturating_add(*t))
    }

    /// Plays up to `now`; whole rounds long past only count.
    pub(crate) fn start(&mut self, now: i64, _keep: usize, out: &mut Vec<Happening>) {
        if self.looped {
            let rounds = now.saturating_sub(self.start).max(0) / self.duration;
            self.round = u64::try_from(rounds - 1).unwrap_or(0);
        }
        while self.next_at().is_some_and(|at| at <= now) {
            self.step(Some(out));
        }
    }

    /// Plays the next entry.
    pub(crate) fn step(&mut self, mut out: Option<&mut Vec<Happening>>) {
        let Some(at) = self.next_at() else { return };
        if self.next == 0 && self.phase != self.opening {
            self.phase = self.opening;
            if let Some(out) = out.as_deref_mut() {
                out.push(Happening::Phase(self.phase));
            }
        }
        let happening = match self.entries[self.next].1.clone() {
            Happening::Update { channel, instrument, mut update } => {
                let used = self.per_round.get(&(channel, instrument)).copied().unwrap_or(0);
                update.seq += self.round * used;
                update.time = at;
                Happening::Update { channel, instrument, update }
            }
            other => other,
        };
        if let Happening::Phase(phase) = &happening {
            self.phase = *phase;
        }
        if let Some(out) = out {
            out.push(happening);
        }
        self.next += 1;
        if self.next == self.entries.len() && self.looped {
            self.next = 0;
            self.round += 1;
        }
    }
}

/// `bawaba-channel record`: the simulation's updates, with the instants that they would have.
pub(crate) fn record(command: &config::Record) -> anyhow::Result<()> {
    let mut listing = command.exchange.listing()?;
    if !command.symbols.is_empty() {
        let unique: BTreeSet<_> = command.symbols.iter().collect();
        ensure!(unique.len() == command.symbols.len(), "--symbols: a symbol is named twice");
        listing = listing.only(&command.symbols)?;
    }
    let settings = settings(&command.simulation, &listing, now());
    let file = std::fs::File::create(&command.file).with_context(|| command.file.display().to_string())?;
    let mut out = BufWriter::new(file);
    write(&mut out, Arc::new(listing), settings, command.seconds)?;
    out.flush()?;
    Ok(())
}

fn write(
    out: &mut impl std::io::Write,
    listing: Arc<Listing>,
    settings: crate::sim::Settings,
    seconds: u32,
) -> anyhow::Result<()> {
    let mut sim = Sim::new(listing.clone(), settings);
    let duration_ns = i64::from(seconds) * 1_000_000_000;
    let header = Header {
        format: FORMAT.into(),
        exchange: listing.exchange.as_str().into(),
        epoch: sim.epoch().into(),
        source: format!("bawaba-channel simulation, seed {}; no real prices", settings.seed),
        began: Timestamp(settings.anchor),
        duration_ns,
        phase: sim.phase(),
        instruments: listing.instruments.iter().map(|i| i.symbol.as_str().into()).collect(),
    };
    serde_json::to_writer(&mut *out, &header)?;
    writeln!(out)?;
    let mut happenings = Vec::new();
    while sim.next_at() < settings.anchor.saturating_add(duration_ns) {
        let t = sim.next_at() - settings.anchor;
        sim.step(Some(&mut happenings));
        for happening in happenings.drain(..) {
            let mut json = Vec::new();
            let line = match happening {
                Happening::Update { update, .. } => {
                    Event::Update(update).to_json(&mut json);
                    Line { t, update: Some(serde_json::from_slice(&json)?), phase: None, status: None }
                }
                Happening::Phase(phase) => Line { t, update: None, phase: Some(phase), status: None },
                Happening::Alert(_) | Happening::Standing { .. } | Happening::Status { .. } => continue,
            };
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Hours, Settings};
    use std::io::Cursor;

    fn recording(seconds: u32) -> Vec<u8> {
        let listing = Listing::embedded("ADX").unwrap().only(&["FAB".into(), "2POINTZERO".into()]).unwrap();
        let anchor = "2026-11-23T10:00:00Z".parse::<Timestamp>().unwrap().0;
        let settings = Settings { seed: 9, anchor, updates_per_second: 20, hours: Hours::RoundTheClock };
        let mut out = Vec::new();
        write(&mut out, Arc::new(listing), settings, seconds).unwrap();
        out
    }

    fn open(bytes: &[u8], start: i64, looped: bool) -> anyhow::Result<Replay> {
        Replay::read(Cursor::new(bytes), &Listing::embedded("ADX").unwrap(), start, looped).map(|(_, replay)| replay)
    }

    fn play(replay: &mut Replay, entries: usize) -> Vec<Happening> {
        let mut out = Vec::new();
        for _ in 0..entries {
            replay.step(Some(&mut out));
        }
        out
    }

    #[test]
    fn a_recording_is_the_same_bytes_every_time_and_plays_the_same_every_time() {
        let bytes = recording(30);
        assert_eq!(bytes, recording(30));
        let play_all = || play(&mut open(&bytes, 5, false).unwrap(), 10_000);
        let played = play_all();
        assert!(played.len() > 1200 && played == play_all());
        assert_eq!(String::from_utf8(bytes).unwrap().lines().count(), played.len() + 1);
    }

    #[test]
    fn rounds_go_on_by_one_and_a_late_start_joins_them() {
        let bytes = recording(10);
        let mut early = open(&bytes, 0, true).unwrap();
        let entries = early.entries.len();
        let mut all = play(&mut early, entries * 3 + entries / 2);
        let now = early.next_at().unwrap();
        while early.next_at().unwrap() <= now {
            early.step(Some(&mut all));
        }
        let mut seqs: HashMap<(Channel, Option<usize>), u64> = HashMap::new();
        let mut time = 0;
        for happening in &all {
            let Happening::Update { channel, instrument, update } = happening else { continue };
            let seq = seqs.entry((*channel, *instrument)).or_insert(0);
            assert_eq!(update.seq, *seq + 1);
            *seq = update.seq;
            assert!(update.time >= time);
            time = update.time;
        }
        let mut late = open(&bytes, 0, true).unwrap();
        let mut tail = Vec::new();
        late.start(now, 0, &mut tail);
        assert!(tail.len() > entries && tail.len() < all.len() && all.ends_with(&tail));
        assert_eq!(late.round, 3);
    }

    #[test]
    fn what_is_wrong_with_a_recording_is_said_with_its_line() {
        let text = String::from_utf8(recording(1)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let said = |lines: &[&str]| format!("{:#}", open(lines.join("\n").as_bytes(), 0, false).err().unwrap());
        assert!(said(&[]).contains("header"));
        assert!(said(&lines[..1]).contains("no updates"));
        assert!(said(&[lines[0], "{}", "x"]).contains("line 2"));
        let first_twice = [lines[0], lines[1], lines[1]];
        assert!(said(&first_twice).contains("line 3") && said(&first_twice).contains("follows"));
        let header = lines[0].replace("ADX", "EGX");
        assert!(said(&[&header, lines[1]]).contains("--exchange EGX"));
    }
}
