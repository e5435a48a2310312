//! A module and its settings are replaced under 200 screened clients: the next message is judged by the new ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;

use bawaba_tests::client::Client;
use bawaba_tests::http;
use bawaba_tests::place::filter;
use bawaba_tests::stack::{Stack, launch_list, path, set};
use bawaba_tests::{PATIENCE, by, until};
use serde_json::json;

const CLIENTS: usize = 200;

/// The same module with one more custom section: another digest, the same rules.
fn touched(module: &[u8]) -> Vec<u8> {
    let mut module = module.to_vec();
    module.extend_from_slice(&[0, 5, 4, b't', b'e', b's', b't']);
    module
}

#[test]
fn open_sessions_are_judged_by_the_new_module_from_the_next_message_on() {
    let module = fs::read(filter("sharia")).unwrap();
    let files = bawaba_tests::place::Scratch::new();
    let module_file = files.write("sharia.wasm", &module);
    let settings_file = files.write("sharia.json", serde_json::to_string(&launch_list()).unwrap());
    let stack = Stack::start_with(&["sharia"], |config| {
        set(config, "filter.sharia.module", path(&module_file));
        set(config, "filter.sharia.settings_file", path(&settings_file));
    });
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let mut client = stack.connect(&stack.keys.screened(&format!("user-{n}")));
            client.until_type("welcome");
            let answer = client
                .request(json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX",
                "symbols": ["ABUK", "COMI"]}));
            assert_eq!(answer["accepted"][0]["symbol"], "ABUK", "{answer}");
            assert_eq!(answer["refused"][0]["symbol"], "COMI", "{answer}");
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.until_type("market_data_update")["symbol"], "ABUK");
    }

    // Without the historical list in its settings the filter holds it stale: ABUK may no longer be seen.
    files.write("sharia.wasm", touched(&module));
    files.write("sharia.json", "{}");
    for client in &mut clients {
        let revoked = client.until_type("revoked");
        assert_eq!(revoked["symbols"], json!(["ABUK"]), "{revoked}");
        let answer = client.request(
            json!({"type": "subscribe", "id": 2, "channel": "market_data", "exchange": "EGX", "symbols": ["ABUK"]}),
        );
        assert_eq!(answer["accepted"], json!([]), "{answer}");
    }

    // A file that is no module changes nothing: the sessions stay, and stay judged.
    files.write("sharia.wasm", b"no module");
    until("the failure is counted", by(PATIENCE), || {
        stack.edge.metric("bawaba_generation_failures_total").filter(|failures| *failures >= 1.0)
    });
    for client in &mut clients {
        let answer = client.request(
            json!({"type": "subscribe", "id": 3, "channel": "market_data", "exchange": "EGX", "symbols": ["ABUK"]}),
        );
        assert_eq!(answer["accepted"], json!([]), "{answer}");
    }
    assert_eq!(http::get(stack.edge.admin, "/readyz").unwrap().status, 200);
}
