//! File descriptors: as many as the system gives, and a reserve that connections of the public may not take.
//!
//! The reserve is for admin ports, ClickHouse, Kafka, Redis and files: without one a client that opens connections would stop inserts, and
//! nobody could look why.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

/// More would not be used.
const MOST: u64 = 1 << 20;

/// What a program takes by itself, at least and at most.
const RESERVE: (usize, usize) = (96, 1_024);

/// Raises the soft limit of descriptors to the hard one. To be called at the start, before there are listeners. Without effect where the
/// system refuses it.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST).min(MOST);
    if current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        if let Err(error) = raised {
            tracing::debug!(%error, "the limit of descriptors stays as it is");
        }
    }
}

/// Descriptors for public connections, of all listeners of a process.
pub struct Descriptors {
    budget: usize,
    taken: AtomicUsize,
    released: Notify,
}

/// One that is taken; it goes with the value.
pub struct Descriptor(&'static Descriptors);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.released.notify_one();
    }
}

/// What of a limit public connections may have.
fn budget(limit: usize) -> usize {
    limit.saturating_sub((limit / 4).clamp(RESERVE.0, RESERVE.1)).max(1)
}

impl Descriptors {
    /// Those of this process, by its limit when they are first asked for.
    pub fn of_process() -> &'static Self {
        static PROCESS: OnceLock<Descriptors> = OnceLock::new();
        PROCESS.get_or_init(|| {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
            Self {
                budget: budget(usize::try_from(limit).unwrap_or(usize::MAX)),
                taken: AtomicUsize::new(0),
                released: Notify::new(),
            }
        })
    }

    /// How many public connections fit.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// One beside the reserve, if there is one.
    pub fn take(&'static self) -> Option<Descriptor> {
        let taken = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < self.budget).then_some(taken + 1));
        taken.is_ok().then(|| Descriptor(self))
    }

    /// Waits until one is given back, at most so long.
    pub async fn released(&self, within: Duration) {
        drop(tokio::time::timeout(within, self.released.notified()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_left() {
        assert_eq!([128, 256, 1_024, 20_000, 1 << 20].map(budget), [32, 160, 768, 18_976, (1 << 20) - 1_024]);
        assert_eq!(budget(10), 1);
    }

    #[test]
    fn what_is_taken_comes_back() {
        let descriptors: &'static Descriptors =
            Box::leak(Box::new(Descriptors { budget: 1, taken: AtomicUsize::new(0), released: Notify::new() }));
        let taken = descriptors.take();
        assert!(taken.is_some() && descriptors.take().is_none());
        drop(taken);
        assert!(descriptors.take().is_some());
    }
}
