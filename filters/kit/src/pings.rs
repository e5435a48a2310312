//! Which Pings are on their way to the backend: the client's, and our own.
//!
//! A refused request is answered from the response direction, and only a callback of that direction may write
//! there. So the backend is pinged: its Pong is the callback. One Pong may stand for several Pings (RFC 6455,
//! 5.5.3), therefore both kinds share one queue, and what the backend leaves out towards the client is made up.

use std::collections::VecDeque;

use bawaba_channels::frame::{self, Opcode};

use crate::rng::Rng;

/// Client Pings that are remembered. Beyond it the oldest is forgotten: a Pong that never comes for a Ping so
/// old is what RFC 6455 allows any server anyway.
const CLIENT_PINGS_MAX: usize = 64;

/// Private payload: 16 random bytes per stream. A fixed one could be forged by a client to have its own Pongs
/// swallowed, or by a backend to guess at refusals.
const NONCE_BYTES: usize = 16;

#[derive(Debug)]
enum Ping {
    Own,
    Client(Vec<u8>),
}

/// The queue of one stream.
#[derive(Debug)]
pub(crate) struct Pings {
    nonce: [u8; NONCE_BYTES],
    queue: VecDeque<Ping>,
    own: bool,
}

/// What becomes of a Pong from the backend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PongFate {
    /// It is the client's (or nobody's): passes as it is.
    Passes,
    /// It is ours: swallowed, and the Pongs written in its place are those of client Pings that it covered.
    Swallowed,
}

impl Pings {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        for half in nonce.chunks_exact_mut(8) {
            half.copy_from_slice(&rng.next().to_le_bytes());
        }
        Self { nonce, queue: VecDeque::new(), own: false }
    }

    /// Notes a Ping of the client that goes to the backend.
    pub(crate) fn client(&mut self, payload: &[u8]) {
        if self.queue.len() > CLIENT_PINGS_MAX {
            // Our own (there is at most one) keeps its place: refusals wait for it.
            if let Some(at) = self.queue.iter().position(|ping| matches!(ping, Ping::Client(_))) {
                self.queue.remove(at);
            }
        }
        self.queue.push_back(Ping::Client(payload.to_vec()));
    }

    /// Writes a Ping of our own towards the backend, unless one is under way: its Pong is still to come, and it
    /// releases everything that is pending when it does.
    pub(crate) fn ask(&mut self, out: &mut Vec<u8>, rng: &mut Rng) {
        if !self.own {
            self.own = true;
            self.queue.push_back(Ping::Own);
            frame::encode(out, true, Opcode::Ping, &self.nonce, Some(rng.mask()));
        }
    }

    /// Takes a Pong of the backend; writes to `out` what the client gets instead when it is swallowed.
    pub(crate) fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) -> PongFate {
        if payload == self.nonce {
            if let Some(at) = self.queue.iter().position(|ping| matches!(ping, Ping::Own)) {
                for ping in self.queue.drain(..=at) {
                    if let Ping::Client(covered) = ping {
                        frame::encode(out, true, Opcode::Pong, &covered, None);
                    }
                }
                self.own = false;
            }
            return PongFate::Swallowed;
        }
        let answered = |ping: &Ping| matches!(ping, Ping::Client(known) if known == payload);
        // The newest of several that look alike: taking an older one would leave ours waiting for a Pong that a merging
        // server already saved itself, and with it every refusal to come. Taking the newest costs at most a Ping.
        if let Some(at) = self.queue.iter().rposition(answered) {
            for ping in self.queue.drain(..=at) {
                if matches!(ping, Ping::Own) {
                    self.own = false;
                }
            }
        }
        PongFate::Passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pings() -> (Pings, Rng) {
        let mut rng = Rng::new(7);
        (Pings::new(&mut rng), rng)
    }

    fn pongs(of: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for payload in of {
            frame::encode(&mut out, true, Opcode::Pong, payload, None);
        }
        out
    }

    #[test]
    fn a_pong_of_ours_is_swallowed_and_makes_up_the_client_pongs_it_covers() {
        let (mut pings, mut rng) = pings();
        let nonce = pings.nonce;
        pings.client(b"a");
        pings.client(b"b");
        pings.ask(&mut Vec::new(), &mut rng);
        pings.client(b"c");
        let mut out = Vec::new();
        assert_eq!(pings.pong(&nonce, &mut out), PongFate::Swallowed);
        assert_eq!(out, pongs(&[b"a", b"b"]));
        out.clear();
        assert_eq!(pings.pong(b"c", &mut out), PongFate::Passes);
        assert_eq!(pings.pong(&nonce, &mut out), PongFate::Swallowed, "every Pong that bears the payload");
        assert_eq!(out, b"");
    }

    #[test]
    fn a_client_pong_that_covers_ours_lets_the_next_refusal_ask_again() {
        let (mut pings, mut rng) = pings();
        let mut first = Vec::new();
        pings.ask(&mut first, &mut rng);
        let mut again = Vec::new();
        pings.ask(&mut again, &mut rng);
        assert!(!first.is_empty() && again.is_empty(), "one at a time");
        pings.client(b"a");
        assert_eq!(pings.pong(b"a", &mut Vec::new()), PongFate::Passes);
        pings.ask(&mut again, &mut rng);
        assert!(!again.is_empty());
    }

    #[test]
    fn pings_that_look_alike_never_leave_ours_waiting() {
        let (mut pings, mut rng) = pings();
        pings.client(b"");
        pings.ask(&mut Vec::new(), &mut rng);
        pings.client(b"");
        // One Pong for all three.
        assert_eq!(pings.pong(b"", &mut Vec::new()), PongFate::Passes);
        let mut again = Vec::new();
        pings.ask(&mut again, &mut rng);
        assert!(!again.is_empty());
    }

    #[test]
    fn a_flood_of_pings_is_bounded_and_ours_survives_it() {
        let (mut pings, mut rng) = pings();
        pings.ask(&mut Vec::new(), &mut rng);
        for n in 0..1000u32 {
            pings.client(&n.to_le_bytes());
        }
        assert!(pings.queue.len() <= CLIENT_PINGS_MAX + 1);
        let nonce = pings.nonce;
        let mut out = Vec::new();
        assert_eq!(pings.pong(&nonce, &mut out), PongFate::Swallowed);
        assert!(out.is_empty() && !pings.own);
    }
}
