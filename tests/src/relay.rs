//! A relay route of an edge before an ordinary WebSocket service: one that echoes, and knows nothing of us.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use toml::Table;
use tungstenite::Message;
use tungstenite::handshake::server::{Request, Response};

use crate::client::Connect;
use crate::keys::{AUDIENCE, ISSUER, Keys};
use crate::place::Scratch;
use crate::stack::{Edge, free_address, path, set};
use crate::{PATIENCE, by, http, until};

/// A service that runs today: echoes messages, and answers plain HTTP.
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    /// Heads of the requests it got, as text.
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Starts it on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { address, heads }
    }

    /// The newest request whose head begins so, in lower case.
    pub fn head(&self, begins: &str) -> String {
        let heads = self.heads.lock().unwrap();
        heads
            .iter()
            .rev()
            .find(|head| head.starts_with(begins))
            .cloned()
            .unwrap_or_else(|| panic!("no {begins}: {heads:?}"))
    }
}

fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>) {
    // Looked at, not taken: a WebSocket's own machine reads it again.
    let text = until("a whole head has come", by(PATIENCE), || {
        let mut peeked = [0; 8192];
        let Ok(count) = stream.peek(&mut peeked) else { return Some(String::new()) };
        let text = String::from_utf8_lossy(&peeked[..count]).to_ascii_lowercase();
        (count == 0 || is_whole(&text)).then_some(text)
    });
    heads.lock().unwrap().push(text.clone());
    if text.starts_with("get /healthz") {
        answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    } else if text.contains("/refuse") {
        let refusal = "HTTP/1.1 418 I'm a teapot\r\ncontent-type: text/plain\r\nx-why: tea\r\n";
        let body = "transfer-encoding: chunked\r\n\r\n5\r\nshort\r\n6\r\n stout\r\n0\r\n\r\n";
        answer(stream, &format!("{refusal}{body}"));
    } else if text.contains("upgrade: websocket") {
        echo(stream);
    } else if !text.is_empty() {
        let mut request = vec![0; text.len()];
        drop(stream.read_exact(&mut request));
        answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nx-service: yes\r\nconnection: close\r\n\r\nplainly");
    }
}

/// Whether a head, and the body that it announces, are there.
fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn answer(mut stream: TcpStream, text: &str) {
    drop(stream.write_all(text.as_bytes()));
    drop(stream.shutdown(Shutdown::Write));
    // Read to the end, so that nothing unread turns the end into a reset.
    drop(stream.read_to_end(&mut Vec::new()));
}

#[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
fn echo(stream: TcpStream) {
    let select = |request: &Request, mut response: Response| {
        if let Some(offers) = request.headers().get("sec-websocket-protocol").and_then(|v| v.to_str().ok()) {
            let first = offers.split(',').next().unwrap_or_default().trim().parse().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", first);
        }
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, select) else { return };
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                let farewell = matches!(&message, Message::Text(text) if text.as_str() == "half");
                if socket.send(message).is_err() {
                    return;
                }
                if farewell {
                    // Says no more, but listens on, and echoes what it heard as a last raw byte stream would: not at all.
                    drop(socket.get_ref().shutdown(Shutdown::Write));
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// An edge with a relay route before `service`.
pub struct Door {
    /// Its keys and tokens.
    pub keys: Keys,
    /// What is behind it.
    pub service: Service,
    /// The edge.
    pub edge: Edge,
    _scratch: Scratch,
}

impl Door {
    /// Starts both, with a changed configuration, and waits until the edge is ready.
    pub fn open(change: impl FnOnce(&mut Table, &Scratch)) -> Self {
        let door = Self::unready(change);
        door.edge.wait_ready();
        door
    }

    /// As [`Self::open`], for an edge that will never be ready.
    pub fn unready(change: impl FnOnce(&mut Table, &Scratch)) -> Self {
        let (keys, scratch, service) = (Keys::generate(), Scratch::new(), Service::start());
        let mut config: Table = toml::toml! {
            [edge]
            workers = 1
            [[listener]]
            [admin]
            [identity]
            [[route]]
            name = "quotes"
            path = "/quotes/*"
        };
        set(&mut config, "listener.0.address", free_address().to_string());
        set(&mut config, "admin.address", free_address().to_string());
        set(&mut config, "identity.jwks_file", path(&keys.write_jwks(&scratch)));
        set(&mut config, "identity.issuer", ISSUER);
        set(&mut config, "identity.audience", AUDIENCE);
        set(&mut config, "cluster.quotes.endpoints", vec![toml::Value::from(service.address.to_string())]);
        set(&mut config, "cluster.quotes.health.path", "/healthz");
        set(&mut config, "cluster.quotes.health.interval", "200ms");
        set(&mut config, "route.0.relay.cluster", "quotes");
        set(&mut config, "route.0.relay.http", true);
        change(&mut config, &scratch);
        let edge = Edge::spawn(&scratch, &config);
        until("the edge lives", by(PATIENCE), || http::get(edge.admin, "/livez").ok());
        Self { keys, service, edge, _scratch: scratch }
    }

    /// Starts both as they are.
    pub fn plain() -> Self {
        Self::open(|_, _| {})
    }

    /// A handshake that the route takes.
    pub fn connect(&self) -> Connect {
        Connect::with_token(&self.keys.unscreened("amina")).path("/quotes/live").protocols(&["soup.v1"])
    }
}
