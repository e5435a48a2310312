//! `bawaba connect`: subscribe from a terminal and watch. A client like any other: it knows the protocol, not the edge.
//!
//! Checks the sequence of every instrument and says where something is missing; comes back by itself, with jitter and
//! from where it left off, unless the close code says not to.

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bawaba_channels::close::CloseCode;
use bawaba_channels::decimal::Decimal;
use bawaba_channels::frame::{self, Decoder, Opcode, Sender};
use bawaba_channels::message::{Assembler, Message};
use bawaba_channels::wire::{Data, Encoding, Event, Position, Request, Subscribe, Timestamp, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::jitter::Jitter;
use crate::upstream::{Ask, shake_hands};

/// Longest pause before it comes back by itself.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Largest message that it reads.
const MESSAGE_BYTES_MAX: u32 = 4 << 20;

/// Subscribe from a terminal and watch.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// `ws://host:port/path`
    pub url: String,
    /// The token (a JWT)
    #[arg(long, default_value = "")]
    pub token: String,
    /// The exchange
    #[arg(long, default_value = "EGX")]
    pub exchange: String,
    /// Symbols, by commas; `*` for all that the licence allows
    #[arg(long, value_delimiter = ',', default_value = "COMI")]
    pub symbols: Vec<String>,
    /// The channel
    #[arg(long, default_value = "market_data")]
    pub channel: String,
    /// Shortest time between two updates of one instrument, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub update_rate_ms: u32,
    /// Speak protobuf instead of JSON
    #[arg(long)]
    pub proto: bool,
    /// End after this many updates
    #[arg(long)]
    pub count: Option<u64>,
    /// Print events as JSON, one a line
    #[arg(long)]
    pub json: bool,
}

