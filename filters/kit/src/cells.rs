//! Values that all workers of a process share: proxy-wasm's shared data, as the rules want it.

use bawaba_policies::quota::Cells;

/// The host's shared data. Without a host (in an author's tests) each thread has a store of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedData;

#[cfg(target_family = "wasm")]
impl Cells for SharedData {
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        match proxy_wasm::hostcalls::get_shared_data(key) {
            Ok((Some(value), version)) => Some((value, version.unwrap_or(0))),
            Ok((None, Some(version))) if version != 0 => Some((Vec::new(), version)),
            _ => None,
        }
    }

    fn swap(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        // A host that has no value of this name takes it under any version, and one that has it since a moment ago
        // takes none but its own: a version that is never given out creates a value, and never overwrites one.
        const NEVER: u32 = u32::MAX;
        proxy_wasm::hostcalls::set_shared_data(key, Some(value), Some(version.unwrap_or(NEVER))).is_ok()
    }
}

#[cfg(not(target_family = "wasm"))]
impl Cells for SharedData {
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        STORE.with_borrow(|store| store.get(key).cloned())
    }

    fn swap(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        STORE.with_borrow_mut(|store| {
            let known = store.get(key).map(|(_, version)| *version);
            if known != version {
                return false;
            }
            store.insert(key.to_owned(), (value.to_vec(), known.unwrap_or(0) + 1));
            true
        })
    }
}

#[cfg(not(target_family = "wasm"))]
thread_local! {
    static STORE: core::cell::RefCell<std::collections::BTreeMap<String, (Vec<u8>, u32)>> = const {
        core::cell::RefCell::new(std::collections::BTreeMap::new())
    };
}
