//! Stops queries that nobody waits for. ClickHouse notices a closed connection sooner or later; KILL stops the query for certain.
//!
//! ```text
//! Watched dropped -> queue (bounded) -> KILL (a few at once) -> found: again, until it is gone
//!                                                            -> gone: its permit is released
//!                                                            -> never found: it had ended; two more tries, in case it had not begun
//! ```
//!
//! KILL is sent as the user that runs the query, which needs no privilege but to see the query among the processes. Analysts must not
//! see each other's statements: a row policy shows only the one that the header [`STOP_HEADER`] names.
//!
//! A query keeps its permit until ClickHouse has stopped it, so that ClickHouse never runs more queries than admission counts.
//! When the queue is full the KILL is not sent and counted as lost: the closed connection and
//! `max_execution_time` remain.

use std::time::Duration;

use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::sql;
use crate::telemetry::{Kill, Metrics};

use super::watch::HeldPermit;

/// KILLs at once: each looks at all of ClickHouse's queries.
const AT_ONCE: usize = 4;

/// Queries that wait to be stopped. Each holds a permit, so that more than this are never running; it is a limit all the
/// same.
const WAITING: usize = 1_024;

/// The longest that stopping a query takes. Then its permit is released: a ClickHouse that hangs must not hold it.
const DEADLINE: Duration = Duration::from_secs(2);

/// When it is looked first whether a query has stopped; then after twice as long, and so on.
const LOOK: Duration = Duration::from_millis(10);

/// When a query that was not found is looked for again: it may have been on its way.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// Stops queries; clones share the queue. Its task ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Killer {
    queue: mpsc::Sender<Condemned>,
    metrics: Metrics,
}

/// The request header that the row policy of analysts compares with the ids of queries. Also in `users.xml` and in
/// `sql/access/`.
const STOP_HEADER: &str = "X-Tallyhouse-Stop";

/// A query that is to be stopped.
pub(super) struct Condemned {
    pub(super) query_id: String,
    /// The user that runs it.
    pub(super) client: Client,
    pub(super) held: HeldPermit,
}

impl Killer {
    pub(super) fn start(metrics: Metrics) -> Self {
        let (queue, condemned) = mpsc::channel(WAITING);
        tokio::spawn(work(metrics.clone(), condemned));
        Self { queue, metrics }
    }

    /// Stops a query; what it holds is free when it was stopped.
    pub(super) fn stop(&self, condemned: Condemned) {
        if let Err(error) = self.queue.try_send(condemned) {
            tracing::warn!(%error, "a query nobody waits for is left to ClickHouse");
            self.metrics.killed(Kill::Lost);
        }
    }
}

async fn work(metrics: Metrics, mut queue: mpsc::Receiver<Condemned>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(condemned) = queue.recv(), if running.len() < AT_ONCE => {
                let metrics = metrics.clone();
                running.spawn(async move { metrics.killed(stop(condemned).await) });
            }
            Some(_) = running.join_next() => {}
            else => return,
        }
    }
}

async fn stop(Condemned { query_id, client, held }: Condemned) -> Kill {
    let client = client.with_header(STOP_HEADER, &query_id);
    let outcome = tokio::time::timeout(DEADLINE, until_gone(&client, &query_id)).await.unwrap_or(Kill::Failed);
    drop(held);
    match outcome {
        Kill::NotFound => once_more(&client, &query_id).await,
        Kill::Failed => {
            tracing::warn!(query_id, "a query nobody waits for could not be stopped");
            Kill::Failed
        }
        Kill::Stopped | Kill::Lost => outcome,
    }
}

/// Sends KILL until ClickHouse has stopped the query: a query looks for KILL only between two blocks.
async fn until_gone(client: &Client, query_id: &str) -> Kill {
    let mut gone = Kill::NotFound;
    let mut pause = LOOK;
    loop {
        match is_found(client, query_id).await {
            Ok(false) => return gone,
            Ok(true) => gone = Kill::Stopped,
            Err(error) => {
                tracing::warn!(query_id, %error, "KILL failed");
                return Kill::Failed;
            }
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Looks again for a query that was not there: it was over, or had not begun.
async fn once_more(client: &Client, query_id: &str) -> Kill {
    for pause in AGAIN {
        tokio::time::sleep(pause).await;
        let found = tokio::time::timeout(DEADLINE, is_found(client, query_id)).await;
        if matches!(found, Ok(Ok(true))) {
            return Kill::Stopped;
        }
    }
    Kill::NotFound
}

/// Sends KILL; whether there was something to stop. What it stops is listed in the answer; when there is nothing, the
/// answer is empty, without even the header that rows are read by.
async fn is_found(client: &Client, query_id: &str) -> Result<bool, StoreError> {
    let kill = client.query(sql::KILL).param("query_id", query_id);
    // Analysts have a quota by this key. What is stopped for them does not count.
    let mut listed = kill.with_setting("quota_key", query_id).fetch_bytes("TabSeparated")?;
    Ok(!listed.collect().await?.is_empty())
}
