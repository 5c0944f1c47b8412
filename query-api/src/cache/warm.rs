//! Refreshes the hottest answers shortly before their soft end, so that their readers never see a stale one.
//!
//! At most [`AT_ONCE`] at a time, one look a second, and only answers that somebody asked for since they were computed: of a
//! window that slides each minute has an answer of its own, and those of minutes that are over would be refreshed for nobody. Over the
//! fleet the lock of the answer makes it one refresh however many instances find it hot.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::entry::Kept;
use super::heat::Asked;

/// Refreshes at once: warming must not take ClickHouse from those who wait.
pub const AT_ONCE: usize = 2;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The last part of its fresh time in which an answer is refreshed: 6 of 60 s.
const LAST_PART: i64 = 10;

/// The least, so that a look comes in time.
const LEAST_MS: i64 = 2_000;

impl Answers {
    /// Warms until `stopped`.
    pub async fn warm(&self, stopped: CancellationToken) {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let warming = async {
            loop {
                look.tick().await;
                self.warm_once(&turns).await;
            }
        };
        tokio::select! {
            () = warming => {}
            () = stopped.cancelled() => {}
        }
    }

    async fn warm_once(&self, turns: &Arc<Semaphore>) {
        let now_ms = (self.clock)();
        for Asked { key, wanted, last_ms } in self.heat.hottest(now_ms) {
            let is_due = |kept: &Arc<Kept>| is_due(kept, last_ms, now_ms);
            let Some(kept) = self.memory.get(&key).filter(is_due) else { continue };
            let Ok(turn) = Arc::clone(turns).acquire_owned().await else { return };
            self.warm_up(&wanted, kept.computed_ms, turn).await;
        }
    }
}

/// Whether the answer is fresh, but not for much longer, and wanted.
fn is_due(kept: &Kept, last_ms: i64, now_ms: i64) -> bool {
    let lead = ((kept.ends.soft_ms - kept.computed_ms) / LAST_PART).max(LEAST_MS);
    last_ms >= kept.computed_ms && (kept.ends.soft_ms - lead..kept.ends.soft_ms).contains(&now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::tests::kept;

    #[test]
    fn an_answer_is_due_in_the_last_tenth_of_its_fresh_time() {
        // Computed at 1 s, fresh until 61 s.
        let due = |now_ms| is_due(&kept(""), 1_000, now_ms);
        assert_eq!([1_000, 54_999, 55_000, 60_999, 61_000].map(due), [false, false, true, true, false]);
        assert!(!is_due(&kept(""), 999, 55_000), "nobody asked since");
    }
}
