//! Calls to other services, and foreign functions, as the guest makes them. Who carries a call is in
//! `crate::callouts`; statuses are Envoy's.

use std::time::Duration;

use super::headers::read_pairs;
use super::{Answer, Fault, Guest, Imports, Status, bytes, deliver_bytes, split, status, write_u32};
use crate::callouts::{CalloutRefusal, GrpcCall, HttpCall, Kind};
use crate::foreign::ForeignRefusal;
use crate::headers::Headers;
use crate::state::{State, count};

/// The `(pointer, length)` of a guest's text or list.
type Range = (u32, u32);

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env(
        "proxy_http_call",
        |mut guest: Guest<'_>,
         cluster: u32,
         cluster_len: u32,
         headers: u32,
         headers_len: u32,
         body: u32,
         body_len: u32,
         trailers: u32,
         trailers_len: u32,
         timeout_ms: u32,
         token_at: u32| {
            let (cluster, headers) = ((cluster, cluster_len), (headers, headers_len));
            let (body, trailers) = ((body, body_len), (trailers, trailers_len));
            status(http(&mut guest, cluster, headers, body, trailers, timeout_ms, token_at))
        },
    )?;
    imports.env(
        "proxy_grpc_call",
        |mut guest: Guest<'_>,
         cluster: u32,
         cluster_len: u32,
         service: u32,
         service_len: u32,
         method: u32,
         method_len: u32,
         metadata: u32,
         metadata_len: u32,
         message: u32,
         message_len: u32,
         timeout_ms: u32,
         token_at: u32| {
            let ranges =
                [(cluster, cluster_len), (service, service_len), (method, method_len), (metadata, metadata_len)];
            status(grpc(&mut guest, ranges, Some(((message, message_len), timeout_ms)), token_at))
        },
    )?;
    imports.env(
        "proxy_grpc_stream",
        |mut guest: Guest<'_>,
         cluster: u32,
         cluster_len: u32,
         service: u32,
         service_len: u32,
         method: u32,
         method_len: u32,
         metadata: u32,
         metadata_len: u32,
         token_at: u32| {
            let ranges =
                [(cluster, cluster_len), (service, service_len), (method, method_len), (metadata, metadata_len)];
            status(grpc(&mut guest, ranges, None, token_at))
        },
    )?;
    imports.env("proxy_grpc_send", |mut guest: Guest<'_>, token: u32, message: u32, message_len: u32, end: u32| {
        status(send(&mut guest, token, (message, message_len), end != 0))
    })?;
    imports.env("proxy_grpc_cancel", |mut guest: Guest<'_>, token: u32| status(cancel(guest.data_mut(), token)))?;
    imports.env("proxy_grpc_close", |mut guest: Guest<'_>, token: u32| status(close(guest.data_mut(), token)))?;
    imports.env("proxy_get_status", |mut guest: Guest<'_>, code_at: u32, ptr_at: u32, len_at: u32| {
        status(call_status(&mut guest, code_at, ptr_at, len_at))
    })?;
    imports.env(
        "proxy_call_foreign_function",
        |mut guest: Guest<'_>, name: u32, name_len: u32, argument: u32, argument_len: u32, ptr_at: u32, len_at: u32| {
            status(foreign(&mut guest, (name, name_len), (argument, argument_len), ptr_at, len_at))
        },
    )
}

