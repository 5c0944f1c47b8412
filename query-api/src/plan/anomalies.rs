//! The series to read for anomalies: the range, and history before it to learn from.

use serde::Serialize;
use tallyhouse_schema::Catalogue;

use super::structured::Period;
use super::{Frame, OneSeries, Unplannable, one_series};
use crate::metric_definitions::Nature;
use crate::request::anomalies::{AnomalyQuery, Direction, Sensitivity};
use crate::request::{SeriesQuery, Window};
use crate::time::{DAY, Granularity, grid};

/// What is read and what is shown of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnomalyPlan {
    /// The buckets of the series, with history.
    pub frame: Frame,
    pub series: OneSeries,
    /// What is shown.
    pub shown: Shown,
}

/// What an answer depends on beside the series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Start of the first bucket that was asked for.
    pub from: i64,
    /// How far from its expectation a value must be.
    pub sensitivity: Sensitivity,
    pub direction: Direction,
}

/// Plans a question for anomalies.
pub fn plan(query: &AnomalyQuery, catalogue: &Catalogue, now_ms: i64) -> Result<AnomalyPlan, Unplannable> {
    let (asked, frame) = planned(&query.series, catalogue, now_ms)?;
    let (granularity, zone) = (frame.granularity, &frame.zone);
    let from = grid::floor(granularity, zone, frame.from);
    let longer = query.series.clone().over(earlier(query.series.window(), history(granularity)));
    // History may be gone, or make more points than are answered; the range alone then has to do.
    let (series, frame) = planned(&longer, catalogue, now_ms).unwrap_or((asked, frame));
    let shown = Shown { from, sensitivity: query.sensitivity, direction: query.direction };
    Ok(AnomalyPlan { frame, series, shown })
}

fn planned(query: &SeriesQuery, catalogue: &Catalogue, now_ms: i64) -> Result<(OneSeries, Frame), Unplannable> {
    let series = one_series(query, catalogue, now_ms)?;
    let frame = match &series {
        OneSeries::BuiltIn(plan) => plan.frame.clone(),
        OneSeries::Registered(plan) => {
            let Period { from, to, frame, .. } = &plan.period;
            // A question for anomalies always has a granularity, and so a frame.
            let whole =
                || Frame { from: *from, to: *to, granularity: Granularity::Month, zone: plan.shape.zone.clone() };
            frame.clone().unwrap_or_else(whole)
        }
    };
    Ok((series, frame))
}

/// What there is to judge: a series' buckets, and what its values are like.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub frame: Frame,
    /// Its values.
    pub nature: Nature,
    /// What is shown.
    pub shown: Shown,
}

impl AnomalyPlan {
    /// What there is to judge.
    pub fn judged(&self) -> Judged {
        let nothing = Nature { of_nothing: None, is_count: false };
        let nature = match &self.series {
            OneSeries::BuiltIn(plan) => plan.measure.into(),
            OneSeries::Registered(plan) => plan.shape.metrics.first().map_or(nothing, |metric| metric.nature()),
        };
        Judged { frame: self.frame.clone(), nature, shown: self.shown }
    }
}

/// Seconds of history: four of the longest cycles that buckets of this width are compared over, more of wide buckets.
const fn history(granularity: Granularity) -> i64 {
    match granularity {
        Granularity::Minute => 4 * DAY,
        Granularity::FiveMinutes | Granularity::QuarterHour | Granularity::HalfHour | Granularity::Hour => 28 * DAY,
        Granularity::Day => 56 * DAY,
        Granularity::Week => 26 * 7 * DAY,
        Granularity::Month => 2 * 365 * DAY,
    }
}

fn earlier(window: Window, seconds: i64) -> Window {
    match window {
        Window::Open { from, until } => Window::Open { from: from - seconds, until },
        Window::Last { seconds: asked } => Window::Last { seconds: asked + seconds },
        Window::Closed { from, to } => Window::Closed { from: from - seconds, to },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::anomalies::ANOMALY_PARAMS;
    use crate::request::{MetricQuery, Params};

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn planned(query: &str) -> Result<AnomalyPlan, Unplannable> {
        let params = Params::parse(Some(query), ANOMALY_PARAMS).unwrap();
        let metric = MetricQuery::parse("events", &params, &Vec::new, NOW).unwrap();
        let query = AnomalyQuery::of(SeriesQuery::BuiltIn(metric), &params, NOW).unwrap();
        plan(&query, &Catalogue::default(), NOW)
    }

    /// Where the series begins, and what is shown of it.
    fn begins(query: &str) -> (String, String) {
        let plan = planned(query).unwrap();
        let zone = &plan.frame.zone;
        (zone.rfc3339(plan.frame.from), zone.rfc3339(plan.shown.from))
    }

    #[test]
    fn history_is_read_and_not_shown() {
        for (query, from, shown) in [
            ("", "2026-10-16T13:00:00Z", "2026-11-13T13:00:00Z"),
            ("startTime=2026-11-20T10:20:00Z", "2026-10-23T10:00:00Z", "2026-11-20T10:00:00Z"),
            ("startTime=2026-11-01&granularity=day", "2026-09-06T00:00:00Z", "2026-11-01T00:00:00Z"),
            (
                "granularity=minute&startTime=2026-11-20T00:00:00Z&endTime=2026-11-20T06:00:00Z",
                "2026-11-16T00:00:00Z",
                "2026-11-20T00:00:00Z",
            ),
            // Too many points with history, or minutes that are gone: the range alone.
            ("granularity=minute&startTime=2026-11-14", "2026-11-14T00:00:00Z", "2026-11-14T00:00:00Z"),
            ("granularity=5m&startTime=2026-08-25&endTime=2026-08-26", "2026-08-25T00:00:00Z", "2026-08-25T00:00:00Z"),
            ("granularity=30m&startTime=2026-08-25&endTime=2026-08-26", "2026-07-28T00:00:00Z", "2026-08-25T00:00:00Z"),
        ] {
            assert_eq!(begins(query), (from.to_owned(), shown.to_owned()), "{query}");
        }
        assert!(planned("granularity=minute&startTime=2026-10-01").is_err(), "too many points are refused as ever");
    }
}
