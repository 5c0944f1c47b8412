//! Turns of exports: few at once, fewer for one project, and nobody waits for long. Not in the queue of all other questions:
//! an export lasts as long as its reader takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NoTurn;

/// The longest wait for a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exports of one project that may run or wait at once. One tenant never takes every turn.
const PER_PROJECT: usize = 3;

/// Seconds after which a caller who found all places taken may come back.
const RETRY_AFTER_S: u32 = 5;

/// Turns for exports. Clones share them.
#[derive(Clone)]
pub struct ExportTurns {
    running: Arc<Semaphore>,
    present: Arc<Mutex<HashMap<String, usize>>>,
}

/// The right to run, until it is dropped.
#[derive(Debug)]
pub struct ExportTurn {
    _running: OwnedSemaphorePermit,
    _present: Present,
}

/// A project's place among those that run or wait.
#[derive(Debug)]
struct Present {
    all: Arc<Mutex<HashMap<String, usize>>>,
    project: String,
}

impl ExportTurns {
    /// At most `concurrency` exports at once.
    pub fn new(concurrency: usize) -> Self {
        Self { running: Arc::new(Semaphore::new(concurrency)), present: Arc::default() }
    }

    /// Waits for a turn, in the order of asking.
    pub async fn take(&self, project: &str) -> Result<ExportTurn, NoTurn> {
        let present = self.enter(project)?;
        let running = tokio::time::timeout(PATIENCE, Arc::clone(&self.running).acquire_owned());
        match running.await {
            Ok(Ok(running)) => Ok(ExportTurn { _running: running, _present: present }),
            Ok(Err(_)) | Err(_) => Err(NoTurn::Overloaded { retry_after_s: RETRY_AFTER_S }),
        }
    }

    fn enter(&self, project: &str) -> Result<Present, NoTurn> {
        let mut all = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(project.to_owned()).or_default();
        if *count >= PER_PROJECT {
            return Err(NoTurn::TenantBusy { retry_after_s: RETRY_AFTER_S });
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
    async fn turns_are_limited_per_project_and_waiting_ends() {
        let turns = ExportTurns::new(PER_PROJECT);
        let mut held = Vec::new();
        for _ in 0..PER_PROJECT {
            held.push(turns.take("a").await.ok().unwrap());
        }
        assert_eq!(
            turns.take("a").await.err(),
            Some(NoTurn::TenantBusy { retry_after_s: 5 }),
            "a project took more than its share"
        );
        let before = tokio::time::Instant::now();
        assert_eq!(turns.take("b").await.err(), Some(NoTurn::Overloaded { retry_after_s: 5 }), "no turn is free");
        assert_eq!(before.elapsed(), PATIENCE);
        held.clear();
        assert!(turns.take("b").await.is_ok());
        assert!(turns.present.lock().unwrap().is_empty(), "nothing is remembered about who left");
    }
}
