//! From a series to bands and scores: a pure function of the plan, the points and the present.

use std::collections::BTreeMap;

use super::model::{Series, fit};
use super::plan::{AnomalyPlan, periods};
use super::robust::median;
use crate::metric::Measure;
use crate::plan::Frame;
use crate::sql::Point;
use crate::store::ReadError;
use crate::time::grid;

/// Whole buckets with a value that are needed: two weeks of days.
pub const LEAST_POINTS: usize = 14;

/// Seconds after its end until a bucket counts as whole: the service level of freshness, by which events are visible.
const SETTLING: i64 = 60;

/// The least spread of a count's square root: a Poisson count has 1/2, whatever is expected, and none has less.
const POISSON: f64 = 0.5;

/// A deviation of a hundredth of what is expected is within what is usual, however steady the series is.
const STEADY: f64 = 0.01;

/// A judged series.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The buckets that were asked for.
    pub buckets: Vec<Bucket>,
    /// Buckets after which the series repeats itself.
    pub period: Option<usize>,
    /// On what scale it was judged.
    pub scale: Scale,
    /// Whole buckets that were learned from.
    pub learned: usize,
}

/// A bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Its start.
    pub at: i64,
    /// What happened.
    pub value: Option<f64>,
    /// What was to be expected, and what it should lie between; `None` where nothing can be said.
    pub band: Option<Band>,
    /// Usual deviations from the expectation; `None` where it is not judged.
    pub score: Option<f64>,
    /// Whether it is out of the ordinary in the direction asked for.
    pub is_anomaly: bool,
    /// Whether it is not over, or only a part of it was asked for.
    pub is_partial: bool,
}

/// What was to be expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// The expectation.
    pub expected: f64,
    /// The least that is ordinary.
    pub lower: f64,
    /// The most that is ordinary.
    pub upper: f64,
}

/// The scale on which deviations are about as large at any level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The square root: of counts and sums, which vary the more the larger they are.
    Root,
    /// Values as they are: of averages, and of what may be negative.
    Linear,
}

impl Scale {
    fn of(measure: Measure, values: &[Option<f64>]) -> Self {
        let adds_up = measure.of_nothing().is_some();
        if adds_up && values.iter().flatten().all(|value| *value >= 0.0) { Self::Root } else { Self::Linear }
    }

    fn apply(self, value: f64) -> f64 {
        match self {
            Self::Root => value.sqrt(),
            Self::Linear => value,
        }
    }

    fn invert(self, scaled: f64) -> f64 {
        match self {
            Self::Root => scaled.max(0.0).powi(2),
            Self::Linear => scaled,
        }
    }

    /// The least spread: absolute, and relative to the expectation.
    fn floor(self, measure: Measure, scaled: &[Option<f64>]) -> (f64, f64) {
        match self {
            // The root of 1.01 is 1.005.
            Self::Root => (if measure.is_count() { POISSON } else { 0.0 }, STEADY / 2.0),
            Self::Linear => {
                let mut sizes: Vec<f64> = scaled.iter().flatten().map(|value| value.abs()).collect();
                (STEADY * median(&mut sizes).unwrap_or(0.0), STEADY)
            }
        }
    }
}

