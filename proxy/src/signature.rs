//! Who may make modules: an ed25519 signature over the module's bytes (RFC 8032), as `openssl pkeyutl -sign -rawin` writes
//! it. Knows no module.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};

/// What stands before the 32 bytes of an ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key.
pub struct Key(VerifyingKey);

impl Key {
    /// Reads a PEM file. The error is for the operator.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        Self::parse(&text).ok_or_else(|| {
            format!("{} holds no ed25519 public key (PEM): openssl pkey -in KEY -pubout writes one", file.display())
        })
    }

    fn parse(pem: &str) -> Option<Self> {
        let body = pem.split("-----BEGIN PUBLIC KEY-----").nth(1)?.split("-----END PUBLIC KEY-----").next()?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).ok()?;
        let key: [u8; 32] = der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?;
        VerifyingKey::from_bytes(&key).ok().map(Self)
    }

    /// Whether `signature` (64 bytes, or base64 of them) was made over `module` with this key.
    pub fn verifies(&self, module: &[u8], signature: &[u8]) -> bool {
        let raw = <[u8; 64]>::try_from(signature).ok().or_else(|| {
            let text: Vec<u8> = signature.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            STANDARD.decode(text).ok()?.try_into().ok()
        });
        // Strict: a signature that was bent into another that also holds is refused.
        raw.is_some_and(|raw| self.0.verify_strict(module, &Signature::from_bytes(&raw)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by: openssl genpkey -algorithm ed25519, pkey -pubout, pkeyutl -sign -rawin over the text "module\n".
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAy9PKLa85eJofW1A68WEeo3P6jmXaASarx4SMVzoQRzc=\n-----END PUBLIC KEY-----\n";
    const SIGNATURE: &str = "QWDoAaKL9nCLMJXOpE5Qk3w0Ba2QU4FC5bxlzzxuZwZAD2zUtF34nc3s/ikRnrQg+yscO+QO+qsHsUaSH64RDA==";

    #[test]
    fn what_openssl_signs_is_taken_and_nothing_else() {
        let key = Key::parse(PEM).unwrap();
        let raw = STANDARD.decode(SIGNATURE).unwrap();
        assert!(key.verifies(b"module\n", &raw));
        assert!(key.verifies(b"module\n", format!("{}\n{}\n", &SIGNATURE[..64], &SIGNATURE[64..]).as_bytes()));
        assert!(!key.verifies(b"module", &raw));
        assert!(!key.verifies(b"module\n", &raw[..63]));
        assert!(!key.verifies(b"module\n", b""));
        let mut bent = raw.clone();
        bent[0] ^= 1;
        assert!(!key.verifies(b"module\n", &bent));
    }

    #[test]
    fn another_kind_of_key_is_no_key() {
        for text in [
            "",
            "PEM",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            &PEM.replace("MCowBQYDK2Vw", "MCowBQYDK2Vu"),
        ] {
            assert!(Key::parse(text).is_none(), "{text}");
        }
    }
}
