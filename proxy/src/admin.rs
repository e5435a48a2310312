//! The private listener for operators: health, metrics, and what is going on. Reading never changes anything.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora_core::apps::ServerApp as _;
use pingora_core::apps::http_app::{HttpServer, ServeHttp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest as _, SocketDigest};
use pingora_core::server::ShutdownWatch;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::drain;
use crate::explain::Question;
use crate::generation::{Audience, Target};
use crate::listener::Door;

mod endpoints;
mod filters;

/// Connections at once: operators and scrapers, not clients.
const CONNECTIONS_MAX: usize = 64;
/// How long records under way may take before they are counted.
const USAGE_WITHIN: Duration = Duration::from_secs(2);
/// Sessions in one answer.
const SESSIONS_MAX: usize = 1000;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound admin listener.
pub struct Bound {
    /// The address that it really has.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Bound {
    /// Binds.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the admin listener cannot listen on {address}"))?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Serves until the process ends: health must be readable while it drains.
    pub async fn serve(self, door: Arc<Door>, shutdown: ShutdownWatch) {
        let app = Arc::new(HttpServer::new_app(Admin(door)));
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((tcp, _)) => {
                    let (app, shutdown) = (Arc::clone(&app), shutdown.clone());
                    tokio::spawn(async move {
                        // Who asks is part of a filter's history.
                        let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
                        let mut stream = L4Stream::from(tcp);
                        stream.set_socket_digest(digest);
                        let mut stream = Some(Box::new(stream) as pingora_core::protocols::Stream);
                        while let Some(next) = stream {
                            stream = app.process_new(next, &shutdown).await;
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

struct Admin(Arc<Door>);

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (method, path) = (request.method.clone(), request.uri.path().to_owned());
        if let Some(rest) = path.strip_prefix("/filters/") {
            return filters::answer(&self.0, session, &method, rest).await;
        }
        if let Some(cluster) = path.strip_prefix("/endpoints/") {
            return endpoints::answer(&self.0, session, &method, cluster).await;
        }
        let query = request.uri.query().unwrap_or("").to_owned();
        if path.starts_with("/usage/") || path == "/explain" {
            return self.ask(&method, &path, &query).await;
        }
        self.answer(&method, &path).await
    }
}

impl Admin {
    async fn answer(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        let allowed = match path {
            "/" | "/livez" | "/readyz" | "/metrics" | "/sessions" | "/endpoints" | "/filters" | "/generation"
            | "/config" => Method::GET,
            "/drain" => Method::POST,
            _ => return text(StatusCode::NOT_FOUND, "no such page; GET / lists them\n"),
        };
        if *method != allowed && !(allowed == Method::GET && *method == Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allowed}\n"));
            if let Ok(value) = allowed.as_str().parse() {
                refused.headers_mut().insert(http::header::ALLOW, value);
            }
            return refused;
        }
        match path {
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.ready(),
            "/metrics" => self.metrics(),
            "/sessions" => json_page(&self.sessions().await),
            "/endpoints" => json_page(&endpoints::all(&self.0.shared.generation())),
            "/filters" => json_page(&self.filters()),
            "/generation" => json_page(&self.generation()),
            "/config" => json_page(&self.0.shared.generation().config.redacted()),
            "/drain" => {
                drain::begin(&self.0.shared);
                text(StatusCode::ACCEPTED, "draining\n")
            }
            _ => text(
                StatusCode::OK,
                "GET /livez /readyz /metrics /sessions /endpoints /filters /generation /config\n\
                 GET /usage/report?month= /usage/export /usage/verify /explain?user=&exchange=&symbol=\nPOST /drain\n\
                 GET /filters/NAME /filters/NAME/history /filters/NAME/shadow /filters/NAME/canary\n\
                 PUT /filters/NAME /filters/NAME/settings (?mode=shadow, ?mode=canary&percent=5)\n\
                 GET PUT DELETE /endpoints/CLUSTER\n\
                 POST /filters/NAME/rollback /filters/NAME/promote /filters/NAME/abort\n",
            ),
        }
    }

    /// Questions with parameters. What takes long is answered off this thread.
    async fn ask(&self, method: &Method, path: &str, query: &str) -> Response<Vec<u8>> {
        if *method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        }
        if path == "/explain" {
            return self.explain(query).await;
        }
        let Some(usage) = self.0.shared.usage.clone() else {
            return text(StatusCode::NOT_FOUND, "no usage record is kept: see [usage] in the configuration\n");
        };
        let asked = format!("{path}?{query}");
        let answer = tokio::task::spawn_blocking(move || {
            usage.flush(USAGE_WITHIN);
            crate::usage::command::answer(&usage.ledger, &usage.time_zone, &asked, Some(crate::usage::unix_nanos()))
        });
        match answer.await {
            Ok(Ok(body)) => text(StatusCode::OK, &body),
            Ok(Err(body)) => text(StatusCode::CONFLICT, &body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    /// Who decides what about a user and an instrument. A user with an open session is asked about with its claims.
    async fn explain(&self, query: &str) -> Response<Vec<u8>> {
        let asked = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))?.1;
            Some(decoded(value))
        };
        let (Some(user), Some(exchange)) = (asked("user"), asked("exchange")) else {
            return text(
                StatusCode::BAD_REQUEST,
                "say ?user=U&exchange=EGX&symbol=S, and tenant, channel, route, claims\n",
            );
        };
        let tenant = asked("tenant");
        let sessions = self.0.workers.list(usize::MAX).await;
        let open = sessions.iter().find(|session| {
            session.context.user == user && tenant.as_ref().is_none_or(|tenant| *tenant == session.context.tenant)
        });
        let claims = match (asked("claims").map(|claims| serde_json::from_str(&claims)), open) {
            (Some(Ok(claims)), _) => Question::claims_of(&user, tenant.as_deref(), Some(claims)),
            (Some(Err(error)), _) => return text(StatusCode::BAD_REQUEST, &format!("claims: {error}\n")),
            (None, Some(session)) => session.context.claims(),
            (None, None) => Question::claims_of(&user, tenant.as_deref(), None),
        };
        let question = Question {
            claims,
            exchange,
            symbol: asked("symbol").unwrap_or_default(),
            channel: asked("channel").unwrap_or_else(|| "market_data".into()),
            route: asked("route"),
        };
        let generation = self.0.shared.generation();
        match tokio::task::spawn_blocking(move || crate::explain::explain(&generation, &question)).await {
            Ok(Ok(explained)) => json_page(&explained),
            Ok(Err(error)) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    fn ready(&self) -> Response<Vec<u8>> {
        if self.0.shared.is_ready() {
            return text(StatusCode::OK, "ready\n");
        }
        let why = if self.0.shared.is_draining() { "draining" } else { "a cluster has no endpoint that serves" };
        text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}\n"))
    }

    fn metrics(&self) -> Response<Vec<u8>> {
        let door = &self.0;
        let metrics = &door.metrics;
        metrics.generation.set(i64::try_from(door.shared.generation().number).unwrap_or(i64::MAX));
        metrics.draining.set(i64::from(door.shared.is_draining()));
        metrics.connections.set(i64::from(door.limiter.connections()));
        let behind = door.shared.reloads.failures().saturating_sub(metrics.generation_failures.get());
        metrics.generation_failures.inc_by(behind);
        let mut body = metrics.text();
        crate::metrics::write_counted(&mut body, &door.workers.counted());
        if let Some(usage) = &door.shared.usage {
            crate::metrics::write_usage(&mut body, usage);
        }
        crate::metrics::write_clusters(&mut body, &door.shared.generation());
        crate::metrics::write_filters(&mut body, &door.shared.generation());
        crate::metrics::write_shadows(&mut body, &door.shared.generation());
        page(StatusCode::OK, "text/plain; version=0.0.4", body)
    }

    async fn sessions(&self) -> Value {
        let open = self.0.workers.sessions();
        let list: Vec<Value> = self
            .0
            .workers
            .list(SESSIONS_MAX)
            .await
            .iter()
            .map(|session| {
                let context = &session.context;
                json!({
                    "session": context.session,
                    "user": context.user,
                    "tenant": context.tenant,
                    "route": &*context.route,
                    "client": context.client.to_string(),
                    "http2": context.http2,
                    "age_s": session.opened_at.elapsed().as_secs(),
                })
            })
            .collect();
        json!({ "open": open, "slots_taken": self.0.limiter.sessions(), "shown": list.len(), "sessions": list })
    }

    fn filters(&self) -> Value {
        let generation = self.0.shared.generation();
        let filters = generation.filters.iter().map(|(name, loaded)| {
            let counted = loaded.filter.metrics();
            let value = json!({
                "digest": loaded.revision.module,
                "settings": loaded.revision.settings,
                "revision": loaded.revision.digest(),
                "calls": counted.calls,
                "traps": counted.traps,
                "budget_exceeded": counted.budget_exceeded,
                "memory_exceeded": counted.memory_exceeded,
                "denied": counted.denied,
                "passed_unjudged": counted.passed_unjudged,
                "vms": counted.vms,
                "reattached": counted.reattached,
            });
            (name.clone(), value)
        });
        json!({ "generation": generation.number, "filters": filters.collect::<serde_json::Map<_, _>>() })
    }

    fn generation(&self) -> Value {
        let generation = self.0.shared.generation();
        let routes: Vec<Value> = generation
            .routes
            .iter()
            .map(|route| {
                json!({
                    "name": route.name(),
                    "path": route.settings.path,
                    "kind": match route.target { Target::Channel(_) => "channel", Target::Relay { .. } => "relay" },
                    "filters": route.filters.iter().map(|filter| &filter.name).collect::<Vec<_>>(),
                    "judged_per": match &route.audience {
                        Audience::Nothing => json!("route"),
                        Audience::Facts(facts) => json!({ "cohort_of": facts }),
                        Audience::Everything => json!("session"),
                    },
                })
            })
            .collect();
        json!({
            "number": generation.number,
            "routes": routes,
            "failures": self.0.shared.reloads.failures(),
            "newest_failure": self.0.shared.reloads.newest(),
        })
    }
}

/// A query's value without its percent signs.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.first_chunk::<2>().filter(|_| byte == b'%');
        let read = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match read {
            Some(read) => {
                bytes.push(read);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn text(status: StatusCode, body: &str) -> Response<Vec<u8>> {
    page(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn json_page(value: &Value) -> Response<Vec<u8>> {
    page(StatusCode::OK, "application/json", value.to_string().into_bytes())
}

fn page(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    headers.insert(http::header::CONTENT_LENGTH, length.into());
    response
}