/// A list of pairs as a header map. What would split a head is left out; Envoy would assert.
fn map(raw: &[u8]) -> Headers {
    let breaks = |raw: &[u8]| raw.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
    let mut headers = Headers::new();
    for (name, value) in read_pairs(raw).unwrap_or_default() {
        if !name.is_empty() && !breaks(name) && !breaks(value) {
            headers.add(&String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        }
    }
    headers
}

fn http(
    guest: &mut Guest<'_>,
    cluster: Range,
    headers: Range,
    body: Range,
    trailers: Range,
    timeout_ms: u32,
    token_at: u32,
) -> Answer {
    let (memory, state) = split(guest)?;
    let cluster = bytes(memory, cluster.0, cluster.1)?;
    let body = bytes(memory, body.0, body.1)?.to_vec();
    let headers = bytes(memory, headers.0, headers.1)?;
    let trailers = bytes(memory, trailers.0, trailers.1)?;
    let mut call = HttpCall {
        cluster: String::from_utf8_lossy(cluster).into_owned(),
        headers: map(headers),
        body,
        trailers: map(trailers),
        timeout: (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into())),
    };
    // As in Envoy the place of the answer is tried before the call is made, and is 0 if it is not.
    write_u32(memory, token_at, 0)?;
    if timeout_ms > i32::MAX as u32 {
        return Err(Status::BadArgument.into());
    }
    if let Some(host) = call.headers.get("host").filter(|_| call.headers.get(":authority").is_none()) {
        let host = host.to_owned();
        call.headers.remove("host");
        call.headers.add(":authority", host);
    }
    if [":path", ":method", ":authority"].iter().any(|name| call.headers.get(name).is_none()) {
        return Err(Status::BadArgument.into());
    }
    if !call.body.is_empty() {
        let len = call.body.len().to_string();
        call.headers.set("content-length", len);
    }
    let token = start(state, Kind::Http, Status::BadArgument, |state, token| {
        let id = state.callouts.id(token);
        state.callouts.carrier().http(id, call)
    })?;
    write_u32(memory, token_at, token)
}

/// A call's number, its start and its place in the books. `unknown` is the status for a cluster that is not there.
fn start(
    state: &mut State,
    kind: Kind,
    unknown: Status,
    begin: impl FnOnce(&State, u32) -> Result<(), CalloutRefusal>,
) -> Result<u32, Fault> {
    state.starting.impure();
    let Some(token) = state.callouts.next(kind) else {
        count(&state.counters.callouts_refused);
        return Err(Status::InternalFailure.into());
    };
    match begin(state, token) {
        Ok(()) => {
            count(&state.counters.callouts);
            state.callouts.add(token);
            Ok(token)
        }
        Err(CalloutRefusal::UnknownCluster) => Err(unknown.into()),
        Err(CalloutRefusal::Overloaded) => {
            count(&state.counters.callouts_refused);
            Err(Status::InternalFailure.into())
        }
    }
}

fn grpc(guest: &mut Guest<'_>, ranges: [Range; 4], unary: Option<(Range, u32)>, token_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    let [service, name, method, metadata] = ranges;
    let service = bytes(memory, service.0, service.1)?;
    let name = bytes(memory, name.0, name.1)?;
    let method = bytes(memory, method.0, method.1)?;
    let metadata = bytes(memory, metadata.0, metadata.1)?;
    let message = unary.map(|((ptr, len), timeout_ms)| Ok::<_, Fault>((bytes(memory, ptr, len)?.to_vec(), timeout_ms)));
    let message = message.transpose()?;
    let cluster = cluster_of(service).unwrap_or(service);
    let call = GrpcCall {
        cluster: str::from_utf8(cluster).map_err(|_| Status::ParseFailure)?.to_owned(),
        service: String::from_utf8_lossy(name).into_owned(),
        method: String::from_utf8_lossy(method).into_owned(),
        metadata: map(metadata),
        timeout: message.as_ref().map(|(_, ms)| Duration::from_millis(u64::from(*ms))).filter(|t| !t.is_zero()),
    };
    let kind = if message.is_some() { Kind::GrpcCall } else { Kind::GrpcStream };
    let token = start(state, kind, Status::ParseFailure, |state, token| {
        let (carrier, id) = (state.callouts.carrier(), state.callouts.id(token));
        match message {
            Some((message, _)) => carrier.grpc_call(id, call, message),
            None => carrier.grpc_stream(id, call),
        }
    })?;
    write_u32(memory, token_at, token)
}

/// The cluster in a serialised `envoy.config.core.v3.GrpcService`: field 1 (`envoy_grpc`), and in it
/// field 1 (`cluster_name`). Filters may also pass the bare name of a cluster.
fn cluster_of(service: &[u8]) -> Option<&[u8]> {
    field_1(field_1(service)?)
}

