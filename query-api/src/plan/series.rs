//! The plan of a metric's series.

use serde::Serialize;
use tallyhouse_schema::{Catalogue, DimSet};

use super::error::Unplannable;
use super::frame::Frame;
use super::read::{Read, Source};
use super::{dimensions, frame};
use crate::condition::{Condition, Field};
use crate::metric_definitions::Measure;
use crate::request::MetricQuery;

/// What a series reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeriesPlan {
    pub metric: &'static str,
    /// What is computed.
    pub measure: Measure,
    /// The table, and the rows of it.
    pub source: Source,
    pub condition: Condition,
    /// The range and its buckets.
    pub frame: Frame,
    /// Dimensions that make separate series.
    pub group_by: Vec<String>,
    pub limit: u32,
    /// Whether the others come as one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other: bool,
}

impl SeriesPlan {
    /// What is read for it.
    pub fn read(&self) -> Read {
        Read {
            source: self.source.clone(),
            condition: self.condition.clone(),
            from: self.frame.from,
            to: self.frame.to,
            buckets: Some(self.frame.clone()),
            by: self.group_by.iter().map(|name| Field::Dimension(name.clone())).collect(),
            measures: vec![self.measure],
            top: (!self.group_by.is_empty()).then_some(self.limit),
        }
    }
}

impl Read {
    /// The same, of all groups but these, as one.
    pub fn without(&self, groups: impl IntoIterator<Item = Vec<String>>) -> Self {
        let condition = self.condition.clone().and(Condition::none_of(&self.by, groups));
        Self { condition, by: Vec::new(), top: None, ..self.clone() }
    }

    /// The dimensions at these places of the set, counted from 1, that the caller asked about, in order.
    pub fn named(&self, places: &[i64]) -> Vec<&str> {
        let Source::Rollup { set, .. } = &self.source else { return Vec::new() };
        let conditions = self.condition.dimensions();
        let is_asked = |name: &str| conditions.contains(name) || self.by.iter().any(|field| field.name() == name);
        let is_found = |index: usize| places.iter().any(|place| usize::try_from(*place) == Ok(index + 1));
        let names = set.names().iter().map(String::as_str).enumerate();
        names.filter(|(index, name)| is_found(*index) && is_asked(name)).map(|(_, name)| name).collect()
    }
}

