//! Who decided what about one user and one instrument, by which version, and why: each filter of a route is asked alone, by
//! a session that nobody has, through the same host and modules that judge everyone. Knows no policy: it reads what filters
//! answer.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::wire::{CLAIMS_HEADER, SUBPROTOCOL_JSON};
use bawaba_filter_host as host;
use serde_json::{Value, json};

use crate::chain::{Facts, Headers};
use crate::context::ConnectionContext;
use crate::generation::{Generation, Route};
use crate::grants::Grants;
use crate::loading::LoadedFilter;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The claims that the user's token would have.
    pub claims: Value,
    /// The exchange.
    pub exchange: String,
    /// The symbol.
    pub symbol: String,
    /// The channel.
    pub channel: String,
    /// The route; the first channel route if absent.
    pub route: Option<String>,
}

impl Question {
    /// Of a user of a tenant, with further claims laid over.
    pub fn claims_of(user: &str, tenant: Option<&str>, more: Option<Value>) -> Value {
        let mut claims = json!({ "sub": user, "exp": crate::hub::unix_now() + 3600 });
        if let Some(tenant) = tenant {
            claims["tenant"] = tenant.into();
        }
        if let (Some(claims), Some(Value::Object(more))) = (claims.as_object_mut(), more) {
            claims.extend(more);
        }
        claims
    }
}

/// Asks every filter of the route.
pub fn explain(generation: &Generation, question: &Question) -> Result<Value, String> {
    let route = match &question.route {
        Some(name) => generation.route(name).ok_or_else(|| format!("there is no route {name:?}"))?,
        None => (generation.routes.iter())
            .find(|route| matches!(route.target, crate::generation::Target::Channel(_)))
            .ok_or("there is no channel route: name one with --route")?,
    };
    let filters: Vec<Value> = route.filters.iter().map(|filter| ask(route, filter, question)).collect();
    let decides = filters.iter().find(|filter| filter["verdict"] != "passes");
    Ok(json!({
        "route": route.name(),
        "user": question.claims["sub"],
        "tenant": question.claims["tenant"],
        "exchange": question.exchange,
        "symbol": question.symbol,
        "channel": question.channel,
        "verdict": if decides.is_none() { "passes" } else { "refused" },
        "decided_by": decides.map(|filter| &filter["filter"]),
        "code": decides.map(|filter| &filter["code"]),
        "filters": filters,
    }))
}

/// One filter's word.
fn ask(route: &Arc<Route>, loaded: &LoadedFilter, question: &Question) -> Value {
    let mut chain = host::Chain::new(0, vec![loaded.filter.clone()]).attach();
    let facts = facts(route, question);
    let mut answer = json!({ "filter": loaded.name, "module": loaded.revision.module, "settings": loaded.revision.settings, "verdict": "passes" });
    let mut headers = host::Headers::new();
    facts.request().iter().for_each(|(name, value)| headers.add(name, value.as_str()));
    let mut stream = match chain.open(&mut headers, Rc::clone(&facts) as Rc<dyn host::Properties>) {
        host::Opening::Stream(stream) => stream,
        host::Opening::Refused(refused) => {
            let body: Value = serde_json::from_slice(&refused.body).unwrap_or_default();
            return said(answer, "handshake", &body);
        }
        host::Opening::Failed { cause, .. } => {
            return said(answer, "handshake", &json!({ "code": "edge.filter_failed", "reason": cause.as_str() }));
        }
    };
    let mut response = host::Headers::new();
    response.add(":status", "101");
    response.add("sec-websocket-protocol", SUBPROTOCOL_JSON);
    let failed = json!({ "code": "edge.filter_failed", "reason": "the filter gave no verdict" });
    let refused = match chain.response_headers(&mut stream, &mut response) {
        Ok(()) => subscribe(&mut chain, &mut stream, question),
        Err(_) => Some(failed.clone()),
    };
    let grants = Grants::read(stream.stored("bawaba"), stream.stored_version());
    if !grants.basis.is_empty() {
        answer["basis"] = grants.basis.into();
    }
    answer["level"] = format!("{:?}", grants.late).into();
    if let Some(until) = grants.until {
        answer["holds_until"] = bawaba_channels::wire::Timestamp(until).to_string().into();
    }
    answer = match refused {
        Some(refused) => said(answer, "subscribe", &refused),
        None => match update(&mut chain, &mut stream, question) {
            Some(update) => {
                if update["metadata"].is_object() {
                    answer["metadata"] = update["metadata"].clone();
                }
                answer
            }
            None => said(answer, "update", &json!({ "code": "dropped", "reason": "updates of it do not pass" })),
        },
    };
    chain.close(stream);
    answer
}

fn said(mut answer: Value, at: &str, refused: &Value) -> Value {
    answer["verdict"] = "refused".into();
    answer["at"] = at.into();
    answer["code"] = refused["code"].clone();
    answer["why"] = refused["reason"].clone();
    if refused["metadata"].is_object() {
        answer["metadata"] = refused["metadata"].clone();
    }
    answer
}

