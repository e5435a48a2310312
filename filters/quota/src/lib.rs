//! The quota policy as a proxy-wasm filter.
