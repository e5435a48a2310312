//! The door: connections are accepted, limited, decrypted, read as HTTP by Pingora, judged, and handed over to
//! workers as byte streams. Knows nothing of channels and messages.
//!
//! Sockets are accepted here and not by Pingora's own service, for three reasons: a limit must hold before a task is
//! spawned or a TLS handshake begun; the socket must be given back whole ([`inbound`]) without a second descriptor;
//! and a port that cannot be bound is a message, not a panic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pingora_core::apps::ServerApp as _;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::config;
use crate::identity::Identity;
use crate::limits::{ConnectionPermit, Limiter};
use crate::metrics::{Metrics, Outcome};
use crate::passthrough::Passthrough;
use crate::shared::Shared;
use crate::worker::Workers;

mod answer;
mod http1;
mod http2;
mod inbound;
mod judge;
pub mod tls;

use inbound::{Head, Inbound, Transport};

/// Pause after the process ran out of descriptors: accepting again at once would only fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that the kernel takes for a connection before the network does; more wait here, where they can be folded.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 32 * 1024;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;

/// What every connection needs.
pub struct Door {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Makes changes.
    pub control: crate::control::Handle,
    /// Where sessions go.
    pub workers: Arc<Workers>,
    /// Verifies tokens.
    pub identity: Arc<Identity>,
    /// Counts what is taken.
    pub limiter: Arc<Limiter>,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
    /// Plain HTTP on relay routes.
    pub passthrough: Passthrough,
}

/// A bound listener.
pub struct Bound {
    /// The address that it really has (the port is chosen by the kernel where the configuration says 0).
    pub address: SocketAddr,
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
    h2c: bool,
}

impl Bound {
    /// Binds as configured. Must run inside a tokio runtime.
    pub fn bind(settings: &config::Listener) -> Result<Self, String> {
        let listener =
            bind(settings.address).map_err(|error| format!("cannot listen on {}: {error}", settings.address))?;
        let address =
            listener.local_addr().map_err(|error| format!("cannot listen on {}: {error}", settings.address))?;
        let tls = settings.tls.as_ref().map(tls::load).transpose()?.map(Arc::new);
        Ok(Self { address, listener, tls, h2c: settings.h2c })
    }

    /// The scheme of its WebSocket URLs.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "wss" } else { "ws" }
    }

    /// Accepts until `shutdown` turns true. Connections that were accepted go on.
    pub async fn serve(self, door: Arc<Door>, mut shutdown: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                changed = shutdown.changed() => {
                    if changed.is_err() || *shutdown.borrow() {
                        tracing::info!(address = %self.address, "listener closed");
                        return;
                    }
                    continue;
                }
            };
            let (tcp, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(permit) = door.limiter.connection() else {
                door.metrics.handshake(Outcome::Refused);
                answer::turn_away(tcp, self.tls.is_some(), &door.metrics);
                tracing::warn!(%client, limit = "handshakes_max", reason = "edge.overloaded", "connection refused");
                continue;
            };
            let connection = Connection::new(&door, client, self.tls.is_some(), self.h2c, permit);
            let (acceptor, shutdown) = (self.tls.clone(), shutdown.clone());
            tokio::spawn(async move { connection.run(tcp, acceptor, &shutdown).await });
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    // Inherited by every connection. What the kernel holds unsent is old when it leaves, and hides who reads slowly.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(listener)
}

/// One connection in the listener's care.
pub(crate) struct Connection {
    door: Arc<Door>,
    client: SocketAddr,
    tls: bool,
    accepted_at: Instant,
    head: Arc<Head>,
    options: pingora_core::apps::HttpServerOptions,
    /// The first request is being read, or has been.
    reads_requests: Notify,
    is_first: AtomicBool,
    _permit: ConnectionPermit,
}

impl Connection {
    fn new(door: &Arc<Door>, client: SocketAddr, tls: bool, h2c: bool, permit: ConnectionPermit) -> Arc<Self> {
        let config = &door.shared.config;
        let mut options = pingora_core::apps::HttpServerOptions::default();
        options.h2c = h2c;
        options.h2_idle_timeout = Some(config.timeouts.heartbeat);
        Arc::new(Self {
            client,
            tls,
            accepted_at: Instant::now(),
            head: Head::new(config.limits.request_head_bytes_max as usize),
            options,
            reads_requests: Notify::new(),
            is_first: AtomicBool::new(true),
            _permit: permit,
            door: Arc::clone(door),
        })
    }

    async fn run(self: Arc<Self>, tcp: TcpStream, acceptor: Option<Arc<Acceptor>>, shutdown: &ShutdownWatch) {
        // Small frames must not wait for the acknowledgement of the one before.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(client = %self.client, %error, "the client left at once");
            return;
        }
        let fd = inbound::descriptor(&tcp);
        let limit = self.door.shared.config.timeouts.request_head;
        let transport = match acceptor {
            None => Transport::Tcp(tcp),
            Some(acceptor) => match timeout(limit, acceptor.tls_handshake(L4Stream::from(tcp))).await {
                Ok(Ok(tls)) => Transport::Tls(Box::new(tls)),
                Ok(Err(error)) => {
                    self.door.metrics.handshake(Outcome::Failed);
                    tracing::info!(client = %self.client, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => return self.timed_out("tls"),
            },
        };
        let inbound = Box::new(Inbound::new(transport, fd, Arc::clone(&self.head)));
        // Until Pingora hands over a first request it has no time limit of its own: HTTP/2's preface, for one.
        let mut http = std::pin::pin!(self.process_new(inbound, shutdown));
        let begun = tokio::select! {
            _ = &mut http => return,
            begun = timeout(limit, self.reads_requests.notified()) => begun,
        };
        match begun {
            Ok(()) => drop(http.await),
            Err(_) => self.timed_out("preface"),
        }
    }

    /// Notes that a request reached us; whether it is the first of its connection.
    fn reads_a_request(&self) -> bool {
        self.reads_requests.notify_one();
        self.is_first.swap(false, Ordering::Relaxed)
    }

    fn timed_out(&self, stage: &'static str) {
        self.door.metrics.handshake(Outcome::TimedOut);
        tracing::info!(client = %self.client, timeout = "request_head", stage, "connection closed: no request in time");
    }
}
