//! Finds the buckets of a series that differ from what was expected.
//!
//! ```text
//! HTTP -> authorize -> AnomalyQuery -> AnomalyPlan (with history) -> cache -> series from ClickHouse
//!      -> whole series -> levels <-> fit: trend + season + spread -> bands -> render
//! ```
//!
//! * The plan asks for history before the range, so that an hour can be judged.
//! * [`levels`] finds runs at another level, so that the expectation does not follow an outage.
//! * [`model`] computes the expected values, by medians ([`robust`]); [`detect`] turns them into bands and scores.
//!
//! | when | then |
//! |---|---|
//! | a bucket is not over, or was over for less than a minute | it is shown as `partial` and not judged |
//! | no event | 0 of what counts; absent, and not judged, of averages and quantiles |
//! | buckets before the project's first event | not judged: they are not an outage |
//! | a series that never changes | nothing is flagged |
//! | an outage, or a shift that goes back, up to a third of the series | flagged whole; the expectation stays as it was before |
//! | a shift that stays | its first day is flagged (of days: its first week), then its level is expected |
//! | fewer than three weeks, so that a weekend looks like a shift | shifts longer than half a day are not detected, outages are |
//! | fewer than 14 whole buckets | 422 `too_few_points` |
//! | history is no longer kept, or makes too many points | only the range is learned from |
//!
//! # Why not ClickHouse's series functions
//!
//! `seriesPeriodDetectFFT` does not exist in every build (26.7's library has none), one absent value makes all of
//! `seriesDecomposeSTL` NaN, it fails below two periods, and it is not robust: a spike bends its own trend and season, so
//! its neighbours look wrong. Tried on 10 synthetic series of each kind (28 days of hours with daily and weekly season,
//! trend, noise and 12 injected spikes, drops and gaps of 1 to 6 hours; 56 days with 6 of a day), per bucket, on
//! 26.7.2.1; of STL with `seriesOutliersDetectTukey` over its residuals the *best* of both periods, of square roots or
//! plain values, and of five fences was taken. Ours is `sensitivity=high`, over 30 series of each kind (`synthetic.rs`):
//!
//! | series | STL + Tukey, defaults: precision, recall, F1 | STL + Tukey, best: F1 | here: precision, recall, F1 |
//! |---|---|---|---|
//! | 2,000 an hour, noise 6 % | 0.67, 0.72, 0.69 | 0.75 | 0.95, 0.99, 0.97 |
//! | 60 an hour, noise 6 % | 0.64, 0.59, 0.62 | 0.72 | 0.85, 0.72, 0.78 |
//! | 2,000 an hour, noise 15 % | 0.50, 0.57, 0.53 | 0.71 | 0.91, 0.72, 0.81 |
//! | 14 days of 2,000 an hour | 0.89, 0.60, 0.71 | 0.72 | 0.76, 0.95, 0.85 |
//! | 50,000 a day, 56 days | 0.73, 0.67, 0.70 | 0.84 | 0.93, 1.00, 0.97 |
//! | 500 an hour, no season | 0.81, 0.92, 0.86 | 0.87 | 0.98, 0.98, 0.98 |
//!
//! What it misses at 60 an hour are mostly the changes to 0.6 and 1.5 times: of a Poisson count these are 3.5 deviations.

#[cfg(test)]
mod benchmark;
pub mod detect;
pub mod levels;
pub mod model;
pub mod periods;
pub mod render;
pub mod robust;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod synthetic;

use detect::Values;

use crate::cache::Rendered;
use crate::plan::{AnomalyPlan, SeriesPlan, StructuredPlan};
use crate::render::accuracy::Accuracy;
use crate::render::meta::{About, LookedUp};
use crate::render::structured::PlanPoints;
use crate::render::{series, structured, table};
use crate::sql::Point;
use crate::store::ReadError;

/// A series that was read.
#[derive(Debug, Clone)]
pub enum Read {
    /// Of a built-in metric.
    BuiltIn {
        /// What was read.
        plan: Box<SeriesPlan>,
        points: Vec<Point>,
        /// What it says beside its points.
        looked_up: LookedUp,
    },
    /// Of a registered one.
    Registered {
        /// What was read.
        plan: Box<StructuredPlan>,
        found: Box<PlanPoints>,
    },
}

impl Read {
    fn metric(&self) -> &str {
        match self {
            Self::BuiltIn { plan, .. } => plan.metric,
            Self::Registered { plan, .. } => plan.shape.metrics.first().map_or("", |metric| metric.name.as_str()),
        }
    }

    fn values(&self) -> Values {
        let first = |values: &[Option<f64>]| values.first().copied().flatten();
        match self {
            Self::BuiltIn { points, .. } => points.iter().map(|point| (point.at, first(&point.measured))).collect(),
            Self::Registered { plan, found } => {
                let rows = table::rows(plan, &plan.period, &found.reads);
                rows.into_iter().map(|row| (row.at, first(&row.metrics))).collect()
            }
        }
    }

    /// What its series says of itself, of what is shown from `from` on.
    fn about(&self, from: i64, generated_s: i64) -> About<'_> {
        match self {
            Self::BuiltIn { plan, looked_up, .. } => series::about(plan, looked_up.clone(), generated_s),
            Self::Registered { plan, found } => {
                let rows = table::rows(plan, &plan.period, &found.reads);
                let errors = Accuracy::of(plan).with(rows.iter().filter(|row| row.at >= from)).errors();
                structured::about(plan, found, errors, generated_s)
            }
        }
    }
}

/// Judges a series that was read, beside the requests that are being answered: milliseconds of arithmetic, up to tens for
/// the longest series.
pub async fn judge(plan: AnomalyPlan, read: Read, now_ms: i64) -> Result<Rendered, ReadError> {
    let rendered = tokio::task::spawn_blocking(move || {
        let found = detect::detect(&plan.judged(), &read.values(), now_ms)?;
        Ok(render::render(&plan, &read, &found, now_ms.div_euclid(1_000)))
    });
    rendered.await.map_err(|_| ReadError::Failed)?
}
