//! The harness of the black-box tests: real processes, real sockets, a real Envoy.
//!
//! It knows the products only by their command lines, configuration files and wire: the one library of ours
//! that it uses is `bawaba_channels`, to read protobuf events. Waiting is always for an event (a printed
//! line, a message, the end of a process) with a deadline; nothing sleeps for a guessed time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness fails loudly, with what it saw"
)]

pub mod client;
pub mod http;
pub mod keys;
pub mod lab;
pub mod place;
pub mod process;
pub mod relay;
pub mod scenario;
pub mod stack;
pub mod transcript;

use std::time::{Duration, Instant};

/// How long a test waits for an event unless it says otherwise. Generous: it is only ever reached by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

/// The deadline `limit` from now.
pub fn by(limit: Duration) -> Deadline {
    Deadline(Instant::now() + limit)
}

impl Deadline {
    /// Time left; `None` once it has passed.
    pub fn left(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// Asks `probe` again and again until it answers, backing off from 1 ms to 50 ms between two questions.
///
/// For readiness that can only be asked for (an HTTP endpoint, a metric); panics with `what` at the deadline.
pub fn until<T>(what: &str, deadline: Deadline, mut probe: impl FnMut() -> Option<T>) -> T {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        let Some(left) = deadline.left() else {
            panic!("waited in vain until {what}");
        };
        std::thread::park_timeout(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
