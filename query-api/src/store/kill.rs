//! Stops queries that nobody waits for. ClickHouse notices a closed connection sooner or later; KILL stops the query for certain.
//!
//! ```text
//! Watched dropped -> queue (bounded) -> KILL -> found:       again, until it is gone -> its slot is free
//!                                            -> never found: it had ended, or had not begun: looked for again -> free
//!                                            -> no answer:   again, within HOLD
//!                                            -> not reached, three times in a row: neither are other queries -> free, counted
//!                    after HOLD: free, counted
//! ```
//!
//! KILL is sent as the user that runs the query, which needs no privilege but to see the query among the processes. Analysts must not
//! see each other's statements: a row policy shows only the one that the header [`STOP_HEADER`] names.
//!
//! A query keeps its permit until ClickHouse has stopped it, so that ClickHouse never runs more queries than admission counts. A query
//! looks for KILL only between two blocks, and one block of an analyst's statement may take minutes; [`HOLD`] is the longest that its
//! slot is held. [`Hunt`] decides, this module asks. When the queue is full the KILL is not sent and counted as lost: the closed
//! connection and `max_execution_time` remain.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::sql;
use crate::telemetry::{Kill, Metrics};

use super::watch::HeldPermit;

/// KILLs at once: each looks at all of ClickHouse's queries.
const AT_ONCE: usize = 4;

/// Queries that are being stopped. Each holds a permit, so that more than this are never running; it is a limit all the
/// same.
const WAITING: usize = 1_024;

/// The longest that a slot is held for a query that does not stop. Twice what ClickHouse gives any query of ours: it counts
/// that, too, between two blocks only.
const HOLD: Duration = Duration::from_secs(60);

/// The longest that one KILL takes.
const ANSWER: Duration = Duration::from_secs(2);

/// When it is looked first whether a query has stopped; then after twice as long, and so on, up to [`LOOK_AT_LEAST_EVERY`].
const LOOK: Duration = Duration::from_millis(10);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// When a query that was not found is looked for again: it may have been on its way.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// How long a query may be on its way to ClickHouse. One that was sent earlier, and is not found, has ended.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// KILLs in a row that did not reach ClickHouse, after which it is not there.
const NOT_REACHED: u32 = 3;

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
    /// How long ago it was sent.
    pub(super) sent: Duration,
    pub(super) held: HeldPermit,
}

/// What one KILL found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The query, which was told to stop.
    Running,
    /// No such query.
    Nothing,
    /// ClickHouse was not reached.
    NotReached,
    /// ClickHouse did not say.
    NoAnswer,
}

/// What is done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The slot is free.
    Free(Kill),
    /// It is looked again after this time.
    LookIn(Duration),
}

/// The looks for one query. Pure.
#[derive(Debug)]
struct Hunt {
    /// Whether the query may still be on its way to ClickHouse.
    may_come: bool,
    was_seen: bool,
    missed: usize,
    not_reached: u32,
    pause: Duration,
}

impl Hunt {
    fn new(sent: Duration) -> Self {
        Self { may_come: sent < ON_ITS_WAY, was_seen: false, missed: 0, not_reached: 0, pause: LOOK }
    }

    fn after(&mut self, look: Look, held: Duration) -> Next {
        self.not_reached = if look == Look::NotReached { self.not_reached + 1 } else { 0 };
        self.was_seen |= look == Look::Running;
        match look {
            Look::Nothing if self.was_seen => Next::Free(Kill::Stopped),
            Look::Nothing => match AGAIN.get(self.missed).filter(|_| self.may_come) {
                Some(pause) => {
                    self.missed += 1;
                    Next::LookIn(*pause)
                }
                None => Next::Free(Kill::NotFound),
            },
            Look::NotReached if self.not_reached >= NOT_REACHED => Next::Free(Kill::Failed),
            Look::Running | Look::NoAnswer | Look::NotReached if held >= HOLD => Next::Free(Kill::Failed),
            Look::Running | Look::NoAnswer | Look::NotReached => {
                let pause = self.pause;
                self.pause = (pause * 2).min(LOOK_AT_LEAST_EVERY);
                Next::LookIn(pause)
            }
        }
    }
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
    let (mut running, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        tokio::select! {
            Some(condemned) = queue.recv(), if running.len() < WAITING => {
                let (metrics, at_once) = (metrics.clone(), Arc::clone(&at_once));
                running.spawn(async move {
                    let stopping = metrics.stopping();
                    let kill = stop(condemned, &at_once).await;
                    drop(stopping);
                    metrics.killed(kill);
                });
            }
            Some(_) = running.join_next() => {}
            else => return,
        }
    }
}

