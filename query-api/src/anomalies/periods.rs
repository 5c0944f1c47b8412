//! The periods after which a series may repeat itself, in buckets.

use crate::time::{DAY, Granularity};

/// Buckets after which a series of this granularity may repeat itself, shortest first.
pub fn periods(granularity: Granularity) -> Vec<usize> {
    match granularity.clock_seconds().and_then(|width| usize::try_from(DAY / width).ok()) {
        Some(day) => vec![day, 7 * day],
        None if granularity == Granularity::Day => vec![7],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_weeks_repeat_themselves() {
        assert_eq!(periods(Granularity::Hour), [24, 168]);
        assert_eq!(periods(Granularity::Minute), [1_440, 10_080]);
        assert_eq!(periods(Granularity::Day), [7]);
        assert!(periods(Granularity::Month).is_empty());
    }
}
