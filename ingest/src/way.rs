//! How events become durable: directly in ClickHouse, or in Kafka first. The pipeline is the same for both.

use std::sync::Arc;

use tallyhouse_schema::Event;
use tokio::time::Instant;

use crate::batch::Outcome;
use crate::http::Wait;
use crate::intake::{Fate, Intake, Refused, Submitted};
use crate::kafka::gateway::{Destination, Gateway, InFlight, Landing, marks};
use crate::kafka::progress::Progress;
use crate::kafka::records::Records;

/// The ways.
#[derive(Clone)]
pub enum Way {
    /// Batches into ClickHouse; acknowledged when stored.
    Direct(Arc<Intake>),
    /// Records into Kafka; acknowledged when replicated.
    Log(Arc<LogWay>),
}

/// The way through Kafka.
pub struct LogWay {
    /// Sends records.
    pub gateway: Gateway,
    /// Knows what is stored.
    pub progress: Progress,
}

/// What has to be known before events can be submitted.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Nothing.
    Direct,
    /// Where they go.
    Log(Destination),
}

/// Events that were submitted.
#[derive(Debug)]
pub enum Pending {
    /// In batches.
    Batches(Submitted),
    /// On their way into the log.
    Records(InFlight),
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
    /// Not known in time: it has to be sent again.
    Open,
}

impl Way {
    /// Finds out what submitting needs, waiting if it must.
    pub async fn prepare(&self, project: &str) -> Result<Ready, Refused> {
        match self {
            Self::Direct(_) => Ok(Ready::Direct),
            Self::Log(log) => match log.gateway.prepare(project).await {
                Ok(destination) => Ok(Ready::Log(destination)),
                Err(error) => {
                    tracing::warn!(%error, "events cannot be written to Kafka");
                    Err(Refused::Unreachable)
                }
            },
        }
    }

    /// What an accepted event's fate is called in metrics. Through Kafka `stored` is counted by whoever stores it.
    pub fn fate(&self) -> &'static str {
        match self {
            Self::Direct(_) => "stored",
            Self::Log(_) => "logged",
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
            (Self::Direct(intake), _) => intake.submit(project, events).map(Pending::Batches),
            (Self::Log(log), Ready::Log(destination)) => {
                Ok(Pending::Records(log.gateway.send(destination, Records::of(project, events), trace)))
            }
            (Self::Log(_), Ready::Direct) => Err(Refused::Starting),
        }
    }

    /// Waits until every event is settled, at most until the deadline. In the order of submission.
    pub async fn settle(&self, pending: Pending, wait: Wait, deadline: Instant) -> Vec<Settled> {
        match (pending, self) {
            (Pending::Batches(submitted), _) => settle_batches(submitted, deadline).await,
            (Pending::Records(in_flight), Self::Log(log)) => log.settle(in_flight, wait, deadline).await,
            (Pending::Records(in_flight), Self::Direct(_)) => vec![Settled::Open; in_flight.records.len()],
        }
    }
}

async fn settle_batches(submitted: Submitted, deadline: Instant) -> Vec<Settled> {
    let mut is_stored = Vec::with_capacity(submitted.tickets.len());
    for mut ticket in submitted.tickets {
        let settled = tokio::time::timeout_at(deadline, ticket.wait_for(|outcome| *outcome != Outcome::Pending)).await;
        is_stored.push(matches!(settled, Ok(Ok(outcome)) if *outcome == Outcome::Stored));
    }
    let confirmed = |batch: Option<usize>| batch.is_none_or(|batch| is_stored.get(batch) == Some(&true));
    let settled = |(fate, batch)| match fate {
        _ if !confirmed(batch) => Settled::Open,
        Fate::Accepted => Settled::Accepted,
        Fate::Duplicate => Settled::Duplicate,
    };
    submitted.fates.into_iter().map(settled).collect()
}

impl LogWay {
    async fn settle(&self, in_flight: InFlight, wait: Wait, deadline: Instant) -> Vec<Settled> {
        let landings = in_flight.landed(deadline).await;
        let is_shown = match wait {
            Wait::Durable => true,
            Wait::Stored => self.progress.reach(&in_flight.destination.topic, &marks(&landings), deadline).await,
        };
        let settled = |landing| match landing {
            Landing::Acknowledged { .. } if is_shown => Settled::Accepted,
            Landing::TooLarge => Settled::TooLarge,
            Landing::Acknowledged { .. } | Landing::Failed | Landing::Pending => Settled::Open,
        };
        landings.into_iter().map(settled).collect()
    }
}