/// Sends KILL until the slot is free. One that does not stop holds up no other: what is limited is one KILL, not all for a query.
async fn stop(Condemned { query_id, client, sent, held }: Condemned, at_once: &Semaphore) -> Kill {
    let client = client.with_header(STOP_HEADER, &query_id);
    let (mut hunt, began) = (Hunt::new(sent), Instant::now());
    let kill = loop {
        let permit = at_once.acquire().await;
        let look = look(&client, &query_id).await;
        drop(permit);
        match hunt.after(look, began.elapsed()) {
            Next::Free(kill) => break kill,
            Next::LookIn(pause) => tokio::time::sleep(pause).await,
        }
    };
    if kill == Kill::Failed {
        tracing::warn!(query_id, held = ?began.elapsed(), "a query nobody waits for was not stopped; its slot is free all the same");
    }
    drop(held);
    kill
}

async fn look(client: &Client, query_id: &str) -> Look {
    match tokio::time::timeout(ANSWER, is_found(client, query_id)).await {
        Ok(Ok(true)) => Look::Running,
        Ok(Ok(false)) => Look::Nothing,
        Ok(Err(StoreError::Unreachable(_))) => Look::NotReached,
        Ok(Err(error)) => {
            tracing::debug!(query_id, %error, "KILL failed");
            Look::NoAnswer
        }
        Err(_) => Look::NoAnswer,
    }
}

/// Sends KILL; whether there was something to stop. What it stops is listed in the answer; when there is nothing, the
/// answer is empty, without even the header that rows are read by.
async fn is_found(client: &Client, query_id: &str) -> Result<bool, StoreError> {
    let kill = client.query(sql::KILL).param("query_id", query_id);
    // Analysts have a quota by this key. What is stopped for them does not count.
    let mut listed = kill.with_setting("quota_key", query_id).fetch_bytes("TabSeparated")?;
    Ok(!listed.collect().await?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUST_SENT: Duration = Duration::from_millis(1);
    const LONG_AGO: Duration = Duration::from_secs(9);

    /// What is done after each look, a second apart.
    fn hunted(sent: Duration, looks: &[Look]) -> Next {
        let mut hunt = Hunt::new(sent);
        let (last, before) = looks.split_last().unwrap();
        for (second, look) in (0..).zip(before) {
            let next = hunt.after(*look, Duration::from_secs(second));
            assert!(matches!(next, Next::LookIn(pause) if pause <= LOOK_AT_LEAST_EVERY), "{second} {next:?}");
        }
        hunt.after(*last, Duration::from_secs(before.len() as u64))
    }

    #[test]
    fn a_slot_is_held_as_long_as_clickhouse_runs_the_query() {
        use Look::{NoAnswer, Nothing, Running};
        assert_eq!(hunted(LONG_AGO, &[Running, Nothing]), Next::Free(Kill::Stopped));
        let deaf: Vec<Look> = std::iter::repeat_n(Running, 59).chain([NoAnswer, Nothing]).collect();
        assert_eq!(hunted(LONG_AGO, &deaf), Next::Free(Kill::Stopped));
    }

    #[test]
    fn a_query_that_may_be_on_its_way_is_looked_for_again_before_its_slot_is_free() {
        use Look::{Nothing, Running};
        assert_eq!(hunted(LONG_AGO, &[Nothing]), Next::Free(Kill::NotFound));
        assert_eq!(hunted(JUST_SENT, &[Nothing, Nothing, Nothing]), Next::Free(Kill::NotFound));
        assert_eq!(hunted(JUST_SENT, &[Nothing, Running, Nothing]), Next::Free(Kill::Stopped));
    }

    #[test]
    fn a_slot_comes_back_whatever_clickhouse_does() {
        use Look::{NoAnswer, NotReached, Running};
        for look in [Running, NoAnswer] {
            assert_eq!(hunted(LONG_AGO, &[look; 61]), Next::Free(Kill::Failed), "{look:?}");
        }
        assert_eq!(hunted(JUST_SENT, &[NotReached; 3]), Next::Free(Kill::Failed));
        assert_eq!(
            hunted(JUST_SENT, &[NotReached, NotReached, Running, NotReached, Look::Nothing]),
            Next::Free(Kill::Stopped)
        );
    }
}
