//! The plan of a metric's series.

use serde::{Serialize, Serializer};
use tallyhouse_schema::{Catalogue, DimSet, Rollup};

use super::error::Unplannable;
use super::{dimensions, source};
use crate::metric::Measure;
use crate::request::{Filter, MetricQuery, Window};
use crate::sql::Place;
use crate::time::{Granularity, Grid, Zone, grid, minute_ceil};

/// Points that a granularity chosen for the caller makes at most.
pub const READABLE_POINTS: i64 = 1_440;

/// Points that are answered at most.
pub const MAX_POINTS: i64 = 11_000;

/// What a series reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeriesPlan {
    /// The metric's name.
    pub metric: &'static str,
    /// What is computed.
    pub measure: Measure,
    /// Only events of this type.
    pub event_type: Option<String>,
    /// The table.
    #[serde(serialize_with = "source::as_table")]
    pub rollup: Rollup,
    /// The rows of the table.
    #[serde(serialize_with = "as_key")]
    pub set: DimSet,
    /// The range and its buckets.
    pub frame: Frame,
    /// Dimensions that make separate series.
    pub group_by: Vec<String>,
    /// Conditions.
    pub filters: Vec<Filter>,
    /// The most groups.
    pub limit: u32,
}

/// A range and its buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// First instant.
    pub from: i64,
    /// First instant that is not included.
    pub to: i64,
    /// The width of buckets.
    pub granularity: Granularity,
    /// Whose clocks they follow.
    pub zone: Zone,
}

impl SeriesPlan {
    /// The dimensions at these places of the set that the caller asked about, in order.
    pub fn named(&self, places: &[Place]) -> Vec<&str> {
        let is_asked =
            |name: &String| self.group_by.contains(name) || self.filters.iter().any(|filter| filter.dimension == *name);
        let is_found = |index: usize| places.iter().any(|found| usize::try_from(found.place) == Ok(index + 1));
        let names = self.set.names().iter().enumerate();
        names.filter(|(index, name)| is_found(*index) && is_asked(name)).map(|(_, name)| name.as_str()).collect()
    }
}

impl Frame {
    fn of(window: Window, granularity: Granularity, zone: &Zone, now_ms: i64) -> Self {
        let now = minute_ceil(now_ms);
        let open_end = || grid::ceil(granularity, zone, now);
        let (from, to) = match window {
            Window::Closed { from, to } => (from, to),
            Window::Open { from } => (grid::floor(granularity, zone, from), open_end()),
            Window::Last { seconds } => {
                // A day of calendar days is yesterday and today; of clock buckets, as many as make a day.
                let end = if granularity.clock_seconds().is_some() { open_end() } else { now };
                (grid::floor(granularity, zone, end - seconds), open_end())
            }
        };
        Self { from, to, granularity, zone: zone.clone() }
    }

    /// The buckets.
    pub fn grid(&self) -> Grid {
        Grid::over(self.granularity, &self.zone, self.from, self.to)
    }

    /// No fewer than the number of buckets, without laying the grid.
    fn points_at_most(&self) -> i64 {
        (self.to - self.from) / self.granularity.least_seconds() + 2
    }

    fn has_at_most(&self, points: i64) -> bool {
        // The grid of a year of minutes is not laid just to learn that it is too long.
        let hopeless = points.saturating_mul(2).saturating_add(2);
        self.points_at_most() <= points
            || (self.points_at_most() <= hopeless && (self.grid().starts().len() as i64) <= points)
    }
}

/// Plans a series.
pub fn plan(query: &MetricQuery, catalogue: &Catalogue, now_ms: i64) -> Result<SeriesPlan, Unplannable> {
    let asked = query.filters.iter().map(|filter| &filter.dimension).chain(&query.group_by);
    let set = dimensions::choose(query.event_type.as_deref(), &DimSet::of(asked.cloned()), catalogue)?;
    let (frame, rollup) = match query.granularity {
        Some(granularity) => asked_for(query, granularity, now_ms)?,
        None => readable(query, now_ms)?,
    };
    Ok(SeriesPlan {
        metric: query.metric.name,
        measure: query.metric.measure,
        event_type: query.event_type.clone(),
        rollup,
        set,
        frame,
        group_by: query.group_by.clone(),
        filters: query.filters.clone(),
        limit: query.limit,
    })
}

