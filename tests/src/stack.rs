//! The processes under test: channel servers, the edge, Envoy; and the usual arrangement of them.
//!
//! Everything binds to loopback on a port of its own, so any number of stacks run side by side.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use bawaba_channels::wire::Timestamp;
use toml::{Table, Value};

use crate::client::{Client, Connect};
use crate::keys::{AUDIENCE, ISSUER, Keys, now_s};
use crate::place::{Scratch, binary, filter};
use crate::process::{Process, address_after};
use crate::{PATIENCE, by, http, until};

mod envoy;

pub use envoy::{Envoy, EnvoyOptions, configuration as envoy_configuration};

/// A `bawaba-channel` process.
pub struct ChannelServer {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it plays, if that was made for it.
    pub recording: Option<Scratch>,
}

impl ChannelServer {
    /// Starts one with these arguments of `serve` on a free port, and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), arguments)
    }

    /// Starts one at an address, such as that of one that was killed, and waits until it is ready.
    pub fn start_at(address: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary("bawaba-channel"));
        command.arg("serve").arg("--listen").arg(address.to_string());
        command.args(arguments);
        let process = Process::spawn("bawaba-channel", &mut command);
        let address = process.listening();
        until("the channel server is ready", by(PATIENCE), || {
            let answer = http::get(address, "/readyz").ok()?;
            (answer.status == 200).then_some(())
        });
        Self { process, address, recording: None }
    }

    /// A live simulation of one exchange that trades round the clock, a few updates of each instrument a second.
    ///
    /// All that one test process starts for an exchange serve the same streams, so that one can stand in for another.
    pub fn live(exchange: &str) -> Self {
        Self::start(&Self::live_arguments(exchange))
    }

    /// The arguments of [`Self::live`], for [`Self::start_at`].
    pub fn live_arguments(exchange: &str) -> [&str; 7] {
        // By default a simulation begins with the exchange's day, and a server has all of it to catch up with.
        static ANCHOR: OnceLock<String> = OnceLock::new();
        let anchor = ANCHOR.get_or_init(|| Timestamp(now_s() * 1_000_000_000).to_string());
        ["--exchange", exchange, "--round-the-clock", "--updates-per-second", "500", "--anchor", anchor]
    }

    /// A market that stands still in the middle of trading: each instrument has its state, and nothing moves by
    /// itself. It is a recording of the simulation, long played to its end.
    pub fn still(exchange: &str) -> Self {
        const LONG_AGO: &str = "2026-01-04T10:00:00Z";
        let scratch = Scratch::new();
        let file = path(&scratch.path().join("still.jsonl"));
        let simulation = ["--exchange", exchange, "--round-the-clock", "--anchor", LONG_AGO];
        let length = ["--seconds", "5", "--updates-per-second", "1000"];
        let recorded = Command::new(binary("bawaba-channel"))
            .arg("record")
            .args(simulation)
            .args(length)
            .arg(&file)
            .output()
            .expect("bawaba-channel runs");
        let said = String::from_utf8_lossy(&recorded.stderr);
        assert!(recorded.status.success(), "no recording: {said}");
        let replay = ["--exchange", exchange, "--replay", &file, "--anchor", LONG_AGO];
        let mut server = Self::start(&replay);
        server.recording = Some(scratch);
        server
    }
}

/// A `bawaba serve` process.
pub struct Edge {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// The private listener.
    pub admin: SocketAddr,
}

impl Edge {
    /// Writes `config` to `edge.toml` in the scratch directory, serves it, and waits until it is ready.
    pub fn start(scratch: &Scratch, config: &Table) -> Self {
        let edge = Self::spawn(scratch, config);
        edge.wait_ready();
        edge
    }

    /// As [`Self::start`], but returns as soon as it listens, ready or not.
    pub fn spawn(scratch: &Scratch, config: &Table) -> Self {
        Self::spawn_by(scratch, config, |program| Command::new(program))
    }

    /// As [`Self::spawn`], with a command of the caller's making: on a core of its own, say.
    pub fn spawn_by(scratch: &Scratch, config: &Table, command: impl FnOnce(&Path) -> Command) -> Self {
        let file = scratch.write("edge.toml", config.to_string());
        let mut command = command(&binary("bawaba"));
        command.arg("serve").arg(file);
        let process = Process::spawn("bawaba", &mut command);
        let admin = process.line("saying where its admin listens", by(PATIENCE), |line| {
            address_after(line, "admin listening url=http://")
        });
        let address = process.line("saying where it listens", by(PATIENCE), |line| {
            let (_, url) = line.split_once("listening url=ws")?;
            address_after(url, "://")
        });
        Self { process, address, admin }
    }

