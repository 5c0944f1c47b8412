//! The expected values: trend and season, each a median, so that anomalies do not change what is expected.
//!
//! 1. The **trend** is the median, without the season, over whole periods around each bucket, extended at both ends by its
//!    own slope.
//! 2. The **season** of a bucket is the median of what *other* cycles were above the trend at the same phase. Its own value
//!    is left out: a single bucket would otherwise be expected to be what it is.
//! 3. A period is possible when its season brings expectations clearly nearer to the values than the trend alone; of two
//!    possible ones the longer is taken unless it is clearly further away.
//! 4. The **spread** is the median size of deviations among buckets of about the same expectation: nights are quiet.
//! 5. Values that deviate far are left out, and all steps are repeated.

use std::f64::consts::SQRT_2;

use super::robust::{median, rolling_median, sigma, typical};

/// Cycles that a season needs: with fewer, leaving one's own out leaves too few.
pub const LEAST_CYCLES: usize = 3;

/// A season must bring expectations this much nearer, as a part of the distance, before it is believed.
const GAIN: f64 = 0.85;

/// A longer period is taken unless expectations are further away by more than this: it has fewer cycles to learn from, but
/// without the week every weekend would look wrong.
const LOSS_OF_LONGER: f64 = 1.1;

/// Buckets that a trend is the median of, at least: over seven it would follow the noise.
const LEAST_TREND: usize = 21;

/// Spreads between the levels of neighbouring phases that are learned from together.
const ALIKE: f64 = 3.0;

/// Values that the median of a season is taken of, if there are so many near the phase.
const POOLED: usize = 9;

/// Buckets on either side that a series without season is compared with.
const NEIGHBOURS: (usize, usize) = (3, 12);

/// Spreads beyond which a value is left out of the next round.
const WILD: f64 = 4.0;

/// Times that trend and season are taken from each other.
const PASSES: usize = 2;

/// How often it is done. Hours with a week's season gain 0.05 in F1 by the second round and 0.01 by the third; a fourth changes
/// nothing by more than 0.01.
const ROUNDS: usize = 3;

/// Least buckets that one spread is estimated from.
const SPREAD_BUCKETS: usize = 40;

/// The most different spreads.
const SPREADS: usize = 8;

/// A spread is never less than this part of the whole series' spread.
const LEAST_PART: f64 = 0.3;

/// A series on which values have about the same spread at any level.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The values; `None` where there is none, or none to learn from.
    pub values: Vec<Option<f64>>,
    /// The number of each bucket on the local clock: equal phases of the day have equal remainders through any change of
    /// clocks.
    pub steps: Vec<i64>,
    /// The least spread: absolute, and as a part of the expectation.
    pub floor: (f64, f64),
}

/// What is expected of each bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The expectation; `None` where nothing can be said.
    pub expected: Vec<Option<f64>>,
    /// The standard deviation that is usual there.
    pub spread: Vec<Option<f64>>,
    /// Buckets after which it repeats itself.
    pub period: Option<usize>,
}

/// Fits a series; `periods` are those that it may have, shortest first.
pub fn fit(series: &Series, periods: &[usize]) -> Fit {
    let mut fit = round(&series.values, series, periods);
    for _ in 1..ROUNDS {
        fit = round(&usual(&series.values, &fit), series, periods);
    }
    fit
}

/// Fits a series of which up to a third may be at another level: one level that less than a half cannot move, and a season of
/// medians.
pub fn coarse(series: &Series, periods: &[usize]) -> Fit {
    let known = &series.values;
    let longest = periods.iter().copied().filter(|period| known.len() >= LEAST_CYCLES * period).max();
    let width = longest.unwrap_or(0).max(LEAST_TREND);
    let mut best: Option<(f64, Option<usize>, Vec<Option<f64>>)> = None;
    for (period, season) in seasons(series, periods, width) {
        let flat = minus(known, &season);
        let Some(distance) = typical(minus(&flat, &around(&flat, width)).into_iter().flatten()) else { continue };
        let gain = if best.as_ref().is_some_and(|(_, best, _)| *best == period) { 1.0 } else { GAIN };
        if best.as_ref().is_none_or(|(least, _, _)| distance < gain * least) {
            best = Some((distance, period, season));
        }
    }
    let (season, period) = best.map_or((vec![Some(0.0); known.len()], None), |(_, period, season)| (season, period));
    let level = median(&mut minus(known, &season).into_iter().flatten().collect::<Vec<_>>());
    let expected: Vec<Option<f64>> = season.into_iter().map(|season| Some(season? + level?)).collect();
    // Of neighbours: between them the level does not change, whatever it does over the series.
    let mut before = None;
    let steady: Vec<Option<f64>> = minus(known, &expected)
        .into_iter()
        .zip(&expected)
        .map(|(deviation, expected)| {
            let difference = deviation.zip(before).map(|(one, other): (f64, f64)| (one - other) / SQRT_2);
            before = deviation;
            Some((*expected)? + difference?)
        })
        .collect();
    let spread = spreads(&steady, &expected, series.floor);
    Fit { expected, spread, period }
}

