use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "market-data";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A directory that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bawaba-identity-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn settings() -> config::Identity {
    config::Identity {
        key: Vec::new(),
        jwks_file: None,
        issuer: Some(ISSUER.into()),
        audience: Some(AUDIENCE.into()),
        leeway: Duration::from_secs(5),
    }
}

fn key(kid: Option<&str>, algorithm: &str, file: PathBuf) -> config::Key {
    config::Key { kid: kid.map(str::to_owned), algorithm: algorithm.into(), file }
}

fn claims() -> Value {
    json!({"sub": "amina", "iss": ISSUER, "aud": AUDIENCE, "exp": now() + 60})
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

fn sign(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, key).unwrap()
}

fn secret_signed(claims: &Value) -> String {
    sign(Algorithm::HS256, None, &EncodingKey::from_secret(SECRET), claims)
}

fn shared_secret(scratch: &Scratch) -> Verifier {
    let mut settings = settings();
    settings.key.push(key(None, "HS256", scratch.write("secret", SECRET)));
    Verifier::load(&settings).ok().unwrap()
}

#[test]
fn claims_are_taken_only_as_they_must_be() {
    let scratch = Scratch::new("claims");
    let verifier = shared_secret(&scratch);
    let invalid = Err(Reason::AuthInvalid);
    let rows: Vec<(&str, Value, Result<&str, Reason>)> = vec![
        ("good", claims(), Ok("amina")),
        ("ended", with(|c| c["exp"] = json!(now() - 60)), Err(Reason::AuthExpired)),
        ("ended within the leeway", with(|c| c["exp"] = json!(now() - 2)), Ok("amina")),
        ("without an end", with(|c| drop(c.as_object_mut().unwrap().remove("exp"))), invalid),
        ("an end that is no number", with(|c| c["exp"] = json!("tomorrow")), invalid),
        ("not yet", with(|c| c["nbf"] = json!(now() + 60)), invalid),
        ("just begun", with(|c| c["nbf"] = json!(now() + 2)), Ok("amina")),
        ("another issuer", with(|c| c["iss"] = json!("https://evil.example")), invalid),
        ("no issuer", with(|c| drop(c.as_object_mut().unwrap().remove("iss"))), invalid),
        ("another audience", with(|c| c["aud"] = json!("mail")), invalid),
        ("one of several audiences", with(|c| c["aud"] = json!(["mail", AUDIENCE])), Ok("amina")),
        ("no audience", with(|c| drop(c.as_object_mut().unwrap().remove("aud"))), invalid),
        ("no user", with(|c| drop(c.as_object_mut().unwrap().remove("sub"))), invalid),
        ("an empty user", with(|c| c["sub"] = json!("")), invalid),
        ("screening that cannot be read", with(|c| c["islamic"] = json!("filter")), invalid),
    ];
    for (name, claims, expected) in rows {
        let got = verifier.verify(&secret_signed(&claims));
        assert_eq!(got.as_ref().map(|v| v.user.as_str()).map_err(|r| r.reason), expected, "{name}: {got:?}");
    }
}

