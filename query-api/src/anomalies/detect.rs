//! From a series to bands and scores: a pure function of the plan, the points and the present.

use std::collections::BTreeMap;

use serde::Serialize;

use super::levels::{Ladder, Run, RunKind, Seen, runs};
use super::model::{Fit, LEAST_CYCLES, Series, coarse, fit};
use super::periods::periods;
use super::robust::median;
use crate::metric_definitions::Nature;
use crate::plan::Frame;
use crate::plan::anomalies::Judged;
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
pub struct Detected {
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
    pub value: Option<f64>,
    /// What was to be expected, and what it should lie between; `None` where nothing can be said.
    pub band: Option<Band>,
    /// Usual deviations from the expectation; `None` where it is not judged.
    pub score: Option<f64>,
    /// Whether it is out of the ordinary in the direction asked for, and how.
    pub anomaly: Option<Kind>,
    /// Whether it is not over, or only a part of it was asked for.
    pub is_partial: bool,
}

/// How something is out of the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// More than expected, for no longer than a day (of days: a week).
    Spike,
    /// Less than expected, for no longer.
    Drop,
    /// Nothing, of what counts, for two buckets or more.
    Outage,
    /// More or less for longer, or for good: then its first day (of days: its first week).
    LevelShift,
}

impl Kind {
    const fn of_bucket(score: f64) -> Self {
        if score > 0.0 { Self::Spike } else { Self::Drop }
    }
}

/// What was to be expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
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
pub fn detect(plan: &Judged, found: &Values, now_ms: i64) -> Result<Detected, ReadError> {
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
    let series = Series { values: scaled, steps: steps(frame, &starts), floor };
    let periods = periods(frame.granularity);
    // How long a level is out of the ordinary: a day, of days a week.
    let learned_in = periods.first().copied().unwrap_or(WITHOUT_SEASON);
    let fitted = levelled(&series, scale, &periods, learned_in);
    let judge = Judge { plan, scale };
    let usual = |place: usize| {
        let expected = fitted.expected.get(place).copied().flatten();
        let (expected, spread) = expected.zip(fitted.spread.get(place).copied().flatten())?;
        Some(Usual { expected, spread })
    };
    let buckets = starts.iter().zip(&values).zip(known.iter().zip(&partial)).zip(0..);
    let buckets = buckets.map(|(((at, value), (known, partial)), place)| {
        let bucket = Bucket { at: *at, value: *value, is_partial: *partial, ..Bucket::UNJUDGED };
        judge.bucket(bucket, *known, usual(place))
    });
    let mut buckets: Vec<Bucket> = buckets.collect();
    judge.runs(&fitted.flagged, learned_in, &mut buckets);
    buckets.retain(|bucket| bucket.at >= plan.shown.from);
    Ok(Detected { buckets, period: fitted.period, scale, learned })
}

/// What is expected, and runs at another level that are not.
struct Levelled {
    expected: Vec<Option<f64>>,
    spread: Vec<Option<f64>>,
    period: Option<usize>,
    /// Runs that are not ordinary; of a lasting one its beginning.
    flagged: Vec<Run>,
}

/// Times that levels and expectations are found from each other.
const LEVELLING: usize = 2;

/// What is expected when runs at another level are not learned from: a lasting one is, at its own level.
fn levelled(series: &Series, scale: Scale, periods: &[usize], learned_in: usize) -> Levelled {
    let ladder = match scale {
        Scale::Root => Ladder::Factors,
        Scale::Linear => Ladder::Offsets,
    };
    // Before three weeks are known, a weekend looks like a shift: then only outages and what is over within half a day are.
    let knows_seasons = periods.iter().all(|period| LEAST_CYCLES * period <= series.values.len());
    let is_told = |run: &Run| knows_seasons || run.kind == RunKind::Outage || 2 * run.range.len() <= learned_in;
    let rough = coarse(series, periods);
    let mut found = runs(ladder, &seen(series, &rough));
    found.retain(is_told);
    // A season is only told once outages and lasting shifts are out of the way.
    found.retain(|run| run.kind != RunKind::Temporary);
    let rough = coarse(&at_one_level(series, ladder, &rough, &found), periods);
    let mut base = rough.clone();
    for _ in 0..LEVELLING {
        found = runs(ladder, &seen(series, &base));
        found.retain(is_told);
        base = fit(&at_one_level(series, ladder, &base, &found), periods);
        let places = base.expected.iter_mut().zip(&mut base.spread).zip(rough.expected.iter().zip(&rough.spread));
        for ((expected, spread), (rough, rough_spread)) in places {
            if expected.is_none() || spread.is_none() {
                (*expected, *spread) = (*rough, *rough_spread);
            }
        }
    }
    let mut levelled =
        Levelled { expected: base.expected, spread: base.spread, period: base.period, flagged: Vec::new() };
    for (place, (expected, spread)) in levelled.expected.iter_mut().zip(&mut levelled.spread).enumerate() {
        let level = in_force(&found, place, learned_in).map(|run| run.level);
        if let (Some(level), Some(center), Some(usual)) = (level, *expected, *spread) {
            *expected = Some(ladder.at(level, center, usual));
            *spread = Some(if ladder == Ladder::Factors { (usual * level).max(series.floor.0) } else { usual });
        }
    }
    let beginning = |run: Run| match run.kind {
        RunKind::Lasting => Run { range: run.range.start..(run.range.start + learned_in).min(run.range.end), ..run },
        RunKind::Outage | RunKind::Temporary => run,
    };
    levelled.flagged = found.into_iter().map(beginning).collect();
    levelled
}

