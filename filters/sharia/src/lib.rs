//! The sharia policy as a proxy-wasm filter.
