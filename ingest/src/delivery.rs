//! How events become durable: in the local log or in Kafka. The pipeline is the same for both.

use std::sync::Arc;

use tallyhouse_schema::Event;
use tallyhouse_service::breaker::Breaker;
use tallyhouse_service::clock::steady_ms;
use tokio::time::Instant;

use crate::direct::append::{Appender, Submitted};
use crate::http::Wait;
use crate::kafka::fallback::Fallback;
use crate::kafka::gateway::{Destination, Gateway, InFlight, Landing, marks};
use crate::kafka::progress::Progress;
use crate::kafka::records::Records;

/// Where events are delivered to.
#[derive(Clone)]
pub enum Delivery {
    /// The log on this machine; acknowledged when it is synced.
    Local(Arc<Appender>),
    /// Records into Kafka; acknowledged when replicated, or spooled on the disk while it is away.
    Kafka(Arc<KafkaDelivery>),
}

/// Why nothing of a request was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// What an earlier process left is being read.
    Starting,
    /// As much waits for a sync as may.
    Busy,
    /// The process is stopping.
    Stopping,
    /// As much waits in the log as may, or the disk is nearly full.
    LogFull,
    /// Nothing is written to the log any more.
    LogFailed,
}

/// Delivery to Kafka.
pub struct KafkaDelivery {
    /// Sends records.
    pub gateway: Gateway,
    /// Knows what is stored.
    pub progress: Progress,
    /// Keeps what Kafka does not take.
    pub fallback: Arc<Fallback>,
    /// Leaves Kafka alone while it does not answer.
    pub breaker: Breaker,
}

/// What has to be known before events can be submitted.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Nothing has to be found out: there is one log.
    Local,
    /// Where they go.
    Kafka(Destination),
    /// Into the spool, for a topic: Kafka does not answer.
    Spool(Arc<str>),
}

/// Events that were submitted.
#[derive(Debug)]
pub enum Pending {
    /// In the local log, or about to be.
    Appended(Submitted),
    /// On their way into the log.
    Records(InFlight),
    /// To be spooled.
    Unsent {
        /// Where they are to go in the end.
        topic: Arc<str>,
        /// The records.
        records: Records,
    },
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is durable, and stored if that was waited for.
    Accepted,
    /// It was before.
    Duplicate,
    /// The log takes no record of its size.
    TooLarge,
    /// ClickHouse refuses it for good, with this error number: it is a dead letter.
    RefusedByStore(u32),
    /// Nothing of it is kept: it has to be sent again.
    Open,
    /// Not known in time, so the sender has to come again; what becomes of it is counted then.
    Late,
    /// The same, and it is known to repeat another.
    LateDuplicate,
}

impl Delivery {
    /// Finds out what submitting needs, waiting if it must.
    pub async fn prepare(&self, project: &str) -> Ready {
        match self {
            Self::Local(_) => Ready::Local,
            Self::Kafka(kafka) => kafka.prepare(project).await,
        }
    }

    /// Takes all events of a request, or none. `trace` is the request's `traceparent`.
    pub fn submit(
        &self,
        ready: Ready,
        project: &str,
        events: &[Event<'_>],
        trace: Option<&str>,
    ) -> Result<Pending, Refused> {
        match (self, ready) {
            (Self::Local(appender), _) => appender.submit(project, events).map(Pending::Appended),
            (Self::Kafka(log), Ready::Kafka(destination)) => {
                Ok(Pending::Records(log.gateway.send(destination, Records::of(project, events), trace)))
            }
            (Self::Kafka(_), Ready::Spool(topic)) => {
                Ok(Pending::Unsent { topic, records: Records::of(project, events) })
            }
            (Self::Kafka(_), Ready::Local) => Err(Refused::Starting),
        }
    }

    /// Waits until every event is settled, at most until the deadline. In the order of submission.
    pub async fn settle(&self, pending: Pending, wait: Wait, deadline: Instant) -> Vec<Settled> {
        match (pending, self) {
            (Pending::Appended(submitted), Self::Local(appender)) => appender.settle(submitted, wait, deadline).await,
            (Pending::Records(in_flight), Self::Kafka(kafka)) => kafka.settle(in_flight, wait, deadline).await,
            (Pending::Unsent { topic, records }, Self::Kafka(kafka)) => {
                let landings = vec![Landing::Failed; records.len()];
                kafka
                    .fall_back(&topic, &records, landings, deadline)
                    .await
                    .into_iter()
                    .map(|l| settled(l, wait, false))
                    .collect()
            }
            (Pending::Records(InFlight { records, .. }) | Pending::Unsent { records, .. }, Self::Local(_)) => {
                vec![Settled::Open; records.len()]
            }
            (Pending::Appended(submitted), Self::Kafka(_)) => vec![Settled::Open; submitted.len()],
        }
    }
}

impl KafkaDelivery {
    async fn prepare(&self, project: &str) -> Ready {
        let topic = self.gateway.topic(project);
        if self.fallback.is_held(&topic) || !self.breaker.allows(steady_ms()) {
            return Ready::Spool(topic.into());
        }
        match self.gateway.destination(&topic).await {
            Ok(destination) => Ready::Kafka(destination),
            Err(error) => {
                if error.is_answer {
                    self.breaker.succeeded(steady_ms());
                } else {
                    self.breaker.failed(steady_ms());
                }
                tracing::warn!(%error, "Kafka cannot be asked; events go to the spool");
                Ready::Spool(topic.into())
            }
        }
    }

    async fn settle(&self, in_flight: InFlight, wait: Wait, deadline: Instant) -> Vec<Settled> {
        let landings = in_flight.landed(deadline).await;
        let now = steady_ms();
        // A broker that takes other records can be reached: this topic's trouble is its own.
        if !landings.contains(&Landing::Failed) || self.gateway.has_acknowledged_since(in_flight.since) {
            self.breaker.succeeded(now);
        } else {
            self.breaker.failed(now);
        }
        let InFlight { destination, records, .. } = in_flight;
        let landings = self.fall_back(&destination.topic, &records, landings, deadline).await;
        let is_shown =
            wait == Wait::Stored && self.progress.reach(&destination.topic, &marks(&landings), deadline).await;
        landings.into_iter().map(|landing| settled(landing, wait, is_shown)).collect()
    }

    /// Appends what is missing to the local log.
    async fn fall_back(
        &self,
        topic: &str,
        records: &Records,
        mut landings: Vec<Landing>,
        deadline: Instant,
    ) -> Vec<Landing> {
        let missing = records.iter().zip(&landings).filter(|(_, l)| l.is_missing()).map(|(record, _)| record);
        if self.fallback.put(topic, missing, deadline).await.is_ok() {
            for landing in landings.iter_mut().filter(|landing| landing.is_missing()) {
                *landing = Landing::Spooled;
            }
        }
        landings
    }
}

fn settled(landing: Landing, wait: Wait, is_shown: bool) -> Settled {
    match (landing, wait) {
        (Landing::Acknowledged { .. } | Landing::Spooled, Wait::Durable) => Settled::Accepted,
        (Landing::Acknowledged { .. }, Wait::Stored) if is_shown => Settled::Accepted,
        (Landing::TooLarge, _) => Settled::TooLarge,
        (Landing::Acknowledged { .. } | Landing::Spooled, Wait::Stored) => Settled::Late,
        (Landing::Failed | Landing::Denied | Landing::Unfit | Landing::Pending, _) => Settled::Open,
    }
}
