//! Works on erasures: one runner at a time, whichever process it is in.
//!
//! ```text
//! each second: open erasures? -> take the lock -> the oldest, a step after the other -> written down -> the next
//! at start, each hour, and when a process stored a leftover: rows from before a suppression? -> an erasure of their own
//! ```
//!
//! An erasure that waits for files does not hold up the next. A step that fails is tried again, later each time, and the job tells why.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::erasure::{self as rows, Hashed, Target};
use tallyhouse_sql::lock::QueryLock;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options, Rebuilt};
use tallyhouse_sql::rollups::verify::{PAUSE, horizon_of};
use tallyhouse_sql::rollups::{RollupsError, Selection};
use tallyhouse_sql::{StoreError, suppression_acks};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::deletion;
use super::documents::{ErasureDocument, Step, Subject, SubjectKind, SuppressionDocument, is_erasure};
use super::erasure::{Erasure, ErasureError, Erasures};
use super::feed;
use super::hash_key::InstallationKey;
use super::report;
use crate::handle::Control;
use crate::kind::Kind;
use crate::records::Document as _;
use crate::store::{ControlError, ControlStore, New};
use crate::time;

const LOCK: &str = "tallyhouse-privacy";
const LOCK_WITHIN: Duration = Duration::from_secs(3);

/// Between looks for work, and for files that are gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between looks for what came back.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// How long processes that run may take to confirm. What one that does not stores later is found as a leftover.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(300);
const CONFIRMED_POLL: Duration = Duration::from_millis(100);

/// Inserts are kept away no longer than this, for one partition.
const GATE: Duration = Duration::from_secs(60);

/// How long replaced files are waited for; `old_parts_lifetime` is 8 minutes.
const FILES_WITHIN_S: u64 = 3_600;

