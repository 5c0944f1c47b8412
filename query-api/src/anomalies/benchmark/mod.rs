//! How well the detector finds labelled anomalies, by family of series: `cargo test -p tallyhouse-query-api --lib
//! benchmark -- --nocapture` prints it.

mod families;
mod score;
mod shape;

use super::detect::{Values, detect};
use crate::metric_definitions::Measure;
use crate::plan::Frame;
use crate::plan::anomalies::{Judged, Shown};
use crate::request::anomalies::{Direction, Sensitivity};
use crate::time::{Granularity, Zone};
use families::{FAMILIES, Family, SERIES};
use score::{Score, line};
use shape::Labelled;

fn judged(labelled: &Labelled, sensitivity: Sensitivity) -> Judged {
    let granularity = match labelled.width {
        60 => Granularity::Minute,
        3_600 => Granularity::Hour,
        _ => Granularity::Day,
    };
    let to = labelled.from + labelled.values.len() as i64 * labelled.width;
    let frame = Frame { from: labelled.from, to, granularity, zone: Zone::named(labelled.zone).unwrap() };
    let measure = if labelled.is_count { Measure::Events } else { Measure::ValueAvg };
    let shown = Shown { from: labelled.from, sensitivity, direction: Direction::Both };
    Judged { frame, nature: measure.into(), shown }
}

fn flagged(labelled: &Labelled, sensitivity: Sensitivity) -> Vec<bool> {
    let plan = judged(labelled, sensitivity);
    let happened = |value: &Option<f64>| value.filter(|value| !labelled.is_count || *value != 0.0);
    let starts = plan.frame.grid().starts().into_iter().zip(&labelled.values);
    let values: Values = starts.filter_map(|(at, value)| Some((at, Some(happened(value)?)))).collect();
    let found = detect(&plan, &values, (plan.frame.to + 86_400) * 1_000).unwrap();
    found.buckets.iter().map(|bucket| bucket.anomaly.is_some()).collect()
}

fn score(family: &Family, sensitivity: Sensitivity) -> Score {
    let series = (0..SERIES).map(|seed| family.labelled(seed));
    series.map(|labelled| Score::of(&labelled, &flagged(&labelled, sensitivity))).fold(Score::default(), Score::and)
}

#[test]
fn what_is_labelled_is_found_and_little_else() {
    let mut total = Score::default();
    println!("| medium | by event: precision / recall | by bucket | false alarms of 1,000 |\n|---|---|---|---|");
    for family in &FAMILIES {
        let score = score(family, Sensitivity::Medium);
        println!("{}", line(family.name, &score));
        total = total.and(score);
    }
    println!("{}", line("all", &total));
    let ((precision, by_bucket), (recall, recall_by_bucket)) = (total.precision(), total.recall());
    assert!(precision >= 0.85 && recall >= 0.98 && by_bucket >= 0.97 && recall_by_bucket >= 0.98, "{total:?}");
}

#[test]
fn clean_series_are_left_alone() {
    for (sensitivity, most) in [(Sensitivity::Low, 0.7), (Sensitivity::Medium, 1.2), (Sensitivity::High, 2.8)] {
        let mut total = Score::default();
        for family in &FAMILIES[..3] {
            let score = score(family, sensitivity);
            println!("{sensitivity:?}: {}", line(family.name, &score));
            total = total.and(score);
        }
        println!("{sensitivity:?}: {}", line("all", &total));
        assert!(total.false_alarms() <= most, "{sensitivity:?}: {}", total.false_alarms());
    }
}