/// Runs until `count` updates came, or the server says not to come back.
pub async fn run(arguments: &Arguments) -> io::Result<()> {
    let mut watcher = Watcher {
        arguments,
        encoding: if arguments.proto { Encoding::Proto } else { Encoding::Json },
        places: BTreeMap::new(),
        updates: 0,
        sticky: None,
        jitter: Jitter::new(),
    };
    let mut pause = Duration::from_millis(200);
    loop {
        let ended = match watcher.watch().await {
            Ok(ended) => ended,
            // The first attempt is the user's own mistake more often than not: say so at once.
            Err(error) if watcher.places.is_empty() => return Err(error),
            Err(error) => Ended::Closed(None, error.to_string()),
        };
        match ended {
            Ended::Enough => return Ok(()),
            Ended::Closed(Some(code), reason) if !comes_back(code) => {
                return Err(io::Error::other(format!("closed: {code} {reason}")));
            }
            Ended::Closed(code, reason) => {
                let wait = watcher.jitter.up_to(pause) + pause / 2;
                let code = code.map_or_else(|| "without a close code".to_owned(), |code| code.to_string());
                println!("closed: {code} {reason}; back in {} ms", wait.as_millis());
                tokio::time::sleep(wait).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Whether a client should come back by itself.
fn comes_back(code: CloseCode) -> bool {
    CloseCode::TABLE.iter().find(|row| row.0 == code).is_none_or(|row| row.2)
}

enum Ended {
    Enough,
    Closed(Option<CloseCode>, String),
}

struct Watcher<'a> {
    arguments: &'a Arguments,
    encoding: Encoding,
    /// By symbol: the newest update received.
    places: BTreeMap<String, Position>,
    updates: u64,
    sticky: Option<String>,
    jitter: Jitter,
}

impl Watcher<'_> {
    async fn watch(&mut self) -> io::Result<Ended> {
        let (host, mut path) = address(&self.arguments.url)?;
        if let Some(sticky) = &self.sticky {
            path.push_str(if path.contains('?') { "&resume=" } else { "?resume=" });
            path.push_str(sticky);
        }
        let mut socket = TcpStream::connect(&host).await?;
        socket.set_nodelay(true)?;
        let credential = match self.arguments.token.as_str() {
            "" => ("user-agent", "bawaba-connect".to_owned()),
            token => ("authorization", format!("Bearer {token}")),
        };
        let credential = (credential.0, credential.1.as_str());
        let ask = Ask { host: &host, path: &path, subprotocol: self.encoding.subprotocol(), credential };
        let mut buffer = shake_hands(&mut socket, &ask).await.map_err(io::Error::other)?;
        let mut payload = Vec::new();
        self.subscribe().encode(self.encoding, &mut payload);
        self.write(&mut socket, self.encoding.opcode(), &payload).await?;
        let mut decoder = Decoder::new(Sender::Server, MESSAGE_BYTES_MAX);
        let mut assembler = Assembler::new();
        loop {
            let mut at = 0;
            while at < buffer.len() {
                let Some(frame) = decoder.decode(&mut buffer[at..]).map_err(io::Error::other)? else { break };
                at += frame.header.frame_len();
                match assembler.push(frame).map_err(io::Error::other)? {
                    Some(Message::Text(text)) => self.tell(text.as_bytes())?,
                    Some(Message::Binary(bytes)) => self.tell(bytes)?,
                    Some(Message::Ping(payload)) => self.write(&mut socket, Opcode::Pong, payload).await?,
                    Some(Message::Close(code)) => {
                        return Ok(match code {
                            Some((code, reason)) => Ended::Closed(Some(code), reason.to_owned()),
                            None => Ended::Closed(None, String::new()),
                        });
                    }
                    Some(Message::Pong(_)) | None => {}
                }
                if self.arguments.count.is_some_and(|count| self.updates >= count) {
                    let mut bye = Vec::new();
                    frame::encode_close(&mut bye, CloseCode::NORMAL, "", Some(self.jitter.mask()));
                    socket.write_all(&bye).await?;
                    return Ok(Ended::Enough);
                }
            }
            buffer.drain(..at);
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(Ended::Closed(None, "the connection ended".into()));
            }
        }
    }

    async fn write(&mut self, socket: &mut TcpStream, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        frame::encode(&mut out, true, opcode, payload, Some(self.jitter.mask()));
        socket.write_all(&out).await
    }

    fn subscribe(&self) -> Request {
        Request::Subscribe(Subscribe {
            id: Some(1),
            channel: self.arguments.channel.clone(),
            exchange: self.arguments.exchange.clone(),
            symbols: self.arguments.symbols.clone(),
            update_rate_ms: Some(self.arguments.update_rate_ms).filter(|rate| *rate > 0),
            resume: self.places.clone(),
            ..Subscribe::default()
        })
    }

    fn tell(&mut self, bytes: &[u8]) -> io::Result<()> {
        let event = Event::decode(self.encoding, bytes).map_err(io::Error::other)?;
        if let Event::Drain(drain) = &event {
            self.sticky = Some(drain.resume.clone()).filter(|resume| !resume.is_empty());
        }
        if self.arguments.json {
            let mut line = Vec::new();
            event.to_json(&mut line);
            println!("{}", String::from_utf8_lossy(&line));
        } else if let Event::Update(update) = &event {
            println!("{}", line(update));
        } else {
            println!("{}", said(&event));
        }
        match &event {
            Event::Update(update) => self.check(update),
            Event::Gap(gap) => drop(self.places.remove(&gap.symbol)),
            _ => {}
        }
        Ok(())
    }

    /// Whether an update follows on the one before it.
    fn check(&mut self, update: &Update) {
        self.updates += 1;
        let first = update.first_seq.unwrap_or(update.seq);
        if let Some(place) = self.places.get(&update.symbol)
            && !update.snapshot
            && (place.epoch != update.epoch || first > place.seq + 1)
        {
            println!("!! {}: {} follows {}, and nothing said so", update.symbol, first, place.seq);
        }
        self.places.insert(update.symbol.clone(), Position { epoch: update.epoch.clone(), seq: update.seq });
    }
}

/// `host:port`, and path with query.
fn address(url: &str) -> io::Result<(String, String)> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{url}: {why}"));
    let uri: http::Uri = url.parse().map_err(|_| bad("no URL, such as ws://127.0.0.1:8080/ws"))?;
    if uri.scheme_str() != Some("ws") {
        return Err(bad("only ws:// is spoken here; put a TLS terminator such as stunnel or socat before wss://"));
    }
    let host = uri.host().ok_or_else(|| bad("the host is missing"))?;
    let path = uri.path_and_query().map_or("/ws", http::uri::PathAndQuery::as_str);
    Ok((format!("{host}:{}", uri.port_u16().unwrap_or(80)), path.to_owned()))
}

