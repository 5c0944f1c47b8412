//! When the runner works, and on what: one runner at a time, whichever process it is in.
//!
//! ```text
//! each second: something due? -> take the lock -> erasures, the oldest first -> deletions of projects -> what came back (sweep)
//! sweep: at start, each hour, and when a process stored a leftover: rows from before a suppression? -> an erasure of their own
//! ```
//!
//! A job that fails is tried again later, each time later, and holds up no other; so does a sweep. Where nobody can work at all (ClickHouse
//! is away), the next look comes later.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::lock::QueryLock;
use tallyhouse_sql::suppression_acks;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::deletion::{self, OpenDeletion};
use super::documents::{DELETION, Step, is_erasure};
use super::erasure::Erasure;
use super::feed;
use super::runner::{
    DELETIONS_EVERY, FILES_EVERY, LOCK, LOCK_WITHIN, LOOK_EVERY, Open, Runner, StepError, StepOutcome,
};
use crate::snapshot::Snapshot;

/// Between looks for what came back.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Between looks whether somebody stored a leftover.
const LEFTOVERS_EVERY: Duration = Duration::from_secs(10);

/// After a failure, doubled each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// After the sweep of a project failed, doubled each time.
const SWEEP_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A project and the name of its job. The sweep of a project has none; that of all has neither.
type JobId = (String, String);

/// When what failed is tried again.
#[derive(Default)]
struct Waits(HashMap<JobId, Wait>);

struct Wait {
    failures: u32,
    until: Instant,
}

impl Waits {
    fn is_due(&self, job: &JobId, now: Instant) -> bool {
        self.0.get(job).is_none_or(|wait| wait.until <= now)
    }

    fn succeeded(&mut self, job: &JobId) {
        self.0.remove(job);
    }

    /// It goes on by itself, and is looked at later.
    fn pending(&mut self, job: JobId, now: Instant) {
        self.0.insert(job, Wait { failures: 0, until: now + DELETIONS_EVERY });
    }

    fn failed(&mut self, job: JobId, now: Instant) {
        let is_sweep_of_one = job.1.is_empty() && job != sweep_id();
        let wait = self.0.entry(job).or_insert(Wait { failures: 0, until: now });
        wait.until = now + if is_sweep_of_one { sweep_again_after(wait.failures) } else { again_after(wait.failures) };
        wait.failures = wait.failures.saturating_add(1);
    }

    /// Forgets jobs that are not there any more.
    fn keep(&mut self, jobs: &HashSet<JobId>) {
        self.0.retain(|job, _| jobs.contains(job) || job.1.is_empty());
    }

    /// Projects whose sweep failed and is to be tried again; none after a failure that was about all of them.
    fn sweeps_due(&self, now: Instant) -> HashSet<String> {
        if !self.is_due(&sweep_id(), now) {
            return HashSet::new();
        }
        let is_due = |(job, wait): &(&JobId, &Wait)| job.1.is_empty() && **job != sweep_id() && wait.until <= now;
        self.0.iter().filter(is_due).map(|((project, _), _)| project.clone()).collect()
    }
}

fn again_after(failures: u32) -> Duration {
    AGAIN_AT_MOST.min(AGAIN_AFTER * 2_u32.saturating_pow(failures.min(16)))
}

fn sweep_again_after(failures: u32) -> Duration {
    SWEEP_EVERY.min(SWEEP_AGAIN_AFTER * 2_u32.saturating_pow(failures.min(16)))
}

fn sweep_id() -> JobId {
    Default::default()
}

fn sweep_id_of(project: &str) -> JobId {
    (project.to_owned(), String::new())
}

/// What is to be done, as a snapshot says. Documents are parsed once.
#[derive(Default)]
struct Jobs {
    generation: Option<u64>,
    /// That are not done: the oldest first.
    erasures: Vec<Open>,
    deletions: Vec<OpenDeletion>,
    /// Nobody was ever erased.
    is_nobody_erased: bool,
}

