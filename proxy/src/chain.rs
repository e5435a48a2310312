//! The filters of a route as the edge sees them: streams are opened, judged and closed; a failure is a refusal.
//!
//! Everything that knows `bawaba-filter-host` on the message path is here. A route without filters costs nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bawaba_channels::wire::CLAIMS_HEADER;
use bawaba_filter_host as host;
use bytes::Bytes;

use crate::context::ConnectionContext;
use crate::generation::{Audience, Generation, Route};
use crate::grants::{Grants, HostFacts};
use crate::shadow::Watch;
use crate::sources::Role;

/// Names in lower case, pseudo-headers first.
pub type Headers = Vec<(String, String)>;

/// The chain refused a handshake.
#[derive(Clone, Debug)]
pub enum Refused {
    /// With an answer of its own.
    Response {
        /// Status.
        status: u16,
        /// Headers.
        headers: Headers,
        /// Body.
        body: Bytes,
    },
    /// A filter failed (named): `edge.filter_failed`.
    Failed(String),
}

/// The chain ended a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A filter failed and denies on failure: `edge.filter_failed`.
    Failed(String),
    /// A filter closed the stream, or answered in the server's place.
    Closed(String),
}

/// What filters may ask about a connection (Envoy's attributes), and its handshake as it came. Kept for as long as
/// the session lives, so kept small: one block for all headers.
pub struct Facts {
    client: Option<SocketAddr>,
    route: Arc<str>,
    session: Box<str>,
    request: Packed,
    /// What only this host says of a session; nothing of it on relay routes.
    pub host: HostFacts,
}

/// Headers in one block of text, a line for each name and each value.
struct Packed(Box<str>);

impl Packed {
    /// Pairs that hold a line break are left out: none comes through an HTTP parser.
    fn new(headers: &Headers) -> Self {
        let mut lines = String::with_capacity(headers.iter().map(|(name, value)| name.len() + value.len() + 2).sum());
        for (name, value) in headers.iter().filter(|(name, value)| !name.contains('\n') && !value.contains('\n')) {
            for part in [name, value] {
                lines.push_str(part);
                lines.push('\n');
            }
        }
        Self(lines.into())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut lines = self.0.split('\n');
        std::iter::from_fn(move || Some((lines.next()?, lines.next()?)))
    }
}

impl Facts {
    /// Of a connection with this handshake.
    pub fn new(context: &ConnectionContext, request: &Headers) -> Rc<Self> {
        Rc::new(Self {
            client: Some(context.client),
            route: Arc::clone(&context.route),
            session: context.session.as_str().into(),
            request: Packed::new(request),
            host: HostFacts::default(),
        })
    }

    /// Of a cohort: what all its sessions have in common, and nothing of any one of them.
    pub fn of_cohort(route: &Route, request: &Headers) -> Rc<Self> {
        let request = Packed::new(request);
        let host = HostFacts::default();
        host.speak();
        host.opened();
        Rc::new(Self { client: None, route: route.name().into(), session: Box::default(), request, host })
    }

