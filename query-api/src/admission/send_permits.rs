//! Permits to send answers, held for as long as the client reads: few at once, fewer per project. They are apart from the queue of
//! queries, where a slow reader would hold a slot that another statement could run in.
//!
//! * An **export** is read while it runs. `QUERY_EXPORT_CONCURRENCY` is the number of permits; a further export waits a little.
//! * The answer of an **analyst's statement** waits in ClickHouse, complete, up to 100 MB of it. [`WAITING`] of them may wait, and
//!   [`WAITING_OF_PROJECT`] of one project, besides as many as there are slots to run statements in: a client that reads its answers
//!   is never refused here. The number follows from those slots, so it has no variable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NotAdmitted;

/// The longest wait for a permit.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Exports of one project that may run or wait at once. One tenant never takes every permit.
const EXPORTS_OF_PROJECT: usize = 3;

/// Complete answers that may wait for their readers.
const WAITING: usize = 16;

/// Statements that have been answered to their end, or given up, and that ClickHouse is about to end.
const ENDING: usize = 4;

/// Those of one project.
const WAITING_OF_PROJECT: usize = 4;

/// Seconds after which a caller who found all slots taken may come back.
const RETRY_AFTER_S: u32 = 5;

/// Permits to send answers. Clones share them.
#[derive(Clone)]
pub struct SendPermits {
    all: Arc<Semaphore>,
    present: Arc<Mutex<HashMap<String, usize>>>,
    of_project: usize,
}

/// The permit to send an answer, until it is dropped.
#[derive(Debug)]
pub struct SendPermit {
    _slot: OwnedSemaphorePermit,
    _present: Present,
}

/// A project's slot among those that send or wait.
#[derive(Debug)]
struct Present {
    all: Arc<Mutex<HashMap<String, usize>>>,
    project: String,
}

impl SendPermits {
    /// At most `concurrency` exports at once.
    pub fn of_exports(concurrency: usize) -> Self {
        Self::new(concurrency, EXPORTS_OF_PROJECT)
    }

    /// The answers of statements, of which `running` may run at once.
    pub fn of_statements(running: usize) -> Self {
        Self::new(running + WAITING, running + WAITING_OF_PROJECT)
    }

    /// Statements that ClickHouse lists at once at most, where `running` may run: an answer that waits for its reader is listed until it
    /// is read. For the engine's own limit.
    pub const fn listed_statements(running: usize) -> usize {
        running + WAITING + ENDING
    }

    fn new(all: usize, of_project: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), present: Arc::default(), of_project }
    }

    /// Waits for a permit, in the order of asking.
    pub async fn take(&self, project: &str) -> Result<SendPermit, NotAdmitted> {
        let present = self.enter(project)?;
        let slot = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.all).acquire_owned());
        match slot.await {
            Ok(Ok(slot)) => Ok(SendPermit { _slot: slot, _present: present }),
            Ok(Err(_)) | Err(_) => Err(NotAdmitted::Overloaded { retry_after_s: RETRY_AFTER_S }),
        }
    }

    /// A permit, if one is free now: for whoever holds what others wait for.
    pub fn take_now(&self, project: &str) -> Result<SendPermit, NotAdmitted> {
        let present = self.enter(project)?;
        match Arc::clone(&self.all).try_acquire_owned() {
            Ok(slot) => Ok(SendPermit { _slot: slot, _present: present }),
            Err(_) => Err(NotAdmitted::Overloaded { retry_after_s: RETRY_AFTER_S }),
        }
    }

    fn enter(&self, project: &str) -> Result<Present, NotAdmitted> {
        let mut all = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(project.to_owned()).or_default();
        if *count >= self.of_project {
            return Err(NotAdmitted::TenantBusy { retry_after_s: RETRY_AFTER_S });
        }
        *count += 1;
        Ok(Present { all: Arc::clone(&self.present), project: project.to_owned() })
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.project) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                all.remove(&self.project);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn permits_are_limited_per_project_and_waiting_ends() {
        let permits = SendPermits::of_exports(EXPORTS_OF_PROJECT);
        let mut held = Vec::new();
        for _ in 0..EXPORTS_OF_PROJECT {
            held.push(permits.take("a").await.ok().unwrap());
        }
        assert_eq!(
            permits.take("a").await.err(),
            Some(NotAdmitted::TenantBusy { retry_after_s: 5 }),
            "a project took more than its share"
        );
        let before = tokio::time::Instant::now();
        assert_eq!(
            permits.take("b").await.err(),
            Some(NotAdmitted::Overloaded { retry_after_s: 5 }),
            "no permit is free"
        );
        assert_eq!(before.elapsed(), LONGEST_WAIT);
        held.clear();
        assert!(permits.take("b").await.is_ok());
        assert!(permits.present.lock().unwrap().is_empty(), "nothing is remembered about who left");
    }

    #[test]
    fn answers_that_nobody_reads_leave_room_for_others_until_there_are_too_many() {
        const RUNNING: usize = 2;
        let permits = SendPermits::of_statements(RUNNING);
        let fill = |project| std::iter::from_fn(|| permits.take_now(project).ok()).collect::<Vec<_>>();
        let first = fill("a");
        assert_eq!(first.len(), RUNNING + WAITING_OF_PROJECT);
        assert_eq!(permits.take_now("a").err(), Some(NotAdmitted::TenantBusy { retry_after_s: 5 }));
        let others: Vec<_> = ["b", "c", "d"].into_iter().flat_map(fill).collect();
        assert_eq!(first.len() + others.len(), RUNNING + WAITING);
        assert_eq!(permits.take_now("e").err(), Some(NotAdmitted::Overloaded { retry_after_s: 5 }));
        drop(first);
        assert!(permits.take_now("e").is_ok());
    }
}
