//! The conversations. Each law says what is tried; `says` is what any host must answer.

use bawaba_tests::client::{BINARY, LAST, MORE, PING, TEXT, TEXT_FIRST, frame, unmasked_frame};
use bawaba_tests::scenario::{Scenario, Step, Who};
use serde_json::{Value, json};

use Step::{Answer, Bytes, Close, End, Send, Snapshots, Trickle, Type};
use Who::{Annotated, Basic, Screened, TwoBoards, Unscreened};

pub(crate) fn scenarios() -> Vec<Scenario> {
    [welcomes(), subscriptions(), refusals(), requests(), orders(), wire(), unreadable(), broken()]
        .into_iter()
        .flatten()
        .collect()
}

/// A conversation, and what any host must answer in it.
fn law(law: &'static str, who: Who, steps: Vec<Step>, says: &'static [&'static str]) -> Scenario {
    Scenario::new(law, who, steps).says(says)
}

fn subscribe(id: u64, exchange: &str, channel: &str, symbols: &[&str]) -> Value {
    json!({"type": "subscribe", "id": id, "channel": channel, "exchange": exchange, "symbols": symbols})
}

fn quotes(id: u64, symbols: &[&str]) -> Step {
    Send(subscribe(id, "EGX", "market_data", symbols))
}

fn follow(channel: &str, symbols: &[&str]) -> Vec<Step> {
    vec![Send(subscribe(1, "EGX", channel, symbols)), Answer(1)]
}

/// Far below the market, inside the day's limits: it rests.
fn order(id: u64, symbol: &str) -> Step {
    let price = if symbol == "ABUK" { "45.00" } else { "70.00" };
    Send(json!({"type": "order", "id": id, "op": "place", "exchange": "EGX", "symbol": symbol, "side": "buy",
        "order_type": "limit", "price": price, "quantity": "100"}))
}

fn ping(id: u64) -> Step {
    Send(json!({"type": "ping", "id": id}))
}

fn text(request: &Value) -> Vec<u8> {
    frame(TEXT, request.to_string().as_bytes())
}

/// One symbol that passes the launch list of EGX33, and two that it refuses.
fn mixed() -> Value {
    subscribe(1, "EGX", "market_data", &["ABUK", "COMI", "EAST"])
}

const MIXED: &[&str] = &[
    r#""accepted":[{"epoch":"#,
    r#""symbol":"ABUK"}],"id":1,"refused":[{"code":"sharia.not_listed""#,
    r#""symbol":"COMI"},{"code":"sharia.not_listed""#,
    r#""symbol":"EAST"}]"#,
    r#""list":"egx33@2024-06-12","screening_result":"listed","sharia_compliant":true}"#,
];
const NONE_ACCEPTED: &[&str] = &[r#""accepted":[],"id":1,"refused":[{"code":"sharia.not_listed""#];

fn welcomes() -> Vec<Scenario> {
    let steps = || vec![ping(1), Answer(1)];
    vec![
        law("welcome, not screened", Unscreened, steps(), &[r#""islamic":{"boards":[],"mode":"off"}"#, "pong"]),
        law("welcome, screened", Screened, steps(), &[r#""list":"egx33@2024-06-12","mode":"filter""#, "pong"]),
        law("welcome, two boards", TwoBoards, steps(), &[r#""boards":["EGX33","AAOIFI"]"#]),
        law("welcome, annotated", Annotated, steps(), &[r#""mode":"annotate""#]),
        law("welcome, basic", Basic, steps(), &[r#""tier":"basic""#]),
        law("welcome, in protobuf", Screened, steps(), &["binary", r#""list":"egx33@2024-06-12""#]).proto(),
    ]
}

fn subscriptions() -> Vec<Scenario> {
    let mixed = || vec![Send(mixed()), Answer(1), Snapshots(&["ABUK"])];
    let both = |channel| [follow(channel, &["ABUK", "COMI"]), vec![Snapshots(&["ABUK", "COMI"])]].into_iter().flatten();
    let one = |channel| [follow(channel, &["COMI", "ABUK"]), vec![Snapshots(&["ABUK"])]].into_iter().flatten();
    vec![
        law("what is not screened is all there", Unscreened, both("market_data").collect(), &[r#""refused":[]"#]),
        law("a refused symbol leaves the others", Screened, mixed(), MIXED),
        law("a refused symbol leaves the others, in protobuf", Screened, mixed(), MIXED).proto(),
        law(
            "annotated",
            Annotated,
            both("market_data").collect(),
            &[r#""refused":[]"#, r#""sharia_compliant":true"#, r#""sharia_compliant":false"#],
        ),
        law("a book is screened", Screened, one("order_book").collect(), &["sharia.not_listed", "order_book_update"]),
        law("a book, in protobuf", Screened, one("order_book").collect(), &["order_book_update"]).proto(),
        law("trades are screened", Screened, follow("trades", &["COMI"]), NONE_ACCEPTED),
        law("all symbols, not screened", Unscreened, follow("market_data", &["*"]), &[r#""symbol":"COMI""#]),
        law("all symbols, screened", Screened, follow("market_data", &["*"]), &[r#""symbol":"ABUK""#]),
        law("the market's phase", Unscreened, follow("market_status", &[]), &[r#""type":"subscribed""#]),
        law("own orders", Unscreened, follow("orders", &[]), &[r#""refused":[]"#]),
        law("own positions are not screened away", Screened, follow("positions", &[]), &[r#""refused":[]"#]),
        law("twice the same", Unscreened, vec![quotes(1, &["COMI"]), Answer(1), quotes(2, &["COMI"]), Answer(2)], &[]),
    ]
}

fn refusals() -> Vec<Scenario> {
    let all = || vec![quotes(1, &["COMI", "EAST"]), Answer(1), ping(2), Answer(2)];
    let again = || (1..=20).flat_map(|id| [quotes(id, &["COMI"]), Answer(id)]).collect();
    let elsewhere = || vec![Send(subscribe(1, "ADX", "market_data", &["FAB"])), Answer(1)];
    vec![
        law("all refused", Screened, all(), NONE_ACCEPTED),
        law("all refused, in protobuf", Screened, all(), NONE_ACCEPTED).proto(),
        law("refused again and again", Screened, again(), NONE_ACCEPTED),
        law(
            "a board without a list allows nothing",
            TwoBoards,
            follow("market_data", &["ABUK", "COMI"]),
            &[r#""accepted":[]"#, "sharia.list_missing"],
        ),
        law("a book is licensed", Basic, follow("order_book", &["COMI"]), &["license.depth"]),
        law("an exchange is licensed", Basic, elsewhere(), &["license.exchange"]),
        law("an unknown symbol", Unscreened, follow("market_data", &["NOPE", "COMI"]), &["channel.symbol_unknown"]),
        law("an unknown symbol, screened", Screened, follow("market_data", &["NOPE"]), &[r#""accepted":[]"#]),
        law("an unknown channel", Unscreened, follow("rumours", &["COMI"]), &["channel.unknown"]),
        law("an unknown channel, screened", Screened, follow("rumours", &["COMI"]), &["channel.unknown"]),
    ]
}

fn requests() -> Vec<Scenario> {
    let leave = |symbols: Value| {
        Send(json!({"type": "unsubscribe", "id": 2, "subscription": "$subscription", "symbols": symbols}))
    };
    let joined = |symbols: &'static [&'static str]| vec![quotes(1, symbols), Answer(1), Snapshots(symbols)];
    let mut all = joined(&["COMI"]);
    all.extend([leave(Value::Null), Answer(2)]);
    let mut some = joined(&["ABUK", "AMOC"]);
    some.extend([leave(json!(["ABUK"])), Answer(2)]);
    let nowhere = json!({"type": "unsubscribe", "id": 1, "subscription": "nowhere"});
    vec![
        law("unsubscribed", Unscreened, all, &["unsubscribed"]),
        law("one symbol unsubscribed", Screened, some, &["unsubscribed"]),
        law("no such subscription", Unscreened, vec![Send(nowhere), Answer(1)], &[r#""type":"error""#]),
    ]
}

fn orders() -> Vec<Scenario> {
    let cancel = |id: u64, which: &str| Send(json!({"type": "order", "id": id, "op": "cancel", "order_id": which}));
    let cancelled = || {
        let mut steps = follow("orders", &[]);
        steps.extend([order(2, "ABUK"), Answer(2), cancel(3, "$order_id"), Answer(3)]);
        steps
    };
    let refused = &["sharia.not_listed"];
    vec![
        law("an order, refused by a board", Screened, vec![order(1, "COMI"), Answer(1)], refused),
        law("an order, refused, in protobuf", Screened, vec![order(1, "EAST"), Answer(1)], refused).proto(),
        law("an order, allowed by a board", Screened, vec![order(1, "ABUK"), Answer(1)], &["order_update"]),
        law("an order, placed and cancelled", Screened, cancelled(), &["order_update", "order_update"]),
        law("an order, not screened", Unscreened, vec![order(1, "COMI"), Answer(1)], &["order_update"]),
        law("no such order to cancel", Unscreened, vec![cancel(1, "none"), Answer(1)], &["order.unknown"]),
    ]
}

/// A request in three fragments with a Ping between each two.
fn in_fragments(request: &Value) -> Vec<u8> {
    let text = request.to_string().into_bytes();
    let (first, rest) = text.split_at(text.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);
    let parts = [(TEXT_FIRST, first), (PING, b"one"), (MORE, second), (PING, b"two"), (LAST, third)];
    parts.into_iter().flat_map(|(first_byte, payload)| frame(first_byte, payload)).collect()
}

/// Legal, and hard on whoever thinks that a read is a message.
fn wire() -> Vec<Scenario> {
    let answered = |first: Step| vec![first, Answer(1), Snapshots(&["ABUK"])];
    let refused = subscribe(1, "EGX", "market_data", &["COMI"]);
    let two = [text(&refused), text(&json!({"type": "ping", "id": 2}))].concat();
    let pinged = [frame(PING, b"hello"), text(&json!({"type": "ping", "id": 1}))].concat();
    vec![
        law("cut at every byte", Screened, answered(Trickle(text(&mixed()))), MIXED),
        law("in fragments, with Pings between", Screened, answered(Bytes(in_fragments(&mixed()))), MIXED),
        law("in fragments, cut at every byte", Screened, answered(Trickle(in_fragments(&mixed()))), MIXED),
        law("two requests in one packet", Screened, vec![Bytes(two), Answer(2)], &[]),
        law("a client's Ping", Screened, vec![Bytes(pinged), Answer(1)], &["Pong(b\"hello\")"]),
        law("closed by the client", Screened, vec![Close, End], &["close Some(1000)"]),
    ]
}

/// What can't be read is refused, and the connection lives on.
fn unreadable() -> Vec<Scenario> {
    let steps = |bytes: Vec<u8>| vec![Bytes(bytes), Type("error"), ping(1), Answer(1)];
    let says = &["protocol.malformed", "pong"];
    let wrong = frame(TEXT, br#"{"type":"subscribe","symbols":7}"#);
    vec![
        law("text that is no JSON", Unscreened, steps(frame(TEXT, b"{\"type\":\"subscr")), says),
        law("text that is no JSON, screened", Screened, steps(frame(TEXT, b"hello")), says),
        law("an unknown type", Screened, steps(frame(TEXT, br#"{"type":"dance"}"#)), &["error", "pong"]),
        law("a field of the wrong type", Screened, steps(wrong), says),
        law("bytes that are no protobuf", Screened, steps(frame(BINARY, &[0xff; 16])), says).proto(),
    ]
}

/// The head of a frame of this length, and nothing of it.
fn announced(length: u64) -> Vec<u8> {
    [&[TEXT, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()
}

/// What breaks RFC 6455 ends the connection.
fn broken() -> Vec<Scenario> {
    let steps = |bytes: Vec<u8>| vec![Bytes(bytes), End];
    let error = &["close Some(1002)"];
    vec![
        law("an unmasked frame", Screened, steps(unmasked_frame(TEXT, b"{}")), error),
        law("a reserved bit", Screened, steps(frame(0xc1, b"{}")), error),
        law("a reserved opcode", Screened, steps(frame(0x83, b"{}")), error),
        law("a fragment of nothing", Screened, steps(frame(LAST, b"{}")), error),
        law("a long Ping", Screened, steps(frame(PING, &[0; 126])), error),
        law("text that is not UTF-8", Screened, steps(frame(TEXT, b"\"\xff\xfe\"")), &["close Some(1007)"]),
        law("a message over the limit", Screened, steps(announced(16 << 20)), &["close Some(1009)"]),
        law("binary in a JSON session", Screened, steps(frame(BINARY, b"{}")), &["close Some(1003)"]),
    ]
}