/// The seasons that a series may have: none, and of each period one around the median of all and one around the medians of
/// its neighbourhood, because an outage spoils the one less and a lasting shift the other.
fn seasons(series: &Series, periods: &[usize], width: usize) -> Vec<(Option<usize>, Vec<Option<f64>>)> {
    let known = &series.values;
    let mut seasons = vec![(None, vec![Some(0.0); known.len()])];
    for &period in periods.iter().filter(|period| **period > 1 && known.len() >= LEAST_CYCLES * **period) {
        let phases = Phases { steps: &series.steps, period };
        for season in [phases.plain(known), phases.plain(&minus(known, &around(known, width)))] {
            seasons.push((Some(period), season.into_iter().map(|season| season.or(Some(0.0))).collect()));
        }
    }
    seasons
}

/// The medians of the neighbourhood of each place, the nearest ones at both ends.
fn around(values: &[Option<f64>], width: usize) -> Vec<Option<f64>> {
    let medians = rolling_median(values, width.min(values.len()));
    let mut last = medians.iter().copied().flatten().next();
    medians
        .into_iter()
        .map(|median| {
            last = median.or(last);
            last
        })
        .collect()
}

/// The values that are not far from what a fit expects.
fn usual(values: &[Option<f64>], fit: &Fit) -> Vec<Option<f64>> {
    let buckets = values.iter().zip(fit.expected.iter().zip(&fit.spread));
    let is_usual = |(value, (expected, spread)): (&Option<f64>, (&Option<f64>, &Option<f64>))| {
        (*value).filter(|value| {
            expected.zip(*spread).is_some_and(|(expected, spread)| (value - expected).abs() <= WILD * spread)
        })
    };
    buckets.map(is_usual).collect()
}

/// One round: learns from `known`, says something of every bucket.
fn round(known: &[Option<f64>], series: &Series, periods: &[usize]) -> Fit {
    let mut best: Option<Seasonal> = None;
    for &period in periods {
        let Some(found) = seasonal(known, series, period) else { continue };
        if best.as_ref().is_none_or(|best| found.distance < best.distance * LOSS_OF_LONGER) {
            best = Some(found);
        }
    }
    let (expected, period) = match best {
        Some(best) => (best.expected, Some(best.period)),
        None => (local(known), None),
    };
    let spread = spreads(known, &expected, series.floor);
    Fit { expected, spread, period }
}

/// Expectations by trend and season.
struct Seasonal {
    period: usize,
    expected: Vec<Option<f64>>,
    /// How far the values are from them by and large.
    distance: f64,
}

/// What is expected with this period, if the series has that season.
fn seasonal(known: &[Option<f64>], series: &Series, period: usize) -> Option<Seasonal> {
    if period < 2 || known.len() < LEAST_CYCLES * period {
        return None;
    }
    let phases = Phases { steps: &series.steps, period };
    let mut season = phases.plain(known);
    let mut level = Vec::new();
    for _ in 0..PASSES {
        // Without the season first: where values are left out, the median over a day would be one of a part of the day.
        level = trend(&minus(known, &season), period)?;
        season = phases.of_others(&minus(known, &level));
    }
    let expected = plus(&season, &level);
    let distance = typical(minus(known, &expected).into_iter().flatten())?;
    let without = typical(minus(known, &level).into_iter().flatten())?;
    (distance < GAIN * without).then_some(Seasonal { period, expected, distance })
}

fn minus(values: &[Option<f64>], others: &[Option<f64>]) -> Vec<Option<f64>> {
    values.iter().zip(others).map(|(value, other)| Some((*value)? - (*other)?)).collect()
}

fn plus(values: &[Option<f64>], others: &[Option<f64>]) -> Vec<Option<f64>> {
    values.iter().zip(others).map(|(value, other)| Some((*value)? + (*other)?)).collect()
}

