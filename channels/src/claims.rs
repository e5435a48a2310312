//! The verified claims of a session, as they travel in [`CLAIMS_HEADER`], and the `welcome` built from them.
//!
//! Whoever wrote the header (the edge, or Envoy's `jwt_authn`) has verified the token; nothing is verified
//! here. Unknown claims are ignored and `null` counts as absent, but a known claim of the wrong kind is an
//! error: dropping a malformed `islamic` claim would unscreen its session.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::wire::{CLAIMS_HEADER, Islamic, Market, QuotaUse, Timestamp, Welcome};

/// Longest value of the claims header that is read, in bytes.
pub const CLAIMS_HEADER_BYTES_MAX: usize = 16 * 1024;
/// The `role` of an edge on a trunk: it may act for the users that its requests name.
pub const ROLE_EDGE: &str = "edge";
/// Name of the protocol in `welcome`.
pub const PROTOCOL: &str = "tradsys.v3";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The claims that this project reads (`protocol.md`, Transport).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The session; a newer connection of the same one replaces the older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The tenant that the user belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// [`ROLE_EDGE`] on a trunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Licence tier: `basic`, `professional`, `enterprise` or `islamic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Licensed features.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Licensed exchanges.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub exchanges: Vec<String>,
    /// Licensed asset types.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub asset_types: Vec<String>,
    /// Limits by name; see [`QuotaClaim`].
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub quota: BTreeMap<String, QuotaClaim>,
    /// How the session is screened; absent for not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub islamic: Option<IslamicClaim>,
    /// Region of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `low`, `normal`, `high` or `critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// Quality of service class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// Latency asked for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u32>,
    /// Expiry, in seconds since the epoch.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// Not valid before, in seconds since the epoch.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Who issued the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

/// The `islamic` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IslamicClaim {
    /// `off`, `annotate` or `filter`.
    pub mode: String,
    /// The boards that judge.
    #[serde(default, deserialize_with = "list")]
    pub boards: Vec<String>,
    /// `named`, `all_of` or `any_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// One limit: written as a number, as `{"limit": number}`, or as `null` or `-1` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct QuotaClaim(
    /// The most allowed; `None` for no limit.
    pub Option<u64>,
);

/// The claims could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadClaims {
    /// Not base64url, or too long.
    #[error("{CLAIMS_HEADER} is not base64url of at most {CLAIMS_HEADER_BYTES_MAX} bytes")]
    Base64,
    /// Not the JSON of claims.
    #[error("{CLAIMS_HEADER}: {0}")]
    Json(String),
}

impl Claims {
    /// Reads the value of the claims header: base64url JSON, with or without padding.
    pub fn from_header(value: &str) -> Result<Self, BadClaims> {
        if value.len() > CLAIMS_HEADER_BYTES_MAX {
            return Err(BadClaims::Base64);
        }
        let json = BASE64.decode(value.trim()).map_err(|_| BadClaims::Base64)?;
        Self::from_json(&json)
    }

    /// Reads the payload of a token.
    pub fn from_json(json: &[u8]) -> Result<Self, BadClaims> {
        // Derived code would read a list as the fields in order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(BadClaims::Json("not a JSON object".into()));
        }
        serde_json::from_slice(json).map_err(|error| BadClaims::Json(alloc::format!("{error}")))
    }

    /// The value for the claims header.
    pub fn to_header(&self) -> String {
        // Plain structs with string keys always serialise.
        BASE64.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Whether this is an edge, which may act for the users that its requests name.
    pub fn is_edge(&self) -> bool {
        self.role.as_deref() == Some(ROLE_EDGE)
    }

    /// Whether the token has ended at `now`; one without `exp` does not end.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.exp.is_some_and(|exp| now.0.div_euclid(1_000_000_000) >= exp)
    }
}

