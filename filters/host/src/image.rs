//! A configured VM kept as an image: what start and configuration changed in the memory and the globals
//! of a fresh instance, so that the next VM is had by putting the changes back instead of running the
//! guest's start again. Only of a guest whose start learned nothing that differs from VM to VM, and told
//! nobody anything (`State::starting`); all others start as ever.

use std::borrow::Cow;
use std::time::Duration;

use wasmparser::{Operator, Parser, Payload, TypeRef, ValType};
use wasmtime::{AsContextMut, Global, Instance, Memory, Store, Val};

use crate::abi::metrics::MetricTable;
use crate::state::State;

/// The size of a page that the machine copies when it is first written to.
const PAGE_BYTES: usize = 4096;
/// Past this many changed bytes a start is no slower than its image is to put back.
const IMAGE_BYTES_MAX: usize = 1 << 20;
const GLOBAL_PREFIX: &str = "bawaba:global:";

/// What start and configuration made of a fresh instance.
pub(crate) struct Image {
    memory_pages: u64,
    runs: Vec<(usize, Box<[u8]>)>,
    globals: Vec<(String, Val)>,
    tick_period: Option<Duration>,
    metrics: MetricTable,
}

/// A fresh instance before its start, to compare with.
pub(crate) struct Baseline(Vec<u8>);

impl Baseline {
    pub(crate) fn of(memory: Memory, store: &Store<State>) -> Self {
        Baseline(memory.data(store).to_vec())
    }
}

impl Image {
    /// The image of a configured VM, if its start was such that an image stands for it.
    pub(crate) fn take(
        baseline: &Baseline,
        mutable_globals: usize,
        instance: &Instance,
        store: &mut Store<State>,
    ) -> Option<Image> {
        let state = store.data();
        if !state.starting.is_pure || state.callouts.len() > 0 || !state.asked.is_empty() {
            return None;
        }
        let memory = state.memory?;
        let (tick_period, metrics) = (state.tick_period, state.metrics.clone());
        let runs = changes(&baseline.0, memory.data(&*store));
        if runs.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > IMAGE_BYTES_MAX {
            return None;
        }
        let names = (0..mutable_globals).map(|index| format!("{GLOBAL_PREFIX}{index}"));
        let globals = names.map(|name| {
            let global = instance.get_global(&mut *store, &name)?;
            Some((name, global.get(&mut *store)))
        });
        let globals = globals.collect::<Option<Vec<_>>>()?;
        Some(Image { memory_pages: memory.size(&*store), runs, globals, tick_period, metrics })
    }

    /// Makes a fresh instance what the configured one was.
    pub(crate) fn put(&self, instance: &Instance, store: &mut Store<State>) -> wasmtime::Result<()> {
        let memory = store.data().memory.ok_or_else(|| wasmtime::format_err!("the module has no memory"))?;
        let missing = self.memory_pages.saturating_sub(memory.size(&*store));
        if missing > 0 {
            memory.grow(store.as_context_mut(), missing)?;
        }
        let bytes = memory.data_mut(&mut *store);
        for (at, run) in &self.runs {
            bytes[*at..*at + run.len()].copy_from_slice(run);
        }
        for (name, value) in &self.globals {
            let global: Option<Global> = instance.get_global(&mut *store, name);
            global.ok_or_else(|| wasmtime::format_err!("no {name}"))?.set(&mut *store, *value)?;
        }
        let state = store.data_mut();
        state.metrics = self.metrics.clone();
        state.set_tick_period(self.tick_period);
        Ok(())
    }
}

/// Pages that differ, those side by side in one run. What the memory grew by is compared with zeros.
fn changes(before: &[u8], after: &[u8]) -> Vec<(usize, Box<[u8]>)> {
    let zeros = [0; PAGE_BYTES];
    let differs = |page: usize| {
        let start = page * PAGE_BYTES;
        let now = &after[start..(start + PAGE_BYTES).min(after.len())];
        now != before.get(start..start + now.len()).unwrap_or(&zeros[..now.len()])
    };
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for page in (0..after.len().div_ceil(PAGE_BYTES)).filter(|page| differs(*page)) {
        let (start, end) = (page * PAGE_BYTES, ((page + 1) * PAGE_BYTES).min(after.len()));
        match runs.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => runs.push((start, end)),
        }
    }
    runs.into_iter().map(|(start, end)| (start, after[start..end].into())).collect()
}

