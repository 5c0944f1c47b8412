//! Instants, time zones, and the grid of buckets of a series. Pure: the tz database is compiled in.
//!
//! Instants are whole seconds since the Unix epoch: no bucket is finer than a minute.

pub mod granularity;
pub mod grid;
pub mod rfc3339;
pub mod zone;

pub use granularity::Granularity;
pub use grid::Grid;
pub use zone::{Steady, Zone};

/// Seconds in a minute, the finest bucket.
pub const MINUTE: i64 = 60;

/// Seconds in a UTC day.
pub const DAY: i64 = 86_400;

/// The start of the minute that `ms` (milliseconds since the epoch) is in, in seconds.
pub fn minute_floor(ms: i64) -> i64 {
    ms.div_euclid(MINUTE * 1_000) * MINUTE
}

/// `ms` rounded up to a whole minute, in seconds.
pub fn minute_ceil(ms: i64) -> i64 {
    minute_floor(ms.saturating_add(MINUTE * 1_000 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_widened_never_narrowed() {
        assert_eq!((minute_floor(60_000), minute_ceil(60_000)), (60, 60));
        assert_eq!((minute_floor(119_999), minute_ceil(60_001)), (60, 120));
        assert_eq!((minute_floor(-1), minute_ceil(-1)), (-60, 0));
    }
}
