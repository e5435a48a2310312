//! A WebSocket client for tests: tungstenite behind our own handshake, so that a test sees every header and
//! may put its first frame into the packet of the request; and raw bytes where a test misbehaves.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use bawaba_channels::wire::{Encoding, Event, Request};
use serde_json::Value;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

use crate::http::{Answer, ask};
use crate::{Deadline, PATIENCE, by};

/// How to open a WebSocket.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Path and query.
    pub path: String,
    /// Further headers, as they are written on the wire.
    pub headers: Vec<(String, String)>,
    /// Entries of `Sec-WebSocket-Protocol`.
    pub protocols: Vec<String>,
    /// Bytes sent in the same packet, right behind the request's head.
    pub ahead: Vec<u8>,
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            path: "/ws".into(),
            headers: Vec::new(),
            protocols: vec![Encoding::Json.subprotocol().into()],
            ahead: Vec::new(),
        }
    }
}

impl Connect {
    /// `GET /ws` in the JSON form, with `token` in the `Authorization` header.
    pub fn with_token(token: &str) -> Self {
        Self::default().header("authorization", &format!("Bearer {token}"))
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers these subprotocols and no others.
    pub fn protocols(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|&p| p.into()).collect();
        self
    }

    /// Offers the subprotocol of `encoding` only.
    pub fn encoding(self, encoding: Encoding) -> Self {
        self.protocols(&[encoding.subprotocol()])
    }

    /// Asks for another path.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// The request as it goes over the wire.
    pub fn request(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!(
            "GET {} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.path
        );
        if !self.protocols.is_empty() {
            head += &format!("sec-websocket-protocol: {}\r\n", self.protocols.join(", "));
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut request = head.into_bytes();
        request.extend_from_slice(&self.ahead);
        request
    }

    /// Opens the WebSocket; `Err` holds the answer that refused it.
    pub fn open(&self, address: SocketAddr) -> Result<Client, Answer> {
        let (mut answer, stream) = ask(address, &self.request(address))
            .unwrap_or_else(|error| panic!("no answer to the handshake from {address}: {error}"));
        if answer.status != 101 {
            return Err(answer);
        }
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "the accept value of RFC 6455's own example"
        );
        let early = std::mem::take(&mut answer.body);
        let encoding =
            answer.header("sec-websocket-protocol").and_then(Encoding::of_subprotocol).unwrap_or(Encoding::Json);
        Ok(Client {
            socket: WebSocket::from_partially_read(stream, early, Role::Client, None),
            encoding,
            answer,
            seen: Vec::new(),
        })
    }

    /// Opens the WebSocket, or fails the test with the answer.
    pub fn accepted(&self, address: SocketAddr) -> Client {
        self.open(address).unwrap_or_else(|answer| panic!("refused: {} {}", answer.status, answer.text()))
    }

    /// The answer that refuses the WebSocket; fails the test if it is opened.
    pub fn refused(&self, address: SocketAddr) -> Answer {
        match self.open(address) {
            Ok(_) => panic!("the WebSocket was opened"),
            Err(answer) => answer,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A Close frame with this code (`None`: without one) and reason.
    Close(Option<u16>, String),
    /// The TCP connection ended without a Close frame.
    Cut,
}

/// Messages kept for what a failure shows; older ones are forgotten.
const SEEN_MAX: usize = 64;

/// An open WebSocket. Events are handed out in their JSON form, whatever the wire's.
pub struct Client {
    socket: WebSocket<TcpStream>,
    encoding: Encoding,
    answer: Answer,
    seen: Vec<String>,
}

impl Client {
    /// Opens `/ws` in the JSON form with a token in the `Authorization` header.
    pub fn connect(address: SocketAddr, token: &str) -> Self {
        Connect::with_token(token).accepted(address)
    }

    /// The answer to the handshake.
    pub fn handshake(&self) -> &Answer {
        &self.answer
    }

    /// The form that was negotiated.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The socket under it.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Sends a request, written as JSON, in the form that was negotiated.
    pub fn send(&mut self, request: Value) {
        let text = request.to_string();
        let message = match self.encoding {
            Encoding::Json => Message::text(text),
            Encoding::Proto => {
                let request = Request::from_json(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
                let mut bytes = Vec::new();
                request.encode_proto(&mut bytes);
                Message::binary(bytes)
            }
        };
        self.send_message(message);
    }

    /// Sends any message.
    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).unwrap_or_else(|error| panic!("can't send: {error}\n{}", self.shown()));
    }

    /// Writes bytes as they are; for clients that misbehave, and for frames cut anywhere.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.get_mut().write_all(bytes)
    }

    /// Ends the sending direction without a Close frame.
    pub fn half_close(&mut self) {
        let _ = self.socket.get_mut().shutdown(Shutdown::Write);
    }

