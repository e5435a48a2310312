//! Metrics that guests define. Numbers of metrics are a VM's own, values belong to the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Answer, Fault, Guest, Imports, Status, bytes, split, status, write, write_u32};
use crate::metrics::{GuestMetric, Kind};
use crate::state::State;

/// As in Envoy, the two low bits of a metric's number are its kind.
const KIND_MASK: u32 = 3;
const NUMBER_SHIFT: u32 = 2;

/// What a VM's metric numbers mean: for each kind, the metrics in the order of their definition.
#[derive(Clone)]
pub(crate) struct MetricTable {
    metrics_max: usize,
    by_kind: [Vec<Arc<GuestMetric>>; 3],
}

impl MetricTable {
    pub(crate) fn new(metrics_max: usize) -> Self {
        MetricTable { metrics_max, by_kind: Default::default() }
    }

    fn find(&self, id: u32) -> Option<(Kind, &GuestMetric)> {
        let kind = Kind::parse(id & KIND_MASK)?;
        let index = (id >> NUMBER_SHIFT).checked_sub(1)?;
        Some((kind, self.by_kind[kind as usize].get(index as usize)?))
    }

    fn len(&self) -> usize {
        self.by_kind.iter().map(Vec::len).sum()
    }
}

pub(super) fn link(imports: &mut Imports) -> wasmtime::Result<()> {
    imports.env("proxy_define_metric", |mut guest: Guest<'_>, kind: u32, name: u32, name_len: u32, id_at: u32| {
        status(define(&mut guest, kind, (name, name_len), id_at))
    })?;
    imports.env("proxy_increment_metric", |mut guest: Guest<'_>, id: u32, offset: i64| {
        status(increment(guest.data_mut(), id, offset))
    })?;
    imports.env("proxy_record_metric", |mut guest: Guest<'_>, id: u32, value: u64| {
        status(record(guest.data_mut(), id, value))
    })?;
    imports.env("proxy_get_metric", |mut guest: Guest<'_>, id: u32, value_at: u32| {
        status(read(guest.data_mut(), id).and_then(|value| {
            let (memory, _) = split(&mut guest)?;
            write(memory, value_at, &value.to_le_bytes())
        }))
    })
}

fn define(guest: &mut Guest<'_>, kind: u32, name: (u32, u32), id_at: u32) -> Answer {
    let (memory, state) = split(guest)?;
    let name = bytes(memory, name.0, name.1)?;
    let kind = Kind::parse(kind).ok_or(Status::BadArgument)?;
    if state.metrics.len() >= state.metrics.metrics_max {
        return Err(Status::InternalFailure.into());
    }
    let name = String::from_utf8_lossy(name);
    let metric = state.filter.metrics.define(&name, kind, state.filter.limits.metrics_max);
    let metrics = &mut state.metrics.by_kind[kind as usize];
    metrics.push(metric.ok_or(Status::InternalFailure)?);
    let id = ((metrics.len() as u32) << NUMBER_SHIFT) | kind as u32;
    write_u32(memory, id_at, id)
}

fn known_kind(id: u32, absent: Status) -> Fault {
    // A kind that can't do what is asked is a bad argument; a number never given out is not found.
    Fault::Status(if id & KIND_MASK <= Kind::Gauge as u32 { Status::NotFound } else { absent })
}

fn increment(state: &mut State, id: u32, offset: i64) -> Answer {
    state.starting.impure();
    let metrics = &state.metrics;
    match metrics.find(id) {
        Some((Kind::Counter, metric)) if offset > 0 => {
            metric.value.fetch_add(offset as u64, Ordering::Relaxed);
            Ok(())
        }
        Some((Kind::Gauge, metric)) => {
            let add = |value: u64| Some(value.saturating_add_signed(offset));
            let _ = metric.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            Ok(())
        }
        Some(_) => Err(Status::BadArgument.into()),
        None => Err(known_kind(id, Status::BadArgument)),
    }
}

fn record(state: &mut State, id: u32, value: u64) -> Answer {
    state.starting.impure();
    let metrics = &state.metrics;
    match metrics.find(id) {
        Some((Kind::Counter, metric)) => {
            metric.value.fetch_add(value, Ordering::Relaxed);
        }
        Some((Kind::Gauge, metric)) => metric.value.store(value, Ordering::Relaxed),
        Some((Kind::Histogram, metric)) => metric.observe(value),
        None => return Err(Status::NotFound.into()),
    }
    Ok(())
}

fn read(state: &mut State, id: u32) -> Result<u64, Fault> {
    state.starting.impure();
    let metrics = &state.metrics;
    match metrics.find(id) {
        Some((Kind::Counter | Kind::Gauge, metric)) => Ok(metric.value.load(Ordering::Relaxed)),
        Some((Kind::Histogram, _)) => Err(Status::BadArgument.into()),
        None => Err(known_kind(id, Status::BadArgument)),
    }
}
