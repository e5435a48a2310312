//! Metrics that filters define. Values are kept per process and filter name, so that they outlive a VM
//! and add up over threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Answer, Fault, Guest, Imports, Status, bytes, split, status, write};

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestMetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Count and sum of what was recorded.
    Histogram,
}

/// One metric of one filter, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestMetric {
    /// The filter's name.
    pub filter: Arc<str>,
    /// The name that the filter gave.
    pub name: String,
    /// Its kind.
    pub kind: GuestMetricKind,
    /// Counter or gauge: the value. Histogram: the sum.
    pub value: i64,
    /// Histogram: how often something was recorded.
    pub count: u64,
}

#[derive(Debug)]
struct Cell {
    kind: GuestMetricKind,
    value: AtomicI64,
    count: AtomicU64,
}

/// Every filter's metrics in a process, bounded per filter by [`crate::FilterLimits::metrics_max`].
#[derive(Debug, Default)]
pub(crate) struct MetricRegistry {
    cells: Mutex<BTreeMap<(Arc<str>, String), Arc<Cell>>>,
}

impl MetricRegistry {
    fn define(&self, filter: &Arc<str>, name: String, kind: GuestMetricKind, max: usize) -> Option<Arc<Cell>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(&(filter.clone(), name.clone())) {
            return (cell.kind == kind).then(|| cell.clone());
        }
        if cells.keys().filter(|(owner, _)| owner == filter).count() >= max {
            return None;
        }
        let cell = Arc::new(Cell { kind, value: AtomicI64::new(0), count: AtomicU64::new(0) });
        cells.insert((filter.clone(), name), cell.clone());
        Some(cell)
    }

    pub(crate) fn read(&self) -> Vec<GuestMetric> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |((filter, name), cell): (&(Arc<str>, String), &Arc<Cell>)| GuestMetric {
            filter: filter.clone(),
            name: name.clone(),
            kind: cell.kind,
            value: cell.value.load(Ordering::Relaxed),
            count: cell.count.load(Ordering::Relaxed),
        };
        cells.iter().map(read).collect()
    }
}

/// The metrics that one VM defined; their numbers are places in it.
#[derive(Debug)]
pub(crate) struct MetricTable {
    cells: Vec<Arc<Cell>>,
    metrics_max: usize,
}

impl MetricTable {
    pub(crate) fn new(metrics_max: usize) -> Self {
        MetricTable { cells: Vec::new(), metrics_max }
    }

    fn get(&self, id: u32) -> Result<&Cell, Fault> {
        let place = (id as usize).checked_sub(1);
        place.and_then(|place| self.cells.get(place)).map(|cell| &**cell).ok_or(Fault::Status(Status::NotFound))
    }
}

const NAME_BYTES_MAX: u32 = 256;

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env("proxy_define_metric", |mut guest: Guest<'_>, kind: u32, name: u32, name_len: u32, id_at: u32| {
        status(define(&mut guest, kind, (name, name_len), id_at))
    })?;
    imports.env("proxy_increment_metric", |guest: Guest<'_>, id: u32, offset: i64| {
        status(guest.data().metrics.get(id).and_then(|cell| increment(cell, offset)))
    })?;
    imports.env("proxy_record_metric", |guest: Guest<'_>, id: u32, value: u64| {
        status(guest.data().metrics.get(id).map(|cell| record(cell, value)))
    })?;
    imports
        .env("proxy_get_metric", |mut guest: Guest<'_>, id: u32, value_at: u32| status(get(&mut guest, id, value_at)))
}

fn define(guest: &mut Guest<'_>, kind: u32, name: (u32, u32), id_at: u32) -> Answer {
    let kind = match kind {
        0 => GuestMetricKind::Counter,
        1 => GuestMetricKind::Gauge,
        2 => GuestMetricKind::Histogram,
        _ => return Err(Status::BadArgument.into()),
    };
    if name.1 > NAME_BYTES_MAX {
        return Err(Status::BadArgument.into());
    }
    let (memory, state) = split(guest)?;
    let name = String::from_utf8_lossy(bytes(memory, name.0, name.1)?).into_owned();
    let filter = &state.filter;
    if state.metrics.cells.len() >= state.metrics.metrics_max {
        return Err(Status::InternalFailure.into());
    }
    let cell = filter.metric_registry.define(&filter.name, name, kind, filter.limits.metrics_max);
    let cell = cell.ok_or(Status::InternalFailure)?;
    state.metrics.cells.push(cell);
    let id = state.metrics.cells.len() as u32;
    write(memory, id_at, &id.to_le_bytes())
}

/// As in Envoy, a counter takes only positive steps and a histogram none.
fn increment(cell: &Cell, offset: i64) -> Answer {
    match cell.kind {
        GuestMetricKind::Counter if offset > 0 => {}
        GuestMetricKind::Gauge => {}
        _ => return Err(Status::BadArgument.into()),
    }
    cell.value.fetch_add(offset, Ordering::Relaxed);
    Ok(())
}

fn record(cell: &Cell, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    match cell.kind {
        GuestMetricKind::Gauge => cell.value.store(value, Ordering::Relaxed),
        GuestMetricKind::Counter => drop(cell.value.fetch_add(value, Ordering::Relaxed)),
        GuestMetricKind::Histogram => {
            cell.value.fetch_add(value, Ordering::Relaxed);
            cell.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn get(guest: &mut Guest<'_>, id: u32, value_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    let cell = state.metrics.get(id)?;
    if cell.kind == GuestMetricKind::Histogram {
        return Err(Status::BadArgument.into());
    }
    write(memory, value_at, &cell.value.load(Ordering::Relaxed).to_le_bytes())
}