/// Field 1 of a message if that is of bytes and the whole message is of such fields.
fn field_1(mut message: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while let Some((key, rest)) = message.split_first() {
        let (len, rest) = rest.split_first()?;
        if key & 7 != 2 || len & 0x80 != 0 {
            return None;
        }
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if key >> 3 == 1 {
            found = Some(value);
        }
        message = rest;
    }
    found
}

fn send(guest: &mut Guest<'_>, token: u32, message: Range, end: bool) -> Answer {
    let (memory, state) = split(guest)?;
    let message = bytes(memory, message.0, message.1)?;
    if Kind::of(token) != Some(Kind::GrpcStream) {
        return Err(Status::BadArgument.into());
    }
    let id = state.callouts.id(token);
    let halves = state.callouts.get(token).ok_or(Status::NotFound)?;
    if !halves.local && !halves.remote {
        halves.local = end;
        state.callouts.carrier().grpc_send(id, message.to_vec(), end);
    }
    Ok(())
}

/// Envoy: a number that is of no gRPC call is a bad argument, one that is not in use is not found.
fn known(state: &mut State, token: u32) -> Result<Kind, Fault> {
    let kind = Kind::of(token).filter(|kind| *kind != Kind::Http).ok_or(Status::BadArgument)?;
    state.callouts.get(token).ok_or(Status::NotFound)?;
    Ok(kind)
}

fn cancel(state: &mut State, token: u32) -> Answer {
    known(state, token)?;
    state.callouts.remove(token);
    state.callouts.carrier().cancel(state.callouts.id(token));
    Ok(())
}

fn close(state: &mut State, token: u32) -> Answer {
    if known(state, token)? == Kind::GrpcCall {
        return cancel(state, token);
    }
    let (carrier, id) = (state.callouts.carrier(), state.callouts.id(token));
    let Some(halves) = state.callouts.get(token) else { return Ok(()) };
    if !halves.local {
        halves.local = true;
        carrier.grpc_close(id);
    }
    if halves.remote {
        state.callouts.remove(token);
    }
    Ok(())
}

fn call_status(guest: &mut Guest<'_>, code_at: u32, ptr_at: u32, len_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    write_u32(memory, code_at, state.call_status.0)?;
    let message = state.call_status.1.clone();
    deliver_bytes(guest, message.as_bytes(), ptr_at, len_at)
}

/// As in Envoy a guest may pass 0 for a place that it does not want the result at.
fn foreign(guest: &mut Guest<'_>, name: Range, argument: Range, ptr_at: u32, len_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    let name = bytes(memory, name.0, name.1)?;
    let argument = bytes(memory, argument.0, argument.1)?;
    let function = state.filter.foreign.find(name).ok_or(Status::NotFound)?;
    state.starting.impure();
    let (answer, result) = match function(argument) {
        Ok(result) => (Ok(()), result),
        Err(ForeignRefusal::BadArgument) => (Err(Status::BadArgument.into()), Vec::new()),
        Err(ForeignRefusal::NotFound) => (Err(Status::NotFound.into()), Vec::new()),
        Err(ForeignRefusal::Failed) => (Err(Status::InternalFailure.into()), Vec::new()),
    };
    match (ptr_at, len_at) {
        (0, 0) => {}
        (0, len_at) => write_u32(split(guest)?.0, len_at, result.len() as u32)?,
        (ptr_at, 0) => deliver_to(guest, &result, ptr_at)?,
        (ptr_at, len_at) => deliver_bytes(guest, &result, ptr_at, len_at)?,
    }
    answer
}

fn deliver_to(guest: &mut Guest<'_>, result: &[u8], ptr_at: u32) -> Answer {
    // The length goes where the pointer goes next: it is overwritten by it.
    deliver_bytes(guest, result, ptr_at, ptr_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_found_in_a_serialised_service_and_a_bare_name_is_none() {
        let service = [&[0x0a, 6, 0x0a, 4][..], b"auth"].concat();
        assert_eq!(cluster_of(&service), Some(&b"auth"[..]));
        for bare in [&b"auth"[..], b"outbound|8080||a.b", b"", &service[..7]] {
            assert_eq!(cluster_of(bare), None, "{bare:?}");
        }
    }
}
