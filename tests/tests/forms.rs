//! One conversation, whatever its form: in JSON or protobuf, judged once for a cohort or for each session, a client is
//! told the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly")]

use bawaba_channels::wire::Encoding;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::Scratch;
use bawaba_tests::scenario::{Scenario, Step};
use bawaba_tests::stack::{ChannelServer, Edge, edge_config, launch_list, set};
use bawaba_tests::transcript::Transcript;

#[path = "conformance/table.rs"]
mod table;

const FILTERS: [&str; 3] = ["license", "quota", "sharia"];

/// The conversations that can be had in any form: those that are not about the bytes.
fn conversations() -> impl Iterator<Item = Scenario> {
    let any_form = |scenario: &Scenario| {
        scenario.encoding == Encoding::Json
            && scenario.steps.iter().all(|step| !matches!(step, Step::Bytes(_) | Step::Trickle(_)))
    };
    table::scenarios().into_iter().filter(any_form)
}

/// What was said, without the form that it was said in.
fn said(transcript: &Transcript) -> Vec<String> {
    let lines = transcript.lines.iter();
    lines
        .map(|line| line.strip_prefix("binary ").or(line.strip_prefix("text ")).unwrap_or(line))
        .map(|line| line.replace("tradsys.v3.proto", "tradsys.v3.json"))
        .collect()
}

#[test]
fn a_conversation_is_the_same_in_both_encodings_and_in_both_scopes() {
    let (keys, server) = (Keys::generate(), ChannelServer::still("EGX"));
    let edge = |scope: &str| {
        let scratch = Scratch::new();
        let mut config = edge_config(&scratch, &keys, &FILTERS, &[("EGX", &[server.address])]);
        set(&mut config, "filter.sharia.settings", launch_list());
        for filter in FILTERS {
            set(&mut config, &format!("filter.{filter}.scope"), scope);
        }
        (Edge::start(&scratch, &config), scratch)
    };
    let edges = [("cohort", edge("cohort")), ("session", edge("session"))];
    let (mut different, mut count) = (Vec::new(), 0);
    for mut scenario in conversations() {
        let mut first: Option<Vec<String>> = None;
        for (scope, (edge, _)) in &edges {
            for encoding in [Encoding::Json, Encoding::Proto] {
                scenario.encoding = encoding;
                let form = format!("{scope}, {}", encoding.subprotocol());
                let transcript = scenario.run(edge.address, &keys, &form);
                if let Some(missing) = transcript.lacks(scenario.says) {
                    different.push(format!("== {} ({form}): missing: {missing}", scenario.law));
                }
                let said = said(&transcript);
                let known = first.get_or_insert_with(|| said.clone());
                if *known != said {
                    let (known, said) = (known.join("\n    "), said.join("\n    "));
                    different.push(format!("== {}\n    {known}\n  but ({form}):\n    {said}", scenario.law));
                }
                count += 1;
            }
        }
    }
    assert!(different.is_empty(), "\n{}", different.join("\n"));
    assert!(count > 100, "{count} conversations");
}
