//! The tables of `policies/cases` for licences and quota, judged by the compiled modules in our own host. Their instants are
//! moved so that a row's time is now; rows that lie too near an instant for a real clock, and rows with two times, are left to
//! the native test and counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Barrier};

use base64::Engine as _;
use bawaba_channels::frame::{Decoder, Opcode, Sender, encode};
use bawaba_channels::wire::Timestamp;
use bawaba_filter_host::{
    Chain, ChainStream, Filter, FilterLimits, FilterSpec, Headers, Host, HostLimits, OnFailure, Opening, Properties,
    WorkerChain,
};
use bawaba_tests::keys::now_s;
use serde_json::{Value, json};

const LICENSE: &str = include_str!("../../policies/cases/license.toml");
const QUOTA: &str = include_str!("../../policies/cases/quota.toml");
/// 2026-01-01T00:00:00Z, at which rows are judged that say nothing else.
const USUAL_S: i64 = 1_767_225_600;
/// A real clock is this exact, on a busy machine.
const NEAR_S: i64 = 30;

struct NoProperties;

impl Properties for NoProperties {
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

fn filter(host: &Host, name: &str, settings: &Value) -> Filter {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/filters/{name}.wasm"));
    let spec = FilterSpec {
        name: name.into(),
        module: std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make filters` first", path.display())),
        settings: settings.to_string().into_bytes(),
        vm_configuration: Vec::new(),
        vm_id: name.into(),
        root_id: String::new(),
        on_failure: OnFailure::Deny,
        limits: FilterLimits::default(),
    };
    host.build(spec).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The stream, or the word of the refusal.
fn open(chain: &mut WorkerChain, claims: &str) -> Result<ChainStream, String> {
    let mut headers = Headers::new();
    for (name, value) in [
        (":method", "GET"),
        (":path", "/ws"),
        (":authority", "edge"),
        (":scheme", "http"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", "tradsys.v3.json"),
    ] {
        headers.add(name, value);
    }
    headers.add("x-bawaba-claims", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    let mut stream = match chain.open(&mut headers, Rc::new(NoProperties)) {
        Opening::Stream(stream) => stream,
        Opening::Refused(refused) => {
            let body: Value = serde_json::from_slice(&refused.body).unwrap();
            return Err(body["code"].as_str().unwrap().to_owned());
        }
        Opening::Failed { filter, cause } => panic!("{filter}: {}", cause.as_str()),
    };
    let mut response = Headers::new();
    response.add(":status", "101");
    response.add("sec-websocket-protocol", "tradsys.v3.json");
    chain.response_headers(&mut stream, &mut response).unwrap();
    Ok(stream)
}

/// The word of the refusal, if a request is refused, wholly or in its one symbol.
fn refused(chain: &mut WorkerChain, stream: &mut ChainStream, request: &Value) -> Option<String> {
    let mut up = Vec::new();
    encode(&mut up, true, Opcode::Text, request.to_string().as_bytes(), Some([1, 2, 3, 4]));
    chain.request_data(stream, &mut up).unwrap();
    let mut down = Vec::new();
    let mut decoder = Decoder::new(Sender::Client, 1 << 20);
    let mut at = 0;
    while let Some(frame) = decoder.decode(&mut up[at..]).unwrap() {
        at += frame.header.frame_len();
        match frame.header.opcode {
            Opcode::Ping => encode(&mut down, true, Opcode::Pong, frame.payload, None),
            _ => {
                let answer = json!({"type": "subscribed", "id": 1, "subscription": "s", "refused": [],
                    "accepted": request["symbols"].as_array().into_iter().flatten().map(|symbol| json!({"symbol": symbol, "epoch": "e", "seq": 1, "recovered": false})).collect::<Vec<_>>()});
                encode(&mut down, true, Opcode::Text, answer.to_string().as_bytes(), None);
            }
        }
        if at == up.len() {
            break;
        }
    }
    chain.response_data(stream, &mut down).unwrap();
    let mut decoder = Decoder::new(Sender::Server, 1 << 20);
    let mut at = 0;
    while let Some(frame) = decoder.decode(&mut down[at..]).unwrap() {
        at += frame.header.frame_len();
        let event: Value = serde_json::from_slice(frame.payload).unwrap_or_default();
        let code = if event["type"] == "error" { &event["code"] } else { &event["refused"][0]["code"] };
        if let Some(code) = code.as_str() {
            return Some(code.to_owned());
        }
        if at == down.len() {
            break;
        }
    }
    None
}

/// Moves every instant in a value by `seconds`; false if one lies too near `now` for a real clock.
fn moved(value: &mut Value, seconds: i64, now_s: i64) -> bool {
    match value {
        Value::String(text) => match text.parse::<Timestamp>() {
            Ok(at) => {
                let later = Timestamp(at.0 + seconds * 1_000_000_000);
                *text = later.to_string();
                (later.0 / 1_000_000_000 - now_s).abs() > NEAR_S
            }
            Err(_) => true,
        },
        Value::Array(items) => items.iter_mut().all(|item| moved(item, seconds, now_s)),
        Value::Object(map) => map.values_mut().all(|item| moved(item, seconds, now_s)),
        _ => true,
    }
}

/// An instrument of this kind, of the shipped directory or of [`settings`].
fn symbol(kind: &str) -> Value {
    match kind {
        "-" => json!([]),
        "?" => json!(["NOSUCH"]),
        kind => json!([kind.replace('_', "")]),
    }
}

/// The row's settings, with an instrument of each kind on each exchange.
fn settings(group: &toml::Value) -> Value {
    let read = |key: &str| match group.get(key).and_then(toml::Value::as_str) {
        Some(text) => serde_json::from_str(text).unwrap(),
        None => json!({}),
    };
    let kinds = ["STOCK", "ETF", "SUKUK", "OPTION", "CRYPTO", "BOND"];
    let instruments: Vec<Value> =
        kinds.iter().map(|kind| json!({"symbol": kind.replace('_', ""), "asset_type": kind})).collect();
    let markets: Vec<Value> = ["EGX", "ADX", "DFM"]
        .iter()
        .map(|exchange| json!({"exchange": exchange, "instruments": instruments}))
        .collect();
    json!({"tiers": read("settings"), "licenses": read("licenses"), "markets": markets, "delayed": "pass"})
}

#[test]
fn the_compiled_licence_module_judges_the_table_as_the_rules_do() {
    let host = Host::new(HostLimits::default()).unwrap();
    let table: toml::Table = LICENSE.parse().unwrap();
    let (mut judged, mut left, mut wrong) = (0, 0, Vec::new());
    for group in table["group"].as_array().unwrap() {
        // One module for each instant that the group's rows are judged at.
        let mut chains: std::collections::BTreeMap<i64, Option<WorkerChain>> = std::collections::BTreeMap::new();
        for row in group["rows"].as_array().unwrap() {
            let text = |key: &str| row.get(key).and_then(toml::Value::as_str);
            let now = now_s();
            let at = text("at").map_or(USUAL_S, |at| at.parse::<Timestamp>().unwrap().0.div_euclid(1_000_000_000));
            let mut claims: Value = serde_json::from_str(text("claims").unwrap()).unwrap();
            let exp = claims.get("exp").and_then(Value::as_f64);
            let shifted = claims.as_object_mut().filter(|_| text("exp") != Some("none")).map(|claims| {
                let exp = claims.entry("exp").or_insert(json!(1_798_761_600));
                match exp.as_i64() {
                    Some(whole) if whole > 0 && whole < 4_000_000_000 => *exp = json!(whole + now - at),
                    _ => {}
                }
            });
            let _ = shifted;
            // Nor can any other than the rules themselves count to the end of time.
            let near = exp.is_some_and(|exp| (exp as i64 - at).abs() <= NEAR_S || exp > 1e12);
            // Subscriptions without symbols to a channel that needs one, or to all, are the protocol's business.
            let subscribe = text("subscribe").map(|words| words.split(' ').collect::<Vec<_>>());
            let asks_more = subscribe.as_ref().is_some_and(|words| words.contains(&"L2") || words.contains(&"*"));
            let chain = chains.entry(at).or_insert_with(|| {
                let mut settings = settings(group);
                let far = moved(&mut settings, now - at, now);
                far.then(|| Chain::new(1, vec![filter(&host, "license", &settings)]).attach())
            });
            let (Some(chain), false) = (chain.as_mut(), near || asks_more || text("later").is_some()) else {
                left += 1;
                continue;
            };
            // What is no object is no token's payload; no host would pass it on.
            if !claims.is_object() {
                left += 1;
                continue;
            }
            let given = match open(chain, &claims.to_string()) {
                Err(word) => word,
                Ok(mut stream) => {
                    let request = match (&subscribe, text("order")) {
                        (Some(words), _) => {
                            let mut request =
                                json!({"type": "subscribe", "id": 1, "channel": words[0], "symbols": symbol(words[2])});
                            if words[1] != "-" {
                                request["exchange"] = words[1].into();
                            }
                            Some(request)
                        }
                        (None, Some(order)) => {
                            let (exchange, kind) = order.split_once(' ').unwrap();
                            let symbol = symbol(kind);
                            let symbol = symbol[0].as_str().unwrap_or("NOSUCH");
                            Some(
                                json!({"type": "order", "id": 1, "op": "place", "exchange": exchange, "symbol": symbol,
                                "side": "buy", "order_type": "market", "quantity": "1"}),
                            )
                        }
                        (None, None) => None,
                    };
                    let word = request.and_then(|request| refused(chain, &mut stream, &request));
                    chain.close(stream);
                    word.unwrap_or_else(|| "admitted".into())
                }
            };
            if Some(given.as_str()) != text("gives") {
                wrong.push(format!("{}: {given}: {row}", group["law"]));
            }
            judged += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{judged} rows of cases/license.toml hold in the compiled module; {left} are left to the native test");
    assert!(judged >= 100, "only {judged} rows");
}

#[test]
fn the_compiled_quota_module_reads_limits_as_the_rules_do() {
    let host = Host::new(HostLimits::default()).unwrap();
    let table: toml::Table = QUOTA.parse().unwrap();
    let mut judged = 0;
    for group in table["claims"].as_array().unwrap() {
        let licenses = group.get("licenses").and_then(toml::Value::as_str);
        let settings = json!({"licenses": licenses.map_or(json!({}), |text| serde_json::from_str(text).unwrap())});
        let mut chain = Chain::new(1, vec![filter(&host, "quota", &settings)]).attach();
        for row in group["claims"].as_array().unwrap() {
            let (claims, expected) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
            let mut claims: Value = serde_json::from_str(claims).unwrap();
            let Some(fields) = claims.as_object_mut().filter(|fields| !fields.is_empty()) else { continue };
            // Each row is a user of its own: what they spend is shared otherwise.
            fields.entry("sub").or_insert(json!(format!("row-{judged}")));
            let claims = &claims.to_string();
            match open(&mut chain, claims) {
                Ok(mut stream) => {
                    assert!(!expected.contains('.'), "{claims}: admitted, not {expected}");
                    // The first limit is of subscriptions: none where there is none, one where there is room.
                    let subscribe =
                        json!({"type": "subscribe", "id": 1, "channel": "news", "exchange": "EGX", "symbols": []});
                    let room = !expected.starts_with("0 ");
                    assert_eq!(refused(&mut chain, &mut stream, &subscribe).is_none(), room, "{claims}");
                    chain.close(stream);
                }
                Err(word) => assert_eq!(word, expected, "{claims}"),
            }
            judged += 1;
        }
    }
    println!("{judged} rows of cases/quota.toml hold in the compiled module");
    assert!(judged >= 35, "only {judged} rows");
}

/// Workers are threads, each with a VM of its own; what they share is the host's shared data.
#[test]
fn workers_of_one_host_grant_exactly_the_limit_between_them_and_again_when_it_is_given_back() {
    const WORKERS: usize = 4;
    const EACH: usize = 20;
    const MOST: usize = 30;
    let host = Host::new(HostLimits::default()).unwrap();
    let chain = Chain::new(1, vec![filter(&host, "quota", &json!({}))]);
    let claims = json!({"sub": "amina", "tenant": "t", "tier": "enterprise", "exp": 4_000_000_000_i64,
        "quota": {"connections": MOST, "symbols": 1}})
    .to_string();
    let barrier = Arc::new(Barrier::new(WORKERS));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (chain, claims, barrier) = (chain.clone(), claims.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                let mut chain = chain.attach();
                let mut granted = Vec::new();
                for round in 0..3 {
                    barrier.wait();
                    let opened = (0..EACH).filter_map(|_| open(&mut chain, &claims).ok()).collect::<Vec<_>>();
                    granted.push(opened.len());
                    let mut opened = opened;
                    // The same symbol in every session is one symbol of the user's.
                    if let Some(stream) = opened.first_mut() {
                        let subscribe = json!({"type": "subscribe", "id": 1, "channel": "trades", "exchange": "EGX", "symbols": ["COMI"]});
                        assert_eq!(refused(&mut chain, stream, &subscribe), None, "round {round}");
                    }
                    barrier.wait();
                    opened.into_iter().for_each(|stream| chain.close(stream));
                }
                granted
            })
        })
        .collect();
    let granted: Vec<Vec<usize>> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    for round in 0..3 {
        assert_eq!(granted.iter().map(|of| of[round]).sum::<usize>(), MOST, "round {round}: {granted:?}");
    }
}
