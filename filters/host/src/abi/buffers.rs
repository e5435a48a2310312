//! Buffers: the body under way, and the configurations. Edits follow Envoy's three shapes only:
//! from the start so many bytes are replaced (none of them: it prepends), at or past the end it appends.

use super::{Answer, Fault, Guest, Imports, Status, bytes, deliver, split, status, write_u32};
use crate::chain::Way;
use crate::state::{Original, Phase, State};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Body,
    /// The body with which the stream stopped, outside its callback.
    Held(Way),
    Settings,
    VmConfiguration,
    CallBody,
    CallMessage,
    /// Present in Envoy, but nothing is in it here and now.
    Nothing,
}

/// Which bytes a buffer number means at this moment.
fn source(state: &State, kind: u32) -> Result<Source, Fault> {
    let phase = state.call.effective_phase();
    let told = state.told.as_deref();
    Ok(match kind {
        0 if phase == Phase::RequestBody && !state.call.request_gone => Source::Body,
        1 if phase == Phase::ResponseBody => Source::Body,
        0 => Source::Held(Way::Request),
        1 => Source::Held(Way::Response),
        4 if told.is_some_and(|told| told.http_body.is_some()) => Source::CallBody,
        5 if told.is_some_and(|told| told.message.is_some()) => Source::CallMessage,
        // Network buffers, the data of foreign functions, no message: empty.
        2..=3 | 5 | 8 => Source::Nothing,
        6 => Source::VmConfiguration,
        7 if phase == Phase::Configure => Source::Settings,
        4 | 7 => return Err(Status::NotFound.into()),
        _ => return Err(Status::BadArgument.into()),
    })
}

fn contents<R>(state: &State, source: Source, f: impl FnOnce(&[u8]) -> R) -> R {
    let told = state.told.as_deref();
    if let Source::Held(way) = source
        && let Some(stream) = state.effective_stream()
    {
        let mut flow = stream.flow.borrow_mut();
        let place = flow.as_mut().map(|flow| flow.place(way, state.place));
        return f(place.filter(|place| place.body_shown && !place.resumed).map_or(&[], |place| &place.body));
    }
    f(match source {
        Source::Body => &state.body,
        Source::Settings => &state.filter.settings,
        Source::VmConfiguration => &state.filter.vm_configuration,
        Source::CallBody => told.and_then(|told| told.http_body.as_deref()).unwrap_or_default(),
        Source::CallMessage => told.and_then(|told| told.message.as_deref()).unwrap_or_default(),
        Source::Held(_) | Source::Nothing => &[],
    })
}

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env(
        "proxy_get_buffer_bytes",
        |mut guest: Guest<'_>, kind: u32, start: u32, len: u32, ptr_at: u32, len_at: u32| {
            status(get(&mut guest, kind, start, len, ptr_at, len_at))
        },
    )?;
    imports.env(
        "proxy_set_buffer_bytes",
        |mut guest: Guest<'_>, kind: u32, start: u32, len: u32, ptr: u32, size: u32| {
            status(set(&mut guest, kind, start, len, ptr, size))
        },
    )?;
    imports.env("proxy_get_buffer_status", |mut guest: Guest<'_>, kind: u32, len_at: u32, flags_at: u32| {
        status(describe(&mut guest, kind, len_at, flags_at))
    })?;
    // ABI 0.1.0
    imports.env("proxy_get_configuration", |mut guest: Guest<'_>, ptr_at: u32, len_at: u32| {
        let settings = guest.data().call.effective_phase() == Phase::Configure;
        let source = if settings { Source::Settings } else { Source::VmConfiguration };
        status(copy_out(&mut guest, source, 0, u32::MAX, ptr_at, len_at))
    })
}

fn get(guest: &mut Guest<'_>, kind: u32, start: u32, len: u32, ptr_at: u32, len_at: u32) -> Answer {
    let source = source(guest.data(), kind)?;
    copy_out(guest, source, start, len, ptr_at, len_at)
}

