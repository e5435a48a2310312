//! What a stream keeps on the host's side: its handshake, in as few bytes as it takes to replay it, and its
//! place in each filter's VM.

use crate::headers::Headers;

/// Which way bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Client to server.
    Request,
    /// Server to client.
    Response,
}

/// A stream's place in one filter's VM. Valid while that VM's `incarnation` lives.
#[derive(Default)]
pub(crate) struct Seat {
    /// 0: none yet.
    pub(crate) context: u32,
    pub(crate) incarnation: u32,
    /// Bytes held back by a Pause, per direction; none for filters that never pause.
    pub(crate) held: Option<Box<[Vec<u8>; 2]>>,
}

impl Seat {
    pub(crate) fn context(&self) -> u32 {
        self.context
    }

    pub(crate) fn held(&mut self, direction: Direction) -> &mut Vec<u8> {
        &mut self.held.get_or_insert_default()[direction as usize]
    }
}

/// The handshake as it came to the first filter, packed: `name NUL value NUL` and so on.
#[derive(Default)]
pub(crate) struct Kept {
    request: Box<str>,
    response: Option<Box<str>>,
}

impl Kept {
    pub(crate) fn new(request: &Headers) -> Self {
        Kept { request: pack(request), response: None }
    }

    pub(crate) fn keep_response(&mut self, response: &Headers) {
        self.response = Some(pack(response));
    }

    pub(crate) fn request(&self) -> Headers {
        unpack(&self.request)
    }

    pub(crate) fn response(&self) -> Option<Headers> {
        self.response.as_deref().map(unpack)
    }
}

/// A header never holds a NUL: no HTTP parser lets one through, and filters may not write one.
fn pack(headers: &Headers) -> Box<str> {
    let mut packed = String::with_capacity(headers.iter().map(|(name, value)| name.len() + value.len() + 2).sum());
    for (name, value) in headers.iter() {
        packed.push_str(name);
        packed.push('\0');
        packed.push_str(value);
        packed.push('\0');
    }
    packed.into_boxed_str()
}

fn unpack(packed: &str) -> Headers {
    let mut headers = Headers::new();
    let mut parts = packed.split('\0');
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        headers.add(name, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_handshake_reads_back_as_it_was() {
        let mut headers = Headers::new();
        headers.add(":path", "/ws");
        headers.add("cookie", "a");
        headers.add("cookie", "");
        let mut kept = Kept::new(&headers);
        assert_eq!(kept.request(), headers);
        assert_eq!(kept.response(), None);
        kept.keep_response(&Headers::new());
        assert_eq!(kept.response(), Some(Headers::new()));
    }
}
