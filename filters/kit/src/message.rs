//! One message as a policy sees it: the same questions and the same edits in JSON and in protobuf.
//!
//! Reading finds fields where they lie; edits are noted and spliced into the original bytes at the end, so that
//! everything nobody asked about, known or not, is passed on as it came. Knows no frame and no verdict.

use std::borrow::Cow;

use bawaba_channels::frame::{self, Opcode};
use bawaba_channels::wire::{Encoding, Event, Islamic, Malformed, Request};

use crate::head::{Field, Head};
use crate::json;
use crate::kind::Kind;
use crate::policy::Refusal;
use crate::proto;
use crate::stamp::Stamp;

mod edit;
mod redact;

/// A compliance verdict put into both encodings once for many messages, all but the instant.
#[derive(Clone, Debug)]
pub struct PreparedMetadata {
    json: Vec<u8>,
    proto: Vec<u8>,
}

/// A message, lazily read. Every accessor answers `None` for what the message does not say.
#[derive(Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    encoding: Option<Encoding>,
    head: Head<'a>,
    edits: Edits,
    stamp: Stamp,
}

/// What a policy changed.
#[derive(Debug, Default)]
struct Edits {
    /// Symbols refused in `subscribe`, or moved from accepted to refused in `subscribed`.
    refused: Vec<(String, Refusal)>,
    /// Symbols taken out of a list without a word.
    removed: Vec<String>,
    /// Entries of `subscribed.refused` that the kit adds: what was refused on the way in.
    merged: Vec<(String, Refusal)>,
    metadata: Option<Vec<u8>>,
    /// Verdicts on symbols that `subscribed` accepts.
    screened: Vec<(String, Vec<u8>)>,
    /// The names of the fields that are left, beside those that say what the message is about.
    left: Option<Vec<&'static str>>,
    islamic: Option<Islamic>,
    reason: Option<String>,
    announced: Vec<Event>,
}

impl<'a> Message<'a> {
    /// Reads `bytes` in this encoding; `None` for a dialect that the kit does not know. JSON must be UTF-8, which
    /// text frames are.
    pub(crate) fn read(encoding: Option<Encoding>, bytes: &'a [u8], stamp: Stamp) -> Self {
        let head = match encoding {
            Some(Encoding::Json) => Head::of_json(bytes),
            Some(Encoding::Proto) => Head::of_proto(bytes),
            None => Head::empty(Kind::Opaque),
        };
        Self { bytes, encoding, head, edits: Edits::default(), stamp }
    }

    /// A message of a known dialect that came in the wrong kind of frame, or that the kit found unsound.
    pub(crate) fn unreadable(encoding: Option<Encoding>, bytes: &'a [u8], stamp: Stamp) -> Self {
        Self { bytes, encoding, head: Head::empty(Kind::Unreadable), edits: Edits::default(), stamp }
    }

    /// What it is.
    pub const fn kind(&self) -> Kind {
        self.head.kind
    }

    /// Its encoding; `None` for a dialect that the kit does not read.
    pub const fn encoding(&self) -> Option<Encoding> {
        self.encoding
    }

    /// The message as it came, without the edits.
    pub const fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// The request's id, in a request and in its answer.
    pub const fn id(&self) -> Option<u64> {
        self.head.id
    }

