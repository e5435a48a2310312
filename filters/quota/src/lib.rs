//! The quota policy as a proxy-wasm filter.

mod memory;
mod policy;

bawaba_filter_kit::policy!(policy::Quota, cases = "../cases.json");
