//! The steps of an erasure. Each may be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::erasure::{self as rows, DayRows, DeletionProgress, Id, Target};
use tallyhouse_sql::rollups::Selection;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options, Rebuilt};
use tallyhouse_sql::rollups::verify::{PAUSE, horizon_of};
use tallyhouse_sql::suppression_acks::{self, Silent};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::documents::{OnShard, SilentProcess, Step, Subject, SuppressionDocument};
use super::erasure::Erasure;
use super::runner::{Runner, StepError, StepOutcome};
use super::{feed, report};
use crate::kind::Kind;
use crate::store::{ControlError, New};
use crate::time;

/// How long processes that run may take to confirm. What one that does not stores later is found as a leftover.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(300);
const CONFIRMED_POLL: Duration = Duration::from_millis(100);

/// After so long the job says what it waits for.
const TOLD_AFTER: Duration = Duration::from_secs(5);
const NOT_CONFIRMED_YET: &str = "waiting until every process that stores events has confirmed that it leaves this person out; one that was killed, or cannot reach \
    ClickHouse, is waited for until it has not been heard of for 150 s, any other for 5 minutes";

/// Processes that are not heard of, by name, in a job.
const SILENT_NAMED: usize = 20;

/// Inserts are kept away no longer than this, for one partition.
const GATE: Duration = Duration::from_secs(60);

/// How long replaced files are waited for; `old_parts_lifetime` is 8 minutes.
const FILES_WITHIN_S: u64 = 3_600;

const DAY_S: i64 = 86_400;

/// In the job, while a mutation fails.
pub(super) const FAILING: &str =
    "ClickHouse cannot carry out the deletion yet: see `latest_fail_reason` in system.mutations";

/// Who knows all suppressions.
pub(super) struct Confirmed {
    /// Processes that do.
    confirmed: u64,
    /// Processes that are heard of and do not.
    unconfirmed: u64,
    /// Processes that did not, and are not heard of.
    silent: Vec<Silent>,
}

impl Runner {
    pub(super) async fn suppress(&self, project: &str, erasure: &mut Erasure) -> Result<StepOutcome, StepError> {
        for subject in erasure.document.subjects.clone() {
            self.suppress_one(project, erasure, subject).await?;
        }
        self.confirm(project, erasure).await?;
        if erasure.document.is_again {
            for client in self.shards.iter() {
                rows::forget(client, &erasure.id).await?;
            }
        }
        self.name_everywhere(project, erasure).await?;
        self.look(project, erasure).await?;
        erasure.document.state = Step::Deleting;
        Ok(StepOutcome::Advanced)
    }

    /// Writes the ids that any shard has down on all of them: statements read them where they run. Where nobody has any, which are those of
    /// rows that came back or of a job that waited for a month, they are found by their hashes.
    async fn name_everywhere(&self, project: &str, erasure: &Erasure) -> Result<(), StepError> {
        let mut named = self.named(&erasure.id).await?;
        if named.iter().all(BTreeSet::is_empty) {
            let key = self.key.of_project(feed::key_part(&self.control.snapshot(), project).as_deref());
            let hashes: Vec<u64> = erasure.document.subjects.iter().filter_map(Subject::number).collect();
            for client in self.shards.iter() {
                rows::name_by_hash(client, target(project, erasure), key, &hashes).await?;
            }
            named = self.named(&erasure.id).await?;
        }
        let all: BTreeSet<_> = named.iter().flatten().cloned().collect();
        for (client, here) in self.shards.iter().zip(&named) {
            let missing: Vec<_> = all.difference(here).cloned().collect();
            rows::name(client, &erasure.id, &missing).await?;
        }
        Ok(())
    }

    /// By shard.
    async fn named(&self, job: &str) -> Result<Vec<BTreeSet<Id>>, StepError> {
        let named = join_all(self.shards.iter().map(|client| rows::named(client, job))).await;
        self.each(named)
    }

    /// What came of something on every shard, which was tried on all of them whatever came of it on one.
    fn each<T>(&self, outcomes: Vec<Result<T, StoreError>>) -> Result<Vec<T>, StepError> {
        let outcomes = (1..).zip(outcomes);
        outcomes.map(|(number, outcome)| outcome.map_err(|error| self.on_shard(number, error.into()))).collect()
    }

    /// Waits until every process that stores events knows all suppressions, and records how many do, and which do not.
    async fn confirm(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        let confirmed = {
            let mut confirming = Box::pin(self.confirmed());
            match timeout(TOLD_AFTER, &mut confirming).await {
                Ok(confirmed) => confirmed?,
                Err(_) => {
                    erasure.document.problem = Some(NOT_CONFIRMED_YET.to_owned());
                    self.write(project, erasure).await?;
                    confirming.await?
                }
            }
        };
        let heard =
            |process: Silent| SilentProcess { process: process.process, last_heard_of: time::text(process.heard_ms) };
        let document = &mut erasure.document;
        document.confirmed = confirmed.confirmed;
        document.unconfirmed = confirmed.unconfirmed + confirmed.silent.len() as u64;
        document.silent = confirmed.silent.into_iter().take(SILENT_NAMED).map(heard).collect();
        Ok(())
    }

