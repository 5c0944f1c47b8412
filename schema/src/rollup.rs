//! The rollup tables as the read path and the checks know them.
//!
//! One row of a rollup is one `(project_id, event_type, dim_set, dim_value, bucket)`. The columns are written down
//! once, in `sql/migrations`; this file holds what a planner must decide with: how wide a bucket is and how long it lives.
//!
//! Every rollup counts once more under every type of event: `event_type` is empty in such a row, and [`EVERY_TYPE`] stands before
//! its `dim_set`, so that nobody adds it to the others by mistake. That of minutes does so for the total, the hourly and the daily one
//! for each set. The hourly one counts everything once more by quarters of an hour, with [`QUARTER`] before `dim_set`: a rollup by
//! itself, in the same table.

use crate::dimension::DimSet;

/// Before the `dim_set` of a row of every type. No dimension's name begins so.
pub const EVERY_TYPE: &str = "*";

/// Before the `dim_set` of a row of a quarter of an hour. No dimension's name begins so.
pub const QUARTER: &str = ":";

/// A rollup, finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rollup {
    /// `rollup_1m`
    Minute,
    /// `rollup_1h`, its rows of quarters: the clocks of every zone are whole quarters of an hour ahead of UTC.
    Quarter,
    /// `rollup_1h`
    Hour,
    /// `rollup_1d` (UTC days)
    Day,
}

impl Rollup {
    /// Coarsest first: the order in which a planner tries them.
    pub const COARSEST_FIRST: [Self; 4] = [Self::Day, Self::Hour, Self::Quarter, Self::Minute];

    /// One of each table.
    pub const OF_EACH_TABLE: [Self; 3] = [Self::Day, Self::Hour, Self::Minute];

    /// The table's name inside the database.
    pub const fn table(self) -> &'static str {
        match self {
            Self::Minute => "rollup_1m",
            Self::Quarter | Self::Hour => "rollup_1h",
            Self::Day => "rollup_1d",
        }
    }

    /// Width of a bucket in seconds. Buckets are aligned to the Unix epoch, so to UTC minutes, quarters, hours and days.
    pub const fn bucket_seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Quarter => 900,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// Days a bucket is kept. Must say what the TTL clauses in `sql/migrations` say (a test compares them).
    pub const fn retention_days(self) -> i64 {
        match self {
            Self::Minute => 90,
            Self::Quarter | Self::Hour | Self::Day => 1_826,
        }
    }

    /// What stands before the `dim_set` of its rows.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Quarter => QUARTER,
            Self::Minute | Self::Hour | Self::Day => "",
        }
    }

    /// Whether it has rows of every type under this set.
    pub fn has_every_type(self, set: &DimSet) -> bool {
        match self {
            Self::Minute => set.is_total(),
            Self::Quarter => false,
            Self::Hour | Self::Day => true,
        }
    }

    /// Precision parameter of the `uniqCombined64` state in the column `users`; states of different precision do not merge.
    pub const fn users_precision(self) -> u8 {
        match self {
            Self::Minute => 12,
            Self::Quarter | Self::Hour | Self::Day => 14,
        }
    }
}

/// Levels kept by the `quantilesDD(0.01, …)` state in `value_quantiles`, in the order in which the merge returns them.
pub const QUANTILE_LEVELS: [f64; 3] = [0.5, 0.95, 0.99];
