//! Events on their way -> the answer.

use tallyhouse_schema::Rejection;
use tokio::time::Instant;

use super::Pipeline;
use super::take::Taken;
use crate::ack::Settled;
use crate::answer::{Rejected, Reply};
use crate::request::{RequestError, Wait};

impl Pipeline {
    /// Waits until every event is settled, at most until the deadline.
    pub(super) async fn confirm(&self, taken: Taken, wait: Wait) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + self.limits.ack_timeout;
        let Taken { is_single, event_id, pending, indices, mut rejected, mut warned } = taken;
        let settled = match pending {
            Some(pending) => self.delivery.settle(pending, wait, deadline).await,
            None => Vec::new(),
        };
        let count = |of: Settled| settled.iter().filter(|settled| **settled == of).count();
        let at = |of: Settled| settled.iter().zip(&indices).filter(move |(s, _)| **s == of).map(|(_, index)| *index);
        let (accepted, duplicates) = (count(Settled::Accepted), count(Settled::Duplicate));
        let is_open = |settled: &Settled| matches!(settled, Settled::Open | Settled::Late | Settled::LateDuplicate);
        let open: Vec<usize> =
            settled.iter().zip(&indices).filter(|(settled, _)| is_open(settled)).map(|(_, index)| *index).collect();
        let events = settled.len() + rejected.len();
        // What was accepted is counted where it ends: when it is stored, or in the log.
        self.metrics.duplicates(duplicates + count(Settled::LateDuplicate));
        self.metrics.handed_back(count(Settled::Open));
        if !open.is_empty() {
            return Err(RequestError::NotConfirmed { events, indices: open });
        }
        for index in at(Settled::TooLarge) {
            self.metrics.rejected(Rejection::TooLargeForLog.code());
            warned.forget(index);
            rejected.push(Rejected { index, event_id: None, rejection: Rejection::TooLargeForLog });
        }
        // Counted as dead letters, where they became that.
        for (settled, index) in settled.iter().zip(&indices) {
            if let Settled::RefusedByStore(code) = *settled {
                warned.forget(*index);
                rejected.push(Rejected {
                    index: *index,
                    event_id: None,
                    rejection: Rejection::RefusedByStore { code },
                });
            }
        }
        rejected.sort_by_key(|rejected| rejected.index);
        Ok(Reply { wait, is_single, event_id, accepted, duplicates, rejected, warned })
    }
}
