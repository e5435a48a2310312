//! Filters change while the edge runs: over the admin listener, by file, by going back. Whole or not at all, and never
//! undone by a restart without a word.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bawaba_tests::client::Connect;
use bawaba_tests::http;
use bawaba_tests::lab::{Lab, NOBODY, license, with_section};
use bawaba_tests::place::filter;
use bawaba_tests::stack::set;
use bawaba_tests::{PATIENCE, by, until};
use rcgen::SigningKey as _;
use serde_json::json;

#[test]
fn what_was_put_survives_a_restart_until_the_files_change() {
    let mut lab = Lab::start();
    let of_files = lab.state()["revision"].clone();
    let put = lab.put("", &license(1));
    assert_eq!((&put["outcome"], &put["changed"]), (&json!("in_force"), &json!(true)), "{put}");
    assert!(put["after_a_restart"].as_str().unwrap().contains("until the files of filter license change"), "{put}");
    assert_eq!(lab.state()["revision"], put["revision"]);
    assert_eq!(lab.put("", &license(1))["changed"], json!(false), "the same again is no change");

    lab.restart();
    let state = lab.state();
    assert_eq!((&state["revision"], &state["files"]), (&put["revision"], &of_files), "{state}");
    assert!(state["from"].as_str().unwrap().contains("operator"), "{state}");

    // A file that becomes another is the newer change, and wins, also over a restart.
    lab.files.write("license.wasm", license(2));
    until("the file is in force", by(PATIENCE), || (lab.state()["revision"] != put["revision"]).then_some(()));
    let of_file = lab.state()["revision"].clone();
    assert_eq!(lab.history()[0]["how"], "file");
    lab.restart();
    let state = lab.state();
    assert_eq!((&state["revision"], &state["from"]), (&of_file, &json!("the files")), "{state}");
    drop(lab.connect());
}

