//! Header maps: which is readable and writable when, the serialised form of pairs, and single values.

use super::{Answer, Fault, Guest, Imports, Status, bytes, deliver, split, status, write_u32};
use crate::chain::Way;
use crate::filter::AbiVersion;
use crate::headers::Headers;
use crate::state::{Phase, State};

const REQUEST_HEADERS: u32 = 0;
const REQUEST_TRAILERS: u32 = 1;
const RESPONSE_HEADERS: u32 = 2;
const RESPONSE_TRAILERS: u32 = 3;
const MAP_MAX: u32 = 7;
/// Envoy's bounds on a serialised map.
const PAIRS_BYTES_MAX: usize = 1 << 20;
const PAIRS_MAX: u32 = 1024;
/// Bound of a map that a guest edits, bytes; twice Envoy's default for a request head.
const MAP_BYTES_MAX: usize = 128 << 10;

/// A map that a callback under way has in hand, or that its stream stopped with.
fn held_at(kind: u32) -> Option<Way> {
    match kind {
        REQUEST_HEADERS | REQUEST_TRAILERS => Some(Way::Request),
        RESPONSE_HEADERS | RESPONSE_TRAILERS => Some(Way::Response),
        _ => None,
    }
}

/// Runs `f` on the map that may be written now. Behind the end of a body, trailers are made by writing to them.
fn writable<R>(state: &mut State, kind: u32, f: impl FnOnce(&mut Headers) -> R) -> Result<R, Fault> {
    let here = !state.call.request_gone;
    let ends = state.call.ends;
    let map = match (kind, state.call.effective_phase()) {
        (REQUEST_HEADERS, Phase::RequestHeaders) if here => Some(&mut state.request),
        (RESPONSE_HEADERS, Phase::ResponseHeaders) => Some(&mut state.response),
        (REQUEST_TRAILERS, Phase::RequestTrailers) if here => state.trailers.as_mut(),
        (RESPONSE_TRAILERS, Phase::ResponseTrailers) => state.trailers.as_mut(),
        (REQUEST_TRAILERS, Phase::RequestBody) if here && ends => Some(state.trailers.get_or_insert_default()),
        (RESPONSE_TRAILERS, Phase::ResponseBody) if ends => Some(state.trailers.get_or_insert_default()),
        _ => None,
    };
    if let Some(map) = map {
        return Ok(f(map));
    }
    let way = held_at(kind).ok_or(Status::BadArgument)?;
    let stream = state.effective_stream().ok_or(Status::BadArgument)?;
    let done = stream.stopped(way, state.place, |place| match kind {
        _ if place.resumed => None,
        REQUEST_HEADERS | RESPONSE_HEADERS => place.head.as_mut().map(f),
        _ if place.trailers.is_some() || place.body_ends => Some(f(place.trailers.get_or_insert_default())),
        _ => None,
    });
    done.flatten().ok_or(Fault::Status(Status::BadArgument))
}

/// Runs `f` on the map that may be read now: the one under way, the one that the stream stopped with,
/// both heads in `on_log`, and what a call brought while the guest is told of it.
fn readable<R>(state: &State, kind: u32, f: impl FnOnce(Option<&Headers>) -> R) -> R {
    let here = !state.call.request_gone;
    let told = state.told.as_deref();
    let map = match (kind, state.call.effective_phase()) {
        (4, _) => told.and_then(|told| told.initial_metadata.as_ref()),
        (5, _) => told.and_then(|told| told.trailing_metadata.as_ref()),
        (6, _) => told.and_then(|told| told.http_headers.as_ref()),
        (7, _) => told.and_then(|told| told.http_trailers.as_ref()),
        (REQUEST_HEADERS, Phase::RequestHeaders) if here => Some(&state.request),
        (RESPONSE_HEADERS, Phase::ResponseHeaders) => Some(&state.response),
        (REQUEST_TRAILERS, Phase::RequestTrailers | Phase::RequestBody) if here => state.trailers.as_ref(),
        (RESPONSE_TRAILERS, Phase::ResponseTrailers | Phase::ResponseBody) => state.trailers.as_ref(),
        (REQUEST_HEADERS, Phase::Log) => Some(&state.request),
        (RESPONSE_HEADERS, Phase::Log) => Some(&state.response),
        _ => None,
    };
    let held = if map.is_none() { held_at(kind) } else { None };
    match (held, state.effective_stream()) {
        (Some(way), Some(stream)) => {
            let mut flow = stream.flow.borrow_mut();
            let place = flow.as_mut().map(|flow| &*flow.place(way, state.place)).filter(|place| !place.resumed);
            f(place.and_then(|place| match kind {
                REQUEST_HEADERS | RESPONSE_HEADERS => place.head.as_ref(),
                _ => place.trailers.as_ref(),
            }))
        }
        _ => f(map),
    }
}

