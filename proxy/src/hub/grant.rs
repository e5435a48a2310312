//! What filters ask for a session, kept: it is judged anew when its verdicts run out or its allowance is spent, by a new
//! stream to which everything that it follows is put again. Knows no policy.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use bawaba_channels::reason::Reason;
use bawaba_channels::wire::Refused;

use super::Hub;
use super::swap::close_code_of;

impl Hub {
    /// A session took its seat: what its filters ask for it is noted.
    pub(super) fn entered(&mut self, index: usize) {
        self.seats[index].facts.host.opened();
        self.read_grants(index);
    }

    /// Notes what the filters ask, if that is new.
    pub(super) fn read_grants(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        if let Some(grants) = seat.stream.as_ref().and_then(|stream| stream.grants(&seat.grants)) {
            seat.grants = grants;
        }
    }

    /// Whether a session has had all that it was allowed: it is judged anew before more is sent.
    pub(super) fn is_spent(&mut self, index: usize) -> bool {
        let seat = &self.seats[index];
        let spent = !seat.ready.is_empty() && seat.closing.is_none() && !seat.facts.host.may_deliver(&seat.grants);
        if spent && !self.spent.contains(&index) {
            self.spent.push(index);
        }
        spent
    }

    /// Judges those anew who have had all that they were allowed.
    pub(super) fn judge_spent(&mut self) {
        for index in std::mem::take(&mut self.spent) {
            if self.seats.contains(index) {
                self.judge_anew(index);
                if !self.seats[index].ready.is_empty() {
                    self.mark_dirty(index);
                }
            }
        }
    }

    /// Judges the sessions anew whose time has come.
    pub(super) fn sweep_grants(&mut self) {
        let now = unix_nanos();
        let due: Vec<usize> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.closing.is_none() && seat.grants.until.is_some_and(|until| until <= now))
            .map(|(index, _)| index)
            .collect();
        for index in due {
            self.judge_anew(index);
        }
    }

    /// Opens a new stream for a session through its chain, and puts everything to it that the session follows.
    pub(super) fn judge_anew(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        let chain = Rc::clone(&seat.chain);
        let (facts, encoding) = (Rc::clone(&seat.facts), seat.encoding);
        let mut request = seat.request().clone();
        match crate::session::open_stream(&chain, &mut request, &facts, encoding) {
            Ok((stream, _)) => {
                if let Some(old) = self.seats[index].stream.replace(stream) {
                    chain.close(old);
                }
                self.judged_anew(index);
            }
            Err(refused) => {
                let (reason, _) = super::request::refused_word(&refused);
                self.close(index, close_code_of(reason), reason.sentence());
            }
        }
    }

    /// A session has a new stream, and its old one is closed.
    pub(super) fn judged_anew(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        seat.facts.host.opened();
        seat.facts.host.forget_delivered();
        let late = std::mem::take(&mut seat.grants).late;
        self.read_grants(index);
        if self.seats[index].grants.late != late {
            self.revoke_public(index);
        }
        self.rejudge(index);
        self.read_grants(index);
    }

    /// Late and current messages of one instrument must not mix: the client begins again with the others.
    fn revoke_public(&mut self, index: usize) {
        let refused = Refused {
            code: Reason::LicenseFeature.word().into(),
            reason: "the licence now gives the data at another time: subscribe again".into(),
            ..Refused::default()
        };
        let slots: Vec<usize> = self.seats[index].follows.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.revoke(index, slot, &refused);
        }
    }
}

/// Nanoseconds since the epoch.
pub(super) fn unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
