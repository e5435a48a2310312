//! Calls to other services, and foreign functions. No cluster is known to a filter here, so each is
//! answered as Envoy answers for a cluster, a call or a function that it does not have.

use super::{Answer, Fault, Guest, Imports, Status, bytes, deliver_bytes, split, status, write_u32};

/// Envoy tells kinds of calls apart by the two low bits of their number.
const KIND_MASK: u32 = 3;
const GRPC_CALL: u32 = 1;
const GRPC_STREAM: u32 = 2;

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    fn http(guest: &mut Guest<'_>, ranges: [(u32, u32); 4], token_at: u32) -> Answer {
        let (memory, _) = split(guest)?;
        for (ptr, len) in ranges {
            bytes(memory, ptr, len)?;
        }
        write_u32(memory, token_at, 0)?;
        Err(Status::BadArgument.into())
    }
    imports.env(
        "proxy_http_call",
        |mut guest: Guest<'_>,
         uri: u32,
         uri_len: u32,
         headers: u32,
         headers_len: u32,
         body: u32,
         body_len: u32,
         trailers: u32,
         trailers_len: u32,
         _timeout_ms: u32,
         token_at: u32| {
            status(http(
                &mut guest,
                [(uri, uri_len), (body, body_len), (headers, headers_len), (trailers, trailers_len)],
                token_at,
            ))
        },
    )?;
    imports.env(
        "proxy_grpc_call",
        |mut guest: Guest<'_>,
         service: u32,
         service_len: u32,
         name: u32,
         name_len: u32,
         method: u32,
         method_len: u32,
         metadata: u32,
         metadata_len: u32,
         message: u32,
         message_len: u32,
         _timeout_ms: u32,
         _token_at: u32| {
            status(grpc(
                &mut guest,
                &[
                    (service, service_len),
                    (name, name_len),
                    (method, method_len),
                    (metadata, metadata_len),
                    (message, message_len),
                ],
            ))
        },
    )?;
    imports.env(
        "proxy_grpc_stream",
        |mut guest: Guest<'_>,
         service: u32,
         service_len: u32,
         name: u32,
         name_len: u32,
         method: u32,
         method_len: u32,
         metadata: u32,
         metadata_len: u32,
         _token_at: u32| {
            status(grpc(
                &mut guest,
                &[(service, service_len), (name, name_len), (method, method_len), (metadata, metadata_len)],
            ))
        },
    )?;
    imports.env("proxy_grpc_send", |mut guest: Guest<'_>, token: u32, message: u32, message_len: u32, _end: u32| {
        status(send(&mut guest, token, message, message_len))
    })?;
    imports.env("proxy_grpc_cancel", |_: Guest<'_>, token: u32| unknown_call(token) as u32)?;
    imports.env("proxy_grpc_close", |_: Guest<'_>, token: u32| unknown_call(token) as u32)?;
    imports.env("proxy_get_status", |mut guest: Guest<'_>, code_at: u32, ptr_at: u32, len_at: u32| {
        status(no_status(&mut guest, code_at, ptr_at, len_at))
    })?;
    imports.env(
        "proxy_call_foreign_function",
        |mut guest: Guest<'_>,
         name: u32,
         name_len: u32,
         arguments: u32,
         arguments_len: u32,
         _ptr_at: u32,
         _len_at: u32| { status(foreign(&mut guest, (name, name_len), (arguments, arguments_len))) },
    )
}

fn grpc(guest: &mut Guest<'_>, ranges: &[(u32, u32)]) -> Answer {
    let (memory, _) = split(guest)?;
    for (ptr, len) in ranges {
        bytes(memory, *ptr, *len)?;
    }
    Err(Status::ParseFailure.into())
}

fn unknown_call(token: u32) -> Status {
    match token & KIND_MASK {
        GRPC_CALL | GRPC_STREAM => Status::NotFound,
        _ => Status::BadArgument,
    }
}

fn send(guest: &mut Guest<'_>, token: u32, message: u32, message_len: u32) -> Answer {
    let (memory, _) = split(guest)?;
    bytes(memory, message, message_len)?;
    Err(Fault::Status(if token & KIND_MASK == GRPC_STREAM { Status::NotFound } else { Status::BadArgument }))
}

fn no_status(guest: &mut Guest<'_>, code_at: u32, ptr_at: u32, len_at: u32) -> Answer {
    let (memory, _) = split(guest)?;
    write_u32(memory, code_at, 0)?;
    deliver_bytes(guest, &[], ptr_at, len_at)
}

fn foreign(guest: &mut Guest<'_>, name: (u32, u32), arguments: (u32, u32)) -> Answer {
    let (memory, _) = split(guest)?;
    bytes(memory, name.0, name.1)?;
    bytes(memory, arguments.0, arguments.1)?;
    Err(Status::NotFound.into())
}
