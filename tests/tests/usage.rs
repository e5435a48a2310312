//! What was used is recorded, chained and reported; and who decided what can be asked, from a terminal and of a running edge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::process::Command;

use bawaba_tests::place::binary;
use bawaba_tests::stack::{Stack, launch_list, path, set};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::{Value, json};

fn bawaba(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary("bawaba")).args(arguments).output().unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

/// The month in which the test runs, on the ledger's clock.
fn month(export: &str) -> String {
    let first: Value = serde_json::from_str(export.lines().next().unwrap()).unwrap();
    let seconds = first["at"].as_i64().unwrap() / 1_000_000_000;
    // Cairo is two or three hours ahead: at the end of a month the test may see either; it asks for the record's own.
    let time = bawaba_channels::wire::Timestamp((seconds + 2 * 3600) * 1_000_000_000).to_string();
    time[..7].to_owned()
}

#[test]
fn every_session_product_and_refusal_is_recorded_chained_and_reported() {
    let mut file = String::new();
    let stack = Stack::start_with(&["license", "quota"], |config| {
        let ledger = bawaba_tests::place::Scratch::new();
        file = path(&ledger.path().join("usage.redb"));
        std::mem::forget(ledger);
        set(config, "usage.file", file.as_str());
    });
    let token = |user: &str| {
        stack.keys.token(json!({"sub": user, "tenant": "acme", "tier": "professional", "exchanges": ["EGX"]}))
    };
    let mut amina = stack.connect(&token("amina"));
    let mut again = stack.connect(&token("amina"));
    let mut badr = stack.connect(&token("badr"));
    for client in [&mut amina, &mut again, &mut badr] {
        let answer = client.request(json!({"type": "subscribe", "id": 1, "channel": "market_data", "exchange": "EGX", "symbols": ["COMI", "TMGH"]}));
        assert_eq!(answer["accepted"].as_array().unwrap().len(), 2, "{answer}");
    }
    let refused = amina.request(
        json!({"type": "subscribe", "id": 2, "channel": "market_data", "exchange": "ADX", "symbols": ["FAB"]}),
    );
    assert_eq!(refused["code"], "license.exchange");
    badr.close();
    drop(badr);
    let get = |path: &str| {
        let answer = http::get(stack.edge.admin, path).unwrap();
        (answer.status, answer.text())
    };
    // The end of badr's session is recorded when the edge has noticed it.
    let export = until("three sessions and an end are recorded", by(PATIENCE), || {
        let (_, export) = get("/usage/export?json=true");
        let ended =
            export.lines().filter(|line| line.contains(r#""kind":"session""#) && line.contains(r#""verdict":"ended""#));
        (ended.count() == 1).then_some(export)
    });
    let records: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str, user: &str| {
        records.iter().filter(|record| record["kind"] == kind && record["user"] == user).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("session", "amina").len(), 2);
    let used = of("product", "badr");
    assert_eq!(used.len(), 2, "its beginning and its end: {used:?}");
    assert_eq!((&used[0]["product"], &used[0]["level"]), (&json!("EGX/market_data"), &json!("real_time")));
    assert!(used[0]["basis"].as_str().unwrap().contains("professional tiers@"), "{}", used[0]);
    assert!(used[1]["to"].as_i64().unwrap() >= used[1]["from"].as_i64().unwrap());
    assert_eq!(of("subscription", "amina")[0]["symbols"], json!(["COMI", "TMGH"]));
    assert_eq!(of("refusal", "amina")[0]["reason"], "license.exchange");

    let month = month(&export);
    let (status, report) = get(&format!("/usage/report?month={month}&json=true"));
    assert_eq!(status, 200, "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let product = &report["products"]["EGX/market_data"];
    assert_eq!((&report["units"], &product["units"]), (&json!(2), &json!(2)), "a user twice is one unit: {report}");
    assert!(product["peak_by_day"].as_object().unwrap().values().all(|peak| *peak == 2), "{report}");
    assert_eq!(report["refused"]["license.exchange"], 1, "{report}");
    let (status, verified) = get("/usage/verify");
    assert_eq!(status, 200, "{verified}");

    // While the edge runs the ledger is its alone; afterwards anyone may read it.
    let admin = stack.edge.admin.to_string();
    let (sound, said) = bawaba(&["usage", "report", "--month", &month, "--admin", &admin]);
    assert!(sound && said.contains("EGX/market_data: 2 units"), "{said}");
    drop((amina, again, stack));
    let (sound, said) = bawaba(&["usage", "verify", "--file", &file]);
    assert!(sound && said.contains("each as it was written"), "{said}");
    let (sound, csv) = bawaba(&["usage", "export", "--file", &file, "--format", "csv"]);
    assert!(sound && csv.starts_with("number,kind,at,") && csv.contains(",refusal,"), "{csv}");
}

#[test]
fn who_decided_what_by_which_version_and_why_can_be_asked() {
    let stack = Stack::start_with(&["license", "quota", "sharia"], |config| {
        set(config, "filter.sharia.settings", launch_list());
    });
    let config = path(&stack.scratch.path().join("edge.toml"));
    let claims = json!({"tier": "professional", "exchanges": ["EGX"], "islamic": {"mode": "filter", "boards": ["EGX33"], "rule": "named"}});
    let asked = |exchange: &str, symbol: &str| {
        let (sound, said) = bawaba(&[
            "policy",
            "explain",
            "--config",
            &config,
            "--user",
            "amina",
            "--claims",
            &claims.to_string(),
            "--exchange",
            exchange,
            "--symbol",
            symbol,
            "--json",
        ]);
        assert!(sound, "{said}");
        let from_terminal: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        let query: String = claims.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = http::get(
            stack.edge.admin,
            &format!("/explain?user=amina&exchange={exchange}&symbol={symbol}&claims={query}"),
        )
        .unwrap();
        let from_admin: Value = serde_json::from_str(&answer.text()).unwrap();
        for key in ["verdict", "decided_by", "code", "route"] {
            assert_eq!(from_terminal[key], from_admin[key], "{from_terminal}\n{from_admin}");
        }
        from_terminal
    };
    let east = asked("EGX", "EAST");
    assert_eq!(
        (&east["verdict"], &east["decided_by"], &east["code"]),
        (&json!("refused"), &json!("sharia"), &json!("sharia.not_listed"))
    );
    assert_eq!(east["filters"][0]["verdict"], "passes", "the licence had nothing against it: {east}");
    assert!(east["filters"][0]["basis"].as_str().unwrap().contains("tiers@"), "{east}");
    let abuk = asked("EGX", "ABUK");
    assert_eq!(abuk["verdict"], "passes", "{abuk}");
    assert_eq!(abuk["filters"][2]["metadata"]["list"], "egx33@2024-06-12", "{abuk}");
    let fab = asked("ADX", "FAB");
    assert_eq!((&fab["decided_by"], &fab["code"]), (&json!("license"), &json!("license.exchange")), "{fab}");

    let (sound, said) =
        bawaba(&["policy", "explain", "--config", &config, "--user", "amina", "--exchange", "EGX", "--symbol", "EAST"]);
    assert!(sound && said.contains("license") && said.contains("license.not_found"), "{said}");
    // Somebody who is connected is asked about with what its token says.
    let mut client = stack.connect(&stack.keys.screened("dalia"));
    client.until_type("welcome");
    let answer = http::get(stack.edge.admin, "/explain?user=dalia&exchange=EGX&symbol=EAST").unwrap();
    assert!(answer.text().contains("sharia.not_listed"), "{}", answer.text());
}
