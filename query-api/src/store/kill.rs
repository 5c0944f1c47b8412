//! Stops queries that nobody waits for. Closing the connection makes ClickHouse notice sooner or later; KILL makes it
//! certain.
//!
//! ```text
//! Watched dropped -> queue (bounded) -> KILL (so many at once) -> found: again, until it is gone
//!                                                              -> gone: its turn is somebody else's
//!                                                              -> never found: it was over, or is looked for twice more
//! ```
//!
//! A query keeps its turn until ClickHouse has stopped it, so that ClickHouse never has more to do than admission
//! thinks. When the queue is full the KILL is not sent and counted as lost: the closed connection and
//! `max_execution_time` remain.

use std::time::Duration;

use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::admission::Turn;
use crate::metrics::{Kill, Metrics};
use crate::sql;

/// KILLs at once: each looks at all of ClickHouse's queries.
const AT_ONCE: usize = 4;

/// Queries that wait to be stopped. Each has a turn, so that more than this are never running; it is a limit all the
/// same.
const WAITING: usize = 1_024;

/// The longest that stopping a query takes. Then its turn is given up: it must not be held by a ClickHouse that hangs.
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

#[derive(Debug)]
struct Condemned {
    query_id: String,
    turn: Turn,
}

impl Killer {
    pub(super) fn start(client: Client, metrics: Metrics) -> Self {
        let (queue, condemned) = mpsc::channel(WAITING);
        tokio::spawn(work(client, metrics.clone(), condemned));
        Self { queue, metrics }
    }

    /// Stops a query; its turn is free when it was stopped.
    pub(super) fn stop(&self, query_id: String, turn: Turn) {
        if let Err(error) = self.queue.try_send(Condemned { query_id, turn }) {
            tracing::warn!(%error, "a query nobody waits for is left to ClickHouse");
            self.metrics.killed(Kill::Lost);
        }
    }
}

async fn work(client: Client, metrics: Metrics, mut queue: mpsc::Receiver<Condemned>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(condemned) = queue.recv(), if running.len() < AT_ONCE => {
                let (client, metrics) = (client.clone(), metrics.clone());
                running.spawn(async move { metrics.killed(stop(&client, condemned).await) });
            }
            Some(_) = running.join_next() => {}
            else => return,
        }
    }
}

async fn stop(client: &Client, Condemned { query_id, turn }: Condemned) -> Kill {
    let outcome = tokio::time::timeout(DEADLINE, until_gone(client, &query_id)).await.unwrap_or(Kill::Failed);
    drop(turn);
    match outcome {
        Kill::NotFound => once_more(client, &query_id).await,
        Kill::Failed => {
            tracing::warn!(query_id, "a query nobody waits for could not be stopped");
            Kill::Failed
        }
        Kill::Stopped | Kill::Lost => outcome,
    }
}

/// Tells ClickHouse to stop the query until it has: a query looks whether it was told only between two blocks.
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
    let mut listed = client.query(sql::KILL).param("query_id", query_id).fetch_bytes("TabSeparated")?;
    Ok(!listed.collect().await?.is_empty())
}
