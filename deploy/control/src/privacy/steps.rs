//! The steps of an erasure. Each may be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::erasure::{self as rows, Deleted, Target};
use tallyhouse_sql::rollups::Selection;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options, Rebuilt};
use tallyhouse_sql::rollups::verify::{PAUSE, horizon_of};
use tallyhouse_sql::suppression_acks;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::documents::{Step, Subject, SuppressionDocument};
use super::erasure::Erasure;
use super::runner::{Runner, StepError};
use super::{feed, report};
use crate::kind::Kind;
use crate::store::{ControlError, New};
use crate::time;

/// How long processes that run may take to confirm. What one that does not stores later is found as a leftover.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(300);
const CONFIRMED_POLL: Duration = Duration::from_millis(100);

/// Inserts are kept away no longer than this, for one partition.
const GATE: Duration = Duration::from_secs(60);

/// How long replaced files are waited for; `old_parts_lifetime` is 8 minutes.
const FILES_WITHIN_S: u64 = 3_600;

const DAY_S: i64 = 86_400;

/// In the job, while a mutation fails.
const FAILING: &str = "ClickHouse cannot carry out the deletion yet: see `latest_fail_reason` in system.mutations";

impl Runner {
    pub(super) async fn suppress(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        for subject in erasure.document.subjects.clone() {
            self.suppress_one(project, erasure, subject).await?;
        }
        (erasure.document.confirmed, erasure.document.unconfirmed) = self.confirmed().await?;
        if erasure.document.is_again {
            let key = self.key.of_project(feed::key_part(&self.control.snapshot(), project).as_deref());
            let hashes: Vec<u64> = erasure.document.subjects.iter().filter_map(Subject::number).collect();
            rows::forget(&self.client, &erasure.id).await?;
            rows::name_by_hash(&self.client, target(project, erasure), key, &hashes).await?;
        }
        self.look(project, erasure).await?;
        erasure.document.state = Step::Deleting;
        Ok(())
    }

