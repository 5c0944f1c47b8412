//! Runs at another level: outages, and shifts of the level, from two buckets to a third of the series.
//!
//! A trend that follows the values also follows an outage, and then the hours before it look anomalous. So levels are found first:
//!
//! 1. Each bucket is explained by one of a few **levels**, as multiples of its expectation (of averages: as spreads beside it).
//!    The cheapest path through all buckets is taken, at a price for each change of level; the cost of one bucket is
//!    bounded, so a lone spike changes nothing.
//! 2. A change is a **shift** only where it is abrupt; drift is left to the trend.
//! 3. A run that goes back, or is an outage that still lasts, is **temporary**, up to a third of the series. Any other is a
//!    **lasting** shift, and the level from there on is the ordinary one.

use std::ops::Range;

use super::robust::median;

/// What one bucket can cost, in halves of squared spreads: beyond 5.3 spreads it is wild, whatever its level.
const MOST_COST: f64 = 14.0;

/// What a change of level costs: with there and back less than two wild buckets, and more than one.
const CHANGE_COST: f64 = 12.5;

/// Levels of what counts, as multiples of what is expected.
const FACTORS: [f64; 17] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.82, 1.0, 1.22, 1.5, 1.9, 2.5, 3.5, 6.0, 12.0];

/// Levels of everything else, in spreads beside what is expected.
const OFFSETS: [f64; 17] =
    [-70.0, -40.0, -24.0, -14.0, -9.0, -6.0, -4.0, -2.5, 0.0, 2.5, 4.0, 6.0, 9.0, 14.0, 24.0, 40.0, 70.0];

/// Values at another level may be this far from it, as a part of the level: there are few levels.
const COARSENESS: f64 = 0.05;

/// A level up to this is nothing.
const OUTAGE: f64 = 0.1;

/// Buckets on either side that tell whether a change is abrupt.
const NEAR: usize = 12;

/// A change is abrupt when this part of it happens there.
const ABRUPT: f64 = 0.5;

/// A run has gone back when no more than this part of the change is left.
const LEFT: f64 = 0.4;

/// A first segment that is at least this part of the series is where it begins to be ordinary: one in so many.
const LONG_PART: usize = 10;

/// Buckets of the shortest run.
const SHORTEST: usize = 2;

/// Temporary runs are at most this part of the series: one in so many.
const MOST_PART: usize = 3;

/// The levels that can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ladder {
    /// Multiples, of square roots: what counts.
    Factors,
    /// Offsets in spreads.
    Offsets,
}

/// A run at another level.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its buckets; a lasting one ends with the next, or with the series.
    pub range: Range<usize>,
    pub kind: RunKind,
    /// The level within; of a lasting one, seen from the first level of the series.
    pub level: f64,
}

/// What a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Nothing happens, but did before: temporary.
    Outage,
    /// Another level, and back.
    Temporary,
    /// Another level, for good.
    Lasting,
}

/// A bucket as levels see it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The value, if it is known.
    pub value: Option<f64>,
    /// What is expected at the first level.
    pub expected: f64,
    /// The usual deviation.
    pub spread: f64,
}

impl Ladder {
    /// The level at which everything is as expected.
    pub const fn ordinary(self) -> f64 {
        match self {
            Self::Factors => 1.0,
            Self::Offsets => 0.0,
        }
    }

    fn levels(self) -> Vec<f64> {
        match self {
            Self::Factors => FACTORS.map(f64::sqrt).to_vec(),
            Self::Offsets => OFFSETS.to_vec(),
        }
    }

    /// What is expected at a level.
    pub fn at(self, level: f64, expected: f64, spread: f64) -> f64 {
        match self {
            Self::Factors => level * expected,
            Self::Offsets => level.mul_add(spread, expected),
        }
    }

    /// What a value at a level would have been at the ordinary one; none where nothing is left of it.
    pub fn undone(self, level: f64, value: f64, spread: f64) -> Option<f64> {
        match self {
            Self::Factors => (level > OUTAGE.sqrt()).then(|| value / level),
            Self::Offsets => Some(level.mul_add(-spread, value)),
        }
    }

    /// A level seen from another one.
    fn seen_from(self, first: f64, level: f64) -> f64 {
        match self {
            Self::Factors if first > 0.0 => level / first,
            Self::Factors => level,
            Self::Offsets => level - first,
        }
    }

    /// The level at which a value is just as expected.
    fn level_of(self, seen: &Seen) -> Option<f64> {
        match self {
            Self::Factors => (seen.expected > seen.spread).then_some(seen.value? / seen.expected),
            Self::Offsets => (seen.spread > 0.0).then_some((seen.value? - seen.expected) / seen.spread),
        }
    }

