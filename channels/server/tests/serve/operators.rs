//! What operators do: halts, days called off, announcements; and what clients see of it.

use bawaba_channels::wire::{Event, MarketStatus};

use crate::client::{Client, subscribe};
use crate::process::{Server, TempFile, recent_anchor};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn server(exchange: &str) -> (Server, TempFile) {
    let file = TempFile::new(&format!("operators-{exchange}"), &format!("amina {TOKEN} # the desk\n"));
    let server = Server::simulated(exchange, &recent_anchor(), &["--admin", "127.0.0.1:0", "--operators", file.path()]);
    (server, file)
}

fn next_status(client: &mut Client) -> MarketStatus {
    client.until(|event| if let Event::MarketStatus(status) = event { Some(status) } else { None })
}

const ORDER: &str = r#"{"type":"order","id":5,"op":"place","exchange":"EGX","symbol":"COMI","side":"buy","order_type":"market","quantity":"5"}"#;

fn answer(client: &mut Client) -> String {
    client.json(ORDER);
    client.until(|event| match event {
        Event::Error(error) if error.id == Some(5) => Some(error.code),
        Event::OrderUpdate(update) if update.id == Some(5) => Some(update.status),
        _ => None,
    })
}

#[test]
fn a_halt_is_told_at_once_stops_orders_and_ends_when_it_is_taken_back() {
    let (server, _file) = server("EGX");
    let mut client = Client::user(&server, "u");
    client.subscribe(subscribe("market_status", "EGX", &[]));
    let first = next_status(&mut client);
    assert_eq!((first.phase.as_str(), first.source.as_str()), ("continuous", "upstream"));
    let halt = r#"{"symbol":"COMI","phase":"halted","reason":"news is due"}"#;
    assert!(server.operate("POST", "/override", TOKEN, halt).starts_with("HTTP/1.1 200"));
    let halted = next_status(&mut client);
    assert_eq!(halted.symbol.as_deref(), Some("COMI"));
    assert_eq!((halted.phase.as_str(), halted.source.as_str()), ("halted", "override"));
    assert_eq!(halted.reason.as_deref(), Some("news is due"));
    assert_eq!(answer(&mut client), "order.halted");
    // Who comes later is told too, the market first.
    let mut late = Client::user(&server, "v");
    late.subscribe(subscribe("market_status", "EGX", &[]));
    assert_eq!(next_status(&mut late).symbol, None);
    assert_eq!(next_status(&mut late).symbol.as_deref(), Some("COMI"));
    late.subscribe(subscribe("market_data", "EGX", &["COMI"]));
    let snapshot = late.next_update();
    assert_eq!((snapshot.snapshot, snapshot.phase.as_deref()), (true, Some("halted")));
    server.operate("POST", "/override", TOKEN, r#"{"symbol":"COMI"}"#);
    let free = next_status(&mut client);
    assert_eq!((free.symbol.as_deref(), free.phase.as_str()), (Some("COMI"), "continuous"));
    assert_eq!(answer(&mut client), "filled");
}

#[test]
fn an_operator_closes_the_market_and_who_disagrees_is_named() {
    let (server, _file) = server("EGX");
    let mut client = Client::user(&server, "u");
    client.subscribe(subscribe("market_status", "EGX", &[]));
    next_status(&mut client);
    server.operate("POST", "/override", TOKEN, r#"{"phase":"closed","reason":"a fire"}"#);
    let closed = next_status(&mut client);
    assert_eq!(
        (closed.phase.as_str(), closed.source.as_str(), closed.reason.as_deref()),
        ("closed", "override", Some("a fire"))
    );
    assert!(closed.conflicts.iter().any(|c| (c.source.as_str(), c.phase.as_str()) == ("upstream", "continuous")));
    assert_eq!(answer(&mut client), "channel.closed");
    server.operate("POST", "/override", TOKEN, "{}");
    assert_eq!(next_status(&mut client).phase, "continuous");
}

#[test]
fn an_announcement_reaches_everyone_who_follows_alerts_and_is_audited() {
    let (server, _file) = server("EGX");
    let mut client = Client::user(&server, "u");
    client.subscribe(subscribe("alerts", "EGX", &[]));
    let said = server.operate(
        "POST",
        "/publish",
        TOKEN,
        r#"{"code":"exchange.announcement","reason":"trading ends at noon","symbol":"COMI"}"#,
    );
    assert!(said.contains(r#""told":1"#), "{said}");
    let alert = client.until(|event| match event {
        Event::Alert(alert) if alert.code == "exchange.announcement" => Some(alert),
        _ => None,
    });
    assert_eq!((alert.reason.as_str(), alert.symbol.as_deref()), ("trading ends at noon", Some("COMI")));
    let wrong = server.operate("POST", "/publish", TOKEN, r#"{"code":"x","reason":""}"#);
    assert!(wrong.starts_with("HTTP/1.1 400") && wrong.contains("protocol.malformed"), "{wrong}");
    let audit = server.operate("GET", "/audit", TOKEN, "");
    assert!(audit.contains(r#""done":1,"refused":1"#) && audit.contains(r#""by":"amina""#), "{audit}");
    server.logged("audit");
}

#[test]
fn who_has_no_token_or_asks_for_nonsense_changes_nothing() {
    let (server, _file) = server("EGX");
    for (method, path, token, body, says) in [
        ("POST", "/override", "guess", "{}", "auth.invalid"),
        ("POST", "/override", TOKEN, r#"{"phase":"party"}"#, "protocol.malformed"),
        ("POST", "/override", TOKEN, r#"{"phase":"halted","symbol":"NOPE"}"#, "channel.symbol_unknown"),
        ("POST", "/override", TOKEN, r#"{"phase":"halted","until":"2020-01-01T00:00:00Z"}"#, "past"),
        ("POST", "/day", TOKEN, r#"{"date":"2026-11-24","plan":"nights"}"#, "nights"),
        ("GET", "/publish", TOKEN, "", "edge.not_found"),
        ("DELETE", "/market", TOKEN, "", "edge.not_found"),
    ] {
        let answer = server.operate(method, path, token, body);
        assert!(answer.contains(says) && !answer.starts_with("HTTP/1.1 200"), "{method} {path} {body}: {answer}");
    }
    assert!(server.operate("GET", "/market", TOKEN, "").contains(r#""phase":"continuous""#));
    assert!(server.get("/override").contains("404"), "not where sessions come in");
}

#[test]
fn symbols_are_found_by_word_and_a_third_exchange_is_data_alone() {
    let (server, _file) = server("DFM");
    assert!(server.get("/symbols?query=emaar").contains(r#""symbol":"EMAAR""#));
    assert!(server.get("/symbols?query=dubai+islamic&limit=5").contains(r#""symbol":"DIB""#));
    let mut client = Client::user(&server, "u");
    let answer = client.subscribe(subscribe("market_data", "DFM", &["*"]));
    assert_eq!(answer.accepted.len(), 8);
    assert!(client.next_update().snapshot);
}

#[test]
fn the_calendar_is_printed_with_what_each_day_rests_on() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bawaba-channel"))
        .args(["calendar", "EGX", "--from", "2026-10-28", "--to", "2027-01-07"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let day = |date: &str| text.lines().find(|line| line.starts_with(date)).unwrap().to_owned();
    assert!(day("2026-10-29").contains("continuous 10:00-14:15"), "{text}");
    assert!(day("2026-10-29").contains("UTC+03") && day("2026-11-01").contains("UTC+02"), "{text}");
    assert!(day("2026-10-30").ends_with("closed"), "{text}");
    assert!(day("2027-01-07").contains("Coptic Christmas") && day("2027-01-07").contains("published-rule"), "{text}");
}
