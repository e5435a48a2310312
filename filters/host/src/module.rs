//! What a compiled module offers and wants: its ABI version, its callbacks with the signatures that
//! the ABI gives them, its imports and its custom sections. Runs no guest code.

use wasmtime::{
    ExternType, FuncType, Instance, Module, ModuleExport, StoreContextMut, TypedFunc, ValType, WasmParams, WasmResults,
};

use crate::abi::Imports;
use crate::abi::wasi;
use crate::chain::Way;
use crate::error::BuildError;
use crate::filter::AbiVersion;
use crate::state::State;

/// Where the callbacks are in the module; resolved once, so that a VM needs no look-up by name.
pub(crate) struct Exports {
    pub(crate) memory: ModuleExport,
    malloc: ModuleExport,
    initialize: Option<ModuleExport>,
    start: Option<ModuleExport>,
    main: Option<ModuleExport>,
    main_void: Option<ModuleExport>,
    on_vm_start: Option<ModuleExport>,
    on_configure: Option<ModuleExport>,
    on_context_create: Option<ModuleExport>,
    on_tick: Option<ModuleExport>,
    on_queue_ready: Option<ModuleExport>,
    on_request_headers: Option<ModuleExport>,
    on_request_body: Option<ModuleExport>,
    on_response_headers: Option<ModuleExport>,
    on_response_body: Option<ModuleExport>,
    on_request_trailers: Option<ModuleExport>,
    on_response_trailers: Option<ModuleExport>,
    on_http_call_response: Option<ModuleExport>,
    on_grpc_receive_initial_metadata: Option<ModuleExport>,
    on_grpc_receive: Option<ModuleExport>,
    on_grpc_receive_trailing_metadata: Option<ModuleExport>,
    on_grpc_close: Option<ModuleExport>,
    on_done: Option<ModuleExport>,
    on_log: Option<ModuleExport>,
    on_delete: Option<ModuleExport>,
    old_headers: bool,
}

/// Callbacks of the ABI that no HTTP filter gets, with their parameters and results.
const NEVER_CALLED: [(&str, usize, usize); 9] = [
    ("proxy_validate_configuration", 2, 1),
    ("proxy_on_new_connection", 1, 1),
    ("proxy_on_downstream_data", 3, 1),
    ("proxy_on_upstream_data", 3, 1),
    ("proxy_on_downstream_connection_close", 2, 0),
    ("proxy_on_upstream_connection_close", 2, 0),
    ("proxy_on_request_metadata", 2, 1),
    ("proxy_on_response_metadata", 2, 1),
    ("proxy_on_foreign_function", 3, 0),
];

type Entry<P, R> = Option<TypedFunc<P, R>>;

/// `on_request_headers` and `on_response_headers` got a third parameter in 0.2.0.
pub(crate) enum HeadersEntry {
    Old(TypedFunc<(u32, u32), u32>),
    New(TypedFunc<(u32, u32, u32), u32>),
}

/// The callbacks of one VM.
pub(crate) struct Callbacks {
    pub(crate) initialize: Entry<(), ()>,
    pub(crate) start: Entry<(), ()>,
    pub(crate) main: Entry<(u32, u32), u32>,
    pub(crate) main_void: Entry<(), u32>,
    pub(crate) on_vm_start: Entry<(u32, u32), u32>,
    pub(crate) on_configure: Entry<(u32, u32), u32>,
    pub(crate) on_context_create: Entry<(u32, u32), ()>,
    pub(crate) on_tick: Entry<u32, ()>,
    pub(crate) on_queue_ready: Entry<(u32, u32), ()>,
    pub(crate) on_request_headers: Option<HeadersEntry>,
    pub(crate) on_request_body: Entry<(u32, u32, u32), u32>,
    pub(crate) on_response_headers: Option<HeadersEntry>,
    pub(crate) on_response_body: Entry<(u32, u32, u32), u32>,
    pub(crate) on_request_trailers: Entry<(u32, u32), u32>,
    pub(crate) on_response_trailers: Entry<(u32, u32), u32>,
    pub(crate) on_http_call_response: Entry<(u32, u32, u32, u32, u32), ()>,
    pub(crate) on_grpc_receive_initial_metadata: Entry<(u32, u32, u32), ()>,
    pub(crate) on_grpc_receive: Entry<(u32, u32, u32), ()>,
    pub(crate) on_grpc_receive_trailing_metadata: Entry<(u32, u32, u32), ()>,
    pub(crate) on_grpc_close: Entry<(u32, u32, u32), ()>,
    pub(crate) on_done: Entry<u32, u32>,
    pub(crate) on_log: Entry<u32, ()>,
    pub(crate) on_delete: Entry<u32, ()>,
}

