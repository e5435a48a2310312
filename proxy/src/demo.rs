//! `bawaba demo`: an edge, channel servers with a simulated feed, and two tokens to try it with. Everything runs as it
//! would in production: real processes, a real configuration, the filters as modules.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::serve::{self, Addresses};
use crate::token;

/// The edge serves, and listens for signals itself.
static SERVES: AtomicBool = AtomicBool::new(false);
/// How long it may take to end after a signal: its drain window, the time for goodbyes, and a little more.
const DRAIN_WITHIN: Duration = Duration::from_secs(8);

/// Where the demo listens.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Address for clients; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address for operators; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// Directory of the filters' modules; by default `filters` beside the directory of this program.
    #[arg(long)]
    filters: Option<PathBuf>,
}

/// A directory and processes that end with the demo.
struct Backstage {
    directory: PathBuf,
    servers: Vec<Child>,
}

impl Drop for Backstage {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // One that is gone already is what we want.
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Runs until it is interrupted.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let beside = program.parent().context("this program has no directory")?;
    let server = beside.join("bawaba-channel");
    let filters = match &arguments.filters {
        Some(filters) => filters.clone(),
        None => beside.parent().unwrap_or(beside).join("filters"),
    };
    for (what, path, how) in [
        ("the channel server", server.clone(), "make build"),
        ("the sharia filter", filters.join("sharia.wasm"), "make filters"),
    ] {
        if !path.exists() {
            bail!("{what} is not at {}: run `{how}` first", path.display());
        }
    }
    let directory = std::env::temp_dir().join(format!("bawaba-demo-{}", std::process::id()));
    tidy_up_when_told(&directory)?;
    std::fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let mut backstage = Backstage { directory: directory.clone(), servers: Vec::new() };
    let mut endpoints = Vec::new();
    // Two of EGX, so that one can be killed: they serve the same streams.
    for exchange in ["EGX", "EGX", "ADX"] {
        let (child, address) = start_server(&server, exchange)?;
        backstage.servers.push(child);
        endpoints.push((exchange, address));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(directory.join("secret"), &secret)?;
    let filters = filters.canonicalize()?;
    let config = configuration(free(arguments.listen)?, free(arguments.admin)?, &filters, &endpoints);
    let file = directory.join("edge.toml");
    std::fs::write(&file, config)?;
    let tokens = [unscreened(), screened()].map(|claims| token::sign_hs256(&claims, secret.as_bytes()));
    let [plain, screened] = tokens;
    let (plain, screened) = (plain?, screened?);
    serve::run(&file, serve::load(&file)?, |addresses| {
        SERVES.store(true, Ordering::Relaxed);
        print_guide(addresses, &program, &plain, &screened, &backstage, &endpoints);
    })
}

/// A signal that comes before the edge listens for it ends the demo here. One that comes later is the edge's: it
/// drains; and if that takes too long, this ends it all the same. The servers end when their input does.
fn tidy_up_when_told(directory: &Path) -> anyhow::Result<()> {
    let directory = directory.to_owned();
    let (listens, ready) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
            let heard = signals.is_ok();
            // The other end waits for it.
            let _ = listens.send(heard);
            let Ok((mut terminate, mut interrupt)) = signals else { return };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if SERVES.load(Ordering::Relaxed) {
                tokio::time::sleep(DRAIN_WITHIN).await;
            }
            let _ = std::fs::remove_dir_all(&directory);
            std::process::exit(1);
        });
    })?;
    anyhow::ensure!(ready.recv()?, "signals cannot be heard");
    Ok(())
}

fn start_server(program: &Path, exchange: &str) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new(program)
        .args(["serve", "--exchange", exchange, "--listen", "127.0.0.1:0", "--round-the-clock", "--end-with-input"])
        .env("BAWABA_LOG", "warn")
        // Held by this process alone: it closes when this process ends, also where nothing could be tidied up.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let output = child.stdout.take().context("the channel server has no output")?;
    for line in BufReader::new(output).lines() {
        if let Some(address) = line?.strip_prefix("listening on ") {
            return Ok((child, address.parse()?));
        }
    }
    bail!("the channel server of {exchange} ended before it listened")
}

