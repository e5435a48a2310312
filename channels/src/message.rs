//! From frames to messages: fragments joined, text checked as it comes, control frames handed through.
//!
//! [`Assembler`] is fed whole frames from [`crate::frame::Decoder`] and holds at most one message.

use alloc::vec::Vec;

use crate::close::CloseCode;
use crate::frame::{Frame, FrameError, Opcode, parse_close};

/// A whole message or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text, checked.
    Text(&'a str),
    /// Binary.
    Binary(&'a [u8]),
    /// Ping with its payload: answer with a Pong of the same.
    Ping(&'a [u8]),
    /// Pong.
    Pong(&'a [u8]),
    /// Close with its code and reason, if it has them.
    Close(Option<(CloseCode, &'a str)>),
}

/// Joins the fragments of one direction.
///
/// An unfragmented message is lent from the caller's buffer; only fragmented ones are copied. The length
/// is bounded by the [`crate::frame::Decoder`] that the frames come from.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    opcode: Option<Opcode>,
    parts: Vec<u8>,
    /// Bytes at the front of `parts` known to be whole UTF-8 characters.
    checked: usize,
    deliver: bool,
}

impl Assembler {
    /// An assembler with no message open.
    pub const fn new() -> Self {
        Self { opcode: None, parts: Vec::new(), checked: 0, deliver: false }
    }

    /// Takes one frame; `Ok(None)` while the message is not whole.
    ///
    /// Invalid UTF-8 is reported at the fragment that makes it certain, not at the end (RFC 6455, 8.1).
    pub fn push<'a>(&'a mut self, frame: Frame<'a>) -> Result<Option<Message<'a>>, FrameError> {
        if self.deliver {
            // The message that the last call lent is done with.
            self.deliver = false;
            self.parts = Vec::new();
            self.checked = 0;
        }
        let payload: &'a [u8] = frame.payload;
        match frame.header.opcode {
            Opcode::Ping => Ok(Some(Message::Ping(payload))),
            Opcode::Pong => Ok(Some(Message::Pong(payload))),
            Opcode::Close => Ok(Some(Message::Close(parse_close(payload)?))),
            opcode @ (Opcode::Text | Opcode::Binary) if frame.header.fin => Ok(Some(if opcode == Opcode::Text {
                Message::Text(simdutf8::basic::from_utf8(payload).map_err(|_| FrameError::NotUtf8)?)
            } else {
                Message::Binary(payload)
            })),
            opcode @ (Opcode::Text | Opcode::Binary) => {
                self.opcode = Some(opcode);
                self.extend(payload)?;
                Ok(None)
            }
            Opcode::Continuation => {
                self.extend(payload)?;
                if !frame.header.fin {
                    return Ok(None);
                }
                self.deliver = true;
                match self.opcode.take() {
                    Some(Opcode::Text) if self.checked == self.parts.len() => {
                        // Checked fragment by fragment above; this second look is cheap and keeps the code safe.
                        let text = simdutf8::basic::from_utf8(&self.parts).map_err(|_| FrameError::NotUtf8)?;
                        Ok(Some(Message::Text(text)))
                    }
                    Some(Opcode::Text) => Err(FrameError::NotUtf8),
                    Some(_) => Ok(Some(Message::Binary(&self.parts))),
                    None => Err(FrameError::NothingToContinue),
                }
            }
        }
    }

    fn extend(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        self.parts.extend_from_slice(payload);
        if self.opcode == Some(Opcode::Text) {
            match simdutf8::compat::from_utf8(&self.parts[self.checked..]) {
                Ok(_) => self.checked = self.parts.len(),
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(FrameError::NotUtf8),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