fn copy_out(guest: &mut Guest<'_>, source: Source, start: u32, len: u32, ptr_at: u32, len_at: u32) -> Answer {
    let size = contents(guest.data(), source, <[u8]>::len);
    let start = (start as usize).min(size);
    let end = start.saturating_add(len as usize).min(size);
    deliver(guest, end - start, ptr_at, len_at, |place, state| {
        contents(state, source, |contents| match contents.get(start..end) {
            Some(found) => {
                place.copy_from_slice(found);
                true
            }
            None => false,
        })
    })
}

fn describe(guest: &mut Guest<'_>, kind: u32, len_at: u32, flags_at: u32) -> Answer {
    let source = source(guest.data(), kind)?;
    let (memory, state) = split(guest)?;
    write_u32(memory, len_at, contents(state, source, <[u8]>::len) as u32)?;
    write_u32(memory, flags_at, 0)
}

fn set(guest: &mut Guest<'_>, kind: u32, start: u32, len: u32, ptr: u32, size: u32) -> Answer {
    let source = source(guest.data(), kind)?;
    let (memory, state) = split(guest)?;
    let new = bytes(memory, ptr, size)?;
    if let Source::Held(way) = source {
        return set_held(state, way, start, len, new);
    }
    if source != Source::Body {
        return Err(Status::BadArgument.into());
    }
    let body_len = state.body.len();
    let from = kept_from(body_len, start, len)?;
    // A loop of appends must not fill the host's memory. Envoy knows no such bound.
    let grown = new.len() + body_len - from.unwrap_or(0);
    if grown > state.filter.limits.body_bytes_max.max(body_len) {
        return Err(Status::InternalFailure.into());
    }
    match from {
        Some(from) => rewrite(state, new, from),
        None => {
            if state.original == Original::Same {
                state.original = Original::Prefix(body_len);
            }
            state.body.extend_from_slice(new);
        }
    }
    Ok(())
}

/// Where the part of a body begins that stays behind what is put in front of it; `None` appends.
fn kept_from(body_len: usize, start: u32, len: u32) -> Result<Option<usize>, Status> {
    match (start as usize, len as usize) {
        (0, len) => Ok(Some(len.min(body_len))),
        (start, _) if start >= body_len => Ok(None),
        _ => Err(Status::BadArgument),
    }
}

/// The same shapes on a body that a filter held back, while it is told of something else.
fn set_held(state: &mut State, way: Way, start: u32, len: u32, new: &[u8]) -> Answer {
    let bytes_max = state.filter.limits.held_bytes_max;
    let stream = state.effective_stream().ok_or(Status::BadArgument)?;
    let done = stream.stopped(way, state.place, |place| {
        if !place.body_shown || place.resumed {
            return Err(Status::BadArgument);
        }
        let body = &mut place.body;
        let from = kept_from(body.len(), start, len)?;
        if new.len() + body.len() - from.unwrap_or(0) > bytes_max.max(body.len()) {
            return Err(Status::InternalFailure);
        }
        match from {
            Some(from) => drop(body.splice(0..from, new.iter().copied())),
            None => body.extend_from_slice(new),
        }
        Ok(())
    });
    Ok(done.ok_or(Status::BadArgument)??)
}

/// Puts `new` before what is kept of the body. The first time in a callback the original moves to
/// `spare`, both to be found again after a failure and to let the two vectors take turns.
fn rewrite(state: &mut State, new: &[u8], from: usize) {
    match state.original {
        Original::Spare => {
            state.body.splice(0..from, new.iter().copied());
        }
        Original::Same | Original::Prefix(_) => {
            state.spare.clear();
            state.spare.extend_from_slice(new);
            state.spare.extend_from_slice(&state.body[from..]);
            std::mem::swap(&mut state.body, &mut state.spare);
            if let Original::Prefix(len) = state.original {
                state.spare.truncate(len);
            }
            state.original = Original::Spare;
        }
    }
}
