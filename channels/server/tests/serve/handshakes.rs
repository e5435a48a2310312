//! HTTP: the pages and every bad handshake.

use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, Event};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::client::{Client, claims};
use crate::process::{PATIENCE, Server, TempFile, recent_anchor};

fn handshake(more: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

#[test]
fn pages_and_refusals_are_exact() {
    let server = Server::simulated("ADX", &recent_anchor(), &[]);
    let rows = [
        ("GET /livez HTTP/1.1\r\n\r\n".to_owned(), "200", "ok"),
        ("GET /readyz HTTP/1.1\r\n\r\n".to_owned(), "200", "ok"),
        ("GET /load HTTP/1.1\r\n\r\n".to_owned(), "200", r#"{"sessions":0,"subscriptions":0,"load":"#),
        ("POST /load HTTP/1.1\r\n\r\n".to_owned(), "405", "protocol.unsupported"),
        ("GET /other HTTP/1.1\r\n\r\n".to_owned(), "404", "channel.unknown"),
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426", "Upgrade: websocket"),
        (handshake("").replace("Version: 13", "Version: 7"), "426", "Sec-WebSocket-Version: 13"),
        (handshake("").replace("dGhl", "!"), "400", "Sec-WebSocket-Key"),
        (handshake(""), "401", r#"{"code":"auth.missing""#),
        (handshake(&format!("{CLAIMS_HEADER}: %%%\r\n")), "401", "auth.invalid"),
        ("\u{1}\u{2}nonsense\r\n\r\n".to_owned(), "400", "protocol.malformed"),
        (format!("GET /ws HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(200_000)), "431", "protocol.too_large"),
    ];
    for (request, status, part) in rows {
        let answer = server.raw(&request);
        let shown: String = request.chars().take(80).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part), "{shown}\n{answer}");
    }
}

#[test]
fn claims_may_be_made_optional_and_a_nameless_session_has_no_orders() {
    let server = Server::simulated("EGX", &recent_anchor(), &["--require-claims", "false"]);
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, response) = tungstenite::client(format!("ws://{}/ws", server.address), stream).unwrap();
    assert!(response.headers().get("sec-websocket-protocol").is_none());
    assert!(socket.read().unwrap().into_text().unwrap().contains("\"welcome\""));
    let request = r#"{"type":"subscribe","id":1,"channel":"orders","exchange":"EGX"}"#;
    socket.send(tungstenite::Message::text(request)).unwrap();
    assert!(socket.read().unwrap().into_text().unwrap().contains("auth.missing"));
}

#[test]
fn a_first_frame_in_the_packet_of_the_request_is_not_lost() {
    let server = Server::simulated("EGX", &recent_anchor(), &[]);
    let header = claims(r#"{"sub":"u"}"#).to_header();
    let mut bytes = handshake(&format!("{CLAIMS_HEADER}: {header}\r\n")).into_bytes();
    let ping = br#"{"type":"ping","id":42}"#;
    bawaba_channels::frame::encode(&mut bytes, true, bawaba_channels::frame::Opcode::Text, ping, Some([1, 2, 3, 4]));
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(r#"{"type":"pong","id":42}"#) {
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
}

#[test]
fn connections_over_the_limit_are_turned_away() {
    let config = TempFile::new("connections.toml", "connections_max = 2\n");
    let server = Server::simulated("EGX", &recent_anchor(), &["--config", config.path()]);
    let first = Client::user(&server, "a");
    let _second = Client::user(&server, "b");
    assert!(server.get("/livez").starts_with("HTTP/1.1 503 "), "no room");
    drop(first);
    server.logged("session closed");
    let deadline = std::time::Instant::now() + PATIENCE;
    while !server.get("/livez").starts_with("HTTP/1.1 200 ") {
        assert!(std::time::Instant::now() < deadline, "room again");
    }
}

#[test]
fn a_drain_tells_then_closes_then_ends_the_process() {
    let config = TempFile::new("drain.toml", "drain_ms = 100\n");
    let mut server = Server::simulated("EGX", &recent_anchor(), &["--config", config.path()]);
    let mut clients = [Client::user(&server, "a"), Client::connect(&server, Encoding::Proto, r#"{"sub":"b"}"#)];
    server.signal("TERM");
    for client in &mut clients {
        client.until(|event| if let Event::Drain(drain) = event { Some(drain) } else { None });
        assert_eq!(client.closed().map(|close| u16::from(close.code)), Some(1012));
        // tungstenite answers the Close when it is flushed.
        let _ = client.socket.flush();
    }
    drop(clients);
    assert!(server.ended().success());
}