#[test]
fn a_change_that_fails_changes_nothing_and_says_where_what_and_what_to_do() {
    let lab = Lab::start();
    let before = lab.state();
    let mut open = lab.connect();
    let false_case = json!([{"law": "nobody is refused", "claims": {"sub": "u"}}]).to_string();
    let unheld = with_section(&license(0), "bawaba.cases", false_case.as_bytes());
    let fine = license(1);
    let no_abi = b"\0asm\x01\0\0\0".to_vec();
    let huge = vec![0; 16 * 1024 * 1024 + 1];
    let large_settings = [b"{\"a\":\"".to_vec(), vec![b'a'; 4 * 1024 * 1024], b"\"}".to_vec()].concat();
    let table: Vec<(&str, &str, &[(&str, &str)], &[u8], u16, &str, &str)> = vec![
        ("PUT", "", &[], b"text", 400, "is no WebAssembly module", "curl -T"),
        ("PUT", "", &[], &huge, 413, "more than 16777216 bytes", "smaller"),
        ("PUT", "", &[], &no_abi, 422, "exports no known proxy-wasm ABI", "SDK that speaks ABI"),
        (
            "PUT",
            "",
            &[],
            &unheld,
            422,
            "its own case \"nobody is refused\" does not hold: the handshake is refused with 401",
            "build it anew",
        ),
        ("PUT", "", &[("if-match", "\"0000000000000000\"")], &fine, 412, "is in force", "ask again"),
        ("PUT", "?mode=loud", &[], &fine, 400, "is not known", "?mode=shadow"),
        ("PUT", "?percent=5", &[], &fine, 400, "is not known", "?mode=shadow"),
        ("PUT", "?mode=canary&percent=100", &[], &fine, 400, "no whole number from 1 to 99", "percent=5"),
        ("PUT", "/settings", &[], b"[]", 400, "is no JSON object", "settings, whole"),
        ("PUT", "/settings", &[], &large_settings, 413, "more than 4194304 bytes", "send less"),
        ("PUT", "/settings", &[], br#"{"teirs": {}}"#, 422, "teirs", "correct the filter's settings"),
        ("POST", "/rollback", &[], b"{}", 400, "names no digest", "history"),
        ("POST", "/rollback", &[], br#"{"digest": "abcdef0123456789"}"#, 404, "no revision that is kept", "history"),
        ("POST", "/promote", &[], b"", 409, "nothing is tried", "?mode=shadow"),
        ("POST", "/abort", &[], b"", 409, "nothing is tried", "?mode=shadow"),
        ("GET", "/shadow", &[], b"", 404, "it has no shadow", "?mode=shadow"),
        ("GET", "/nothing", &[], b"", 404, "no such page", "GET /"),
        ("DELETE", "", &[], b"", 405, "DELETE is not for this page", "GET or PUT"),
    ];
    for (method, page, headers, body, status, what, advice) in table {
        let answer = lab.ask(method, page, headers, body);
        let error = &answer.json()["error"];
        let says = |key: &str, part: &str| error[key].as_str().is_some_and(|text| text.contains(part));
        assert!(
            answer.status == status && says("what", what) && says("do", advice) && error["where"].is_string(),
            "{method} {page}: {} {}",
            answer.status,
            answer.text()
        );
        assert_eq!(lab.state(), before, "{method} {page}");
    }
    let unknown = http::send(lab.edge.admin, "PUT", "/filters/licence/settings", &[], b"{}").unwrap();
    assert!(unknown.status == 404 && unknown.text().contains("name one of: license"), "{}", unknown.text());

    assert_eq!(lab.edge.metric("bawaba_generation_failures_total"), Some(3.0), "what could not be built");
    let failed = lab.edge.metric("bawaba_filter_changes_total{filter=\"license\",how=\"put\",outcome=\"failed\"}");
    assert_eq!(failed, Some(3.0));
    let history = lab.history();
    assert!(
        history[0]["outcome"] == "failed" && history[0]["detail"].as_str().unwrap().contains("teirs"),
        "{history:?}"
    );
    let ping = tungstenite::Message::text(r#"{"type":"ping","id":1}"#);
    open.send_message(ping.clone());
    assert_eq!(open.message(by(PATIENCE)).unwrap(), ping, "who was open stays so");
}

#[test]
fn an_operator_goes_back_to_any_revision_that_is_kept() {
    let lab = Lab::start_with(|config, _| set(config, "edge.revisions_kept_max", 2));
    let first = lab.state();
    let answer = lab.ask(
        "PUT",
        "",
        &[("from", "amina@example"), ("if-match", first["revision"].as_str().unwrap())],
        &license(1),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("etag"), lab.ask("GET", "", &[], b"").header("etag"));
    let one = answer.json();
    let two = lab.put("", &license(2));
    assert_ne!(one["revision"], two["revision"]);

    let back = lab.ask("POST", "/rollback", &[], json!({"digest": one["revision"]}).to_string().as_bytes());
    assert_eq!((back.status, &back.json()["revision"]), (200, &one["revision"]), "{}", back.text());
    // By the module's digest, or the front of one, too.
    let short = &two["module"].as_str().unwrap()[..12];
    let back = lab.ask("POST", "/rollback", &[], json!({"digest": short}).to_string().as_bytes());
    assert_eq!(back.json()["revision"], two["revision"], "{}", back.text());
    // Back to the files: no choice over them is left.
    let back = lab.ask("POST", "/rollback", &[], json!({"digest": first["revision"]}).to_string().as_bytes());
    assert!(
        back.json()["after_a_restart"].as_str().unwrap().contains("the filter's files say the same"),
        "{}",
        back.text()
    );
    assert_eq!(lab.state()["from"], "the files");

    let history = lab.history();
    let lines: Vec<(&str, &str)> =
        history.iter().map(|line| (line["how"].as_str().unwrap(), line["outcome"].as_str().unwrap())).collect();
    let expected = ["rollback", "rollback", "rollback", "put", "put", "start"].map(|how| (how, "in_force"));
    assert_eq!(lines, expected);
    let who = history[4]["who"].as_str().unwrap();
    assert!(who.starts_with("127.0.0.1:") && who.ends_with(" (amina@example)"), "{who}");
    assert!(history[4]["at"].as_str().unwrap().ends_with('Z'), "{history:?}");

    // Two are kept beside the one in force; older ones are gone, from the disk too.
    lab.put("", &license(3));
    lab.put("", &license(4));
    let gone = lab.ask("POST", "/rollback", &[], json!({"digest": one["revision"]}).to_string().as_bytes());
    assert_eq!(gone.status, 404, "{}", gone.text());
    assert_eq!(fs::read_dir(lab.files.path().join("state/modules")).unwrap().count(), 3);
}

#[test]
fn without_a_place_to_keep_it_nothing_is_changed_over_admin() {
    let lab = Lab::start_with(|config, _| {
        config["edge"].as_table_mut().unwrap().remove("state_directory");
    });
    let answer = lab.ask("PUT", "", &[], &license(1));
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("edge.state_directory"), "{}", answer.text());
    // Files and signals still do.
    lab.files.write("license.wasm", license(2));
    until("the file is in force", by(PATIENCE), || (lab.history()[0]["how"] == "file").then_some(()));
}

#[test]
fn settings_judge_open_sessions_from_their_next_message_on() {
    let lab = Lab::start();
    let mut open = lab.connect();
    lab.put("/settings", NOBODY);
    open.send_message(tungstenite::Message::text("{}"));
    assert_eq!(open.close_code(), Some(1008));
    assert_eq!(Connect::with_token(&lab.keys.unscreened("mona")).refused(lab.edge.address).status, 403);
}

#[test]
fn a_module_without_the_signature_that_is_required_is_not_taken() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let sign = |module: &[u8]| pair.sign(module).unwrap();
    let lab = Lab::start_with(|config, files| {
        files.write("release.pem", pair.public_key_pem());
        files.write("license.wasm.sig", sign(&fs::read(filter("license")).unwrap()));
        set(config, "filter.license.signature_key", "release.pem");
    });
    let unsigned = lab.ask("PUT", "", &[], &license(1));
    assert!(unsigned.status == 422 && unsigned.text().contains("has no signature"), "{}", unsigned.text());
    let other = BASE64_STANDARD.encode(sign(&license(2)));
    let forged = lab.ask("PUT", "", &[("x-bawaba-signature", &other)], &license(1));
    assert!(forged.status == 422 && forged.text().contains("was not made over these bytes"), "{}", forged.text());
    let signed = lab.ask("PUT", "", &[("x-bawaba-signature", &other)], &license(2));
    assert_eq!(signed.status, 200, "{}", signed.text());
    // What was signed when it came can be gone back to; what replaces the file must be signed again.
    let first = lab.history().last().unwrap()["revision"].clone();
    let back = lab.ask("POST", "/rollback", &[], json!({"digest": first}).to_string().as_bytes());
    assert_eq!(back.status, 200, "{}", back.text());
    let revision = lab.state()["revision"].clone();
    lab.files.write("license.wasm", license(3));
    until("the failure is counted", by(PATIENCE), || {
        lab.edge.metric("bawaba_generation_failures_total").filter(|failures| *failures >= 3.0)
    });
    assert_eq!(lab.state()["revision"], revision);
}
