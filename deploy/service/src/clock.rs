//! The wall clock, in the one unit that everything stores: milliseconds since the Unix epoch, UTC.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch. A clock before 1970 reads as 0.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The same, but steady: the wall clock as it was when it was first asked, and the time that has passed since. Ages are told by
/// it, so that nothing gets old or young when somebody sets the clock.
pub fn steady_ms() -> i64 {
    static START: OnceLock<(i64, Instant)> = OnceLock::new();
    let (wall, instant) = START.get_or_init(|| (now_ms(), Instant::now()));
    wall.saturating_add(i64::try_from(instant.elapsed().as_millis()).unwrap_or(i64::MAX))
}
