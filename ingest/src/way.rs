//! How events become durable: directly in ClickHouse, or in Kafka first; on the disk while either is away. The pipeline is the
//! same for both.

use std::sync::Arc;

use tallyhouse_schema::Event;
use tallyhouse_service::breaker::Breaker;
use tallyhouse_service::clock::steady_ms;
use tokio::time::Instant;

use crate::batch::Outcome;
use crate::http::Wait;
use crate::intake::{Decider, Fate, Intake, Refused, Submitted};
use crate::kafka::gateway::{Destination, Gateway, InFlight, Landing, marks};
use crate::kafka::progress::Progress;
use crate::kafka::records::Records;
use crate::spool::records::RecordSpool;

/// The ways.
#[derive(Clone)]
pub enum Way {
    /// Batches into ClickHouse; acknowledged when stored, or sealed on the disk while it is away.
    Direct(Arc<Intake>),
    /// Records into Kafka; acknowledged when replicated, or spooled on the disk while it is away.
    Log(Arc<LogWay>),
}

/// The way through Kafka.
pub struct LogWay {
    /// Sends records.
    pub gateway: Gateway,
    /// Knows what is stored.
    pub progress: Progress,
    /// Keeps what Kafka does not take.
    pub spool: RecordSpool,
    /// Leaves Kafka alone while it does not answer.
    pub breaker: Breaker,
}

/// What has to be known before events can be submitted.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Nothing.
    Direct,
    /// Where they go.
    Log(Destination),
    /// Into the spool, for a topic: Kafka does not answer.
    Spool(Arc<str>),
}

/// Events that were submitted.
#[derive(Debug)]
pub enum Pending {
    /// In batches.
    Batches(Submitted),
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
    /// Not known in time: it has to be sent again.
    Open,
}

impl Way {
    /// Finds out what submitting needs, waiting if it must.
    pub async fn prepare(&self, project: &str) -> Ready {
        match self {
            Self::Direct(_) => Ready::Direct,
            Self::Log(log) => log.prepare(project).await,
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
            (Self::Log(_), Ready::Spool(topic)) => Ok(Pending::Unsent { topic, records: Records::of(project, events) }),
            (Self::Log(_), Ready::Direct) => Err(Refused::Starting),
        }
    }

    /// Waits until every event is settled, at most until the deadline. In the order of submission.
    pub async fn settle(&self, pending: Pending, wait: Wait, deadline: Instant) -> Vec<Settled> {
        match (pending, self) {
            (Pending::Batches(submitted), _) => settle_batches(submitted, wait, deadline).await,
            (Pending::Records(in_flight), Self::Log(log)) => log.settle(in_flight, wait, deadline).await,
            (Pending::Unsent { topic, records }, Self::Log(log)) => {
                let landings = vec![Landing::Failed; records.len()];
                log.fall_back(&topic, &records, landings).await.into_iter().map(|l| settled(l, wait, false)).collect()
            }
            (Pending::Records(InFlight { records, .. }) | Pending::Unsent { records, .. }, Self::Direct(_)) => {
                vec![Settled::Open; records.len()]
            }
        }
    }
}

async fn settle_batches(submitted: Submitted, wait: Wait, deadline: Instant) -> Vec<Settled> {
    let is_enough = |outcome: &Outcome| match outcome {
        Outcome::Stored | Outcome::StoredWithout(_) => true,
        Outcome::Sealed => wait == Wait::Durable,
        Outcome::Pending | Outcome::HandedBack => false,
    };
    let mut outcomes = Vec::with_capacity(submitted.tickets.len());
    for mut ticket in submitted.tickets {
        let ended = ticket.wait_for(|outcome| is_enough(outcome) || *outcome == Outcome::HandedBack);
        let ended = tokio::time::timeout_at(deadline, ended).await;
        let outcome = ended.ok().and_then(Result::ok).map(|outcome| outcome.clone());
        outcomes.push(outcome.filter(is_enough));
    }
    let settled = |(fate, decider): (Fate, Option<Decider>)| {
        let Some(Decider { ticket, row }) = decider else { return of_fate(fate) };
        match outcomes.get(ticket).and_then(Option::as_ref) {
            None => Settled::Open,
            Some(Outcome::StoredWithout(refused)) => {
                refused.get(&row).map_or_else(|| of_fate(fate), |code| Settled::RefusedByStore(*code))
            }
            Some(_) => of_fate(fate),
        }
    };
    submitted.fates.into_iter().map(settled).collect()
}

const fn of_fate(fate: Fate) -> Settled {
    match fate {
        Fate::Accepted => Settled::Accepted,
        Fate::Duplicate => Settled::Duplicate,
    }
}

impl LogWay {
    async fn prepare(&self, project: &str) -> Ready {
        let topic = self.gateway.topic(project);
        if !self.breaker.allows(steady_ms()) {
            return Ready::Spool(topic.into());
        }
        match self.gateway.destination(&topic).await {
            Ok(destination) => Ready::Log(destination),
            Err(error) => {
                self.breaker.failed(steady_ms());
                tracing::warn!(%error, "Kafka cannot be asked; events go to the spool");
                Ready::Spool(topic.into())
            }
        }
    }

    async fn settle(&self, in_flight: InFlight, wait: Wait, deadline: Instant) -> Vec<Settled> {
        let landings = in_flight.landed(deadline).await;
        let has_failed = landings.contains(&Landing::Failed);
        match has_failed {
            true => self.breaker.failed(steady_ms()),
            false => self.breaker.succeeded(steady_ms()),
        }
        let InFlight { destination, records, .. } = in_flight;
        let landings = if has_failed { self.fall_back(&destination.topic, &records, landings).await } else { landings };
        let is_shown =
            wait == Wait::Stored && self.progress.reach(&destination.topic, &marks(&landings), deadline).await;
        landings.into_iter().map(|landing| settled(landing, wait, is_shown)).collect()
    }

    /// Spools what has failed.
    async fn fall_back(&self, topic: &str, records: &Records, mut landings: Vec<Landing>) -> Vec<Landing> {
        let failed = records.iter().zip(&landings).filter(|(_, l)| **l == Landing::Failed).map(|(record, _)| record);
        if self.spool.put(topic, failed).await.is_ok() {
            for landing in landings.iter_mut().filter(|landing| **landing == Landing::Failed) {
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
        (Landing::Acknowledged { .. } | Landing::Spooled, Wait::Stored) => Settled::Open,
        (Landing::Failed | Landing::Pending, _) => Settled::Open,
    }
}