/// The median over whole periods, carried on where they do not fit.
fn trend(known: &[Option<f64>], period: usize) -> Option<Vec<Option<f64>>> {
    let medians = rolling_median(known, period * LEAST_TREND.div_ceil(period));
    let first = medians.iter().position(Option::is_some)?;
    let last = medians.iter().rposition(Option::is_some)?;
    let rises = |from: usize, to: usize| {
        let rise = |place: usize| {
            Some((medians.get(place + period)?.as_ref()? - medians.get(place)?.as_ref()?) / period as f64)
        };
        median(&mut (from..to).filter_map(rise).collect::<Vec<f64>>()).unwrap_or(0.0)
    };
    let (before, after) = (rises(first, first + period), rises((last + 1).saturating_sub(2 * period), last + 1));
    let (start, end) = (medians.get(first).copied().flatten()?, medians.get(last).copied().flatten()?);
    let carried = medians.iter().enumerate().map(|(place, median)| match median {
        Some(median) => *median,
        // Not for ever: an outage that lasts would let a passing slope run away.
        None if place < first => start - before * (first - place).min(2 * period) as f64,
        None if place > last => end + after * (place - last).min(2 * period) as f64,
        None => between(&medians, place).unwrap_or(start),
    });
    Some(carried.map(Some).collect())
}

/// On the straight line between the nearest values on both sides.
fn between(values: &[Option<f64>], place: usize) -> Option<f64> {
    let before = (0..place).rev().find(|other| values.get(*other).is_some_and(Option::is_some))?;
    let after = (place..values.len()).find(|other| values.get(*other).is_some_and(Option::is_some))?;
    let (low, high) = (values.get(before).copied().flatten()?, values.get(after).copied().flatten()?);
    Some(low + (high - low) * (place - before) as f64 / (after - before) as f64)
}

/// Where each bucket is within its cycle.
struct Phases<'a> {
    steps: &'a [i64],
    period: usize,
}

impl Phases<'_> {
    fn phase(&self, step: i64) -> usize {
        usize::try_from(step.rem_euclid(self.period as i64)).unwrap_or(0)
    }

    fn cycle(&self, step: i64) -> i64 {
        step.div_euclid(self.period as i64)
    }

    /// The values of each phase, with the number of their cycle.
    fn gathered(&self, values: &[Option<f64>]) -> Vec<Vec<(i64, f64)>> {
        let mut by_phase = vec![Vec::new(); self.period];
        for (value, step) in values.iter().zip(self.steps) {
            if let (Some(value), Some(phase)) = (value, by_phase.get_mut(self.phase(*step))) {
                phase.push((self.cycle(*step), *value));
            }
        }
        by_phase
    }

    /// For each bucket, how much the median of its phase is above that of all.
    fn plain(&self, values: &[Option<f64>]) -> Vec<Option<f64>> {
        let overall = median(&mut values.iter().flatten().copied().collect::<Vec<_>>()).unwrap_or(0.0);
        let above = |phase: Vec<(i64, f64)>| {
            median(&mut phase.into_iter().map(|(_, value)| value).collect::<Vec<_>>()).map(|median| median - overall)
        };
        let medians: Vec<Option<f64>> = self.gathered(values).into_iter().map(above).collect();
        self.steps.iter().map(|step| *medians.get(self.phase(*step))?).collect()
    }

    /// For each bucket, the median of the other cycles near its phase.
    fn of_others(&self, values: &[Option<f64>]) -> Vec<Option<f64>> {
        let by_phase = self.gathered(values);
        let plain = self.plain(values);
        let usual = sigma(minus(values, &plain).into_iter().flatten()).unwrap_or(0.0);
        let level = |phase: &[(i64, f64)]| median(&mut phase.iter().map(|(_, value)| *value).collect::<Vec<_>>());
        let levels: Vec<Option<f64>> = by_phase.iter().map(|phase| level(phase)).collect();
        let cycles = (values.len() / self.period).max(2);
        let near = (self.period / 100).min(POOLED.div_ceil(cycles - 1) / 2) as i64;
        let mut others = Vec::new();
        let expectation = |step: &i64| {
            others.clear();
            for neighbour in step - near..=step + near {
                // At a step of the season, a neighbour says nothing.
                let levels = levels.get(self.phase(neighbour)).zip(levels.get(self.phase(*step)));
                let is_alike = levels.is_some_and(
                    |levels| matches!(levels, (Some(one), Some(other)) if (one - other).abs() <= ALIKE * usual),
                );
                if neighbour != *step && !is_alike {
                    continue;
                }
                let found = by_phase.get(self.phase(neighbour)).into_iter().flatten();
                // The own cycle's neighbours are left out too: what lasts for hours would expect itself.
                others.extend(found.filter(|(cycle, _)| *cycle != self.cycle(*step)).map(|(_, value)| *value));
            }
            median(&mut others)
        };
        self.steps.iter().map(expectation).collect()
    }
}

