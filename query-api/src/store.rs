//! Asks ClickHouse: so many questions at once, each for so long, none longer than somebody waits for the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tallyhouse_sql::clickhouse::{Client, RowOwned, RowRead};
use tallyhouse_sql::{Class, StoreError};
use tokio::sync::{Semaphore, SemaphorePermit};
use ulid::Ulid;

use crate::metrics::{Metrics, Outcome};
use crate::sql::{self, Statement};

/// The longest that a query runs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The longest that a query waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Queries that may wait for their turn, for each that may run.
const WAITING_PER_RUNNING: usize = 16;

/// The longest that stopping a query takes.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// What every query is limited to. `max_execution_time` repeats [`DEADLINE`] on the other side, and with
/// `wait_end_of_query` an error cannot arrive in the middle of an answer.
const LIMITS: [(&str, &str); 6] = [
    ("max_execution_time", "30"),
    ("max_result_rows", "500000"),
    ("max_result_bytes", "104857600"),
    ("result_overflow_mode", "throw"),
    ("wait_end_of_query", "1"),
    ("cancel_http_readonly_queries_on_client_close", "1"),
];

/// Why there is no answer. Details are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// ClickHouse cannot be reached, or was interrupted.
    #[error("the data store is not available at the moment; try again")]
    Unavailable,
    /// Too many questions at once.
    #[error("too many queries are running; try again")]
    Overloaded,
    /// The question is too big.
    #[error(
        "the query needs more than its limit of {limit}: ask for a shorter range, a coarser granularity or fewer groups"
    )]
    TooExpensive {
        /// The limit that was reached.
        limit: &'static str,
    },
    /// More events than one question may read.
    #[error(
        "the query would read {events} events, at most {limit} are read at once: about {fitting_hours} hours of them would \
         fit; ask for a shorter range, or for rarer event types"
    )]
    TooManyEvents {
        /// How many there are.
        events: u64,
        /// The most.
        limit: u64,
        /// A range of which so many hours are as many events as may be read.
        fitting_hours: u64,
    },
    /// No answer in time.
    #[error("the query took longer than 30 s and was stopped: ask for a shorter range or a coarser granularity")]
    TimedOut,
    /// A fault of ours.
    #[error("the query failed; the cause is in the log")]
    Failed,
}

/// ClickHouse, as this service uses it. Clones share its limits.
#[derive(Clone)]
pub struct Store {
    client: Client,
    turns: Arc<Turns>,
    metrics: Metrics,
}

struct Turns {
    running: Semaphore,
    present: Semaphore,
}

impl Store {
    /// A store that runs at most `concurrency` queries at once.
    pub fn new(client: Client, concurrency: usize, metrics: Metrics) -> Self {
        let present = concurrency.saturating_mul(1 + WAITING_PER_RUNNING);
        let turns = Turns { running: Semaphore::new(concurrency), present: Semaphore::new(present) };
        Self { client, turns: Arc::new(turns), metrics }
    }

    /// The rows of a statement. Dropping the future stops the query in ClickHouse.
    pub async fn read<R: RowOwned + RowRead>(&self, statement: &Statement) -> Result<Vec<R>, ReadError> {
        let Some(_turn) = self.turns.take().await else {
            self.metrics.query_ended(Outcome::Refused, Duration::ZERO);
            return Err(ReadError::Overloaded);
        };
        let _running = self.metrics.query_began();
        let mut watched = Watched::new(self);
        let query =
            statement.params.iter().fold(self.client.query(&statement.text), |q, (name, value)| q.param(name, value));
        let query = LIMITS.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value));
        let rows = query.with_setting("query_id", watched.query_id.clone()).fetch_all::<R>();
        match tokio::time::timeout(DEADLINE, rows).await {
            Ok(Ok(rows)) => {
                watched.ended(Outcome::Answered);
                Ok(rows)
            }
            Ok(Err(error)) => {
                let error = StoreError::from(error);
                tracing::warn!(%error, query_id = watched.query_id, "a query failed");
                watched.ended(Outcome::Failed);
                Err(public(&error))
            }
            Err(_) => {
                tracing::warn!(query_id = watched.query_id, "a query took too long");
                watched.outcome = Outcome::TimedOut;
                Err(ReadError::TimedOut)
            }
        }
    }

    /// Whether ClickHouse answers within `patience`; if not, why.
    pub async fn ping(&self, patience: Duration) -> Result<(), StoreError> {
        let answer = self.client.query(sql::PING).fetch_one::<u8>();
        tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map(drop)
            .map_err(StoreError::from)
    }
}