/// The newest ABI version that the module exports.
pub(crate) fn abi_version(module: &Module) -> Result<AbiVersion, BuildError> {
    for (name, version) in [
        ("proxy_abi_version_0_2_1", AbiVersion::V0_2_1),
        ("proxy_abi_version_0_2_0", AbiVersion::V0_2_0),
        ("proxy_abi_version_0_1_0", AbiVersion::V0_1_0),
    ] {
        if module.get_export(name).is_some() {
            return Ok(version);
        }
    }
    let other = module.exports().find(|export| export.name().starts_with("proxy_abi_version_"));
    Err(BuildError::Abi { found: other.map_or_else(|| "none".to_owned(), |export| export.name().to_owned()) })
}

impl Exports {
    pub(crate) fn find(module: &Module, abi: AbiVersion) -> Result<Self, BuildError> {
        let Some(memory) = module.get_export_index("memory") else { return Err(BuildError::MissingExport("memory")) };
        if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
            return Err(wrong("memory", "is not a memory".to_owned()));
        }
        let find = |name, parameters, results| callback(module, name, parameters, results);
        let initialize = find("_initialize", 0, 0)?;
        let old_headers = abi == AbiVersion::V0_1_0;
        let headers = if old_headers { 2 } else { 3 };
        let malloc = match find("malloc", 1, 1)? {
            Some(malloc) => malloc,
            None => find("proxy_on_memory_allocate", 1, 1)?
                .ok_or(BuildError::MissingExport("proxy_on_memory_allocate (or malloc)"))?,
        };
        // Callbacks of TCP filters, of HTTP/2 metadata and of foreign functions: nothing here calls them, as
        // nothing in Envoy's HTTP filter does, but one with a wrong signature is a mistake to be told of.
        for (name, parameters, results) in NEVER_CALLED {
            find(name, parameters, results)?;
        }
        Ok(Exports {
            memory,
            malloc,
            start: if initialize.is_some() { None } else { find("_start", 0, 0)? },
            main: if initialize.is_some() { find("main", 2, 1)? } else { None },
            main_void: if initialize.is_some() { find("__main_void", 0, 1)? } else { None },
            initialize,
            on_vm_start: find("proxy_on_vm_start", 2, 1)?,
            on_configure: find("proxy_on_configure", 2, 1)?,
            on_context_create: find("proxy_on_context_create", 2, 0)?,
            on_tick: find("proxy_on_tick", 1, 0)?,
            on_queue_ready: find("proxy_on_queue_ready", 2, 0)?,
            on_request_headers: find("proxy_on_request_headers", headers, 1)?,
            on_request_body: find("proxy_on_request_body", 3, 1)?,
            on_response_headers: find("proxy_on_response_headers", headers, 1)?,
            on_response_body: find("proxy_on_response_body", 3, 1)?,
            on_request_trailers: find("proxy_on_request_trailers", 2, 1)?,
            on_response_trailers: find("proxy_on_response_trailers", 2, 1)?,
            on_http_call_response: find("proxy_on_http_call_response", 5, 0)?,
            on_grpc_receive_initial_metadata: find("proxy_on_grpc_receive_initial_metadata", 3, 0)?,
            on_grpc_receive: find("proxy_on_grpc_receive", 3, 0)?,
            on_grpc_receive_trailing_metadata: find("proxy_on_grpc_receive_trailing_metadata", 3, 0)?,
            on_grpc_close: find("proxy_on_grpc_close", 3, 0)?,
            on_done: find("proxy_on_done", 1, 1)?,
            on_log: find("proxy_on_log", 1, 0)?,
            on_delete: find("proxy_on_delete", 1, 0)?,
            old_headers,
        })
    }

    /// Whether any callback of a stream is there; without one, streams cost nothing.
    pub(crate) fn sees_streams(&self) -> bool {
        let stream = [
            &self.on_request_headers,
            &self.on_request_body,
            &self.on_request_trailers,
            &self.on_response_headers,
            &self.on_response_body,
            &self.on_response_trailers,
            &self.on_context_create,
            &self.on_done,
            &self.on_log,
            &self.on_delete,
        ];
        stream.iter().any(|entry| entry.is_some())
    }

    #[inline]
    pub(crate) fn sees_body(&self, way: Way) -> bool {
        if way == Way::Request { self.on_request_body.is_some() } else { self.on_response_body.is_some() }
    }

    pub(crate) fn malloc(
        &self,
        instance: &Instance,
        store: StoreContextMut<'_, State>,
    ) -> wasmtime::Result<Entry<u32, u32>> {
        entry(instance, store, &Some(self.malloc))
    }

    pub(crate) fn resolve(
        &self,
        instance: &Instance,
        mut store: StoreContextMut<'_, State>,
    ) -> wasmtime::Result<Callbacks> {
        macro_rules! get {
            ($name:ident) => {
                entry(instance, &mut store, &self.$name)?
            };
        }
        Ok(Callbacks {
            initialize: get!(initialize),
            start: get!(start),
            main: get!(main),
            main_void: get!(main_void),
            on_vm_start: get!(on_vm_start),
            on_configure: get!(on_configure),
            on_context_create: get!(on_context_create),
            on_tick: get!(on_tick),
            on_queue_ready: get!(on_queue_ready),
            on_request_headers: self.headers_entry(instance, &mut store, &self.on_request_headers)?,
            on_request_body: get!(on_request_body),
            on_response_headers: self.headers_entry(instance, &mut store, &self.on_response_headers)?,
            on_response_body: get!(on_response_body),
            on_request_trailers: get!(on_request_trailers),
            on_response_trailers: get!(on_response_trailers),
            on_http_call_response: get!(on_http_call_response),
            on_grpc_receive_initial_metadata: get!(on_grpc_receive_initial_metadata),
            on_grpc_receive: get!(on_grpc_receive),
            on_grpc_receive_trailing_metadata: get!(on_grpc_receive_trailing_metadata),
            on_grpc_close: get!(on_grpc_close),
            on_done: get!(on_done),
            on_log: get!(on_log),
            on_delete: get!(on_delete),
        })
    }

    fn headers_entry(
        &self,
        instance: &Instance,
        store: &mut StoreContextMut<'_, State>,
        export: &Option<ModuleExport>,
    ) -> wasmtime::Result<Option<HeadersEntry>> {
        Ok(if self.old_headers {
            entry(instance, store, export)?.map(HeadersEntry::Old)
        } else {
            entry(instance, store, export)?.map(HeadersEntry::New)
        })
    }
}

