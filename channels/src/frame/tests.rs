use super::*;
use alloc::vec;
use proptest::prelude::*;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame as TungFrame, FrameHeader};

fn server_frame(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    Decoder::new(Sender::Server, 1000).peek(bytes)
}

#[test]
fn a_frame_that_breaks_rfc_6455_is_refused_at_its_header() {
    let table: &[(&[u8], FrameError)] = &[
        (&[0xC1, 0], FrameError::ReservedBit),
        (&[0xA1, 0], FrameError::ReservedBit),
        (&[0x91, 0], FrameError::ReservedBit),
        (&[0x83, 0], FrameError::ReservedOpcode(3)),
        (&[0x8B, 0], FrameError::ReservedOpcode(11)),
        (&[0x81, 0x80], FrameError::Masked),
        (&[0x09, 0], FrameError::FragmentedControl),
        (&[0x89, 126], FrameError::LongControl),
        (&[0x88, 127], FrameError::LongControl),
        (&[0x80, 0], FrameError::NothingToContinue),
        (&[0x82, 126, 0, 125], FrameError::LengthForm),
        (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], FrameError::LengthForm),
        (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::LengthForm),
        (&[0x82, 126, 0x03, 0xE9], FrameError::TooLarge { limit: 1000 }),
        (&[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], FrameError::TooLarge { limit: 1000 }),
    ];
    for (bytes, error) in table {
        assert_eq!(server_frame(bytes), Err(*error), "{bytes:02x?}");
    }
    assert_eq!(Decoder::new(Sender::Client, 1000).peek(&[0x81, 0]), Err(FrameError::Unmasked));
}

#[test]
fn fragments_together_may_not_pass_the_limit() {
    let mut decoder = Decoder::new(Sender::Server, 10);
    let mut first = vec![0x02, 6, 0, 0, 0, 0, 0, 0];
    assert!(decoder.decode(&mut first).unwrap().is_some());
    assert!(!decoder.at_message_boundary());
    assert!(decoder.peek(&[0x89, 125]).unwrap().is_some(), "a control frame does not count");
    assert_eq!(decoder.peek(&[0x80, 5]), Err(FrameError::TooLarge { limit: 10 }));
    assert_eq!(decoder.peek(&[0x81, 1]), Err(FrameError::MessageOpen));
}

#[test]
fn nothing_may_follow_a_close_frame() {
    let mut decoder = Decoder::new(Sender::Server, 10);
    decoder.decode(&mut [0x88, 0]).unwrap().unwrap();
    assert_eq!(decoder.peek(&[0x81, 0]), Err(FrameError::AfterClose));
}

#[test]
fn a_close_payload_is_empty_or_a_code_that_may_be_sent() {
    assert_eq!(parse_close(&[]), Ok(None));
    assert_eq!(parse_close(&[0x03]), Err(FrameError::CloseForm));
    for bad in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_eq!(parse_close(&bad.to_be_bytes()), Err(FrameError::CloseForm), "{bad}");
    }
    for (code, ..) in CloseCode::TABLE {
        assert_eq!(parse_close(&code.0.to_be_bytes()), Ok(Some((*code, ""))));
    }
    assert_eq!(parse_close(&[0x03, 0xE8, 0xFF]), Err(FrameError::NotUtf8));
}

#[test]
fn a_close_reason_is_cut_at_a_character_border() {
    let mut out = Vec::new();
    encode_close(&mut out, CloseCode::POLICY, &"ص".repeat(100), None);
    let frame = Decoder::new(Sender::Server, 10).decode(&mut out).unwrap().unwrap();
    let (code, reason) = parse_close(frame.payload).unwrap().unwrap();
    assert_eq!((code, reason.chars().count()), (CloseCode::POLICY, 61));
}

#[derive(Clone, Debug)]
struct Sent {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let length = prop_oneof![0usize..130, 65_530usize..65_540, 0usize..3000];
    (any::<bool>(), prop::sample::select(vec![0u8, 1, 2, 8, 9, 10]), length, any::<u8>()).prop_map(
        |(fin, opcode, length, seed)| {
            let control = opcode & 8 != 0;
            let length = if control { length % 126 } else { length };
            Sent {
                fin: fin || control,
                opcode,
                payload: (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect(),
            }
        },
    )
}

fn opcode(bits: u8) -> Opcode {
    Opcode::from_bits(bits).unwrap()
}

proptest! {
    /// Whatever tungstenite writes is read here, and what is written here is what tungstenite writes.
    #[test]
    fn frames_are_those_of_tungstenite(frame in sent(), key in prop::option::of(any::<[u8; 4]>())) {
        let theirs = match frame.opcode {
            8 => OpCode::Control(Control::Close),
            9 => OpCode::Control(Control::Ping),
            10 => OpCode::Control(Control::Pong),
            0 => OpCode::Data(Data::Continue),
            1 => OpCode::Data(Data::Text),
            _ => OpCode::Data(Data::Binary),
        };
        let header = FrameHeader { is_final: frame.fin, rsv1: false, rsv2: false, rsv3: false, opcode: theirs, mask: key };
        let mut expected = Vec::new();
        TungFrame::from_payload(header, frame.payload.clone().into()).format(&mut expected).unwrap();
        let mut ours = Vec::new();
        encode(&mut ours, frame.fin, opcode(frame.opcode), &frame.payload, key);
        prop_assert_eq!(&ours, &expected);

        let sender = if key.is_some() { Sender::Client } else { Sender::Server };
        let mut decoder = Decoder::new(sender, 1 << 20);
        if frame.opcode == 0 {
            decoder.open = Some(0);
        }
        let length = ours.len();
        for cut in [0, 1, length / 2, length - 1] {
            prop_assert!(decoder.decode(&mut ours[..cut]).unwrap().is_none());
        }
        let read = decoder.decode(&mut ours).unwrap().unwrap();
        prop_assert_eq!(read.header.frame_len(), length);
        prop_assert_eq!(read.header.opcode, opcode(frame.opcode));
        prop_assert_eq!(&*read.payload, &frame.payload[..]);
    }

    /// No input makes the decoder panic, and what it takes is never longer than its limit.
    #[test]
    fn any_bytes_are_a_frame_an_error_or_unfinished(mut bytes in prop::collection::vec(any::<u8>(), 0..200), client in any::<bool>()) {
        let mut decoder = Decoder::new(if client { Sender::Client } else { Sender::Server }, 64);
        let mut at = 0;
        while let Ok(Some(frame)) = decoder.decode(&mut bytes[at..]) {
            prop_assert!(frame.header.payload_len <= 125);
            at += frame.header.frame_len();
        }
        prop_assert!(at <= bytes.len());
    }

    #[test]
    fn masking_twice_is_nothing(payload in prop::collection::vec(any::<u8>(), 0..100), key in any::<[u8; 4]>(), cut in 0usize..100) {
        let mut masked = payload.clone();
        apply_mask(&mut masked, key, 0);
        let cut = cut.min(masked.len());
        let (front, back) = masked.split_at_mut(cut);
        apply_mask(front, key, 0);
        apply_mask(back, key, cut);
        prop_assert_eq!(masked, payload);
    }
}