    /// Waits until every process that stores events and is heard of knows all suppressions.
    pub(super) async fn confirmed(&self) -> Result<Confirmed, StepError> {
        self.control.refresh().await?;
        let version = feed::version(&self.control.snapshot());
        let (until, home) = (Instant::now() + CONFIRMED_WITHIN, self.shards.home());
        loop {
            let running = suppression_acks::running(home).await?;
            let unconfirmed = running.iter().filter(|ack| ack.known < version).count() as u64;
            if unconfirmed == 0 || Instant::now() >= until {
                let silent = suppression_acks::silent(home, version).await?;
                return Ok(Confirmed { confirmed: running.len() as u64 - unconfirmed, unconfirmed, silent });
            }
            sleep(CONFIRMED_POLL).await;
        }
    }

    async fn suppress_one(&self, project: &str, erasure: &Erasure, subject: Subject) -> Result<(), StepError> {
        let document = &erasure.document;
        loop {
            let known = self.store.in_force(Kind::Suppression, project, &subject.hash).await?;
            let version = known.as_ref().map_or(0, |record| record.version);
            let before =
                known.and_then(|record| record.read::<SuppressionDocument>().ok()).map(|known| known.before_ms);
            // The later one of both; none is for ever.
            let wanted = (!document.keep_suppressed).then_some(document.before_ms);
            let before_ms = match before {
                Some(None) => None,
                Some(Some(before)) => wanted.map(|wanted| wanted.max(before)),
                None => wanted,
            };
            if before == Some(before_ms) {
                return Ok(());
            }
            let new = SuppressionDocument { subject: subject.clone(), before_ms, job: erasure.id.clone() };
            let text = serde_json::to_string(&new).unwrap_or_default();
            let new = New {
                kind: Kind::Suppression,
                project,
                name: &subject.hash,
                replaces: version,
                document: &text,
                by: "privacy",
            };
            match self.store.create(&new).await {
                Ok(_) => return Ok(()),
                Err(ControlError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes down what there is on each shard, before it is deleted: a run that is taken up later must know the days.
    async fn look(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        let found = {
            let target = target(project, erasure);
            self.each(join_all(self.shards.iter().map(|client| find(client, target))).await)?
        };
        for (shard, found) in erasure.document.shards_mut(self.shards.count()).zip(found) {
            shard.add(found);
        }
        Ok(())
    }

    /// While ClickHouse is still at it, others have their turn.
    pub(super) async fn delete(&self, project: &str, erasure: &mut Erasure) -> Result<StepOutcome, StepError> {
        self.name_everywhere(project, erasure).await?;
        // Of a run that was killed, or of a batch that was begun before: its days are to be rebuilt as well.
        let before: Vec<_> = erasure.document.shards().map(|shard| shard.days.len()).collect();
        self.look(project, erasure).await?;
        if erasure.document.shards().map(|shard| shard.days.len()).ne(before) {
            self.write(project, erasure).await?;
        }
        let deleted = {
            let target = target(project, erasure);
            // A shard does not wait for the mutations of another one.
            self.each(join_all(self.shards.iter().map(|client| delete(client, target))).await)?
        };
        if deleted.iter().all(|deleted| *deleted == DeletionProgress::Done) {
            erasure.document.state = Step::Rebuilding;
            return Ok(StepOutcome::Advanced);
        }
        let is_failing = deleted.contains(&DeletionProgress::Failing);
        let problem = is_failing.then(|| FAILING.to_owned());
        if erasure.document.problem != problem {
            erasure.document.problem = problem;
            self.write(project, erasure).await?;
        }
        Ok(if is_failing { StepOutcome::DeletionFails } else { StepOutcome::Deleting })
    }

    /// Each shard's rollups from its own raw rows, one shard after the other: inserts are held back on one at a time.
    pub(super) async fn rebuild(&self, project: &str, erasure: &mut Erasure) -> Result<StepOutcome, StepError> {
        let mut failed = None;
        for (at, (number, client)) in self.shards.numbered().enumerate() {
            let days = match erasure.document.shards().nth(at) {
                Some(shard) if !shard.is_rebuilt => shard.days_to_rebuild(),
                Some(_) | None => continue,
            };
            if days.is_empty() {
                continue;
            }
            let options =
                Options { selection: Selection::of_days(project, days), is_everything: true, gate: GATE, pause: PAUSE };
            match self.rebuilt(client.clone(), options).await {
                // What keeps one waiting does not keep the others.
                Err(error) => failed = failed.or(Some(self.on_shard(number, error))),
                Ok(Rebuilt { partitions, .. }) => {
                    if let Some(shard) = erasure.document.shards_mut(at + 1).nth(at) {
                        // Inserts are not held back again for the sake of caches, or of another shard.
                        (shard.partitions, shard.is_rebuilt) = (partitions, true);
                    }
                    self.write(project, erasure).await?;
                }
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        // Once more for all shards, when nothing is computed from before any more.
        let days: BTreeSet<i32> = erasure.document.shards().flat_map(OnShard::days_to_rebuild).collect();
        if !days.is_empty() {
            let all = days.into_iter().map(|day| ChangedDay { project_id: project.to_owned(), day });
            (self.invalidate)(all.collect()).await?;
        }
        let forgotten = self.each(join_all(self.shards.iter().map(|client| forget(client, &erasure.id))).await)?;
        for (shard, now) in erasure.document.shards_mut(self.shards.count()).zip(forgotten) {
            shard.replaced_at = now;
        }
        erasure.document.state = Step::RemovingFiles;
        Ok(StepOutcome::Advanced)
    }

    /// Rebuilds on a thread of its own: the compiler cannot tell that such a future may move between threads.
    async fn rebuilt(&self, client: Client, options: Options) -> Result<Rebuilt, StepError> {
        let (invalidate, stop) = (Arc::clone(&self.invalidate), CancellationToken::new());
        // Whoever does not wait any more does not have it go on.
        let _dropped = stop.clone().drop_guard();
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            let rebuilding = rebuild::rebuild(&client, &options, async |days| {
                // Of the last time it counts.
                invalidate(days).await.unwrap_or(());
            });
            runtime.block_on(stop.run_until_cancelled(rebuilding))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Some(rebuilt)) => Ok(rebuilt?),
            Ok(None) | Err(_) => Err(StepError::LockLost),
        }
    }

    /// Ends when the files are gone, or will not be.
    pub(super) async fn remove_files(&self, project: &str, erasure: &mut Erasure) -> Result<StepOutcome, StepError> {
        let since = erasure.document.shards().map(|shard| shard.replaced_at);
        let looked = self.each(join_all(self.shards.iter().zip(since).map(|(client, at)| files(client, at))).await)?;
        if looked.iter().any(|(is_over, _)| !is_over) {
            return Ok(StepOutcome::Idle);
        }
        for (shard, (_, left)) in erasure.document.shards_mut(looked.len()).zip(looked) {
            shard.files_left = left;
        }
        erasure.document.state = Step::Done;
        erasure.document.report = Some(report::of(&self.key, project, erasure));
        Ok(StepOutcome::Advanced)
    }
}

impl OnShard {
    /// With what is found now.
    fn add(&mut self, found: Found) {
        let mut days: BTreeMap<i32, u64> = self.days.iter().map(|day| (day.day, day.rows)).collect();
        for found in found.days {
            let rows = days.entry(found.day).or_default();
            *rows = found.rows.max(*rows);
        }
        self.dead_letters = self.dead_letters.max(found.dead_letters);
        self.older_days.extend(days.keys().copied().filter(|day| i64::from(*day) < found.horizon));
        self.older_days.sort_unstable();
        self.older_days.dedup();
        self.days = days.into_iter().map(|(day, rows)| DayRows { day, rows }).collect();
    }
}

/// What a shard has of a person.
struct Found {
    days: Vec<DayRows>,
    dead_letters: u64,
    /// The first day of which raw events are kept whole.
    horizon: i64,
}

async fn find(client: &Client, target: Target<'_>) -> Result<Found, StoreError> {
    Ok(Found {
        days: rows::days(client, target).await?,
        dead_letters: rows::dead_letters(client, target).await?,
        horizon: horizon_of(client, target.project).await?.div_euclid(DAY_S),
    })
}

async fn delete(client: &Client, target: Target<'_>) -> Result<DeletionProgress, StoreError> {
    match rows::delete_events(client, target).await? {
        DeletionProgress::Done => rows::delete_dead_letters(client, target).await,
        other => Ok(other),
    }
}

/// Returns when that was, by the shard's clock.
async fn forget(client: &Client, job: &str) -> Result<u64, StoreError> {
    rows::forget(client, job).await?;
    rows::now(client).await
}

/// Whether replaced files are not waited for any more, and how many are left.
pub(super) async fn files(client: &Client, since: u64) -> Result<(bool, u64), StoreError> {
    let (left, now) = (rows::files_since(client, since).await?, rows::now(client).await?);
    Ok((left == 0 || now >= since + FILES_WITHIN_S, left))
}

fn target<'a>(project: &'a str, erasure: &'a Erasure) -> Target<'a> {
    Target { project, job: &erasure.id, before: erasure.document.before_ms }
}
