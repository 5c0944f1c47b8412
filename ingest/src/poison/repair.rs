//! Repairs tables after refused rows: removes what an attempt had written of them.
//!
//! Raw rows are deleted at once (`leftovers`). Rollups are compared in the background ([`run`]): of every day in the table
//! `repairs` each rollup is compared with raw and rebuilt where it differs, as `tallyhouse rollups rebuild` does, by one process at a
//! time. Until then a rollup may count an event that is a dead letter.
//!
//! **A batch that has reached only some of its tables** when its day is rebuilt is the danger: raw may not have it yet, so the rollup
//! loses it, and the rollup's log says that it has it, so that the next attempt is skipped there. Therefore `running` is written
//! before a rebuild begins, and whoever stores a batch after an attempt that failed looks, once it is stored, whether a rebuild of one
//! of its days began since that attempt, and opens the day again (`reopened`). The second rebuild finds the whole batch in raw.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tallyhouse_schema::Rollup;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::native::{self, Column, Field};
use tallyhouse_sql::rollups::gate::Lock;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options};
use tallyhouse_sql::rollups::{RollupsError, Selection};
use tallyhouse_sql::{Class, StoreError, rehearsal, within};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

const DAY_SECONDS: i64 = 86_400;

/// Between two looks for open repairs, at least.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks for copies that killed rehearsals left.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// After a round it rests for as long as the round took, at most for this: a flood of poison must not rebuild all the time. For so long
/// after a round of which a day failed, too: each round may hold inserts back. While another process has the lock it rests for longer each time.
const MAX_REST: Duration = Duration::from_secs(60);

/// Between two looks of a comparison. Shorter than a writer's pause between two attempts: what is taken for drift because an attempt
/// is still to come is rebuilt once more when it has come.
const PAUSE: Duration = Duration::from_millis(500);

/// Inserts are kept away no longer than this.
const GATE: Duration = Duration::from_secs(20);

/// Where repairs are noted, so that a restart goes on with them.
pub const TABLE: &str = "repairs";

/// How far a repair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The batch is not stored yet.
    Pending,
    /// The batch is stored, and its rollups are not compared yet.
    Open,
    /// Rollups may be changed from now on.
    Running,
    /// The rollups equal the raw events.
    Done,
}

impl Step {
    const fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Open => "open",
            Self::Running => "running",
            Self::Done => "done",
        }
    }
}

/// Days of projects as repairs of a batch.
pub fn block(token: &str, days: &BTreeSet<(String, i32)>, step: Step) -> Vec<Bytes> {
    rows(days.iter().map(|(project, day)| (project.as_str(), *day, token)), step)
}

/// The days of a batch of which a rebuild began since `since`; milliseconds since 1970.
pub(super) async fn reopened(
    client: &Client,
    days: &[DayChange],
    since: i64,
    deadline: Duration,
) -> Result<BTreeSet<(String, i32)>, StoreError> {
    #[derive(Row, Deserialize)]
    struct Begun {
        project_id: String,
        day: i32,
    }
    let begun = client.query(
        "SELECT DISTINCT toString(project_id) AS project_id, day FROM repairs \
         WHERE state IN ('running', 'done') AND updated_at >= fromUnixTimestamp64Milli({since:Int64})",
    );
    let begun = within(deadline, begun.param("since", since).fetch_all::<Begun>()).await?;
    let is_of_batch = |begun: &Begun| {
        // A file of an older version does not tell its days.
        days.is_empty() || days.iter().any(|day| day.day == begun.day && day.project == begun.project_id)
    };
    Ok(begun.into_iter().filter(is_of_batch).map(|begun| (begun.project_id, begun.day)).collect())
}

/// Whether ClickHouse was started after `since`; milliseconds since 1970.
pub(super) async fn is_restarted(client: &Client, since: i64, deadline: Duration) -> Result<bool, StoreError> {
    let started = client.query("SELECT (toInt64(toUnixTimestamp(now())) - toInt64(uptime())) * 1000");
    Ok(within(deadline, started.fetch_one::<i64>()).await? >= since)
}

fn rows<'a>(repairs: impl Iterator<Item = (&'a str, i32, &'a str)>, step: Step) -> Vec<Bytes> {
    let [mut projects, mut days, mut tokens, mut states, mut times] = [(); 5].map(|()| Column::default());
    let (mut count, now) = (0, now_ms());
    for (project, day, token) in repairs {
        projects.text(project);
        days.i32(day);
        tokens.text(token);
        states.text(step.label());
        times.i64(now);
        count += 1;
    }
    let field = |name, kind, column| Field { name, kind, parts: vec![column] };
    native::block(
        count,
        vec![
            field("project_id", "String", projects),
            field("day", "Int32", days),
            field("token", "String", tokens),
            field("state", "String", states),
            field("updated_at", "DateTime64(3, 'UTC')", times),
        ],
    )
}

/// A day of a project that has to be compared, and for which batch.
#[derive(Debug, Row, Deserialize)]
struct Repair {
    project_id: String,
    day: i32,
    token: String,
}

/// Compares and rebuilds days as they come, on a thread of its own, for as long as the future is polled: what a rebuild reports
/// changed days is no future that may change threads.
pub async fn run(store: Store) {
    let (stop, runtime) = (CancellationToken::new(), Handle::current());
    let stopped = stop.clone();
    let _guard = stop.drop_guard();
    let work = move || {
        runtime.block_on(async {
            tokio::select! {
                () = work(store) => {}
                () = stopped.cancelled() => {}
            }
        });
    };
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "comparing rollups after refused events ended by itself");
    }
}

