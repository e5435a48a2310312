//! The thin shell: proxy-wasm callbacks on one side, [`Stream`] on the other. Judges nothing.
//!
//! Body callbacks always continue: pausing past 1 MiB kills a stream in Envoy. Nothing is injected from a tick,
//! where Envoy answers an error and the SDK traps; an idle session whose time is over is cut there instead.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Timestamp;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::handshake::{Answer, Handshake};
use crate::host::{GRANT_PROPERTY, Grant, HOST_PROPERTY, Host, REPLAY_PROPERTY};
use crate::limits::{Limits, configure};
use crate::policy::{Policy, Refusal};
use crate::stream::{Flow, Stream};

/// How often idle sessions are looked through: the granularity of cutting them.
const TICK: Duration = Duration::from_secs(1);
/// How long a client may take to answer a Close before its stream is cut.
const CLOSE_GRACE_NANOS: i64 = 5_000_000_000;

struct Built<P> {
    policy: P,
    limits: Limits,
}

/// When which stream is to be cut, by context id. Bounded by the host's streams: entries leave with their stream.
type Ends = Rc<RefCell<BTreeMap<u32, Timestamp>>>;

/// The root context of a filter.
struct Root<P: Policy> {
    built: Option<Rc<Built<P>>>,
    ends: Ends,
}

struct Http<P: Policy> {
    id: u32,
    built: Option<Rc<Built<P>>>,
    ends: Ends,
    stream: Option<Stream<P>>,
    cutting: bool,
    extended_connect: bool,
    /// What the host was told last.
    grant: Grant,
}

/// Installs the filter for policy `P`; what `policy!` puts behind the module's start.
pub fn install<P: Policy>() {
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::<P> { built: None, ends: Ends::default() }));
}

fn now() -> Timestamp {
    let since = hostcalls::get_current_time().ok().and_then(|now| now.duration_since(SystemTime::UNIX_EPOCH).ok());
    Timestamp(since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0))
}

/// The keys of a `RandomState` come from the host's randomness; SipHash of nothing under them is a seed.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What a host that knows more than Envoy says of the stream at hand.
fn host() -> Option<Host> {
    let text = hostcalls::get_property(HOST_PROPERTY.to_vec()).ok().flatten()?;
    serde_json::from_slice(&text).ok()
}

fn is_replay() -> bool {
    hostcalls::get_property(REPLAY_PROPERTY.to_vec()).ok().flatten().is_some()
}

fn say(level: LogLevel, text: &str) {
    // A host that takes no logs is no reason to stop judging.
    let _ = hostcalls::log(level, text);
}

impl<P: Policy> Root<P> {
    fn configure(&self) -> Result<Built<P>, String> {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        let (policy, limits) = configure(&configuration)?;
        Ok(Built { policy, limits })
    }
}

impl<P: Policy> Context for Root<P> {}

