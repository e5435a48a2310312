//! What is known about one instrument in one screening: the verdict, and what becomes of each kind of message about it.

use std::rc::Rc;

use bawaba_filter_kit::channels::wire::Timestamp;
use bawaba_filter_kit::{Metadata, PreparedMetadata, Refusal, reason_of};
use bawaba_policies::Reason;
use bawaba_policies::sharia::{Decided, Decision, RuleSet, Subject, Verdict};

/// A verdict with all that follows from it.
#[derive(Debug)]
pub(crate) struct Judged {
    /// By [`Subject`].
    shown: [Shown; Subject::ALL.len()],
    /// For answers, which say it once and are written whole.
    metadata: Metadata,
}

/// What becomes of one kind of message.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// That.
    pub(crate) decision: Decision,
    /// What an update carries; with the rule, where one decided.
    pub(crate) metadata: Rc<PreparedMetadata>,
    /// The rule that decided.
    pub(crate) rule: Option<Rc<str>>,
}

impl Judged {
    pub(crate) fn of(verdict: &Verdict<'_>, rules: &RuleSet, exchange: &str) -> Self {
        let metadata = metadata(verdict);
        let mut written: Vec<(Option<Rc<str>>, Rc<PreparedMetadata>)> =
            vec![(None, Rc::new(PreparedMetadata::of(&metadata)))];
        let shown = Subject::ALL.map(|subject| {
            let Decided { decision, rule } = rules.decide(verdict, exchange, subject);
            let known = written.iter().find(|(known, _)| known.as_deref() == rule);
            let (rule, prepared) = known.cloned().unwrap_or_else(|| {
                let rule: Option<Rc<str>> = rule.map(Rc::from);
                let named = Metadata { rule: rule.as_deref().unwrap_or_default().into(), ..metadata.clone() };
                written.push((rule.clone(), Rc::new(PreparedMetadata::of(&named))));
                (rule, Rc::clone(&written[written.len() - 1].1))
            });
            Shown { decision, metadata: prepared, rule }
        });
        Self { shown, metadata }
    }

    /// What becomes of messages of this kind.
    pub(crate) const fn shown(&self, subject: Subject) -> &Shown {
        &self.shown[subject as usize]
    }

    /// The refusal of messages of this kind, with the verdict as an answer says it.
    pub(crate) fn refusal(&self, subject: Subject, now: Timestamp) -> Option<Refusal> {
        let shown = self.shown(subject);
        let reason = reason_of(shown.refusal()?);
        let rule = shown.rule.as_deref().unwrap_or_default().into();
        Some(Refusal::new(reason).screened(Metadata { rule, filtered_at: now.0, ..self.metadata.clone() }))
    }

    /// Why nothing of its prices goes to the client; none if anything may.
    pub(crate) fn hidden(&self) -> Option<Reason> {
        let public = [Subject::Quote, Subject::Book, Subject::Trade];
        let refused = public.iter().map(|&subject| self.shown(subject).refusal());
        refused.reduce(Option::and).flatten()
    }
}

impl Shown {
    /// Why such a message does not go.
    pub(crate) const fn refusal(&self) -> Option<Reason> {
        match self.decision {
            Decision::Drop(reason) => Some(reason),
            Decision::Redact(_) | Decision::Annotate => None,
        }
    }

    /// Whether text for people may name the instrument here.
    pub(crate) const fn hides_text(&self) -> bool {
        match self.decision {
            Decision::Drop(_) => true,
            Decision::Redact(fields) => fields.has(bawaba_policies::sharia::Field::Reason),
            Decision::Annotate => false,
        }
    }
}

fn metadata(verdict: &Verdict<'_>) -> Metadata {
    let Some(annotation) = verdict.annotation() else { return Metadata::default() };
    Metadata {
        sharia_compliant: annotation.sharia_compliant,
        compliance_board: annotation.compliance_board,
        compliance_level: annotation.compliance_level.into(),
        screening_result: annotation.screening_result.into(),
        list: annotation.list,
        standard: annotation.standard,
        effective_from: annotation.effective_from.and_then(|at| i64::try_from(at.0).ok()),
        historical: annotation.historical,
        reason: annotation.reason.unwrap_or_default().into(),
        // At most 100 with four decimals: always a decimal.
        purification: annotation.purification.and_then(|share| share.to_string().parse().ok()),
        rule: String::new(),
        filtered_at: 0,
    }
}
