//! What VMs share across threads: data with compare-and-swap, and queues. Keyed by `vm_id` as in
//! Envoy, bounded as there is nothing in Envoy, and gone when the last filter of a `vm_id` is.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::limits::HostLimits;

/// Why shared data or a queue said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    Empty,
    CasMismatch,
    DataFull,
    QueueFull,
    TooManyQueues,
}

/// Where a VM learns that a queue which it registered has items.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    full: AtomicBool,
    /// One token an item, as Envoy calls back once an item; bounded by the queue.
    tokens: Mutex<Vec<u32>>,
    registered: AtomicBool,
}

impl Mailbox {
    pub(crate) fn has_mail(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Whether this VM waits for any queue at all.
    pub(crate) fn in_use(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Vec<u32> {
        let mut tokens = lock(&self.tokens);
        self.full.store(false, Ordering::Release);
        std::mem::take(&mut tokens)
    }

    fn put(&self, token: u32, tokens_max: usize) {
        let mut tokens = lock(&self.tokens);
        if tokens.len() < tokens_max {
            tokens.push(token);
        }
        self.full.store(true, Ordering::Release);
    }
}

pub(crate) struct Shared {
    limits: HostLimits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    vms: HashMap<Box<[u8]>, VmShared>,
    queues: HashMap<u32, Queue>,
    keys: usize,
    bytes: usize,
    last_cas: u32,
    last_token: u32,
}

#[derive(Default)]
struct VmShared {
    filters: usize,
    data: HashMap<Box<[u8]>, (Box<[u8]>, u32)>,
    queues: HashMap<Box<[u8]>, u32>,
}

struct Queue {
    items: VecDeque<Box<[u8]>>,
    bytes: usize,
    reader: Weak<Mailbox>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No guest code and no panic runs under these locks; a poisoned one still holds whole values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(limits: HostLimits) -> Self {
        Shared { limits, inner: Mutex::default() }
    }

    /// A filter of this `vm_id` begins.
    pub(crate) fn enter(&self, vm_id: &str) {
        lock(&self.inner).vms.entry(vm_id.as_bytes().into()).or_default().filters += 1;
    }

    /// A filter of this `vm_id` ended; with the last one everything goes.
    pub(crate) fn leave(&self, vm_id: &str) {
        let mut inner = lock(&self.inner);
        let Some(vm) = inner.vms.get_mut(vm_id.as_bytes()) else { return };
        vm.filters = vm.filters.saturating_sub(1);
        if vm.filters > 0 {
            return;
        }
        let Some(vm) = inner.vms.remove(vm_id.as_bytes()) else { return };
        inner.keys -= vm.data.len();
        inner.bytes -= vm.data.iter().map(|(key, (value, _))| key.len() + value.len()).sum::<usize>();
        for token in vm.queues.values() {
            inner.queues.remove(token);
        }
    }

    pub(crate) fn get(&self, vm_id: &str, key: &[u8]) -> Result<(Box<[u8]>, u32), Refusal> {
        let inner = lock(&self.inner);
        let found = inner.vms.get(vm_id.as_bytes()).and_then(|vm| vm.data.get(key));
        found.cloned().ok_or(Refusal::NotFound)
    }

    /// `cas` 0 sets in any case; a key that is not there is set in any case, as in Envoy.
    pub(crate) fn set(&self, vm_id: &str, key: &[u8], value: &[u8], cas: u32) -> Result<(), Refusal> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let vm = inner.vms.entry(vm_id.as_bytes().into()).or_default();
        let old = vm.data.get(key);
        if old.is_some_and(|(_, current)| cas != 0 && cas != *current) {
            return Err(Refusal::CasMismatch);
        }
        let freed = old.map_or(0, |(old, _)| key.len() + old.len());
        let bytes = inner.bytes - freed + key.len() + value.len();
        let keys = inner.keys + usize::from(old.is_none());
        if bytes > self.limits.shared_bytes_max.max(inner.bytes) || keys > self.limits.shared_keys_max.max(inner.keys) {
            return Err(Refusal::DataFull);
        }
        (inner.bytes, inner.keys) = (bytes, keys);
        inner.last_cas = inner.last_cas.checked_add(1).unwrap_or(1);
        vm.data.insert(key.into(), (value.into(), inner.last_cas));
        Ok(())
    }

    /// Registering again takes the queue over and keeps what is in it.
    pub(crate) fn register_queue(&self, vm_id: &str, name: &[u8], reader: &Arc<Mailbox>) -> Result<u32, Refusal> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let known = inner.vms.get(vm_id.as_bytes()).and_then(|vm| vm.queues.get(name)).copied();
        reader.registered.store(true, Ordering::Relaxed);
        if let Some(token) = known {
            if let Some(queue) = inner.queues.get_mut(&token) {
                queue.reader = Arc::downgrade(reader);
            }
            return Ok(token);
        }
        if inner.queues.len() >= self.limits.queues_max {
            return Err(Refusal::TooManyQueues);
        }
        inner.last_token = inner.last_token.checked_add(1).unwrap_or(1);
        let token = inner.last_token;
        inner.vms.entry(vm_id.as_bytes().into()).or_default().queues.insert(name.into(), token);
        inner.queues.insert(token, Queue { items: VecDeque::new(), bytes: 0, reader: Arc::downgrade(reader) });
        Ok(token)
    }

