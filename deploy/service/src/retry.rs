//! Exponential backoff: the pause doubles with each failure, with a jitter of up to 20 % either way, so that callers that failed
//! together do not retry together.
//!
//! Waiting for a condition (a port, a lock, a merge) is no retry: it polls at a fixed interval, where it is needed.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// What the ingester writes: inserts, dead letters, repairs, and what Kafka did not take (`ingest/src/poison/storing.rs`, `worker/committer.rs` and others).
pub const WRITE: Policy = Policy::new(Duration::from_millis(100), Duration::from_millis(3_200));

/// A start of the embedded ClickHouse that ended unasked (`deploy/tallyhouse/src/engine/supervisor.rs`).
pub const ENGINE_START: Policy = Policy::new(Duration::from_millis(100), Duration::from_secs(10));

/// A batch that a client sends (`loadtest/src/client.rs`).
pub const CLIENT: Policy = Policy::new(Duration::from_millis(100), Duration::from_secs(5));

/// No `Retry-After` is obeyed for longer.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// After so many doublings every policy is at its longest pause.
const MAX_DOUBLINGS: u32 = 16;

/// The pauses between the tries of one kind of work.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    first: Duration,
    longest: Duration,
}

impl Policy {
    const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after so many failures in a row.
    pub fn pause(self, failures: u32) -> Duration {
        self.pause_at(failures, rand::random())
    }

    /// The same for a given random number, from 0 to 1.
    fn pause_at(self, failures: u32, random: f64) -> Duration {
        let pauses = ExponentialBuilder::new()
            .with_factor(2.0)
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .without_max_times();
        // backon's own jitter only ever prolongs, up to twice the pause.
        let nth = failures.saturating_sub(1).min(MAX_DOUBLINGS) as usize;
        pauses.build().nth(nth).unwrap_or(self.longest).mul_f64(0.8 + 0.4 * random)
    }

    /// As [`Policy::pause`], unless the server asked for a time: never earlier than that.
    pub fn pause_or_asked(self, failures: u32, retry_after: Option<Duration>) -> Duration {
        retry_after.map_or_else(|| self.pause(failures), |asked| after_asked(asked, rand::random()))
    }
}

fn after_asked(asked: Duration, random: f64) -> Duration {
    asked.min(LONGEST_ASKED).mul_f64(1.0 + 0.2 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        for (policy, expected) in [
            (WRITE, [100, 200, 400, 800, 3_200, 3_200]),
            (ENGINE_START, [100, 200, 400, 800, 10_000, 10_000]),
            (CLIENT, [100, 200, 400, 800, 5_000, 5_000]),
        ] {
            let pauses = [1, 2, 3, 4, 8, 1_000].map(|failures| policy.pause_at(failures, 0.5).as_millis());
            assert_eq!(pauses, expected);
        }
        assert_eq!(WRITE.pause_at(6, 0.5).as_millis(), 3_200);
    }

    #[test]
    fn pauses_are_spread_by_a_fifth_either_way() {
        assert_eq!(ENGINE_START.pause_at(1, 0.0), Duration::from_millis(80));
        for _ in 0..1_000 {
            assert!((Duration::from_millis(2_560)..=Duration::from_millis(3_840)).contains(&WRITE.pause(9)));
        }
    }

    #[test]
    fn nobody_comes_back_before_the_time_the_server_named() {
        let asked = Duration::from_secs(2);
        assert_eq!(after_asked(asked, 0.0), asked);
        assert!(after_asked(asked, 0.99) < Duration::from_millis(2_400));
        assert!(after_asked(Duration::from_secs(86_400), 0.99) < Duration::from_secs(73));
        assert!((asked..Duration::from_millis(2_400)).contains(&CLIENT.pause_or_asked(9, Some(asked))));
    }
}
