//! Waits until submitted events are acknowledged, and makes the answer.

use tallyhouse_schema::Rejection;
use tokio::time::Instant;

use super::Pipeline;
use super::take::Taken;
use crate::ack::AckOutcome;
use crate::answer::{Rejected, Reply};
use crate::request::{RequestError, Wait};

impl Pipeline {
    /// Waits until every event is acknowledged, at most until the deadline.
    pub(super) async fn confirm(&self, taken: Taken, wait: Wait, deadline: Instant) -> Result<Reply, RequestError> {
        let Taken { is_single, event_id, pending, indices, mut rejected, dropped, mut warned, charge } = taken;
        let outcomes = match pending {
            Some(pending) => self.delivery.acknowledge(pending, wait, deadline).await,
            None => Vec::new(),
        };
        let count = |of: AckOutcome| outcomes.iter().filter(|outcome| **outcome == of).count();
        let at = |of: AckOutcome| {
            outcomes.iter().zip(&indices).filter(move |(outcome, _)| **outcome == of).map(|(_, index)| *index)
        };
        let (accepted, duplicates) = (count(AckOutcome::Accepted), count(AckOutcome::Duplicate));
        let is_unconfirmed = |outcome: &AckOutcome| {
            matches!(outcome, AckOutcome::Unconfirmed | AckOutcome::Late | AckOutcome::LateDuplicate)
        };
        let unconfirmed: Vec<usize> = outcomes
            .iter()
            .zip(&indices)
            .filter(|(outcome, _)| is_unconfirmed(outcome))
            .map(|(_, index)| *index)
            .collect();
        let events = outcomes.len() + rejected.len() + dropped.len();
        // What was accepted is counted where it ends: when it is stored, or in the log.
        self.metrics.duplicates(duplicates + count(AckOutcome::LateDuplicate));
        self.metrics.handed_back(count(AckOutcome::Unconfirmed));
        // What may still become durable stays charged.
        let is_taken = |outcome: &&AckOutcome| matches!(outcome, AckOutcome::Accepted | AckOutcome::Late);
        self.give_back(&charge, outcomes.len() - outcomes.iter().filter(is_taken).count());
        if !unconfirmed.is_empty() {
            return Err(RequestError::NotConfirmed { events, indices: unconfirmed });
        }
        for index in at(AckOutcome::TooLarge) {
            self.metrics.rejected(Rejection::TooLargeForLog.code());
            warned.forget(index);
            rejected.push(Rejected { index, event_id: None, rejection: Rejection::TooLargeForLog });
        }
        // Counted as dead letters, where they became that.
        for (outcome, index) in outcomes.iter().zip(&indices) {
            if let AckOutcome::RefusedByStore(code) = *outcome {
                warned.forget(*index);
                rejected.push(Rejected {
                    index: *index,
                    event_id: None,
                    rejection: Rejection::RefusedByStore { code },
                });
            }
        }
        rejected.sort_by_key(|rejected| rejected.index);
        let (standing, refused) = (charge.counted.standing, charge.counted.refused);
        Ok(Reply { wait, is_single, event_id, accepted, duplicates, rejected, dropped, warned, standing, refused })
    }
}
