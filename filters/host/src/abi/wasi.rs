//! The little of WASI preview 1 that language runtimes need to start: clock, randomness, an empty
//! environment, and standard output as a log. No file, no socket. Answers are proxy-wasm-cpp-host's.

use std::time::Instant;

use super::log::{Level, write_line};
use super::{Answer, Guest, Imports, Status, bytes, split, stream::wall_clock_ns, write, write_u32};

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
/// The answer to every other function of the module.
pub(crate) const NOSYS: i32 = 52;
const NOTSUP: u32 = 58;

const RANDOM_BYTES_MAX: u32 = 64 << 10;
const VECTORS_MAX: u32 = 1024;
const LINE_BYTES_MAX: usize = 64 << 10;

/// The two names under which WASI preview 1 is imported.
pub(crate) const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    for module in MODULES {
        link_as(imports, module)?;
    }
    // What old emscripten runtimes import besides.
    imports.env("pthread_equal", |_: Guest<'_>, left: u32, right: u32| u32::from(left == right))?;
    imports.env("emscripten_notify_memory_growth", |_: Guest<'_>, _memory: u32| {})
}

fn link_as(imports: &mut Imports, module: &'static str) -> wasmtime::Result<()> {
    let started = Instant::now();
    imports.add(module, "fd_write", |mut guest: Guest<'_>, fd: u32, vectors: u32, count: u32, written_at: u32| {
        fd_write(&mut guest, fd, vectors, count, written_at)
    })?;
    imports.add(module, "fd_seek", |_: Guest<'_>, _fd: u32, _offset: i64, _whence: u32, _at: u32| SUCCESS)?;
    imports.add(module, "fd_close", |_: Guest<'_>, _fd: u32| SUCCESS)?;
    imports.add(module, "fd_fdstat_get", |mut guest: Guest<'_>, fd: u32, at: u32| match fd {
        // Rights: write (bit 6) and nothing else.
        1 | 2 => faultless(split(&mut guest).and_then(|(memory, _)| {
            write(memory, at, &[0; 24])?;
            write(memory, at.wrapping_add(8), &64u64.to_le_bytes())
        })),
        _ => BADF,
    })?;
    imports.add(module, "fd_prestat_get", |_: Guest<'_>, _fd: u32, _at: u32| BADF)?;
    imports.add(module, "environ_get", |_: Guest<'_>, _at: u32, _buffer: u32| SUCCESS)?;
    imports.add(module, "environ_sizes_get", |mut guest: Guest<'_>, count_at: u32, size_at: u32| {
        faultless(two_zeros(&mut guest, count_at, size_at))
    })?;
    imports.add(module, "args_get", |_: Guest<'_>, _at: u32, _buffer: u32| SUCCESS)?;
    imports.add(module, "args_sizes_get", |mut guest: Guest<'_>, count_at: u32, size_at: u32| {
        faultless(two_zeros(&mut guest, count_at, size_at))
    })?;
    imports.add(module, "clock_time_get", move |mut guest: Guest<'_>, clock: u32, _precision: u64, at: u32| {
        guest.data_mut().starting.impure();
        let now = match clock {
            0 => wall_clock_ns(),
            1 => started.elapsed().as_nanos() as u64,
            _ => return NOTSUP,
        };
        faultless(split(&mut guest).and_then(|(memory, _)| write(memory, at, &now.to_le_bytes())))
    })?;
    imports.add(module, "clock_res_get", |mut guest: Guest<'_>, clock: u32, at: u32| match clock {
        0 | 1 => faultless(split(&mut guest).and_then(|(memory, _)| write(memory, at, &1u64.to_le_bytes()))),
        _ => NOTSUP,
    })?;
    imports.add(module, "random_get", |mut guest: Guest<'_>, at: u32, len: u32| random_get(&mut guest, at, len))?;
    imports.add(module, "sched_yield", |_: Guest<'_>| SUCCESS)?;
    // Go's runtime wants success and no event.
    imports.add(module, "poll_oneoff", |mut guest: Guest<'_>, _in: u32, _out: u32, _count: u32, events_at: u32| {
        faultless(split(&mut guest).and_then(|(memory, _)| write_u32(memory, events_at, 0)))
    })?;
    // As in Envoy this returns; what follows it in a guest is `unreachable`, which traps.
    imports.add(module, "proc_exit", |_: Guest<'_>, _code: u32| {})
}

fn faultless(answer: Answer) -> u32 {
    if answer.is_ok() { SUCCESS } else { FAULT }
}

fn two_zeros(guest: &mut Guest<'_>, first: u32, second: u32) -> Answer {
    let (memory, _) = split(guest)?;
    write_u32(memory, first, 0)?;
    write_u32(memory, second, 0)
}

fn fd_write(guest: &mut Guest<'_>, fd: u32, vectors: u32, count: u32, written_at: u32) -> u32 {
    let level = match fd {
        1 => Level::Info,
        2 => Level::Error,
        _ => return BADF,
    };
    if count > VECTORS_MAX {
        return INVAL;
    }
    let Ok((memory, state)) = split(guest) else { return FAULT };
    let mut line = Vec::new();
    let mut written = 0u32;
    for index in 0..count {
        let Ok(part) = vector(memory, vectors, index) else { return FAULT };
        written = written.saturating_add(part.len() as u32);
        line.extend_from_slice(&part[..part.len().min(LINE_BYTES_MAX - line.len())]);
    }
    if !line.is_empty() {
        write_line(state, level, line.strip_suffix(b"\n").unwrap_or(&line));
    }
    faultless(write_u32(memory, written_at, written))
}

fn vector(memory: &[u8], vectors: u32, index: u32) -> Result<&[u8], super::Fault> {
    let at = vectors.checked_add(index * 8).ok_or(Status::InvalidMemoryAccess)?;
    let raw = bytes(memory, at, 8)?;
    let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    match word(4) {
        0 => Ok(&[]),
        len => bytes(memory, word(0), len),
    }
}

fn random_get(guest: &mut Guest<'_>, at: u32, len: u32) -> u32 {
    if len > RANDOM_BYTES_MAX {
        return INVAL;
    }
    let Ok((memory, state)) = split(guest) else { return FAULT };
    state.starting.impure();
    let start = at as usize;
    match start.checked_add(len as usize).and_then(|end| memory.get_mut(start..end)) {
        Some(place) => getrandom::fill(place).map_or(FAULT, |()| SUCCESS),
        None => FAULT,
    }
}
