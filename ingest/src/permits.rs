//! Permits for inserts: how many the process sends at once. Counted also are those that wait for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tallyhouse_service::metrics::pools::PoolStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clones share them.
#[derive(Debug, Clone)]
pub struct InsertPermits {
    free: Arc<Semaphore>,
    size: usize,
    waiting: Arc<AtomicUsize>,
}

/// Somebody who waits; until it is dropped.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InsertPermits {
    pub fn new(size: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(size)), size, waiting: Arc::default() }
    }

    /// One, when it is free; `None` never comes, because they are never closed.
    pub async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(permit);
        }
        let _waiter = Waiter::new(&self.waiting);
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// For metrics.
    pub fn status(&self) -> PoolStatus {
        let in_use = self.size.saturating_sub(self.free.available_permits());
        PoolStatus { size: self.size, in_use, idle: None, waiting: self.waiting.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_counted_until_it_has_one_or_gives_up() {
        let permits = InsertPermits::new(1);
        let held = permits.acquire().await;
        let mut waits = Box::pin(permits.acquire());
        assert!(futures_util::poll!(&mut waits).is_pending());
        assert_eq!(permits.status(), PoolStatus { size: 1, in_use: 1, idle: None, waiting: 1 });
        drop(waits);
        assert_eq!(permits.status().waiting, 0);
        drop(held);
        assert_eq!(permits.status().in_use, 0);
    }
}
