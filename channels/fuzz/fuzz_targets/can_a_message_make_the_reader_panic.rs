//! Any bytes are a message or an error, and what was read is read again after writing.
#![no_main]

use bawaba_channels::wire::{Encoding, Event, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Json, Encoding::Proto] {
        if let Ok(request) = Request::decode(encoding, bytes) {
            let mut out = Vec::new();
            request.encode(encoding, &mut out);
            assert_eq!(Request::decode(encoding, &out), Ok(request));
        }
        if let Ok(event) = Event::decode(encoding, bytes) {
            let mut out = Vec::new();
            event.encode(Encoding::Proto, &mut out);
            assert_eq!(Event::decode(Encoding::Proto, &out), Ok(event));
        }
    }
});