fn entry<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    mut store: impl wasmtime::AsContextMut<Data = State>,
    export: &Option<ModuleExport>,
) -> wasmtime::Result<Entry<P, R>> {
    let Some(export) = export else { return Ok(None) };
    let Some(function) = instance.get_module_export(&mut store, export).and_then(|found| found.into_func()) else {
        return Ok(None);
    };
    function.typed::<P, R>(&store).map(Some)
}

/// A callback, if exported; all of them take and give 32-bit integers only.
fn callback(
    module: &Module,
    name: &str,
    parameters: usize,
    results: usize,
) -> Result<Option<ModuleExport>, BuildError> {
    match module.get_export(name) {
        None => Ok(None),
        Some(ExternType::Func(found)) => {
            let words = |mut types: Box<dyn Iterator<Item = ValType> + '_>| types.all(|t| matches!(t, ValType::I32));
            let fits = found.params().len() == parameters
                && found.results().len() == results
                && words(Box::new(found.params()))
                && words(Box::new(found.results()));
            if fits {
                return Ok(module.get_export_index(name));
            }
            let expected = format!("expected {}, found {}", words_text(parameters, results), text(&found));
            Err(wrong(name, expected))
        }
        Some(_) => Err(wrong(name, "is not a function".to_owned())),
    }
}

fn wrong(name: &str, detail: String) -> BuildError {
    BuildError::Signature { name: name.to_owned(), detail }
}

fn words_text(parameters: usize, results: usize) -> String {
    let list = |n| vec!["i32"; n].join(", ");
    format!("({}) -> ({})", list(parameters), list(results))
}

fn text(found: &FuncType) -> String {
    let list = |types: Vec<String>| types.join(", ");
    let (parameters, results) = (found.params().map(|t| t.to_string()), found.results().map(|t| t.to_string()));
    format!("({}) -> ({})", list(parameters.collect()), list(results.collect()))
}

/// Imports that the linker lacks: WASI functions, which are to answer ENOSYS; any other is refused by name.
pub(crate) fn missing_wasi(module: &Module, imports: &Imports) -> Result<Vec<(String, String, FuncType)>, BuildError> {
    let mut missing = Vec::new();
    for import in module.imports() {
        if imports.names.contains(&(import.module(), import.name())) {
            continue;
        }
        let (from, name) = (import.module().to_owned(), import.name().to_owned());
        match import.ty() {
            ExternType::Func(ty) if wasi::MODULES.contains(&import.module()) => missing.push((from, name, ty)),
            _ => return Err(BuildError::UnknownImport { module: from, name }),
        }
    }
    Ok(missing)
}

/// Custom sections of a valid module, in order.
pub(crate) fn custom_sections(module: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut sections = Vec::new();
    let mut rest = module.get(8..).unwrap_or_default();
    while let Some((id, section, behind)) = take_section(rest) {
        if id == 0
            && let Some((len, at)) = take_u32(section)
            && let Some((name, contents)) = section[at..].split_at_checked(len as usize)
        {
            sections.push((String::from_utf8_lossy(name).into_owned(), contents.to_vec()));
        }
        rest = behind;
    }
    // Debug information and names are large, and nobody asks for them.
    sections.retain(|(name, _)| !name.starts_with(".debug") && name != "name");
    sections
}

fn take_section(raw: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (id, rest) = raw.split_first()?;
    let (len, at) = take_u32(rest)?;
    let (section, behind) = rest[at..].split_at_checked(len as usize)?;
    Some((*id, section, behind))
}

/// An unsigned LEB128 number and its length.
fn take_u32(raw: &[u8]) -> Option<(u32, usize)> {
    let mut value = 0u32;
    for (index, byte) in raw.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}