    fn cost(self, level: f64, seen: &Seen) -> f64 {
        let (Some(value), true) = (seen.value, seen.spread > 0.0) else { return 0.0 };
        // Noise grows with what is counted, and levels other than the ordinary one are few and far between.
        let spread = match self {
            _ if level == self.ordinary() => seen.spread,
            Self::Factors => (seen.spread * level.max(1.0)).max(COARSENESS * level * seen.expected),
            Self::Offsets => seen.spread * (2.0 * COARSENESS * level.abs()).max(1.0),
        };
        let deviation = (value - self.at(level, seen.expected, seen.spread)) / spread;
        (deviation * deviation / 2.0).min(MOST_COST)
    }

    fn is_large(self, change: f64) -> bool {
        change.abs() >= if self == Self::Factors { 0.07 } else { 2.0 }
    }

    fn is_nothing(self, level: f64) -> bool {
        self == Self::Factors && level <= OUTAGE.sqrt()
    }
}

/// The runs of a series, in order.
pub fn runs(ladder: Ladder, seen: &[Seen]) -> Vec<Run> {
    let segments = segments(&path(ladder, seen), &ladder.levels());
    let scan = Scan { ladder, seen, segments: &segments };
    let (mut runs, mut base, mut place) = (Vec::new(), scan.first_base(), 0);
    let first = scan.measured(base);
    while let Some(segment) = segments.get(place) {
        if segment.level == base {
            place += 1;
            continue;
        }
        let (end, next, is_back) = scan.run_from(place, base);
        let (start, whole) = (segment.range.start, segment.level - base);
        let is_sudden = if start == 0 {
            scan.is_abrupt(&(0..end), &(end..seen.len()), -whole)
        } else {
            scan.is_abrupt(&(0..start), &(start..end), whole)
        };
        let (range, level) = (start..end, scan.level_within(start..end, segment.level));
        let is_large = ladder.is_large(level - scan.measured(base));
        if !is_sudden || !is_large || (range.len() < SHORTEST && is_back) {
            base = segment.level;
            place += 1;
            continue;
        }
        let is_short = range.len() * MOST_PART <= seen.len() + seen.len() / 10;
        let is_nothing = ladder.is_nothing(level);
        let kind = match (is_short && is_back, is_short && is_nothing) {
            (_, true) => RunKind::Outage,
            (true, false) => RunKind::Temporary,
            (false, false) => RunKind::Lasting,
        };
        if kind == RunKind::Lasting {
            base = segment.level;
            let level = ladder.seen_from(first, scan.level_within(segment.range.clone(), segment.level));
            runs.push(Run { range: segment.range.start..seen.len(), kind, level });
            place += 1;
        } else {
            runs.push(Run { range, kind, level });
            place = next;
        }
    }
    let temporary = |run: &&Run| run.kind == RunKind::Temporary;
    // What is mostly at other levels has no level: its season has changed, or it is noise.
    if runs.iter().filter(temporary).map(|run| run.range.len()).sum::<usize>() * MOST_PART
        > seen.len() + seen.len() / 10
    {
        runs.retain(|run| run.kind != RunKind::Temporary);
    }
    runs
}

/// Neighbouring buckets at one level.
#[derive(Debug, Clone, PartialEq)]
struct Segment {
    range: Range<usize>,
    level: f64,
}

struct Scan<'a> {
    ladder: Ladder,
    seen: &'a [Seen],
    segments: &'a [Segment],
}

impl Scan<'_> {
    /// The level of the first segment, or, if that is short or nothing, of most of the series.
    fn first_base(&self) -> f64 {
        let is_long = |segment: &&Segment| {
            segment.range.len() * LONG_PART >= self.seen.len() && !self.ladder.is_nothing(segment.level)
        };
        if let Some(first) = self.segments.first().filter(is_long) {
            return first.level;
        }
        let mut lengths: Vec<(f64, usize)> = Vec::new();
        for segment in self.segments {
            match lengths.iter_mut().find(|(level, _)| *level == segment.level) {
                Some((_, known)) => *known += segment.range.len(),
                None => lengths.push((segment.level, segment.range.len())),
            }
        }
        lengths.into_iter().max_by_key(|(_, length)| *length).map_or(self.ladder.ordinary(), |(level, _)| level)
    }

    /// The level of the values that are explained by it.
    fn measured(&self, base: f64) -> f64 {
        let segments = self.segments.iter().filter(|segment| segment.level == base);
        let seen = segments.filter_map(|segment| self.seen.get(segment.range.clone())).flatten();
        median(&mut seen.filter_map(|seen| self.ladder.level_of(seen)).collect::<Vec<_>>()).unwrap_or(base)
    }

    /// Whether the level changes by about `whole` from the end of one range to the start of the next, and not little by little.
    fn is_abrupt(&self, before: &Range<usize>, after: &Range<usize>, whole: f64) -> bool {
        let before = self.local(before.start.max(before.end.saturating_sub(NEAR))..before.end);
        let after = self.local(after.start..after.end.min(after.start + NEAR));
        after.zip(before).is_none_or(|(after, before)| (after - before) * whole.signum() >= ABRUPT * whole.abs())
    }

    /// Where a run that begins with a segment ends, the segment after it, and whether it went back.
    fn run_from(&self, place: usize, base: f64) -> (usize, usize, bool) {
        let Some(first) = self.segments.get(place) else { return (self.seen.len(), place + 1, false) };
        let whole = first.level - base;
        for (next, segment) in self.segments.iter().enumerate().skip(place + 1) {
            let left = segment.level - base;
            if left * whole.signum() <= LEFT * whole.abs() {
                return (segment.range.start, next, true);
            }
        }
        (self.seen.len(), self.segments.len(), false)
    }

    /// The level that the values of a range are at.
    fn level_within(&self, range: Range<usize>, otherwise: f64) -> f64 {
        self.local(range).unwrap_or(otherwise)
    }

    fn local(&self, range: Range<usize>) -> Option<f64> {
        let seen = self.seen.get(range)?.iter();
        median(&mut seen.filter_map(|seen| self.ladder.level_of(seen)).collect::<Vec<_>>())
    }
}

