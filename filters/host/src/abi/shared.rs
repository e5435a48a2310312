//! Shared data and shared queues, as the guest calls them. What they hold is in `crate::shared`.

use super::{Answer, Fault, Guest, Imports, Status, bytes, deliver_bytes, split, status, write_u32};
use crate::shared::Refusal;

impl From<Refusal> for Fault {
    /// Where Envoy has no bound, we answer with the one status that the Rust SDK hands on to the
    /// filter's author instead of trapping.
    fn from(refusal: Refusal) -> Self {
        Fault::Status(match refusal {
            Refusal::NotFound | Refusal::QueueFull => Status::NotFound,
            Refusal::Empty => Status::Empty,
            Refusal::CasMismatch | Refusal::DataFull => Status::CasMismatch,
            Refusal::TooManyQueues => Status::InternalFailure,
        })
    }
}

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env(
        "proxy_get_shared_data",
        |mut guest: Guest<'_>, key: u32, key_len: u32, ptr_at: u32, len_at: u32, cas_at: u32| {
            status(get(&mut guest, (key, key_len), ptr_at, len_at, cas_at))
        },
    )?;
    imports.env(
        "proxy_set_shared_data",
        |mut guest: Guest<'_>, key: u32, key_len: u32, value: u32, value_len: u32, cas: u32| {
            status(set(&mut guest, (key, key_len), (value, value_len), cas))
        },
    )?;
    imports.env("proxy_register_shared_queue", |mut guest: Guest<'_>, name: u32, name_len: u32, token_at: u32| {
        status(register(&mut guest, (name, name_len), token_at))
    })?;
    imports.env(
        "proxy_resolve_shared_queue",
        |mut guest: Guest<'_>, vm: u32, vm_len: u32, name: u32, name_len: u32, token_at: u32| {
            status(resolve(&mut guest, (vm, vm_len), (name, name_len), token_at))
        },
    )?;
    imports.env("proxy_enqueue_shared_queue", |mut guest: Guest<'_>, token: u32, item: u32, item_len: u32| {
        status(enqueue(&mut guest, token, (item, item_len)))
    })?;
    imports.env("proxy_dequeue_shared_queue", |mut guest: Guest<'_>, token: u32, ptr_at: u32, len_at: u32| {
        guest.data_mut().starting.impure();
        let item = guest.data().filter.shared.dequeue(token);
        status(item.map_err(Fault::from).and_then(|item| deliver_bytes(&mut guest, &item, ptr_at, len_at)))
    })
}

fn get(guest: &mut Guest<'_>, key: (u32, u32), ptr_at: u32, len_at: u32, cas_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    state.starting.impure();
    let key = bytes(memory, key.0, key.1)?;
    let (value, cas) = state.filter.shared.get(&state.filter.vm_id, key)?;
    deliver_bytes(guest, &value, ptr_at, len_at)?;
    let (memory, _) = split(guest)?;
    write_u32(memory, cas_at, cas)
}

fn set(guest: &mut Guest<'_>, key: (u32, u32), value: (u32, u32), cas: u32) -> Answer {
    let (memory, state) = split(guest)?;
    state.starting.impure();
    let key = bytes(memory, key.0, key.1)?;
    let value = bytes(memory, value.0, value.1)?;
    Ok(state.filter.shared.set(&state.filter.vm_id, key, value, cas)?)
}

fn register(guest: &mut Guest<'_>, name: (u32, u32), token_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    state.starting.impure();
    let name = bytes(memory, name.0, name.1)?;
    let token = state.filter.shared.register_queue(&state.filter.vm_id, name, &state.mailbox)?;
    write_u32(memory, token_at, token)
}

fn resolve(guest: &mut Guest<'_>, vm: (u32, u32), name: (u32, u32), token_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    state.starting.impure();
    let vm = bytes(memory, vm.0, vm.1)?;
    let name = bytes(memory, name.0, name.1)?;
    let vm = if vm.is_empty() { state.filter.vm_id.as_bytes() } else { vm };
    let token = state.filter.shared.resolve_queue(vm, name)?;
    write_u32(memory, token_at, token)
}

fn enqueue(guest: &mut Guest<'_>, token: u32, item: (u32, u32)) -> Answer {
    let (memory, state) = split(guest)?;
    state.starting.impure();
    let item = bytes(memory, item.0, item.1)?;
    Ok(state.filter.shared.enqueue(token, item)?)
}