impl Welcome {
    /// The `welcome` of a session with these claims: the same from an edge and from a channel server.
    ///
    /// `session` names it, `heartbeat_ms` is how often the sender pings, `markets` the phases by exchange. Quotas
    /// start unused, and the screening lists in force are left for the policy that knows them to add.
    pub fn for_claims(
        claims: &Claims,
        session: impl Into<String>,
        now: Timestamp,
        heartbeat_ms: u32,
        markets: BTreeMap<String, Market>,
    ) -> Self {
        Self {
            session: session.into(),
            protocol: PROTOCOL.into(),
            server_time: now.0,
            heartbeat_ms,
            tier: claims.tier.clone(),
            features: claims.features.clone(),
            quota: claims.quota.iter().map(|(k, v)| (k.clone(), QuotaUse { used: 0, limit: v.0 })).collect(),
            islamic: claims.islamic.as_ref().map(|islamic| Islamic {
                mode: islamic.mode.clone(),
                boards: islamic.boards.clone(),
                rule: islamic.rule.clone(),
                list: None,
            }),
            markets,
        }
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A list of strings, or one string with its items set apart by spaces (as OAuth writes scopes).
fn list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of strings")]
    enum List {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Option::<List>::deserialize(d)? {
        None => Vec::new(),
        Some(List::Many(items)) => items,
        Some(List::One(items)) => items.split_ascii_whitespace().map(String::from).collect(),
    })
}

/// JWT's NumericDate: whole seconds, or with a fraction, which is cut off.
fn seconds<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(d)? else { return Ok(None) };
    number
        .as_i64()
        .or_else(|| number.as_f64().filter(|n| n.abs() < 1e15).map(|n| n as i64))
        .map(Some)
        .ok_or_else(|| D::Error::custom("expected seconds since the epoch"))
}

impl<'de> Deserialize<'de> for QuotaClaim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a limit: a number, -1 or null for none, or {\"limit\": number}")]
        enum Form {
            Limit(i64),
            Object { limit: Option<i64> },
        }
        match Option::<Form>::deserialize(d)? {
            None | Some(Form::Limit(-1) | Form::Object { limit: None | Some(-1) }) => Ok(Self(None)),
            Some(Form::Limit(limit) | Form::Object { limit: Some(limit) }) => u64::try_from(limit)
                .map(|limit| Self(Some(limit)))
                .map_err(|_| D::Error::custom("a limit is not negative")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_read_back_from_the_header_they_were_written_to() {
        let json = br#"{"sub":"amina","sid":"s-1","tenant":"t","tier":"islamic","features":["WEBSOCKET_API"],"exchanges":"EGX ADX",
            "quota":{"subscriptions":500,"orders":{"limit":10},"bytes":-1,"symbols":null},"islamic":{"mode":"filter","boards":["EGX33"]},
            "exp":1795428000.5,"aud":["bawaba"],"unknown":{"deep":[1]},"region":null}"#;
        let claims = Claims::from_json(json).unwrap();
        assert_eq!(claims.exchanges, ["EGX", "ADX"]);
        assert_eq!(claims.exp, Some(1_795_428_000));
        assert_eq!(claims.quota["orders"], QuotaClaim(Some(10)));
        assert_eq!(claims.quota["bytes"], QuotaClaim(None));
        assert_eq!(Claims::from_header(&claims.to_header()).unwrap(), claims);
        assert!(Claims::from_header("e30=").is_ok(), "padding is allowed");
        assert!(claims.is_expired(Timestamp(1_795_428_000_000_000_000)));
        assert!(!claims.is_expired(Timestamp(1_795_427_999_000_000_000)));
    }

    #[test]
    fn a_known_claim_of_the_wrong_kind_is_an_error_not_an_absent_claim() {
        for bad in [
            r#"{"islamic":"filter"}"#,
            r#"{"islamic":{"boards":["EGX33"]}}"#,
            r#"{"islamic":{"mode":"filter","boards":7}}"#,
            r#"{"features":{"a":1}}"#,
            r#"{"quota":{"orders":-5}}"#,
            r#"{"sub":7}"#,
            "[]",
            "",
        ] {
            assert!(Claims::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(Claims::from_header("~"), Err(BadClaims::Base64));
    }

    #[test]
    fn a_welcome_says_what_the_claims_say_and_nothing_more() {
        let claims = Claims::from_json(
            br#"{"sub":"u","tier":"professional","features":["X"],"quota":{"symbols":5},"islamic":{"mode":"filter","boards":["EGX33"],"rule":"named"}}"#,
        )
        .unwrap();
        let welcome = Welcome::for_claims(&claims, "s1", Timestamp(5), 20_000, BTreeMap::new());
        assert_eq!(welcome.protocol, "tradsys.v3");
        assert_eq!(welcome.quota["symbols"], QuotaUse { used: 0, limit: Some(5) });
        let islamic = welcome.islamic.unwrap();
        assert_eq!((islamic.mode.as_str(), islamic.rule.as_deref(), islamic.list), ("filter", Some("named"), None));
        assert_eq!(Welcome::for_claims(&Claims::default(), "s", Timestamp(0), 1, BTreeMap::new()).islamic, None);
    }
}
