//! A native proxy-wasm host: load a module, confine it, call it, replace it.
//!
//! Modules are driven as Envoy drives them: the same callbacks, in the same order, with the same
//! status codes (see `abi`). What travels in the bodies is not this crate's business: it knows no
//! WebSocket, no token and no route.
//!
//! ```text
//! Host (one per process: engine, linker, epoch thread, shared data, metrics)
//!   └─ build(FilterSpec) ─> Filter (a compiled, configured, self-tested module)
//!        └─ Chain (ordered filters + generation; Send + Sync)
//!             └─ attach() ─> WorkerChain (one thread's VMs; neither Send nor Sync)
//!                  └─ open() ─> ChainStream (one session or one cohort)
//! ```

mod abi;
mod aot;
mod callouts;
mod chain;
mod error;
mod filter;
mod flow;
mod foreign;
mod headers;
mod host;
mod image;
mod kept;
mod limits;
mod metrics;
mod module;
mod rest;
mod shared;
mod slot;
mod state;
mod tap;
mod vm;
mod worker;

pub use callouts::{CalloutEvent, CalloutId, CalloutRefusal, Callouts, GrpcCall, HttpCall};
pub use chain::{
    Chain, ChainStream, LocalResponse, Opening, Part, Properties, StreamEnd, StreamKind, StreamToken, Way,
};
pub use error::{BuildError, Cause, HostError};
pub use filter::{Filter, FilterMetrics, FilterSpec, OnFailure};
pub use foreign::{ForeignFunctions, ForeignRefusal};
pub use headers::Headers;
pub use host::{Host, HostOptions};
pub use limits::{FilterLimits, HostLimits};
pub use tap::{Handshake, Seen, Tap, Verdict};
pub use worker::WorkerChain;
