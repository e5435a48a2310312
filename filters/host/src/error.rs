//! Why something was refused, in words that say what to do next. Knows no wasmtime type.

use std::fmt;

/// The host itself could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine refused its settings, or the machine refused the memory for the pool.
    #[error("cannot make the wasm engine: {0}")]
    Engine(String),
    /// The thread that counts time for CPU budgets could not be started.
    #[error("cannot start the thread that enforces CPU budgets: {0}")]
    Ticker(std::io::Error),
    /// Compiled modules can't be kept where they should be.
    #[error("cannot keep compiled modules in {}: {error}", directory.display())]
    Cache {
        /// The directory.
        directory: std::path::PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A limit has a value with which nothing could run.
    #[error("limit `{name}` is {value}: {hint}")]
    Limit {
        /// Name of the field of [`crate::HostLimits`].
        name: &'static str,
        /// Its value, as text.
        value: String,
        /// What would do.
        hint: &'static str,
    },
}

/// Why a module did not become a filter. Nothing that ran before is changed by one.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The bytes do not begin with the wasm magic number.
    #[error("not a WebAssembly module: it begins with {found}, a module begins with 00 61 73 6d 01 00 00 00")]
    NotWasm {
        /// The first bytes, in hexadecimal; `nothing` for an empty file.
        found: String,
    },
    /// The module is larger than [`crate::HostLimits::module_bytes_max`].
    #[error("the module has {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// Size of the module.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Validation or compilation failed.
    #[error("the module does not compile: {0}")]
    Compile(String),
    /// No `proxy_abi_version_*` export that this host speaks.
    #[error("the module exports no known proxy-wasm ABI version (found {found}; known: 0.2.1, 0.2.0, 0.1.0)")]
    Abi {
        /// What was exported, or `none`.
        found: String,
    },
    /// An import that neither proxy-wasm nor WASI preview 1 has.
    #[error("the module imports `{module}.{name}`, which no proxy-wasm host offers")]
    UnknownImport {
        /// Import module.
        module: String,
        /// Import name.
        name: String,
    },
    /// An import or export with a signature other than the ABI's.
    #[error("`{name}` has the wrong signature: {detail}")]
    Signature {
        /// Import or export.
        name: String,
        /// Expected and found.
        detail: String,
    },
    /// A required export is missing.
    #[error("the module does not export `{0}`")]
    MissingExport(&'static str),
    /// The module needs more memory or tables than it may have.
    #[error("the module cannot be instantiated: {0}")]
    Instantiate(String),
    /// The module ended abnormally while it was started or configured.
    #[error("the module failed in `{callback}`: {cause}{said}", said = Said(.said))]
    Start {
        /// The callback that failed.
        callback: &'static str,
        /// How.
        cause: Cause,
        /// Its last log line, if it wrote one.
        said: Option<String>,
    },
    /// `proxy_on_vm_start` or `proxy_on_configure` returned false: the settings are not to the module's liking.
    #[error("the module refused its {what} in `{callback}`{said}", said = Said(.said))]
    Refused {
        /// `settings` or `VM configuration`.
        what: &'static str,
        /// The callback that returned false.
        callback: &'static str,
        /// Its last log line, if it wrote one.
        said: Option<String>,
    },
}

struct Said<'a>(&'a Option<String>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, "; it said: {line}"),
            None => Ok(()),
        }
    }
}

/// Why a filter could give no verdict. Stable words: they are metric labels and log values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The module trapped (a panic of its author is one).
    Trap,
    /// A callback ran longer than [`crate::FilterLimits::callback_budget`].
    Budget,
    /// The module wanted more memory than [`crate::FilterLimits::memory_bytes_max`].
    Memory,
    /// No new VM could be made (pool exhausted, or the module no longer starts).
    Start,
    /// The filter failed repeatedly and rests until its back-off ends.
    Resting,
    /// The filter paused a handshake that nothing will resume.
    Paused,
    /// The filter held back more bytes than [`crate::FilterLimits::held_bytes_max`].
    Held,
    /// The filter closed the stream during the handshake.
    Closed,
    /// The VM that knew the stream was lost while its request or response was under way.
    Lost,
}

impl Cause {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Trap => "trap",
            Cause::Budget => "cpu_budget",
            Cause::Memory => "memory",
            Cause::Start => "start",
            Cause::Resting => "resting",
            Cause::Paused => "paused",
            Cause::Held => "held",
            Cause::Closed => "closed",
            Cause::Lost => "lost",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
