//! Delivers records of the log to Kafka, or puts them beside the log when Kafka takes nothing for their topic or refuses them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{AT_ONCE, Fallback};
use crate::kafka::addressed::Addressed;
use crate::kafka::delivery_result::DeliveryResult;
use crate::kafka::gateway::Gateway;
use crate::kafka::records::Records;
use tallyhouse_service::retry;

/// How long Kafka may take for the records of one attempt.
const DELIVER_WITHIN: Duration = Duration::from_secs(30);

/// Kafka may not take a topic's records for so long, while it answers, before the others go on.
const HOLD_AFTER: Duration = Duration::from_secs(10);

impl Fallback {
    /// Returns when each record is in Kafka, held or parked.
    pub(super) async fn deliver(self: &Arc<Self>, gateway: &Gateway, records: Vec<Addressed>) {
        let (mut attempt, mut answered_since, mut rest) = (1, None, records);
        loop {
            let (held, open): (Vec<_>, _) = rest.into_iter().partition(|record| self.is_held(&record.topic));
            self.hold(held).await;
            let missing = self.send(gateway, open).await;
            if missing.is_empty() {
                return;
            }
            // While Kafka is away, or has only come back, no topic is to blame.
            answered_since = match gateway.is_answered().await {
                true => answered_since.or_else(|| Some(Instant::now())),
                false => None,
            };
            let is_over = answered_since.is_some_and(|since| since.elapsed() >= HOLD_AFTER);
            let is_held = |result: DeliveryResult| is_over || result == DeliveryResult::Denied;
            let (held, again): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(_, result)| is_held(*result));
            self.hold(held.into_iter().map(|(record, _)| record).collect()).await;
            if again.is_empty() {
                return;
            }
            rest = again.into_iter().map(|(record, _)| record).collect();
            tokio::time::sleep(retry::WRITE.pause(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Keeps records of topics that Kafka takes nothing for.
    async fn hold(self: &Arc<Self>, records: Vec<Addressed>) {
        for (topic, records) in by_topic(records) {
            if !self.is_held(&topic) {
                tracing::error!(topic, "Kafka takes nothing for this topic: its events wait in the folder `records`");
            }
            let hold = move |this: &Self| Ok(this.held.hold(&topic, &records)?);
            self.insist("records cannot be kept beside the log; trying again", hold).await;
        }
    }

    /// Sends records. Gives back those that Kafka did not take; what it refuses for good is parked.
    pub(super) async fn send(
        self: &Arc<Self>,
        gateway: &Gateway,
        records: Vec<Addressed>,
    ) -> Vec<(Addressed, DeliveryResult)> {
        let mut missing = Vec::new();
        for (record, result) in attempt(gateway, records).await {
            match result {
                DeliveryResult::TooLarge => self.park(record).await,
                // Maybe for its company: by itself it shows.
                DeliveryResult::Unfit => match attempt(gateway, vec![record]).await.pop() {
                    Some((record, DeliveryResult::Unfit | DeliveryResult::TooLarge)) => self.park(record).await,
                    other => missing.extend(other),
                },
                _ => missing.push((record, result)),
            }
        }
        missing
    }

    async fn park(self: &Arc<Self>, record: Addressed) {
        let topic = record.topic.clone();
        let park = move |this: &Self| Ok(this.held.park(&record)?);
        let name = self.insist("a record that Kafka refuses cannot be kept; trying again", park).await;
        self.metrics.log.parked.inc();
        tracing::error!(
            topic,
            name,
            "Kafka refuses a record for good, and it is kept in a file; larger than the topic takes: enlarge `max.message.bytes`"
        );
    }
}

/// Sends records, all topics at the same time. Gives back those that did not arrive, with why.
async fn attempt(gateway: &Gateway, records: Vec<Addressed>) -> Vec<(Addressed, DeliveryResult)> {
    let (mut missing, mut sent) = (Vec::new(), Vec::new());
    for (topic, records) in by_topic(records) {
        match gateway.destination(&topic).await {
            Ok(destination) => {
                let mut payloads = Records::default();
                records.iter().for_each(|record| payloads.push(record.hash, &record.payload));
                sent.push((gateway.send(destination, payloads, None), records));
            }
            Err(error) => {
                let result = if error.is_answer { DeliveryResult::Denied } else { DeliveryResult::Failed };
                missing.extend(records.into_iter().map(|record| (record, result)));
            }
        }
    }
    let deadline = Instant::now() + DELIVER_WITHIN;
    for (in_flight, records) in sent {
        let results = in_flight.results(deadline).await;
        let delivered = records.into_iter().zip(results);
        missing.extend(delivered.filter(|(_, result)| result.is_missing() || *result == DeliveryResult::TooLarge));
    }
    missing
}

/// Records in order, about [`AT_ONCE`] bytes at a time.
pub(super) fn pieces(records: Vec<Addressed>) -> Vec<Vec<Addressed>> {
    let (mut pieces, mut bytes) = (vec![Vec::new()], 0);
    for record in records {
        if bytes >= AT_ONCE {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += record.payload.len();
        if let Some(piece) = pieces.last_mut() {
            piece.push(record);
        }
    }
    pieces
}

fn by_topic(records: Vec<Addressed>) -> Vec<(String, Vec<Addressed>)> {
    let mut by_topic: Vec<(String, Vec<Addressed>)> = Vec::new();
    for record in records {
        match by_topic.iter_mut().find(|(known, _)| *known == record.topic) {
            Some((_, records)) => records.push(record),
            None => by_topic.push((record.topic.clone(), vec![record])),
        }
    }
    by_topic
}
