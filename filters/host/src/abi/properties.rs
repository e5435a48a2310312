//! Properties: what the edge knows of a stream, what filters stored on it, and who the plugin is.

use super::headers::has_request_head;
use super::{Answer, Guest, Imports, Status, bytes, deliver_bytes, split, status};
use crate::state::{State, VM_CONTEXT};

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env("proxy_get_property", |mut guest: Guest<'_>, path: u32, path_len: u32, ptr_at: u32, len_at: u32| {
        status(get(&mut guest, path, path_len, ptr_at, len_at))
    })?;
    imports.env("proxy_set_property", |mut guest: Guest<'_>, path: u32, path_len: u32, value: u32, value_len: u32| {
        status(set(&mut guest, path, path_len, value, value_len))
    })
}

fn get(guest: &mut Guest<'_>, path: u32, path_len: u32, ptr_at: u32, len_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    let path = bytes(memory, path, path_len)?;
    if path.is_empty() {
        return Err(Status::SerializationFailure.into()); // Envoy: a path to nothing is a null that has no bytes.
    }
    let value = find(state, path).ok_or(Status::NotFound)?;
    deliver_bytes(guest, &value, ptr_at, len_at)
}

/// Attributes that Envoy reads from the request's head, and so only while the filter has it.
const OF_THE_HEAD: [&str; 9] =
    ["path", "url_path", "host", "scheme", "method", "headers", "referer", "useragent", "id"];

fn find(state: &State, path: &[u8]) -> Option<Vec<u8>> {
    // Path elements are parted by NUL; one at the end closes the last.
    let path = path.strip_suffix(&[0]).unwrap_or(path);
    let parts: Vec<&str> = path.split(|b| *b == 0).map(str::from_utf8).collect::<Result<_, _>>().ok()?;
    let stream = state.effective_stream();
    if let ["request", name, ..] = parts[..]
        && OF_THE_HEAD.contains(&name)
        && !has_request_head(state)
    {
        return None;
    }
    if let Some(value) = stream.as_ref().and_then(|stream| stream.properties.property(&parts)) {
        return Some(value);
    }
    let [name] = parts[..] else { return None };
    let filter = &state.filter;
    match name {
        "plugin_name" if state.effective_context() != VM_CONTEXT => Some(filter.name.as_bytes().to_vec()),
        "plugin_root_id" => Some(filter.root_id.as_bytes().to_vec()),
        "plugin_vm_id" => Some(filter.vm_id.as_bytes().to_vec()),
        _ => {
            let stream = stream?;
            let stored = stream.stored.borrow();
            stored.iter().find(|(key, _)| **key == *name.as_bytes()).map(|(_, value)| value.to_vec())
        }
    }
}

/// As in Envoy, all filters of a stream share what is stored, and the path is one opaque key.
fn set(guest: &mut Guest<'_>, path: u32, path_len: u32, value: u32, value_len: u32) -> Answer {
    let (memory, state) = split(guest)?;
    let path = bytes(memory, path, path_len)?;
    let value = bytes(memory, value, value_len)?;
    let stream = state.effective_stream().ok_or(Status::NotFound)?;
    let mut stored = stream.stored.borrow_mut();
    let others: usize =
        stored.iter().filter(|(key, _)| **key != *path).map(|(key, value)| key.len() + value.len()).sum();
    if others + path.len() + value.len() > state.filter.limits.stored_bytes_max {
        return Err(Status::InternalFailure.into());
    }
    match stored.iter_mut().find(|(key, _)| **key == *path) {
        Some((_, old)) => *old = value.into(),
        None => stored.push((path.into(), value.into())),
    }
    stream.stored_version.set(stream.stored_version.get().wrapping_add(1));
    Ok(())
}
