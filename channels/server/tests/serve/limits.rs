//! What happens to peers that break the rules, fall silent or read too slowly.

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{Opcode, encode};
use bawaba_channels::wire::{Encoding, Event};
use std::io::{Read as _, Write as _};
use tungstenite::Message;

use crate::client::{Client, subscribe};
use crate::process::{Server, TempFile, recent_anchor};

#[test]
fn each_broken_rule_has_its_close_code() {
    let server = Server::simulated("EGX", &recent_anchor(), &[]);
    let frame = |opcode, payload: &[u8], mask| {
        let mut out = Vec::new();
        encode(&mut out, true, opcode, payload, mask);
        out
    };
    let mask = Some([9, 8, 7, 6]);
    let rows: [(Encoding, Vec<u8>, CloseCode); 7] = [
        (Encoding::Json, frame(Opcode::Text, b"{}", None), CloseCode::PROTOCOL_ERROR),
        (Encoding::Json, vec![0xC1, 0x80, 0, 0, 0, 0], CloseCode::PROTOCOL_ERROR),
        (Encoding::Json, frame(Opcode::Continuation, b"{}", mask), CloseCode::PROTOCOL_ERROR),
        (Encoding::Json, frame(Opcode::Text, &[0xFF, 0xFE], mask), CloseCode::INVALID_PAYLOAD),
        (Encoding::Json, frame(Opcode::Text, &[b' '; 70_000], mask), CloseCode::TOO_LARGE),
        (Encoding::Json, frame(Opcode::Binary, b"x", mask), CloseCode::UNSUPPORTED_DATA),
        (Encoding::Proto, frame(Opcode::Text, b"x", mask), CloseCode::UNSUPPORTED_DATA),
    ];
    for (encoding, bytes, code) in rows {
        let mut client = Client::connect(&server, encoding, r#"{"sub":"u"}"#);
        client.socket.get_mut().write_all(&bytes).unwrap();
        assert_eq!(client.closed().map(|close| u16::from(close.code)), Some(code.0), "{bytes:?}");
    }
}

#[test]
fn unreadable_messages_are_answered_and_only_many_in_a_row_close() {
    let server = Server::simulated("EGX", &recent_anchor(), &[]);
    let mut client = Client::user(&server, "u");
    for round in 0..2 {
        for _ in 0..15 {
            client.json("{\"type\":");
            assert!(matches!(client.next(), Event::Error(error) if error.code == "protocol.malformed"));
        }
        client.json(&format!(r#"{{"type":"ping","id":{round}}}"#));
        assert!(matches!(client.next(), Event::Pong(_)));
    }
    for _ in 0..16 {
        client.json("[]");
    }
    assert_eq!(client.closed().map(|close| u16::from(close.code)), Some(1008));
    let mut proto = Client::connect(&server, Encoding::Proto, r#"{"sub":"u"}"#);
    proto.socket.send(Message::binary(vec![0xFF; 9])).unwrap();
    assert!(matches!(proto.next(), Event::Error(error) if error.code == "protocol.malformed"));
}

#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let config = TempFile::new("idle.toml", "ping_interval_ms = 50\nidle_timeout_ms = 200\n");
    let server = Server::simulated("EGX", &recent_anchor(), &["--config", config.path()]);
    let mut silent = Client::user(&server, "silent");
    // Below tungstenite, which would answer the Pings.
    let mut bytes = Vec::new();
    silent.socket.get_mut().read_to_end(&mut bytes).unwrap();
    let close = CloseCode::HEARTBEAT.0.to_be_bytes();
    assert!(bytes.starts_with(&[0x89, 0]), "a Ping comes first: {bytes:?}");
    assert!(bytes.windows(4).any(|w| w[0] == 0x88 && w[2..] == close), "then the Close: {bytes:?}");
}

#[test]
fn a_slow_reader_is_cut_off_and_others_do_not_notice() {
    let config = TempFile::new("slow.toml", "outbox_bytes_max = 524288\nwrite_timeout_ms = 500\n");
    let server =
        Server::simulated("EGX", &recent_anchor(), &["--config", config.path(), "--updates-per-second", "20000"]);
    let mut slow = Client::connect(&server, Encoding::Json, r#"{"sub":"slow"}"#);
    slow.subscribe(subscribe("order_book", "EGX", &["*"]));
    let mut quick = Client::connect(&server, Encoding::Proto, r#"{"sub":"quick"}"#);
    let mut expected = quick.subscribe(subscribe("market_data", "EGX", &["COMI"])).accepted[0].seq;
    let mut cut = false;
    // The slow one reads nothing more; the quick one counts until the log says that the slow one is gone.
    while !cut {
        let update = quick.next_update();
        assert_eq!(update.seq, expected);
        expected += 1;
        cut = expected.is_multiple_of(200) && server.get("/load").contains("\"sessions\":1,");
    }
    assert!(server.logged("session closed").contains("code=4008"));
}
