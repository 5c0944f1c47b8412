//! Refreshes the answers of hot keys shortly before they expire, so that their readers do not wait.
//!
//! At most [`AT_ONCE`] at a time, once a second, and only answers that were requested since they were computed, or just before:
//! an answer that nobody requests any more is refreshed once at most. The lock of the answer makes it one refresh over the fleet, however
//! many instances find it hot.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::entry::CachedAnswer;
use super::hot_keys::HotKey;

/// Refreshes at once: warming must not take ClickHouse from those who wait.
pub const AT_ONCE: usize = 2;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The last part of its time in which an answer is refreshed: 6 of 60 s.
const LAST_PART: i64 = 10;

/// The least, so that a look comes in time.
const LEAST_MS: i64 = 2_000;

impl Answers {
    /// Warms until `stopped`.
    pub async fn warm(&self, stopped: CancellationToken) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let warming = async {
            loop {
                look.tick().await;
                self.warm_once(&permits).await;
            }
        };
        tokio::select! {
            () = warming => {}
            () = stopped.cancelled() => {}
        }
    }

    pub(super) async fn warm_once(&self, permits: &Arc<Semaphore>) {
        let now_ms = (self.clock)();
        for HotKey { key, request, last_ms } in self.hot_keys.hottest(now_ms) {
            let is_due = |cached: &Arc<CachedAnswer>| is_due(cached, last_ms, now_ms);
            let Some(cached) = self.memory.get(&key).filter(is_due) else { continue };
            let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
            self.warm_up(&request, cached.computed_ms, permit).await;
        }
    }
}

/// An answer is computed for who asked so long before.
const FOR_WHO_ASKED_MS: i64 = 5_000;

/// Whether the answer's time is about to end, and somebody wants it.
fn is_due(cached: &CachedAnswer, last_ms: i64, now_ms: i64) -> bool {
    let ttl = cached.ends.end_ms - cached.computed_ms;
    let lead = (ttl / LAST_PART).max(LEAST_MS);
    let is_wanted = last_ms >= cached.computed_ms - FOR_WHO_ASKED_MS.min(ttl / 4);
    is_wanted && (cached.ends.end_ms - lead..cached.ends.end_ms).contains(&now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::tests::cached;

    #[test]
    fn an_answer_is_due_in_the_last_tenth_of_its_time() {
        // Computed at 1 s, over at 61 s.
        let due = |now_ms| is_due(&cached(""), 1_000, now_ms);
        assert_eq!([1_000, 54_999, 55_000, 60_999, 61_000].map(due), [false, false, true, true, false]);
        assert!(is_due(&cached(""), 900, 55_000), "it was computed for who asked");
        assert!(!is_due(&cached(""), -4_001, 55_000), "nobody asked since");
    }
}