/// An update as a line for people.
fn line(update: &Update) -> String {
    let price = |value: &Option<Decimal>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let what = match &update.data {
        Some(Data::Quote(quote)) => format!(
            "last {:>10}  bid {:>10} x {:<8}  ask {:>10} x {:<8}  volume {}",
            price(&quote.last),
            price(&quote.bid),
            price(&quote.bid_size),
            price(&quote.ask),
            price(&quote.ask_size),
            price(&quote.volume)
        ),
        Some(Data::Book(book)) => {
            let best = |levels: &[bawaba_channels::wire::Level]| {
                levels.first().map_or_else(|| "-".to_owned(), |level| format!("{} x {}", level.price, level.size))
            };
            format!(
                "{} bids, best {}; {} asks, best {}",
                book.bids.len(),
                best(&book.bids),
                book.asks.len(),
                best(&book.asks)
            )
        }
        Some(Data::Trade(trade)) => format!("{} {} at {}", trade.side, trade.size, trade.price),
        Some(Data::News(news)) => news.headline.clone(),
        None => String::new(),
    };
    let board = update.metadata.as_ref().map_or_else(String::new, |metadata| {
        format!("  [{} {}]", metadata.compliance_board, metadata.screening_result)
    });
    let kind = if update.snapshot { '*' } else { ' ' };
    format!(
        "{} {kind}{}/{:<12} #{:<8} {what}{board}",
        Timestamp(update.time),
        update.exchange,
        update.symbol,
        update.seq
    )
}

/// Any other event as a line for people.
fn said(event: &Event) -> String {
    match event {
        Event::Subscribed(answer) => {
            let accepted: Vec<_> = answer.accepted.iter().map(|accepted| accepted.symbol.as_str()).collect();
            let refused: Vec<_> =
                answer.refused.iter().map(|refused| format!("{} ({})", refused.symbol, refused.code)).collect();
            format!("subscribed: {}; refused: {}", none_or(&accepted.join(", ")), none_or(&refused.join(", ")))
        }
        Event::Gap(gap) if gap.to_seq < gap.from_seq => format!("gap: {}: a new epoch", gap.symbol),
        Event::Gap(gap) => format!("gap: {}: {} to {} are missing", gap.symbol, gap.from_seq, gap.to_seq),
        Event::Error(error) => format!("error: {}: {}", error.code, error.reason),
        Event::Revoked(revoked) => format!("revoked: {}: {}", revoked.symbols.join(", "), revoked.code),
        other => {
            let mut json = Vec::new();
            other.to_json(&mut json);
            String::from_utf8_lossy(&json).into_owned()
        }
    }
}

fn none_or(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_from_a_url() {
        assert_eq!(address("ws://127.0.0.1:8080/ws").unwrap(), ("127.0.0.1:8080".into(), "/ws".into()));
        assert_eq!(address("ws://edge/a?b=c").unwrap(), ("edge:80".into(), "/a?b=c".into()));
        for bad in ["", "edge", "http://edge/ws", "wss://edge/ws"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_stays_away_when_the_code_says_so() {
        for (code, back) in [
            (CloseCode::RESTART, true),
            (CloseCode::SLOW, true),
            (CloseCode::REPLACED, false),
            (CloseCode::AUTH_ENDED, false),
        ] {
            assert_eq!(comes_back(code), back, "{code}");
        }
    }
}
