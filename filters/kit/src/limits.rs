//! The kit's own settings: what every filter takes under the key `kit`.

use bawaba_channels::wire::Encoding;
use serde::Deserialize;
use serde_json::Value;

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

    /// Splits a filter's configuration into the kit's part and the policy's. Empty text means `{}`.
    ///
    /// The error is a sentence for the operator.
    pub fn split(configuration: &[u8]) -> Result<(Self, Value), String> {
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
        Ok((limits, all))
    }
}