    /// Starts the closing handshake.
    pub fn close(&mut self) {
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
    }

    /// The next message of any kind (control frames too); `Err` when the connection has ended.
    pub fn message(&mut self, deadline: Deadline) -> Result<Message, End> {
        match self.try_message(deadline) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => panic!("nothing came in time\n{}", self.shown()),
            Err(end) => Err(end),
        }
    }

    /// The next message, or `None` if none comes before the deadline.
    pub fn try_message(&mut self, deadline: Deadline) -> Result<Option<Message>, End> {
        loop {
            let Some(left) = deadline.left() else {
                return Ok(None);
            };
            let _ = self.socket.get_ref().set_read_timeout(Some(left));
            match self.socket.read() {
                Ok(Message::Close(frame)) => {
                    // Answers the Close, so that the peer can end the connection cleanly.
                    let _ = self.socket.flush();
                    let end = frame.map_or(End::Close(None, String::new()), |frame| {
                        End::Close(Some(frame.code.into()), frame.reason.to_string())
                    });
                    self.note(format!("{end:?}"));
                    return Err(end);
                }
                Ok(message) => {
                    self.note(format!("{message:?}"));
                    return Ok(Some(message));
                }
                Err(Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    self.note(format!("ended: {error}"));
                    return Err(End::Cut);
                }
            }
        }
    }

    /// The next event; Pings and Pongs are passed over.
    pub fn event(&mut self) -> Value {
        self.try_event(by(PATIENCE)).unwrap_or_else(|| panic!("no event came in time\n{}", self.shown()))
    }

    /// The next event, or `None` if none comes before the deadline.
    pub fn try_event(&mut self, deadline: Deadline) -> Option<Value> {
        loop {
            match self.try_message(deadline) {
                Ok(Some(Message::Text(text))) => {
                    return Some(
                        serde_json::from_str(&text)
                            .unwrap_or_else(|error| panic!("an event that is no JSON: {error}: {text}")),
                    );
                }
                Ok(Some(Message::Binary(bytes))) => {
                    let event = Event::decode_proto(&bytes)
                        .unwrap_or_else(|error| panic!("an event that can't be read: {error}"));
                    let mut json = Vec::new();
                    event.to_json(&mut json);
                    return Some(serde_json::from_slice(&json).expect("events are JSON"));
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(end) => panic!("ended ({end:?}) before an event\n{}", self.shown()),
            }
        }
    }

    /// Reads on to the first event that `wanted` accepts.
    pub fn until(&mut self, mut wanted: impl FnMut(&Value) -> bool, deadline: Deadline) -> Value {
        loop {
            match self.try_event(deadline) {
                Some(event) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("the event did not come in time\n{}", self.shown()),
            }
        }
    }

    /// Reads on to the first event of this `type`.
    pub fn until_type(&mut self, kind: &str) -> Value {
        self.until(|event| event["type"] == kind, by(PATIENCE))
    }

    /// Reads on to the answer with this `id`.
    pub fn answer(&mut self, id: u64) -> Value {
        self.until(|event| event["id"] == id, by(PATIENCE))
    }

    /// Sends a request and reads on to its answer.
    pub fn request(&mut self, request: Value) -> Value {
        let id = request["id"].as_u64().expect("a request with an id");
        self.send(request);
        self.answer(id)
    }

    /// Reads on to the end of the connection.
    pub fn end(&mut self, deadline: Deadline) -> End {
        loop {
            match self.message(deadline) {
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// The code of the Close frame that ends the connection.
    pub fn close_code(&mut self) -> Option<u16> {
        match self.end(by(PATIENCE)) {
            End::Close(code, _) => code,
            End::Cut => None,
        }
    }

    fn note(&mut self, what: String) {
        if self.seen.len() == SEEN_MAX {
            self.seen.remove(0);
        }
        self.seen.push(what);
    }

    fn shown(&self) -> String {
        format!("the last messages on this connection:\n{}", self.seen.join("\n"))
    }
}

/// One frame as a client sends it: masked, with any first byte (FIN, RSV and opcode).
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = head(first, payload.len(), 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

/// One frame without a mask, which a client must not send.
pub fn unmasked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// First byte of a whole text message.
pub const TEXT: u8 = 0x81;
/// First byte of a whole binary message.
pub const BINARY: u8 = 0x82;
/// First byte of a Ping.
pub const PING: u8 = 0x89;
/// First byte of a text message's first fragment.
pub const TEXT_FIRST: u8 = 0x01;
/// First byte of a fragment in the middle.
pub const MORE: u8 = 0x00;
/// First byte of the last fragment.
pub const LAST: u8 = 0x80;

fn head(first: u8, length: usize, mask_bit: u8) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..=125 => head.push(mask_bit | length as u8),
        126..=0xffff => {
            head.push(mask_bit | 126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(mask_bit | 127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}
