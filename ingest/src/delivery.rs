//! How events become durable: in the local log or in Kafka. The pipeline is the same for both.

use std::sync::Arc;

use tallyhouse_schema::Event;
use tokio::time::Instant;

use crate::ack::{AckOutcome, SubmitError};
use crate::direct::append::{Appender, Submitted};
use crate::kafka::delivery::{KafkaDelivery, Pending as KafkaPending, Route};
use crate::request::Wait;

/// Where events are delivered to.
#[derive(Clone)]
pub enum Delivery {
    /// The log on this machine; acknowledged when it is synced.
    Local(Arc<Appender>),
    /// Kafka; acknowledged when replicated, or when the local log has them while Kafka is away.
    Kafka(Arc<KafkaDelivery>),
}

/// What has to be known before events can be submitted.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Nothing: there is one log.
    Local,
    Kafka(Route),
}

/// Events that were submitted.
#[derive(Debug)]
pub enum Pending {
    Local(Submitted),
    Kafka(KafkaPending),
}

impl Delivery {
    /// Finds out what submitting needs, at most until the deadline.
    pub async fn prepare(&self, project: &str, deadline: Instant) -> Ready {
        match self {
            Self::Local(_) => Ready::Local,
            Self::Kafka(kafka) => Ready::Kafka(kafka.route(project, deadline).await),
        }
    }

    /// Takes all events of a request, or none. `trace` is the request's `traceparent`.
    pub fn submit(
        &self,
        ready: Ready,
        project: &str,
        events: &[Event<'_>],
        trace: Option<&str>,
    ) -> Result<Pending, SubmitError> {
        match (self, ready) {
            (Self::Local(appender), _) => appender.submit(project, events).map(Pending::Local),
            (Self::Kafka(kafka), Ready::Kafka(route)) => {
                Ok(Pending::Kafka(kafka.submit(route, project, events, trace)))
            }
            (Self::Kafka(_), Ready::Local) => Err(SubmitError::Starting),
        }
    }

    /// Waits until every event is acknowledged, at most until the deadline. In the order of submission.
    pub async fn acknowledge(&self, pending: Pending, wait: Wait, deadline: Instant) -> Vec<AckOutcome> {
        match (self, pending) {
            (Self::Local(appender), Pending::Local(submitted)) => appender.acknowledge(submitted, wait, deadline).await,
            (Self::Kafka(kafka), Pending::Kafka(pending)) => kafka.acknowledge(pending, wait, deadline).await,
            (Self::Local(_), Pending::Kafka(pending)) => vec![AckOutcome::Unconfirmed; pending.len()],
            (Self::Kafka(_), Pending::Local(submitted)) => vec![AckOutcome::Unconfirmed; submitted.len()],
        }
    }
}