impl Jobs {
    fn of(snapshot: &Snapshot, generation: u64) -> Self {
        let erasures = snapshot.all_records().filter(|record| is_erasure(record));
        let open = erasures.filter_map(|record| {
            let erasure = Erasure::of(record).filter(|erasure| erasure.document.state != Step::Done)?;
            Some(Open { project: record.project.to_string(), erasure })
        });
        let mut erasures: Vec<_> = open.collect();
        erasures.sort_by_key(|open| open.erasure.document.requested_ms);
        Self {
            generation: Some(generation),
            erasures,
            deletions: deletion::open(snapshot),
            is_nobody_erased: feed::version(snapshot) == 0,
        }
    }

    fn ids(&self) -> HashSet<JobId> {
        let erasures = self.erasures.iter().map(id_of);
        erasures.chain(self.deletions.iter().map(|job| (job.project.clone(), DELETION.to_owned()))).collect()
    }
}

fn id_of(open: &Open) -> JobId {
    (open.project.clone(), open.erasure.id.clone())
}

/// What a runner remembers between its looks.
#[derive(Default)]
struct Rounds {
    jobs: Jobs,
    waits: Waits,
    swept: Option<Instant>,
    /// How many leftovers there were at the last look, and at the last sweep.
    looked: Option<Instant>,
    told: u64,
    swept_at: u64,
    /// When it was last looked whether files are gone.
    looked_for_files: Option<Instant>,
}

impl Rounds {
    fn is_sweep_due(&self, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|at| at + SWEEP_EVERY <= now) || self.told != self.swept_at;
        is_due && self.waits.is_due(&sweep_id(), now)
    }

    fn is_for_files(&self, now: Instant) -> bool {
        self.looked_for_files.is_none_or(|at| at + FILES_EVERY <= now)
    }

    fn due_erasures(&self, now: Instant) -> Vec<Open> {
        let now_ms = now_ms();
        let is_for_files = self.is_for_files(now);
        let is_due = |open: &&Open| {
            let document = &open.erasure.document;
            (is_for_files || document.state != Step::RemovingFiles)
                && document.not_before_ms <= now_ms
                && self.waits.is_due(&id_of(open), now)
        };
        self.jobs.erasures.iter().filter(is_due).cloned().collect()
    }

    fn due_deletions(&self, now: Instant) -> Vec<OpenDeletion> {
        let is_for_files = self.is_for_files(now);
        let is_due = |job: &&OpenDeletion| {
            (is_for_files || !job.is_for_files()) && self.waits.is_due(&(job.project.clone(), DELETION.to_owned()), now)
        };
        self.jobs.deletions.iter().filter(is_due).cloned().collect()
    }

    /// Records which sweeps failed, of those tried again and of others.
    fn swept_some(&mut self, again: &HashSet<String>, failed: impl Iterator<Item = String>) {
        let failed: HashSet<String> = failed.collect();
        again.difference(&failed).for_each(|project| self.waits.succeeded(&sweep_id_of(project)));
        failed.iter().for_each(|project| self.waits.failed(sweep_id_of(project), Instant::now()));
    }

    /// Records what came of a job. The lock is that of all.
    fn ended(&mut self, job: JobId, outcome: Result<StepOutcome, StepError>) -> Result<(), StepError> {
        match outcome {
            Ok(StepOutcome::Advanced | StepOutcome::Idle) => self.waits.succeeded(&job),
            Ok(StepOutcome::Deleting) => self.waits.pending(job, Instant::now()),
            // Its job says why.
            Ok(StepOutcome::DeletionFails) => self.waits.failed(job, Instant::now()),
            Err(StepError::LockLost) => return Err(StepError::LockLost),
            Err(error) => {
                let (project, name) = &job;
                tracing::warn!(project, job = name, %error, "it could not go on; trying again");
                self.waits.failed(job, Instant::now());
            }
        }
        Ok(())
    }
}