fn asked_for(query: &MetricQuery, granularity: Granularity, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    let frame = Frame::of(query.window, granularity, &query.zone, now_ms);
    if !frame.has_at_most(MAX_POINTS) {
        let fits = Granularity::FINEST_FIRST
            .into_iter()
            .find(|finer| Frame::of(query.window, *finer, &query.zone, now_ms).has_at_most(MAX_POINTS));
        return Err(Unplannable::TooManyPoints { granularity, limit: MAX_POINTS, fits });
    }
    sourced(frame, now_ms)
}

/// The finest granularity that makes a readable chart and can be answered; if none can, why not the finest.
fn readable(query: &MetricQuery, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    let mut refusal = None;
    for granularity in Granularity::FINEST_FIRST {
        let frame = Frame::of(query.window, granularity, &query.zone, now_ms);
        if !frame.has_at_most(READABLE_POINTS) {
            continue;
        }
        match sourced(frame, now_ms) {
            Ok(found) => return Ok(found),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let granularity = Granularity::Month;
    Err(refusal.unwrap_or(Unplannable::TooManyPoints { granularity, limit: READABLE_POINTS, fits: None }))
}

fn sourced(frame: Frame, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    let rollup = source::choose(frame.from, frame.to, &frame.grid(), &frame.zone, now_ms)?;
    Ok((frame, rollup))
}

fn as_key<S: Serializer>(set: &DimSet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(set.key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Params;
    use crate::request::query::METRIC_PARAMS;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn planned(name: &str, query: &str) -> Result<SeriesPlan, Unplannable> {
        let params = Params::parse(Some(query), METRIC_PARAMS).unwrap();
        plan(&MetricQuery::parse(name, &params, NOW).unwrap(), &Catalogue::default(), NOW)
    }

    /// Rollup, granularity, from, to.
    fn shape(query: &str) -> (&'static str, &'static str, String, String) {
        let plan = planned("events", query).unwrap();
        let zone = &plan.frame.zone;
        (plan.rollup.table(), plan.frame.granularity.name(), zone.rfc3339(plan.frame.from), zone.rfc3339(plan.frame.to))
    }

    #[test]
    fn the_coarsest_exact_rollup_is_taken() {
        for (query, rollup, granularity, from, to) in [
            // By itself: the finest that is readable.
            ("", "rollup_1m", "minute", "2026-11-19T12:35:00Z", "2026-11-20T12:35:00Z"),
            ("startTime=2026-11-13T12:00:00Z", "rollup_1m", "15m", "2026-11-13T12:00:00Z", "2026-11-20T12:45:00Z"),
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
                "rollup_1m",
                "hour",
                "2026-11-20T00:00:00+05:30",
                "2026-11-20T19:00:00+05:30",
            ),
            (
                "granularity=day&timezone=Asia/Kolkata&startTime=2026-11-18",
                "rollup_1m",
                "day",
                "2026-11-18T00:00:00+05:30",
                "2026-11-21T00:00:00+05:30",
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
            (plan.rollup, plan.frame.granularity, plan.frame.grid().starts().len()),
            (Rollup::Day, Granularity::Day, 20)
        );
    }

    #[test]
    fn what_is_no_longer_kept_is_refused_with_what_is() {
        for (query, expected) in [
            (
                "granularity=minute&startTime=2026-08-01&endTime=2026-08-02",
                "kept for 90 days: ask for a start of 2026-08-22T12:34:56Z or later",
            ),
            ("granularity=day&startTime=2026-06-01&endTime=2026-06-03&timezone=Asia/Kolkata", "whole UTC hours"),
            ("granularity=hour&startTime=2026-06-01T00:30:00Z&endTime=2026-06-03", "whole UTC hours"),
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
        assert_eq!((rollup, granularity), ("rollup_1h", "hour"));
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
                now,
            );
            plan(&query.unwrap(), &Catalogue::default(), now).unwrap()
        };
        assert_eq!(at(NOW), at(NOW + 20 * 60_000));
        assert_ne!(at(NOW), at(NOW + 40 * 60_000));
    }
}
