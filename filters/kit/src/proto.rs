//! A reader of protobuf fields that builds nothing, and the few writers that an edit needs.
//!
//! Knows the wire format only; field numbers are `head`'s.

use crate::json::Span;

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotProto;

/// One field as it lies in the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Its number.
    pub(crate) number: u32,
    /// Its wire type (0 varint, 1 fixed64, 2 length-delimited, 5 fixed32).
    pub(crate) wire: u8,
    /// Tag and value together.
    pub(crate) whole: Span,
    /// The value; for wire type 2 without its length.
    pub(crate) value: Span,
}

/// Calls `each` with every field of the message that `span` of `bytes` holds.
pub(crate) fn fields(
    bytes: &[u8],
    span: Span,
    mut each: impl FnMut(Field) -> Result<(), NotProto>,
) -> Result<(), NotProto> {
    let end = span.end as usize;
    let bytes = bytes.get(..end).ok_or(NotProto)?;
    let mut at = span.start as usize;
    while at < end {
        let start = at;
        let tag = varint(bytes, &mut at)?;
        let number = u32::try_from(tag >> 3).map_err(|_| NotProto)?;
        let wire = (tag & 7) as u8;
        if number == 0 {
            return Err(NotProto);
        }
        let from = match wire {
            0 => {
                let from = at;
                varint(bytes, &mut at)?;
                from
            }
            1 | 5 => {
                let from = at;
                at += if wire == 1 { 8 } else { 4 };
                from
            }
            2 => {
                let len = usize::try_from(varint(bytes, &mut at)?).map_err(|_| NotProto)?;
                let from = at;
                at = at.checked_add(len).ok_or(NotProto)?;
                from
            }
            // Groups (3, 4) are in no message of ours and in no proto3 message at all.
            _ => return Err(NotProto),
        };
        if at > end {
            return Err(NotProto);
        }
        each(Field { number, wire, whole: Span::new(start, at), value: Span::new(from, at) })?;
    }
    Ok(())
}

/// Reads a varint at `at` and moves behind it.
pub(crate) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, NotProto> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(NotProto)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return Err(NotProto);
        }
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(NotProto)
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a varint field.
pub(crate) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

/// Appends a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a string field, as proto3 does: not at all when empty.
pub(crate) fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}
