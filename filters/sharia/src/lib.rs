//! The sharia policy as a proxy-wasm filter.

mod judged;
mod memory;
mod policy;
mod settings;
mod words;

bawaba_filter_kit::policy!(policy::Sharia, cases = "../cases.json");
