//! What a session follows, as its filter saw it asked for and answered: where no host judges a session anew, this is what
//! the filter judges. Bounded: what does not fit is not followed, and passes no update.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bawaba_filter_kit::channels::reason::Reason;
use bawaba_filter_kit::channels::wire::{Event, Revoked};
use bawaba_filter_kit::{Kind, Message};
use bawaba_policies::license::Terms;

/// Requests in flight that are remembered.
const ASKED_MAX: usize = 256;
/// Symbols of all subscriptions together.
const SYMBOLS_MAX: usize = 65_536;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) channel: String,
    pub(crate) exchange: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Followed {
    terms: Terms,
    asked: VecDeque<(Option<u64>, Request)>,
    subscriptions: BTreeMap<String, (Request, BTreeSet<String>)>,
    /// Ended here, whatever the backend still sends.
    ended: BTreeSet<(String, String)>,
    symbols: usize,
}

impl Followed {
    pub(crate) const fn new(terms: Terms) -> Self {
        Self { terms, asked: VecDeque::new(), subscriptions: BTreeMap::new(), ended: BTreeSet::new(), symbols: 0 }
    }

    pub(crate) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// A `subscribe` goes to the backend.
    pub(crate) fn asked(&mut self, message: &Message<'_>) {
        let text = |text: Option<std::borrow::Cow<'_, str>>| text.map(|text| text.into_owned()).unwrap_or_default();
        let request = Request { channel: text(message.channel()), exchange: text(message.exchange()) };
        self.asked.push_back((message.id(), request));
        if self.asked.len() > ASKED_MAX {
            self.asked.pop_front();
        }
    }

    /// Takes note of an event; whether it may go on to the client.
    pub(crate) fn passes(&mut self, message: &mut Message<'_>) -> bool {
        match message.kind() {
            Kind::Subscribed => self.subscribed(message),
            Kind::Error => drop(self.answer(message.id())),
            Kind::Revoked => {
                if let Some(name) = message.subscription()
                    && let Some((_, symbols)) = self.subscriptions.get_mut(&*name)
                {
                    self.symbols -= message.symbols().iter().filter(|symbol| symbols.remove(&***symbol)).count();
                }
            }
            kind if kind.is_update() || matches!(kind, Kind::Alert | Kind::MarketStatus | Kind::Gap) => {
                let Some(name) = message.subscription() else { return true };
                let symbol = message.symbol().unwrap_or_default();
                let whole = (name.clone().into_owned(), String::new());
                return !self.ended.contains(&whole) && !self.ended.contains(&(whole.0, symbol.into_owned()));
            }
            _ => {}
        }
        true
    }

    fn answer(&mut self, id: Option<u64>) -> Option<Request> {
        let at = self.asked.iter().position(|(known, _)| *known == id)?;
        self.asked.remove(at).map(|(_, request)| request)
    }

    fn subscribed(&mut self, message: &mut Message<'_>) {
        let request = self.answer(message.id());
        let (Some(request), Some(name)) = (request, message.subscription()) else { return };
        let name = name.into_owned();
        let accepted: Vec<String> = message.symbols().iter().map(|symbol| symbol.to_string()).collect();
        let (_, symbols) = self.subscriptions.entry(name.clone()).or_insert_with(|| (request, BTreeSet::new()));
        for symbol in accepted {
            self.ended.remove(&(name.clone(), symbol.clone()));
            if symbols.contains(&symbol) {
                continue;
            }
            if self.symbols < SYMBOLS_MAX {
                self.symbols += 1;
                symbols.insert(symbol);
            } else {
                message.refuse_symbol(&symbol, Reason::QuotaSymbols);
                self.ended.insert((name.clone(), symbol));
            }
        }
    }

    /// Ends what `judge` refuses; the events that say so.
    pub(crate) fn revoke(&mut self, judge: impl Fn(&Request, &str) -> Result<(), Reason>) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, (request, symbols)) in &mut self.subscriptions {
            let mut by_reason: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
            symbols.retain(|symbol| match judge(request, symbol) {
                Ok(()) => true,
                Err(reason) => {
                    by_reason.entry(reason).or_default().push(symbol.clone());
                    false
                }
            });
            for (reason, gone) in by_reason {
                self.symbols -= gone.len();
                self.ended.extend(gone.iter().map(|symbol| (name.clone(), symbol.clone())));
                events.push(Event::Revoked(Revoked {
                    subscription: name.clone(),
                    symbols: gone.into_iter().filter(|symbol| !symbol.is_empty()).collect(),
                    code: reason.word().into(),
                    reason: reason.sentence().into(),
                }));
            }
        }
        events
    }
}
