//! Development tokens: mint one, or look into one. Production tokens come from an identity provider.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::config;
use crate::identity::{Verifier, secret};

/// What can be done with tokens.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Sign a token.
    Mint(Box<Mint>),
    /// Show what a token says; with a configuration, also whether that edge would accept it.
    Inspect {
        /// The token.
        token: String,
        /// Verify it with the keys of this configuration.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Signing {
    #[value(name = "HS256")]
    Hs256,
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "ES256")]
    Es256,
    #[value(name = "EdDSA")]
    EdDsa,
}

/// A token to sign.
#[derive(Clone, Debug, Args)]
pub struct Mint {
    /// Secret (HS256) or private key in PEM form.
    #[arg(long)]
    key: PathBuf,
    /// How to sign.
    #[arg(long, value_enum, default_value = "HS256")]
    algorithm: Signing,
    /// `kid` of the key.
    #[arg(long)]
    kid: Option<String>,
    /// `sub`.
    #[arg(long)]
    user: String,
    /// `sid`: a newer connection with the same one takes over.
    #[arg(long)]
    sid: Option<String>,
    /// `tenant`.
    #[arg(long)]
    tenant: Option<String>,
    /// Licence tier: basic, professional, enterprise or islamic.
    #[arg(long, default_value = "professional")]
    tier: String,
    /// A licensed feature; may be repeated.
    #[arg(long = "feature")]
    features: Vec<String>,
    /// A licensed exchange; may be repeated.
    #[arg(long = "exchange")]
    exchanges: Vec<String>,
    /// A licensed asset type; may be repeated.
    #[arg(long = "asset-type")]
    asset_types: Vec<String>,
    /// Sharia screening: off, annotate or filter.
    #[arg(long)]
    islamic_mode: Option<String>,
    /// A board that judges; may be repeated.
    #[arg(long = "board", requires = "islamic_mode")]
    boards: Vec<String>,
    /// named, `all_of` or `any_of`.
    #[arg(long, requires = "islamic_mode")]
    rule: Option<String>,
    /// `iss`.
    #[arg(long)]
    issuer: Option<String>,
    /// `aud`.
    #[arg(long)]
    audience: Option<String>,
    /// Seconds until it expires.
    #[arg(long, default_value_t = 3600)]
    ttl: u64,
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "what the command is for")]
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Mint(mint) => println!("{}", self::mint(mint)?),
        Command::Inspect { token, config } => {
            for line in inspect(token)? {
                println!("{line}");
            }
            if let Some(file) = config {
                println!("{}", verdict(token, file)?);
            }
        }
    }
    Ok(())
}

/// Signs claims with an HS256 secret.
pub fn sign_hs256(claims: &Value, key: &[u8]) -> anyhow::Result<String> {
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(key))?)
}

fn mint(mint: &Mint) -> anyhow::Result<String> {
    let bytes = std::fs::read(&mint.key).with_context(|| format!("{} cannot be read", mint.key.display()))?;
    let (algorithm, key) = match mint.algorithm {
        Signing::Hs256 if secret(&bytes).len() < crate::check::SECRET_BYTES_MIN => {
            bail!("{}: HS256 needs a secret of at least {} bytes", mint.key.display(), crate::check::SECRET_BYTES_MIN)
        }
        Signing::Hs256 => (Algorithm::HS256, EncodingKey::from_secret(secret(&bytes))),
        Signing::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(&bytes)?),
        Signing::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(&bytes)?),
        Signing::EdDsa => (Algorithm::EdDSA, EncodingKey::from_ed_pem(&bytes)?),
    };
    let mut header = Header::new(algorithm);
    header.kid.clone_from(&mint.kid);
    Ok(jsonwebtoken::encode(&header, &claims(mint), &key)?)
}

fn claims(mint: &Mint) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut claims = Map::new();
    claims.insert("sub".into(), json!(mint.user));
    claims.insert("tier".into(), json!(mint.tier));
    claims.insert("iat".into(), json!(now));
    claims.insert("exp".into(), json!(now.saturating_add(mint.ttl)));
    let texts = [("sid", &mint.sid), ("tenant", &mint.tenant), ("iss", &mint.issuer), ("aud", &mint.audience)];
    for (name, value) in texts {
        if let Some(value) = value {
            claims.insert(name.into(), json!(value));
        }
    }
    let lists = [("features", &mint.features), ("exchanges", &mint.exchanges), ("asset_types", &mint.asset_types)];
    for (name, values) in lists {
        if !values.is_empty() {
            claims.insert(name.into(), json!(values));
        }
    }
    if let Some(mode) = &mint.islamic_mode {
        let mut islamic = json!({ "mode": mode, "boards": mint.boards });
        if let Some(rule) = &mint.rule {
            islamic["rule"] = json!(rule);
        }
        claims.insert("islamic".into(), islamic);
    }
    Value::Object(claims)
}

fn inspect(token: &str) -> anyhow::Result<Vec<String>> {
    let parts: Vec<&str> = token.trim().split('.').collect();
    let [header, payload, _] = parts[..] else { bail!("this is no JWT: it has {} parts, not three", parts.len()) };
    let read = |name: &str, part: &str| -> anyhow::Result<Value> {
        let bytes = URL_SAFE_NO_PAD.decode(part).with_context(|| format!("its {name} is not base64url"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("its {name} is not JSON"))
    };
    let (header, payload) = (read("header", header)?, read("payload", payload)?);
    let mut lines = vec![format!("header  {header}"), format!("payload {}", serde_json::to_string_pretty(&payload)?)];
    if let Some(exp) = payload["exp"].as_i64() {
        let at = jiff::Timestamp::from_second(exp).map_or_else(|_| "out of range".to_owned(), |at| at.to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let state = if exp <= now { "expired" } else { "not expired" };
        lines.push(format!("exp     {at} ({state})"));
    }
    lines.push("the signature was not verified".to_owned());
    Ok(lines)
}

fn verdict(token: &str, file: &std::path::Path) -> anyhow::Result<String> {
    let loaded = config::load(file)
        .map_err(|problems| anyhow::anyhow!("{}", problems.first().map_or_else(String::new, ToString::to_string)))?;
    let verifier = Verifier::load(&loaded.config.identity)
        .map_err(|problems| anyhow::anyhow!("{}", problems.first().map_or("", |problem| problem.message.as_str())))?;
    Ok(match verifier.verify(token.trim()) {
        Ok(verified) => format!("{} accepts it, for user {}", file.display(), verified.user),
        Err(rejected) => format!("{} refuses it: {}: {}", file.display(), rejected.reason, rejected.detail),
    })
}