    /// Waits until `/readyz` on the admin listener answers 200.
    pub fn wait_ready(&self) {
        until("the edge is ready", by(PATIENCE), || {
            let answer = http::get(self.admin, "/readyz").ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// Writes another configuration, whatever its form, and tells the edge to read it (SIGHUP).
    pub fn reload(&self, scratch: &Scratch, config: &str) {
        scratch.write("edge.toml", config);
        self.process.signal(rustix::process::Signal::HUP);
    }

    /// Opens `/ws` in the JSON form.
    pub fn connect(&self, token: &str) -> Client {
        Connect::with_token(token).accepted(self.address)
    }

    /// The value of a metric line that starts with `name` (labels included), if there is one.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = http::get(self.admin, "/metrics").ok()?.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

/// The usual configuration of an edge: one channel route `/ws` behind `filters`, its keys in the scratch directory.
pub fn edge_config(scratch: &Scratch, keys: &Keys, filters: &[&str], clusters: &[(&str, &[SocketAddr])]) -> Table {
    let jwks = keys.write_jwks(scratch);
    let mut config: Table = toml::toml! {
        [edge]
        workers = 1
        [[listener]]
        [admin]
        [identity]
        [[route]]
        name = "channels"
        path = "/ws"
    };
    set(&mut config, "listener.0.address", "127.0.0.1:0");
    set(&mut config, "admin.address", "127.0.0.1:0");
    set(&mut config, "identity.jwks_file", path(&jwks));
    set(&mut config, "identity.issuer", ISSUER);
    set(&mut config, "identity.audience", AUDIENCE);
    for name in filters {
        set(&mut config, &format!("filter.{name}.module"), path(&filter(name)));
        set(&mut config, &format!("filter.{name}.on_failure"), "deny");
    }
    let names: Vec<Value> = filters.iter().map(|&name| name.into()).collect();
    set(&mut config, "route.0.filters", names);
    for (exchange, endpoints) in clusters {
        let name = exchange.to_ascii_lowercase();
        let endpoints: Vec<Value> = endpoints.iter().map(|e| e.to_string().into()).collect();
        set(&mut config, &format!("cluster.{name}.endpoints"), endpoints);
        set(&mut config, &format!("cluster.{name}.health.interval"), "200ms");
        set(&mut config, &format!("route.0.channel.{exchange}"), name);
    }
    config
}

/// Sets a value by its path, such as `route.0.filters`; tables on the way are made.
pub fn set(config: &mut Table, path: &str, value: impl Into<Value>) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = config;
    let mut parts = parents.split('.').filter(|part| !part.is_empty());
    while let Some(part) = parts.next() {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = match entry {
            Value::Table(table) => table,
            Value::Array(items) => {
                let index: usize = parts
                    .next()
                    .and_then(|index| index.parse().ok())
                    .unwrap_or_else(|| panic!("{path}: {part} is an array: an index follows"));
                items[index].as_table_mut().expect("an array of tables")
            }
            other => panic!("{path}: {part} is {other}"),
        };
    }
    at.insert(last.into(), value.into());
}

/// A path as a TOML or YAML string.
pub fn path(path: &Path) -> String {
    path.display().to_string()
}

/// A loopback address that nothing listens on, below the range that outgoing connections take their ports from.
///
/// For programs that cannot say which port they got; those that can are given port 0.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes start far apart: neighbouring pids are 97 ports from each other.
    let start = (std::process::id() % 160) as u16 * 97;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_add(step)) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port on loopback");
}

/// The usual arrangement: a channel server for each exchange, trading round the clock, behind one edge.
pub struct Stack {
    /// Its keys and tokens.
    pub keys: Keys,
    /// The edge.
    pub edge: Edge,
    /// EGX.
    pub egx: ChannelServer,
    /// ADX.
    pub adx: ChannelServer,
    /// Its files; last, so that they outlive the processes.
    pub scratch: Scratch,
}

impl Stack {
    /// Starts it with these filters on the route, and no settings.
    pub fn start(filters: &[&str]) -> Self {
        Self::start_with(filters, |_| {})
    }

    /// Starts it with a changed configuration.
    pub fn start_with(filters: &[&str], change: impl FnOnce(&mut Table)) -> Self {
        let keys = Keys::generate();
        let scratch = Scratch::new();
        let egx = ChannelServer::live("EGX");
        let adx = ChannelServer::live("ADX");
        let clusters = [("EGX", &[egx.address][..]), ("ADX", &[adx.address][..])];
        let mut config = edge_config(&scratch, &keys, filters, &clusters);
        change(&mut config);
        let edge = Edge::start(&scratch, &config);
        Self { keys, edge, egx, adx, scratch }
    }

    /// Opens `/ws` at the edge in the JSON form.
    pub fn connect(&self, token: &str) -> Client {
        self.edge.connect(token)
    }
}

/// Settings of the sharia filter under which the launch list of EGX33 (June 2024) is used as if it were in force.
pub fn launch_list() -> Table {
    toml::toml! { historical = ["egx33@2024-06-12"] }
}
