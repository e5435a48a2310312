//! A client on tungstenite: a WebSocket implementation that is not ours.

use std::net::TcpStream;

use bawaba_channels::claims::Claims;
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, Event, Request, Subscribe, Subscribed, Update};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::process::{PATIENCE, Server};

pub(crate) struct Client {
    pub(crate) socket: WebSocket<TcpStream>,
    encoding: Encoding,
}

/// Claims from their JSON.
pub(crate) fn claims(json: &str) -> Claims {
    Claims::from_json(json.as_bytes()).unwrap()
}

impl Client {
    /// Connects and reads the welcome.
    pub(crate) fn connect(server: &Server, encoding: Encoding, json: &str) -> Self {
        let mut client = Self::open(server, encoding, json);
        assert!(matches!(client.next(), Event::Welcome(_)));
        client
    }

    /// Connects; the welcome is the next event.
    pub(crate) fn open(server: &Server, encoding: Encoding, json: &str) -> Self {
        let stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{}/ws", server.address).into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert(CLAIMS_HEADER, claims(json).to_header().parse().unwrap());
        headers.insert("sec-websocket-protocol", encoding.subprotocol().parse().unwrap());
        let (socket, response) = tungstenite::client(request, stream).unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], encoding.subprotocol());
        Self { socket, encoding }
    }

    pub(crate) fn user(server: &Server, user: &str) -> Self {
        Self::connect(server, Encoding::Json, &format!(r#"{{"sub":"{user}"}}"#))
    }

    pub(crate) fn send(&mut self, request: &Request) {
        let mut out = Vec::new();
        request.encode(self.encoding, &mut out);
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(out).unwrap()),
            Encoding::Proto => Message::binary(out),
        };
        self.socket.send(message).unwrap();
    }

    /// Sends JSON as it stands.
    pub(crate) fn json(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Event {
        loop {
            let bytes = match self.socket.read().unwrap() {
                Message::Text(text) => text.as_str().as_bytes().to_vec(),
                Message::Binary(bytes) => bytes.to_vec(),
                Message::Close(close) => panic!("closed: {close:?}"),
                _ => continue,
            };
            return Event::decode(self.encoding, &bytes).unwrap();
        }
    }

    /// Events up to and with the first that `wanted` takes.
    pub(crate) fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next()) {
                return found;
            }
        }
    }

    pub(crate) fn next_update(&mut self) -> Update {
        self.until(|event| if let Event::Update(update) = event { Some(update) } else { None })
    }

    /// Subscribes and reads the answer.
    pub(crate) fn subscribe(&mut self, subscribe: Subscribe) -> Subscribed {
        let id = subscribe.id;
        self.send(&Request::Subscribe(subscribe));
        self.until(|event| match event {
            Event::Subscribed(answer) if answer.id == id => Some(answer),
            Event::Error(error) if error.id == id => panic!("refused: {error:?}"),
            _ => None,
        })
    }

    /// The Close frame, after whatever still comes.
    pub(crate) fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            match self.socket.read() {
                Ok(Message::Close(close)) => return close,
                Ok(_) => {}
                Err(error) => panic!("no Close frame but {error}"),
            }
        }
    }
}

/// A subscription to symbols of a channel.
pub(crate) fn subscribe(channel: &str, exchange: &str, symbols: &[&str]) -> Subscribe {
    Subscribe {
        id: Some(1),
        channel: channel.into(),
        exchange: exchange.into(),
        symbols: symbols.iter().map(|s| (*s).to_owned()).collect(),
        ..Subscribe::default()
    }
}