#[test]
fn a_token_cannot_choose_how_it_is_checked() {
    let scratch = Scratch::new("confusion");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let public_pem = pair.public_key_pem();
    let mut settings = settings();
    settings.key.push(key(None, "ES256", scratch.write("public.pem", &public_pem)));
    let verifier = Verifier::load(&settings).ok().unwrap();
    let signing = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let good = sign(Algorithm::ES256, None, &signing, &claims());
    assert_eq!(verifier.verify(&good).unwrap().user, "amina");

    // The public key as if it were a shared secret: the classic confusion.
    let confused = sign(Algorithm::HS256, None, &EncodingKey::from_secret(public_pem.as_bytes()), &claims());
    // No signature at all.
    let body = URL_SAFE_NO_PAD.encode(claims().to_string());
    let none = format!("{}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let stranger = EncodingKey::from_ec_pem(stranger.serialize_pem().as_bytes()).unwrap();
    let wrong_key = sign(Algorithm::ES256, None, &stranger, &claims());
    let (head, rest) = good.split_once('.').unwrap();
    let signature = rest.split_once('.').unwrap().1;
    let rich = URL_SAFE_NO_PAD.encode(with(|c| c["tier"] = json!("enterprise")).to_string());
    let edited = format!("{head}.{rich}.{signature}");
    let header = Header { crit: Some(vec!["exp".into()]), ..Header::new(Algorithm::ES256) };
    let critical = encode(&header, &claims(), &signing).unwrap();
    let expired_and_forged = sign(Algorithm::ES256, None, &stranger, &with(|c| c["exp"] = json!(1)));
    for (name, token) in [
        ("confused", confused),
        ("none", none),
        ("wrong key", wrong_key),
        ("edited", edited),
        ("critical", critical),
        ("expired and forged", expired_and_forged),
        ("two parts", format!("{head}.{body}")),
        ("nothing", String::new()),
        ("noise", "a.b.c".into()),
        ("too long", format!("{good}{}", "A".repeat(TOKEN_BYTES_MAX))),
    ] {
        assert_eq!(verifier.verify(&token).unwrap_err().reason, Reason::AuthInvalid, "{name}");
    }
}

#[test]
fn a_key_answers_only_to_its_own_id() {
    let scratch = Scratch::new("kid");
    let other = b"ffffffffffffffffffffffffffffffff";
    let mut settings = settings();
    settings.key.push(key(Some("old"), "HS256", scratch.write("old", SECRET)));
    settings.key.push(key(Some("new"), "HS256", scratch.write("new", other)));
    let verifier = Verifier::load(&settings).ok().unwrap();
    let token = |kid, secret: &[u8]| sign(Algorithm::HS256, kid, &EncodingKey::from_secret(secret), &claims());
    for (kid, secret, taken) in [
        (Some("old"), SECRET, true),
        (Some("new"), &other[..], true),
        (Some("new"), SECRET, false),
        (Some("unknown"), SECRET, false),
        (None, SECRET, false),
    ] {
        assert_eq!(verifier.verify(&token(kid, secret)).is_ok(), taken, "{kid:?}");
    }
}

#[test]
fn every_algorithm_is_taken_from_pem_and_from_jwks() {
    let scratch = Scratch::new("algorithms");
    let es = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let rs = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let rs_public = rs.to_public_key();
    let rs_pem = rs.to_pkcs8_pem(LineEnding::LF).unwrap();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = es.public_key_raw();
    use rsa::traits::PublicKeyParts as _;
    let jwks = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "kid": "es", "x": b64(&point[1..33]), "y": b64(&point[33..])},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "use": "sig", "x": b64(ed.public_key_raw())},
        {"kty": "RSA", "kid": "rs", "alg": "RS256", "n": b64(&rs_public.n().to_bytes_be()), "e": b64(&rs_public.e().to_bytes_be())},
        {"kty": "oct", "kid": "hs", "k": b64(SECRET)},
        {"kty": "RSA", "kid": "for-encryption", "use": "enc", "n": "AQ", "e": "AQAB"},
    ]});
    let mut by_pem = settings();
    by_pem.key = vec![
        key(Some("es"), "ES256", scratch.write("es.pem", es.public_key_pem())),
        key(Some("ed"), "EdDSA", scratch.write("ed.pem", ed.public_key_pem())),
        key(Some("rs"), "RS256", scratch.write("rs.pem", rs_public.to_public_key_pem(LineEnding::LF).unwrap())),
        key(Some("hs"), "HS256", scratch.write("hs", [SECRET, b"\n"].concat())),
    ];
    let by_jwks = config::Identity { jwks_file: Some(scratch.write("jwks.json", jwks.to_string())), ..settings() };
    let signers = [
        ("es", Algorithm::ES256, EncodingKey::from_ec_pem(es.serialize_pem().as_bytes()).unwrap()),
        ("ed", Algorithm::EdDSA, EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes()).unwrap()),
        ("rs", Algorithm::RS256, EncodingKey::from_rsa_pem(rs_pem.as_bytes()).unwrap()),
        ("hs", Algorithm::HS256, EncodingKey::from_secret(SECRET)),
    ];
    for settings in [by_pem, by_jwks] {
        let verifier = Verifier::load(&settings).unwrap_or_else(|problems| panic!("{problems:?}"));
        for (kid, algorithm, signer) in &signers {
            let token = sign(*algorithm, Some(kid), signer, &claims());
            let verified = verifier.verify(&token).unwrap_or_else(|rejected| panic!("{kid}: {rejected:?}"));
            assert_eq!(verified.user, "amina");
            assert_eq!(Some(verified.payload.as_str()), token.split('.').nth(1), "the payload as it was signed");
        }
    }
}

#[test]
fn a_key_that_is_weak_or_unreadable_is_named() {
    let scratch = Scratch::new("weak");
    let cases: Vec<(config::Key, &str, &str)> = vec![
        (
            key(None, "HS256", scratch.write("short", b"secret\n")),
            "file",
            "has 6 bytes: HS256 needs a secret of at least 32",
        ),
        (key(None, "RS256", scratch.write("no.pem", b"no key")), "file", "holds no RSA public key in PEM form"),
        (key(None, "ES256", scratch.0.join("missing")), "file", "missing cannot be read"),
        (key(None, "HS512", scratch.write("long", SECRET)), "algorithm", "unknown algorithm \"HS512\""),
    ];
    for (key, field, message) in cases {
        let mut settings = settings();
        settings.key.push(key);
        let problems = Verifier::load(&settings).err().unwrap();
        assert_eq!((problems.len(), problems[0].key, problems[0].field), (1, Some(0), field));
        assert!(problems[0].message.contains(message), "{}", problems[0].message);
    }
    for (jwks, message) in [
        (r#"{"keys":[]}"#, "holds no key for signatures"),
        (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "at least 2048 bits"),
        (r#"{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}"#, "at least 32 bytes"),
        (
            r#"{"keys":[{"kty":"oct","alg":"HS512","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#,
            "its alg is not taken here",
        ),
        ("[]", "is no JWKS"),
    ] {
        let settings = config::Identity { jwks_file: Some(scratch.write("jwks.json", jwks)), ..settings() };
        let problems = Verifier::load(&settings).err().unwrap();
        assert!(problems[0].message.contains(message), "{}", problems[0].message);
    }
}

#[test]
fn keys_are_replaced_whole_while_tokens_are_verified() {
    let scratch = Scratch::new("reload");
    let identity = Identity::new(shared_secret(&scratch));
    let token = secret_signed(&claims());
    assert!(identity.verify(&token).is_ok());
    let mut settings = settings();
    settings.key.push(key(None, "HS256", scratch.write("next", b"ffffffffffffffffffffffffffffffff")));
    identity.install(Verifier::load(&settings).ok().unwrap());
    assert_eq!(identity.verify(&token).unwrap_err().reason, Reason::AuthInvalid);
}