impl Runner {
    /// Works until `stop`. What is under way then is taken up again by whoever runs next.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(Box::pin(self.work())).await;
    }

    async fn work(&self) {
        let (mut rounds, mut failures) = (Rounds::default(), 0);
        loop {
            sleep(LOOK_EVERY).await;
            match self.round(&mut rounds).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::warn!(%error, "erasures could not go on; trying again");
                    sleep(again_after(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    async fn round(&self, rounds: &mut Rounds) -> Result<(), StepError> {
        self.know(rounds);
        self.look_for_leftovers(rounds).await;
        let now = Instant::now();
        let is_sweep_due = rounds.is_sweep_due(now) || !rounds.waits.sweeps_due(now).is_empty();
        if !is_sweep_due && rounds.due_erasures(now).is_empty() && rounds.due_deletions(now).is_empty() {
            return Ok(());
        }
        let Some(lock) = QueryLock::take(self.shards.home(), LOCK, LOCK_WITHIN).await? else { return Ok(()) };
        // What is known here may be two seconds old.
        self.control.refresh().await?;
        self.know(rounds);
        for open in rounds.due_erasures(now) {
            let job = id_of(&open);
            let outcome = self.finish(&lock, open).await;
            if let Err(error) = &outcome {
                self.tell(&job.0, &job.1, error).await;
            }
            rounds.ended(job, outcome)?;
        }
        let deletions = rounds.due_deletions(now);
        if rounds.is_for_files(now) {
            rounds.looked_for_files = Some(now);
        }
        for deletion in deletions {
            let job = (deletion.project.clone(), DELETION.to_owned());
            let outcome = if lock.is_lost() { Err(StepError::LockLost) } else { self.delete_project(deletion).await };
            rounds.ended(job, outcome)?;
        }
        if is_sweep_due && !lock.is_lost() {
            self.sweep_due(rounds, now).await?;
        }
        Ok(())
    }

    /// Sweeps all projects, or those whose sweep failed. One that fails is tried again by itself.
    async fn sweep_due(&self, rounds: &mut Rounds, now: Instant) -> Result<(), StepError> {
        let (is_of_all, again, told) = (rounds.is_sweep_due(now), rounds.waits.sweeps_due(now), rounds.told);
        let is_wanted = |project: &str| match is_of_all {
            true => rounds.waits.is_due(&sweep_id_of(project), now),
            false => again.contains(project),
        };
        let outcome = self.sweep_of(is_wanted).await.map(|swept| {
            rounds.swept_some(&again, swept.failed.into_keys());
            if is_of_all {
                (rounds.swept, rounds.swept_at) = (Some(Instant::now()), told);
            }
            StepOutcome::Idle
        });
        rounds.ended(sweep_id(), outcome)
    }

    fn know(&self, rounds: &mut Rounds) {
        // In this order: a snapshot that comes between is read again.
        let generation = self.control.generation();
        if rounds.jobs.generation != Some(generation) {
            rounds.jobs = Jobs::of(&self.control.snapshot(), generation);
            rounds.waits.keep(&rounds.jobs.ids());
        }
    }

    async fn look_for_leftovers(&self, rounds: &mut Rounds) {
        if rounds.jobs.is_nobody_erased || rounds.looked.is_some_and(|at| at.elapsed() < LEFTOVERS_EVERY) {
            return;
        }
        rounds.looked = Some(Instant::now());
        if let Ok(told) = suppression_acks::leftovers(self.shards.home()).await {
            rounds.told = told;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobId {
        ("shop".to_owned(), name.to_owned())
    }

    #[test]
    fn what_fails_waits_longer_each_time_and_holds_up_no_other() {
        let (mut waits, now) = (Waits::default(), Instant::now());
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (7, 60)] {
            while waits.0.get(&job("a")).map_or(0, |wait| wait.failures) < failures {
                waits.failed(job("a"), now);
            }
            let due = now + Duration::from_secs(seconds);
            assert!(
                waits.is_due(&job("a"), due) && !waits.is_due(&job("a"), due - Duration::from_millis(1)),
                "{failures}"
            );
        }
        assert!(waits.is_due(&job("b"), now));
        waits.failed(sweep_id(), now);
        waits.keep(&HashSet::from([job("b")]));
        assert!(waits.is_due(&job("a"), now) && !waits.is_due(&sweep_id(), now), "jobs go, the sweep stays");
    }

    #[test]
    fn a_project_whose_sweep_fails_is_tried_again_by_itself_and_each_time_later() {
        let mut rounds = Rounds { swept: Some(Instant::now()), ..Rounds::default() };
        let mut again = HashSet::new();
        let minutes = [1, 2, 4, 8, 16, 32, 60, 60].map(|minutes| {
            rounds.swept_some(&again, ["shop".to_owned()].into_iter());
            let now = Instant::now();
            assert!(rounds.waits.sweeps_due(now).is_empty() && !rounds.is_sweep_due(now), "the others are swept");
            again = rounds.waits.sweeps_due(now + Duration::from_secs(minutes * 60));
            assert!(rounds.waits.sweeps_due(now + Duration::from_secs(minutes * 60 - 1)).is_empty(), "{minutes}");
            again.len()
        });
        assert_eq!(minutes, [1; 8]);
        rounds.swept_some(&again, std::iter::empty());
        assert!(rounds.waits.0.is_empty());
    }

    #[test]
    fn a_failure_that_is_about_all_sweeps_holds_up_those_that_are_tried_again() {
        let mut rounds = Rounds { swept: Some(Instant::now()), ..Rounds::default() };
        rounds.swept_some(&HashSet::new(), ["shop".to_owned()].into_iter());
        let again = Instant::now() + SWEEP_AGAIN_AFTER;
        assert_eq!(rounds.waits.sweeps_due(again).len(), 1);
        // A shard is away.
        rounds.waits.failed(sweep_id(), again);
        assert!(rounds.waits.sweeps_due(again).is_empty() && !rounds.is_sweep_due(again));
        assert_eq!(rounds.waits.sweeps_due(again + AGAIN_AFTER).len(), 1);
    }

    #[test]
    fn a_deletion_that_clickhouse_is_still_at_is_looked_at_later_and_one_that_fails_each_time_later() {
        let mut rounds = Rounds::default();
        let is_due_after = |rounds: &Rounds, seconds: u64| {
            rounds.waits.is_due(&job("a"), Instant::now() + Duration::from_secs(seconds))
        };
        assert!(rounds.ended(job("a"), Ok(StepOutcome::Deleting)).is_ok());
        assert!(!is_due_after(&rounds, 8) && is_due_after(&rounds, 10));
        for _ in 0..6 {
            assert!(rounds.ended(job("a"), Ok(StepOutcome::DeletionFails)).is_ok());
        }
        assert!(!is_due_after(&rounds, 25) && is_due_after(&rounds, 32));
        assert!(rounds.ended(job("a"), Ok(StepOutcome::Deleting)).is_ok() && is_due_after(&rounds, 10), "it goes on");
    }

    #[test]
    fn an_error_of_one_job_is_taken_down_and_a_lost_lock_ends_the_round() {
        let mut rounds = Rounds::default();
        let failed = StepError::Erasure(super::super::erasure::ErasureError::NoKey);
        assert!(rounds.ended(job("a"), Err(failed)).is_ok());
        assert!(!rounds.waits.is_due(&job("a"), Instant::now()) && rounds.waits.is_due(&job("b"), Instant::now()));
        assert!(
            rounds.ended(job("a"), Ok(StepOutcome::Idle)).is_ok() && rounds.waits.is_due(&job("a"), Instant::now())
        );
        assert!(matches!(rounds.ended(job("a"), Err(StepError::LockLost)), Err(StepError::LockLost)));
    }
}