/// The module with its mutable globals exported, and how many they are; `None` for a module whose state
/// is also elsewhere than in memory and globals (tables that it writes to, segments that it drops, a
/// start function of its own), or in globals of other kinds than numbers.
pub(crate) fn prepare(module: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    let mut globals = Vec::new();
    let mut exports = None;
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if !matches!(import.ok()?.ty, TypeRef::Func(_)) {
                        return None;
                    }
                }
            }
            Payload::GlobalSection(section) => {
                for (index, global) in section.into_iter().enumerate() {
                    let ty = global.ok()?.ty;
                    if !ty.mutable {
                        continue;
                    }
                    if !matches!(ty.content_type, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64) {
                        return None;
                    }
                    globals.push(index as u32);
                }
            }
            Payload::ExportSection(section) => exports = Some((section.range(), section.count())),
            Payload::StartSection { .. } => return None,
            Payload::CodeSectionEntry(body) => {
                let mut operators = body.get_operators_reader().ok()?;
                while !operators.eof() {
                    if keeps_state_elsewhere(&operators.read().ok()?) {
                        return None;
                    }
                }
            }
            _ => {}
        }
    }
    if globals.is_empty() {
        return Some((module.into(), 0));
    }
    let (range, count) = exports?;
    Some((export(module, range, count, &globals)?.into(), globals.len()))
}

fn keeps_state_elsewhere(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::MemoryInit { .. }
            | Operator::DataDrop { .. }
            | Operator::ElemDrop { .. }
    )
}

/// The export section again, with one export more for each global. `range` is the section's contents,
/// which begin with the number of exports.
fn export(module: &[u8], range: std::ops::Range<usize>, count: u32, globals: &[u32]) -> Option<Vec<u8>> {
    const EXPORT_SECTION: u8 = 7;
    const GLOBAL: u8 = 3;
    let old = module.get(range.clone())?;
    let entries = &old[leb_len(old)?..];
    let mut contents = leb(count.checked_add(globals.len() as u32)?);
    contents.extend_from_slice(entries);
    for (number, index) in globals.iter().enumerate() {
        let name = format!("{GLOBAL_PREFIX}{number}");
        contents.extend(leb(name.len() as u32));
        contents.extend_from_slice(name.as_bytes());
        contents.push(GLOBAL);
        contents.extend(leb(*index));
    }
    // Before the contents stand the section's number and its size, however long that was written.
    let start = (2..=6).map(|back| range.start.checked_sub(back)).find_map(|at| {
        let at = at?;
        let size = module.get(at + 1..range.start)?;
        let whole = module[at] == EXPORT_SECTION && leb_len(size) == Some(size.len());
        (whole && read_leb(size) == Some(old.len() as u32)).then_some(at)
    })?;
    let mut rewritten = module[..start].to_vec();
    rewritten.push(EXPORT_SECTION);
    rewritten.extend(leb(contents.len() as u32));
    rewritten.extend_from_slice(&contents);
    rewritten.extend_from_slice(&module[range.end..]);
    Some(rewritten)
}

fn leb(mut value: u32) -> Vec<u8> {
    let mut raw = Vec::with_capacity(5);
    while value >= 0x80 {
        raw.push(value as u8 | 0x80);
        value >>= 7;
    }
    raw.push(value as u8);
    raw
}

fn leb_len(raw: &[u8]) -> Option<usize> {
    raw.iter().take(5).position(|byte| byte & 0x80 == 0).map(|at| at + 1)
}

fn read_leb(raw: &[u8]) -> Option<u32> {
    raw.iter().enumerate().try_fold(0u32, |value, (at, byte)| {
        Some(value | u32::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_changed_are_kept_and_grown_ones_are_compared_with_zeros() {
        let before = vec![1; 3 * PAGE_BYTES];
        let mut after = before.clone();
        after.resize(6 * PAGE_BYTES, 0);
        after[PAGE_BYTES] = 2;
        after[2 * PAGE_BYTES] = 2;
        after[5 * PAGE_BYTES + 9] = 3;
        let runs: Vec<_> = changes(&before, &after).iter().map(|(at, run)| (at / PAGE_BYTES, run.len())).collect();
        assert_eq!(runs, [(1, 2 * PAGE_BYTES), (5, PAGE_BYTES)]);
        assert!(changes(&after, &after).is_empty());
    }

    #[test]
    fn globals_that_change_are_exported_and_a_module_with_state_elsewhere_has_no_image() {
        let parse = |text: &str| wat::parse_str(text).unwrap();
        let module = parse(
            r#"(module (global i32 (i32.const 1)) (global (mut i32) (i32.const 2)) (global (mut i64) (i64.const 3))
                 (memory (export "memory") 1) (func (export "f")))"#,
        );
        let (rewritten, count) = prepare(&module).unwrap();
        assert_eq!(count, 2);
        let engine = wasmtime::Engine::default();
        let names: Vec<String> =
            wasmtime::Module::new(&engine, &rewritten).unwrap().exports().map(|e| e.name().to_owned()).collect();
        assert_eq!(names, ["memory", "f", "bawaba:global:0", "bawaba:global:1"]);
        for elsewhere in [
            r#"(module (func $s) (start $s))"#,
            r#"(module (table 1 funcref) (func (table.set (i32.const 0) (ref.null func))))"#,
            r#"(module (global (mut funcref) (ref.null func)) (func (export "f")))"#,
            r#"(module (import "a" "b" (global i32)))"#,
        ] {
            assert!(prepare(&parse(elsewhere)).is_none(), "{elsewhere}");
        }
        assert!(prepare(b"\0asm\x01\0\0\0\x07").is_none());
    }
}
