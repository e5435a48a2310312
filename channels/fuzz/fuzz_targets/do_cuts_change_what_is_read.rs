//! Reads the same bytes whole and in pieces: the same messages and the same error must come out.
#![no_main]

use bawaba_channels::frame::{Decoder, FrameError, Sender};
use bawaba_channels::message::Assembler;
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8], sender: Sender, step: usize) -> (Vec<String>, Option<FrameError>) {
    let (mut decoder, mut assembler) = (Decoder::new(sender, 4096), Assembler::new());
    let (mut pending, mut got) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        pending.extend_from_slice(piece);
        loop {
            let length = match decoder.decode(&mut pending) {
                Err(error) => return (got, Some(error)),
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let length = frame.header.frame_len();
                    match assembler.push(frame) {
                        Err(error) => return (got, Some(error)),
                        Ok(message) => got.extend(message.map(|m| format!("{m:?}"))),
                    }
                    length
                }
            };
            pending.drain(..length);
        }
    }
    (got, None)
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (control, bytes) = input;
    if bytes.is_empty() {
        return;
    }
    let sender = if control & 1 == 0 { Sender::Client } else { Sender::Server };
    let step = usize::from(control >> 1) % 17 + 1;
    assert_eq!(read(&bytes, sender, bytes.len()), read(&bytes, sender, step));
});
