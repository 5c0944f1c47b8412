//! How long a client waits before it tries again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The wait before try `failures + 1`: what the server asked for, else 100 ms doubled per failure up to 5 s.
///
/// `luck` in `0.0..1.0` spreads the wait by ±20 % (only upwards when the server named a time: never earlier than asked),
/// so that clients which failed together do not come back together.
pub fn wait(failures: u32, retry_after: Option<Duration>, luck: f64) -> Duration {
    match retry_after {
        Some(asked) => asked.min(Duration::from_secs(60)).mul_f64(1.0 + 0.2 * luck),
        None => {
            FIRST.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST).mul_f64(0.8 + 0.4 * luck)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let middle = |failures| wait(failures, None, 0.5).as_millis();
        assert_eq!([1, 2, 3, 4].map(middle), [100, 200, 400, 800]);
        assert_eq!(middle(40), 5_000);
    }

    #[test]
    fn nobody_comes_back_before_the_time_the_server_named() {
        let asked = Duration::from_secs(2);
        assert_eq!(wait(1, Some(asked), 0.0), asked);
        assert!(wait(9, Some(asked), 0.99) < Duration::from_millis(2_400));
        assert!(wait(1, Some(Duration::from_secs(86_400)), 0.99) < Duration::from_secs(73));
    }
}
