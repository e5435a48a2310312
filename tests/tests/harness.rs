//! What the harness itself promises, where the other tests lean on it.

use bawaba_tests::keys::{Keys, trader};
use bawaba_tests::process::address_after;
use bawaba_tests::stack::{free_address, set};

#[test]
fn a_configuration_is_changed_by_path() {
    let mut config = toml::toml! {
        [[listener]]
        address = "127.0.0.1:1"
    };
    set(&mut config, "listener.0.address", "127.0.0.1:2");
    set(&mut config, "cluster.egx.health.interval", "200ms");
    assert_eq!(config["listener"][0]["address"].as_str(), Some("127.0.0.1:2"));
    assert_eq!(config["cluster"]["egx"]["health"]["interval"].as_str(), Some("200ms"));
}

#[test]
fn an_address_is_read_out_of_a_line() {
    let line = "12:00 INFO listening on 127.0.0.1:4711, exchange EGX";
    assert_eq!(address_after(line, "listening on "), Some("127.0.0.1:4711".parse().unwrap()));
    assert_eq!(address_after(line, "admin on "), None);
}

#[test]
fn free_addresses_differ() {
    assert_ne!(free_address(), free_address());
}

#[test]
fn a_token_verifies_under_the_published_keys() {
    let keys = Keys::generate();
    let token = keys.token(trader("mona"));
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&keys.jwks()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&["bawaba"]);
    let claims: serde_json::Value = jsonwebtoken::decode(&token, &key, &rules).unwrap().claims;
    assert_eq!(claims["sub"], "mona");
}
