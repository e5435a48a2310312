//! WebSocket frames (RFC 6455, section 5) for both roles, without I/O.
//!
//! [`Decoder`] reads the frames of one direction from a caller's buffer and holds no bytes itself;
//! [`encode`] writes one. It knows framing only: assembling fragments and checking text is
//! [`crate::message`]. No extension is ever negotiated behind it, so any RSV bit fails closed.

use alloc::vec::Vec;

use crate::close::CloseCode;

/// Longest frame header: 2 bytes, 8 of extended length, 4 of masking key.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Who wrote the frames that are read: clients mask, servers do not (RFC 6455, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Frames from a client; each must be masked.
    Client,
    /// Frames from a server; none may be masked.
    Server,
}

/// The frame opcodes of RFC 6455, 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of the message that is open.
    Continuation = 0x0,
    /// First (or only) frame of a text message.
    Text = 0x1,
    /// First (or only) frame of a binary message.
    Binary = 0x2,
    /// Connection close.
    Close = 0x8,
    /// Ping.
    Ping = 0x9,
    /// Pong.
    Pong = 0xA,
}

impl Opcode {
    /// Whether this is a control opcode (Close, Ping, Pong).
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// What is wrong with the bytes of a peer; [`FrameError::close_code`] says how to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An RSV bit is set though no extension was negotiated.
    #[error("a reserved bit is set, but no extension was negotiated")]
    ReservedBit,
    /// Opcode 3-7 or 11-15.
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// A client frame without a mask.
    #[error("a client frame is not masked")]
    Unmasked,
    /// A server frame with a mask.
    #[error("a server frame is masked")]
    Masked,
    /// A fragmented control frame.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame longer than 125 bytes.
    #[error("a control frame is longer than 125 bytes")]
    LongControl,
    /// A length not written in the fewest bytes, or with its top bit set.
    #[error("the payload length is not in its shortest form")]
    LengthForm,
    /// A continuation frame where no message is open.
    #[error("a continuation frame without a message to continue")]
    NothingToContinue,
    /// A new message before the open one ended.
    #[error("a new message before the fragmented one ended")]
    MessageOpen,
    /// The message (all fragments together) is over the limit.
    #[error("the message is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u32,
    },
    /// A frame after the Close frame.
    #[error("a frame after the close frame")]
    AfterClose,
    /// A Close frame with a one-byte payload or a code that may not be sent.
    #[error("the close frame carries no valid code")]
    CloseForm,
    /// Text that is not UTF-8.
    #[error("text is not valid UTF-8")]
    NotUtf8,
}

impl FrameError {
    /// The close code that answers this error.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::TooLarge { .. } => CloseCode::TOO_LARGE,
            Self::NotUtf8 => CloseCode::INVALID_PAYLOAD,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

/// A frame header as read from the wire, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Last frame of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, if masked.
    pub mask: Option<[u8; 4]>,
    /// Length of the header itself, in bytes.
    pub header_len: usize,
    /// Length of the payload, in bytes; within the decoder's limit.
    pub payload_len: usize,
}

impl Header {
    /// Length of the whole frame, in bytes.
    pub const fn frame_len(&self) -> usize {
        self.header_len + self.payload_len
    }
}

/// One whole frame, its payload unmasked in the caller's buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// The payload, unmasked.
    pub payload: &'a mut [u8],
}

/// The state of one direction: which message is open, how long it is so far, whether it is closed.
///
/// Holds no bytes. A frame is legal or not before its payload has arrived.
#[derive(Clone, Debug)]
pub struct Decoder {
    sender: Sender,
    message_bytes_max: u32,
    /// Payload bytes of the open message so far; `None` when no message is open.
    open: Option<u32>,
    closed: bool,
}

impl Decoder {
    /// A decoder for frames written by `sender`; a message of more than `message_bytes_max` payload
    /// bytes is refused at the header that crosses the limit.
    pub const fn new(sender: Sender, message_bytes_max: u32) -> Self {
        Self { sender, message_bytes_max, open: None, closed: false }
    }

    /// Whether the next frame begins a new message (no fragment is outstanding).
    pub const fn at_message_boundary(&self) -> bool {
        self.open.is_none()
    }