async fn work(store: Store) {
    let (mut next_sweep, mut busy_rest) = (Instant::now(), LOOK_EVERY);
    loop {
        let started = Instant::now();
        if started >= next_sweep {
            next_sweep = started + SWEEP_EVERY;
            if let Err(error) = rehearsal::sweep(&store.client).await {
                tracing::warn!(%error, "copies that a killed rehearsal left could not be dropped");
            }
        }
        let repaired = repair(&store).await;
        let is_busy = matches!(repaired, Err(RollupsError::Busy));
        busy_rest = if is_busy { (busy_rest * 2).min(MAX_REST) } else { LOOK_EVERY };
        let rest = match repaired {
            Ok(true) => started.elapsed().clamp(LOOK_EVERY, MAX_REST),
            // Another process is at work, and may be at these days.
            Err(RollupsError::Busy) => busy_rest,
            Err(RollupsError::Store(error @ StoreError::Unreachable(_))) => {
                tracing::warn!(%error, "rollups wait to be compared after events were refused");
                LOOK_EVERY
            }
            Ok(false) => MAX_REST,
            Err(error @ RollupsError::Replicated) => {
                tracing::error!(%error, "rollups may count events that were refused");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "rollups could not be compared after events were refused; trying again");
                MAX_REST
            }
        };
        tokio::time::sleep(rest).await;
    }
}

/// One round. Whether every day was compared: one that cannot be holds up no other.
async fn repair(store: &Store) -> Result<bool, RollupsError> {
    // `running`: whoever began it was killed.
    let open = "SELECT toString(project_id) AS project_id, day, token FROM repairs FINAL \
                WHERE state IN ('open', 'running') ORDER BY updated_at LIMIT 10000";
    let open = within(store.timeout, store.client.query_raw(open).fetch_all::<Repair>()).await?;
    if open.is_empty() {
        return Ok(true);
    }
    // Before anything is marked: while another process is at work, nothing is.
    let lock = rebuild::begin(&store.client, &mut async |changed| publish(store, changed)).await?;
    mark(store, open.iter(), Step::Running).await?;
    let mut projects: BTreeMap<&str, BTreeMap<i32, Vec<&Repair>>> = BTreeMap::new();
    for repair in &open {
        projects.entry(&repair.project_id).or_default().entry(repair.day).or_default().push(repair);
    }
    let mut is_whole = true;
    for (project, days) in projects {
        // Days in a row together, so that a partition is swapped once for them, and one by one when that fails.
        let mut spans = spans(days.keys());
        while let Some(span) = spans.pop() {
            match compare(store, &lock, project, &span).await {
                Ok(()) => {
                    mark(store, days.range(span).flat_map(|(_, repairs)| repairs.iter().copied()), Step::Done).await?;
                    store.metrics.refusals.repairs.inc();
                }
                Err(error @ (RollupsError::LockLost | RollupsError::Store(StoreError::Unreachable(_)))) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, project, days = ?span, "rollups could not be compared after events were refused; trying again");
                    store.metrics.refusals.repair_failures.inc();
                    is_whole = false;
                    if passes(&error) {
                        // It says nothing of these days, and each attempt may hold inserts back: the next one after a rest.
                        return Ok(false);
                    }
                    if span.len() > 1 {
                        spans.extend(span.map(|day| day..day + 1));
                    }
                }
            }
        }
    }
    Ok(is_whole)
}

/// Whether the next attempt may go well without a change of anything.
fn passes(error: &RollupsError) -> bool {
    match error {
        RollupsError::GateTimedOut(_) => true,
        RollupsError::Store(error) => error.class() != Class::Permanent,
        _ => false,
    }
}

/// Makes rollups of some days of a project equal to raw.
async fn compare(store: &Store, lock: &Lock, project: &str, days: &Range<i32>) -> Result<(), RollupsError> {
    let selection = Selection {
        project: Some(project.to_owned()),
        from: i64::from(days.start) * DAY_SECONDS,
        to: i64::from(days.end) * DAY_SECONDS,
        tables: Rollup::OF_EACH_TABLE.to_vec(),
        days: None,
    };
    let options = Options { selection, is_everything: false, gate: GATE, pause: PAUSE };
    let mut changed = async |changed| publish(store, changed);
    let rebuilt = rebuild::rebuild_locked(&store.client, lock, &options, &mut changed).await?;
    tracing::info!(project, ?days, ?rebuilt, "rollups were compared after events were refused");
    Ok(())
}

fn publish(store: &Store, changed: Vec<ChangedDay>) {
    let changed: Vec<_> = changed.into_iter().map(|day| DayChange::day(day.project_id, day.day)).collect();
    store.changed_days.publish(&changed);
}

async fn mark(store: &Store, repairs: impl Iterator<Item = &Repair>, step: Step) -> Result<(), StoreError> {
    let token = format!("{}-{}", step.label(), ulid::Ulid::generate());
    let rows = rows(repairs.map(|repair| (repair.project_id.as_str(), repair.day, repair.token.as_str())), step);
    insert_block(&store.client, TABLE, &token, &rows, store.timeout).await
}

/// Days in a row as ranges.
fn spans<'a>(days: impl IntoIterator<Item = &'a i32>) -> Vec<Range<i32>> {
    let mut spans: Vec<Range<i32>> = Vec::new();
    for day in days {
        match spans.last_mut() {
            Some(span) if span.end == *day => span.end += 1,
            _ => spans.push(*day..*day + 1),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_in_a_row_are_compared_together() {
        assert_eq!(spans(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
    }
}
