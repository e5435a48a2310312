//! Who a client is: tokens (JWT) are verified here and nowhere else.
//!
//! Each key is pinned to one algorithm, so that a token cannot choose how it is checked. Cryptography is
//! jsonwebtoken's. Knows no HTTP: where a token is found in a request is [`crate::handshake`]'s matter.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bawaba_channels::claims::Claims;
use bawaba_channels::reason::Reason;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

use crate::check::SECRET_BYTES_MIN;
use crate::config;

/// Longest token that is looked at: claims travel in a header of at most 16 KiB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Fewest bytes of an RSA modulus: 2048 bits.
const RSA_BYTES_MIN: usize = 256;
/// Most keys that one token is tried against.
const TRIES_MAX: usize = 4;

/// What a verified token says. The token itself is not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// `sub`; never empty.
    pub user: String,
    /// `sid`.
    pub sid: Option<String>,
    /// `tenant`; empty when the token names none.
    pub tenant: String,
    /// Whether it is that of another edge (claim `role`).
    pub is_edge: bool,
    /// The payload as the token carried it: base64url without padding, as filters read it.
    pub payload: String,
    /// `exp`, in seconds since the epoch.
    pub expires_at: i64,
}

/// A token that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// `auth.invalid` or `auth.expired`.
    pub reason: Reason,
    /// What is wrong, for people. Says nothing that the token's bearer could use to guess keys.
    pub detail: &'static str,
}

const fn invalid(detail: &'static str) -> Rejected {
    Rejected { reason: Reason::AuthInvalid, detail }
}

/// A key that could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProblem {
    /// Its place in `[[identity.key]]`; `None` for the JWKS file.
    pub key: Option<usize>,
    /// The setting that is wrong.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

struct VerifyingKey {
    kid: Option<String>,
    key: DecodingKey,
    /// Pins the one algorithm, and with it issuer, audience and leeway.
    validation: Validation,
}

/// Verifies tokens with a fixed set of keys.
pub struct Verifier {
    keys: Vec<VerifyingKey>,
}

/// The verifier in force; can be replaced whole while the edge runs.
pub struct Identity {
    current: ArcSwap<Verifier>,
}

impl Identity {
    /// With its first keys.
    pub fn new(verifier: Verifier) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(verifier) })
    }

    /// See [`Verifier::verify`].
    pub fn verify(&self, token: &str) -> Result<Verified, Rejected> {
        self.current.load().verify(token)
    }

    /// Puts other keys in force.
    pub fn install(&self, verifier: Verifier) {
        self.current.store(Arc::new(verifier));
    }
}

impl Verifier {
    /// Reads all keys. Every key that is wrong is named.
    pub fn load(settings: &config::Identity) -> Result<Self, Vec<KeyProblem>> {
        let mut keys: Vec<VerifyingKey> = Vec::new();
        let mut problems = Vec::new();
        for (index, key) in settings.key.iter().enumerate() {
            match load_key(settings, key) {
                Ok(loaded) if keys.iter().any(|other| same_place(other, &loaded)) => problems.push(KeyProblem {
                    key: Some(index),
                    field: "kid",
                    message: "another key has the same kid and algorithm: a token could not say which it means".into(),
                }),
                Ok(loaded) => keys.push(loaded),
                Err((field, message)) => problems.push(KeyProblem { key: Some(index), field, message }),
            }
        }
        if let Some(file) = &settings.jwks_file {
            match load_jwks(settings, file) {
                Ok(loaded) => keys.extend(loaded),
                Err(message) => problems.push(KeyProblem { key: None, field: "jwks_file", message }),
            }
        }
        if problems.is_empty() { Ok(Self { keys }) } else { Err(problems) }
    }

    /// Whether there is no key, so that no token can be right.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies `token`: form, key, algorithm, signature, then `exp`, `nbf`, `iss`, `aud`, then that every claim
    /// known to this project has its kind (a malformed `islamic` claim must not unscreen its session).
    pub fn verify(&self, token: &str) -> Result<Verified, Rejected> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid("the token is too long"));
        }
        let header = decode_header(token).map_err(|_| invalid("this is no JWT that is taken here"))?;
        if header.crit.is_some() {
            return Err(invalid("the token demands an extension that is not known here (crit)"));
        }
        let mut rejected = invalid("no key here answers to the token's key id and algorithm");
        let candidates = self
            .keys
            .iter()
            .filter(|key| key.kid == header.kid && key.validation.algorithms.contains(&header.alg))
            .take(TRIES_MAX);
        for key in candidates {
            match decode::<serde_json::Value>(token, &key.key, &key.validation) {
                Ok(data) => return admit(token, &data.claims),
                Err(error) => rejected = explain(error.kind()),
            }
        }
        Err(rejected)
    }
}

fn admit(token: &str, claims: &serde_json::Value) -> Result<Verified, Rejected> {
    let payload = token.split('.').nth(1).unwrap_or_default().to_owned();
    let json = serde_json::to_vec(claims).map_err(|_| invalid("the token's claims could not be read"))?;
    let known = Claims::from_json(&json).map_err(|_| invalid("a claim of the token has the wrong form"))?;
    let is_edge = known.is_edge();
    let user = known.sub.filter(|user| !user.is_empty()).ok_or(invalid("the token names no user (sub)"))?;
    let expires_at = known.exp.ok_or(invalid("the token has no end (exp)"))?;
    let tenant = known.tenant.unwrap_or_default();
    Ok(Verified { user, sid: known.sid, tenant, is_edge, payload, expires_at })
}

