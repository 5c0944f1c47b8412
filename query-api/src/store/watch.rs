//! A query that was sent, until somebody says how it ended. Dropped before, it is stopped.

use std::time::{Duration, Instant};

use tallyhouse_service::breaker::Verdict;
use tallyhouse_sql::StoreError;
use ulid::Ulid;

use super::error::{self, ReadError, Said};
use super::kill::Killer;
use crate::admission::Turn;
use crate::metrics::{Metrics, Outcome, Running};

/// Watches over a query; holds its turn. Exactly one of its methods says how the query ended; when none does, because the
/// future was dropped, nobody waits for the answer and the query is stopped.
#[derive(Debug)]
pub struct Watched {
    query_id: String,
    /// `None` once the query has ended by itself.
    turn: Option<Turn>,
    outcome: Outcome,
    began: Instant,
    killer: Killer,
    metrics: Metrics,
    _running: Running,
}

impl Watched {
    pub(super) fn new(turn: Turn, killer: Killer, metrics: Metrics) -> Self {
        Self {
            query_id: Ulid::generate().to_string(),
            turn: Some(turn),
            outcome: Outcome::Cancelled,
            began: Instant::now(),
            killer,
            _running: metrics.query_began(),
            metrics,
        }
    }

    /// The query's name in ClickHouse.
    pub fn query_id(&self) -> &str {
        &self.query_id
    }

    /// What is left of the query's time.
    pub fn remaining(&self) -> Duration {
        self.turn.as_ref().map(Turn::remaining).unwrap_or_default()
    }

    /// The answer is complete.
    pub fn answered(mut self) {
        self.ended(Outcome::Answered, Said::Works);
    }

    /// ClickHouse failed; what that means to the caller.
    pub fn failed(mut self, error: &StoreError) -> ReadError {
        tracing::warn!(%error, query_id = self.query_id, "a query failed");
        if let Some(turn) = &self.turn {
            let said = error::said(error, turn.class());
            self.ended(Outcome::Failed, said);
        }
        error::public(error)
    }

    /// The deadline has come; the query is stopped.
    pub fn timed_out(mut self) -> ReadError {
        tracing::warn!(query_id = self.query_id, "a query took too long");
        self.outcome = Outcome::TimedOut;
        if let Some(turn) = &mut self.turn {
            let said = error::of_timeout(turn.class());
            settle(turn, said);
        }
        ReadError::TimedOut
    }

    fn ended(&mut self, outcome: Outcome, said: Said) {
        self.outcome = outcome;
        if let Some(mut turn) = self.turn.take() {
            settle(&mut turn, said);
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
        if let Some(turn) = self.turn.take() {
            self.killer.stop(std::mem::take(&mut self.query_id), turn);
        }
    }
}