/// Whether the filter has the request's head in hand.
pub(super) fn has_request_head(state: &State) -> bool {
    readable(state, REQUEST_HEADERS, |map| map.is_some())
}

fn check(kind: u32) -> Answer {
    if kind > MAP_MAX { Err(Status::BadArgument.into()) } else { Ok(()) }
}

/// A name as the map knows it. Envoy answers `host` from `:authority`.
fn name_of(raw: &[u8], kind: u32) -> String {
    let name = String::from_utf8_lossy(raw).to_ascii_lowercase();
    if kind == 0 && name == "host" { ":authority".to_owned() } else { name }
}

/// A guest must not smuggle a line break or NUL into a head: Envoy only asserts it, we refuse.
fn fit_for_a_head(name: &[u8], value: &[u8]) -> Answer {
    let breaks = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
    if name.is_empty() || name.iter().any(breaks) || value.iter().any(breaks) {
        return Err(Status::BadArgument.into());
    }
    Ok(())
}

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env("proxy_get_header_map_pairs", |mut guest: Guest<'_>, kind: u32, ptr_at: u32, len_at: u32| {
        status(get_pairs(&mut guest, kind, ptr_at, len_at))
    })?;
    imports.env("proxy_set_header_map_pairs", |mut guest: Guest<'_>, kind: u32, ptr: u32, len: u32| {
        status(set_pairs(&mut guest, kind, ptr, len))
    })?;
    imports.env(
        "proxy_get_header_map_value",
        |mut guest: Guest<'_>, kind: u32, name: u32, name_len: u32, ptr_at: u32, len_at: u32| {
            status(get_value(&mut guest, kind, (name, name_len), ptr_at, len_at))
        },
    )?;
    imports.env(
        "proxy_add_header_map_value",
        |mut guest: Guest<'_>, kind: u32, name: u32, name_len: u32, value: u32, value_len: u32| {
            status(edit(&mut guest, kind, (name, name_len), (value, value_len), |map, name, value| {
                map.add(name, value)
            }))
        },
    )?;
    imports.env(
        "proxy_replace_header_map_value",
        |mut guest: Guest<'_>, kind: u32, name: u32, name_len: u32, value: u32, value_len: u32| {
            status(edit(&mut guest, kind, (name, name_len), (value, value_len), |map, name, value| {
                map.set(name, value)
            }))
        },
    )?;
    imports.env("proxy_remove_header_map_value", |mut guest: Guest<'_>, kind: u32, name: u32, name_len: u32| {
        status(remove(&mut guest, kind, (name, name_len)))
    })?;
    imports.env("proxy_get_header_map_size", |mut guest: Guest<'_>, kind: u32, size_at: u32| {
        status(size(&mut guest, kind, size_at))
    })
}

fn get_pairs(guest: &mut Guest<'_>, kind: u32, ptr_at: u32, len_at: u32) -> Answer {
    check(kind)?;
    // A map that is not there reads as an empty one.
    let len = readable(guest.data(), kind, |map| map.map_or(0, pairs_len));
    deliver(guest, len, ptr_at, len_at, |place, state| {
        readable(state, kind, |map| map.is_some_and(|map| write_pairs(map, place)))
    })
}

fn set_pairs(guest: &mut Guest<'_>, kind: u32, ptr: u32, len: u32) -> Answer {
    check(kind)?;
    let (memory, state) = split(guest)?;
    let raw = bytes(memory, ptr, len)?;
    // Envoy reads a malformed serialisation as no pairs at all; so do we.
    let pairs = read_pairs(raw).unwrap_or_default();
    for (name, value) in &pairs {
        fit_for_a_head(name, value)?;
    }
    writable(state, kind, |map| {
        map.clear();
        for (name, value) in pairs {
            map.add(&name_of(name, kind), String::from_utf8_lossy(value));
        }
    })
}

fn get_value(guest: &mut Guest<'_>, kind: u32, name: (u32, u32), ptr_at: u32, len_at: u32) -> Answer {
    check(kind)?;
    let (memory, state) = split(guest)?;
    let name = name_of(bytes(memory, name.0, name.1)?, kind);
    let old_abi = state.filter.abi == AbiVersion::V0_1_0;
    let log = state.call.effective_phase() == Phase::Log;
    let found = readable(state, kind, |map| match map {
        Some(map) => Ok(map.get(&name).map(str::len)),
        None if log => Ok(None),
        None => Err(Status::BadArgument),
    })?;
    match found {
        Some(len) => deliver(guest, len, ptr_at, len_at, |place, state| {
            readable(state, kind, |map| match map.and_then(|map| map.get(&name)) {
                Some(value) if value.len() == place.len() => {
                    place.copy_from_slice(value.as_bytes());
                    true
                }
                _ => false,
            })
        }),
        None if old_abi => deliver(guest, 0, ptr_at, len_at, |_, _| true),
        None => Err(Status::NotFound.into()),
    }
}

