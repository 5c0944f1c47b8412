//! Charges valid events to the key that sent them, and refuses those that do not fit.

use tallyhouse_schema::Rejection;
use tallyhouse_service::access::Subject;
use tallyhouse_service::rate_limit::{Counted, Holder, LimitsOf};

use super::Pipeline;
use super::sender::Sender;
use crate::answer::Rejected;
use crate::decode::Events;

/// What was charged, and to whom it is given back.
pub(super) struct Charge {
    pub(super) counted: Counted,
    project: String,
    subject: Subject,
    limits: LimitsOf,
}

impl Charge {
    fn holder(&self) -> Holder<'_> {
        self.subject.holder(&self.project)
    }
}

impl Pipeline {
    /// Charges events, and takes out those that do not fit: the last ones. Gives these by index.
    pub(super) async fn charge(&self, sender: &Sender, events: &mut Events<'_>) -> (Charge, Vec<Rejected>) {
        let holder = sender.subject.holder(&sender.rules.project);
        let counted = self.rate_limits.count_events(holder, &sender.limits, events.events.len() as u64).await;
        let fits = usize::try_from(counted.fits).unwrap_or(usize::MAX).min(events.events.len());
        let retry_after_s = counted.refused.map_or(0, |refused| refused.retry_after_s);
        let indices = events.indices.split_off(fits);
        let refused = events.events.drain(fits..).zip(indices).map(|(event, index)| Rejected {
            index,
            event_id: Some(event.event_id.to_string()),
            rejection: Rejection::RateLimited { retry_after_s },
        });
        let refused = refused.collect();
        events.warnings.retain(|(place, _)| *place < fits);
        let (project, subject) = (sender.rules.project.clone(), sender.subject.clone());
        (Charge { counted, project, subject, limits: sender.limits }, refused)
    }

    /// Gives back what was charged for events that were not taken after all.
    pub(super) fn give_back(&self, charge: &Charge, events: usize) {
        self.rate_limits.give_back(charge.holder(), &charge.limits, &charge.counted, events as u64);
    }
}
