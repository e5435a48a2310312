//! Proxy-wasm ABI 0.2.1 (with what 0.2.0 and 0.1.0 had besides), the host's side: which functions a
//! module may import, and how the host touches a guest's memory.
//!
//! Statuses, their order and what is readable when are Envoy's; its behaviour was read from
//! proxy-wasm-cpp-host `src/exports.cc` and Envoy `source/extensions/common/wasm/context.cc`.
//! Every pointer comes from the guest: it is checked against the guest's memory as it is at that
//! moment, and again after the guest's allocator ran.

pub(crate) mod buffers;
pub(crate) mod callouts;
pub(crate) mod headers;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod properties;
pub(crate) mod shared;
pub(crate) mod stream;
pub(crate) mod wasi;

use std::collections::HashSet;

use wasmtime::{Caller, Engine, IntoFunc, Linker};

use crate::state::{Call, State};

/// `WasmResult` of proxy-wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// Why a host function did not answer Ok.
pub(crate) enum Fault {
    /// The guest gets this status.
    Status(Status),
    /// The guest's allocator trapped underneath: the callback ends.
    Trap(wasmtime::Error),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Fault::Status(status)
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Self {
        Fault::Trap(error)
    }
}

pub(crate) type Guest<'a> = Caller<'a, State>;
pub(crate) type Answer = Result<(), Fault>;

/// A host function's answer as the guest reads it.
pub(crate) fn status(answer: Answer) -> wasmtime::Result<u32> {
    match answer {
        Ok(()) => Ok(0),
        Err(Fault::Status(status)) => Ok(status as u32),
        Err(Fault::Trap(error)) => Err(error),
    }
}

/// The linker, and the names in it (a module that imports others gets an exact message).
pub(crate) struct Imports {
    pub(crate) linker: Linker<State>,
    pub(crate) names: HashSet<(&'static str, &'static str)>,
}

impl Imports {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut imports = Imports { linker: Linker::new(engine), names: HashSet::new() };
        log::link(&mut imports)?;
        headers::link(&mut imports)?;
        buffers::link(&mut imports)?;
        properties::link(&mut imports)?;
        stream::link(&mut imports)?;
        shared::link(&mut imports)?;
        metrics::link(&mut imports)?;
        callouts::link(&mut imports)?;
        wasi::link(&mut imports)?;
        Ok(imports)
    }

    pub(crate) fn add<P, R>(
        &mut self,
        module: &'static str,
        name: &'static str,
        function: impl IntoFunc<State, P, R>,
    ) -> wasmtime::Result<()> {
        self.linker.func_wrap(module, name, function)?;
        self.names.insert((module, name));
        Ok(())
    }

    pub(crate) fn env<P, R>(
        &mut self,
        name: &'static str,
        function: impl IntoFunc<State, P, R>,
    ) -> wasmtime::Result<()> {
        self.add("env", name, function)
    }
}

/// The guest's memory and the state beside it.
pub(crate) fn split<'a>(guest: &'a mut Guest<'_>) -> Result<(&'a mut [u8], &'a mut State), Fault> {
    let memory = guest.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    Ok(memory.data_and_store_mut(guest))
}

/// `len` bytes at `ptr`. Envoy checks the range even when it is empty.
pub(crate) fn bytes(memory: &[u8], ptr: u32, len: u32) -> Result<&[u8], Fault> {
    let start = ptr as usize;
    start
        .checked_add(len as usize)
        .and_then(|end| memory.get(start..end))
        .ok_or(Fault::Status(Status::InvalidMemoryAccess))
}

pub(crate) fn write(memory: &mut [u8], ptr: u32, value: &[u8]) -> Answer {
    let start = ptr as usize;
    let place = start.checked_add(value.len()).and_then(|end| memory.get_mut(start..end));
    place.ok_or(Status::InvalidMemoryAccess)?.copy_from_slice(value);
    Ok(())
}

pub(crate) fn write_u32(memory: &mut [u8], ptr: u32, value: u32) -> Answer {
    write(memory, ptr, &value.to_le_bytes())
}

/// Runs the guest's allocator. It is guest code: it may call back into the host (then without any
/// stream under way, as in Envoy), grow the memory, or trap. It is not entered twice.
fn allocate(guest: &mut Guest<'_>, len: u32) -> Result<u32, Fault> {
    let state = guest.data_mut();
    let malloc = state.malloc.take().ok_or(Status::InvalidMemoryAccess)?;
    let call = std::mem::replace(&mut state.call, Call::IDLE);
    let result = malloc.call(&mut *guest, len);
    let state = guest.data_mut();
    state.call = call;
    state.malloc = Some(malloc);
    match result? {
        0 => Err(Fault::Status(Status::InvalidMemoryAccess)),
        ptr => Ok(ptr),
    }
}

/// Hands `len` bytes to the guest: allocates, lets `fill` write them, and tells where they are.
/// `fill` looks its source up anew, for the allocator may have changed it; false means it did.
pub(crate) fn deliver(
    guest: &mut Guest<'_>,
    len: usize,
    ptr_at: u32,
    len_at: u32,
    fill: impl FnOnce(&mut [u8], &State) -> bool,
) -> Answer {
    let len = u32::try_from(len).map_err(|_| Status::InternalFailure)?;
    let ptr = if len == 0 { 0 } else { allocate(guest, len)? };
    let (memory, state) = split(guest)?;
    if len > 0 {
        let start = ptr as usize;
        let place = start.checked_add(len as usize).and_then(|end| memory.get_mut(start..end));
        if !fill(place.ok_or(Status::InvalidMemoryAccess)?, state) {
            return Err(Status::InternalFailure.into());
        }
    }
    // In this order, so that a guest that wants no length may give one place for both.
    write_u32(memory, len_at, len)?;
    write_u32(memory, ptr_at, ptr)
}

/// The same for bytes that the host owns.
pub(crate) fn deliver_bytes(guest: &mut Guest<'_>, value: &[u8], ptr_at: u32, len_at: u32) -> Answer {
    deliver(guest, value.len(), ptr_at, len_at, |place, _| {
        place.copy_from_slice(value);
        true
    })
}
