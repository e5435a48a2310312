//! An edge on which filters are changed: a relay route behind the license filter, before a service that echoes.

use std::fs;

use serde_json::Value;
use toml::Table;

use crate::client::{Client, Connect};
use crate::http::{self, Answer};
use crate::keys::{AUDIENCE, ISSUER, Keys};
use crate::place::{Scratch, filter};
use crate::relay::Service;
use crate::stack::{Edge, path, set};

/// An edge with a relay route behind `license`, and what it needs to start again as it was.
pub struct Lab {
    /// Its keys and tokens.
    pub keys: Keys,
    /// The edge.
    pub edge: Edge,
    /// As it was written.
    pub config: Table,
    /// Its files: `license.wasm`, `license.json`, `state/`.
    pub files: Scratch,
    _service: Service,
}

impl Lab {
    /// Starts it.
    pub fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    /// Starts it with a changed configuration.
    pub fn start_with(change: impl FnOnce(&mut Table, &Scratch)) -> Self {
        let (keys, files, service) = (Keys::generate(), Scratch::new(), Service::start());
        files.write("license.wasm", fs::read(filter("license")).unwrap());
        files.write("license.json", "{}");
        let mut config: Table = toml::toml! {
            [edge]
            workers = 1
            [[listener]]
            address = "127.0.0.1:0"
            [admin]
            address = "127.0.0.1:0"
            [identity]
            [cluster.quotes]
            health = { path = "/healthz", interval = "200ms" }
            [filter.license]
            module = "license.wasm"
            settings_file = "license.json"
            on_failure = "deny"
            [[route]]
            name = "quotes"
            path = "/ws"
            filters = ["license"]
            relay = { cluster = "quotes" }
        };
        set(&mut config, "edge.state_directory", path(&files.path().join("state")));
        set(&mut config, "identity.jwks_file", path(&keys.write_jwks(&files)));
        set(&mut config, "identity.issuer", ISSUER);
        set(&mut config, "identity.audience", AUDIENCE);
        set(&mut config, "cluster.quotes.endpoints", vec![toml::Value::from(service.address.to_string())]);
        change(&mut config, &files);
        let edge = Edge::start(&files, &config);
        Self { keys, edge, config, files, _service: service }
    }

    /// Kills the edge and starts it again.
    pub fn restart(&mut self) {
        self.edge.process.kill();
        self.edge = Edge::start(&self.files, &self.config);
    }

    /// Asks the admin listener for a page of the filter.
    pub fn ask(&self, method: &str, page: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        http::send(self.edge.admin, method, &format!("/filters/license{page}"), headers, body).unwrap()
    }

    /// PUTs, and expects it to be done.
    pub fn put(&self, page: &str, body: &[u8]) -> Value {
        let answer = self.ask("PUT", page, &[], body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// What the filter is made of.
    pub fn state(&self) -> Value {
        self.ask("GET", "", &[], b"").json()
    }

    /// What became of its changes, the newest first.
    pub fn history(&self) -> Vec<Value> {
        self.ask("GET", "/history", &[], b"").json()["newest_first"].as_array().unwrap().clone()
    }

    /// Opens a session of this user, or is told why not.
    pub fn connect_as(&self, user: &str) -> Result<Client, Answer> {
        Connect::with_token(&self.keys.unscreened(user)).open(self.edge.address)
    }

    /// The value of one of the filter's counters in `GET /filters`.
    pub fn counter(&self, name: &str) -> u64 {
        let filters = http::get(self.edge.admin, "/filters").unwrap().json();
        filters["filters"]["license"][name].as_u64().unwrap()
    }

    /// Opens a session of a user who is licensed for everything.
    pub fn connect(&self) -> Client {
        Connect::with_token(&self.keys.unscreened("mona")).accepted(self.edge.address)
    }
}

/// The module with one more custom section: another digest, the same rules.
pub fn with_section(module: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let leb = |mut n: usize| {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let body = [leb(name.len()), name.as_bytes().to_vec(), content.to_vec()].concat();
    // Right behind the header, so that it is the first of its name.
    [module[..8].to_vec(), vec![0], leb(body.len()), body, module[8..].to_vec()].concat()
}

/// The license filter under another digest.
pub fn license(n: u8) -> Vec<u8> {
    with_section(&fs::read(filter("license")).unwrap(), "version", &[n])
}

/// Settings under which a feature is needed that no tier has.
pub const NOBODY: &[u8] = br#"{"tiers": {"features": [{"name": "FLOOR"}], "connect": ["FLOOR"]}}"#;
