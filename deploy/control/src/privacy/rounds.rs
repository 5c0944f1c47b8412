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
use super::runner::{LOCK, LOCK_WITHIN, LOOK_EVERY, Open, Runner, StepError};
use crate::snapshot::Snapshot;

/// Between looks for what came back.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Between looks whether somebody stored a leftover.
const LEFTOVERS_EVERY: Duration = Duration::from_secs(10);

/// After a failure, doubled each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// A project and the name of its job. The sweep has none.
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

    fn failed(&mut self, job: JobId, now: Instant) {
        let wait = self.0.entry(job).or_insert(Wait { failures: 0, until: now });
        wait.until = now + again_after(wait.failures);
        wait.failures = wait.failures.saturating_add(1);
    }

    /// Forgets jobs that are not there any more.
    fn keep(&mut self, jobs: &HashSet<JobId>) {
        self.0.retain(|job, _| jobs.contains(job) || *job == sweep_id());
    }
}

fn again_after(failures: u32) -> Duration {
    AGAIN_AT_MOST.min(AGAIN_AFTER * 2_u32.saturating_pow(failures.min(16)))
}

fn sweep_id() -> JobId {
    Default::default()
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
}

impl Rounds {
    fn is_sweep_due(&self, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|at| at + SWEEP_EVERY <= now) || self.told != self.swept_at;
        is_due && self.waits.is_due(&sweep_id(), now)
    }

    fn due_erasures(&self, now: Instant) -> Vec<Open> {
        let now_ms = now_ms();
        let is_due =
            |open: &&Open| open.erasure.document.not_before_ms <= now_ms && self.waits.is_due(&id_of(open), now);
        self.jobs.erasures.iter().filter(is_due).cloned().collect()
    }

    fn due_deletions(&self, now: Instant) -> Vec<OpenDeletion> {
        let is_due = |job: &&OpenDeletion| self.waits.is_due(&(job.project.clone(), DELETION.to_owned()), now);
        self.jobs.deletions.iter().filter(is_due).cloned().collect()
    }

    /// Takes down what came of a job. The lock is that of all.
    fn ended(&mut self, job: JobId, outcome: Result<(), StepError>) -> Result<(), StepError> {
        match outcome {
            Ok(()) => self.waits.succeeded(&job),
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
        stop.run_until_cancelled(self.work()).await;
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
        let is_sweep_due = rounds.is_sweep_due(now);
        if !is_sweep_due && rounds.due_erasures(now).is_empty() && rounds.due_deletions(now).is_empty() {
            return Ok(());
        }
        let Some(lock) = QueryLock::take(&self.client, LOCK, LOCK_WITHIN).await? else { return Ok(()) };
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
        for deletion in rounds.due_deletions(now) {
            let job = (deletion.project.clone(), DELETION.to_owned());
            let outcome = if lock.is_lost() { Err(StepError::LockLost) } else { self.delete_project(deletion).await };
            rounds.ended(job, outcome)?;
        }
        if is_sweep_due && !lock.is_lost() {
            let (told, outcome) = (rounds.told, self.sweep().await);
            if outcome.is_ok() {
                (rounds.swept, rounds.swept_at) = (Some(Instant::now()), told);
            }
            rounds.ended(sweep_id(), outcome.map(drop))?;
        }
        Ok(())
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
        if let Ok(told) = suppression_acks::leftovers(&self.client).await {
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
    fn an_error_of_one_job_is_taken_down_and_a_lost_lock_ends_the_round() {
        let mut rounds = Rounds::default();
        let failed = StepError::Erasure(super::super::erasure::ErasureError::NoKey);
        assert!(rounds.ended(job("a"), Err(failed)).is_ok());
        assert!(!rounds.waits.is_due(&job("a"), Instant::now()) && rounds.waits.is_due(&job("b"), Instant::now()));
        assert!(rounds.ended(job("a"), Ok(())).is_ok() && rounds.waits.is_due(&job("a"), Instant::now()));
        assert!(matches!(rounds.ended(job("a"), Err(StepError::LockLost)), Err(StepError::LockLost)));
    }
}
