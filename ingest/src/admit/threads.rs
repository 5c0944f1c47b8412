//! Threads that inflate and parse: as many as there are cores, and half of them for one project.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::request::RequestError;

/// Bounds how many bodies are inflated or parsed at a time, beside the threads that serve requests.
#[derive(Debug)]
pub struct Threads {
    all: Arc<Semaphore>,
    of_one: usize,
    /// One entry per project that ever needed one.
    of_project: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Threads {
    /// As many as there are cores, but two at least: a project that needs one for long leaves one to the others.
    pub fn of_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2))
    }

    fn new(threads: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(threads)), of_one: (threads / 2).max(1), of_project: Mutex::default() }
    }

    /// Does something on a thread of its own, when one is free before the deadline. It is not cut off when nobody waits for it any more, and
    /// counts until it ends.
    pub async fn run<T: Send + 'static>(
        &self,
        project: &str,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        // Only those of one project wait behind each other: at the second gate there is never more than half of it.
        let permits = async { Some((permit(self.of(project)).await?, permit(Arc::clone(&self.all)).await?)) };
        let permits =
            tokio::time::timeout_at(deadline, permits).await.ok().flatten().ok_or(RequestError::Overloaded)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permits);
            done
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "reading a body failed");
            RequestError::Internal
        })
    }

    fn of(&self, project: &str) -> Arc<Semaphore> {
        let mut known = self.of_project.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = known.get(project) {
            return Arc::clone(semaphore);
        }
        let semaphore = Arc::new(Semaphore::new(self.of_one));
        known.insert(project.to_owned(), Arc::clone(&semaphore));
        semaphore
    }
}

async fn permit(of: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    of.acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_project_that_inflates_for_long_leaves_a_thread_to_others() {
        let threads = Threads::new(2);
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let long = threads.run("a", Instant::now() + Duration::from_secs(60), move || held.recv().is_err());
        let others = async {
            let soon = Instant::now() + Duration::from_millis(200);
            let refused = threads.run("a", soon, || ()).await;
            let done = threads.run("b", Instant::now() + Duration::from_secs(30), || 7).await;
            drop(let_go);
            (refused, done)
        };
        let (long, (refused, done)) = tokio::join!(long, others);
        assert_eq!((long, refused, done), (Ok(true), Err(RequestError::Overloaded), Ok(7)));
        assert_eq!(threads.run("a", Instant::now() + Duration::from_secs(30), || 8).await, Ok(8));
    }
}
