//! A handshake kept small: the header map as it was before each filter and after the last, so that
//! a filter can be given its own view again. Filters change little, so the first view is stored whole
//! and each later one as what differs in the middle (usually nothing: 24 bytes).

use crate::chain::{StreamToken, Way};
use crate::headers::Headers;

/// Views of one header map, in the order in which filters met it.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    base: Option<Box<[u8]>>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    prefix: u32,
    suffix: u32,
    middle: Box<[u8]>,
}

/// Adds to a [`Kept`]. It remembers the last view that it added, for most come one behind the other;
/// its two buffers are used again for the next.
#[derive(Default)]
pub(crate) struct Keeper {
    last: Vec<u8>,
    next: Vec<u8>,
    last_of: Option<(StreamToken, Way)>,
}

impl Keeper {
    /// The map as it is now is the next view of a stream's way.
    pub(crate) fn push(&mut self, of: (StreamToken, Way), kept: &mut Kept, headers: &Headers) {
        self.next.clear();
        encode(headers, &mut self.next);
        if kept.base.is_none() {
            kept.base = Some(self.next.as_slice().into());
        } else {
            if self.last_of != Some(of) {
                self.last = kept.raw(kept.steps.len());
            }
            kept.steps.push(difference(&self.last, &self.next));
        }
        self.last_of = Some(of);
        std::mem::swap(&mut self.last, &mut self.next);
    }
}

impl Kept {
    /// View `index`; the last one if there are fewer.
    pub(crate) fn view(&self, index: usize) -> Headers {
        decode(&self.raw(index))
    }

    fn raw(&self, index: usize) -> Vec<u8> {
        let mut raw = self.base.as_deref().unwrap_or_default().to_vec();
        for step in self.steps.iter().take(index) {
            let suffix = raw.len() - step.suffix as usize;
            raw.splice(step.prefix as usize..suffix, step.middle.iter().copied());
        }
        raw
    }

    /// Whether there is no view yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.base.is_none()
    }

    /// No view will be added.
    pub(crate) fn shrink(&mut self) {
        self.steps.shrink_to_fit();
    }

    pub(crate) fn last(&self) -> Headers {
        self.view(self.steps.len())
    }

    /// Bytes on the heap.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.len())
            + self.steps.iter().map(|step| size_of::<Step>() + step.middle.len()).sum::<usize>()
    }
}

fn difference(last: &[u8], next: &[u8]) -> Step {
    let prefix = last.iter().zip(next).take_while(|(a, b)| a == b).count();
    let (last_rest, next_rest) = (&last[prefix..], &next[prefix..]);
    let suffix = last_rest.iter().rev().zip(next_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let middle = next_rest[..next_rest.len() - suffix].into();
    Step { prefix: prefix as u32, suffix: suffix as u32, middle }
}

fn encode(headers: &Headers, to: &mut Vec<u8>) {
    for (name, value) in headers.iter() {
        put_len(name.len(), to);
        put_len(value.len(), to);
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(value.as_bytes());
    }
}

/// Seven bits a byte, the high bit says that more follow.
fn put_len(mut len: usize, to: &mut Vec<u8>) {
    while len >= 0x80 {
        to.push(len as u8 | 0x80);
        len >>= 7;
    }
    to.push(len as u8);
}

fn take_len(raw: &mut &[u8]) -> Option<usize> {
    let mut len = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = raw.split_first()?;
        *raw = rest;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(len)
}

fn decode(mut raw: &[u8]) -> Headers {
    let mut headers = Headers::new();
    while let Some((name, value)) = take_pair(&mut raw) {
        headers.add(name, value);
    }
    headers
}

fn take_pair<'a>(raw: &mut &'a [u8]) -> Option<(&'a str, &'a str)> {
    let (name_len, value_len) = (take_len(raw)?, take_len(raw)?);
    let (name, rest) = raw.split_at_checked(name_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    *raw = rest;
    Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_comes_back_and_an_unchanged_one_costs_next_to_nothing() {
        let first: Headers =
            [(":path", "/ws"), ("accept-encoding", "gzip"), ("x-long", &"é".repeat(200))].into_iter().collect();
        let mut second = first.clone();
        second.remove("accept-encoding");
        let mut third = second.clone();
        third.set(":path", "/other");
        third.add("x-new", "1");
        let mut keeper = Keeper::default();
        for _ in 0..2 {
            let (mut kept, mut other) = (Kept::default(), Kept::default());
            let (this, that) = ((StreamToken::next(), Way::Request), (StreamToken::next(), Way::Response));
            for view in [&first, &second, &second, &third] {
                keeper.push(this, &mut kept, view);
                keeper.push(that, &mut other, &first);
            }
            let whole = kept.base.as_ref().unwrap().len();
            assert!(kept.bytes() < whole + 600, "{} of {whole}", kept.bytes());
            assert_eq!(
                [kept.view(0), kept.view(1), kept.view(2), kept.last()],
                [first.clone(), second.clone(), second.clone(), third.clone()]
            );
        }
        let step = difference(b"abc", b"abc");
        assert!(step.middle.is_empty());
    }
}
