//! Certificates, checked before they are needed: Pingora would panic where this says what is wrong.

use std::sync::Arc;

use pingora_core::listeners::tls::Acceptor;
use pingora_core::tls::{ServerConfig, install_default_crypto_provider, load_certs_and_key_files, version};

use crate::config;

/// Loads certificate and key, and checks that they belong together. ALPN offers HTTP/2, then HTTP/1.1.
pub fn load(tls: &config::Tls) -> Result<Acceptor, String> {
    install_default_crypto_provider();
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    for file in [&tls.certificate, &tls.key] {
        std::fs::File::open(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    }
    let loaded = load_certs_and_key_files(&tls.certificate.to_string_lossy(), &tls.key.to_string_lossy());
    let Ok(Some((certificates, private_key))) = loaded else {
        return Err(format!("{certificate} and {key} must hold a certificate and a private key in PEM form"));
    };
    let mut config = ServerConfig::builder_with_protocol_versions(&[&version::TLS12, &version::TLS13])
        .with_no_client_auth()
        .with_single_cert(certificates, private_key)
        .map_err(|error| format!("{certificate} with {key}: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Acceptor::from_server_config(Arc::new(config)))
}
