//! Keys made for one test run, and tokens signed with them.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::place::Scratch;

/// The `iss` of the harness's tokens.
pub const ISSUER: &str = "https://id.example.eg";
/// The `aud` of the harness's tokens.
pub const AUDIENCE: &str = "bawaba";
const KEY_ID: &str = "test";

/// An ES256 key pair.
pub struct Keys {
    encoding: EncodingKey,
    public: Vec<u8>,
}

impl Keys {
    /// Makes a fresh pair.
    pub fn generate() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a P-256 key can be made");
        let encoding = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())
            .expect("rcgen writes PKCS#8 that jsonwebtoken reads");
        Self { encoding, public: pair.public_key_raw().to_vec() }
    }

    /// The public key as a JWKS (RFC 7517), as both the edge and Envoy's `jwt_authn` read it.
    pub fn jwks(&self) -> String {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let (x, y) = self.public[1..].split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": BASE64_URL_SAFE_NO_PAD.encode(x),
            "y": BASE64_URL_SAFE_NO_PAD.encode(y),
        }]})
        .to_string()
    }

    /// Writes [`Self::jwks`] to `jwks.json` in the scratch directory.
    pub fn write_jwks(&self, scratch: &Scratch) -> PathBuf {
        scratch.write("jwks.json", self.jwks())
    }

    /// A token that holds for an hour: `claims` over `iss`, `aud` and `exp`, which `claims` may override.
    pub fn token(&self, claims: Value) -> String {
        let mut whole = json!({"iss": ISSUER, "aud": AUDIENCE, "exp": now_s() + 3600});
        let (Value::Object(whole_map), Value::Object(claims)) = (&mut whole, claims) else {
            panic!("claims are a JSON object");
        };
        whole_map.extend(claims);
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.into());
        jsonwebtoken::encode(&header, &whole, &self.encoding).expect("claims can be signed")
    }

    /// A token of a user who is licensed for everything and not screened.
    pub fn unscreened(&self, user: &str) -> String {
        self.token(trader(user))
    }

    /// A token of a user who is licensed for everything and screened by board EGX33.
    pub fn screened(&self, user: &str) -> String {
        let mut claims = trader(user);
        claims["islamic"] = json!({"mode": "filter", "boards": ["EGX33"], "rule": "named"});
        self.token(claims)
    }
}

/// Claims of a user on the widest licence tier, not screened.
pub fn trader(user: &str) -> Value {
    json!({
        "sub": user, "tenant": "example", "tier": "enterprise",
        "features": ["market_data", "level2", "order_book", "news", "alerts", "trading"],
        "exchanges": ["EGX", "ADX"], "islamic": {"mode": "off"},
    })
}

/// Seconds since the epoch.
pub fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}