/// `wanted`, or the same address with a free port.
fn free(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    let bound = TcpListener::bind(wanted).or_else(|_| TcpListener::bind(SocketAddr::new(wanted.ip(), 0)));
    Ok(bound.with_context(|| format!("nothing can be bound on {}", wanted.ip()))?.local_addr()?)
}

fn configuration(listen: SocketAddr, admin: SocketAddr, filters: &Path, endpoints: &[(&str, SocketAddr)]) -> String {
    let of = |exchange: &str| {
        let all: Vec<String> =
            endpoints.iter().filter(|(e, _)| *e == exchange).map(|(_, address)| format!("\"{address}\"")).collect();
        all.join(", ")
    };
    let module = |name: &str| format!("module = {:?}\non_failure = \"deny\"\n", filters.join(format!("{name}.wasm")));
    format!(
        r#"[[listener]]
address = "{listen}"
h2c = true

[admin]
address = "{admin}"

[edge]
drain_window = "1s"

[[identity.key]]
algorithm = "HS256"
file = "secret"

[cluster.egx]
endpoints = [{egx}]

[cluster.adx]
endpoints = [{adx}]

[filter.license]
{license}
[filter.quota]
{quota}
[filter.sharia]
{sharia}# The launch list ended with the review of August 2024. A demo may use it; a broker may not.
settings = {{ historical = ["egx33@2024-06-12"] }}

[[route]]
name = "markets"
path = "/ws"
origins = ["*"]
filters = ["license", "quota", "sharia"]
channel = {{ EGX = "egx", ADX = "adx" }}
"#,
        egx = of("EGX"),
        adx = of("ADX"),
        license = module("license"),
        quota = module("quota"),
        sharia = module("sharia"),
    )
}

fn claims(user: &str, tier: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({ "sub": user, "tenant": "demo", "tier": tier, "iat": now, "exp": now + 7 * 24 * 3600 })
}

fn unscreened() -> Value {
    claims("demo-unscreened", "professional")
}

fn screened() -> Value {
    let mut claims = claims("demo-screened", "islamic");
    claims["islamic"] = json!({ "mode": "filter", "boards": ["EGX33"], "rule": "named" });
    claims
}

#[expect(clippy::print_stdout, reason = "what the command is for")]
fn print_guide(
    addresses: &Addresses,
    program: &Path,
    plain: &str,
    screened: &str,
    backstage: &Backstage,
    endpoints: &[(&str, SocketAddr)],
) {
    let program = match program.strip_prefix(std::env::current_dir().unwrap_or_default()) {
        Ok(relative) => relative.display(),
        Err(_) => program.display(),
    };
    let url = addresses.listeners.first().map_or_else(String::new, |url| format!("{url}/ws"));
    let watch = |token: &str, symbols: &str| {
        format!("{program} connect {url} --token {token} --exchange EGX --symbols {symbols}")
    };
    println!("edge   {url}");
    println!("admin  {}", addresses.admin.as_deref().unwrap_or("none"));
    for (server, (exchange, address)) in backstage.servers.iter().zip(endpoints) {
        println!("{exchange}    {address} (pid {}; prices are simulated, round the clock)", server.id());
    }
    println!("\ntoken of an unscreened user:\n{plain}");
    println!("\ntoken of a user screened by board EGX33, with its launch list of June 2024 (historical):\n{screened}");
    println!("\nwatch without screening:\n{}", watch(plain, "ABUK,COMI,EAST"));
    println!("\nwatch screened (ABUK flows; COMI and EAST are refused):\n{}", watch(screened, "ABUK,COMI,EAST"));
    println!("\nfrom a browser or wscat: {url}?token=TOKEN with subprotocol tradsys.v3.json");
    println!("listening; end with Ctrl-C");
}
