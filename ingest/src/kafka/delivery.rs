//! Delivery to Kafka, and to the local log while Kafka does not take events.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_schema::Event;
use tallyhouse_service::breaker::Breaker;
use tallyhouse_service::clock::steady_ms;
use tokio::time::Instant;

use super::delivery_result::{DeliveryResult, high_watermarks};
use super::fallback::Fallback;
use super::gateway::{Destination, Gateway, InFlight};
use super::progress::Progress;
use super::records::Records;
use crate::ack::AckOutcome;
use crate::request::Wait;

/// Delivery to Kafka.
pub struct KafkaDelivery {
    pub gateway: Gateway,
    /// Knows what is stored.
    pub progress: Progress,
    /// Keeps what Kafka does not take.
    pub fallback: Arc<Fallback>,
    /// Leaves Kafka alone while it does not answer.
    pub breaker: Breaker,
    /// `KAFKA_TIMEOUT_MS`: how long a request waits to learn of a topic.
    pub answer_within: Duration,
}

/// Where the events of a request go.
#[derive(Debug, Clone)]
pub enum Route {
    Kafka(Destination),
    /// To the local log, for a topic: Kafka does not answer.
    LocalLog(Arc<str>),
}

/// Events that were submitted.
#[derive(Debug)]
pub enum Pending {
    /// Sent to Kafka.
    Sent(InFlight),
    /// To be appended to the local log.
    Unsent {
        /// The topic that they are for.
        topic: Arc<str>,
        records: Records,
    },
}

impl Pending {
    pub fn len(&self) -> usize {
        match self {
            Self::Sent(InFlight { records, .. }) | Self::Unsent { records, .. } => records.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl KafkaDelivery {
    /// Finds out where the events of a project go. Kafka has as long for the answer as it has for a record, so that the local log is reached well
    /// before the deadline.
    pub async fn route(&self, project: &str, deadline: Instant) -> Route {
        let topic = self.gateway.topic(project);
        if self.fallback.is_held(&topic) || !self.breaker.allows(steady_ms()) {
            return Route::LocalLog(topic.into());
        }
        let until = deadline.min(Instant::now() + self.answer_within);
        match tokio::time::timeout_at(until, self.gateway.destination(&topic)).await {
            Ok(Ok(destination)) => Route::Kafka(destination),
            Err(_) => {
                self.breaker.failed(steady_ms());
                tracing::warn!(topic, "Kafka does not answer in time; events go to the local log");
                Route::LocalLog(topic.into())
            }
            Ok(Err(error)) => {
                if error.is_answer {
                    self.breaker.succeeded(steady_ms());
                } else {
                    self.breaker.failed(steady_ms());
                }
                tracing::warn!(%error, "Kafka does not answer; events go to the local log");
                Route::LocalLog(topic.into())
            }
        }
    }

    /// Submits the events of a request. `trace` is the request's `traceparent`.
    pub fn submit(&self, route: Route, project: &str, events: &[Event<'_>], trace: Option<&str>) -> Pending {
        let records = Records::of(project, events);
        match route {
            Route::Kafka(destination) => Pending::Sent(self.gateway.send(destination, records, trace)),
            Route::LocalLog(topic) => Pending::Unsent { topic, records },
        }
    }

    /// Waits until every event is acknowledged, at most until the deadline. In the order of submission.
    pub async fn acknowledge(&self, pending: Pending, wait: Wait, deadline: Instant) -> Vec<AckOutcome> {
        match pending {
            Pending::Sent(in_flight) => self.acknowledge_sent(in_flight, wait, deadline).await,
            Pending::Unsent { topic, records } => {
                let results = vec![DeliveryResult::Failed; records.len()];
                let results = self.fall_back(&topic, &records, results, deadline).await;
                results.into_iter().map(|result| outcome(result, wait, false)).collect()
            }
        }
    }

    async fn acknowledge_sent(&self, in_flight: InFlight, wait: Wait, deadline: Instant) -> Vec<AckOutcome> {
        let results = in_flight.results(deadline).await;
        let now = steady_ms();
        // A broker that takes other records can be reached: this topic's trouble is its own.
        if !results.contains(&DeliveryResult::Failed) || self.gateway.has_acknowledged_since(in_flight.since) {
            self.breaker.succeeded(now);
        } else {
            self.breaker.failed(now);
        }
        let InFlight { destination, records, .. } = in_flight;
        let results = self.fall_back(&destination.topic, &records, results, deadline).await;
        let is_shown =
            wait == Wait::Stored && self.progress.reach(&destination.topic, &high_watermarks(&results), deadline).await;
        results.into_iter().map(|result| outcome(result, wait, is_shown)).collect()
    }

    /// Appends what is missing to the local log.
    async fn fall_back(
        &self,
        topic: &str,
        records: &Records,
        mut results: Vec<DeliveryResult>,
        deadline: Instant,
    ) -> Vec<DeliveryResult> {
        let missing = records.iter().zip(&results).filter(|(_, l)| l.is_missing()).map(|(record, _)| record);
        if self.fallback.put(topic, missing, deadline).await.is_ok() {
            for result in results.iter_mut().filter(|result| result.is_missing()) {
                *result = DeliveryResult::InLocalLog;
            }
        }
        results
    }
}

fn outcome(result: DeliveryResult, wait: Wait, is_shown: bool) -> AckOutcome {
    match (result, wait) {
        (DeliveryResult::Acknowledged { .. } | DeliveryResult::InLocalLog, Wait::Durable) => AckOutcome::Accepted,
        (DeliveryResult::Acknowledged { .. }, Wait::Stored) if is_shown => AckOutcome::Accepted,
        (DeliveryResult::TooLarge, _) => AckOutcome::TooLarge,
        (DeliveryResult::Acknowledged { .. } | DeliveryResult::InLocalLog, Wait::Stored) => AckOutcome::Late,
        (DeliveryResult::Failed | DeliveryResult::Denied | DeliveryResult::Unfit | DeliveryResult::Pending, _) => {
            AckOutcome::Unconfirmed
        }
    }
}
