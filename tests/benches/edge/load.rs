//! The two ends of a measurement: an echo server behind the proxy, and clients before it. Knows no proxy.

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use bawaba_channels::frame::{Decoder, Opcode, Sender, encode};
use bawaba_tests::client::{Connect, frame};
use bawaba_tests::http;
use bawaba_tests::keys::Keys;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tungstenite::handshake::derive_accept_key;

/// Two sockets for each connection in this process, two in the proxy: the usual 1,024 do not go far.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    raised.expect("a process may raise its own soft limit");
}

/// A WebSocket server on loopback that sends every message back, and answers any other request with 200.
pub(crate) struct Echo {
    address: SocketAddr,
}

impl Echo {
    /// Starts it. It ends with the process.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A thread for each connection: what it costs is not measured, and it needs little stack.
                let started = thread::Builder::new().stack_size(96 * 1024).spawn(move || serve(stream));
                started.expect("the machine has threads left");
            }
        });
        Self { address }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One connection, until its other end is gone.
fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 2048];
        let taken = stream.read(&mut chunk).ok().filter(|&taken| taken > 0)?;
        head.extend_from_slice(&chunk[..taken]);
    };
    let early = head.split_off(end);
    let head = String::from_utf8_lossy(&head);
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value.trim())
    });
    let Some(key) = key else {
        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    };
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).ok()?;
    echo(stream, early)
}

/// Frames back as they come, one write for all that one read brought: a batch stays a batch.
fn echo(mut stream: TcpStream, mut input: Vec<u8>) -> Option<()> {
    let mut decoder = Decoder::new(Sender::Client, 1 << 20);
    let mut output = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let mut taken = 0;
        while let Some(frame) = decoder.decode(&mut input[taken..]).ok()? {
            let (opcode, length) = (frame.header.opcode, frame.header.frame_len());
            let answer = if opcode == Opcode::Ping { Opcode::Pong } else { opcode };
            encode(&mut output, frame.header.fin, answer, frame.payload, None);
            taken += length;
        }
        input.drain(..taken);
        stream.write_all(&output).ok()?;
        output.clear();
        let more = stream.read(&mut chunk).ok().filter(|&more| more > 0)?;
        input.extend_from_slice(&chunk[..more]);
    }
}

/// Open clients, driven from two threads so that the proxy is never short of work.
pub(crate) struct Connections(Vec<BufReader<TcpStream>>);

impl Connections {
    /// Opens `count`, one after another.
    pub(crate) fn open(address: SocketAddr, keys: &Keys, count: usize) -> Self {
        let request = request(address, keys);
        Self((0..count).map(|_| open(address, &request)).collect())
    }

    /// Opens `count`, one every `pace`. The time of each runs from when it was due, so that a slow one cannot hide
    /// behind those that it delays.
    pub(crate) fn open_paced(address: SocketAddr, keys: &Keys, count: usize, pace: Duration) -> (Self, Vec<Duration>) {
        let request = request(address, keys);
        let (give, take) = sync_channel(count);
        let begin = Instant::now() + pace;
        thread::scope(|scope| {
            for step in 0..count {
                let due = begin + pace * u32::try_from(step).expect("a few thousand");
                while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                    thread::park_timeout(left);
                }
                let (give, request) = (give.clone(), &request);
                scope.spawn(move || {
                    let client = open(address, request);
                    give.send((client, due.elapsed())).expect("the receiver waits");
                });
            }
        });
        drop(give);
        let (clients, took) = take.into_iter().unzip();
        (Self(clients), took)
    }

    /// Sends `window` messages on every connection and reads them all back.
    pub(crate) fn exchange(&mut self, window: usize, payload_bytes: usize) {
        let sent = frame(0x82, &vec![b'x'; payload_bytes]).repeat(window);
        // An unmasked frame is shorter by its four bytes of mask.
        let received = sent.len() - 4 * window;
        let half = self.0.len().div_ceil(2).max(1);
        thread::scope(|scope| {
            for part in self.0.chunks_mut(half) {
                let sent = &sent;
                scope.spawn(move || {
                    for client in part.iter_mut() {
                        client.get_mut().write_all(sent).expect("the proxy takes messages");
                    }
                    let mut back = vec![0; received];
                    for client in part {
                        client.read_exact(&mut back).expect("the proxy gives messages back");
                        assert_eq!(back[0], 0x82, "a binary message came back");
                    }
                });
            }
        });
    }
}

fn request(address: SocketAddr, keys: &Keys) -> Vec<u8> {
    Connect::with_token(&keys.unscreened("bench")).protocols(&[]).request(address)
}

fn open(address: SocketAddr, request: &[u8]) -> BufReader<TcpStream> {
    let (answer, stream) = http::ask(address, request).expect("the proxy answers");
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert!(answer.body.is_empty(), "nothing was asked yet");
    BufReader::with_capacity(4 * 1024, stream)
}