fn explain(kind: &ErrorKind) -> Rejected {
    match kind {
        ErrorKind::ExpiredSignature => Rejected { reason: Reason::AuthExpired, detail: Reason::AuthExpired.sentence() },
        ErrorKind::ImmatureSignature => invalid("the token is not valid yet (nbf)"),
        ErrorKind::InvalidIssuer => invalid("the token's issuer is not taken here (iss)"),
        ErrorKind::InvalidAudience => invalid("the token is for another audience (aud)"),
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => invalid("the token has no end (exp)"),
            "sub" => invalid("the token names no user (sub)"),
            "iss" => invalid("the token names no issuer (iss)"),
            "aud" => invalid("the token names no audience (aud)"),
            _ => invalid("the token lacks a claim"),
        },
        ErrorKind::InvalidSignature => invalid("the token's signature is wrong"),
        _ => invalid("the token is not valid here"),
    }
}

fn same_place(a: &VerifyingKey, b: &VerifyingKey) -> bool {
    a.kid == b.kid && a.validation.algorithms == b.validation.algorithms
}

fn validation(settings: &config::Identity, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = settings.leeway.as_secs();
    validation.validate_nbf = true;
    let mut required = vec!["exp", "sub"];
    if let Some(issuer) = &settings.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    // Without a configured audience, a token that names one was made for somebody else (RFC 7519, 4.1.3): refused.
    if let Some(audience) = &settings.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn load_key(settings: &config::Identity, key: &config::Key) -> Result<VerifyingKey, (&'static str, String)> {
    let file = key.file.display();
    let bytes = fs::read(&key.file).map_err(|error| ("file", format!("{file} cannot be read: {error}")))?;
    let no_key = |kind: &str| ("file", format!("{file} holds no {kind} public key in PEM form"));
    let (algorithm, decoding) = match key.algorithm.as_str() {
        "HS256" => {
            let secret = secret(&bytes);
            if secret.len() < SECRET_BYTES_MIN {
                let message =
                    format!("{file} has {} bytes: HS256 needs a secret of at least {SECRET_BYTES_MIN}", secret.len());
                return Err(("file", message));
            }
            (Algorithm::HS256, DecodingKey::from_secret(secret))
        }
        "RS256" => {
            let decoding = DecodingKey::from_rsa_pem(&bytes).map_err(|_| no_key("RSA"))?;
            // The DER of an RSA public key is its modulus and a few bytes more.
            if decoding.try_get_as_bytes().map_or(0, <[u8]>::len) < RSA_BYTES_MIN {
                return Err(("file", format!("{file}: RS256 needs a key of at least 2048 bits")));
            }
            (Algorithm::RS256, decoding)
        }
        "ES256" => (Algorithm::ES256, DecodingKey::from_ec_pem(&bytes).map_err(|_| no_key("P-256"))?),
        "EdDSA" => (Algorithm::EdDSA, DecodingKey::from_ed_pem(&bytes).map_err(|_| no_key("Ed25519"))?),
        other => {
            let message = format!("unknown algorithm \"{other}\": it must be HS256, RS256, ES256 or EdDSA");
            return Err(("algorithm", message));
        }
    };
    Ok(VerifyingKey { kid: key.kid.clone(), key: decoding, validation: validation(settings, algorithm) })
}

/// The secret in a file: without the line break that editors and `echo` leave at the end.
pub fn secret(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn load_jwks(settings: &config::Identity, file: &Path) -> Result<Vec<VerifyingKey>, String> {
    let shown = file.display();
    let bytes = fs::read(file).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let set: JwkSet = serde_json::from_slice(&bytes).map_err(|error| format!("{shown} is no JWKS: {error}"))?;
    let mut keys = Vec::new();
    for (index, jwk) in set.keys.iter().enumerate() {
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            continue;
        }
        let algorithm = jwk_algorithm(jwk).map_err(|why| format!("{shown}: key {}: {why}", index + 1))?;
        let decoding = DecodingKey::from_jwk(jwk).map_err(|error| format!("{shown}: key {}: {error}", index + 1))?;
        keys.push(VerifyingKey {
            kid: jwk.common.key_id.clone(),
            key: decoding,
            validation: validation(settings, algorithm),
        });
    }
    if keys.is_empty() {
        return Err(format!("{shown} holds no key for signatures"));
    }
    Ok(keys)
}

/// The one algorithm of a key: as its `alg` says, which must fit its kind; else the one that its kind implies.
fn jwk_algorithm(jwk: &Jwk) -> Result<Algorithm, &'static str> {
    let too_short = |text: &str, bytes: usize| text.len() * 3 / 4 < bytes;
    let (implied, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if too_short(&rsa.n, RSA_BYTES_MIN) => {
            return Err("RS256 needs a key of at least 2048 bits");
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(oct) if too_short(&oct.value, SECRET_BYTES_MIN) => {
            return Err("HS256 needs a secret of at least 32 bytes");
        }
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => return Err("its kind is not taken here: RSA, P-256, Ed25519 or a secret"),
    };
    match jwk.common.key_algorithm {
        None => Ok(implied),
        Some(alg) if alg == named => Ok(implied),
        Some(_) => Err("its alg is not taken here: HS256, RS256, ES256 or EdDSA, fitting its kind"),
    }
}

#[cfg(test)]
mod tests;
