//! Stops queries that nobody waits for. Closing the connection makes ClickHouse notice sooner or later; KILL makes it
//! certain.
//!
//! ```text
//! Watched dropped -> queue (bounded) -> KILL (so many at once) -> found: its turn is somebody else's
//!                                          ^                   -> not found: over already, or not begun yet
//!                                          +--- again, twice ------+
//! ```
//!
//! A query keeps its turn until ClickHouse was told to stop it, so that ClickHouse never has more to do than admission
//! thinks. When the queue is full the KILL is not sent and counted as lost: the closed connection and
//! `max_execution_time` remain.

use std::time::Duration;

use serde::Deserialize;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};
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

/// The longest that a KILL takes. Then its turn is given up: it must not be held by a ClickHouse that hangs.
const DEADLINE: Duration = Duration::from_secs(2);

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

/// A line of what KILL says; ClickHouse names the columns.
#[derive(Debug, Row, Deserialize)]
struct Killed {
    #[allow(dead_code, reason = "a row must have all columns")]
    kill_status: String,
    #[allow(dead_code, reason = "as above")]
    query_id: String,
    #[allow(dead_code, reason = "as above")]
    user: String,
    #[allow(dead_code, reason = "as above")]
    query: String,
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
    let first = kill(client, &query_id).await;
    // Stopped, gone or out of reach: there is nothing more to wait for.
    drop(turn);
    let mut found = first;
    for pause in AGAIN {
        if found != Kill::NotFound {
            break;
        }
        tokio::time::sleep(pause).await;
        found = kill(client, &query_id).await;
    }
    found
}

async fn kill(client: &Client, query_id: &str) -> Kill {
    let killed = client.query(sql::KILL).param("query_id", query_id).fetch_all::<Killed>();
    match tokio::time::timeout(DEADLINE, killed).await {
        Ok(Ok(killed)) if killed.is_empty() => Kill::NotFound,
        Ok(Ok(_)) => {
            tracing::debug!(query_id, "a query nobody waits for was stopped");
            Kill::Stopped
        }
        Ok(Err(error)) => {
            let error = StoreError::from(error);
            tracing::warn!(query_id, %error, "a query nobody waits for could not be stopped");
            Kill::Failed
        }
        Err(_) => {
            tracing::warn!(query_id, "stopping a query nobody waits for took too long");
            Kill::Failed
        }
    }
}