/// The handshake of a session that nobody has.
fn facts(route: &Arc<Route>, question: &Question) -> Rc<Facts> {
    let request: Headers = [
        (":method", "GET"),
        (":path", route.settings.path.trim_end_matches('*')),
        (":authority", "explain"),
        (":scheme", "https"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", SUBPROTOCOL_JSON),
        (CLAIMS_HEADER, &URL_SAFE_NO_PAD.encode(question.claims.to_string())),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let text = |claim: &str| question.claims[claim].as_str().unwrap_or_default().to_owned();
    let context = ConnectionContext {
        session: "explain".into(),
        client: ([127, 0, 0, 1], 0).into(),
        user: text("sub"),
        sid: None,
        tenant: text("tenant"),
        payload: URL_SAFE_NO_PAD.encode(question.claims.to_string()).into(),
        expires_at: None,
        encoding: None,
        http2: false,
        is_edge: false,
        route: route.name().into(),
    };
    let facts = Facts::new(&context, &request);
    facts.host.speak();
    facts
}

/// What a subscription comes to: the refusal, if there is one.
fn subscribe(chain: &mut host::WorkerChain, stream: &mut host::ChainStream, question: &Question) -> Option<Value> {
    let symbols = if question.symbol.is_empty() { json!([]) } else { json!([question.symbol]) };
    let request = json!({"type": "subscribe", "id": 1, "channel": question.channel, "exchange": question.exchange, "symbols": symbols});
    let mut frames = Vec::new();
    frame::encode(&mut frames, true, Opcode::Text, request.to_string().as_bytes(), Some([0; 4]));
    let failed = json!({ "code": "edge.filter_failed", "reason": "the filter gave no verdict" });
    if chain.request_data(stream, &mut frames).is_err() {
        return Some(failed);
    }
    let (mut back, mut passed) = (Vec::new(), false);
    for message in messages(Sender::Client, &mut frames) {
        match message {
            Said::Ping(payload) => frame::encode(&mut back, true, Opcode::Pong, &payload, None),
            Said::Event(_) => passed = true,
        }
    }
    if passed {
        let accepted = json!([{ "symbol": question.symbol, "epoch": "", "seq": 0, "recovered": false }]);
        let answer =
            json!({"type": "subscribed", "id": 1, "subscription": "explain", "accepted": accepted, "refused": []});
        frame::encode(&mut back, true, Opcode::Text, answer.to_string().as_bytes(), None);
    }
    if chain.response_data(stream, &mut back).is_err() {
        return Some(failed);
    }
    messages(Sender::Server, &mut back).into_iter().find_map(|message| match message {
        Said::Event(event) if event["type"] == "error" => Some(event),
        Said::Event(event) if event["type"] == "subscribed" => event["refused"].get(0).cloned(),
        _ => None,
    })
}

/// What becomes of an update of the instrument; `None` if it does not pass.
fn update(chain: &mut host::WorkerChain, stream: &mut host::ChainStream, question: &Question) -> Option<Value> {
    if question.symbol.is_empty() || !matches!(question.channel.as_str(), "market_data" | "order_book" | "trades") {
        return Some(Value::Null);
    }
    let event = json!({"type": "market_data_update", "subscription": "explain", "exchange": question.exchange,
        "symbol": question.symbol, "epoch": "explain", "seq": 1, "snapshot": true, "time": "1970-01-01T00:00:00.000Z", "data": {}});
    let mut frames = Vec::new();
    frame::encode(&mut frames, true, Opcode::Text, event.to_string().as_bytes(), None);
    chain.response_data(stream, &mut frames).ok()?;
    messages(Sender::Server, &mut frames).into_iter().find_map(|message| match message {
        Said::Event(event) if event["type"] == "market_data_update" => Some(event),
        _ => None,
    })
}

enum Said {
    Ping(Vec<u8>),
    Event(Value),
}

fn messages(sender: Sender, frames: &mut [u8]) -> Vec<Said> {
    let (mut decoder, mut assembler, mut at) = (Decoder::new(sender, 1 << 20), Assembler::new(), 0);
    let mut said = Vec::new();
    while at < frames.len() {
        let Ok(Some(frame)) = decoder.decode(&mut frames[at..]) else { break };
        at += frame.header.frame_len();
        match assembler.push(frame) {
            Ok(Some(Message::Ping(payload))) => said.push(Said::Ping(payload.to_vec())),
            Ok(Some(Message::Text(text))) => said.extend(serde_json::from_str(text).ok().map(Said::Event)),
            _ => {}
        }
    }
    said
}

/// An explanation for people.
pub fn text(explained: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = format!(
        "{} {} {} for {} of {}: {}\n",
        word(&explained["exchange"]),
        word(&explained["symbol"]),
        word(&explained["channel"]),
        word(&explained["user"]),
        word(&explained["tenant"]),
        word(&explained["verdict"]),
    );
    for filter in explained["filters"].as_array().into_iter().flatten() {
        let module = word(&filter["module"]);
        out.push_str(&format!(
            "{} ({}): {}",
            word(&filter["filter"]),
            &module[..module.len().min(12)],
            word(&filter["verdict"])
        ));
        if filter["verdict"] != "passes" {
            out.push_str(&format!(" at {}: {}: {}", word(&filter["at"]), word(&filter["code"]), word(&filter["why"])));
        }
        for (name, label) in [("basis", "by"), ("level", "level"), ("holds_until", "until")] {
            if let Some(value) = filter[name].as_str() {
                out.push_str(&format!("; {label} {value}"));
            }
        }
        if let Some(metadata) = filter["metadata"].as_object() {
            let facts: Vec<String> = metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
            out.push_str(&format!("; {}", facts.join(" ")));
        }
        out.push('\n');
    }
    out
}
