//! Sends queries to ClickHouse: no more at once than admission permits, each within the deadline of its class, none for longer than
//! somebody waits for the answer.
//!
//! ```text
//! AdmissionRequest -> admission -> QueryPermit -> (Query, Watched) -> rows and their Cost
//!                                                                  |
//!                                        dropped, or out of time --+--> KILL
//! ```
//!
//! Failure cases: no permit (refused, nothing was sent); ClickHouse refuses the query or is away (`error.rs`); the deadline passes, or
//! nobody waits any more (`watch.rs`, `kill.rs`).
//!
//! `adhoc` sends analysts' statements and exports itself; they are watched here all the same ([`Store::watch`]).

mod cost;
mod error;
mod kill;
mod partial;
mod spans;
mod watch;

use std::time::Duration;

use tallyhouse_service::breaker::BreakerState;
use tallyhouse_service::metrics::pools::Pools;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::query::Query;
use tallyhouse_sql::clickhouse::{Client, RowOwned, RowRead};

pub use crate::admission::{AdmissionRequest, Class, QueryPermit};
pub use cost::{Answered, Cost};
pub use error::ReadError;
pub use partial::Partial;
pub use watch::{HeldPermit, Watched};

use crate::admission::{Admission, Policy};
use crate::sql::{self, Statement};
use crate::telemetry::{Metrics, QueryOutcome};
use kill::Killer;
use partial::{Extent, Shards, Wanted};
use watch::Stop;

/// ClickHouse records what it does for a question in `system.opentelemetry_span_log`, where that is switched on.
const TRACE_HEADER: &str = "traceparent";

/// ClickHouse, as this service uses it. Clones share its limits.
#[derive(Clone)]
pub struct Store {
    client: Client,
    admission: Admission,
    killer: Killer,
    metrics: Metrics,
    shards: Shards,
}

impl Store {
    /// A store that admits by `policy`. To be made within a Tokio runtime, which then runs the task that stops queries.
    pub fn new(client: Client, policy: Policy, metrics: Metrics) -> Self {
        let admission = Admission::new(policy, metrics.clone());
        let killer = Killer::start(metrics.clone());
        Self { client, admission, killer, metrics, shards: Shards::one() }
    }

    /// The same in front of the shards of a cluster.
    #[must_use]
    pub fn of_cluster(self, partial: Partial) -> Self {
        Self { shards: Shards::of_cluster(partial), ..self }
    }

    /// Shows how many queries it may have running, has, and lets wait.
    pub fn show(&self, pools: &Pools) {
        self.admission.show(pools);
    }

    /// The rows of a statement and what they cost. Dropping the future stops the query in ClickHouse, or takes it out
    /// of the queue.
    pub async fn read<R: RowOwned + RowRead>(
        &self,
        statement: &Statement,
        ask: &AdmissionRequest,
    ) -> Result<Answered<R>, ReadError> {
        self.read_as(statement, ask, self.shards.wanted()).await
    }

    /// As [`Store::read`], for callers to whom the cost is all the same, and who can do nothing with a part.
    pub async fn rows<R: RowOwned + RowRead>(
        &self,
        statement: &Statement,
        ask: &AdmissionRequest,
    ) -> Result<Vec<R>, ReadError> {
        self.read_as(statement, ask, Wanted::Whole).await.map(|answered| answered.rows)
    }

    async fn read_as<R: RowOwned + RowRead>(
        &self,
        statement: &Statement,
        ask: &AdmissionRequest,
        wanted: Wanted,
    ) -> Result<Answered<R>, ReadError> {
        let permit = self.admit(ask).await?;
        let (deadline, limits) = (permit.deadline(), permit.settings());
        let watched = self.watch(HeldPermit::Query(permit), &self.client);
        let fetch = |extent: Extent| {
            let id = extent.query_id(watched.query_id());
            let span = spans::begin(&id);
            let query = self.query(statement, span.sampled_parent());
            let query = limits.iter().fold(query, |query, (name, value)| query.with_setting(*name, value));
            let query = self
                .shards
                .settings(extent)
                .iter()
                .fold(query, |query, (name, value)| query.with_setting(*name, *value));
            spans::asked(span, tokio::time::timeout_at(deadline, cost::fetch::<R>(query.with_setting("query_id", id))))
        };
        let mut extent = wanted.first();
        loop {
            match fetch(extent).await {
                Ok(Ok(mut answered)) => {
                    answered.cost.is_partial = extent == Extent::ThoseThatAnswer;
                    watched.answered();
                    return Ok(answered);
                }
                Ok(Err(error)) => {
                    if extent == Extent::All && self.shards.answers_without(&error) {
                        if wanted == Wanted::Whole {
                            return Err(watched.failed_of_a_shard(&error));
                        }
                        tracing::warn!(%error, "a shard does not answer; the others are asked");
                        extent = Extent::ThoseThatAnswer;
                        continue;
                    }
                    return Err(watched.failed(&error));
                }
                Err(_) => return Err(watched.timed_out()),
            }
        }
    }

    /// The longest that an answer for the class may take, however many queries it needs.
    pub fn deadline(&self, class: Class) -> Duration {
        self.admission.deadline(class)
    }

    /// A permit to send one query.
    pub async fn admit(&self, ask: &AdmissionRequest) -> Result<QueryPermit, ReadError> {
        self.admission.admit(ask).await.map_err(|refused| {
            self.metrics.query_ended(QueryOutcome::Refused, Duration::ZERO);
            ReadError::from(refused)
        })
    }

    fn query(&self, statement: &Statement, traceparent: Option<String>) -> Query {
        let query = match traceparent {
            Some(traceparent) => self.client.clone().with_header(TRACE_HEADER, traceparent).query(&statement.text),
            None => self.client.query(&statement.text),
        };
        statement.params.iter().fold(query, |q, (name, value)| q.param(name, value))
    }

    /// Watches over a query that the caller sends with this client, under the id that it is given here.
    pub fn watch(&self, held: HeldPermit, client: &Client) -> Watched {
        Watched::new(held, Stop { client: client.clone(), killer: self.killer.clone() }, self.metrics.clone())
    }

    /// Counts a statement that only looked up what is said beside an answer.
    pub fn looked_beside(&self) {
        self.metrics.looked_beside();
    }

    /// How the way to ClickHouse is, for the health page.
    pub fn breaker(&self) -> BreakerState {
        self.admission.breaker()
    }

    /// Whether ClickHouse answers within `timeout`; if not, why. Takes no permit, and is tried also while the breaker is open; a
    /// half-open one is settled by it.
    pub async fn ping(&self, timeout: Duration) -> Result<(), StoreError> {
        let probe = self.admission.probe();
        // Read to its end: a connection that is dropped before is an error in ClickHouse's log, with a trace.
        let answer = self.client.query(sql::PING).fetch_all::<u8>();
        let answered = match tokio::time::timeout(timeout, answer).await {
            Ok(answered) => answered.map(drop).map_err(StoreError::from),
            Err(_) => Err(StoreError::TimedOut),
        };
        self.admission.pinged(probe, answered.is_ok());
        answered
    }
}
