//! Traffic framed by tungstenite, from both of its roles, against the kit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Cursor, Read, Write};

use bawaba_filter_kit::channels::wire::Encoding;
use bawaba_filter_kit::stream::Flow;
use proptest::prelude::*;
use support::*;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

/// Bytes written by one side, or to be read by the other.
#[derive(Default)]
struct Pipe {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn framed(role: Role, messages: &[Message]) -> Vec<u8> {
    let mut socket = WebSocket::from_raw_socket(Pipe::default(), role, None);
    for message in messages {
        socket.send(message.clone()).unwrap();
    }
    std::mem::take(&mut socket.get_mut().output)
}

fn read(role: Role, bytes: Vec<u8>) -> Vec<Message> {
    let pipe = Pipe { input: Cursor::new(bytes), output: Vec::new() };
    let mut socket = WebSocket::from_raw_socket(pipe, role, None);
    std::iter::from_fn(|| socket.read().ok()).collect()
}

fn message() -> impl Strategy<Value = Message> {
    let symbol = prop::sample::select(vec!["COMI", "ABUK", "EAST", "DROP"]);
    prop_oneof![
        4 => (symbol, any::<u16>()).prop_map(|(symbol, seq)| Message::text(quote(symbol, seq.into()))),
        1 => prop::collection::vec(any::<u8>(), 0..120).prop_map(|payload| Message::Ping(payload.into())),
        1 => prop::collection::vec(any::<u8>(), 0..120).prop_map(|payload| Message::Pong(payload.into())),
    ]
}

fn passes(message: &Message) -> bool {
    !message.to_text().is_ok_and(|text| text.contains("EAST") || text.contains("DROP"))
        || message.is_ping()
        || message.is_pong()
}

proptest! {
    #[test]
    fn what_tungstenite_writes_passes_and_what_the_kit_writes_tungstenite_reads(
        sent in prop::collection::vec(message(), 0..20),
        chunk in 1usize..600,
    ) {
        let expected: Vec<Message> = sent.iter().filter(|message| passes(message)).cloned().collect();
        let mut stream = open(Encoding::Json);
        let mut out = Vec::new();
        for part in framed(Role::Server, &sent).chunks(chunk) {
            out.extend(stream.response(&Table, NOW, part.to_vec()).into_bytes());
        }
        prop_assert_eq!(read(Role::Client, out), expected);

        // Towards the backend nothing of these is judged: all of it passes, byte for byte.
        let up = framed(Role::Client, &sent);
        let mut stream = open(Encoding::Json);
        prop_assert_eq!(stream.request(&Table, NOW, up.clone()), Flow::Unchanged(up));
    }
}

#[test]
fn refusals_and_closes_read_well() {
    let mut stream = open(Encoding::Json);
    let up = framed(Role::Client, &[Message::text(order(1, "EAST")), Message::text(order(2, "COMI"))]);
    let seen = read(Role::Server, stream.request(&Table, NOW, up).into_bytes());
    assert!(matches!(&seen[..], [Message::Ping(_), Message::Text(order)] if order.contains("COMI")), "{seen:?}");
    let down = framed(Role::Server, &[Message::Pong(seen[0].clone().into_data()), Message::text(quote("SHUT", 1))]);
    let heard = read(Role::Client, stream.response(&Table, NOW, down).into_bytes());
    let [Message::Text(refusal), Message::Close(Some(close))] = &heard[..] else { panic!("{heard:?}") };
    assert!(refusal.contains(r#""id":1,"code":"sharia.not_listed""#));
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4451, "sharia.not_compliant"));
}
