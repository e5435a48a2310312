use super::*;
use crate::frame::{Decoder, Sender, encode};
use alloc::string::{String, ToString};
use alloc::vec;
use proptest::prelude::*;

/// What a reader gets out of `bytes` in pieces of `step` bytes; the error ends it.
fn read_all(bytes: &[u8], step: usize) -> (Vec<String>, Option<FrameError>) {
    let mut decoder = Decoder::new(Sender::Server, 1 << 16);
    let mut assembler = Assembler::new();
    let (mut pending, mut got) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        pending.extend_from_slice(piece);
        loop {
            let length = match decoder.decode(&mut pending) {
                Err(error) => return (got, Some(error)),
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let length = frame.header.frame_len();
                    match assembler.push(frame) {
                        Err(error) => return (got, Some(error)),
                        Ok(Some(message)) => got.push(alloc::format!("{message:?}")),
                        Ok(None) => {}
                    }
                    length
                }
            };
            pending.drain(..length);
        }
    }
    (got, None)
}

#[test]
fn text_that_can_no_longer_become_utf8_is_refused_at_once() {
    let mut bytes = Vec::new();
    encode(&mut bytes, false, Opcode::Text, b"caf\xC3", None);
    encode(&mut bytes, false, Opcode::Continuation, b"\xA9!", None);
    assert_eq!(read_all(&bytes, 100), (vec![], None), "a character may be cut between fragments");
    encode(&mut bytes, false, Opcode::Continuation, b"\xFF", None);
    assert_eq!(read_all(&bytes, 100).1, Some(FrameError::NotUtf8), "before the last fragment");

    let mut cut = Vec::new();
    encode(&mut cut, false, Opcode::Text, b"caf\xC3", None);
    encode(&mut cut, true, Opcode::Continuation, b"", None);
    assert_eq!(read_all(&cut, 100).1, Some(FrameError::NotUtf8), "ends inside a character");
}

#[test]
fn control_frames_pass_between_fragments() {
    let mut bytes = Vec::new();
    encode(&mut bytes, false, Opcode::Text, b"a", None);
    encode(&mut bytes, true, Opcode::Ping, b"p", None);
    encode(&mut bytes, true, Opcode::Continuation, b"b", None);
    encode(&mut bytes, true, Opcode::Text, b"c", None);
    let expected = vec![
        alloc::format!("{:?}", Message::Ping(b"p")),
        alloc::format!("{:?}", Message::Text("ab")),
        alloc::format!("{:?}", Message::Text("c")),
    ];
    assert_eq!(read_all(&bytes, 100), (expected, None));
}

proptest! {
    /// However the bytes are cut, and however a text is cut into fragments, the same messages come out.
    #[test]
    fn cuts_do_not_matter(texts in prop::collection::vec(("\\PC{0,40}", 1usize..9), 1..6), step in 1usize..50) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (text, fragment) in &texts {
            let mut pieces: Vec<&[u8]> = text.as_bytes().chunks(*fragment).collect();
            if pieces.is_empty() {
                pieces.push(b"");
            }
            for (i, piece) in pieces.iter().enumerate() {
                let opcode = if i == 0 { Opcode::Text } else { Opcode::Continuation };
                encode(&mut bytes, i + 1 == pieces.len(), opcode, piece, None);
            }
            expected.push(alloc::format!("{:?}", Message::Text(&text.to_string())));
        }
        prop_assert_eq!(read_all(&bytes, step), (expected, None));
    }

    /// The verdict on random bytes as text is the standard library's.
    #[test]
    fn utf8_is_judged_as_by_the_standard_library(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 1..6)) {
        let mut bytes = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let opcode = if i == 0 { Opcode::Text } else { Opcode::Continuation };
            encode(&mut bytes, i + 1 == parts.len(), opcode, part, None);
        }
        let whole: Vec<u8> = parts.concat();
        prop_assert_eq!(read_all(&bytes, 1000).1.is_none(), core::str::from_utf8(&whole).is_ok());
    }
}
