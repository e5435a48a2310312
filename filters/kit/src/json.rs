//! A strict reader of one JSON object that builds nothing: where each member lies, and no more.
//!
//! Structure is checked in full and a known key may stand only once, so that what a policy judged is what
//! the receiver's parser will read. Knows no protocol.

use std::borrow::Cow;

/// The text is not one JSON object (or breaks a bound); there is nothing to say about where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

/// A part of a text, by byte positions; `end == 0` stands for "absent".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        // Messages are bounded far below 4 GiB by the frame decoder's u32 limit.
        Self { start: start as u32, end: end as u32 }
    }

    pub(crate) const fn is_some(self) -> bool {
        self.end != 0
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// Deepest nesting inside the object that is read: serde_json's own limit of 128, less the object and the border.
const DEPTH_MAX: u32 = 126;

/// Calls `each` with every member of the object that `text` is: the key as written (without quotes) and the
/// span of the value. Returns the position of the closing brace.
pub(crate) fn members<'a>(
    text: &'a [u8],
    mut each: impl FnMut(&'a [u8], Span) -> Result<(), NotJson>,
) -> Result<usize, NotJson> {
    let mut at = space(text, 0);
    at = object(text, at, 0, &mut each)?;
    if space(text, at) != text.len() {
        return Err(NotJson);
    }
    Ok(at - 1)
}

/// Calls `each` with the span of every element of the array that `span` holds.
pub(crate) fn elements(
    text: &[u8],
    span: Span,
    mut each: impl FnMut(Span) -> Result<(), NotJson>,
) -> Result<(), NotJson> {
    let mut at = span.start as usize;
    if text.get(at) != Some(&b'[') {
        return Err(NotJson);
    }
    at = space(text, at + 1);
    if text.get(at) == Some(&b']') {
        return Ok(());
    }
    loop {
        let end = value(text, at, 1)?;
        each(Span::new(at, end))?;
        at = space(text, end);
        match text.get(at) {
            Some(b',') => at = space(text, at + 1),
            Some(b']') => return Ok(()),
            _ => return Err(NotJson),
        }
    }
}

/// The members of the object that `span` holds, as [`members`].
pub(crate) fn members_at<'a>(
    text: &'a [u8],
    span: Span,
    mut each: impl FnMut(&'a [u8], Span) -> Result<(), NotJson>,
) -> Result<usize, NotJson> {
    object(text, span.start as usize, 0, &mut each).map(|end| end - 1)
}

/// The string that `raw` (with its quotes) writes; `None` if it is no string.
pub(crate) fn string(raw: &[u8]) -> Option<Cow<'_, str>> {
    let [b'"', inner @ .., b'"'] = raw else { return None };
    unescaped(inner)
}

/// The text of a string's inside.
pub(crate) fn unescaped(inner: &[u8]) -> Option<Cow<'_, str>> {
    if !inner.contains(&b'\\') {
        return core::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    let mut quoted = Vec::with_capacity(inner.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(inner);
    quoted.push(b'"');
    serde_json::from_slice::<String>(&quoted).ok().map(Cow::Owned)
}

/// Appends `text` as a JSON string.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a string to memory can't fail.
        out.extend_from_slice(&serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec()));
    }
}

fn space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

fn object<'a>(
    text: &'a [u8],
    at: usize,
    depth: u32,
    each: &mut impl FnMut(&'a [u8], Span) -> Result<(), NotJson>,
) -> Result<usize, NotJson> {
    if text.get(at) != Some(&b'{') {
        return Err(NotJson);
    }
    let mut at = space(text, at + 1);
    if text.get(at) == Some(&b'}') {
        return Ok(at + 1);
    }
    loop {
        let key_end = quoted(text, at)?;
        let key = &text[at + 1..key_end - 1];
        at = space(text, key_end);
        if text.get(at) != Some(&b':') {
            return Err(NotJson);
        }
        at = space(text, at + 1);
        let end = value(text, at, depth + 1)?;
        each(key, Span::new(at, end))?;
        at = space(text, end);
        match text.get(at) {
            Some(b',') => at = space(text, at + 1),
            Some(b'}') => return Ok(at + 1),
            _ => return Err(NotJson),
        }
    }
}

/// The position after the value that begins at `at`.
fn value(text: &[u8], at: usize, depth: u32) -> Result<usize, NotJson> {
    match text.get(at) {
        Some(b'"') => quoted(text, at),
        Some(b'{') if depth <= DEPTH_MAX => object(text, at, depth, &mut |_, _| Ok(())),
        Some(b'[') if depth <= DEPTH_MAX => {
            let mut at = space(text, at + 1);
            if text.get(at) == Some(&b']') {
                return Ok(at + 1);
            }
            loop {
                at = space(text, value(text, at, depth + 1)?);
                match text.get(at) {
                    Some(b',') => at = space(text, at + 1),
                    Some(b']') => return Ok(at + 1),
                    _ => return Err(NotJson),
                }
            }
        }
        Some(b't') => literal(text, at, b"true"),
        Some(b'f') => literal(text, at, b"false"),
        Some(b'n') => literal(text, at, b"null"),
        Some(b'-' | b'0'..=b'9') => number(text, at),
        _ => Err(NotJson),
    }
}

fn literal(text: &[u8], at: usize, word: &[u8]) -> Result<usize, NotJson> {
    if text[at..].starts_with(word) { Ok(at + word.len()) } else { Err(NotJson) }
}

fn number(text: &[u8], mut at: usize) -> Result<usize, NotJson> {
    let digits = |mut at: usize| {
        let start = at;
        while matches!(text.get(at), Some(b'0'..=b'9')) {
            at += 1;
        }
        if at == start { Err(NotJson) } else { Ok(at) }
    };
    if text.get(at) == Some(&b'-') {
        at += 1;
    }
    let whole = digits(at)?;
    if text[at] == b'0' && whole != at + 1 {
        return Err(NotJson);
    }
    at = whole;
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(text.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = digits(at)?;
    }
    Ok(at)
}

/// The position after the string that begins at `at`, quotes included.
fn quoted(text: &[u8], at: usize) -> Result<usize, NotJson> {
    if text.get(at) != Some(&b'"') {
        return Err(NotJson);
    }
    let mut at = at + 1;
    loop {
        at = plain(text, at);
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape(text, at + 1)?,
            _ => return Err(NotJson),
        }
    }
}

/// The position of the first byte from `at` on that is a quote, a backslash or a control character.
///
/// Eight bytes at a time: a byte of `x ^ pattern` is zero where the pattern stands, and `(v - 0x01…) & !v & 0x80…` is not
/// zero exactly if a byte of `v` is. It may mark bytes above the first one falsely, so only its lowest bit is read.
fn plain(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES * 0x80;
    let zero = |v: u64| v.wrapping_sub(ONES) & !v & TOPS;
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let x = u64::from_le_bytes(*chunk);
        let control = x.wrapping_sub(ONES * 0x20) & !x & TOPS;
        let stops = zero(x ^ (ONES * 0x22)) | zero(x ^ (ONES * 0x5C)) | control;
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|&b| b != b'"' && b != b'\\' && b >= 0x20) {
        at += 1;
    }
    at
}

/// The position after the escape whose letter is at `at`. Half a surrogate pair is left to whoever decodes
/// the string: it fails there.
fn escape(text: &[u8], at: usize) -> Result<usize, NotJson> {
    match text.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
        Some(b'u') => match text.get(at + 1..at + 5) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => Ok(at + 5),
            _ => Err(NotJson),
        },
        _ => Err(NotJson),
    }
}

#[cfg(test)]
mod tests;
