//! From a series to bands and scores: a pure function of the plan, the points and the present.

use std::collections::BTreeMap;

use super::model::{Series, fit};
use super::plan::{Judged, periods};
use super::robust::median;
use crate::metric::Nature;
use crate::plan::Frame;
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
    fn of(nature: Nature, values: &[Option<f64>]) -> Self {
        let adds_up = nature.of_nothing.is_some();
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
    fn floor(self, nature: Nature, scaled: &[Option<f64>]) -> (f64, f64) {
        match self {
            // The root of 1.01 is 1.005.
            Self::Root => (if nature.is_count { POISSON } else { 0.0 }, STEADY / 2.0),
            Self::Linear => {
                let mut sizes: Vec<f64> = scaled.iter().flatten().map(|value| value.abs()).collect();
                (STEADY * median(&mut sizes).unwrap_or(0.0), STEADY)
            }
        }
    }
}

/// Values of buckets in which something happened, by their start.
pub type Values = BTreeMap<i64, Option<f64>>;

/// Judges a series at `now_ms`.
pub fn detect(plan: &Judged, found: &Values, now_ms: i64) -> Result<Found, ReadError> {
    let (frame, nature) = (&plan.frame, plan.nature);
    let starts = frame.grid().starts();
    let values = whole_series(&starts, found, nature);
    let partial = partial(frame, &starts, now_ms);
    let known = known(&values, &partial, nature);
    let learned = known.iter().flatten().count();
    if learned < LEAST_POINTS {
        return Err(ReadError::TooFewPoints { needed: LEAST_POINTS, given: learned });
    }
    let scale = Scale::of(nature, &values);
    let scaled: Vec<Option<f64>> = known.iter().map(|value| value.map(|value| scale.apply(value))).collect();
    let floor = scale.floor(nature, &scaled);
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
fn whole_series(starts: &[i64], found: &Values, nature: Nature) -> Vec<Option<f64>> {
    let value = |at: &i64| found.get(at).copied().unwrap_or(nature.of_nothing);
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
fn known(values: &[Option<f64>], partial: &[bool], nature: Nature) -> Vec<Option<f64>> {
    let first = values.iter().position(|value| value.is_some_and(|value| value != 0.0)).unwrap_or(values.len());
    let adds_up = nature.of_nothing.is_some();
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
    plan: &'a Judged,
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

#[cfg(test)]
mod tests {
    use super::super::query::{Direction, Sensitivity};
    use super::super::synthetic::{FROM, judged, plan, points};
    use super::*;
    use crate::metric::Measure;
    use crate::time::{Granularity, Zone};

    /// Four weeks of hours with a day's shape.
    fn days() -> Vec<f64> {
        (0..672_i32).map(|hour| f64::from(100 + 10 * (hour % 24) + hour * 7 % 5)).collect()
    }

    fn flagged(found: &Found) -> Vec<usize> {
        found.buckets.iter().enumerate().filter(|(_, bucket)| bucket.is_anomaly).map(|(place, _)| place).collect()
    }

    #[test]
    fn a_spike_a_drop_and_a_gap_are_flagged_and_nothing_else() {
        let plan = plan(Measure::Events, Granularity::Hour, 672);
        assert_eq!(flagged(&judged(&plan, &days())), [0_usize; 0]);
        let mut values = days();
        (values[300], values[400], values[500]) = (900.0, 40.0, 0.0);
        let found = judged(&plan, &values);
        assert_eq!((flagged(&found), found.scale), (vec![300, 400, 500], Scale::Root));
        let spike = found.buckets[300];
        let band = spike.band.unwrap();
        assert!(spike.score.unwrap() > 10.0 && band.lower < band.expected && band.expected < band.upper, "{spike:?}");
        // What it would have been without: 100 + 10 * 12, more or less.
        assert!((band.expected - 222.0).abs() < 5.0, "{band:?}");
        assert_eq!(found.buckets[500].value, Some(0.0));
        let mut one_way = plan;
        one_way.shown.direction = Direction::Up;
        assert_eq!(flagged(&judged(&one_way, &values)), [300]);
        one_way.shown.direction = Direction::Down;
        assert_eq!(flagged(&judged(&one_way, &values)), [400, 500]);
    }

    #[test]
    fn what_never_changes_is_never_flagged_and_what_hardly_does_neither() {
        for measure in [Measure::Events, Measure::ValueSum, Measure::ValueAvg] {
            for granularity in [Granularity::Hour, Granularity::Day, Granularity::Minute] {
                let plan = plan(measure, granularity, 60);
                assert_eq!(flagged(&judged(&plan, &[5.0; 60])), [0_usize; 0], "{measure:?}");
                let mut values = [5.0; 60];
                values[30] = 5.04;
                assert_eq!(flagged(&judged(&plan, &values)), [0_usize; 0], "{measure:?}");
            }
        }
    }

    #[test]
    fn what_hardly_ever_changes_is_flagged_when_it_does() {
        for measure in [Measure::ValueSum, Measure::ValueAvg] {
            let plan = plan(measure, Granularity::Hour, 60);
            let mut values = [5.0; 60];
            for odd in [9.0, 3.0, -5.0] {
                values[30] = odd;
                assert_eq!(flagged(&judged(&plan, &values)), [30], "{measure:?} {odd}");
            }
        }
    }

    #[test]
    fn zeros_alone_are_nothing_to_learn_from() {
        let plan = plan(Measure::Events, Granularity::Hour, 60);
        let error = detect(&plan, &Values::new(), i64::MAX / 2).unwrap_err();
        assert_eq!(error, ReadError::TooFewPoints { needed: 14, given: 0 });
        assert!(
            error.to_string().contains("0 whole buckets") && error.to_string().contains("14 are needed"),
            "{error}"
        );
        let thirteen = [1.0; 13];
        let plan = super::super::synthetic::plan(Measure::Events, Granularity::Hour, 13);
        assert!(detect(&plan, &points(&plan, &thirteen), i64::MAX / 2).is_err());
    }

    #[test]
    fn a_bucket_that_may_still_grow_is_shown_and_not_judged() {
        let plan = plan(Measure::Events, Granularity::Hour, 672);
        let mut values = days();
        values[671] = 3.0;
        let end = plan.frame.to;
        for (now, partial) in [(end - 1, true), (end + 59, true), (end + 60, false)] {
            let found = detect(&plan, &points(&plan, &values), now * 1_000).unwrap();
            let last = found.buckets[671];
            assert_eq!((last.is_partial, last.is_anomaly, last.score.is_none()), (partial, !partial, partial), "{now}");
            assert_eq!((last.value, last.band.is_some()), (Some(3.0), true));
        }
        let mut cut = plan;
        cut.frame.to -= 60;
        assert!(judged(&cut, &values).buckets[671].is_partial, "only a part was asked for");
    }

    #[test]
    fn before_the_first_event_is_not_an_outage_and_after_the_last_is() {
        let plan = plan(Measure::Events, Granularity::Hour, 672);
        let mut values = days();
        values[..200].fill(0.0);
        values[660..].fill(0.0);
        let found = judged(&plan, &values);
        assert_eq!(flagged(&found), (660..672).collect::<Vec<_>>());
        assert!(found.buckets[..200].iter().all(|bucket| bucket.score.is_none()));
    }

    #[test]
    fn gaps_of_an_average_are_absent() {
        let plan = plan(Measure::ValueAvg, Granularity::Hour, 672);
        let mut values = days();
        for gap in [100, 101, 102, 350] {
            values[gap] = 0.0;
        }
        let found = judged(&plan, &values);
        assert_eq!((flagged(&found), found.scale), (vec![], Scale::Linear));
        assert!(found.buckets[350].value.is_none() && found.buckets[350].score.is_none());
        assert!(found.buckets[350].band.is_some(), "what it would have been");
    }

    #[test]
    fn only_what_was_asked_for_is_shown_and_history_is_learned_from() {
        let mut plan = plan(Measure::Events, Granularity::Hour, 672);
        plan.shown.from = FROM + 671 * 3_600;
        let found = judged(&plan, &days());
        assert_eq!((found.buckets.len(), found.learned), (1, 672));
        assert!(found.period.is_some_and(|period| period % 24 == 0), "{found:?}");
    }

    #[test]
    fn nine_o_clock_is_nine_o_clock_in_summer_and_in_winter() {
        let mut plan = plan(Measure::Events, Granularity::Hour, 672);
        plan.frame.zone = Zone::named("Europe/Berlin").unwrap();
        // Two weeks before and after the change of clocks of 2026-10-25.
        (plan.frame.from, plan.frame.to) = (1_791_669_600, 1_791_669_600 + 672 * 3_600);
        let zone = &plan.frame.zone;
        let rush = |at: &i64| if (at + zone.offset(*at)).rem_euclid(86_400) == 9 * 3_600 { 2_000.0 } else { 100.0 };
        let values: Vec<f64> = plan.frame.grid().starts().iter().map(rush).collect();
        plan.shown.from = 0;
        assert_eq!(flagged(&judged(&plan, &values)), [0_usize; 0]);
    }

    #[test]
    fn a_higher_sensitivity_never_flags_less() {
        let mut plan = plan(Measure::Events, Granularity::Hour, 672);
        let mut values = days();
        for (place, value) in values.iter_mut().enumerate().skip(200).step_by(37) {
            *value *= 1.0 + (place % 5) as f64 / 4.0;
        }
        let mut counts = Vec::new();
        for sensitivity in [Sensitivity::Low, Sensitivity::Medium, Sensitivity::High] {
            plan.shown.sensitivity = sensitivity;
            counts.push(flagged(&judged(&plan, &values)).len());
        }
        assert!(counts.is_sorted() && counts[0] > 0, "{counts:?}");
    }
}