    /// The channel of a `subscribe`; of an update, what it is an update of.
    pub fn channel(&self) -> Option<Cow<'a, str>> {
        match self.kind() {
            Kind::Quote => Some("market_data".into()),
            Kind::Book => Some("order_book".into()),
            Kind::Trade => Some("trades".into()),
            Kind::News => Some("news".into()),
            _ => self.text(Field::Channel),
        }
    }

    /// The exchange.
    pub fn exchange(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Exchange)
    }

    /// The symbol, of kinds that name one.
    pub fn symbol(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Symbol)
    }

    /// The symbols, of kinds that name several: `subscribe`, `unsubscribe`, `revoked`, news, and those accepted in
    /// `subscribed`. As they came: edits do not show.
    pub fn symbols(&self) -> &[Cow<'a, str>] {
        &self.head.symbols
    }

    /// Whether a `subscribe` asks for all symbols.
    pub fn is_wildcard(&self) -> bool {
        self.kind() == Kind::Subscribe && self.head.symbols.iter().any(|symbol| symbol == "*")
    }

    /// The subscription.
    pub fn subscription(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Subscription)
    }

    /// `place` or `cancel`, of an order.
    pub fn op(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Op)
    }

    /// `buy` or `sell`, of an order.
    pub fn side(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Side)
    }

    /// `limit` or `market`, of an order.
    pub fn order_type(&self) -> Option<Cow<'a, str>> {
        self.text(Field::OrderType)
    }

    /// The refusal word of `error` and `revoked`, the word of an alert.
    pub fn code(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Code)
    }

    /// The sentence for people of `error`, `alert` and `revoked`.
    pub fn reason(&self) -> Option<Cow<'a, str>> {
        self.text(Field::Reason)
    }

    /// Shortest time between two updates that a `subscribe` asks for, in milliseconds.
    pub fn update_rate_ms(&self) -> Option<u64> {
        let span = self.present(Field::UpdateRate).filter(|_| self.kind() == Kind::Subscribe)?;
        match self.encoding? {
            Encoding::Json => core::str::from_utf8(span).ok()?.parse().ok(),
            Encoding::Proto => proto::varint(span, &mut 0).ok(),
        }
    }

    /// The flags of an order; `None` if the list is malformed.
    pub fn flags(&self) -> Option<Vec<Cow<'a, str>>> {
        let span = self.head.span(Field::Flags);
        let mut flags = Vec::new();
        match self.encoding {
            _ if self.present(Field::Flags).is_none() => {}
            Some(Encoding::Json) => json::elements(self.bytes, span, |span| {
                flags.push(json::string(span.of(self.bytes)).ok_or(json::NotJson)?);
                Ok(())
            })
            .ok()?,
            _ => proto::fields(self.bytes, self.head.body, |field| {
                if matches!(Field::of_number(self.kind(), field.number), Some((Field::Flags, _))) {
                    let text = core::str::from_utf8(field.value.of(self.bytes)).map_err(|_| proto::NotProto)?;
                    flags.push(Cow::Borrowed(text));
                }
                Ok(())
            })
            .ok()?,
        }
        Some(flags)
    }

    /// Every piece of text for people in the message: headline and body of news, reason of errors and alerts.
    pub fn prose(&self) -> Vec<Cow<'a, str>> {
        let mut prose: Vec<_> = self.reason().into_iter().collect();
        let data = self.head.span(Field::Data);
        if self.kind() == Kind::News && data.is_some() {
            let _ = match self.encoding {
                Some(Encoding::Json) => json::members_at(self.bytes, data, |_, span| {
                    prose.extend(json::string(span.of(self.bytes)));
                    Ok(())
                })
                .is_ok(),
                _ => proto::fields(self.bytes, data, |field| {
                    if field.number != 3 && field.wire == 2 {
                        prose.push(String::from_utf8_lossy(field.value.of(self.bytes)));
                    }
                    Ok(())
                })
                .is_ok(),
            };
        }
        prose
    }

    /// The whole request, decoded; for policies that need more than the accessors give.
    pub fn request(&self) -> Result<Request, Malformed> {
        Request::decode(self.encoding.unwrap_or(Encoding::Json), self.bytes)
    }

    /// The whole event, decoded.
    pub fn event(&self) -> Result<Event, Malformed> {
        Event::decode(self.encoding.unwrap_or(Encoding::Json), self.bytes)
    }

    fn present(&self, field: Field) -> Option<&'a [u8]> {
        let span = self.head.span(field);
        span.is_some().then(|| span.of(self.bytes)).filter(|raw| !raw.is_empty() && *raw != b"null")
    }

    fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        let raw = self.present(field)?;
        match self.encoding? {
            Encoding::Json => json::string(raw).filter(|text| !text.is_empty()),
            Encoding::Proto => core::str::from_utf8(raw).ok().map(Cow::Borrowed),
        }
    }
}

