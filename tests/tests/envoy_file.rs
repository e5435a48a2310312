//! What must stand in `envoy/envoy.yaml` whatever else is changed in it. That it works is `conformance.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bawaba_tests::place::root;
use serde_json::{Value, json};

fn file() -> Value {
    let text = std::fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn manager() -> Value {
    file()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"].clone()
}

fn names(chain: &Value) -> Vec<&str> {
    chain.as_array().unwrap().iter().map(|filter| filter["name"].as_str().unwrap()).collect()
}

#[test]
fn no_chain_is_without_a_token_check() {
    let manager = manager();
    let mut chains = vec![names(&manager["http_filters"])];
    for upgrade in manager["upgrade_configs"].as_array().unwrap() {
        chains.push(names(&upgrade["filters"]));
    }
    for chain in chains {
        assert_eq!(chain.first(), Some(&"envoy.filters.http.jwt_authn"), "{chain:?}");
        assert_eq!(chain.last(), Some(&"envoy.filters.http.router"), "{chain:?}");
    }
}

#[test]
fn websockets_pass_every_filter_and_none_fails_open() {
    let manager = manager();
    let chain = &manager["upgrade_configs"][0]["filters"];
    let filters = ["bawaba.license", "bawaba.quota", "bawaba.sharia"];
    assert_eq!(names(chain)[1..4], filters);
    for filter in chain.as_array().unwrap().iter().skip(1).take(filters.len()) {
        assert_eq!(filter["typed_config"]["config"]["failure_policy"], "FAIL_RELOAD", "{filter}");
    }
}

#[test]
fn nobody_brings_claims_from_outside() {
    let mutation = &manager()["early_header_mutation_extensions"][0]["typed_config"]["mutations"];
    assert_eq!(mutation[0]["remove_on_match"]["key_matcher"], json!({"prefix": "x-bawaba-"}));
}

#[test]
fn no_route_ends_a_websocket_by_the_clock() {
    for route in manager()["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap() {
        assert_eq!(route["route"]["timeout"], "0s", "{route}");
    }
}

#[test]
fn no_cluster_stops_at_the_default_of_1024_connections() {
    for cluster in file()["static_resources"]["clusters"].as_array().unwrap() {
        let threshold = &cluster["circuit_breakers"]["thresholds"][0];
        for limit in ["max_connections", "max_requests", "max_pending_requests"] {
            assert!(threshold[limit].as_u64() > Some(1024), "{}: {limit}", cluster["name"]);
        }
    }
}
