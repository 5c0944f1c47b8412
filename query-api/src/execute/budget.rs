//! Limits how much one answer may hold while it is put together.

use crate::admission::MAX_RESULT_ROWS;
use crate::store::ReadError;

/// Points of all readings of one answer together. A metric with a condition of its own is a reading of its own, and so is
/// each of them over the period before and for the totals: sixteen metrics of eight measures are 256 and more. As many as
/// one statement may give: five readings of as many rows as an answer may have, some 100 MB.
const MOST: u64 = MAX_RESULT_ROWS;
const _: () = assert!(MOST == 500_000, "the text names it");

/// What is left for an answer.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    /// All of it.
    pub(super) const fn whole() -> Self {
        Self { left: MOST }
    }

    /// Takes so many points, unless that is more than is left.
    pub(super) fn take(&mut self, points: usize) -> Result<(), ReadError> {
        let limit = "500,000 points, of all metrics, their totals and the period before together";
        self.left = self.left.checked_sub(points as u64).ok_or(ReadError::TooExpensive { limit })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_limited_together() {
        let mut budget = Budget::whole();
        for _ in 0..5 {
            budget.take(100_000).unwrap();
        }
        assert!(matches!(budget.take(1), Err(ReadError::TooExpensive { .. })));
        assert_eq!(budget.take(0), Ok(()));
    }
}
