//! The license policy as a proxy-wasm filter.
