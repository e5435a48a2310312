//! A guest's word on its streams: answer, close, go on, act for another; ticks and the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::headers::read_pairs;
use super::{Answer, Guest, Imports, Status, bytes, split, status, write};
use crate::chain::{LocalResponse, Way};
use crate::headers::Headers;
use crate::state::{Asked, ROOT_CONTEXT, VM_CONTEXT};

/// gRPC statuses run from 0 (ok) to 16 (unauthenticated); SDKs pass -1 for none.
const GRPC_STATUS_MAX: u32 = 16;

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env(
        "proxy_send_local_response",
        |mut guest: Guest<'_>,
         code: u32,
         details: u32,
         details_len: u32,
         body: u32,
         body_len: u32,
         pairs: u32,
         pairs_len: u32,
         grpc: u32| {
            status(respond(&mut guest, code, (details, details_len), (body, body_len), (pairs, pairs_len), grpc))
        },
    )?;
    imports.env("proxy_continue_stream", |mut guest: Guest<'_>, kind: u32| status(go_on(&mut guest, kind)))?;
    imports.env("proxy_continue_request", |mut guest: Guest<'_>| status(go_on(&mut guest, 0)))?;
    imports.env("proxy_continue_response", |mut guest: Guest<'_>| status(go_on(&mut guest, 1)))?;
    imports.env("proxy_clear_route_cache", |_: Guest<'_>| 0u32)?;
    imports.env("proxy_close_stream", |mut guest: Guest<'_>, kind: u32| status(close(&mut guest, kind)))?;
    imports.env("proxy_set_effective_context", |mut guest: Guest<'_>, id: u32| status(act_for(&mut guest, id)))?;
    // Nothing waits for a root context that asked for time to finish: Envoy then answers NotFound.
    imports.env("proxy_done", |_: Guest<'_>| Status::NotFound as u32)?;
    imports.env("proxy_set_tick_period_milliseconds", |mut guest: Guest<'_>, period_ms: u32| {
        guest.data_mut().set_tick_period((period_ms > 0).then(|| Duration::from_millis(period_ms.into())));
        0u32
    })?;
    imports.env("proxy_get_current_time_nanoseconds", |mut guest: Guest<'_>, at: u32| status(now(&mut guest, at)))
}

/// Wall-clock nanoseconds since 1970.
pub(super) fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn now(guest: &mut Guest<'_>, at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    state.starting.impure();
    write(memory, at, &wall_clock_ns().to_le_bytes())
}

fn respond(
    guest: &mut Guest<'_>,
    code: u32,
    details: (u32, u32),
    body: (u32, u32),
    pairs: (u32, u32),
    grpc: u32,
) -> Answer {
    let (memory, state) = split(guest)?;
    let details = bytes(memory, details.0, details.1)?;
    let body = bytes(memory, body.0, body.1)?;
    let pairs = read_pairs(bytes(memory, pairs.0, pairs.1)?).unwrap_or_default();
    let breaks = |raw: &[u8]| raw.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
    let mut headers = Headers::new();
    for (name, value) in pairs {
        // Envoy would assert; a header that splits a head is left out.
        if !name.is_empty() && !breaks(name) && !breaks(value) {
            headers.add(&String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        }
    }
    let response = LocalResponse {
        status: u16::try_from(code).ok().filter(|code| (200..600).contains(code)).unwrap_or(500),
        headers,
        body: body.to_vec(),
        details: String::from_utf8_lossy(details).split_whitespace().collect::<Vec<_>>().join("_"),
        grpc_status: (grpc <= GRPC_STATUS_MAX).then_some(grpc),
        filter: state.filter.name.clone(),
    };
    let context = state.effective_context();
    state.ask(context, Asked::Respond(Box::new(response)));
    Ok(())
}

/// Envoy takes the request away from the filter whichever direction goes on.
fn go_on(guest: &mut Guest<'_>, kind: u32) -> Answer {
    let state = guest.data_mut();
    let way = match kind {
        0 => Way::Request,
        1 => Way::Response,
        2 => return Ok(()),
        3 => return Err(Status::Unimplemented.into()),
        _ => return Err(Status::BadArgument.into()),
    };
    let context = state.effective_context();
    state.resume(context, way);
    if context == state.call.context {
        state.call.request_gone = true;
    }
    Ok(())
}

fn close(guest: &mut Guest<'_>, kind: u32) -> Answer {
    let state = guest.data_mut();
    match kind {
        0 | 1 => {
            let context = state.effective_context();
            state.ask(context, Asked::Close);
            Ok(())
        }
        2 | 3 => Ok(()),
        _ => Err(Status::BadArgument.into()),
    }
}

fn act_for(guest: &mut Guest<'_>, id: u32) -> Answer {
    let state = guest.data_mut();
    if id != VM_CONTEXT && id != ROOT_CONTEXT && !state.contexts.contains_key(&id) {
        return Err(Status::BadArgument.into());
    }
    state.call.effective = id;
    Ok(())
}
