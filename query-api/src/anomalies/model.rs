//! What was to be expected: trend and season, each a median, so that what is looked for does not hide itself.
//!
//! 1. The **trend** is the median over one period around each bucket, carried on at both ends by its own slope.
//! 2. The **season** of a bucket is the median of what *other* cycles were above the trend at the same phase. Its own value
//!    is left out: a single bucket would otherwise be expected to be what it is.
//! 3. Of the possible periods the one is taken whose expectations are nearest to the values; none, when no season brings
//!    them nearer than the trend alone.
//! 4. The **spread** is the median size of deviations among buckets of about the same expectation: nights are quiet.
//! 5. What deviates far is left out, and everything is done once more.

use std::collections::HashMap;

use super::robust::{median, rolling_median, sigma, trimmed_mean};

/// Cycles that a season needs: with fewer, leaving one's own out leaves too few.
const LEAST_CYCLES: usize = 3;

/// A season must bring expectations this much nearer, as a part of the distance, before it is believed.
const GAIN: f64 = 0.85;

/// A longer period must do so over a shorter one.
const GAIN_OF_LONGER: f64 = 0.95;

/// Values that the median of a season is taken of, if there are so many near the phase.
const POOLED: usize = 9;

/// Buckets on either side that a series without season is compared with.
const NEIGHBOURS: (usize, usize) = (3, 12);

/// Spreads beyond which a value is left out of the second round.
const WILD: f64 = 4.0;

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
    let first = round(&series.values, series, periods);
    let is_usual = |((value, expected), spread): ((Option<f64>, Option<f64>), Option<f64>)| {
        let wild = value? - expected?;
        (wild.abs() <= WILD * spread?).then_some(value?)
    };
    let triples = series.values.iter().copied().zip(first.expected.iter().copied()).zip(first.spread.iter().copied());
    let usual: Vec<Option<f64>> = triples.map(is_usual).collect();
    round(&usual, series, periods)
}

/// One round: learns from `known` only, says something of every bucket.
fn round(known: &[Option<f64>], series: &Series, periods: &[usize]) -> Fit {
    let mut best: Option<(f64, usize, Vec<Option<f64>>)> = None;
    for &period in periods {
        let Some((distance, expected)) = seasonal(known, &series.steps, period) else { continue };
        if best.as_ref().is_none_or(|(least, ..)| distance < least * GAIN_OF_LONGER) {
            best = Some((distance, period, expected));
        }
    }
    let (expected, period) = match best {
        Some((_, period, expected)) => (expected, Some(period)),
        None => (local(known), None),
    };
    let spread = spreads(known, &expected, series.floor);
    Fit { expected, spread, period }
}

/// Expectations by trend and season and their distance from the values, if the series has that season.
fn seasonal(known: &[Option<f64>], steps: &[i64], period: usize) -> Option<(f64, Vec<Option<f64>>)> {
    if period < 2 || known.len() < LEAST_CYCLES * period {
        return None;
    }
    let trend = trend(known, period)?;
    let above: Vec<Option<f64>> =
        known.iter().zip(&trend).map(|(value, trend)| value.map(|value| value - trend)).collect();
    let season = season(&above, steps, period);
    let expected: Vec<Option<f64>> =
        season.iter().zip(&trend).map(|(season, trend)| season.map(|season| trend + season)).collect();
    let with = trimmed_mean(differences(known, &expected))?;
    let without = trimmed_mean(above.iter().flatten().copied())?;
    (with < GAIN * without).then_some((with, expected))
}

fn differences<'a>(known: &'a [Option<f64>], expected: &'a [Option<f64>]) -> impl Iterator<Item = f64> + 'a {
    known.iter().zip(expected).filter_map(|(value, expected)| Some((*value)? - (*expected)?))
}

/// The median over one period, carried on where the period does not fit.
fn trend(known: &[Option<f64>], period: usize) -> Option<Vec<f64>> {
    let medians = rolling_median(known, period / 2);
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
    let mut level = start;
    let carried = medians.iter().enumerate().map(|(place, median)| match median {
        Some(median) => {
            level = *median;
            level
        }
        None if place < first => start - before * (first - place) as f64,
        None if place > last => end + after * (place - last) as f64,
        None => level,
    });
    Some(carried.collect())
}

/// For each bucket, the median of the other cycles near its phase.
fn season(above: &[Option<f64>], steps: &[i64], period: usize) -> Vec<Option<f64>> {
    let width = period as i64;
    let mut by_phase: HashMap<i64, Vec<(i64, f64)>> = HashMap::new();
    for (value, step) in above.iter().zip(steps) {
        if let Some(value) = value {
            by_phase.entry(step.rem_euclid(width)).or_default().push((step.div_euclid(width), *value));
        }
    }
    let cycles = (above.len() / period).max(2);
    let near = (period / 100).min((POOLED.div_ceil(cycles - 1)) / 2) as i64;
    let mut others = Vec::new();
    let expectation = |step: &i64| {
        others.clear();
        for neighbour in step - near..=step + near {
            let own = step.div_euclid(width);
            let found = by_phase.get(&neighbour.rem_euclid(width)).into_iter().flatten();
            // The own cycle's neighbours are left out too: what lasts for hours would expect itself.
            others.extend(found.filter(|(cycle, _)| *cycle != own).map(|(_, value)| *value));
        }
        if others.len() + 1 < LEAST_CYCLES { None } else { median(&mut others) }
    };
    steps.iter().map(expectation).collect()
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