/// What lasts may be nearer to its expectation by this factor than one bucket.
const LASTING: f64 = 2.0;

/// Buckets after which a level is ordinary, of a series without a season.
const WITHOUT_SEASON: usize = 4;

fn seen(series: &Series, fit: &Fit) -> Vec<Seen> {
    let places = series.values.iter().zip(fit.expected.iter().zip(&fit.spread));
    let seen = |(value, (expected, spread)): (&Option<f64>, (&Option<f64>, &Option<f64>))| {
        let usual = expected.zip(*spread);
        let (expected, spread) = usual.unwrap_or((0.0, 0.0));
        Seen { value: value.filter(|_| usual.is_some()), expected, spread }
    };
    places.map(seen).collect()
}

/// The lasting run that is in force at a place, a while after its start.
fn in_force(runs: &[Run], place: usize, delay: usize) -> Option<&Run> {
    runs.iter().rfind(|run| run.kind == RunKind::Lasting && run.range.start + delay <= place)
}

/// The series without temporary runs, and with lasting ones at the level before them.
fn at_one_level(series: &Series, ladder: Ladder, fit: &Fit, runs: &[Run]) -> Series {
    let mut values = series.values.clone();
    for (place, value) in values.iter_mut().enumerate() {
        let spread = fit.spread.get(place).copied().flatten().unwrap_or(0.0);
        if runs.iter().any(|run| run.kind != RunKind::Lasting && run.range.contains(&place)) {
            *value = None;
        } else if let Some(run) = in_force(runs, place, 0) {
            *value = value.and_then(|value| ladder.undone(run.level, value, spread));
        }
    }
    Series { values, ..series.clone() }
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
        let is_far = |score: &f64| score.abs() >= threshold && self.plan.shown.direction.counts(*score);
        Bucket { band: Some(band), score, anomaly: score.filter(is_far).map(Kind::of_bucket), ..bucket }
    }
}

impl Judge<'_> {
    /// Flags whole runs, if they are far enough from what was expected by and large.
    fn runs(&self, runs: &[Run], learned_in: usize, buckets: &mut [Bucket]) {
        let threshold = self.plan.shown.sensitivity.threshold();
        for run in runs {
            let Some(buckets) = buckets.get_mut(run.range.clone()) else { continue };
            let scores: Vec<f64> = buckets.iter().filter_map(|bucket| bucket.score).collect();
            let mean = scores.iter().map(|score| score.clamp(-3.0 * threshold, 3.0 * threshold)).sum::<f64>()
                / scores.len().max(1) as f64;
            let is_far = mean.abs() * LASTING >= threshold && mean.abs() * (scores.len() as f64).sqrt() >= threshold;
            if !is_far || !self.plan.shown.direction.counts(mean) {
                continue;
            }
            let kind = match run.kind {
                RunKind::Outage => Kind::Outage,
                RunKind::Lasting => Kind::LevelShift,
                RunKind::Temporary if run.range.len() > learned_in => Kind::LevelShift,
                RunKind::Temporary => Kind::of_bucket(mean),
            };
            for bucket in buckets.iter_mut().filter(|bucket| bucket.score.is_some_and(|score| score * mean >= 0.0)) {
                bucket.anomaly = Some(kind);
            }
        }
    }
}

impl Bucket {
    const UNJUDGED: Self = Self { at: 0, value: None, band: None, score: None, anomaly: None, is_partial: false };
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{FROM, judged, plan, points};
    use super::*;
    use crate::metric_definitions::Measure;
    use crate::request::anomalies::{Direction, Sensitivity};
    use crate::time::{Granularity, Zone};

    /// Four weeks of hours with a day's shape.
    fn days() -> Vec<f64> {
        (0..672_i32).map(|hour| f64::from(100 + 10 * (hour % 24) + hour * 7 % 5)).collect()
    }

    fn flagged(found: &Detected) -> Vec<usize> {
        found
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, bucket)| bucket.anomaly.is_some())
            .map(|(place, _)| place)
            .collect()
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
            assert_eq!(
                (last.is_partial, last.anomaly.is_some(), last.score.is_none()),
                (partial, !partial, partial),
                "{now}"
            );
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
