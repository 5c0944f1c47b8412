//! Synthetic series with known anomalies: the experiment behind the choice of method, kept as a test of it.

use super::detect::{Detected, Values, detect};
use super::simulated::{Random, WEEKDAYS, of_day};
use crate::metric_definitions::Measure;
use crate::plan::Frame;
use crate::plan::anomalies::{Judged, Shown};
use crate::request::anomalies::{Direction, Sensitivity};
use crate::time::{Granularity, Zone};

/// Monday, 2026-06-01, 00:00 UTC.
pub(super) const FROM: i64 = 1_780_272_000;

/// Learns from and shows all of `buckets` whole buckets.
pub(super) fn plan(measure: Measure, granularity: Granularity, buckets: i64) -> Judged {
    let width = granularity.clock_seconds().unwrap_or(86_400);
    let frame = Frame { from: FROM, to: FROM + buckets * width, granularity, zone: Zone::utc() };
    let shown = Shown { from: FROM, sensitivity: Sensitivity::High, direction: Direction::Both };
    Judged { frame, nature: measure.into(), shown }
}

/// What ClickHouse would answer: nothing of buckets without events.
pub(super) fn points(plan: &Judged, values: &[f64]) -> Values {
    let starts = plan.frame.grid().starts();
    let happened = starts.into_iter().zip(values).filter(|(_, value)| **value != 0.0);
    happened.map(|(at, value)| (at, Some(*value))).collect()
}

/// Judges a series long after it ended.
pub(super) fn judged(plan: &Judged, values: &[f64]) -> Detected {
    let later_ms = (plan.frame.to + 86_400) * 1_000;
    detect(plan, &points(plan, values), later_ms).unwrap()
}

/// A kind of series.
struct Kind {
    level: f64,
    per_day: usize,
    days: usize,
    noise: f64,
    has_season: bool,
}

/// Factors and lengths in buckets of what is injected.
const INJECTED: [(f64, usize); 12] = [
    (2.0, 1),
    (1.6, 2),
    (3.0, 1),
    (2.0, 3),
    (0.3, 1),
    (0.3, 3),
    (0.5, 2),
    (0.0, 4),
    (0.0, 1),
    (0.0, 6),
    (0.6, 4),
    (1.5, 3),
];

/// Values, and which of them were changed.
fn series(kind: &Kind, seed: u64) -> (Vec<f64>, Vec<bool>) {
    let mut random = Random(seed.wrapping_mul(7_919));
    let buckets = kind.per_day * kind.days;
    let trend = (random.uniform() - 0.4) * 0.8;
    let mut values: Vec<f64> = (0..buckets)
        .map(|bucket| {
            let day = of_day((bucket % kind.per_day) as f64 / kind.per_day as f64);
            let season = if kind.has_season { day * WEEKDAYS[bucket / kind.per_day % 7] } else { 1.0 };
            let level = kind.level * season * (1.0 + trend * bucket as f64 / buckets as f64);
            let value = level * (kind.noise * random.normal()).exp();
            (value + value.sqrt() * random.normal()).max(0.0).round()
        })
        .collect();
    let mut changed = vec![false; buckets];
    let injected = if kind.per_day == 1 { &INJECTED[..6] } else { &INJECTED[..] };
    for (factor, length) in injected {
        let length = if kind.per_day == 1 { 1 } else { *length };
        loop {
            let at = (random.uniform() * (buckets - length) as f64) as usize;
            let near = at.saturating_sub(3)..(at + length + 3).min(buckets);
            let mean = values[at..at + length].iter().sum::<f64>() / length as f64;
            // At night there is nothing to lose.
            if changed[near].contains(&true) || (*factor < 1.0 && mean < kind.level * 0.4) {
                continue;
            }
            for bucket in at..at + length {
                values[bucket] = (values[bucket] * factor).round();
                changed[bucket] = true;
            }
            break;
        }
    }
    (values, changed)
}

/// Precision and recall over 30 series of a kind.
fn measured(kind: &Kind) -> (f64, f64) {
    let granularity = if kind.per_day == 1 { Granularity::Day } else { Granularity::Hour };
    let plan = plan(Measure::Events, granularity, (kind.per_day * kind.days) as i64);
    let (mut right, mut flagged, mut injected) = (0, 0, 0);
    for seed in 0..30 {
        let (values, changed) = series(kind, seed);
        for (bucket, changed) in judged(&plan, &values).buckets.iter().zip(&changed) {
            right += u32::from(bucket.anomaly.is_some() && *changed);
            flagged += u32::from(bucket.anomaly.is_some());
            injected += u32::from(*changed);
        }
    }
    (f64::from(right) / f64::from(flagged), f64::from(right) / f64::from(injected))
}

#[test]
fn injected_anomalies_are_found_as_well_as_the_module_says() {
    let hourly = Kind { level: 2_000.0, per_day: 24, days: 28, noise: 0.06, has_season: true };
    for (kind, precision, recall) in [
        (Kind { ..hourly }, 0.95, 0.98),
        (Kind { level: 60.0, ..hourly }, 0.85, 0.72),
        (Kind { noise: 0.15, ..hourly }, 0.91, 0.72),
        (Kind { days: 14, ..hourly }, 0.75, 0.95),
        (Kind { level: 50_000.0, per_day: 1, days: 56, noise: 0.05, has_season: true }, 0.93, 1.0),
        (Kind { level: 500.0, noise: 0.08, has_season: false, ..hourly }, 0.975, 0.98),
    ] {
        let (found_precision, found_recall) = measured(&kind);
        let what = format!("{} a bucket, noise {}: {found_precision:.3}, {found_recall:.3}", kind.level, kind.noise);
        println!("{what}");
        assert!(found_precision >= precision - 0.005 && found_recall >= recall - 0.005, "{what}");
    }
}