impl Turns {
    /// A turn to run, or `None` when too many are waiting or it took too long.
    async fn take(&self) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let present = self.present.try_acquire().ok()?;
        let running = tokio::time::timeout(TURN, self.running.acquire()).await.ok()?.ok()?;
        Some((present, running))
    }
}

/// A query that was sent. Dropped before its end, it is stopped: closing the connection makes ClickHouse notice sooner or
/// later, the KILL makes it certain.
struct Watched {
    client: Client,
    metrics: Metrics,
    query_id: String,
    began: Instant,
    outcome: Outcome,
    over: bool,
}

impl Watched {
    fn new(store: &Store) -> Self {
        Self {
            client: store.client.clone(),
            metrics: store.metrics.clone(),
            query_id: Ulid::generate().to_string(),
            began: Instant::now(),
            outcome: Outcome::Cancelled,
            over: false,
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        self.over = true;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.metrics.query_ended(self.outcome, self.began.elapsed());
        if self.over {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(kill(self.client.clone(), std::mem::take(&mut self.query_id)));
        }
    }
}

async fn kill(client: Client, query_id: String) {
    let killed = client.query(sql::KILL).param("query_id", &query_id).execute();
    match tokio::time::timeout(KILL_DEADLINE, killed).await {
        Ok(Ok(())) => tracing::debug!(query_id, "a query nobody waits for was stopped"),
        Ok(Err(error)) => tracing::warn!(query_id, %error, "a query nobody waits for could not be stopped"),
        Err(_) => tracing::warn!(query_id, "stopping a query nobody waits for took too long"),
    }
}

fn public(error: &StoreError) -> ReadError {
    match (error.class(), error) {
        // TIMEOUT_EXCEEDED and TOO_SLOW: ClickHouse's clock was quicker than ours.
        (_, StoreError::TimedOut | StoreError::Refused { code: 159 | 160, .. }) => ReadError::TimedOut,
        (Class::TooExpensive, StoreError::Refused { code: 241, .. }) => ReadError::TooExpensive { limit: "memory" },
        (Class::TooExpensive, StoreError::Refused { code: 396, .. }) => {
            ReadError::TooExpensive { limit: "500,000 result rows" }
        }
        (Class::TooExpensive, _) => ReadError::TooExpensive { limit: "rows read" },
        (Class::Transient, _) => ReadError::Unavailable,
        (Class::Overloaded, _) => ReadError::Overloaded,
        (Class::Permanent, _) => ReadError::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clickhouse_errors_become_what_a_caller_can_act_on() {
        let refused = |code| public(&StoreError::Refused { code, message: String::new() });
        assert_eq!(refused(159), ReadError::TimedOut);
        assert_eq!(refused(202), ReadError::Overloaded);
        assert_eq!(refused(241), ReadError::TooExpensive { limit: "memory" });
        assert_eq!(refused(396), ReadError::TooExpensive { limit: "500,000 result rows" });
        assert_eq!(refused(62), ReadError::Failed);
        // A table that is not there yet: migrations are under way.
        assert_eq!(refused(60), ReadError::Unavailable);
        assert_eq!(public(&StoreError::Unreachable(String::new())), ReadError::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_limited_and_waiting_ends() {
        let turns = Turns { running: Semaphore::new(1), present: Semaphore::new(2) };
        let first = turns.take().await;
        assert!(first.is_some());
        assert!(turns.take().await.is_none(), "the turn never came");
        drop(first);
        assert!(turns.take().await.is_some());
    }
}