/// Edits. They take effect with [`crate::Verdict::Pass`].
impl Message<'_> {
    /// Refuses one symbol of a `subscribe` (the answer will say so) or takes one that `subscribed` accepted back.
    /// On other kinds this does nothing.
    pub fn refuse_symbol(&mut self, symbol: &str, refusal: impl Into<Refusal>) {
        let named = self.head.symbols.iter().any(|known| known == symbol);
        let before = self.edits.refused.iter().any(|(known, _)| known == symbol);
        if named && !before && matches!(self.kind(), Kind::Subscribe | Kind::Subscribed) {
            self.edits.refused.push((symbol.to_owned(), refusal.into()));
        }
    }

    /// Takes a symbol out of the list of news, `revoked` or `unsubscribe`, and tells nobody.
    pub fn remove_symbol(&mut self, symbol: &str) {
        if matches!(self.kind(), Kind::News | Kind::Revoked | Kind::Unsubscribe) {
            self.edits.removed.push(symbol.to_owned());
        }
    }

    /// The symbols that are left after the edits so far.
    pub fn symbols_left(&self) -> impl Iterator<Item = &str> {
        let gone = |symbol: &str| {
            self.edits.refused.iter().any(|(known, _)| known == symbol)
                || self.edits.removed.iter().any(|known| known == symbol)
        };
        self.head.symbols.iter().map(|symbol| &**symbol).filter(move |symbol| !gone(symbol))
    }

    /// Sets the verdict that travels with an update, judged now. On other kinds this does nothing.
    pub fn set_metadata(&mut self, metadata: &PreparedMetadata) {
        if self.kind().is_update() {
            self.edits.metadata = self.encoding.map(|encoding| metadata.at(encoding, &self.stamp));
        }
    }

    /// Sets the verdict on one symbol that `subscribed` accepts. On other kinds this does nothing.
    pub fn set_symbol_metadata(&mut self, symbol: &str, metadata: &PreparedMetadata) {
        if self.kind() == Kind::Subscribed
            && let Some(encoding) = self.encoding
        {
            self.edits.screened.push((symbol.to_owned(), metadata.at(encoding, &self.stamp)));
        }
    }

    /// Takes every field out of an update, alert or `market_status` but those named here and those that say what it is
    /// about (type, exchange, symbol, numbers, times): also fields that no version of the protocol knows. A redacted
    /// message takes no other edit but its metadata. On other kinds this does nothing.
    pub fn keep_fields(&mut self, names: impl IntoIterator<Item = &'static str>) {
        if redact::is_redacted(self.kind()) {
            self.edits.left = Some(names.into_iter().collect());
        }
    }

    /// Says in `welcome` how the session is screened.
    pub fn set_islamic(&mut self, islamic: Islamic) {
        if self.kind() == Kind::Welcome {
            self.edits.islamic = Some(islamic);
        }
    }

    /// Replaces the sentence for people of `error`, `alert` or `revoked`.
    pub fn set_reason(&mut self, reason: impl Into<String>) {
        if matches!(self.kind(), Kind::Error | Kind::Alert | Kind::Revoked) {
            self.edits.reason = Some(reason.into());
        }
    }

    /// Sends the client a further event: before this message if it passes, in its place if it is dropped. From
    /// `inbound` it is sent at the next chance in the other direction.
    pub fn announce(&mut self, event: Event) {
        self.edits.announced.push(event);
    }
}

/// For the kit.
impl Message<'_> {
    pub(crate) fn take_announced(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.edits.announced)
    }

    pub(crate) fn refused(&self) -> &[(String, Refusal)] {
        &self.edits.refused
    }

    pub(crate) fn merge_refused(&mut self, refused: Vec<(String, Refusal)>) {
        self.edits.merged = refused;
    }

    pub(crate) fn is_edited(&self) -> bool {
        let edits = &self.edits;
        edits.metadata.is_some()
            || edits.left.is_some()
            || !edits.screened.is_empty()
            || edits.islamic.is_some()
            || edits.reason.is_some()
            || !edits.refused.is_empty()
            || !edits.merged.is_empty()
            || edits.removed.iter().any(|symbol| self.head.symbols.iter().any(|known| known == symbol))
    }

    /// Appends the message with its edits.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.encoding {
            Some(encoding) if let Some(left) = &self.edits.left => self.write_redacted(encoding, left, out),
            Some(Encoding::Json) if self.is_edited() => self.write_json(out),
            Some(Encoding::Proto) if self.is_edited() => self.write_proto(out),
            _ => out.extend_from_slice(self.bytes),
        }
    }

    /// Appends the message with its edits as one frame of a server.
    pub(crate) fn write_frame(&self, opcode: Opcode, out: &mut Vec<u8>) {
        // Most have 126 to 65535 bytes, and then the header has four: written in place, filled in afterwards.
        let start = out.len();
        out.reserve(self.bytes.len() + 300);
        out.extend_from_slice(&[0x80 | opcode as u8, 126, 0, 0]);
        self.write(out);
        match u16::try_from(out.len() - start - 4) {
            Ok(len) if len >= 126 => out[start + 2..start + 4].copy_from_slice(&len.to_be_bytes()),
            _ => {
                let payload = out.split_off(start + 4);
                out.truncate(start);
                frame::encode(out, true, opcode, &payload, None);
            }
        }
    }
}