/// Judges a series at `now_ms`.
pub fn detect(plan: &AnomalyPlan, points: &[Point], now_ms: i64) -> Result<Found, ReadError> {
    let (frame, measure) = (&plan.series.frame, plan.series.measure);
    let starts = frame.grid().starts();
    let values = whole_series(&starts, points, measure);
    let partial = partial(frame, &starts, now_ms);
    let known = known(&values, &partial, measure);
    let learned = known.iter().flatten().count();
    if learned < LEAST_POINTS {
        return Err(ReadError::TooFewPoints { needed: LEAST_POINTS, given: learned });
    }
    let scale = Scale::of(measure, &values);
    let scaled: Vec<Option<f64>> = known.iter().map(|value| value.map(|value| scale.apply(value))).collect();
    let floor = scale.floor(measure, &scaled);
    let fitted = fit(&Series { values: scaled, steps: steps(frame, &starts), floor }, &periods(frame.granularity));
    let judge = Judge { plan, scale };
    let expectations = fitted.expected.iter().zip(&fitted.spread);
    let buckets = starts.iter().zip(&values).zip(known.iter().zip(&partial)).zip(expectations);
    let buckets = buckets.filter(|(((at, _), _), _)| **at >= plan.shown.from);
    let buckets = buckets.map(|(((at, value), (known, partial)), (expected, spread))| {
        let usual = expected.zip(*spread).map(|(expected, spread)| Usual { expected, spread });
        judge.bucket(Bucket { at: *at, value: *value, is_partial: *partial, ..Bucket::UNJUDGED }, *known, usual)
    });
    Ok(Found { buckets: buckets.collect(), period: fitted.period, scale, learned })
}

/// Every bucket's value: nothing is 0 of what counts, and absent otherwise.
fn whole_series(starts: &[i64], points: &[Point], measure: Measure) -> Vec<Option<f64>> {
    let found: BTreeMap<i64, Option<f64>> = points.iter().map(|point| (point.at, point.value)).collect();
    let value = |at: &i64| found.get(at).copied().unwrap_or(measure.of_nothing());
    starts.iter().map(value).map(|value| value.filter(|value| value.is_finite())).collect()
}

/// Buckets that the range cuts, or that may still grow.
fn partial(frame: &Frame, starts: &[i64], now_ms: i64) -> Vec<bool> {
    let settled = now_ms.div_euclid(1_000) - SETTLING;
    let is_partial = |at: &i64| {
        let end = grid::next(frame.granularity, &frame.zone, *at);
        *at < frame.from || end > frame.to || end > settled
    };
    starts.iter().map(is_partial).collect()
}

/// The values that can be learned from and judged. Of what counts, not the nothing before the first something.
fn known(values: &[Option<f64>], partial: &[bool], measure: Measure) -> Vec<Option<f64>> {
    let first = values.iter().position(|value| value.is_some_and(|value| value != 0.0)).unwrap_or(values.len());
    let adds_up = measure.of_nothing().is_some();
    let buckets = values.iter().zip(partial).enumerate();
    buckets.map(|(place, (value, partial))| value.filter(|_| !partial && (place >= first || !adds_up))).collect()
}

/// Numbers of buckets on the local clock, so that nine o'clock is compared with nine o'clock in summer and in winter.
fn steps(frame: &Frame, starts: &[i64]) -> Vec<i64> {
    match frame.granularity.clock_seconds() {
        Some(width) => starts.iter().map(|at| (at + frame.zone.offset(*at)).div_euclid(width)).collect(),
        None => (0..).take(starts.len()).collect(),
    }
}

#[derive(Clone, Copy)]
struct Usual {
    expected: f64,
    spread: f64,
}

struct Judge<'a> {
    plan: &'a AnomalyPlan,
    scale: Scale,
}

impl Judge<'_> {
    fn bucket(&self, bucket: Bucket, known: Option<f64>, usual: Option<Usual>) -> Bucket {
        let Some(Usual { expected, spread }) = usual else { return bucket };
        let (scale, threshold) = (self.scale, self.plan.shown.sensitivity.threshold());
        let at = |deviations: f64| scale.invert(expected + deviations * spread);
        let band = Band { expected: at(0.0), lower: at(-threshold), upper: at(threshold) };
        let score = known.map(|value| {
            let deviation = scale.apply(value) - expected;
            // A series that is always the same, and expected to be, has no spread to speak of.
            if spread > 0.0 { deviation / spread } else { 0.0 }
        });
        let is_anomaly = score.is_some_and(|score| score.abs() >= threshold && self.plan.shown.direction.counts(score));
        Bucket { band: Some(band), score, is_anomaly, ..bucket }
    }
}

impl Bucket {
    const UNJUDGED: Self = Self { at: 0, value: None, band: None, score: None, is_anomaly: false, is_partial: false };
}
