//! The license policy as a proxy-wasm filter.

mod followed;
mod policy;

bawaba_filter_kit::policy!(policy::License, cases = "../cases.json");