impl<P: Policy> RootContext for Root<P> {
    fn on_configure(&mut self, _: usize) -> bool {
        match self.configure() {
            Ok(built) => {
                self.built = Some(Rc::new(built));
                self.set_tick_period(TICK);
                true
            }
            Err(error) => {
                say(LogLevel::Error, &format!("{}: not configured: {error}", P::NAME));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let now = now();
        if let Some(built) = &self.built {
            built.policy.tick(now);
        }
        let due: Vec<u32> = self.ends.borrow().iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            // Removed first: cutting a stream may call back into it before this returns.
            self.ends.borrow_mut().remove(&id);
            if hostcalls::set_effective_context(id).is_ok() {
                let _ = hostcalls::reset_http_request();
            }
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let (built, ends) = (self.built.clone(), Rc::clone(&self.ends));
        Some(Box::new(Http {
            id,
            built,
            ends,
            stream: None,
            cutting: false,
            extended_connect: false,
            grant: Grant::default(),
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl<P: Policy> Http<P> {
    fn answer(&self, answer: &Answer) -> Action {
        let headers = answer.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send_http_response(u32::from(answer.status), headers, Some(&answer.body));
        Action::Pause
    }

    fn open(&mut self, built: &Built<P>) -> Result<(), Answer> {
        let headers = self.get_http_request_headers_bytes();
        let mut handshake = Handshake::read(&headers).map_err(|refusal| Answer::refuse(&refusal))?;
        handshake.session.host = host();
        self.extended_connect = handshake.extended_connect;
        let websocket = handshake.session.is_websocket() || handshake.session.cohort;
        let mut stream =
            Stream::open(&built.policy, &built.limits, handshake.session, handshake.offered, now(), seed())
                .map_err(Answer::to)?;
        if let Some(protocols) = handshake.protocols {
            self.set_http_request_header("sec-websocket-protocol", protocols.as_deref());
        }
        if websocket {
            // Nothing may be compressed where a policy reads it.
            self.set_http_request_header("sec-websocket-extensions", None);
            if let Some(end) = stream.end() {
                self.ends.borrow_mut().insert(self.id, end.at);
            }
            self.stream = Some(stream);
            self.tell(built);
        } else {
            stream.close(&built.policy, None, now());
        }
        Ok(())
    }

    /// Tells a host that listens what the policy asks for the session.
    fn tell(&mut self, built: &Built<P>) {
        let Some(stream) = self.stream.as_ref().filter(|stream| stream.session().host().is_some()) else { return };
        let grant = stream.grant(&built.policy);
        if grant != self.grant {
            let text = serde_json::to_vec(&grant).unwrap_or_default();
            let _ = hostcalls::set_property(vec![GRANT_PROPERTY, P::NAME], Some(&text));
            self.grant = grant;
        }
    }

    fn close(&mut self) {
        if let (Some(mut stream), Some(built)) = (self.stream.take(), &self.built) {
            let host = stream.session().host().is_some().then(host).flatten();
            stream.close(&built.policy, host, now());
        }
    }

    /// A stream that is being closed gets a moment for the handshake of closing.
    fn watch(&mut self) {
        if !self.cutting && self.stream.as_ref().is_some_and(Stream::is_closing) {
            self.cutting = true;
            self.ends.borrow_mut().insert(self.id, Timestamp(now().0.saturating_add(CLOSE_GRACE_NANOS)));
        }
    }
}

impl<P: Policy> Drop for Http<P> {
    fn drop(&mut self) {
        self.close();
        self.ends.borrow_mut().remove(&self.id);
    }
}

impl<P: Policy> Context for Http<P> {}

impl<P: Policy> HttpContext for Http<P> {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let Some(built) = self.built.clone() else {
            return self.answer(&Answer::refuse(&Refusal::new(Reason::EdgeFilterFailed)));
        };
        match self.open(&built) {
            Ok(()) => Action::Continue,
            Err(answer) => self.answer(&answer),
        }
    }

    fn on_http_request_body(&mut self, size: usize, _: bool) -> Action {
        if size > 0
            && let (Some(stream), Some(built)) = (&mut self.stream, &self.built)
        {
            let chunk = hostcalls::get_buffer(proxy_wasm::types::BufferType::HttpRequestBody, 0, size);
            let chunk = chunk.ok().flatten().unwrap_or_default();
            let replay = stream.session().host().is_some_and(|host| host.again) && is_replay();
            stream.replay(replay);
            let flow = stream.request(&built.policy, now(), chunk);
            let built = Rc::clone(built);
            if let Flow::Replace(bytes) = flow {
                self.set_http_request_body(0, size, &bytes);
            }
            self.tell(&built);
            self.watch();
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if let (Some(stream), Some(built)) = (&mut self.stream, &self.built) {
            let value = |name| {
                let found = hostcalls::get_map_value_bytes(proxy_wasm::types::MapType::HttpResponseHeaders, name);
                found.ok().flatten().and_then(|value| String::from_utf8(value).ok())
            };
            let status = value(":status");
            if status.as_deref() == Some("101") || (self.extended_connect && status.as_deref() == Some("200")) {
                stream.accepted(value("sec-websocket-protocol").as_deref().map(str::trim), &built.limits);
            } else {
                // The backend declined: what follows is plain HTTP.
                self.close();
                self.ends.borrow_mut().remove(&self.id);
            }
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, _: bool) -> Action {
        if size > 0
            && let (Some(stream), Some(built)) = (&mut self.stream, &self.built)
        {
            let chunk = hostcalls::get_buffer(proxy_wasm::types::BufferType::HttpResponseBody, 0, size);
            let chunk = chunk.ok().flatten().unwrap_or_default();
            if let Flow::Replace(bytes) = stream.response(&built.policy, now(), chunk) {
                self.set_http_response_body(0, size, &bytes);
            }
            self.watch();
        }
        Action::Continue
    }
}
