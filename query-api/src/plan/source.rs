//! Chooses the rollup that answers a range.

use serde::Serializer;
use tallyhouse_schema::Rollup;

use super::error::Unplannable;
use crate::time::{DAY, Grid};

/// The coarsest rollup whose own buckets never straddle an end of `[from, to)` or a border of the grid, and that still
/// holds `from`.
pub fn choose(from: i64, to: i64, grid: &Grid, now_ms: i64) -> Result<Rollup, Unplannable> {
    let now = now_ms.div_euclid(1_000);
    let earliest = |rollup: Rollup| now - rollup.retention_days() * DAY;
    Rollup::COARSEST_FIRST
        .into_iter()
        .filter(|rollup| is_exact(*rollup, from, to, grid))
        .find(|rollup| from >= earliest(*rollup))
        .ok_or_else(|| {
            let longest = Rollup::Hour;
            if from >= earliest(longest) {
                Unplannable::TooFineForItsAge { kept_days: Rollup::Minute.retention_days(), earliest: None }
            } else {
                Unplannable::Expired { kept_days: longest.retention_days(), earliest: None }
            }
        })
}

fn is_exact(rollup: Rollup, from: i64, to: i64, grid: &Grid) -> bool {
    let width = rollup.bucket_seconds();
    from % width == 0 && to % width == 0 && grid.is_aligned_to(width)
}

/// A rollup in the cache's key.
pub fn as_table<S: Serializer>(rollup: &Rollup, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}{}", rollup.mark(), rollup.table()))
}
