//! A revision of a filter: one module with one configuration of it, named by what they are. Read from files here, by admin
//! in [`crate::admin`], and from the state directory in [`crate::store`]; what becomes of it is the generation's business.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::{self, Variant};
use crate::signature::Key;

/// What could not be done, in the words that an operator needs: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{at}: {what}: {advice}")]
pub struct Trouble {
    /// Where: a file, a filter, a part of a request.
    #[serde(rename = "where")]
    pub at: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub advice: String,
    /// The filter that it is about, if it is about one.
    pub filter: Option<String>,
}

impl Trouble {
    /// About anything.
    pub fn new(at: impl Into<String>, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into(), advice: advice.into(), filter: None }
    }

    /// About a filter.
    pub fn of_filter(name: &str, at: &str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        let at = if at.is_empty() { format!("filter {name}") } else { format!("filter {name}, {at}") };
        Self { filter: Some(name.to_owned()), ..Self::new(at, what, advice) }
    }
}

/// sha-256 of the two parts of a revision, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevisionId {
    /// Of the module.
    pub module: String,
    /// Of the settings, as they are given to the filter.
    pub settings: String,
}

impl RevisionId {
    /// The name of the revision: sha-256 of both.
    pub fn digest(&self) -> String {
        digest(format!("{}\n{}\n", self.module, self.settings).as_bytes())
    }

    /// Whether an operator who writes `text` means this one: its digest or that of its module, or 8 digits of either.
    pub fn is_meant_by(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text.len() >= 8 && (self.digest().starts_with(&text) || self.module.starts_with(&text))
    }
}

/// sha-256, in hex.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A module, its settings, and who says that the module is theirs.
#[derive(Clone, Debug)]
pub struct Revision {
    /// Its name.
    pub id: RevisionId,
    /// The wasm bytes.
    pub module: Arc<[u8]>,
    /// JSON.
    pub settings: Arc<[u8]>,
    /// The signature that came with the module.
    pub signature: Option<Arc<[u8]>>,
    /// Where the module came from, for messages.
    pub from: String,
}

impl Revision {
    /// Of these parts.
    pub fn new(module: Arc<[u8]>, settings: Arc<[u8]>, signature: Option<Arc<[u8]>>, from: impl Into<String>) -> Self {
        let id = RevisionId { module: digest(&module), settings: digest(&settings) };
        Self { id, module, settings, signature, from: from.into() }
    }

    /// The filter as its files say.
    pub fn read(name: &str, filter: &config::Filter) -> Result<Self, Trouble> {
        let settings = match &filter.settings_file {
            Some(file) => read(name, file)?,
            None => json(name, &filter.settings)?,
        };
        let (module, signature) = read_module(name, &filter.module, filter)?;
        Ok(Self::new(module, settings, signature, filter.module.display().to_string()))
    }

    /// A candidate as its files say: what it does not say is the filter's own.
    pub fn read_variant(name: &str, filter: &config::Filter, variant: &Variant, own: &Self) -> Result<Self, Trouble> {
        let settings = match (&variant.settings, &variant.settings_file) {
            (Some(settings), _) => json(name, settings)?,
            (None, Some(file)) => read(name, file)?,
            (None, None) => Arc::clone(&own.settings),
        };
        let Some(file) = &variant.module else {
            return Ok(Self::new(Arc::clone(&own.module), settings, own.signature.clone(), own.from.clone()));
        };
        let (module, signature) = read_module(name, file, filter)?;
        Ok(Self::new(module, settings, signature, file.display().to_string()))
    }

    /// Whether the configuration allows this module in force: the digest that it pins, the signature that it requires.
    pub fn admit(&self, name: &str, filter: &config::Filter) -> Result<(), Trouble> {
        if let Some(wanted) = &filter.digest
            && !wanted.eq_ignore_ascii_case(&self.id.module)
        {
            let what = format!("its sha-256 is {}, and filter.{name}.digest requires {wanted}", self.id.module);
            return Err(Trouble::of_filter(
                name,
                &self.from,
                what,
                "install the approved module, or approve this one by writing its digest there",
            ));
        }
        self.admit_signature(name, filter)
    }

    /// The same for a candidate, which the digest does not speak of.
    pub fn admit_signature(&self, name: &str, filter: &config::Filter) -> Result<(), Trouble> {
        let Some(file) = &filter.signature_key else { return Ok(()) };
        let trouble = |what: String, advice: &str| Err(Trouble::of_filter(name, &self.from, what, advice));
        let key = match Key::read(file) {
            Ok(key) => key,
            Err(what) => return trouble(what, "restore the key, or remove filter.NAME.signature_key"),
        };
        match &self.signature {
            None => trouble(
                format!("the module has no signature, and filter.{name}.signature_key requires one"),
                "openssl pkeyutl -sign -rawin -inkey KEY -in MODULE -out MODULE.sig, beside the file or in x-bawaba-signature (base64)",
            ),
            Some(signature) if !key.verifies(&self.module, signature) => trouble(
                format!("the module's signature was not made over these bytes with the key of {}", file.display()),
                "sign this very file with the private half of that key",
            ),
            Some(_) => Ok(()),
        }
    }
}

/// The signature's file: the module's name and `.sig`.
pub fn signature_file(module: &Path) -> PathBuf {
    let mut name = module.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

type Signed = (Arc<[u8]>, Option<Arc<[u8]>>);

fn read_module(name: &str, file: &Path, filter: &config::Filter) -> Result<Signed, Trouble> {
    let module = read(name, file)?;
    // Without a key nobody asks, and a file that can't be read is no reason to stop.
    let signature = filter.signature_key.as_ref().and_then(|_| std::fs::read(signature_file(file)).ok());
    Ok((module, signature.map(Arc::from)))
}

fn read(name: &str, file: &Path) -> Result<Arc<[u8]>, Trouble> {
    std::fs::read(file).map(Arc::from).map_err(|error| {
        Trouble::of_filter(name, &file.display().to_string(), format!("cannot be read: {error}"), "restore the file")
    })
}

fn json(name: &str, settings: &toml::Table) -> Result<Arc<[u8]>, Trouble> {
    serde_json::to_vec(settings)
        .map(Arc::from)
        .map_err(|error| Trouble::of_filter(name, "settings", format!("are no JSON: {error}"), "write dates as text"))
}
