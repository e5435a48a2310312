//! "100 %": whatever a screened session is sent, it gets exactly what an independent oracle says it may.
//!
//! The compiled Sharia module, in our host, over (instrument × instant × kind of message × board rule × encoding); the oracle
//! is `tests/oracle/oracle.py`, which reads the same settings. A world is an instant: its lists lie around now.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::rc::Rc;

use base64::Engine as _;
use bawaba_channels::frame::{Decoder, Sender, encode};
use bawaba_channels::wire::{Encoding, Event, Timestamp};
use bawaba_filter_host::{
    Chain, ChainStream, FilterLimits, FilterSpec, Headers, Host, HostLimits, OnFailure, Opening, Properties,
    WorkerChain,
};
use bawaba_tests::keys::now_s;
use bawaba_tests::place::{Scratch, filter, python, root};
use serde_json::{Value, json};

const WORLDS: usize = 18;
const TRIPLES_MIN: u64 = 1_000_000;
const FRAMES_PER_CHUNK: usize = 80;
const KINDS: [&str; 10] = ["quote", "snapshot", "book", "trade", "status", "alert", "gap", "order", "news", "error"];

struct NoProperties;
impl Properties for NoProperties {
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

/// One world: its settings, and what the oracle says of it.
struct World {
    settings: Vec<u8>,
    instruments: Vec<(String, String)>,
    known: Vec<bool>,
    /// By rule: which instruments flow.
    flows: Vec<Vec<bool>>,
}

fn rules() -> Vec<Value> {
    let mut rules: Vec<Value> = (0..8).map(|at| json!({"rule": "named", "boards": [format!("B{at}")]})).collect();
    rules.push(json!({"rule": "named", "boards": ["EGX33"]}));
    rules.push(json!({"rule": "named", "boards": ["NOBODY"]}));
    for rule in ["all_of", "any_of"] {
        for boards in [
            &["B0", "B1"][..],
            &["B2", "B3", "EGX33"],
            &["B4", "B5"],
            &["B0", "B1", "B2", "B3", "B4", "B5", "B6", "EGX33"],
            &["B0", "NOBODY"],
        ] {
            rules.push(json!({"rule": rule, "boards": boards}));
        }
    }
    rules
}

fn run(script: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(python());
    command.arg(root().join("tests/oracle").join(script)).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python runs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed");
    String::from_utf8(output.stdout).unwrap()
}

fn worlds() -> Vec<World> {
    let scratch = Scratch::new();
    let now = format!("{}000000000", now_s());
    let data = root().join("policies/data");
    let directory = scratch.path().to_str().unwrap();
    run("world.py", &[data.to_str().unwrap(), &now, directory, &WORLDS.to_string()], "");
    let ask = |number: usize| {
        let file = scratch.path().join(format!("{number}.json"));
        let settings = std::fs::read(&file).unwrap();
        let world: Value = serde_json::from_slice(&settings).unwrap();
        let instruments = instruments(&world);
        let questions = json!({"instruments": instruments, "rules": rules()}).to_string();
        let answers: Value =
            serde_json::from_str(&run("oracle.py", &[file.to_str().unwrap(), &now], &questions)).unwrap();
        let digits = |text: &Value| text.as_str().unwrap().bytes().map(|digit| digit == b'1').collect::<Vec<_>>();
        let flows: Vec<_> = answers["rules"].as_array().unwrap().iter().map(digits).collect();
        World { settings, instruments, known: digits(&answers["known"]), flows }
    };
    std::thread::scope(|scope| {
        let halves: Vec<_> =
            [0, 1].map(|half| scope.spawn(move || (half..WORLDS).step_by(2).map(ask).collect::<Vec<_>>())).into();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    })
}

/// Every name that a message may carry: those in use, those of the past, those of nobody.
fn instruments(world: &Value) -> Vec<(String, String)> {
    let mut names = BTreeSet::new();
    for market in world["markets"].as_array().unwrap() {
        let exchange = market["exchange"].as_str().unwrap();
        let mut add = |symbol: &Value| {
            names.insert((exchange.to_owned(), symbol.as_str().unwrap().to_owned()));
        };
        market["instruments"].as_array().unwrap().iter().for_each(|row| add(&row["symbol"]));
        market["renames"].as_array().unwrap().iter().for_each(|row| add(&row["from"]));
        add(&"NOSUCH".into());
    }
    names.into_iter().collect()
}

/// One message about instrument `at`; `seq`, `code`, `from_seq` or the like says which when it comes out again.
fn message(kind: &str, at: usize, exchange: &str, symbol: &str, beside: &str) -> Event {
    let update = |name: &str, data: Value, snapshot: bool| {
        json!({"type": name, "subscription": "s1", "exchange": exchange, "symbol": symbol, "epoch": kind, "seq": at,
            "snapshot": snapshot, "time": "2026-11-22T08:00:00.000Z", "data": data})
    };
    let json = match kind {
        "quote" | "snapshot" => {
            update("market_data_update", json!({"last": "84.50", "bid": "84.49"}), kind == "snapshot")
        }
        "book" => update("order_book_update", json!({"bids": [{"price": "2.510", "size": "100"}], "asks": []}), false),
        "trade" => {
            update("trade_update", json!({"price": "84.50", "size": "10", "side": "buy", "trade_id": "t"}), false)
        }
        "status" => {
            json!({"type": "market_status", "exchange": exchange, "symbol": symbol, "phase": format!("status:{at}"), "source": "upstream"})
        }
        "alert" => {
            json!({"type": "alert", "code": format!("alert:{at}"), "reason": "halted", "exchange": exchange, "symbol": symbol})
        }
        "gap" => {
            json!({"type": "gap", "subscription": "gap", "exchange": exchange, "symbol": symbol, "from_seq": at, "to_seq": at})
        }
        "order" => {
            json!({"type": "order_update", "order_id": format!("order:{at}"), "exchange": exchange, "symbol": symbol, "side": "buy",
            "order_type": "limit", "status": "open", "quantity": "1", "filled_quantity": "0", "epoch": "e", "seq": 1, "time": "2026-11-22T08:00:00.000Z"})
        }
        "news" => {
            let mut news =
                update("news_update", json!({"headline": "h", "body": "b", "symbols": [symbol, beside]}), false);
            news.as_object_mut().unwrap().remove("symbol");
            news
        }
        _ => {
            json!({"type": "error", "id": at, "code": "order.rejected", "reason": format!("{symbol} is limited to 12.30")})
        }
    };
    Event::from_json(json.to_string().as_bytes()).unwrap_or_else(|error| panic!("{kind}: {error}"))
}

/// Which message came out, and what of it: kind, instrument, and for news and errors what is left of the text.
fn what(event: &Event) -> Option<(String, usize, Value)> {
    let value = || {
        let mut text = Vec::new();
        event.to_json(&mut text);
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    let marked = |mark: &str| {
        let (kind, at) = mark.split_once(':').unwrap();
        Some((kind.to_owned(), at.parse().unwrap(), Value::Null))
    };
    match event {
        Event::Update(update) if update.epoch == "news" => {
            Some(("news".into(), update.seq as usize, value()["data"]["symbols"].clone()))
        }
        Event::Update(update) => Some((update.epoch.clone(), update.seq as usize, Value::Null)),
        Event::MarketStatus(status) => marked(&status.phase),
        Event::Alert(alert) => marked(&alert.code),
        Event::OrderUpdate(order) => marked(&order.order_id),
        Event::Gap(gap) => Some(("gap".into(), gap.from_seq as usize, Value::Null)),
        Event::Error(error) => {
            Some(("error".into(), error.id.unwrap() as usize, error.reason.contains("12.30").into()))
        }
        Event::Revoked(_) => None,
        other => panic!("{other:?}"),
    }
}

/// The instrument whose name stands beside another's in news: the next on its exchange.
fn beside(world: &World, at: usize) -> usize {
    let next = (at + 1) % world.instruments.len();
    if world.instruments[next].0 == world.instruments[at].0 { next } else { at }
}

/// What the session must get of one message, if anything.
fn expected(world: &World, rule: usize, kind: &str, at: usize) -> Option<(String, usize, Value)> {
    let flows = &world.flows[rule];
    let left = match kind {
        "news" => {
            let named = BTreeSet::from([at, beside(world, at)]);
            let left: Vec<_> = [at, beside(world, at)].into_iter().filter(|&one| flows[one]).collect();
            let left: Vec<_> =
                left.into_iter().take(named.len().max(2)).map(|one| world.instruments[one].1.as_str()).collect();
            if left.is_empty() {
                return None;
            }
            json!(left)
        }
        // A text may name the instrument of any exchange: it stays only if it flows wherever it trades.
        "error" => {
            let symbol = &world.instruments[at].1;
            let same =
                (0..world.instruments.len()).filter(|&one| world.instruments[one].1 == *symbol && world.known[one]);
            Value::from(same.into_iter().all(|one| flows[one]))
        }
        _ if flows[at] => Value::Null,
        _ => return None,
    };
    Some((kind.into(), at, left))
}

fn open(chain: &mut WorkerChain, rule: &Value, encoding: Encoding) -> ChainStream {
    let mut islamic = rule.clone();
    islamic["mode"] = "filter".into();
    let claims = json!({"sub": "u", "exp": 4_000_000_000i64, "islamic": islamic}).to_string();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    let protocol = encoding.subprotocol();
    let mut head: Headers = [
        (":method", "GET"),
        (":path", "/ws"),
        (":authority", "edge"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", protocol),
        ("x-bawaba-claims", &claims),
    ]
    .into_iter()
    .collect();
    let Opening::Stream(mut stream) = chain.open(&mut head, Rc::new(NoProperties)) else { panic!("refused: {rule}") };
    let mut response: Headers = [(":status", "101"), ("sec-websocket-protocol", protocol)].into_iter().collect();
    chain.response_headers(&mut stream, &mut response).unwrap();
    stream
}

fn got(encoding: Encoding, mut bytes: Vec<u8>) -> Vec<(String, usize, Value)> {
    let mut decoder = Decoder::new(Sender::Server, 1 << 20);
    let mut got = Vec::new();
    let mut at = 0;
    while let Some(frame) = decoder.decode(&mut bytes[at..]).expect("legal frames") {
        got.extend(what(&Event::decode(encoding, frame.payload).expect("a message of the protocol")));
        at += frame.header.frame_len();
    }
    assert_eq!(at, bytes.len(), "whole frames only");
    got
}

/// Sends everything through one stream; returns how many messages were judged.
fn try_rule(
    world: &World,
    chain: &mut WorkerChain,
    number: usize,
    rule: &Value,
    encoding: Encoding,
    frames: &[(usize, usize, Vec<u8>)],
) -> u64 {
    let mut stream = open(chain, rule, encoding);
    for chunk in frames.chunks(FRAMES_PER_CHUNK) {
        let mut data: Vec<u8> = chunk.iter().flat_map(|(_, _, frame)| frame).copied().collect();
        chain.response_data(&mut stream, &mut data).unwrap();
        let wanted: Vec<_> =
            chunk.iter().filter_map(|&(kind, at, _)| expected(world, number, KINDS[kind], at)).collect();
        let got = got(encoding, data);
        if got != wanted {
            let name =
                |(kind, at, left): &(String, usize, Value)| format!("{kind} {:?} {left}", world.instruments[*at]);
            let leaks: Vec<_> = got.iter().filter(|one| !wanted.contains(one)).map(name).collect();
            let blocks: Vec<_> = wanted.iter().filter(|one| !got.contains(one)).map(name).collect();
            panic!("{rule} {encoding:?}\n  leaked: {leaks:?}\n  blocked: {blocks:?}");
        }
    }
    chain.close(stream);
    frames.len() as u64
}

#[test]
fn a_screened_session_gets_exactly_what_the_oracle_allows() {
    let host = Host::new(HostLimits::default()).unwrap();
    let module = std::fs::read(filter("sharia")).unwrap();
    let (mut triples, mut allowed, mut instruments) = (0, 0, 0);
    let began = Timestamp(now_s() * 1_000_000_000);
    for world in worlds() {
        let spec = FilterSpec {
            name: "sharia".into(),
            module: module.clone(),
            settings: world.settings.clone(),
            vm_configuration: Vec::new(),
            vm_id: String::new(),
            root_id: String::new(),
            on_failure: OnFailure::Deny,
            limits: FilterLimits::default(),
        };
        let mut chain = Chain::new(1, vec![host.build(spec).unwrap_or_else(|error| panic!("{error}"))]).attach();
        instruments = world.instruments.len();
        for encoding in [Encoding::Json, Encoding::Proto] {
            let frames: Vec<_> = (0..KINDS.len())
                .flat_map(|kind| (0..world.instruments.len()).map(move |at| (kind, at)))
                .map(|(kind, at)| {
                    let (exchange, symbol) = &world.instruments[at];
                    let beside = &world.instruments[beside(&world, at)].1;
                    let (mut payload, mut frame) = (Vec::new(), Vec::new());
                    message(KINDS[kind], at, exchange, symbol, beside).encode(encoding, &mut payload);
                    encode(&mut frame, true, encoding.opcode(), &payload, None);
                    (kind, at, frame)
                })
                .collect();
            for (number, rule) in rules().iter().enumerate() {
                triples += try_rule(&world, &mut chain, number, rule, encoding, &frames);
                allowed += world.flows[number].iter().filter(|&&flows| flows).count();
            }
        }
    }
    assert!(now_s() - began.0 / 1_000_000_000 < 3000, "the worlds are no longer what the oracle was asked about");
    assert!(triples >= TRIPLES_MIN, "only {triples}");
    let share = allowed * 100 / (WORLDS * 2 * rules().len() * instruments);
    assert!((5..95).contains(&share), "{share} % allowed: a test of nothing");
    println!(
        "{triples} messages judged: {instruments} names x {WORLDS} instants x {} kinds x {} board rules x 2 encodings; \
         {share} % of verdicts allow; no leak, no false block",
        KINDS.len(),
        rules().len()
    );
}
