//! How each proxy is started for the same job: one worker, WebSockets on `/ws` to one endpoint, no limits in the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use bawaba_tests::keys::{AUDIENCE, ISSUER, Keys};
use bawaba_tests::place::{self, Scratch};
use bawaba_tests::process::Process;
use bawaba_tests::stack::{Edge, Envoy, EnvoyOptions, free_address, path};
use bawaba_tests::{PATIENCE, by, http, until};
use serde_json::json;

/// The chain that a row "with filters" runs.
const FILTERS: &[&str] = &["license", "quota", "sharia"];

/// A proxy under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    Envoy,
    Bawaba,
    EnvoyWithFilters,
    BawabaWithFilters,
}

impl Kind {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 6] =
        [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Bawaba, Self::EnvoyWithFilters, Self::BawabaWithFilters];

    /// What the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Bawaba => "**Bawaba**",
            Self::EnvoyWithFilters => "Envoy, three filters",
            Self::BawabaWithFilters => "**Bawaba, three filters**",
        }
    }

    /// The program that this machine lacks to run it.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let program = match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            _ => return None,
        };
        place::on_path(program).is_none().then_some(program)
    }
}

/// A proxy that runs; ended when it goes out of scope.
pub(crate) struct Proxy {
    process: Process,
    address: SocketAddr,
    _scratch: Scratch,
}

impl Proxy {
    /// Starts one before `backend`, and waits until it serves.
    pub(crate) fn start(kind: Kind, keys: &Keys, backend: SocketAddr) -> Self {
        let scratch = Scratch::new();
        let (process, address) = match kind {
            Kind::Nginx => nginx(&scratch, backend),
            Kind::Haproxy => haproxy(&scratch, backend),
            Kind::Envoy => envoy(Envoy::serve(&scratch.write("envoy.json", envoy_relay(backend)))),
            Kind::EnvoyWithFilters => envoy(Envoy::start(&scratch, keys, &envoy_filters(backend))),
            Kind::Bawaba => bawaba(&scratch, keys, backend, &[]),
            Kind::BawabaWithFilters => bawaba(&scratch, keys, backend, FILTERS),
        };
        // Until a connection goes through to the backend and back; some check its health first.
        until("the proxy relays", by(PATIENCE), || {
            let request = format!(
                "GET /ws HTTP/1.1\r\nhost: bench\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {}\r\n\r\n",
                keys.unscreened("bench")
            );
            http::ask(address, request.as_bytes()).ok().filter(|(answer, _)| answer.status == 101)
        });
        Self { process, address, _scratch: scratch }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its CPU time so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.process.cpu_seconds()
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }
}

fn nginx(scratch: &Scratch, backend: SocketAddr) -> (Process, SocketAddr) {
    let address = free_address();
    let at = scratch.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
         events {{ worker_connections 8000; }}\n\
         http {{ access_log off; {temporary}\n server {{ listen {address};\n  location / {{\n   proxy_pass http://{backend};\n   \
         proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n   \
         proxy_read_timeout 1h; proxy_send_timeout 1h;\n  }}\n }}\n}}\n"
    );
    let file = scratch.write("nginx.conf", config);
    let mut command = Command::new(program("nginx"));
    command.arg("-p").arg(scratch.path()).arg("-c").arg(file);
    (Process::spawn("nginx", &mut command), address)
}

fn haproxy(scratch: &Scratch, backend: SocketAddr) -> (Process, SocketAddr) {
    let address = free_address();
    let config = format!(
        "global\n maxconn 8000\n nbthread 1\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n timeout tunnel 1h\n\
         frontend f\n bind {address}\n default_backend b\n\
         backend b\n server s {backend}\n"
    );
    let file = scratch.write("haproxy.cfg", config);
    let mut command = Command::new(program("haproxy"));
    command.arg("-db").arg("-f").arg(file);
    (Process::spawn("haproxy", &mut command), address)
}

fn program(name: &str) -> PathBuf {
    place::on_path(name).unwrap_or_else(|| panic!("{name} is missing: run scripts/setup bench"))
}

fn envoy(envoy: Envoy) -> (Process, SocketAddr) {
    (envoy.process, envoy.address)
}

/// Envoy as a plain relay: no token check, no filter.
fn envoy_relay(backend: SocketAddr) -> String {
    let socket = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "relay",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    let config = json!({
        "admin": {"address": socket(anywhere)},
        "static_resources": {
            "listeners": [{"name": "relay", "address": socket(anywhere), "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
            "clusters": [{
                "name": "backend",
                "type": "STATIC",
                // The default of 1,024 connections to one cluster would end the measurement.
                "circuit_breakers": {"thresholds": [{"max_connections": 8_000, "max_requests": 8_000, "max_pending_requests": 8_000}]},
                "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": socket(backend)}}]}]},
            }],
        },
    });
    config.to_string()
}

/// The shipped `envoy/envoy.yaml`, token check and filters included.
fn envoy_filters(backend: SocketAddr) -> EnvoyOptions {
    EnvoyOptions {
        filters: FILTERS.iter().map(|&name| (name.to_owned(), json!({}))).collect(),
        clusters: ["egx", "adx"].map(|name| (name.to_owned(), vec![backend])).into(),
        modules: BTreeMap::new(),
    }
}

fn bawaba(scratch: &Scratch, keys: &Keys, backend: SocketAddr, filters: &[&str]) -> (Process, SocketAddr) {
    let jwks = keys.write_jwks(scratch);
    let modules: String = filters
        .iter()
        .map(|name| format!("[filter.{name}]\nmodule = {:?}\non_failure = \"deny\"\n", path(&place::filter(name))))
        .collect();
    // Our own Pings would be counted as the peers' messages: none of the others sends any.
    let config = format!(
        "[edge]\nworkers = 1\n[[listener]]\naddress = \"{}\"\n[admin]\naddress = \"{}\"\n\
         [identity]\njwks_file = {:?}\nissuer = {ISSUER:?}\naudience = {AUDIENCE:?}\n\
         [timeouts]\nping_interval = \"20m\"\nheartbeat = \"60m\"\n\
         [cluster.backend]\nendpoints = [\"{backend}\"]\n{modules}\
         [[route]]\nname = \"relay\"\npath = \"/ws\"\nfilters = {filters:?}\nrelay = {{ cluster = \"backend\" }}\n",
        free_address(),
        free_address(),
        path(&jwks),
    );
    let edge = Edge::start(scratch, &config.parse().expect("the configuration is TOML"));
    (edge.process, edge.address)
}
