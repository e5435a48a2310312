use std::collections::VecDeque;
use std::task::Waker;

use bawaba_channels::close::CloseCode;
use bawaba_channels::frame::{Opcode, encode};
use proptest::prelude::*;

use super::*;

/// What a socket does next.
enum Step {
    Bytes(Vec<u8>),
    Wait,
    End,
}

struct Reader(VecDeque<Step>);

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0.pop_front() {
            Some(Step::Bytes(bytes)) => {
                buf.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Some(Step::Wait) => Poll::Pending,
            Some(Step::End) | None => Poll::Ready(Ok(())),
        }
    }
}

/// Takes so many bytes at a time; 0 for none this time.
struct Writer {
    takes: VecDeque<usize>,
    written: Vec<u8>,
    is_shut: bool,
}

impl Writer {
    fn new(takes: impl IntoIterator<Item = usize>) -> Self {
        Self { takes: takes.into_iter().collect(), written: Vec::new(), is_shut: false }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let takes = self.takes.pop_front().unwrap_or(usize::MAX).min(buf.len());
        if takes == 0 {
            return Poll::Pending;
        }
        self.written.extend_from_slice(&buf[..takes]);
        Poll::Ready(Ok(takes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

fn turn(
    lane: &mut Lane,
    from: &mut Reader,
    to: &mut Writer,
    judge: Option<&mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>>,
) -> (Result<Turn, LaneEnd>, Passed) {
    let mut passed = Passed::default();
    let mut cx = Context::from_waker(Waker::noop());
    let (from, to): (Pin<&mut Reader>, Pin<&mut Writer>) = (Pin::new(from), Pin::new(to));
    let turned = lane.turn(&mut cx, from, to, judge, &mut passed);
    (turned, passed)
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, fin, opcode, payload, Some([1, 2, 3, 4]));
    bytes
}

fn lane() -> Lane {
    Lane::new(Sender::Client, 1 << 20)
}

proptest! {
    /// Cut anywhere, taken in any portions, with a chain or without: every byte arrives once and in order, and a chain
    /// sees whole frames only.
    #[test]
    fn bytes_arrive_once_in_order_and_frames_are_judged_whole(
        sizes in prop::collection::vec(prop_oneof![0usize..130, 120usize..70_000], 1..12),
        cuts in prop::collection::vec(1usize..5_000, 1..40),
        takes in prop::collection::vec(0usize..40_000, 0..60),
        judged in any::<bool>(),
    ) {
        let frames: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(n, size)| frame(true, Opcode::Binary, &vec![n as u8; *size])).collect();
        let all = frames.concat();
        let mut steps = VecDeque::new();
        let (mut at, mut n) = (0, 0);
        while at < all.len() {
            let end = (at + cuts[n % cuts.len()]).min(all.len());
            steps.push_back(Step::Bytes(all[at..end].to_vec()));
            if n % 3 == 0 {
                steps.push_back(Step::Wait);
            }
            (at, n) = (end, n + 1);
        }
        steps.push_back(Step::End);
        let (mut from, mut to, mut lane) = (Reader(steps), Writer::new(takes), lane());
        let mut checker = Decoder::new(Sender::Client, 1 << 20);
        let mut whole = |bytes: &mut Vec<u8>| {
            let mut at = 0;
            while at < bytes.len() {
                let header = checker.peek(&bytes[at..]).unwrap().expect("a whole header");
                checker.take(&header);
                at += header.frame_len();
            }
            assert_eq!(at, bytes.len(), "a cut frame was judged");
            Ok(())
        };
        let (mut messages, mut bytes) = (0, 0);
        for _ in 0..10_000 {
            let judge = judged.then_some(&mut whole as &mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>);
            let (turned, passed) = turn(&mut lane, &mut from, &mut to, judge);
            messages += passed.messages;
            bytes += passed.bytes;
            if turned.unwrap() == Turn::Over {
                break;
            }
        }
        prop_assert!(to.is_shut, "the sender's end is passed on");
        prop_assert_eq!(&to.written, &all);
        prop_assert_eq!((messages, bytes), (frames.len(), all.len()));
    }
}

#[test]
fn nothing_is_read_while_the_receiver_takes_nothing() {
    let message = frame(true, Opcode::Text, b"hello");
    let mut from = Reader([Step::Bytes(message.clone()), Step::Bytes(message.clone()), Step::Wait].into());
    let (mut to, mut lane) = (Writer::new([0, 0, 0]), lane());
    for _ in 0..2 {
        assert_eq!(turn(&mut lane, &mut from, &mut to, None).0.unwrap(), Turn::Waiting);
        assert!(lane.is_waiting());
        assert_eq!(from.0.len(), 2, "the second message stays in the sender's socket");
    }
    assert_eq!(turn(&mut lane, &mut from, &mut to, None).0.unwrap(), Turn::Waiting);
    assert_eq!(to.written, [message.clone(), message].concat());
    assert!(!lane.is_waiting());
}

#[test]
fn an_idle_lane_holds_no_memory() {
    let big = frame(true, Opcode::Binary, &[7; 60_000]);
    let (head, tail) = big.split_at(100);
    let steps = [Step::Bytes(head.to_vec()), Step::Wait, Step::Bytes(tail.to_vec()), Step::Wait];
    let (mut from, mut to, mut lane) = (Reader(steps.into()), Writer::new([0]), lane());
    let mut pass = |_: &mut Vec<u8>| Ok(());
    for _ in 0..4 {
        turn(&mut lane, &mut from, &mut to, Some(&mut pass)).0.unwrap();
    }
    assert_eq!(to.written, big);
    assert_eq!((lane.cut.capacity(), lane.waiting.capacity()), (0, 0));
}

#[test]
fn a_frame_that_breaks_the_rules_stops_the_lane_before_it_passes() {
    let unmasked = {
        let mut bytes = Vec::new();
        encode(&mut bytes, true, Opcode::Text, b"hi", None);
        bytes
    };
    let mut reserved = frame(true, Opcode::Text, b"hi");
    reserved[0] |= 0x40;
    let mut giant = vec![0x82, 0xFF];
    giant.extend_from_slice(&(2u64 << 20).to_be_bytes());
    giant.extend_from_slice(&[0; 4]);
    for (bytes, code) in [
        (unmasked, CloseCode::PROTOCOL_ERROR),
        (reserved, CloseCode::PROTOCOL_ERROR),
        (giant, CloseCode::TOO_LARGE),
        (frame(true, Opcode::Continuation, b""), CloseCode::PROTOCOL_ERROR),
    ] {
        for judged in [false, true] {
            let (mut from, mut to, mut lane) = (Reader([Step::Bytes(bytes.clone())].into()), Writer::new([]), lane());
            let mut pass = |_: &mut Vec<u8>| Ok(());
            let judge = judged.then_some(&mut pass as &mut dyn FnMut(&mut Vec<u8>) -> Result<(), Ended>);
            match turn(&mut lane, &mut from, &mut to, judge).0 {
                Err(LaneEnd::Frame(error)) => assert_eq!(error.close_code(), code),
                other => panic!("{other:?}"),
            }
            assert!(to.written.is_empty(), "nothing of it passes");
        }
    }
}

#[test]
fn what_a_chain_takes_out_or_puts_in_is_what_arrives() {
    let mut from = Reader([Step::Bytes(frame(true, Opcode::Text, b"drop me")), Step::Wait].into());
    let (mut to, mut lane) = (Writer::new([]), lane());
    let mut replace = |frames: &mut Vec<u8>| {
        *frames = frame(true, Opcode::Text, b"instead");
        Ok(())
    };
    turn(&mut lane, &mut from, &mut to, Some(&mut replace)).0.unwrap();
    assert_eq!(to.written, frame(true, Opcode::Text, b"instead"));
    let mut from = Reader([Step::Bytes(frame(true, Opcode::Text, b"bad"))].into());
    let mut deny = |_: &mut Vec<u8>| Err(Ended::Failed("sharia".into()));
    let ended = turn(&mut lane, &mut from, &mut to, Some(&mut deny)).0;
    assert!(matches!(ended, Err(LaneEnd::Chain(Ended::Failed(_)))));
    assert_eq!(to.written.len(), frame(true, Opcode::Text, b"instead").len(), "what was not judged does not pass");
}
