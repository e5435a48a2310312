//! The shipped modules in our own host, without an edge: loaded, opened, judged, closed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::rc::Rc;

use base64::Engine as _;
use bawaba_channels::frame::{Decoder, Opcode, Sender, encode};
use bawaba_filter_host::{
    Chain, Filter, FilterLimits, FilterSpec, Headers, Host, HostLimits, OnFailure, Opening, Properties, WorkerChain,
};
use serde_json::{Value, json};

struct NoProperties;
impl Properties for NoProperties {
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

fn module(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/filters/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make filters` first", path.display()))
}

fn filter(host: &Host, name: &str, settings: Value) -> Filter {
    let spec = FilterSpec {
        name: name.into(),
        module: module(name),
        settings: settings.to_string().into_bytes(),
        vm_configuration: Vec::new(),
        vm_id: name.into(),
        root_id: String::new(),
        on_failure: OnFailure::Deny,
        limits: FilterLimits::default(),
    };
    host.build(spec).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn request(claims: &Value) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in [
        (":method", "GET"),
        (":path", "/ws"),
        (":authority", "edge"),
        (":scheme", "http"),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "tradsys.v3.json"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        headers.add(name, value);
    }
    headers.add("x-bawaba-claims", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string()));
    headers
}

fn screened() -> Value {
    json!({
        "sub": "u", "tier": "professional", "exp": 4_000_000_000i64, "exchanges": ["EGX", "ADX"],
        "asset_types": ["STOCK"], "features": ["WEBSOCKET_API", "EGX_ACCESS", "ADX_ACCESS"],
        "islamic": { "mode": "filter", "boards": ["EGX33"], "rule": "named" },
    })
}

/// The messages in `bytes`: text as JSON, control frames by name.
fn messages(mut bytes: Vec<u8>, sender: Sender) -> Vec<Value> {
    let mut decoder = Decoder::new(sender, 1 << 20);
    let mut got = Vec::new();
    let mut at = 0;
    while let Some(frame) = decoder.decode(&mut bytes[at..]).expect("filters write legal frames") {
        got.push(match frame.header.opcode {
            Opcode::Text => serde_json::from_slice(frame.payload).expect("JSON"),
            opcode => json!(format!("{opcode:?}")),
        });
        at += frame.header.frame_len();
    }
    assert_eq!(at, bytes.len(), "whole frames only");
    got
}

fn from_client(text: &Value) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame, true, Opcode::Text, text.to_string().as_bytes(), Some([1, 2, 3, 4]));
    frame
}

fn from_server(text: &Value) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame, true, Opcode::Text, text.to_string().as_bytes(), None);
    frame
}

fn sharia(host: &Host) -> WorkerChain {
    let settings = json!({ "historical": ["egx33@2024-06-12"] });
    Chain::new(1, vec![filter(host, "sharia", settings)]).attach()
}

#[test]
fn every_module_loads_and_says_whom_its_verdicts_depend_on() {
    let host = Host::new(HostLimits::default()).unwrap();
    for name in ["license", "quota", "sharia"] {
        let filter = filter(&host, name, json!({}));
        let audience: Vec<String> = serde_json::from_slice(filter.custom_section("bawaba.audience").unwrap()).unwrap();
        assert!(audience.iter().all(|pointer| pointer.starts_with('/')), "{name}: {audience:?}");
        assert_eq!(filter.digest().len(), 64);
    }
}

#[test]
fn unknown_settings_are_refused_with_the_modules_own_words() {
    let host = Host::new(HostLimits::default()).unwrap();
    let spec = FilterSpec {
        name: "sharia".into(),
        module: module("sharia"),
        settings: br#"{"historic":[]}"#.to_vec(),
        vm_configuration: Vec::new(),
        vm_id: String::new(),
        root_id: String::new(),
        on_failure: OnFailure::Deny,
        limits: FilterLimits::default(),
    };
    let Err(error) = host.build(spec) else { panic!("a key that does not exist was taken") };
    assert!(error.to_string().contains("historic"), "{error}");
}

#[test]
fn a_refused_symbol_is_taken_out_of_the_request_and_told_in_the_answer() {
    let host = Host::new(HostLimits::default()).unwrap();
    let mut chain = sharia(&host);
    let mut head = request(&screened());
    let Opening::Stream(mut stream) = chain.open(&mut head, Rc::new(NoProperties)) else { panic!("refused") };
    assert_eq!(head.get("sec-websocket-extensions"), None, "nothing may be compressed before a policy");
    let mut response = Headers::new();
    response.add(":status", "101");
    response.add("sec-websocket-protocol", "tradsys.v3.json");
    chain.response_headers(&mut stream, &mut response).unwrap();

    let subscribe =
        json!({"type":"subscribe","id":7,"channel":"market_data","exchange":"EGX","symbols":["ABUK","EAST"]});
    let mut data = from_client(&subscribe);
    chain.request_data(&mut stream, &mut data).unwrap();
    let upstream = messages(data, Sender::Client);
    assert_eq!(upstream[0]["symbols"], json!(["ABUK"]), "{upstream:?}");

    let mut data = from_server(&json!({"type":"subscribed","id":7,"subscription":"s1",
        "accepted":[{"symbol":"ABUK","epoch":"e","seq":1,"recovered":false}],"refused":[]}));
    chain.response_data(&mut stream, &mut data).unwrap();
    let answer = &messages(data, Sender::Server)[0];
    assert_eq!(answer["accepted"][0]["symbol"], "ABUK");
    assert_eq!(answer["refused"][0]["symbol"], "EAST");
    assert_eq!(answer["refused"][0]["code"], "sharia.not_listed");

    let update = |symbol: &str| {
        json!({"type":"market_data_update","subscription":"s1","exchange":"EGX","symbol":symbol,
        "epoch":"e","seq":2,"snapshot":false,"time":"2026-11-22T08:00:00.000Z","data":{"last":"84.50"}})
    };
    let mut data = from_server(&update("ABUK"));
    data.extend(from_server(&update("EAST")));
    chain.response_data(&mut stream, &mut data).unwrap();
    let got = messages(data, Sender::Server);
    let updates: Vec<_> = got.iter().filter(|m| m["type"] == "market_data_update").collect();
    assert_eq!(updates.len(), 1, "{got:?}");
    assert_eq!(updates[0]["metadata"]["list"], "egx33@2024-06-12");
    assert_eq!(updates[0]["metadata"]["sharia_compliant"], true);
    chain.close(stream);
}

#[test]
fn a_wholly_refused_request_is_answered_on_the_backends_pong() {
    let host = Host::new(HostLimits::default()).unwrap();
    let mut chain = sharia(&host);
    let Opening::Stream(mut stream) = chain.open(&mut request(&screened()), Rc::new(NoProperties)) else { panic!() };
    let mut response = Headers::new();
    response.add(":status", "101");
    response.add("sec-websocket-protocol", "tradsys.v3.json");
    chain.response_headers(&mut stream, &mut response).unwrap();
    let order = json!({"type":"order","id":9,"op":"place","exchange":"EGX","symbol":"EAST","side":"buy",
        "order_type":"limit","price":"20.00","quantity":"1"});
    let mut data = from_client(&order);
    chain.request_data(&mut stream, &mut data).unwrap();
    let mut decoder = Decoder::new(Sender::Client, 1000);
    let ping = decoder.decode(&mut data).unwrap().unwrap();
    assert_eq!(ping.header.opcode, Opcode::Ping, "the order never reaches the backend");
    let mut pong = Vec::new();
    encode(&mut pong, true, Opcode::Pong, ping.payload, None);
    chain.response_data(&mut stream, &mut pong).unwrap();
    let got = messages(pong, Sender::Server);
    assert_eq!(got.len(), 1, "the Pong is swallowed: {got:?}");
    assert_eq!((got[0]["type"].as_str(), got[0]["id"].as_u64()), (Some("error"), Some(9)));
    assert_eq!(got[0]["code"], "sharia.not_listed");
}

/// The other laws of this file then hold for VMs that began so.
#[test]
fn the_screening_and_the_licence_filter_start_from_an_image() {
    let host = Host::new(HostLimits::default()).unwrap();
    for (name, settings) in [("sharia", json!({ "historical": ["egx33@2024-06-12"] })), ("license", json!({}))] {
        assert!(filter(&host, name, settings).starts_from_image(), "{name}");
    }
}
