//! The parameters of anomaly detection.

use serde::Serialize;

use super::error::quoted;
use super::params::FILTER;
use super::{BadRequest, Params, SeriesQuery, Window};
use crate::time::{DAY, Granularity, MINUTE};

/// Parameters of `GET /v1/metrics/{name}/anomalies`.
pub const ANOMALY_PARAMS: &[&str] =
    &["startTime", "endTime", "granularity", "groupBy", FILTER, "eventType", "timezone", "sensitivity", "direction"];

/// The range without `startTime` and `endTime`, in days.
const DEFAULT_DAYS: i64 = 7;

/// Ranges up to so many days are looked at by hours unless said otherwise, longer ones by days.
const DAYS_OF_HOURS: i64 = 31;

/// How far from its expectation a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// Only what is far beyond doubt.
    Low,
    /// What is worth looking at.
    Medium,
    /// Everything suspicious.
    High,
}

impl Sensitivity {
    const ALL: [(&'static str, Self); 3] = [("low", Self::Low), ("medium", Self::Medium), ("high", Self::High)];

    /// How many of the usual deviations. Of a thousand buckets of clean series (with season, without, with drift) 0.6, 1.1
    /// and 2.7 are beyond.
    pub const fn threshold(self) -> f64 {
        match self {
            Self::Low => 6.0,
            Self::Medium => 4.5,
            Self::High => 3.5,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// More than expected.
    Up,
    /// Less than expected.
    Down,
    /// Either.
    Both,
}

impl Direction {
    const ALL: [(&'static str, Self); 3] = [("up", Self::Up), ("down", Self::Down), ("both", Self::Both)];

    /// Whether a deviation of this sign counts.
    pub fn counts(self, score: f64) -> bool {
        match self {
            Self::Up => score > 0.0,
            Self::Down => score < 0.0,
            Self::Both => true,
        }
    }
}

/// A question for anomalies.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyQuery {
    /// The series; it always has a granularity, and no groups.
    pub series: SeriesQuery,
    /// How far.
    pub sensitivity: Sensitivity,
    pub direction: Direction,
}

impl AnomalyQuery {
    /// Reads the parameters for a series that they were read into.
    pub fn of(series: SeriesQuery, params: &Params, now_ms: i64) -> Result<Self, BadRequest> {
        if let Some(by) = params.get("groupBy") {
            let expected =
                "possible here: anomalies are of one series. Ask for each group by itself, with filter=dimension:value";
            return Err(BadRequest::Malformed {
                parameter: "groupBy",
                given: quoted(by),
                expected: expected.to_owned(),
            });
        }
        let seconds = DEFAULT_DAYS * DAY;
        let window = match series.window() {
            given if params.get("startTime").is_some() => given,
            Window::Closed { to, .. } => Window::Closed { from: to - seconds, to },
            Window::Last { .. } | Window::Open { .. } => Window::Last { seconds },
        };
        let granularity = series.granularity().unwrap_or_else(|| readable(window, now_ms));
        Ok(Self {
            series: series.over(window).in_buckets_of(granularity),
            sensitivity: one_of("sensitivity", params, &Sensitivity::ALL)?.unwrap_or(Sensitivity::Medium),
            direction: one_of("direction", params, &Direction::ALL)?.unwrap_or(Direction::Both),
        })
    }
}

fn readable(window: Window, now_ms: i64) -> Granularity {
    let (from, to) = window.bounds(now_ms);
    // To the minute: a range that began so many days ago is not longer for the seconds of the running one.
    if to - MINUTE - from < DAYS_OF_HOURS * DAY { Granularity::Hour } else { Granularity::Day }
}

fn one_of<T: Copy>(
    parameter: &'static str,
    params: &Params,
    all: &[(&'static str, T)],
) -> Result<Option<T>, BadRequest> {
    let Some(text) = params.get(parameter) else { return Ok(None) };
    let found = all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.map(Some).ok_or_else(|| BadRequest::Malformed {
        parameter,
        given: quoted(text),
        expected: format!("one of {}", all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::MetricQuery;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn query(name: &str, query: &str) -> Result<AnomalyQuery, BadRequest> {
        let params = Params::parse(Some(query), ANOMALY_PARAMS)?;
        let metric = MetricQuery::parse(name, &params, &Vec::new, NOW)?;
        AnomalyQuery::of(SeriesQuery::BuiltIn(metric), &params, NOW)
    }

    #[test]
    fn a_week_of_hours_unless_said_otherwise() {
        let plain = query("events", "").unwrap();
        assert_eq!(plain.series.window(), Window::Last { seconds: 7 * DAY });
        assert_eq!(plain.series.granularity(), Some(Granularity::Hour));
        assert_eq!((plain.sensitivity, plain.direction), (Sensitivity::Medium, Direction::Both));
        let granularity = |name, text| query(name, text).unwrap().series.granularity().unwrap();
        assert_eq!(granularity("events", "startTime=2026-08-01"), Granularity::Day);
        assert_eq!(granularity("events", "startTime=2026-08-01&granularity=hour"), Granularity::Hour);
        assert_eq!(granularity("daily_active_users", ""), Granularity::Day);
        let week = query("events", "endTime=2026-11-10").unwrap().series.window();
        assert!(matches!(week, Window::Closed { from, to } if to - from == 7 * DAY), "{week:?}");
    }

    #[test]
    fn bad_parameters_say_what_would_do() {
        for (text, expected) in [
            ("sensitivity=99", "`sensitivity`: `99` is not one of low, medium, high"),
            ("direction=left", "`direction`: `left` is not one of up, down, both"),
            ("groupBy=country", "`groupBy`: `country` is not possible here: anomalies are of one series"),
            ("sensitivty=low", "did you mean sensitivity"),
        ] {
            let error = query("events", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