    /// Waits until every process that stores events knows all suppressions. Returns how many do, and how many do not.
    pub(super) async fn confirmed(&self) -> Result<(u64, u64), StepError> {
        self.control.refresh().await?;
        let version = feed::version(&self.control.snapshot());
        let until = Instant::now() + CONFIRMED_WITHIN;
        loop {
            let running = suppression_acks::running(&self.client).await?;
            let unconfirmed = running.iter().filter(|ack| ack.known < version).count() as u64;
            if unconfirmed == 0 || Instant::now() >= until {
                return Ok((running.len() as u64 - unconfirmed, unconfirmed));
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

    /// Writes down what there is, before it is deleted: a run that is taken up later must know the days.
    async fn look(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        let target = target(project, erasure);
        let mut days: BTreeMap<i32, u64> = erasure.document.days.iter().map(|day| (day.day, day.rows)).collect();
        for found in rows::days(&self.client, target).await? {
            let rows = days.entry(found.day).or_default();
            *rows = found.rows.max(*rows);
        }
        let dead_letters = rows::dead_letters(&self.client, target).await?;
        let horizon = horizon_of(&self.client, project).await?.div_euclid(DAY_S);
        let document = &mut erasure.document;
        document.dead_letters = document.dead_letters.max(dead_letters);
        document.older_days.extend(days.keys().copied().filter(|day| i64::from(*day) < horizon));
        document.older_days.sort_unstable();
        document.older_days.dedup();
        document.days = days.into_iter().map(|(day, rows)| rows::DayRows { day, rows }).collect();
        Ok(())
    }

    /// Whether nothing is left; else ClickHouse is still at it, and meanwhile others have their turn.
    pub(super) async fn delete(&self, project: &str, erasure: &mut Erasure) -> Result<bool, StepError> {
        // Of a run that was killed, or of a batch that was begun before: its days are to be rebuilt as well.
        let before = erasure.document.days.len();
        self.look(project, erasure).await?;
        if erasure.document.days.len() != before {
            self.write(project, erasure).await?;
        }
        let target = target(project, erasure);
        let mut deleted = rows::delete_events(&self.client, target).await?;
        if deleted == Deleted::All {
            deleted = rows::delete_dead_letters(&self.client, target).await?;
        }
        let problem = match deleted {
            Deleted::All => {
                erasure.document.state = Step::Rebuilding;
                return Ok(true);
            }
            Deleted::Underway => None,
            Deleted::Failing => Some(FAILING.to_owned()),
        };
        if erasure.document.problem != problem {
            erasure.document.problem = problem;
            self.write(project, erasure).await?;
        }
        Ok(false)
    }

    pub(super) async fn rebuild(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        let older: BTreeSet<i32> = erasure.document.older_days.iter().copied().collect();
        let days: BTreeSet<i32> =
            erasure.document.days.iter().map(|day| day.day).filter(|day| !older.contains(day)).collect();
        if !days.is_empty() {
            if !erasure.document.is_rebuilt {
                let selection = Selection::of_days(project, days.clone());
                let options = Options { selection, is_everything: true, gate: GATE, pause: PAUSE };
                erasure.document.partitions = self.rebuilt(options).await?.partitions;
                // Inserts are not held back again for the sake of caches.
                erasure.document.is_rebuilt = true;
                self.write(project, erasure).await?;
            }
            // Once more, when nothing is computed from before any more.
            let all = days.into_iter().map(|day| ChangedDay { project_id: project.to_owned(), day });
            (self.invalidate)(all.collect()).await?;
        }
        rows::forget(&self.client, &erasure.id).await?;
        erasure.document.replaced_at = rows::now(&self.client).await?;
        erasure.document.state = Step::RemovingFiles;
        Ok(())
    }

    /// Rebuilds on a thread of its own: the compiler cannot tell that such a future may move between threads.
    async fn rebuilt(&self, options: Options) -> Result<Rebuilt, StepError> {
        let (client, invalidate, stop) = (self.client.clone(), Arc::clone(&self.invalidate), CancellationToken::new());
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

    /// Whether the files are gone, or will not be.
    pub(super) async fn remove_files(&self, project: &str, erasure: &mut Erasure) -> Result<bool, StepError> {
        let (is_over, left) = self.files(erasure.document.replaced_at).await?;
        if !is_over {
            return Ok(false);
        }
        erasure.document.files_left = left;
        erasure.document.state = Step::Done;
        erasure.document.report = Some(self.report(project, erasure));
        Ok(true)
    }

    /// Whether replaced files are not waited for any more, and how many are left.
    pub(super) async fn files(&self, since: u64) -> Result<(bool, u64), StepError> {
        let (left, now) = (rows::files_since(&self.client, since).await?, rows::now(&self.client).await?);
        Ok((left == 0 || now >= since + FILES_WITHIN_S, left))
    }

    fn report(&self, project: &str, erasure: &Erasure) -> serde_json::Value {
        let document = &erasure.document;
        let date = |day: i32| time::text(i64::from(day) * DAY_S * 1_000).chars().take(10).collect::<String>();
        let days: BTreeMap<String, u64> = document.days.iter().map(|day| (date(day.day), day.rows)).collect();
        let older: Vec<String> = document.older_days.iter().map(|day| date(*day)).collect();
        let report = json!({
            "id": erasure.id,
            "project": project,
            "subjects": document.subjects,
            "requestedAt": time::text(document.requested_ms),
            "erasedBefore": time::text(document.before_ms),
            "keepSuppressed": document.keep_suppressed,
            "completedAt": time::text(now_ms()),
            "rawEvents": document.events(),
            "rawEventsByDay": days,
            "daysNotRebuilt": older,
            "deadLetters": document.dead_letters,
            "rollupPartitionsRebuilt": document.partitions,
            "processesConfirmed": document.confirmed,
            "processesNotConfirmed": document.unconfirmed,
            "filesLeft": document.files_left,
        });
        match report {
            serde_json::Value::Object(fields) => report::sign(&self.key, fields),
            other => other,
        }
    }
}

fn target<'a>(project: &'a str, erasure: &'a Erasure) -> Target<'a> {
    Target { project, job: &erasure.id, before: erasure.document.before_ms }
}
