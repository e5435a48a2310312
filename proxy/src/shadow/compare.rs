//! What two filters made of the same frames. Pings and Pongs are their own business (a refusal travels by a private one),
//! as are masking keys: what counts is which messages arrive, and with what content.

use bawaba_channels::frame::{Decoder, Opcode, Sender};
use bawaba_filter_host::Way;
use serde::Serialize;

/// How a candidate differs. The labels of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// One opens what the other refuses.
    Handshake,
    /// It holds back a message that the other passes.
    Refused,
    /// It passes a message that the other holds back.
    Passed,
    /// It passes the message with another content.
    Edited,
    /// It closes the session.
    Closed,
    /// It leaves open what the other closes.
    Open,
}

impl Difference {
    /// All, in the order of their counters.
    pub const ALL: [Self; 6] = [Self::Handshake, Self::Refused, Self::Passed, Self::Edited, Self::Closed, Self::Open];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Refused => "refused",
            Self::Passed => "passed",
            Self::Edited => "edited",
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// Messages to the client that only one side will send: answers to requests that only it refused.
#[derive(Debug, Default)]
pub(super) struct Owed {
    active: usize,
    candidate: usize,
}

/// Compares what came out of the two.
pub(super) fn frames(way: Way, active: &[u8], candidate: &[u8], owed: &mut Owed) -> Option<Difference> {
    if active == candidate {
        return None;
    }
    let (active, candidate) = (messages(way, active), messages(way, candidate));
    if active == candidate {
        return None;
    }
    let closes = |messages: &[(Opcode, Vec<u8>)]| messages.iter().any(|(opcode, _)| *opcode == Opcode::Close);
    match (closes(&active), closes(&candidate)) {
        (false, true) => return Some(Difference::Closed),
        (true, false) => return Some(Difference::Open),
        _ => {}
    }
    let (fewer, more) = (active.len().saturating_sub(candidate.len()), candidate.len().saturating_sub(active.len()));
    if way == Way::Request {
        owed.candidate += fewer;
        owed.active += more;
    } else if (fewer > 0 && fewer <= owed.active) || (more > 0 && more <= owed.candidate) {
        // The difference was counted when the request was judged.
        owed.active -= fewer;
        owed.candidate -= more;
        return None;
    }
    Some(match (fewer, more) {
        (0, 0) => Difference::Edited,
        (0, _) => Difference::Passed,
        _ => Difference::Refused,
    })
}

/// Data and Close frames, unmasked. What is no run of whole frames counts as one message.
fn messages(way: Way, bytes: &[u8]) -> Vec<(Opcode, Vec<u8>)> {
    let sender = if way == Way::Request { Sender::Client } else { Sender::Server };
    let mut decoder = Decoder::new(sender, u32::MAX);
    let mut bytes_left = bytes.to_vec();
    let (mut messages, mut at) = (Vec::new(), 0);
    while at < bytes_left.len() {
        let Ok(Some(frame)) = decoder.decode(&mut bytes_left[at..]) else {
            return vec![(Opcode::Binary, bytes.to_vec())];
        };
        at += frame.header.frame_len();
        if !matches!(frame.header.opcode, Opcode::Ping | Opcode::Pong) {
            messages.push((frame.header.opcode, frame.payload.to_vec()));
        }
    }
    messages
}

/// The same as text; words of ours stay what they are.
pub(super) fn texts(way: Way, bytes: &[u8]) -> Vec<String> {
    messages(way, bytes).iter().map(|(_, payload)| String::from_utf8_lossy(payload).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use bawaba_channels::frame::encode;

    use super::*;

    fn run(way: Way, frames: &[(Opcode, &str)], mask: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (opcode, payload) in frames {
            encode(&mut bytes, true, *opcode, payload.as_bytes(), (way == Way::Request).then_some([mask; 4]));
        }
        bytes
    }

    #[test]
    fn what_arrives_is_compared_and_not_how_it_travels() {
        use Opcode::{Close, Ping, Text};
        let close = "\u{3}\u{e8}";
        type Frames<'a> = &'a [(Opcode, &'a str)];
        let table: [(Frames<'_>, Frames<'_>, Option<Difference>); 8] = [
            (&[(Text, "a")], &[(Text, "a")], None),
            (&[(Ping, "private")], &[(Ping, "other")], None),
            (&[(Text, "a")], &[(Text, "b")], Some(Difference::Edited)),
            (&[(Text, "a"), (Text, "b")], &[(Text, "b")], Some(Difference::Refused)),
            (&[(Text, "a")], &[(Ping, "refused")], Some(Difference::Refused)),
            (&[], &[(Text, "a")], Some(Difference::Passed)),
            (&[(Text, "a")], &[(Close, close)], Some(Difference::Closed)),
            (&[(Close, close)], &[(Text, "a")], Some(Difference::Open)),
        ];
        for (active, candidate, expected) in table {
            for way in [Way::Request, Way::Response] {
                let found = frames(way, &run(way, active, 1), &run(way, candidate, 9), &mut Owed::default());
                assert_eq!(found, expected, "{way:?}: {active:?} {candidate:?}");
            }
        }
    }

    #[test]
    fn a_refusal_is_counted_once_though_its_answer_comes_later() {
        let mut owed = Owed::default();
        let (request, answer) =
            (run(Way::Request, &[(Opcode::Text, "r")], 1), run(Way::Response, &[(Opcode::Text, "no")], 0));
        assert_eq!(frames(Way::Request, &request, b"", &mut owed), Some(Difference::Refused));
        assert_eq!(frames(Way::Response, b"", &answer, &mut owed), None, "the candidate's answer to it");
        assert_eq!(frames(Way::Response, b"", &answer, &mut owed), Some(Difference::Passed));
    }
}