/// After a failure, doubled each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// Invalidates cached answers about days.
pub type Invalidate = Arc<dyn Fn(Vec<ChangedDay>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rollups(#[from] RollupsError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    /// Somebody else works on it.
    #[error("another process has taken the erasures over")]
    LockLost,
}

/// Works on the erasures of an installation.
#[derive(Clone)]
pub struct Runner {
    pub control: Control,
    pub store: ControlStore,
    /// As the user that writes.
    pub client: Client,
    pub key: InstallationKey,
    pub invalidate: Invalidate,
}

/// An erasure of a project.
struct Open {
    project: String,
    erasure: Erasure,
}

impl Runner {
    /// Works until `stop`. What is under way then is taken up again by whoever runs next.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(&self) {
        let (mut swept, mut leftovers): (Option<Instant>, u64) = (None, 0);
        let mut failures = 0;
        loop {
            sleep(LOOK_EVERY).await;
            let told = suppression_acks::leftovers(&self.client).await.unwrap_or(leftovers);
            let is_sweep_due = swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) || told != leftovers;
            if !is_sweep_due && !self.has_open() {
                continue;
            }
            let worked = async {
                let Some(lock) = QueryLock::take(&self.client, LOCK, LOCK_WITHIN).await? else { return Ok(false) };
                if is_sweep_due {
                    self.sweep().await?;
                }
                self.open_ones(&lock).await?;
                Ok::<_, StepError>(true)
            };
            match worked.await {
                Ok(has_worked) => {
                    failures = 0;
                    if is_sweep_due && has_worked {
                        (swept, leftovers) = (Some(Instant::now()), told);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an erasure could not go on; trying again");
                    sleep(AGAIN_AT_MOST.min(AGAIN_AFTER * 2_u32.saturating_pow(failures))).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    fn has_open(&self) -> bool {
        !self.open().is_empty() || !deletion::open(&self.control.snapshot()).is_empty()
    }

    /// Erasures that are not done, as this process knows them: the oldest first.
    fn open(&self) -> Vec<Open> {
        let snapshot = self.control.snapshot();
        let erasures = snapshot.all_records().filter(|record| is_erasure(record));
        let open = erasures.filter_map(|record| {
            let erasure = Erasure::of(record).filter(|erasure| erasure.document.state != Step::Done)?;
            Some(Open { project: record.project.to_string(), erasure })
        });
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|open| open.erasure.document.requested_ms);
        open
    }

    /// Takes every open erasure as far as it goes.
    async fn open_ones(&self, lock: &QueryLock) -> Result<(), StepError> {
        // What is known here may be two seconds old.
        self.control.refresh().await?;
        for open in self.open() {
            let (id, project) = (open.erasure.id.clone(), open.project.clone());
            if let Err(error) = self.finish(lock, open).await {
                self.tell(&project, &id, &error).await;
                return Err(error);
            }
        }
        for (project, version, job) in deletion::open(&self.control.snapshot()) {
            self.delete_project(&project, version, job).await?;
        }
        Ok(())
    }

    /// Works on one erasure alone, until it is done: for a command.
    pub async fn finish_one(&self, project: &str, id: &str) -> Result<Erasure, StepError> {
        loop {
            self.control.refresh().await?;
            let Some(erasure) = self.erasures(project, None).find(id).await? else {
                return Err(ErasureError::from(ControlError::Conflict { in_force: 0 }).into());
            };
            if erasure.document.state == Step::Done {
                return Ok(erasure);
            }
            // Without the lock a service works on it.
            if let Some(lock) = QueryLock::take(&self.client, LOCK, LOCK_WITHIN).await? {
                self.finish(&lock, Open { project: project.to_owned(), erasure }).await?;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn erasures<'a>(&'a self, project: &'a str, key_part: Option<&'a [u8]>) -> Erasures<'a> {
        Erasures {
            store: &self.store,
            writer: &self.client,
            key: &self.key,
            key_part,
            project,
            by: "privacy",
            now_ms: now_ms(),
        }
    }

    async fn finish(&self, lock: &QueryLock, Open { project, mut erasure }: Open) -> Result<(), StepError> {
        loop {
            if lock.is_lost() {
                return Err(StepError::LockLost);
            }
            let before = erasure.document.clone();
            match before.state {
                Step::Suppressing => self.suppress(&project, &mut erasure).await?,
                Step::Deleting => self.delete(&project, &mut erasure).await?,
                Step::Rebuilding => self.rebuild(&project, &mut erasure).await?,
                Step::RemovingFiles => {
                    if !self.remove_files(&project, &mut erasure).await? {
                        return Ok(());
                    }
                }
                Step::Done => return Ok(()),
            }
            erasure.document.problem = None;
            self.write(&project, &mut erasure).await?;
            tracing::info!(project, erasure = erasure.id, state = ?erasure.document.state, "an erasure went on");
        }
    }

    async fn write(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        erasure.document.updated_ms = now_ms();
        let document = serde_json::to_string(&erasure.document).unwrap_or_default();
        let new = New {
            kind: ErasureDocument::KIND,
            project,
            name: &erasure.id,
            replaces: erasure.version,
            document: &document,
            by: "privacy",
        };
        erasure.version = self.store.create(&new).await?;
        Ok(())
    }

    /// Says in the job why it does not go on.
    async fn tell(&self, project: &str, id: &str, error: &StepError) {
        let problem = error.to_string();
        let Ok(Some(mut erasure)) = self.erasures(project, None).find(id).await else { return };
        if erasure.document.problem.as_ref() != Some(&problem) {
            erasure.document.problem = Some(problem);
            drop(self.write(project, &mut erasure).await);
        }
    }

    async fn suppress(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
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

    async fn delete(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        // Of a run that was killed, or of a batch that was begun before: its days are to be rebuilt as well.
        let before = erasure.document.days.len();
        self.look(project, erasure).await?;
        if erasure.document.days.len() != before {
            self.write(project, erasure).await?;
        }
        let target = target(project, erasure);
        rows::delete_events(&self.client, target).await?;
        rows::delete_dead_letters(&self.client, target).await?;
        erasure.document.state = Step::Rebuilding;
        Ok(())
    }

    async fn rebuild(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        let older: BTreeSet<i32> = erasure.document.older_days.iter().copied().collect();
        let days: BTreeSet<i32> =
            erasure.document.days.iter().map(|day| day.day).filter(|day| !older.contains(day)).collect();
        if !days.is_empty() {
            let selection = Selection::of_days(project, days.clone());
            let options = Options { selection, is_everything: true, gate: GATE, pause: PAUSE };
            erasure.document.partitions = self.rebuilt(options).await?.partitions;
            // Once more, when nothing is computed from before any more.
            let all = days.into_iter().map(|day| ChangedDay { project_id: project.to_owned(), day });
            (self.invalidate)(all.collect()).await;
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
            let rebuilding = rebuild::rebuild(&client, &options, async |days| invalidate(days).await);
            runtime.block_on(stop.run_until_cancelled(rebuilding))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Some(rebuilt)) => Ok(rebuilt?),
            Ok(None) | Err(_) => Err(StepError::LockLost),
        }
    }

    /// Whether the files are gone, or will not be.
    async fn remove_files(&self, project: &str, erasure: &mut Erasure) -> Result<bool, StepError> {
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

    /// Erases again what came back. Returns the erasures.
    pub async fn sweep(&self) -> Result<Vec<(String, Erasure)>, StepError> {
        self.control.refresh().await?;
        let snapshot = self.control.snapshot();
        let mut found = Vec::new();
        let mut projects: BTreeMap<String, BTreeMap<u64, (Subject, i64)>> = BTreeMap::new();
        for (project, document) in feed::documents(&snapshot) {
            // A person whose events are never taken has none that could come back but from before.
            let before = document.before_ms.unwrap_or(i64::MAX / 2);
            if let Some(hash) = document.subject.number().filter(|_| document.subject.kind != SubjectKind::Everybody) {
                projects.entry(project).or_default().insert(hash, (document.subject, before));
            }
        }
        for (project, subjects) in projects {
            let part = feed::key_part(&snapshot, &project);
            let hashed: Vec<_> =
                subjects.iter().map(|(hash, (_, before))| Hashed { hash: *hash, before: *before }).collect();
            let key = self.key.of_project(part.as_deref());
            for hash in rows::leftovers(&self.client, &project, key, &hashed).await? {
                let Some((subject, before)) = subjects.get(&hash) else { continue };
                tracing::warn!(
                    project,
                    subject = subject.hash,
                    "events of a person who was erased are there again; erasing them"
                );
                let erasures = self.erasures(&project, part.as_deref());
                found.push((project.clone(), erasures.again(vec![subject.clone()], *before).await?));
            }
        }
        Ok(found)
    }
}

const DAY_S: i64 = 86_400;

fn target<'a>(project: &'a str, erasure: &'a Erasure) -> Target<'a> {
    Target { project, job: &erasure.id, before: erasure.document.before_ms }
}
