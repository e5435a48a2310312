//! The proxies, each configured for the same job: relay `/ws` to the echo backend, one core.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use bawaba_tests::client::Connect;
use bawaba_tests::keys::Keys;
use bawaba_tests::place::{Scratch, envoy, on_path};
use bawaba_tests::process::Process;
use bawaba_tests::stack::{
    ChannelServer, Edge, Envoy, EnvoyOptions, edge_config, envoy_configuration, free_address, launch_list, set,
};
use bawaba_tests::{PATIENCE, by, until};
use serde_json::json;

use crate::load::{Kind, Target};

const FILTERS: [&str; 3] = ["license", "quota", "sharia"];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Our edge, channel route, three filters.
    BawabaChannel,
    /// Our edge, relay route, three filters.
    BawabaFiltered,
    /// Our edge, relay route, no filter: the row to compare with the others.
    Bawaba,
    Haproxy,
    Nginx,
    Envoy,
    /// Envoy as `envoy/envoy.yaml` configures it: tokens and three filters.
    EnvoyFiltered,
}

impl Peer {
    pub(crate) const ALL: [Self; 7] = [
        Self::BawabaChannel,
        Self::BawabaFiltered,
        Self::Bawaba,
        Self::Haproxy,
        Self::Nginx,
        Self::Envoy,
        Self::EnvoyFiltered,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BawabaChannel => "bawaba-channel",
            Self::BawabaFiltered => "bawaba-relay-filtered",
            Self::Bawaba => "bawaba",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::EnvoyFiltered => "envoy-filtered",
        }
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) peer: Peer,
    pub(crate) process: Process,
    pub(crate) target: Target,
    pub(crate) version: String,
    _server: Option<ChannelServer>,
}

/// Runs `program` on the first core; `scripts/bench` has put this program, and so the backend, on the last.
fn pinned(program: &Path) -> Command {
    let Some(taskset) = on_path("taskset") else {
        return Command::new(program);
    };
    let mut command = Command::new(taskset);
    command.args(["-c", "0"]).arg(program);
    command
}

impl Proxy {
    pub(crate) fn start(peer: Peer, scratch: &Scratch, keys: &Keys, echo: SocketAddr) -> Result<Self, String> {
        match peer {
            Peer::BawabaChannel | Peer::BawabaFiltered | Peer::Bawaba => Ok(bawaba(peer, scratch, keys, echo)),
            Peer::Haproxy => haproxy(scratch, echo),
            Peer::Nginx => nginx(scratch, echo),
            Peer::Envoy => Ok(envoy_peer(scratch, echo)),
            Peer::EnvoyFiltered => Ok(envoy_filtered(scratch, keys, echo)),
        }
    }
}

fn bawaba(peer: Peer, scratch: &Scratch, keys: &Keys, echo: SocketAddr) -> Proxy {
    let filters: &[&str] = if peer == Peer::Bawaba { &[] } else { &FILTERS };
    let mut config = edge_config(scratch, keys, filters, &[]);
    let mut server = None;
    let mut endpoint = echo;
    if peer == Peer::BawabaChannel {
        let still = ChannelServer::still("EGX");
        endpoint = still.address;
        server = Some(still);
        set(&mut config, "route.0.channel.EGX", "backend");
    } else {
        set(&mut config, "route.0.relay.cluster", "backend");
    }
    set(&mut config, "cluster.backend.endpoints", vec![toml::Value::from(endpoint.to_string())]);
    if !filters.is_empty() {
        set(&mut config, "filter.sharia.settings", launch_list());
    }
    let edge = Edge::spawn_by(scratch, &config, pinned);
    edge.wait_ready();
    let kind = if peer == Peer::BawabaChannel { Kind::Channel } else { Kind::Echo };
    Proxy {
        peer,
        target: Target { address: edge.address, connect: admitted(keys), kind },
        process: edge.process,
        version: env!("CARGO_PKG_VERSION").into(),
        _server: server,
    }
}

/// A licensed user; not screened, as an echoed request is nothing that a channel server says, and would be dropped.
fn admitted(keys: &Keys) -> Connect {
    Connect::with_token(&keys.unscreened("bench"))
}