/// For each bucket, the median of its neighbours.
fn local(known: &[Option<f64>]) -> Vec<Option<f64>> {
    let (least, most) = NEIGHBOURS;
    let half = (known.len() / 8).clamp(least, most);
    let around = |place: usize| {
        let (from, to) = (place.saturating_sub(half), (place + half + 1).min(known.len()));
        let mut others: Vec<f64> =
            (from..to).filter(|other| *other != place).filter_map(|other| *known.get(other)?).collect();
        if others.len() < least { None } else { median(&mut others) }
    };
    (0..known.len()).map(around).collect()
}

/// The usual deviation at the level of each expectation.
fn spreads(known: &[Option<f64>], expected: &[Option<f64>], (absolute, relative): (f64, f64)) -> Vec<Option<f64>> {
    let mut pairs: Vec<(f64, f64)> = known
        .iter()
        .zip(expected)
        .filter_map(|(value, expected)| Some(((*expected)?, (*value)? - (*expected)?)))
        .collect();
    let Some(overall) = sigma(pairs.iter().map(|(_, deviation)| *deviation)) else { return vec![None; known.len()] };
    pairs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let blocks = (pairs.len() / SPREAD_BUCKETS).clamp(1, SPREADS);
    let levels: Vec<(f64, f64)> = pairs
        .chunks(pairs.len().div_ceil(blocks).max(1))
        .filter_map(|block| {
            let level = median(&mut block.iter().map(|(expected, _)| *expected).collect::<Vec<_>>())?;
            Some((level, sigma(block.iter().map(|(_, deviation)| *deviation))?.max(LEAST_PART * overall)))
        })
        .collect();
    let at =
        |expected: f64| interpolate(&levels, expected).unwrap_or(overall).max(absolute).max(relative * expected.abs());
    expected.iter().map(|expected| expected.map(at)).collect()
}

/// Straight lines between points, level beyond them.
fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = points.partition_point(|(level, _)| *level <= x);
    let (below, above) = (after.checked_sub(1).and_then(|place| points.get(place)), points.get(after));
    match (below, above) {
        (Some((_, y)), None) | (None, Some((_, y))) => Some(*y),
        (Some((x0, y0)), Some((x1, y1))) => Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: Vec<Option<f64>>) -> Series {
        let steps = (0..).take(values.len()).collect();
        Series { values, steps, floor: (0.01, 0.0) }
    }

    #[test]
    fn the_trend_goes_on_at_both_ends() {
        let known: Vec<Option<f64>> = (0..50_i32).map(|place| Some(f64::from(place))).collect();
        let trend = trend(&known, 7).unwrap();
        for (place, level) in trend.iter().enumerate() {
            assert!((level.unwrap() - place as f64).abs() < 1e-9, "{place}: {level:?}");
        }
    }

    #[test]
    fn the_longer_period_is_taken_only_for_what_it_brings() {
        let noise = |hour: usize| (hour.wrapping_mul(2_654_435_761) >> 16) as u8;
        let days = |weekend: f64| {
            let of_day = |hour: usize| (hour % 24) as f64 + f64::from(noise(hour)) * 0.01;
            let value = move |hour: usize| of_day(hour) * if hour / 24 % 7 > 4 { weekend } else { 1.0 };
            series((0..672).map(|hour| Some(value(hour))).collect())
        };
        assert_eq!(fit(&days(1.0), &[24, 168]).period, Some(24));
        assert_eq!(fit(&days(0.3), &[24, 168]).period, Some(168));
        let flat = series((0..672).map(|hour| Some(f64::from(noise(hour)))).collect());
        assert_eq!(fit(&flat, &[24, 168]).period, None);
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        for values in [Vec::new(), vec![None; 100], vec![Some(1.0)]] {
            let buckets = values.len();
            let fit = fit(&series(values), &[24]);
            assert_eq!((fit.expected.len(), fit.spread.len()), (buckets, buckets));
            assert!(fit.expected.iter().all(Option::is_none), "{fit:?}");
        }
    }

    #[test]
    fn spreads_follow_the_level() {
        let expected: Vec<Option<f64>> = (0..400).map(|place| Some(if place % 2 == 0 { 1.0 } else { 100.0 })).collect();
        let known: Vec<Option<f64>> = expected
            .iter()
            .enumerate()
            .map(|(place, level)| level.map(|level| level * (1.0 + 0.1 * f64::from((place / 2 % 3) as i32 - 1))))
            .collect();
        let spread = spreads(&known, &expected, (0.0, 0.0));
        assert!(spread[0].unwrap() < spread[1].unwrap() / 2.0, "{:?}", &spread[..2]);
    }
}
