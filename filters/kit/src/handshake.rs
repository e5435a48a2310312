//! From request headers to a [`Session`], and what must change in them before the backend sees them.
//!
//! Knows no host: headers come as pairs, in order, names in lower case.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bawaba_channels::claims::{CLAIMS_HEADER_BYTES_MAX, Claims};
use bawaba_channels::reason::Reason;
use bawaba_channels::wire::{CLAIMS_HEADER, Encoding, SUBPROTOCOL_BEARER, Timestamp};
use serde_json::Value;

use crate::policy::{Refusal, Verdict};
use crate::session::Session;

/// Marks a stream that stands for a cohort of sessions; only the edge writes it.
pub const COHORT_HEADER: &str = "x-bawaba-cohort";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A request that was read.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Who asks.
    pub session: Session,
    /// An extended CONNECT (RFC 8441), which is accepted by 200 where an upgrade is by 101.
    pub extended_connect: bool,
    /// The first subprotocol offered that the kit reads.
    pub offered: Option<Encoding>,
    /// The new value of `sec-websocket-protocol`, if it changes; `Some(None)` to remove it.
    pub protocols: Option<Option<String>>,
}

impl Handshake {
    /// Reads the request. Claims that are there but can't be read refuse it: taking them as absent would free a
    /// screened session of its screening.
    pub fn read(headers: &[(String, Vec<u8>)]) -> Result<Self, Refusal> {
        let all =
            |name: &'static str| headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value);
        let first = |name: &'static str| all(name).next().and_then(|value| core::str::from_utf8(value).ok());
        let invalid = || Refusal::new(Reason::AuthInvalid);
        let (json, claims) = match all(CLAIMS_HEADER).count() {
            0 => (Vec::new(), Claims::default()),
            1 => read_claims(first(CLAIMS_HEADER).ok_or_else(invalid)?).ok_or_else(invalid)?,
            _ => return Err(invalid()),
        };
        // The edge opens a cohort's stream with declared facts alone, and no policy may declare who a user is. A
        // client that forges the mark has a subject in its token, and is judged as the session that it is.
        let cohort = first(COHORT_HEADER) == Some("1") && !json.is_empty() && claims.sub.is_none();
        let names_websocket = |name| all(name).any(|value: &[u8]| value.eq_ignore_ascii_case(b"websocket"));
        let extended_connect = names_websocket(":protocol");
        let websocket = extended_connect || names_websocket("upgrade");
        let path = first(":path").unwrap_or("/");
        let path = path.split_once('?').map_or(path, |(path, _)| path).into();

        let offers: Vec<&str> = all("sec-websocket-protocol")
            .filter_map(|value| core::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|offer| !offer.is_empty())
            .collect();
        let kept: Vec<&str> = offers.iter().copied().filter(|offer| !is_bearer(offer)).collect();
        let protocols =
            (kept.len() != offers.len()).then(|| if kept.is_empty() { None } else { Some(kept.join(", ")) });
        Ok(Self {
            session: Session {
                claims: json.into(),
                path,
                websocket,
                cohort,
                now: Timestamp(0),
                host: None,
                replay: false,
            },
            extended_connect,
            offered: kept.iter().find_map(|offer| Encoding::of_subprotocol(offer)),
            protocols,
        })
    }
}

fn is_bearer(offer: &str) -> bool {
    offer.get(..SUBPROTOCOL_BEARER.len()).is_some_and(|head| head.eq_ignore_ascii_case(SUBPROTOCOL_BEARER))
}

fn read_claims(value: &str) -> Option<(Vec<u8>, Claims)> {
    if value.len() > CLAIMS_HEADER_BYTES_MAX {
        return None;
    }
    let json = BASE64.decode(value.trim()).ok()?;
    let claims = Claims::from_json(&json).ok()?;
    // Also as plain JSON: the typed reader skips what it does not know, and may skip what is no JSON value at all.
    serde_json::from_slice::<Value>(&json).ok()?;
    Some((json, claims))
}

/// An HTTP answer that refuses a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(&'static str, String)>,
    /// JSON `{"code", "reason"}`.
    pub body: Vec<u8>,
}

impl Answer {
    /// The answer to this verdict on a handshake.
    pub fn to(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Refuse(refusal) => Self::refuse(&refusal),
            Verdict::Close(_, reason) => Self::refuse(&Refusal::new(Reason::EdgeForbidden).detail(reason)),
            Verdict::Drop | Verdict::Pass => Self::refuse(&Refusal::new(Reason::EdgeForbidden)),
        }
    }

    /// The answer for this refusal.
    pub fn refuse(refusal: &Refusal) -> Self {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if let Some(retry_ms) = refusal.retry_after_ms {
            headers.push(("retry-after", retry_ms.div_ceil(1000).max(1).to_string()));
        }
        let body = serde_json::json!({"code": refusal.reason.word(), "reason": refusal.sentence()});
        Self { status: refusal.reason.http_status(), headers, body: body.to_string().into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn encoded(claims: &str) -> String {
        BASE64.encode(claims)
    }

    #[test]
    fn a_token_among_the_subprotocols_does_not_travel_on() {
        let read = |offer: &str| {
            Handshake::read(&headers(&[("upgrade", "WebSocket"), ("sec-websocket-protocol", offer)])).unwrap()
        };
        let both = read("tradsys.v3.json, bearer.abc.def.ghi");
        assert_eq!(both.protocols, Some(Some("tradsys.v3.json".into())));
        assert_eq!(both.offered, Some(Encoding::Json));
        assert_eq!(read("bearer.abc").protocols, Some(None));
        assert_eq!(read("tradsys.v3.proto").protocols, None);
        assert!(both.session.is_websocket());
    }

    #[test]
    fn claims_that_cannot_be_read_refuse_the_handshake() {
        let with = |value: &str| Handshake::read(&headers(&[("x-bawaba-claims", value)]));
        assert!(with(&encoded(r#"{"sub":"u"}"#)).unwrap().session.is_verified());
        for bad in ["~~", "", &encoded("[]"), &encoded(r#"{"islamic":"filter"}"#), &"A".repeat(20_000)] {
            assert_eq!(with(bad).unwrap_err().reason, Reason::AuthInvalid, "{bad:.20}");
        }
        let twice = [("x-bawaba-claims", "e30"), ("x-bawaba-claims", "e30")];
        assert!(Handshake::read(&headers(&twice)).is_err());
        assert!(!Handshake::read(&headers(&[])).unwrap().session.is_verified());
    }

    #[test]
    fn a_forged_cohort_mark_is_ignored() {
        let cohort = |claims: &str| {
            let claims = encoded(claims);
            let pairs = [("x-bawaba-cohort", "1"), ("x-bawaba-claims", claims.as_str())];
            Handshake::read(&headers(&pairs)).unwrap().session.cohort
        };
        assert!(cohort(r#"{"islamic":{"mode":"filter"}}"#));
        assert!(!cohort(r#"{"sub":"mallory","islamic":{"mode":"filter"}}"#));
        assert!(!Handshake::read(&headers(&[("x-bawaba-cohort", "1")])).unwrap().session.cohort, "no claims at all");
    }
}
