//! Sticky tokens: where a user's sessions were, signed, so that a client coming back goes where it was.
//!
//! A token names endpoints and ends soon; it grants nothing. Only tokens that this deployment signed, for the
//! same user, are heeded; any other is as good as none.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// How long a sticky token counts, in seconds: long enough for a restart, short enough to forget.
const LIFETIME_S: i64 = 600;
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 4096;
/// Fewest bytes of a key file.
const KEY_BYTES_MIN: usize = 32;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    /// The user.
    u: String,
    /// Expiry, seconds since the epoch.
    x: i64,
    /// Cluster to endpoint address.
    e: BTreeMap<String, String>,
}

/// Cluster name to endpoint address, as a verified token said.
pub type Places = BTreeMap<String, String>;

/// Signs and verifies sticky tokens.
pub struct Signer {
    mac: Hmac<Sha256>,
}

impl Signer {
    /// With the secret from `key_file`, or a random one that lives as long as the process.
    pub fn new(key_file: Option<&Path>) -> Result<Self, String> {
        let key = match key_file {
            Some(path) => {
                let key =
                    std::fs::read(path).map_err(|error| format!("sticky: key_file {}: {error}", path.display()))?;
                if key.len() < KEY_BYTES_MIN {
                    return Err(format!(
                        "sticky: key_file {}: {} bytes, at least {KEY_BYTES_MIN} are needed",
                        path.display(),
                        key.len()
                    ));
                }
                key
            }
            None => {
                let mut key = vec![0; KEY_BYTES_MIN];
                getrandom::fill(&mut key).map_err(|error| format!("sticky: no random key: {error}"))?;
                key
            }
        };
        let mac = Hmac::new_from_slice(&key).map_err(|error| format!("sticky: {error}"))?;
        Ok(Self { mac })
    }

    /// A token that sends `user` back to `places`; `now` in seconds since the epoch.
    pub fn mint(&self, user: &str, places: &Places, now: i64) -> String {
        let payload = Payload { u: user.to_owned(), x: now + LIFETIME_S, e: places.clone() };
        let payload = serde_json::to_vec(&payload).unwrap_or_default();
        let mut token = URL_SAFE_NO_PAD.encode(&payload);
        let mut mac = self.mac.clone();
        mac.update(token.as_bytes());
        let tag = mac.finalize().into_bytes();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(tag, &mut token);
        token
    }

    /// Where `token` sends `user`; nowhere if it is forged, of another user, or older than its lifetime.
    pub fn verify(&self, token: &str, user: &str, now: i64) -> Option<Places> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (payload, tag) = token.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        let mut mac = self.mac.clone();
        mac.update(payload.as_bytes());
        mac.verify_slice(&tag).ok()?;
        let payload: Payload = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (payload.u == user && payload.x > now).then_some(payload.e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_764_000_000;

    fn places() -> Places {
        [("egx".to_owned(), "127.0.0.1:7001".to_owned()), ("adx".to_owned(), "127.0.0.1:7002".to_owned())].into()
    }

    #[test]
    fn a_token_counts_for_its_user_until_it_ends() {
        let signer = Signer::new(None).unwrap();
        let token = signer.mint("amina", &places(), NOW);
        assert_eq!(signer.verify(&token, "amina", NOW), Some(places()));
        assert_eq!(signer.verify(&token, "omar", NOW), None);
        assert_eq!(signer.verify(&token, "amina", NOW + LIFETIME_S), None);
        assert_eq!(Signer::new(None).unwrap().verify(&token, "amina", NOW), None, "another deployment's key");
    }

    proptest! {
        #[test]
        fn a_token_with_any_character_changed_is_no_token(at in 0usize..200, with in "[A-Za-z0-9_.-]") {
            let signer = Signer::new(None).unwrap();
            let token = signer.mint("amina", &places(), NOW);
            let at = at % token.len();
            let mut forged = token.clone();
            forged.replace_range(at..=at, &with);
            // The last character of a base64 group may carry unused bits; the decoder refuses those too.
            prop_assert_eq!(signer.verify(&forged, "amina", NOW).is_some(), forged == token);
        }

        #[test]
        fn no_text_is_taken_for_a_token(text in ".{0,80}") {
            prop_assert_eq!(Signer::new(None).unwrap().verify(&text, "", NOW), None);
        }
    }
}