fn edit(
    guest: &mut Guest<'_>,
    kind: u32,
    name: (u32, u32),
    value: (u32, u32),
    apply: impl FnOnce(&mut Headers, &str, String),
) -> Answer {
    check(kind)?;
    let (memory, state) = split(guest)?;
    let name = bytes(memory, name.0, name.1)?;
    let value = bytes(memory, value.0, value.1)?;
    let fit = fit_for_a_head(name, value);
    writable(state, kind, |map| {
        fit?;
        if map.byte_size() + name.len() + value.len() > MAP_BYTES_MAX || map.len() as u32 >= PAIRS_MAX {
            return Err(Status::InternalFailure.into());
        }
        apply(map, &name_of(name, kind), String::from_utf8_lossy(value).into_owned());
        Ok(())
    })?
}

fn remove(guest: &mut Guest<'_>, kind: u32, name: (u32, u32)) -> Answer {
    check(kind)?;
    let (memory, state) = split(guest)?;
    let name = name_of(bytes(memory, name.0, name.1)?, kind);
    writable(state, kind, |map| map.remove(&name)).map(drop)
}

fn size(guest: &mut Guest<'_>, kind: u32, size_at: u32) -> Answer {
    check(kind)?;
    let (memory, state) = split(guest)?;
    let size = writable(state, kind, |map| map.byte_size() as u32)?;
    write_u32(memory, size_at, size)
}

/// Count, then lengths of each name and value, then each name and value with a NUL behind.
/// An empty map is no bytes at all.
fn pairs_len(map: &Headers) -> usize {
    if map.is_empty() {
        return 0;
    }
    4 + map.iter().map(|(name, value)| 8 + name.len() + 1 + value.len() + 1).sum::<usize>()
}

fn write_pairs(map: &Headers, place: &mut [u8]) -> bool {
    if pairs_len(map) != place.len() {
        return false;
    }
    let mut at = 0;
    let mut put = |raw: &[u8]| {
        place[at..at + raw.len()].copy_from_slice(raw);
        at += raw.len();
    };
    put(&(map.len() as u32).to_le_bytes());
    for (name, value) in map.iter() {
        put(&(name.len() as u32).to_le_bytes());
        put(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in map.iter() {
        put(name.as_bytes());
        put(&[0]);
        put(value.as_bytes());
        put(&[0]);
    }
    true
}

/// The pairs in a serialised map; None if it is malformed in any way (Envoy then sees none).
pub(crate) fn read_pairs(raw: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if raw.len() > PAIRS_BYTES_MAX {
        return None;
    }
    let (count, mut sizes) = raw.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count);
    if count > PAIRS_MAX {
        return None;
    }
    let mut texts = sizes.get(count as usize * 8..)?;
    let mut pairs = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let name = take_text(&mut sizes, &mut texts)?;
        let value = take_text(&mut sizes, &mut texts)?;
        pairs.push((name, value));
    }
    texts.is_empty().then_some(pairs)
}

/// The next length, and that many bytes with the NUL behind them.
fn take_text<'a>(sizes: &mut &'a [u8], texts: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = sizes.split_first_chunk::<4>()?;
    *sizes = rest;
    let (text, rest) = texts.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let (nul, rest) = rest.split_first()?;
    *texts = rest;
    (*nul == 0).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_the_round_trip_and_nothing_malformed_does() {
        let map: Headers = [(":path", "/ws"), ("x", ""), ("cookie", "a=b")].into_iter().collect();
        let mut raw = vec![0; pairs_len(&map)];
        assert!(write_pairs(&map, &mut raw));
        let pairs = read_pairs(&raw).unwrap();
        assert_eq!(pairs, [(&b":path"[..], &b"/ws"[..]), (b"x", b""), (b"cookie", b"a=b")]);
        for cut in 0..raw.len() {
            assert!(read_pairs(&raw[..cut]).is_none(), "cut at {cut}");
        }
        raw.push(0);
        assert!(read_pairs(&raw).is_none(), "trailing byte");
        assert!(read_pairs(&u32::MAX.to_le_bytes()).is_none(), "giant count");
    }
}
