//! What a filter writes goes to `tracing`, target `bawaba::filter`, so many lines a second and no more.

use std::time::{Duration, Instant};

use super::{Answer, Guest, Imports, Status, bytes, split, status, write_u32};
use crate::state::{State, count};

/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 4096;
/// Kept of the last line while a module starts, for the error message.
const SAID_BYTES_MAX: usize = 512;

/// Levels of proxy-wasm; `tracing` has no critical, which is logged as an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl Level {
    fn parse(raw: u32) -> Option<Level> {
        Some(match raw {
            0 => Level::Trace,
            1 => Level::Debug,
            2 => Level::Info,
            3 => Level::Warn,
            4 => Level::Error,
            5 => Level::Critical,
            _ => return None,
        })
    }
}

/// A bucket of lines, refilled each second.
pub(crate) struct LogGate {
    lines_per_second_max: u32,
    window: Option<Instant>,
    lines: u32,
    /// The last line, kept only while the module starts.
    pub(crate) said: Option<String>,
    pub(crate) listening: bool,
}

impl LogGate {
    pub(crate) fn new(lines_per_second_max: u32) -> Self {
        LogGate { lines_per_second_max, window: None, lines: 0, said: None, listening: true }
    }

    fn admits(&mut self) -> bool {
        let now = Instant::now();
        if self.window.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            self.window = Some(now);
            self.lines = 0;
        }
        self.lines += 1;
        self.lines <= self.lines_per_second_max
    }
}

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env("proxy_log", |mut guest: Guest<'_>, level: u32, ptr: u32, len: u32| {
        status(proxy_log(&mut guest, level, ptr, len))
    })?;
    imports.env("proxy_get_log_level", |mut guest: Guest<'_>, level_at: u32| status(level(&mut guest, level_at)))
}

fn proxy_log(guest: &mut Guest<'_>, level: u32, ptr: u32, len: u32) -> Answer {
    let level = Level::parse(level).ok_or(Status::BadArgument)?;
    let (memory, state) = split(guest)?;
    let line = bytes(memory, ptr, len)?;
    write_line(state, level, line);
    Ok(())
}

pub(crate) fn write_line(state: &mut State, level: Level, line: &[u8]) {
    let line = &line[..line.len().min(LINE_BYTES_MAX)];
    if state.log.listening {
        state.log.said = Some(String::from_utf8_lossy(&line[..line.len().min(SAID_BYTES_MAX)]).into_owned());
    }
    if level < current_level() {
        return;
    }
    if !state.log.admits() {
        count(&state.counters.log_lines_dropped);
        return;
    }
    let (filter, context) = (&*state.filter.name, state.effective_context());
    let line = String::from_utf8_lossy(line);
    match level {
        Level::Trace => tracing::trace!(target: "bawaba::filter", filter, context, "{line}"),
        Level::Debug => tracing::debug!(target: "bawaba::filter", filter, context, "{line}"),
        Level::Info => tracing::info!(target: "bawaba::filter", filter, context, "{line}"),
        Level::Warn => tracing::warn!(target: "bawaba::filter", filter, context, "{line}"),
        Level::Error => tracing::error!(target: "bawaba::filter", filter, context, "{line}"),
        Level::Critical => tracing::error!(target: "bawaba::filter", filter, context, critical = true, "{line}"),
    }
}

/// The least severe level that anyone listens to.
fn current_level() -> Level {
    if tracing::enabled!(target: "bawaba::filter", tracing::Level::TRACE) {
        Level::Trace
    } else if tracing::enabled!(target: "bawaba::filter", tracing::Level::DEBUG) {
        Level::Debug
    } else if tracing::enabled!(target: "bawaba::filter", tracing::Level::INFO) {
        Level::Info
    } else if tracing::enabled!(target: "bawaba::filter", tracing::Level::WARN) {
        Level::Warn
    } else if tracing::enabled!(target: "bawaba::filter", tracing::Level::ERROR) {
        Level::Error
    } else {
        Level::Critical
    }
}

fn level(guest: &mut Guest<'_>, level_at: u32) -> Answer {
    let (memory, _) = split(guest)?;
    write_u32(memory, level_at, current_level() as u32)
}
