//! `envoy/envoy.yaml` in a real Envoy: the shipped file, with the lines that it marks `[yours]` changed and no others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::path;
use crate::client::{Client, Connect};
use crate::keys::{AUDIENCE, ISSUER, Keys};
use crate::place::{Scratch, envoy, filter, root};
use crate::process::{Process, address_after};
use crate::{PATIENCE, by, http};

/// An Envoy process that runs the shipped configuration.
pub struct Envoy {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
}

/// What is put into the shipped configuration.
#[derive(Clone, Debug, Default)]
pub struct EnvoyOptions {
    /// The filters that stay in the chain, by name, each with its settings. Others are taken out.
    pub filters: BTreeMap<String, Value>,
    /// Modules to load in place of the shipped filters of that name.
    pub modules: BTreeMap<String, PathBuf>,
    /// The endpoints of each cluster.
    pub clusters: BTreeMap<String, Vec<SocketAddr>>,
}

impl Envoy {
    /// Starts it and waits until its workers have started.
    pub fn start(scratch: &Scratch, keys: &Keys, options: &EnvoyOptions) -> Self {
        let config = scratch.write("envoy.json", configuration(scratch, keys, options).to_string());
        Self::serve(&config)
    }

    /// Runs a configuration file whose listeners have port 0.
    pub fn serve(config: &Path) -> Self {
        Self::serve_by(config, |program| Command::new(program))
    }

    /// As [`Self::serve`], with a command of the caller's making: on a core of its own, say.
    pub fn serve_by(config: &Path, command: impl FnOnce(&Path) -> Command) -> Self {
        let mut command = command(&envoy());
        // One worker, so that one VM sees all streams; no shared memory region, as many run beside each other.
        command
            .arg("-c")
            .arg(config)
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .args(["--component-log-level", "main:warning"]);
        let process = Process::spawn("envoy", &mut command);
        let admin =
            process.line("naming its admin address", by(PATIENCE), |line| address_after(line, "admin address: "));
        process.line("starting its workers", by(3 * PATIENCE), |line| line.contains("starting workers").then_some(()));
        let listeners = http::get(admin, "/listeners?format=json").expect("its admin answers");
        let listeners = listeners.json();
        let socket = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = socket["port_value"].as_u64().expect("the listener is bound");
        Self { process, address: SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port"))), admin }
    }

    /// Opens `/ws` in the JSON form.
    pub fn connect(&self, token: &str) -> Client {
        Connect::with_token(token).accepted(self.address)
    }

    /// The value of a counter or gauge.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let text = http::get(self.admin, &format!("/stats?filter={name}")).ok()?.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
    }
}

/// The shipped file as JSON (Envoy reads both), changed where it says `[yours]`.
pub fn configuration(scratch: &Scratch, keys: &Keys, options: &EnvoyOptions) -> Value {
    let shipped = std::fs::read_to_string(root().join("envoy/envoy.yaml")).expect("envoy.yaml");
    let mut config: Value = serde_yaml::from_str(&shipped).expect("envoy.yaml is YAML");
    let jwks = path(&keys.write_jwks(scratch));
    change(&mut config, &mut |object| {
        if let Some(port) = object.get_mut("port_value") {
            *port = json!(0);
        }
        if let Some(address) = object.get_mut("address")
            && *address == json!("0.0.0.0")
        {
            *address = json!("127.0.0.1");
        }
        if let Some(file) = object.get_mut("local_jwks") {
            *file = json!({"filename": jwks});
            object.insert("issuer".into(), json!(ISSUER));
            object.insert("audiences".into(), json!([AUDIENCE]));
        }
        if let Some(Value::Array(chain)) = object.get_mut("filters") {
            chain.retain(|entry| filter_name(entry).is_none_or(|n| options.filters.contains_key(n)));
        }
        fill_filter(object, options);
        fill_cluster(object, options);
    });
    config
}

fn filter_name(entry: &Value) -> Option<&str> {
    entry["name"].as_str()?.strip_prefix("bawaba.")
}

/// The `config` of a wasm filter: our module, its settings.
fn fill_filter(object: &mut serde_json::Map<String, Value>, options: &EnvoyOptions) {
    let Some(name) = object.get("name").and_then(Value::as_str) else {
        return;
    };
    let (Some(settings), true) = (options.filters.get(name), object.contains_key("vm_config")) else {
        return;
    };
    let module = options.modules.get(name).cloned().unwrap_or_else(|| filter(name));
    object["configuration"]["value"] = json!(settings.to_string());
    object["vm_config"]["code"]["local"]["filename"] = json!(path(&module));
}

/// A cluster: our endpoints.
fn fill_cluster(object: &mut serde_json::Map<String, Value>, options: &EnvoyOptions) {
    let Some(name) = object.get("cluster_name").and_then(Value::as_str) else {
        return;
    };
    let endpoints: Vec<Value> = options
        .clusters
        .get(name)
        .into_iter()
        .flatten()
        .map(|address| {
            json!({"endpoint": {"address": {"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()}}}})
        })
        .collect();
    object["endpoints"] = json!([{"lb_endpoints": endpoints}]);
}

/// Visits every object, outer ones last, so that what a visitor fills in is not visited again.
fn change(value: &mut Value, visit: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(|inner| change(inner, visit));
            visit(object);
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| change(inner, visit)),
        _ => {}
    }
}