/// Plans a series; `now_ms` is the present.
pub fn plan(query: &MetricQuery, catalogue: &Catalogue, now_ms: i64) -> Result<SeriesPlan, Unplannable> {
    let condition = query.condition();
    let needed = DimSet::of(condition.dimensions().into_iter().chain(query.group_by.iter().map(String::as_str)));
    let framed = frame::choose(query.window, query.granularity, &query.zone, now_ms);
    let from = framed.as_ref().map_or(i64::MAX, |(frame, _)| frame.from);
    let set = dimensions::choose(condition.event_types().as_ref(), &needed, catalogue, from)?.set;
    let (frame, rollup) = framed?;
    Ok(SeriesPlan {
        metric: query.metric.name,
        measure: query.metric.measure,
        source: Source::Rollup { rollup, set },
        condition,
        frame,
        group_by: query.group_by.clone(),
        limit: query.limit,
        other: query.other,
    })
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Rollup;

    use super::*;
    use crate::plan::frame::READABLE_POINTS;
    use crate::request::Params;
    use crate::request::query::METRIC_PARAMS;
    use crate::time::Granularity;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn planned(name: &str, query: &str) -> Result<SeriesPlan, Unplannable> {
        let params = Params::parse(Some(query), METRIC_PARAMS).unwrap();
        plan(&MetricQuery::parse(name, &params, &Vec::new, NOW).unwrap(), &Catalogue::default(), NOW)
    }

    fn described(source: &Source) -> &'static str {
        match source {
            Source::Rollup { rollup: Rollup::Quarter, .. } => "quarters",
            other => other.table(),
        }
    }

    /// Rollup, granularity, from, to.
    fn shape(query: &str) -> (&'static str, &'static str, String, String) {
        let plan = planned("events", query).unwrap();
        let zone = &plan.frame.zone;
        (
            described(&plan.source),
            plan.frame.granularity.name(),
            zone.rfc3339(plan.frame.from),
            zone.rfc3339(plan.frame.to),
        )
    }

    #[test]
    fn the_coarsest_exact_rollup_is_taken() {
        for (query, rollup, granularity, from, to) in [
            // By itself: the finest that is readable.
            ("", "rollup_1m", "minute", "2026-11-19T12:35:00Z", "2026-11-20T12:35:00Z"),
            ("startTime=2026-11-13T12:00:00Z", "quarters", "15m", "2026-11-13T12:00:00Z", "2026-11-20T12:45:00Z"),
            ("startTime=2026-10-01", "rollup_1h", "hour", "2026-10-01T00:00:00Z", "2026-11-20T13:00:00Z"),
            ("startTime=2026-01-01", "rollup_1d", "day", "2026-01-01T00:00:00Z", "2026-11-21T00:00:00Z"),
            // Open windows are widened to whole buckets.
            (
                "granularity=hour&startTime=2026-11-20T10:20:00Z",
                "rollup_1h",
                "hour",
                "2026-11-20T10:00:00Z",
                "2026-11-20T13:00:00Z",
            ),
            (
                "granularity=day&startTime=2026-11-13T12:00:00Z",
                "rollup_1d",
                "day",
                "2026-11-13T00:00:00Z",
                "2026-11-21T00:00:00Z",
            ),
            ("granularity=day", "rollup_1d", "day", "2026-11-19T00:00:00Z", "2026-11-21T00:00:00Z"),
            ("granularity=week", "rollup_1d", "week", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (
                "granularity=month&startTime=2026-01-15",
                "rollup_1d",
                "month",
                "2026-01-01T00:00:00Z",
                "2026-12-01T00:00:00Z",
            ),
            // Closed ones are exact to the minute, with the rollup that takes.
            (
                "granularity=day&startTime=2026-11-01&endTime=2026-11-03",
                "rollup_1d",
                "day",
                "2026-11-01T00:00:00Z",
                "2026-11-03T00:00:00Z",
            ),
            (
                "granularity=day&startTime=2026-11-01T06:00:00Z&endTime=2026-11-03",
                "rollup_1h",
                "day",
                "2026-11-01T06:00:00Z",
                "2026-11-03T00:00:00Z",
            ),
            (
                "granularity=day&startTime=2026-11-01&endTime=2026-11-03T00:00:30Z",
                "rollup_1m",
                "day",
                "2026-11-01T00:00:00Z",
                "2026-11-03T00:01:00Z",
            ),
            // Days in other zones.
            (
                "granularity=day&timezone=Europe/Berlin&startTime=2026-03-01&endTime=2026-04-01",
                "rollup_1h",
                "day",
                "2026-03-01T00:00:00+01:00",
                "2026-04-01T00:00:00+02:00",
            ),
            (
                "granularity=day&timezone=America/New_York&startTime=2026-10-31&endTime=2026-11-03",
                "rollup_1h",
                "day",
                "2026-10-31T00:00:00-04:00",
                "2026-11-03T00:00:00-05:00",
            ),
            (
                "granularity=month&timezone=America/New_York&startTime=2026-03-01",
                "rollup_1h",
                "month",
                "2026-03-01T00:00:00-05:00",
                "2026-12-01T00:00:00-05:00",
            ),
            (
                "granularity=hour&timezone=Asia/Kolkata&startTime=2026-11-20",
                "quarters",
                "hour",
                "2026-11-20T00:00:00+05:30",
                "2026-11-20T19:00:00+05:30",
            ),
            (
                "granularity=day&timezone=Asia/Kolkata&startTime=2026-11-18",
                "quarters",
                "day",
                "2026-11-18T00:00:00+05:30",
                "2026-11-21T00:00:00+05:30",
            ),
            (
                "granularity=month&timezone=Asia/Kathmandu&startTime=2022-11-01&endTime=2023-01-01",
                "quarters",
                "month",
                "2022-11-01T00:00:00+05:45",
                "2023-01-01T00:00:00+05:45",
            ),
            (
                "granularity=day&timezone=Africa/Abidjan&startTime=2026-11-18",
                "rollup_1d",
                "day",
                "2026-11-18T00:00:00+00:00",
                "2026-11-21T00:00:00+00:00",
            ),
        ] {
            assert_eq!(shape(query), (rollup, granularity, from.to_owned(), to.to_owned()), "{query}");
        }
    }

    #[test]
    fn daily_active_users_are_days() {
        let plan = planned("daily_active_users", "startTime=2026-11-01").unwrap();
        assert_eq!(
            (plan.source.table(), plan.frame.granularity, plan.frame.grid().starts().len()),
            ("rollup_1d", Granularity::Day, 20)
        );
    }

    #[test]
    fn what_is_no_longer_kept_is_refused_with_what_is() {
        for (query, expected) in [
            (
                "granularity=minute&startTime=2026-08-01&endTime=2026-08-02",
                "kept for 90 days: ask for buckets of a quarter of an hour or more with a start and an end on whole quarters",
            ),
            ("granularity=hour&startTime=2026-06-01T00:31:00Z&endTime=2026-06-03", "an end on whole quarters"),
            ("startTime=2020-06-01&endTime=2020-06-03", "rollups are kept for 1826 days"),
            (
                "granularity=minute&startTime=2026-11-01",
                "more than 11000 points: ask for a shorter range or granularity=5m",
            ),
        ] {
            let error = planned("events", query).unwrap_err().to_string();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }

    #[test]
    fn by_itself_an_old_range_gets_a_granularity_that_is_kept() {
        let (rollup, granularity, ..) = shape("startTime=2026-06-01&endTime=2026-06-02");
        assert_eq!((rollup, granularity), ("quarters", "15m"));
    }

    #[test]
    fn no_readable_chart_has_more_points_than_promised() {
        for hours in 1..24 * 60 {
            let start = jiff::Timestamp::from_millisecond(NOW - hours * 3_600_000).unwrap();
            let plan = planned("events", &format!("startTime={start}")).unwrap();
            assert!(plan.frame.grid().starts().len() as i64 <= READABLE_POINTS, "{hours}");
        }
    }

    #[test]
    fn a_sliding_window_keeps_its_plan_while_its_buckets_do() {
        let at = |now| {
            let query = MetricQuery::parse(
                "events",
                &Params::parse(Some("granularity=hour&startTime=2026-11-19T12:00:00Z"), METRIC_PARAMS).unwrap(),
                &Vec::new,
                now,
            );
            plan(&query.unwrap(), &Catalogue::default(), now).unwrap()
        };
        assert_eq!(at(NOW), at(NOW + 20 * 60_000));
        assert_ne!(at(NOW), at(NOW + 40 * 60_000));
    }
}
