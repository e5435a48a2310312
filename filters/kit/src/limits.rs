//! The kit's own settings: what every filter takes under the key `kit`.

use bawaba_channels::wire::Encoding;
use serde::Deserialize;
use serde_json::Value;

use crate::policy::Policy;

/// Bounds and defaults of every stream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest message in bytes, all fragments together, in either direction: longer ones close with 1009.
    pub message_bytes_max: u32,
    /// Most bytes of replies that wait for a chance to be written; more closes with 1008.
    pub pending_bytes_max: u32,
    /// Most requests in flight of which some symbols were refused; more are refused whole.
    pub merges_max: u16,
    /// The subprotocol to read where none is negotiated; absent: such streams are opaque.
    pub dialect: Option<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 1 << 20, pending_bytes_max: 1 << 20, merges_max: 256, dialect: None }
    }
}

impl Limits {
    /// The encoding of streams without a subprotocol.
    pub(crate) fn default_encoding(&self) -> Option<Encoding> {
        self.dialect.as_deref().and_then(Encoding::of_subprotocol)
    }

    /// Splits a configuration into the kit's part and the policy's.
    ///
    /// The policy's part is JSON text again: its types are then read by one kind of reader only, which halves what they
    /// weigh in a module.
    fn split(configuration: &[u8]) -> Result<(Self, Vec<u8>), String> {
        let text = configuration.trim_ascii();
        let text = if text.is_empty() { b"{}" } else { text };
        let mut all: Value =
            serde_json::from_slice(text).map_err(|error| format!("the configuration is not JSON: {error}"))?;
        let Value::Object(map) = &mut all else {
            return Err("the configuration is not a JSON object: write {} for the defaults".into());
        };
        let limits = match map.remove("kit") {
            None => Self::default(),
            Some(kit) => serde_json::from_value::<Self>(kit).map_err(|error| format!("kit: {error}"))?,
        };
        if let Some(dialect) = &limits.dialect
            && Encoding::of_subprotocol(dialect).is_none()
        {
            return Err(format!("kit: dialect: {dialect:?} is unknown: use tradsys.v3.json or tradsys.v3.proto"));
        }
        if limits.message_bytes_max < 125 {
            return Err("kit: message_bytes_max: at least 125".into());
        }
        Ok((limits, all.to_string().into_bytes()))
    }
}

/// Builds a policy and the limits of its streams from a filter's configuration: one JSON object with the policy's
/// settings, and the kit's under `kit`. Empty text means `{}`.
///
/// # Errors
/// A sentence for the operator: what is wrong and where.
pub fn configure<P: Policy>(configuration: &[u8]) -> Result<(P, Limits), String> {
    let (limits, settings) = Limits::split(configuration)?;
    let settings = serde_json::from_slice(&settings).map_err(|error| format!("settings: {error}"))?;
    Ok((P::configure(settings)?, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_taken_whole_or_refused_with_a_sentence() {
        let (limits, settings) = Limits::split(br#"{"kit":{"message_bytes_max":2000},"a":1}"#).unwrap();
        assert_eq!((limits.message_bytes_max, settings.as_slice()), (2000, br#"{"a":1}"#.as_slice()));
        assert_eq!(Limits::split(b" \n").unwrap().1, b"{}");
        for (bad, says) in [
            (&b"[]"[..], "not a JSON object"),
            (b"{", "not JSON"),
            (br#"{"kit":{"message_max":1}}"#, "message_max"),
            (br#"{"kit":{"dialect":"soap"}}"#, "tradsys.v3.json"),
            (br#"{"kit":{"message_bytes_max":5}}"#, "at least 125"),
        ] {
            let error = Limits::split(bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