    /// Whether a Close frame has been taken.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads and checks the header at the start of `input` without taking it.
    ///
    /// `Ok(None)`: the header is not complete yet. The payload may still be missing.
    pub fn peek(&self, input: &[u8]) -> Result<Option<Header>, FrameError> {
        let &[first, second, ref rest @ ..] = input else {
            return Ok(None);
        };
        if self.closed {
            return Err(FrameError::AfterClose);
        }
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBit);
        }
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(FrameError::ReservedOpcode(first & 0x0F))?;
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        match (self.sender, masked) {
            (Sender::Client, false) => return Err(FrameError::Unmasked),
            (Sender::Server, true) => return Err(FrameError::Masked),
            _ => {}
        }
        let short = second & 0x7F;
        if opcode.is_control() {
            if !fin {
                return Err(FrameError::FragmentedControl);
            }
            if usize::from(short) > CONTROL_BYTES_MAX {
                return Err(FrameError::LongControl);
            }
        } else {
            match (opcode, self.open) {
                (Opcode::Continuation, None) => return Err(FrameError::NothingToContinue),
                (Opcode::Text | Opcode::Binary, Some(_)) => return Err(FrameError::MessageOpen),
                _ => {}
            }
        }
        let (len, extended) = match short {
            126 => {
                let Some(bytes) = rest.first_chunk::<2>() else {
                    return Ok(None);
                };
                let len = u64::from(u16::from_be_bytes(*bytes));
                if len < 126 {
                    return Err(FrameError::LengthForm);
                }
                (len, 2)
            }
            127 => {
                let Some(bytes) = rest.first_chunk::<8>() else {
                    return Ok(None);
                };
                let len = u64::from_be_bytes(*bytes);
                if len <= u64::from(u16::MAX) || len >> 63 != 0 {
                    return Err(FrameError::LengthForm);
                }
                (len, 8)
            }
            short => (u64::from(short), 0),
        };
        if !opcode.is_control()
            && u64::from(self.open.unwrap_or(0)).saturating_add(len) > u64::from(self.message_bytes_max)
        {
            return Err(FrameError::TooLarge { limit: self.message_bytes_max });
        }
        let mask = if masked {
            let Some(key) = rest[extended..].first_chunk::<4>() else {
                return Ok(None);
            };
            Some(*key)
        } else {
            None
        };
        let header_len = 2 + extended + if masked { 4 } else { 0 };
        // A payload within a u32 limit (or a control's 125) fits usize on every target we build for.
        Ok(Some(Header { fin, opcode, mask, header_len, payload_len: len as usize }))
    }

    /// Takes the frame at the start of `input` once it is whole, unmasking its payload in place.
    ///
    /// `Ok(None)`: more bytes are needed; `input` is untouched. After `Ok(Some(frame))` the caller drops
    /// `frame.header.frame_len()` bytes from the front of its buffer.
    pub fn decode<'a>(&mut self, input: &'a mut [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let Some(header) = self.peek(input)? else {
            return Ok(None);
        };
        let Some(frame) = input.get_mut(..header.frame_len()) else {
            return Ok(None);
        };
        self.take(&header);
        let payload = &mut frame[header.header_len..];
        if let Some(key) = header.mask {
            apply_mask(payload, key, 0);
        }
        Ok(Some(Frame { header, payload }))
    }

    /// Records that the frame with this header (from [`Self::peek`]) has been taken from the input; for
    /// callers that pass frames on as they are.
    pub fn take(&mut self, header: &Header) {
        match header.opcode {
            Opcode::Close => self.closed = true,
            Opcode::Ping | Opcode::Pong => {}
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                let so_far = self.open.unwrap_or(0) + header.payload_len as u32;
                self.open = if header.fin { None } else { Some(so_far) };
            }
        }
    }
}

/// XORs `payload` with the masking `key`, `offset` bytes into the frame's payload (RFC 6455, 5.3).
pub fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let key = [key[offset % 4], key[(offset + 1) % 4], key[(offset + 2) % 4], key[(offset + 3) % 4]];
    let word = u32::from_ne_bytes(key);
    let wide = u64::from(word) << 32 | u64::from(word);
    let (chunks, tail) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends one frame to `out`; masked with `mask` when the writer is a client.
///
/// Control frames must be `fin` and at most 125 bytes: longer payloads are cut there.
pub fn encode(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    let payload = if opcode.is_control() { &payload[..payload.len().min(CONTROL_BYTES_MAX)] } else { payload };
    out.reserve(HEADER_BYTES_MAX + payload.len());
    out.push(if fin || opcode.is_control() { 0x80 } else { 0 } | opcode as u8);
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..=125 => out.push(masked | len as u8),
        len @ 126..=0xFFFF => {
            out.push(masked | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let start = match mask {
        Some(key) => {
            out.extend_from_slice(&key);
            out.len()
        }
        None => out.len(),
    };
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key, 0);
    }
}

/// Appends a Close frame with `code` and a reason for people, cut at a character border to fit.
pub fn encode_close(out: &mut Vec<u8>, code: CloseCode, reason: &str, mask: Option<[u8; 4]>) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.0.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    encode(out, true, Opcode::Close, &payload, mask);
}

/// Reads the payload of a Close frame: `None` for an empty one.
pub fn parse_close(payload: &[u8]) -> Result<Option<(CloseCode, &str)>, FrameError> {
    match payload {
        [] => Ok(None),
        [_] => Err(FrameError::CloseForm),
        [high, low, reason @ ..] => {
            let code = CloseCode(u16::from_be_bytes([*high, *low]));
            if !code.may_be_received() {
                return Err(FrameError::CloseForm);
            }
            let reason = simdutf8::basic::from_utf8(reason).map_err(|_| FrameError::NotUtf8)?;
            Ok(Some((code, reason)))
        }
    }
}

#[cfg(test)]
mod tests;
