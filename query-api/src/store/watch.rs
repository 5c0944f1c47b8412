//! Watches a query that was sent, until its end is reported. A watch that is dropped before stops the query.

use std::time::Instant;

use tallyhouse_service::breaker::Verdict;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::{Class as Failure, StoreError};
use ulid::Ulid;

use super::error::{self, HealthSignal, ReadError};
use super::kill::{Condemned, Killer};
use crate::admission::{Class, QueryPermit, SendPermit};
use crate::telemetry::{Metrics, QueryOutcome, Running};

/// What a query holds until ClickHouse has ended it.
#[derive(Debug)]
pub enum HeldPermit {
    /// A permit to run a query.
    Query(QueryPermit),
    /// A permit to send an export.
    Export(SendPermit),
}

impl HeldPermit {
    fn class(&self) -> Class {
        match self {
            Self::Query(permit) => permit.class(),
            Self::Export(_) => Class::AdHoc,
        }
    }

    /// An export says nothing about ClickHouse: it did not ask the breaker.
    fn finish(&mut self, signal: HealthSignal) {
        if let Self::Query(permit) = self {
            finish(permit, signal);
        }
    }
}

/// How a query is stopped.
pub(super) struct Stop {
    /// The user that runs it.
    pub(super) client: Client,
    pub(super) killer: Killer,
}

/// Watches over a query; has what it holds. Exactly one of its methods says how the query ended; when none does, because the
/// future was dropped, nobody waits for the answer and the query is stopped.
pub struct Watched {
    query_id: String,
    /// `None` once the query has ended by itself.
    held: Option<HeldPermit>,
    outcome: QueryOutcome,
    began: Instant,
    stop: Stop,
    metrics: Metrics,
    _running: Running,
}

impl Watched {
    pub(super) fn new(held: HeldPermit, stop: Stop, metrics: Metrics) -> Self {
        Self {
            query_id: Ulid::generate().to_string(),
            held: Some(held),
            outcome: QueryOutcome::Cancelled,
            began: Instant::now(),
            stop,
            _running: metrics.query_began(),
            metrics,
        }
    }

    /// The query's name in ClickHouse.
    pub fn query_id(&self) -> &str {
        &self.query_id
    }

    /// ClickHouse has done all its work for the answer.
    pub fn answered(mut self) {
        self.ended(QueryOutcome::Answered, HealthSignal::Works);
    }

    /// ClickHouse failed; what that means to the caller.
    pub fn failed(mut self, error: &StoreError) -> ReadError {
        match error.class() {
            // The question is to blame, and the caller learns that; some readings have a second way for it.
            Failure::TooExpensive => tracing::info!(%error, query_id = self.query_id, "a query was too expensive"),
            Failure::Transient | Failure::Overloaded | Failure::Permanent => {
                tracing::warn!(%error, query_id = self.query_id, "a query failed");
            }
        }
        if let Some(held) = &self.held {
            let signal = error::signal(error, held.class());
            self.failed_with(error, signal);
        }
        error::public(error)
    }

    /// A shard is away, which says nothing of the others: questions that take a part go on.
    pub fn failed_of_a_shard(mut self, error: &StoreError) -> ReadError {
        tracing::info!(%error, query_id = self.query_id, "a shard does not answer, and a part is of no use here");
        self.failed_with(error, HealthSignal::Nothing);
        error::public(error)
    }

    /// A connection that broke does not end a query: it may be running all the same.
    fn failed_with(&mut self, error: &StoreError, signal: HealthSignal) {
        match error {
            StoreError::Refused { .. } | StoreError::Unintelligible(_) => self.ended(QueryOutcome::Failed, signal),
            StoreError::Unreachable(_) | StoreError::TimedOut => {
                self.outcome = QueryOutcome::Failed;
                if let Some(held) = &mut self.held {
                    held.finish(signal);
                }
            }
        }
    }

    /// ClickHouse failed at a statement that is an analyst's own: that it is wrong, or too much, says nothing of ClickHouse.
    pub fn failed_at_theirs(mut self, error: &StoreError) {
        // Their words stay out of the log, also those that ClickHouse repeats.
        let code = match error {
            StoreError::Refused { code, .. } => Some(*code),
            StoreError::Unreachable(_) | StoreError::TimedOut | StoreError::Unintelligible(_) => None,
        };
        tracing::info!(code, query_id = self.query_id, "an analyst's statement failed");
        match error {
            StoreError::Unreachable(_) => self.failed_with(error, HealthSignal::Fails),
            StoreError::TimedOut => drop(self.timed_out()),
            StoreError::Refused { .. } | StoreError::Unintelligible(_) => {
                self.ended(QueryOutcome::Failed, HealthSignal::Nothing)
            }
        }
    }

    /// The answer failed on its way. Whether the query has ended by that is not known, so it is stopped.
    pub fn broke(mut self) {
        self.outcome = QueryOutcome::Failed;
    }

    /// The deadline has come; the query is stopped.
    pub fn timed_out(mut self) -> ReadError {
        tracing::warn!(query_id = self.query_id, "a query took too long");
        self.outcome = QueryOutcome::TimedOut;
        if let Some(held) = &mut self.held {
            let signal = error::of_timeout(held.class());
            held.finish(signal);
        }
        ReadError::TimedOut
    }

    fn ended(&mut self, outcome: QueryOutcome, signal: HealthSignal) {
        self.outcome = outcome;
        if let Some(mut held) = self.held.take() {
            held.finish(signal);
        }
    }
}

fn finish(permit: &mut QueryPermit, signal: HealthSignal) {
    match signal {
        HealthSignal::Works => permit.finish(Verdict::Succeeded),
        HealthSignal::Fails => permit.finish(Verdict::Failed),
        HealthSignal::Overloaded => permit.overloaded(),
        HealthSignal::NoEnd => permit.came_to_no_end(),
        HealthSignal::Nothing => permit.finish(Verdict::Nothing),
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.metrics.query_ended(self.outcome, self.began.elapsed());
        if let Some(held) = self.held.take() {
            let (query_id, client) = (std::mem::take(&mut self.query_id), self.stop.client.clone());
            self.stop.killer.stop(Condemned { query_id, client, sent: self.began.elapsed(), held });
        }
    }
}
