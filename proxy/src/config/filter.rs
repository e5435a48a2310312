//! A filter as it is configured: what it is made of, how it is confined, and what is being tried in its place.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::duration;

/// A filter: a module and its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The `.wasm` file.
    pub module: PathBuf,
    /// Required sha-256 of the module in force, in hex, however it came.
    pub digest: Option<String>,
    /// Public ed25519 key (PEM): a module is taken only with a signature by it, `MODULE.sig` beside the file.
    pub signature_key: Option<PathBuf>,
    /// What happens to a message that the filter could not judge: `deny` or `allow`.
    pub on_failure: OnFailure,
    /// The filter's settings (its plugin configuration), given to it as JSON.
    #[serde(default)]
    pub settings: toml::Table,
    /// The settings from a JSON file instead.
    pub settings_file: Option<PathBuf>,
    /// VM configuration, as is.
    #[serde(default)]
    pub vm_configuration: String,
    /// Filters with the same one share data and queues; absent: the filter's name.
    pub vm_id: Option<String>,
    /// Which root context of the module.
    #[serde(default)]
    pub root_id: String,
    /// Whether outbound public messages are judged once per cohort or for each session.
    #[serde(default)]
    pub scope: Scope,
    /// CPU time for one callback.
    #[serde(default = "callback_budget", with = "duration")]
    pub callback_budget: Duration,
    /// CPU time for starting and configuring a VM.
    #[serde(default = "start_budget", with = "duration")]
    pub start_budget: Duration,
    /// Memory of one VM, in bytes.
    #[serde(default = "memory_bytes_max")]
    pub memory_bytes_max: u64,
    /// Log lines a second and VM; more are counted and dropped.
    #[serde(default = "log_lines_per_second_max")]
    pub log_lines_per_second_max: u32,
    /// Metrics that the filter may define.
    #[serde(default = "metrics_max")]
    pub metrics_max: u32,
    /// Bytes that the filter may hold back for each session and direction.
    #[serde(default = "held_bytes_max")]
    pub held_bytes_max: u32,
    /// The largest that the filter may make of what one callback gets, in bytes.
    #[serde(default = "body_bytes_max")]
    pub body_bytes_max: u32,
    /// Bytes that the filter may store as properties of one session.
    #[serde(default = "stored_bytes_max")]
    pub stored_bytes_max: u32,
    /// Judges the same traffic without effect.
    pub shadow: Option<Shadow>,
    /// Judges a part of the sessions.
    pub canary: Option<Canary>,
}

/// What is tried in a filter's place: its own module and settings, but for what is written here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Variant {
    /// Another module.
    pub module: Option<PathBuf>,
    /// Other settings.
    pub settings: Option<toml::Table>,
    /// Other settings, from a JSON file.
    pub settings_file: Option<PathBuf>,
}

/// A candidate that judges the same traffic without effect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shadow {
    /// Another module.
    pub module: Option<PathBuf>,
    /// Other settings.
    pub settings: Option<toml::Table>,
    /// Other settings, from a JSON file.
    pub settings_file: Option<PathBuf>,
    /// CPU time for one of its callbacks: live traffic waits for it.
    #[serde(with = "duration")]
    pub callback_budget: Duration,
    /// Of each worker's time, the most that it may take, in percent; what is over is not judged by it.
    pub time_percent_max: u8,
    /// Failures after which it is switched off.
    pub failures_max: u32,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            module: None,
            settings: None,
            settings_file: None,
            callback_budget: Duration::from_millis(10),
            time_percent_max: 20,
            failures_max: 10,
        }
    }
}

impl Shadow {
    /// What it is made of.
    pub fn variant(&self) -> Variant {
        let Self { module, settings, settings_file, .. } = self.clone();
        Variant { module, settings, settings_file }
    }
}

/// A candidate that judges a part of the sessions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canary {
    /// Another module.
    pub module: Option<PathBuf>,
    /// Other settings.
    pub settings: Option<toml::Table>,
    /// Other settings, from a JSON file.
    pub settings_file: Option<PathBuf>,
    /// Of all users, how many, in percent. The same users each time.
    pub percent: u8,
    /// Of its callbacks, how many may fail, in percent, before it is taken back.
    pub failure_percent_max: f64,
    /// Callbacks before that is asked.
    pub calls_min: u64,
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            module: None,
            settings: None,
            settings_file: None,
            percent: 5,
            failure_percent_max: 1.0,
            calls_min: 1000,
        }
    }
}

impl Canary {
    /// What it is made of.
    pub fn variant(&self) -> Variant {
        let Self { module, settings, settings_file, .. } = self.clone();
        Variant { module, settings, settings_file }
    }
}

const fn callback_budget() -> Duration {
    Duration::from_millis(100)
}

const fn start_budget() -> Duration {
    Duration::from_secs(2)
}

const fn memory_bytes_max() -> u64 {
    64 * 1024 * 1024
}

const fn log_lines_per_second_max() -> u32 {
    100
}

const fn metrics_max() -> u32 {
    256
}

const fn held_bytes_max() -> u32 {
    1024 * 1024
}

const fn body_bytes_max() -> u32 {
    4 * 1024 * 1024
}

const fn stored_bytes_max() -> u32 {
    16 * 1024
}

/// What happens to a message that a filter could not judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is refused.
    Deny,
    /// It passes.
    Allow,
}

/// How often an outbound public message is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Once per set of facts that the module declared; a module that declares nothing is judged per session.
    #[default]
    Cohort,
    /// For each session.
    Session,
}
