//! A candidate that judges the same live traffic without effect: what a filter gets, its shadow gets too, on VMs and with
//! data of its own; what it would have done is compared, counted and forgotten.
//!
//! It can't harm live traffic: it has a budget for each callback, a share of each worker's time, and is switched off after
//! repeated failure. It is opened from the handshake that the filter got, so it begins with sessions that are open already.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bawaba_filter_host as host;
use host::{Handshake, Opening, Seen, StreamEnd, StreamToken, Verdict, Way};

use crate::config;
use crate::loading::Candidate;

mod compare;
mod tally;

pub use compare::Difference;
pub use tally::{Tally, write};

/// Sessions of one worker that are judged in shadow at once; others are not. A stream has about a kibibyte.
const STREAMS_MAX: usize = 20_000;

/// What one worker's shadow of one filter knows.
pub struct Shadow {
    candidate: Arc<Candidate>,
    settings: config::Shadow,
    chain: host::WorkerChain,
    streams: HashMap<StreamToken, Place>,
    /// The second under way, and the candidate's time in it.
    window: Instant,
    spent: Duration,
}

/// A session's place in the shadow.
enum Place {
    Open(Box<Open>),
    /// It ended this session, or refused it: no more can be compared.
    Over,
}

struct Open {
    stream: host::ChainStream,
    /// Refusals that only one of the two will tell the client of, by a message that the other will not send.
    owed: compare::Owed,
}

/// Shared with the chain that it looks on.
#[derive(Clone)]
pub struct Watch(pub Rc<RefCell<Shadow>>);

impl Watch {
    /// On this thread.
    pub fn new(candidate: &Arc<Candidate>, settings: &config::Shadow) -> Self {
        let chain = host::Chain::new(0, vec![candidate.filter.clone()]).attach();
        let shadow = Shadow {
            candidate: Arc::clone(candidate),
            settings: settings.clone(),
            chain,
            streams: HashMap::new(),
            window: Instant::now(),
            spent: Duration::ZERO,
        };
        Self(Rc::new(RefCell::new(shadow)))
    }

    /// Whether it is this candidate's.
    pub fn is_of(&self, candidate: &Arc<Candidate>) -> bool {
        Arc::ptr_eq(&self.0.borrow().candidate, candidate)
    }

    /// The filter refused a handshake that reached it like this: would the candidate have?
    pub fn refused(&self, request: &host::Headers, properties: Rc<dyn host::Properties>) {
        self.0.borrow_mut().refused(request, properties);
    }
}

impl host::Tap for Watch {
    fn judged(&mut self, seen: &Seen<'_>, handshake: &dyn Fn() -> Handshake) {
        self.0.borrow_mut().judged(seen, handshake);
    }

    fn closed(&mut self, token: StreamToken) {
        self.0.borrow_mut().forget(token);
    }

    fn tick(&mut self, now: Instant) {
        self.0.borrow_mut().tick(now);
    }
}

impl Shadow {
    fn tally(&self) -> &Tally {
        &self.candidate.tally
    }

    fn judged(&mut self, seen: &Seen<'_>, handshake: &dyn Fn() -> Handshake) {
        if self.tally().is_off() {
            return self.stop();
        }
        if !self.has_time() {
            self.candidate.tally.skip();
            // It missed something: what it remembers of this session is no longer the truth.
            return self.forget(seen.token);
        }
        if !self.streams.contains_key(&seen.token) {
            if self.streams.len() >= STREAMS_MAX {
                return self.candidate.tally.skip();
            }
            // One that failed is tried again at the next message, until it is switched off.
            let Some(place) = self.enter(handshake()) else { return };
            self.streams.insert(seen.token, place);
        }
        let Some(Place::Open(open)) = self.streams.get_mut(&seen.token) else { return };
        let mut data = seen.input.to_vec();
        let begun = Instant::now();
        let result = match seen.way {
            Way::Request => self.chain.request_data(&mut open.stream, &mut data),
            Way::Response => self.chain.response_data(&mut open.stream, &mut data),
        };
        let took = begun.elapsed();
        self.spent += took;
        let tally = &self.candidate.tally;
        tally.judged(seen.took, took);
        let difference = match (&seen.verdict, &result) {
            (_, Err(StreamEnd::Denied { cause, .. })) => {
                self.failed(*cause);
                return self.forget(seen.token);
            }
            (Verdict::Passed(active), Ok(())) => compare::frames(seen.way, active, &data, &mut open.owed),
            (Verdict::Passed(_), Err(_)) => Some(Difference::Closed),
            (Verdict::Ended, Ok(())) => Some(Difference::Open),
            // Both ended it; or the filter in force failed or waits, which is no verdict to compare with.
            (Verdict::Ended, Err(_)) | (Verdict::Failed(_) | Verdict::Held, _) => None,
        };
        let active = if let Verdict::Passed(active) = &seen.verdict { active } else { &[][..] };
        match difference {
            None => tally.same(),
            Some(difference) => tally.differs(difference, seen.way, seen.input, active, &data),
        }
        if result.is_err() || matches!(seen.verdict, Verdict::Ended) {
            self.end(seen.token);
        }
    }

