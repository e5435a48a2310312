//! Events that the kit itself sends to the client, in the client's dialect.

use bawaba_channels::frame::{self, Opcode};
use bawaba_channels::wire::{Encoding, ErrorEvent, Event, Refused, Subscribed};

use crate::policy::Refusal;

/// Appends `event` as one frame. A dialect that the kit does not read gets the JSON form: a client that logs
/// what it can't parse logs a reason.
pub(crate) fn put_event(out: &mut Vec<u8>, encoding: Option<Encoding>, event: &Event) {
    let encoding = encoding.unwrap_or(Encoding::Json);
    let mut payload = Vec::new();
    event.encode(encoding, &mut payload);
    let opcode: Opcode = encoding.opcode();
    frame::encode(out, true, opcode, &payload, None);
}

/// The `error` that refuses the request `id`.
pub(crate) fn error(id: Option<u64>, refusal: &Refusal) -> Event {
    Event::Error(ErrorEvent {
        id,
        code: refusal.reason.word().into(),
        reason: refusal.sentence().into(),
        retry_after_ms: refusal.retry_after_ms,
    })
}

/// The `subscribed` that accepts nothing.
pub(crate) fn subscribed(id: Option<u64>, refused: &[(String, Refusal)]) -> Event {
    let refused = refused
        .iter()
        .map(|(symbol, refusal)| Refused {
            symbol: symbol.clone(),
            code: refusal.reason.word().into(),
            reason: refusal.sentence().into(),
            metadata: refusal.metadata.clone(),
        })
        .collect();
    Event::Subscribed(Subscribed { id, subscription: None, accepted: Vec::new(), refused, market: None })
}