/// Waits until a peer that prints nothing takes connections.
fn accepting(address: SocketAddr) {
    until("the proxy accepts connections", by(PATIENCE), || TcpStream::connect(address).ok());
}

fn plain(address: SocketAddr) -> Target {
    Target { address, connect: Connect::default(), kind: Kind::Echo }
}

/// The version number in what a program says about itself.
fn version(program: &Path, flag: &str) -> String {
    let said = Command::new(program).arg(flag).output().map(|output| [output.stdout, output.stderr].concat());
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.matches('.').count() >= 2;
    // In front of the word may stand a path, with numbers of its own.
    let said = said.split_once("version").map_or("", |(_, said)| said);
    let words = said.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    let found = words.filter(|word| number(word)).map(str::to_owned).next();
    found.unwrap_or_else(|| "?".into())
}

fn installed(program: &str) -> Result<PathBuf, String> {
    on_path(program).ok_or_else(|| format!("{program} is not installed: run scripts/setup bench"))
}

fn haproxy(scratch: &Scratch, echo: SocketAddr) -> Result<Proxy, String> {
    let program = installed("haproxy")?;
    let address = free_address();
    let config = format!(
        "global\n  nbthread 1\n  maxconn 9000\n\
         defaults\n  mode http\n  timeout connect 3s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 1h\n\
         frontend ws\n  bind {address}\n  default_backend echo\n\
         backend echo\n  server echo {echo}\n"
    );
    let file = scratch.write("haproxy.cfg", config);
    let process = Process::spawn("haproxy", pinned(&program).args(["-db", "-f"]).arg(file));
    accepting(address);
    let version = version(&program, "-v");
    Ok(Proxy { peer: Peer::Haproxy, process, target: plain(address), version, _server: None })
}

fn nginx(scratch: &Scratch, echo: SocketAddr) -> Result<Proxy, String> {
    let program = installed("nginx")?;
    let address = free_address();
    let directory = scratch.path().display();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 19000; }}\n\
         http {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;\n\
         fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n\
         server {{ listen {address} backlog=4096; location / {{ proxy_pass http://{echo}; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_read_timeout 1h; }} }} }}\n"
    );
    let file = scratch.write("nginx.conf", config);
    let process = Process::spawn("nginx", pinned(&program).arg("-c").arg(file));
    accepting(address);
    let version = version(&program, "-v");
    Ok(Proxy { peer: Peer::Nginx, process, target: plain(address), version, _server: None })
}

fn envoy_peer(scratch: &Scratch, echo: SocketAddr) -> Proxy {
    let program = envoy();
    let address = free_address();
    let socket = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ws", "stream_idle_timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "ws", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "echo", "timeout": "0s"}}]}]},
    });
    let config = json!({"static_resources": {
        "listeners": [{"address": socket(address), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": [{"name": "echo", "type": "STATIC", "connect_timeout": "3s",
            "circuit_breakers": {"thresholds": [{"max_connections": 50000, "max_requests": 50000, "max_pending_requests": 50000}]},
            "load_assignment": {"cluster_name": "echo", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket(echo)}}]}]}}],
    }});
    let file = scratch.write("envoy-bench.json", config.to_string());
    let mut command = pinned(&program);
    command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
    let process = Process::spawn("envoy", &mut command);
    accepting(address);
    let version = version(&program, "--version");
    Proxy { peer: Peer::Envoy, process, target: plain(address), version, _server: None }
}

fn envoy_filtered(scratch: &Scratch, keys: &Keys, echo: SocketAddr) -> Proxy {
    let options = EnvoyOptions {
        filters: FILTERS.map(|name| (name.to_owned(), json!({}))).into(),
        clusters: ["egx", "adx"].map(|name| (name.to_owned(), vec![echo])).into(),
        ..EnvoyOptions::default()
    };
    let config = envoy_configuration(scratch, keys, &options);
    let file = scratch.write("envoy-filtered.json", config.to_string());
    let running = Envoy::serve_by(&file, pinned);
    let target = Target { address: running.address, connect: admitted(keys), kind: Kind::Echo };
    let version = version(&envoy(), "--version");
    Proxy { peer: Peer::EnvoyFiltered, process: running.process, target, version, _server: None }
}
