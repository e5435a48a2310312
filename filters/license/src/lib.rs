//! The license policy as a proxy-wasm filter.

mod policy;

bawaba_filter_kit::policy!(policy::License);
