//! Somebody who looks on while one filter of a chain judges: sees what the filter got and what it made of it, and changes
//! nothing. A chain that nobody looks on pays one comparison for each filter and message.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chain::{Properties, StreamToken, Way};
use crate::error::Cause;
use crate::headers::Headers;

/// What became of bytes in one filter.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// They went on, as they are here.
    Passed(&'a [u8]),
    /// The filter holds them back until more comes.
    Held,
    /// It closed the stream, or answered in the server's place.
    Ended,
    /// It gave no verdict.
    Failed(Cause),
}

/// One body callback of the filter, of an upgraded stream.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The stream.
    pub token: StreamToken,
    /// Its direction.
    pub way: Way,
    /// What the filter got.
    pub input: &'a [u8],
    /// What it made of it.
    pub verdict: Verdict<'a>,
    /// How long it took.
    pub took: Duration,
}

/// The handshake of a stream as it reached the filter.
pub struct Handshake {
    /// The request.
    pub request: Headers,
    /// The answer to it, if it has come.
    pub response: Option<Headers>,
    /// What filters may ask about the stream.
    pub properties: Rc<dyn Properties>,
}

/// See the file's description.
pub trait Tap {
    /// The filter judged. `handshake` is worked out only when it is asked for.
    fn judged(&mut self, seen: &Seen<'_>, handshake: &dyn Fn() -> Handshake);
    /// A stream is over.
    fn closed(&mut self, token: StreamToken);
    /// Time goes on.
    fn tick(&mut self, now: Instant);
}
