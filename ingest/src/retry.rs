//! Exponential backoff with jitter.

use std::time::Duration;

use rand::RngExt;

/// First and longest pause between attempts; each is twice the one before, +-20 %.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(3_200));

/// The pause after the given attempt, counted from 1.
pub fn pause_after(attempt: u32) -> Duration {
    let longest = PAUSES.1.as_millis() / PAUSES.0.as_millis();
    let factor = 1_u128.checked_shl(attempt.saturating_sub(1)).unwrap_or(longest).min(longest) as u32;
    (PAUSES.0 * factor).mul_f64(rand::rng().random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let about = |attempt, millis: f64| {
            let ratio = pause_after(attempt).as_secs_f64() * 1e3 / millis;
            assert!((0.79..1.21).contains(&ratio), "attempt {attempt}: {ratio}");
        };
        about(1, 100.0);
        about(3, 400.0);
        about(6, 3_200.0);
        about(1_000, 3_200.0);
    }
}
