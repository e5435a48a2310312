//! The sharia policy as a proxy-wasm filter.

mod memory;
mod policy;
mod settings;

bawaba_filter_kit::policy!(policy::Sharia, cases = "../cases.json");