    /// Whether the candidate may take more of this second.
    fn has_time(&mut self) -> bool {
        if self.window.elapsed() >= Duration::from_secs(1) {
            (self.window, self.spent) = (Instant::now(), Duration::ZERO);
        }
        self.spent < Duration::from_millis(10) * u32::from(self.settings.time_percent_max)
    }

    /// Opens a session from the handshake that the filter got.
    fn enter(&mut self, handshake: Handshake) -> Option<Place> {
        let Handshake { mut request, response, properties } = handshake;
        let begun = Instant::now();
        let mut opening = self.chain.open(&mut request, properties);
        if let (Opening::Stream(stream), Some(mut response)) = (&mut opening, response)
            && let Err(end) = self.chain.response_headers(stream, &mut response)
        {
            let ended = std::mem::replace(&mut opening, end.into());
            if let Opening::Stream(stream) = ended {
                self.chain.close(stream);
            }
        }
        self.spent += begun.elapsed();
        match opening {
            Opening::Stream(stream) => Some(Place::Open(Box::new(Open { stream, owed: compare::Owed::default() }))),
            Opening::Refused(response) => {
                let would = format!("{} {}", response.status, String::from_utf8_lossy(&response.body));
                self.tally().differs(Difference::Handshake, Way::Request, b"", b"passes", would.as_bytes());
                Some(Place::Over)
            }
            Opening::Failed { cause, .. } => {
                self.failed(cause);
                None
            }
        }
    }

    fn refused(&mut self, request: &host::Headers, properties: Rc<dyn host::Properties>) {
        if self.tally().is_off() || !self.has_time() {
            return;
        }
        let begun = Instant::now();
        let opening = self.chain.open(&mut request.clone(), properties);
        self.spent += begun.elapsed();
        match opening {
            Opening::Stream(stream) => {
                self.chain.close(stream);
                self.tally().differs(Difference::Handshake, Way::Request, b"", b"refused", b"passes");
            }
            Opening::Refused(_) => self.tally().same(),
            Opening::Failed { cause, .. } => self.failed(cause),
        }
    }

    fn failed(&self, cause: host::Cause) {
        match cause {
            // It rests after failures that were counted.
            host::Cause::Resting => self.tally().skip(),
            cause => self.tally().failed(cause.as_str(), self.settings.failures_max),
        }
    }

    /// Nothing more of this session is compared.
    fn end(&mut self, token: StreamToken) {
        if let Some(Place::Open(open)) = self.streams.insert(token, Place::Over) {
            self.chain.close(open.stream);
        }
    }

    fn forget(&mut self, token: StreamToken) {
        if let Some(Place::Open(open)) = self.streams.remove(&token) {
            self.chain.close(open.stream);
        }
    }

    fn stop(&mut self) {
        for (_, place) in self.streams.drain() {
            if let Place::Open(open) = place {
                self.chain.close(open.stream);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.tally().is_off() {
            return self.stop();
        }
        let begun = Instant::now();
        if self.chain.next_tick().is_some_and(|at| at <= now) {
            self.chain.tick(now);
        }
        self.spent += begun.elapsed();
        for token in self.chain.take_closed() {
            // Its own token: the sessions that it stands for are found by looking.
            let of = self.streams.iter().find_map(|(of, place)| match place {
                Place::Open(open) if open.stream.token() == token => Some(*of),
                _ => None,
            });
            if let Some(of) = of {
                self.tally().differs(Difference::Closed, Way::Response, b"", b"open", b"closed by a timer");
                self.end(of);
            }
        }
    }
}
