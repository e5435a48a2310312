//! Public channels: snapshots, sequence numbers, resume, conflation, hours.

use std::collections::{BTreeMap, HashMap};

use bawaba_channels::wire::{Data, Encoding, Event, Filters, Position, Request, Subscribe, Unsubscribe, Update};

use crate::client::{Client, subscribe};
use crate::process::{Server, TempFile, recent_anchor};

const FAST: &[&str] = &["--updates-per-second", "4000", "--seed", "5"];

#[test]
fn a_subscriber_gets_its_answer_a_snapshot_and_then_every_number() {
    let server = Server::simulated("EGX", &recent_anchor(), FAST);
    for encoding in [Encoding::Json, Encoding::Proto] {
        let mut client = Client::open(&server, encoding, r#"{"sub":"u","tier":"professional","quota":{"symbols":5}}"#);
        let Event::Welcome(welcome) = client.next() else { panic!("welcome first") };
        assert_eq!((welcome.tier.as_deref(), welcome.quota["symbols"].limit), (Some("professional"), Some(5)));
        assert_eq!(welcome.markets["EGX"].phase, "continuous");
        for channel in ["market_data", "order_book", "trades"] {
            let answer = client.subscribe(Subscribe { id: Some(7), ..subscribe(channel, "EGX", &["COMI", "NOPE"]) });
            assert_eq!(
                (answer.refused[0].symbol.as_str(), answer.refused[0].code.as_str()),
                ("NOPE", "channel.symbol_unknown")
            );
            let accepted = &answer.accepted[0];
            let name = answer.subscription.unwrap();
            for (place, expected) in (accepted.seq..).take(20).enumerate() {
                let update = client.until(|event| match event {
                    Event::Update(update) if update.subscription == name => Some(update),
                    _ => None,
                });
                assert_eq!((update.seq, &update.epoch, update.snapshot), (expected, &accepted.epoch, place == 0));
            }
        }
    }
}

#[test]
fn a_second_server_of_the_same_seed_goes_on_where_the_first_was_killed() {
    let anchor = recent_anchor();
    let symbols = ["COMI", "ABUK", "EAST"];
    let first = Server::simulated("EGX", &anchor, FAST);
    let second = Server::simulated("EGX", &anchor, FAST);
    let mut client = Client::connect(&first, Encoding::Proto, r#"{"sub":"edge","role":"edge"}"#);
    let mut witness = Client::connect(&second, Encoding::Proto, r#"{"sub":"edge","role":"edge"}"#);
    let mut at: BTreeMap<String, Position> = BTreeMap::new();
    let mut content: HashMap<(String, u64), Update> = HashMap::new();
    client.subscribe(subscribe("trades", "EGX", &symbols));
    client.subscribe(Subscribe { id: Some(2), ..subscribe("market_data", "EGX", &symbols) });
    witness.subscribe(subscribe("market_data", "EGX", &symbols));
    for _ in 0..300 {
        let update = client.next_update();
        if update.subscription == "egx/market_data" {
            at.insert(update.symbol.clone(), Position { epoch: update.epoch.clone(), seq: update.seq });
            content.insert((update.symbol.clone(), update.seq), Update { snapshot: false, ..update });
        }
    }
    drop((client, first));
    let mut client = Client::connect(&second, Encoding::Proto, r#"{"sub":"edge","role":"edge"}"#);
    let resume = Subscribe { resume: at.clone(), ..subscribe("market_data", "EGX", &symbols) };
    let answer = client.subscribe(resume);
    assert_eq!(answer.accepted.len(), 3);
    assert!(answer.accepted.iter().all(|accepted| accepted.recovered), "{answer:?}");
    for _ in 0..300 {
        let update = client.next_update();
        let position = at.get_mut(&update.symbol).unwrap();
        assert_eq!((update.seq, update.snapshot), (position.seq + 1, false), "{}", update.symbol);
        position.seq += 1;
    }
    let mut same = 0;
    while same < 50 {
        let update = witness.next_update();
        if let Some(other) = content.get(&(update.symbol.clone(), update.seq)) {
            assert_eq!(*other, Update { snapshot: false, ..update });
            same += 1;
        }
    }
}

#[test]
fn a_position_out_of_reach_is_answered_with_a_gap_and_a_snapshot() {
    let config = TempFile::new("ring.toml", "ring_updates = 10\n");
    let server =
        Server::simulated("ADX", &recent_anchor(), &["--config", config.path(), "--updates-per-second", "500"]);
    let mut client = Client::user(&server, "u");
    let epoch = client.subscribe(subscribe("market_data", "ADX", &["FAB"])).accepted[0].epoch.clone();
    for (position, from, to_known) in
        [(Position { epoch: epoch.clone(), seq: 3 }, 4, true), (Position { epoch: "another".into(), seq: 3 }, 1, false)]
    {
        let mut client = Client::user(&server, "u");
        let resume = BTreeMap::from([("FAB".to_owned(), position)]);
        let answer = client.subscribe(Subscribe { resume, ..subscribe("market_data", "ADX", &["FAB"]) });
        assert!(!answer.accepted[0].recovered);
        let Event::Gap(gap) = client.next() else { panic!("a gap first") };
        assert_eq!((gap.from_seq, gap.to_seq), (from, if to_known { answer.accepted[0].seq } else { 0 }));
        let snapshot = client.next_update();
        assert_eq!((snapshot.seq, snapshot.snapshot), (answer.accepted[0].seq, true));
    }
}

#[test]
fn a_thousand_subscribes_and_a_long_way_back_do_not_make_a_client_slow() {
    let server = Server::simulated("EGX", &recent_anchor(), FAST);
    let mut client = Client::user(&server, "u");
    let answer = client.subscribe(subscribe("order_book", "EGX", &["*"]));
    for id in 10..1010 {
        client.send(&Request::Subscribe(Subscribe {
            id: Some(id),
            ..subscribe("market_data", "EGX", &["COMI", "ABUK"])
        }));
    }
    for id in 10..1010 {
        client.until(|event| matches!(event, Event::Subscribed(answer) if answer.id == Some(id)).then_some(()));
    }
    // As far back as the rings reach, for every symbol, or beyond.
    let back = |seq: u64| seq.saturating_sub(200);
    let resume: BTreeMap<String, Position> = answer
        .accepted
        .iter()
        .map(|a| (a.symbol.clone(), Position { epoch: a.epoch.clone(), seq: back(a.seq) }))
        .collect();
    let mut client = Client::user(&server, "u");
    let answer = client.subscribe(Subscribe { resume: resume.clone(), ..subscribe("order_book", "EGX", &["*"]) });
    let mut at: HashMap<String, u64> = resume.iter().map(|(symbol, position)| (symbol.clone(), position.seq)).collect();
    let mut waiting: usize = answer.accepted.len();
    while waiting > 0 {
        match client.next() {
            Event::Gap(gap) => {
                assert_eq!(gap.from_seq, at[&gap.symbol] + 1);
                at.insert(gap.symbol, gap.to_seq - 1);
            }
            Event::Update(update) => {
                let seq = at.get_mut(&update.symbol).unwrap();
                assert_eq!(update.seq, *seq + 1, "{}", update.symbol);
                *seq = update.seq;
                let accepted = answer.accepted.iter().find(|a| a.symbol == update.symbol).unwrap();
                waiting -= usize::from(update.seq == accepted.seq);
            }
            _ => {}
        }
    }
}

#[test]
fn a_rate_folds_updates_together_and_says_which() {
    let server = Server::simulated("EGX", &recent_anchor(), FAST);
    let mut client = Client::user(&server, "u");
    let request = Subscribe { update_rate_ms: Some(100), ..subscribe("market_data", "EGX", &["COMI"]) };
    let answer = client.subscribe(request);
    assert_eq!(answer.subscription.as_deref(), Some("egx/market_data@100ms"));
    let mut covered = client.next_update().seq;
    let mut folded = 0;
    for _ in 0..10 {
        let update = client.next_update();
        assert_eq!(update.first_seq.unwrap_or(update.seq), covered + 1);
        folded += update.seq - covered - 1;
        covered = update.seq;
    }
    assert!(folded > 0, "forty updates a second were folded into ten");
}

#[test]
fn a_filter_leaves_only_the_fields_asked_for() {
    let server = Server::simulated("EGX", &recent_anchor(), FAST);
    let mut client = Client::user(&server, "u");
    let fields = |names: &[&str]| {
        Some(Filters { fields: names.iter().map(|n| (*n).to_owned()).collect(), ..Filters::default() })
    };
    client.subscribe(Subscribe { filters: fields(&["bid", "last"]), ..subscribe("market_data", "EGX", &["COMI"]) });
    for _ in 0..5 {
        let Some(Data::Quote(quote)) = client.next_update().data else { panic!("a quote") };
        assert!(quote.bid.is_some() && quote.last.is_some() && quote.ask.is_none() && quote.volume.is_none());
    }
    client.send(&Request::Subscribe(Subscribe {
        id: Some(9),
        filters: fields(&["price"]),
        ..subscribe("market_data", "EGX", &["COMI"])
    }));
    let error = client.until(|event| if let Event::Error(error) = event { Some(error) } else { None });
    assert_eq!((error.id, error.code.as_str()), (Some(9), "protocol.unsupported"));
    assert!(error.reason.contains("\"price\""));
}

#[test]
fn unsubscribing_ends_some_symbols_or_all() {
    let server = Server::simulated("EGX", &recent_anchor(), FAST);
    let mut client = Client::user(&server, "u");
    let answer = client.subscribe(subscribe("market_data", "EGX", &["*"]));
    assert_eq!(answer.accepted.len(), 67);
    let name = answer.subscription.unwrap();
    let unsubscribed = |client: &mut Client, symbols: &[&str]| {
        let symbols = symbols.iter().map(|s| (*s).to_owned()).collect();
        client.send(&Request::Unsubscribe(Unsubscribe { id: Some(8), subscription: name.clone(), symbols }));
        client.until(|event| matches!(event, Event::Unsubscribed(u) if u.id == Some(8)).then_some(()));
    };
    unsubscribed(&mut client, &["COMI", "NOPE"]);
    for _ in 0..300 {
        assert_ne!(client.next_update().symbol, "COMI");
    }
    assert!(server.get("/load").contains("\"subscriptions\":1,"));
    unsubscribed(&mut client, &[]);
    client.send(&Request::Ping(bawaba_channels::wire::Ping { id: Some(3) }));
    assert!(matches!(client.next(), Event::Pong(pong) if pong.id == Some(3)), "nothing comes any more");
    client.send(&Request::Unsubscribe(Unsubscribe { id: Some(4), subscription: name, symbols: Vec::new() }));
    assert!(matches!(client.next(), Event::Error(error) if error.id == Some(4) && error.code == "channel.unknown"));
}

#[test]
fn every_request_with_an_id_gets_exactly_one_answer() {
    let server = Server::simulated("EGX", &recent_anchor(), FAST);
    let mut client = Client::user(&server, "u");
    let requests = [
        r#"{"type":"subscribe","id":1,"channel":"market_data","exchange":"EGX","symbols":["COMI"]}"#,
        r#"{"type":"subscribe","id":2,"channel":"market_data","exchange":"ADX","symbols":["FAB"]}"#,
        r#"{"type":"subscribe","id":3,"channel":"gossip","exchange":"EGX","symbols":["COMI"]}"#,
        r#"{"type":"subscribe","id":4,"channel":"market_data","exchange":"EGX","symbols":[]}"#,
        r#"{"type":"subscribe","id":5,"channel":"trades","exchange":"EGX","symbols":["NOPE"]}"#,
        r#"{"type":"subscribe","id":6,"channel":"news","exchange":"EGX"}"#,
        r#"{"type":"subscribe","id":7,"channel":"alerts","exchange":"EGX"}"#,
        r#"{"type":"subscribe","id":8,"channel":"market_status","exchange":"EGX"}"#,
        r#"{"type":"subscribe","id":9,"channel":"orders","exchange":"EGX"}"#,
        r#"{"type":"subscribe","id":10,"channel":7,"exchange":"EGX"}"#,
        r#"{"type":"unsubscribe","id":11,"subscription":"s77"}"#,
        r#"{"type":"order","id":12,"op":"cancel","order_id":"o-9"}"#,
        r#"{"type":"order","id":13,"op":"place","exchange":"EGX","symbol":"COMI","side":"buy","order_type":"market","quantity":"5"}"#,
        r#"{"type":"refresh","id":14,"token":"x.y.z"}"#,
        r#"{"type":"ping","id":15}"#,
        r#"{"type":"dance","id":16}"#,
        r#"{"type":"ping","id":17}"#,
    ];
    for request in requests {
        client.json(request);
    }
    client.json(r#"{"type":"ping","id":99}"#);
    let mut answers: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    loop {
        let event = client.next();
        let (id, what) = match &event {
            Event::Subscribed(e) => (e.id, format!("subscribed {}", e.accepted.len())),
            Event::Unsubscribed(e) => (e.id, "unsubscribed".into()),
            Event::OrderUpdate(e) => (e.id, e.status.clone()),
            Event::Refreshed(e) => (e.id, "refreshed".into()),
            Event::Pong(e) => (e.id, "pong".into()),
            Event::Error(e) => (e.id, e.code.clone()),
            _ => continue,
        };
        match id {
            Some(99) => break,
            Some(id) => answers.entry(id).or_default().push(what),
            None => {}
        }
    }
    let expected = [
        "subscribed 1",
        "channel.unknown",
        "channel.unknown",
        "protocol.malformed",
        "subscribed 0",
        "subscribed 1",
        "subscribed 1",
        "subscribed 1",
        "subscribed 1",
        "protocol.malformed",
        "channel.unknown",
        "order.unknown",
        "filled",
        "refreshed",
        "pong",
        "protocol.malformed",
        "pong",
    ];
    for (index, expected) in expected.into_iter().enumerate() {
        assert_eq!(answers[&(index as u64 + 1)], [expected], "request {}", index + 1);
    }
}

#[test]
fn a_closed_market_takes_subscriptions_and_says_when_it_opens() {
    // The same exchange with no holiday list and a session on every day but today's and its neighbours'.
    let data = include_str!("../../../data/egx.json")
        .replace(r#""valid_from": "2021-09-05""#, r#""valid_from": "2199-01-01""#)
        .replace(r#""valid_from": "2022-04-02""#, r#""valid_from": "2199-01-01""#);
    let data = TempFile::new("closed.json", &data);
    let server = Server::start(&["--exchange", "EGX", "--data", data.path()]);
    let mut client = Client::user(&server, "u");
    let answer = client.subscribe(subscribe("market_data", "EGX", &["COMI"]));
    assert_eq!(answer.accepted[0].seq, 1);
    let snapshot = client.next_update();
    assert_eq!((snapshot.snapshot, snapshot.phase.as_deref()), (true, Some("closed")));
    assert_eq!(answer.market.unwrap().phase, "closed");
    client.subscribe(subscribe("market_status", "EGX", &[]));
    let Event::MarketStatus(status) = client.next() else { panic!("the phase") };
    assert_eq!((status.phase.as_str(), status.source.as_str()), ("closed", "calendar"));
    client.json(r#"{"type":"order","id":5,"op":"place","exchange":"EGX","symbol":"COMI","side":"buy","order_type":"limit","price":"84.50","quantity":"5"}"#);
    let Event::Error(error) = client.next() else { panic!("refused") };
    assert_eq!((error.id, error.code.as_str()), (Some(5), "channel.closed"));
}

#[test]
fn the_end_of_an_auction_is_told_and_begins_the_trading() {
    // A zone in which it is noon now, and an auction that ends in a few seconds.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hours_to_noon = 12 - (now / 3600 % 24) as i64;
    let end = 12 * 3600 + now % 3600 + 4;
    let end = format!("{:02}:{:02}:{:02}", end / 3600, end / 60 % 60, end % 60);
    let mut data: serde_json::Value = serde_json::from_str(include_str!("../../../data/egx.json")).unwrap();
    let calendar = &mut data["calendar"];
    // Etc zones have the sign of their distance to UTC reversed.
    let sign = if hours_to_noon > 0 { "-" } else { "+" };
    calendar["timezone"] = format!("Etc/GMT{sign}{}", hours_to_noon.abs()).into();
    calendar["holidays"] = serde_json::json!([]);
    let mut normal = calendar["schedules"][1].clone();
    normal["weekdays"] =
        serde_json::json!(["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]);
    let phase = |phase: &str, start: &str, end: &str| {
        let mut slot = normal["phases"][1].clone();
        (slot["phase"], slot["start"], slot["end"]) = (phase.into(), start.into(), end.into());
        slot
    };
    normal["phases"] = serde_json::json!([phase("pre_open", "11:00:00", &end), phase("continuous", &end, "23:00:00")]);
    calendar["schedules"] = serde_json::json!([normal]);
    let data = TempFile::new("auction.json", &data.to_string());
    let server = Server::start(&["--exchange", "EGX", "--data", data.path(), "--updates-per-second", "500"]);
    let mut client = Client::open(&server, Encoding::Json, r#"{"sub":"u"}"#);
    let Event::Welcome(welcome) = client.next() else { panic!("welcome first") };
    let market = &welcome.markets["EGX"];
    assert_eq!((market.phase.as_str(), market.until), ("pre_open", market.next_open));
    client.subscribe(subscribe("trades", "EGX", &["*"]));
    client.subscribe(Subscribe { id: Some(2), snapshot: Some(false), ..subscribe("market_status", "EGX", &[]) });
    let opened = market.until.unwrap();
    let mut told = false;
    let mut uncrossed = std::collections::HashSet::new();
    while uncrossed.len() < 67 {
        match client.next() {
            Event::MarketStatus(status) => {
                assert_eq!((status.phase.as_str(), status.source.as_str(), told), ("continuous", "calendar", false));
                told = true;
            }
            Event::Update(update) => {
                assert!(told && update.time >= opened, "no trade before the end of the auction");
                uncrossed.insert(update.symbol);
            }
            _ => {}
        }
    }
}

#[test]
fn the_documented_command_makes_the_shipped_recording() {
    let document = include_str!("../../../../docs/recording.md").replace("\\\n", " ");
    let command = document.lines().find(|line| line.starts_with("bawaba-channel record ")).unwrap();
    let made = TempFile::new("made.jsonl", "");
    let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
    let (file, arguments) = arguments.split_last().unwrap();
    assert_eq!(*file, "egx-demo.jsonl");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_bawaba-channel")).args(arguments).arg(&made.0).status();
    assert!(status.unwrap().success());
    let shipped = include_str!("../../recordings/egx-demo.jsonl");
    assert!(std::fs::read_to_string(&made.0).unwrap() == shipped, "the simulation changed: make the recording anew");
}

#[test]
fn a_shipped_recording_plays_the_same_to_everyone() {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/egx-demo.jsonl");
    let anchor = recent_anchor();
    let arguments = ["--exchange", "EGX", "--replay", recording, "--loop", "--anchor", &anchor];
    let servers = [Server::start(&arguments), Server::start(&arguments)];
    let mut seen: Vec<HashMap<(String, u64), Update>> = Vec::new();
    for server in &servers {
        let mut client = Client::connect(server, Encoding::Proto, r#"{"sub":"u"}"#);
        let answer = client.subscribe(subscribe("market_data", "EGX", &["*"]));
        let mut at: HashMap<String, u64> = answer.accepted.iter().map(|a| (a.symbol.clone(), a.seq)).collect();
        let mut updates = HashMap::new();
        for _ in 0..14 {
            let update = client.next_update();
            let seq = at.get_mut(&update.symbol).unwrap();
            assert!(update.snapshot && update.seq == *seq || update.seq == *seq + 1);
            *seq = update.seq;
            updates.insert((update.symbol.clone(), update.seq), Update { snapshot: false, ..update });
        }
        seen.push(updates);
    }
    let common: Vec<_> = seen[0].keys().filter(|key| seen[1].contains_key(*key)).collect();
    assert!(!common.is_empty());
    assert!(common.into_iter().all(|key| seen[0][key] == seen[1][key]));
}