    pub(crate) fn resolve_queue(&self, vm_id: &[u8], name: &[u8]) -> Result<u32, Refusal> {
        let inner = lock(&self.inner);
        inner.vms.get(vm_id).and_then(|vm| vm.queues.get(name)).copied().ok_or(Refusal::NotFound)
    }

    pub(crate) fn enqueue(&self, token: u32, item: &[u8]) -> Result<(), Refusal> {
        let mut inner = lock(&self.inner);
        let queue = inner.queues.get_mut(&token).ok_or(Refusal::NotFound)?;
        if queue.items.len() >= self.limits.queue_items_max || queue.bytes + item.len() > self.limits.queue_bytes_max {
            return Err(Refusal::QueueFull);
        }
        queue.bytes += item.len();
        queue.items.push_back(item.into());
        if let Some(reader) = queue.reader.upgrade() {
            reader.put(token, self.limits.queue_items_max);
        }
        Ok(())
    }

    pub(crate) fn dequeue(&self, token: u32) -> Result<Box<[u8]>, Refusal> {
        let mut inner = lock(&self.inner);
        let queue = inner.queues.get_mut(&token).ok_or(Refusal::NotFound)?;
        let item = queue.items.pop_front().ok_or(Refusal::Empty)?;
        queue.bytes -= item.len();
        Ok(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        Shared::new(HostLimits {
            shared_keys_max: 2,
            shared_bytes_max: 16,
            queue_items_max: 2,
            queues_max: 1,
            ..Default::default()
        })
    }

    #[test]
    fn a_stale_cas_changes_nothing() {
        let shared = shared();
        shared.set("vm", b"k", b"1", 0).unwrap();
        let (_, cas) = shared.get("vm", b"k").unwrap();
        shared.set("vm", b"k", b"2", cas).unwrap();
        assert_eq!(shared.set("vm", b"k", b"3", cas), Err(Refusal::CasMismatch));
        assert_eq!(*shared.get("vm", b"k").unwrap().0, *b"2");
        assert_eq!(shared.get("other", b"k"), Err(Refusal::NotFound), "vm_id is a wall");
    }

    #[test]
    fn shared_data_is_bounded_and_goes_with_the_last_filter() {
        let shared = shared();
        shared.enter("vm");
        shared.set("vm", b"a", b"1234567", 0).unwrap();
        shared.set("vm", b"b", b"1234567", 0).unwrap();
        assert_eq!(shared.set("vm", b"c", b"", 0), Err(Refusal::DataFull));
        assert_eq!(shared.set("vm", b"a", b"12345678", 0), Err(Refusal::DataFull));
        shared.set("vm", b"a", b"", 0).unwrap();
        shared.leave("vm");
        assert_eq!(shared.get("vm", b"a"), Err(Refusal::NotFound));
        let inner = lock(&shared.inner);
        assert_eq!((inner.keys, inner.bytes), (0, 0));
    }

    #[test]
    fn a_queue_tells_its_reader_once_an_item_and_refuses_past_its_bound() {
        let (shared, reader) = (shared(), Arc::new(Mailbox::default()));
        let token = shared.register_queue("vm", b"q", &reader).unwrap();
        assert_eq!(shared.register_queue("vm", b"q2", &reader), Err(Refusal::TooManyQueues));
        assert_eq!(shared.resolve_queue(b"vm", b"q"), Ok(token));
        assert_eq!(shared.dequeue(token), Err(Refusal::Empty));
        shared.enqueue(token, b"1").unwrap();
        shared.enqueue(token, b"2").unwrap();
        assert_eq!(shared.enqueue(token, b"3"), Err(Refusal::QueueFull));
        assert!(reader.has_mail());
        assert_eq!(reader.take(), [token, token]);
        assert_eq!(*shared.dequeue(token).unwrap(), *b"1");
    }
}