    /// The handshake as the filters see it.
    pub fn request(&self) -> Headers {
        self.request.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The verified claims; `null` where there are none.
    pub fn claims(&self) -> serde_json::Value {
        let payload = self.header(CLAIMS_HEADER).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.request.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl host::Properties for Facts {
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        match path {
            ["source", "address"] => text(&self.client?.to_string()),
            ["source", "port"] => Some(u64::from(self.client?.port()).to_le_bytes().to_vec()),
            ["request", "path"] => text(self.header(":path")?),
            ["request", "url_path"] => text(self.header(":path")?.split('?').next()?),
            ["request", "host"] => text(self.header(":authority")?),
            ["request", "scheme"] => text(self.header(":scheme")?),
            ["request", "method"] => text(self.header(":method")?),
            ["request", "protocol"] => text("HTTP/1.1"),
            ["request", "id"] => text(self.header("x-request-id").unwrap_or(&self.session)),
            ["request", "headers", name] => text(self.header(&name.to_ascii_lowercase())?),
            ["connection", "mtls"] => Some(vec![0]),
            ["xds", "route_name"] => text(&self.route),
            ["bawaba", name] => self.host.property(name),
            _ => None,
        }
    }
}

/// One stream through a route's chain; empty where the route has no filters. Give it back by [`RouteChain::close`].
pub struct ChainStream(Option<host::ChainStream>);

/// A route's chain on one worker.
pub struct RouteChain {
    route: Arc<Route>,
    chain: RefCell<host::WorkerChain>,
    next_tick: Cell<Option<Instant>>,
    /// What looks on, by the filter's place.
    shadows: RefCell<BTreeMap<usize, Watch>>,
}

impl RouteChain {
    /// The chain of `route`, for the thread that calls.
    pub fn attach(route: &Arc<Route>) -> Rc<Self> {
        let chain = RefCell::new(route.chain.attach());
        Rc::new(Self { route: Arc::clone(route), chain, next_tick: Cell::new(None), shadows: RefCell::default() })
    }

    /// Lets the shadows of `generation` look on, and no others.
    pub fn shadow_by(&self, generation: &Generation) {
        let mut shadows = self.shadows.borrow_mut();
        let mut chain = self.chain.borrow_mut();
        for (place, filter) in self.route.filters.iter().enumerate() {
            let loaded = generation.filters.get(&filter.name);
            let wanted =
                loaded.and_then(|loaded| loaded.candidate.as_ref()).and_then(|candidate| match &candidate.role {
                    Role::Shadow(settings) => Some((candidate, settings)),
                    Role::Canary(_) => None,
                });
            match (wanted, shadows.get(&place)) {
                (Some((candidate, _)), Some(known)) if known.is_of(candidate) => {}
                (Some((candidate, settings)), _) => {
                    let watch = Watch::new(candidate, settings);
                    chain.set_tap(place, Some(Box::new(watch.clone())));
                    shadows.insert(place, watch);
                }
                (None, Some(_)) => {
                    chain.set_tap(place, None);
                    shadows.remove(&place);
                }
                (None, None) => {}
            }
        }
    }

    /// The first filter of the route refused a handshake: its shadow is asked too.
    fn refused(&self, request: &host::Headers, facts: &Rc<Facts>, opening: &host::Opening) {
        let (Some(watch), Some(first)) = (self.shadows.borrow().get(&0).cloned(), self.route.filters.first()) else {
            return;
        };
        if let host::Opening::Refused(response) = opening
            && *response.filter == *first.name
        {
            watch.refused(request, Rc::clone(facts) as Rc<dyn host::Properties>);
        }
    }

    /// The route.
    pub const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// On which facts outbound verdicts of public messages depend.
    pub fn audience(&self) -> &Audience {
        &self.route.audience
    }

    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.route.filters.is_empty()
    }

    /// Judges a handshake; `request` may be edited.
    pub fn open(&self, request: &mut Headers, facts: &Rc<Facts>) -> Result<ChainStream, Refused> {
        if self.is_empty() {
            return Ok(ChainStream(None));
        }
        let mut headers = to_host(request);
        let came = (!self.shadows.borrow().is_empty()).then(|| headers.clone());
        let opening = self.chain.borrow_mut().open(&mut headers, Rc::clone(facts) as Rc<dyn host::Properties>);
        if let Some(came) = came {
            self.refused(&came, facts, &opening);
        }
        *request = from_host(&headers);
        opened(opening)
    }

    /// Judges the answer to the handshake; `response` begins with `:status` and may be edited.
    pub fn answer(&self, stream: &mut ChainStream, response: &mut Headers) -> Result<(), Ended> {
        let Some(stream) = &mut stream.0 else { return Ok(()) };
        let mut headers = to_host(response);
        self.chain.borrow_mut().response_headers(stream, &mut headers).map_err(ended)?;
        *response = from_host(&headers);
        Ok(())
    }

    /// Client to server: whole frames in, whole frames out, or nothing.
    pub fn inbound(&self, stream: &mut ChainStream, frames: &mut Vec<u8>) -> Result<(), Ended> {
        let Some(stream) = &mut stream.0 else { return Ok(()) };
        self.chain.borrow_mut().request_data(stream, frames).map_err(ended)
    }

    /// Server to client.
    pub fn outbound(&self, stream: &mut ChainStream, frames: &mut Vec<u8>) -> Result<(), Ended> {
        let Some(stream) = &mut stream.0 else { return Ok(()) };
        self.chain.borrow_mut().response_data(stream, frames).map_err(ended)
    }

    /// Moves a stream of another generation's chain into this one, at a message boundary. The old stream stays as it
    /// was. `None` where the old chain was empty and kept no handshake: open it anew.
    pub fn reopen(&self, old: &ChainStream) -> Option<Result<ChainStream, Refused>> {
        if self.is_empty() {
            return Some(Ok(ChainStream(None)));
        }
        let old = old.0.as_ref()?;
        Some(opened(self.chain.borrow_mut().reopen(old)))
    }

    /// Ends a stream.
    pub fn close(&self, stream: ChainStream) {
        if let Some(stream) = stream.0 {
            self.chain.borrow_mut().close(stream);
        }
    }

    /// Runs the filters' timers that are due; the streams that they closed.
    pub fn tick(&self, now: Instant) -> Vec<host::StreamToken> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut chain = self.chain.borrow_mut();
        if !self.shadows.borrow().is_empty() {
            chain.tick_taps(now);
        }
        if chain.next_tick().is_some_and(|at| at <= now) {
            chain.tick(now);
        }
        self.next_tick.set(chain.next_tick());
        chain.take_closed()
    }
}

impl ChainStream {
    /// Its name in what [`RouteChain::tick`] returns.
    pub fn token(&self) -> Option<host::StreamToken> {
        self.0.as_ref().map(host::ChainStream::token)
    }

    /// What the filters ask of this host for the session; `None` if that is what `known` says.
    pub fn grants(&self, known: &Grants) -> Option<Grants> {
        let stream = self.0.as_ref()?;
        (stream.stored_version() != known.version)
            .then(|| Grants::read(stream.stored("bawaba"), stream.stored_version()))
    }
}

fn opened(opening: host::Opening) -> Result<ChainStream, Refused> {
    match opening {
        host::Opening::Stream(stream) => Ok(ChainStream(Some(stream))),
        host::Opening::Refused(response) => Err(Refused::Response {
            status: response.status,
            headers: from_host(&response.headers),
            body: response.body.into(),
        }),
        host::Opening::Failed { filter, cause } => Err(Refused::Failed(format!("{filter}: {}", cause.as_str()))),
    }
}

fn ended(end: host::StreamEnd) -> Ended {
    match end {
        host::StreamEnd::Denied { filter, cause } => Ended::Failed(format!("{filter}: {}", cause.as_str())),
        host::StreamEnd::ClosedByFilter { filter } => Ended::Closed(filter.to_string()),
        host::StreamEnd::LocalResponse(response) => Ended::Closed(response.filter.to_string()),
    }
}

fn to_host(headers: &Headers) -> host::Headers {
    let mut out = host::Headers::new();
    for (name, value) in headers {
        out.add(name, value.as_str());
    }
    out
}

fn from_host(headers: &host::Headers) -> Headers {
    headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
