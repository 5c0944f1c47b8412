//! A query that was sent, until somebody says how it ended. Dropped before, it is stopped.

use std::time::Instant;

use tallyhouse_service::breaker::Verdict;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::{Class as Failure, StoreError};
use ulid::Ulid;

use super::error::{self, ReadError, Said};
use super::kill::{Condemned, Killer};
use crate::admission::{Class, SendingTurn, Turn};
use crate::telemetry::{Metrics, Outcome, Running};

/// What a query holds until ClickHouse has ended it.
#[derive(Debug)]
pub enum Held {
    /// A place among all questions.
    Turn(Turn),
    /// A place among exports.
    Export(SendingTurn),
}

impl Held {
    fn class(&self) -> Class {
        match self {
            Self::Turn(turn) => turn.class(),
            Self::Export(_) => Class::AdHoc,
        }
    }

    /// Exports say nothing of ClickHouse: they did not ask whether it is left alone.
    fn settle(&mut self, said: Said) {
        if let Self::Turn(turn) = self {
            settle(turn, said);
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
    held: Option<Held>,
    outcome: Outcome,
    began: Instant,
    stop: Stop,
    metrics: Metrics,
    _running: Running,
}

impl Watched {
    pub(super) fn new(held: Held, stop: Stop, metrics: Metrics) -> Self {
        Self {
            query_id: Ulid::generate().to_string(),
            held: Some(held),
            outcome: Outcome::Cancelled,
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
        self.ended(Outcome::Answered, Said::Works);
    }

    /// ClickHouse failed; what that means to the caller.
    pub fn failed(mut self, error: &StoreError) -> ReadError {
        match error.class() {
            // The question is to blame, and who asks is told; some readings have a second way for it.
            Failure::TooExpensive => tracing::info!(%error, query_id = self.query_id, "a query was too expensive"),
            Failure::Transient | Failure::Overloaded | Failure::Permanent => {
                tracing::warn!(%error, query_id = self.query_id, "a query failed");
            }
        }
        if let Some(held) = &self.held {
            let said = error::said(error, held.class());
            self.ended(Outcome::Failed, said);
        }
        error::public(error)
    }

    /// ClickHouse failed at a statement that is an analyst's own: that it is wrong, or too much, says nothing of ClickHouse.
    pub fn failed_at_theirs(mut self, error: &StoreError) {
        tracing::info!(%error, query_id = self.query_id, "an analyst's statement failed");
        match error {
            StoreError::Unreachable(_) => self.ended(Outcome::Failed, Said::Fails),
            StoreError::TimedOut => drop(self.timed_out()),
            StoreError::Refused { .. } | StoreError::Unintelligible(_) => self.ended(Outcome::Failed, Said::Nothing),
        }
    }

    /// The answer failed on its way. Whether the query has ended by that is not known, so it is stopped.
    pub fn broke(mut self) {
        self.outcome = Outcome::Failed;
    }

    /// The deadline has come; the query is stopped.
    pub fn timed_out(mut self) -> ReadError {
        tracing::warn!(query_id = self.query_id, "a query took too long");
        self.outcome = Outcome::TimedOut;
        if let Some(held) = &mut self.held {
            let said = error::of_timeout(held.class());
            held.settle(said);
        }
        ReadError::TimedOut
    }

    fn ended(&mut self, outcome: Outcome, said: Said) {
        self.outcome = outcome;
        if let Some(mut held) = self.held.take() {
            held.settle(said);
        }
    }
}

fn settle(turn: &mut Turn, said: Said) {
    match said {
        Said::Works => turn.settle(Verdict::Succeeded),
        Said::Fails => turn.settle(Verdict::Failed),
        Said::Overloaded => turn.overloaded(),
        Said::Nothing => turn.settle(Verdict::Nothing),
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.metrics.query_ended(self.outcome, self.began.elapsed());
        if let Some(held) = self.held.take() {
            let (query_id, client) = (std::mem::take(&mut self.query_id), self.stop.client.clone());
            self.stop.killer.stop(Condemned { query_id, client, held });
        }
    }
}
