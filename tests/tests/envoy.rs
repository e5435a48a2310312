//! `envoy/envoy.yaml` in a real Envoy, before a channel server: every conversation of the conformance table ends as
//! its law says. That our edge says the same is `conformance.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::stack::{ChannelServer, Envoy, EnvoyOptions, launch_list};
use serde_json::json;

#[path = "conformance/table.rs"]
mod table;

#[test]
fn every_law_holds_in_a_stock_envoy() {
    let server = ChannelServer::still("EGX");
    let (keys, scratch) = (Keys::generate(), Scratch::new());
    let sharia = serde_json::to_value(launch_list()).unwrap();
    let filters = [("license", json!({})), ("quota", json!({})), ("sharia", sharia)];
    let options = EnvoyOptions {
        filters: filters.map(|(name, settings)| (name.into(), settings)).into(),
        clusters: [("egx".into(), vec![server.address]), ("adx".into(), vec![server.address])].into(),
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start(&scratch, &keys, &options);
    let mut broken = Vec::new();
    for scenario in table::scenarios() {
        let transcript = scenario.run(envoy.address, &keys, "envoy");
        if let Some(missing) = transcript.lacks(scenario.says) {
            broken.push(format!("== {}\n  missing: {missing}\n  {}", scenario.law, transcript.lines.join("\n  ")));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