/// The cheapest level of each bucket, by its place on the ladder.
fn path(ladder: Ladder, seen: &[Seen]) -> Vec<usize> {
    let levels = ladder.levels();
    let begin = |level: &f64| if *level == ladder.ordinary() { 0.0 } else { CHANGE_COST };
    let mut costs: Vec<f64> = levels.iter().map(begin).collect();
    // From which level each was reached; the same one, unless a change was cheaper.
    let mut from: Vec<Vec<usize>> = Vec::with_capacity(seen.len());
    for bucket in seen {
        let (cheapest, least) = least(&costs);
        let changed = least + CHANGE_COST;
        let step = |(place, cost): (usize, &mut f64)| {
            let origin = if *cost <= changed { place } else { cheapest };
            *cost = cost.min(changed) + levels.get(place).map_or(0.0, |level| ladder.cost(*level, bucket));
            origin
        };
        from.push(costs.iter_mut().enumerate().map(step).collect());
    }
    let (mut place, _) = least(&costs);
    let back = from.iter().rev().map(|origins| {
        let here = place;
        place = origins.get(here).copied().unwrap_or(here);
        here
    });
    let mut path: Vec<usize> = back.collect();
    path.reverse();
    path
}

fn least(costs: &[f64]) -> (usize, f64) {
    let places = costs.iter().copied().enumerate();
    places.min_by(|(_, one), (_, other)| one.total_cmp(other)).unwrap_or((0, 0.0))
}

fn segments(path: &[usize], levels: &[f64]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (bucket, place) in path.iter().enumerate() {
        let level = levels.get(*place).copied().unwrap_or(0.0);
        match segments.last_mut().filter(|segment| segment.level == level) {
            Some(segment) => segment.range.end = bucket + 1,
            None => segments.push(Segment { range: bucket..bucket + 1, level }),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ladder: Ladder, values: &[f64]) -> Vec<(Range<usize>, RunKind)> {
        let seen = values.iter().map(|value| Seen { value: Some(*value), expected: 20.0, spread: 1.0 });
        runs(ladder, &seen.collect::<Vec<_>>()).into_iter().map(|run| (run.range, run.kind)).collect()
    }

    fn noisy(buckets: usize) -> Vec<f64> {
        (0..buckets).map(|place| 20.0 + ((place * 37 % 11) as f64 - 5.0) / 4.0).collect()
    }

    #[test]
    fn runs_are_told_from_spikes_and_drift() {
        let mut spike = noisy(120);
        spike[50] = 60.0;
        assert_eq!(found(Ladder::Factors, &spike), []);
        let drift: Vec<f64> = noisy(400).iter().enumerate().map(|(place, value)| value + place as f64 / 50.0).collect();
        assert_eq!(found(Ladder::Factors, &drift), []);
        for length in [2, 3, 12, 40] {
            let mut outage = noisy(120);
            outage[50..50 + length].fill(0.0);
            assert_eq!(found(Ladder::Factors, &outage), [(50..50 + length, RunKind::Outage)]);
            let mut until_now = noisy(120);
            until_now[120 - length..].fill(0.0);
            assert_eq!(found(Ladder::Factors, &until_now), [(120 - length..120, RunKind::Outage)]);
            let mut more = noisy(120);
            more[50..50 + length].iter_mut().for_each(|value| *value += 16.0);
            assert_eq!(found(Ladder::Offsets, &more), [(50..50 + length, RunKind::Temporary)]);
        }
        let mut for_good = noisy(120);
        for_good[60..].iter_mut().for_each(|value| *value *= 1.5);
        assert_eq!(found(Ladder::Factors, &for_good), [(60..120, RunKind::Lasting)]);
    }
}
