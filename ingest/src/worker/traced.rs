//! The traces of records, and of the batches that they end in.
//!
//! ```text
//! record with a sampled `traceparent` -> its trace is noted beside it -> its batch is stored: in that trace, `store` below the sender's span, and
//!                                                                       each insert below that
//! ```
//!
//! A batch has records of many traces. Only `MOST` are recorded; the others are counted as dropped. Records that are left out of a batch (duplicates,
//! poison) have no span.

use tallyhouse_service::trace::{Attribute, Trace, Tracer};

use super::batch::Closed;
use super::committer::{BatchCommitter, Lost};
use super::partition::{Partition, RefusedRecord};

/// Traces that are recorded of one batch.
const MOST: usize = 16;

/// Traces of records, by offset. Those of one request are neighbours, and are one.
#[derive(Debug, Default)]
pub struct Senders {
    noted: Vec<(i64, Trace)>,
    left_out: u64,
}

impl Senders {
    pub fn add(&mut self, offset: i64, sender: Trace) {
        if self.noted.iter().any(|(_, noted)| *noted == sender) {
            return;
        }
        if self.noted.len() < MOST {
            self.noted.push((offset, sender));
        } else {
            self.left_out += 1;
        }
    }

    pub fn extend(&mut self, more: Self) {
        self.left_out += more.left_out;
        more.noted.into_iter().for_each(|(offset, sender)| self.add(offset, sender));
    }

    /// Those of the rows of a batch, which is over.
    pub fn of_batch(&mut self, last: i64, offsets: &[i64]) -> Self {
        let (mut ended, later) =
            std::mem::take(&mut self.noted).into_iter().partition::<Vec<_>, _>(|(offset, _)| *offset <= last);
        self.noted = later;
        ended.retain(|(offset, _)| offsets.binary_search(offset).is_ok());
        Self { noted: ended, left_out: std::mem::take(&mut self.left_out) }
    }
}

/// Stores a batch, in the traces of its records. `topic`: what they say of where it came from; not a project's own, which has its name.
pub(super) async fn store<P: Partition>(
    committer: &BatchCommitter<P>,
    mut closed: Closed,
    topic: Option<String>,
) -> Result<Vec<RefusedRecord>, Lost> {
    let senders = std::mem::take(&mut closed.senders);
    let Some(traced) = committer.store.tracer.as_ref().map(|tracer| begun(tracer, senders)) else {
        return committer.store_batch(closed).await;
    };
    let partition = i64::from(committer.partition.number().unwrap_or(-1));
    let mut attributes: Vec<(&str, Attribute)> = vec![
        ("messaging.destination.partition.id", partition.into()),
        ("messaging.batch.message_count", closed.rows.into()),
    ];
    attributes.extend(topic.map(|topic| ("messaging.destination.name", topic.into())));
    let stored = traced.scope(Box::pin(committer.store_batch(closed))).await;
    traced.end("store", &attributes);
    stored
}

fn begun(tracer: &Tracer, senders: Senders) -> tallyhouse_service::trace::BatchTrace {
    tracer.batch(senders.noted.into_iter().map(|(_, sender)| sender).collect(), senders.left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_the_traces_of_its_rows_and_few_of_them() {
        let traces: Vec<Trace> = (0..40).map(|_| Trace::below(None)).collect();
        let mut senders = Senders::default();
        for (offset, trace) in (0..).zip(&traces[..3]) {
            senders.add(offset, *trace);
            senders.add(offset + 100, *trace);
        }
        let first = senders.of_batch(1, &[0]);
        assert_eq!((first.noted, first.left_out), (vec![(0, traces[0])], 0), "1 was left out of it");
        let mut more = Senders::default();
        (200..).zip(&traces[3..]).for_each(|(offset, trace)| more.add(offset, *trace));
        senders.extend(more);
        let second = senders.of_batch(300, &(2..300).collect::<Vec<_>>());
        assert_eq!((second.noted.len(), second.noted[0], second.left_out), (MOST, (2, traces[2]), 22));
        assert!(senders.noted.is_empty() && senders.left_out == 0);
    }
}
