//! The plan of a structured query: one reading per distinct condition of its metrics.

use serde::Serialize;
use tallyhouse_schema::{Catalogue, DimSet};

use super::comparison::{Before, Current, RunningBucket};
use super::dimensions::Chosen;
use super::error::Unplannable;
use super::frame::{self, Frame};
use super::read::{Read, Source};
use super::{dimensions, source};
use crate::condition::{Condition, Field};
use crate::metric_definitions::Measure;
use crate::metric_definitions::definition::Expression;
use crate::request::ComparedSpan;
use crate::request::Window;
use crate::request::structured::{Form, Shape, StructuredQuery, Time};
use crate::time::{DAY, Grid, MINUTE, minute_ceil, minute_floor};

/// What a structured query reads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StructuredPlan {
    /// What was asked for, whenever it is about.
    pub shape: Shape,
    /// For each metric, for each of its parts: the reading and the measure in it.
    pub places: Vec<Vec<(usize, usize)>>,
    pub period: Period,
    /// The period before, when it is compared with.
    pub previous: Option<Period>,
    /// Then, the end that was meant, perhaps beyond now, and the end of what has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// Every group over the whole range, read first to tell which are the greatest; empty where all are shown, or where
    /// ClickHouse ranks them.
    pub ranking: Vec<Read>,
}

/// What of the period is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The end that was asked for, beyond now: what is compared depends on it, so that it is part of the name of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_until: Option<i64>,
    /// The end of the period as it was meant, in seconds.
    #[serde(skip)]
    pub meant_to: i64,
    /// The end of what is compared of it.
    pub to: i64,
    /// How much of the period before is compared.
    pub span: ComparedSpan,
}

/// A range, and the readings over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Period {
    /// First second.
    pub from: i64,
    /// First second after it.
    pub to: i64,
    /// Buckets of time.
    pub frame: Option<Frame>,
    /// By bucket and group.
    pub reads: Vec<Read>,
    /// Over everything, in the same order; empty when totals are not asked for.
    pub totals: Vec<Read>,
    /// What the bucket that is not over is compared with; only of a period that is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
}

/// The span that a bucket which is not over is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// The place of the bucket.
    pub place: usize,
    /// Start of the bucket at that place in the period before.
    pub at: i64,
    /// By group, without buckets.
    pub reads: Vec<Read>,
}

const QUARTER: i64 = 900;

/// Plans a structured query; `now_ms` is the present.
pub fn plan(query: &StructuredQuery, catalogue: &Catalogue, now_ms: i64) -> Result<StructuredPlan, Unplannable> {
    let mut readings: Vec<(Condition, Vec<Measure>)> = Vec::new();
    let places = query
        .shape
        .metrics
        .iter()
        .map(|metric| {
            let part = |part: &crate::metric_definitions::definition::FormulaPart| {
                place(&mut readings, part.condition.clone().and(query.shape.condition.clone()), part.measure)
            };
            metric.parts.iter().map(part).collect()
        })
        .collect();
    let planner = Planner { query, catalogue, now_ms, readings };
    let (period, previous) = planner.periods()?;
    let ranking = match planner.ranked() {
        Ranked::First => planner.reads(&query.shape.by, period.from, period.to, None)?,
        Ranked::Not | Ranked::ByClickHouse(_) => Vec::new(),
    };
    let compared = planner.compared(&period);
    Ok(StructuredPlan { shape: query.shape.clone(), places, period, previous, compared, ranking })
}

/// The reading and the measure in it, added when it is new.
fn place(readings: &mut Vec<(Condition, Vec<Measure>)>, condition: Condition, measure: Measure) -> (usize, usize) {
    let reading = readings.iter().position(|(known, _)| *known == condition).unwrap_or_else(|| {
        readings.push((condition, Vec::new()));
        readings.len() - 1
    });
    let Some((_, measures)) = readings.get_mut(reading) else { return (reading, 0) };
    let place = measures.iter().position(|known| *known == measure).unwrap_or_else(|| {
        measures.push(measure);
        measures.len() - 1
    });
    (reading, place)
}

/// How it is told which groups are the greatest.
enum Ranked {
    /// Not at all: all are shown, or pages of them.
    Not,
    /// By the statement that reads them: the metric is one measure.
    ByClickHouse(u32),
    /// By a reading of its own: the metric is computed from several.
    First,
}

/// The same reading of no more than these groups, and of what shares each of their values.
pub fn only(read: &Read, groups: &[Vec<String>]) -> Read {
    let of_field = |(place, field): (usize, &Field)| {
        Condition::is(field.clone(), groups.iter().filter_map(|group| group.get(place).cloned()))
    };
    let condition = read.by.iter().enumerate().map(of_field).fold(read.condition.clone(), Condition::and);
    Read { condition, ..read.clone() }
}

struct Planner<'a> {
    query: &'a StructuredQuery,
    catalogue: &'a Catalogue,
    now_ms: i64,
    readings: Vec<(Condition, Vec<Measure>)>,
}

impl Planner<'_> {
    /// The period, and the one that it is compared with. Buckets of time are as wide in both.
    fn periods(&self) -> Result<(Period, Option<Period>), Unplannable> {
        let window = self.query.window;
        let Some(span) = self.query.shape.include.previous_period else { return Ok((self.period(window)?, None)) };
        let period = if self.query.time == Some(Time::Readable) {
            let before = |frame: &Frame| {
                let before = self.current(frame.from, frame.to, Some(frame)).before(span);
                Window::Closed { from: before.buckets_from, to: frame.from }
            };
            self.framed(self.open(window).compared(before)?.0)?
        } else {
            self.period(window)?
        };
        let before = self.current(period.from, period.to, period.frame.as_ref()).before(span);
        let previous = self.previous(&before, period.frame.as_ref())?;
        Ok((period, Some(previous)))
    }

    fn compared(&self, period: &Period) -> Option<Compared> {
        let span = self.query.shape.include.previous_period?;
        let current = self.current(period.from, period.to, period.frame.as_ref());
        let meant_to = current.end();
        let to = match span {
            ComparedSpan::Equal => meant_to.min(current.now),
            ComparedSpan::Whole => meant_to,
        };
        let asked_until = match self.query.window {
            Window::Open { until, .. } => until,
            Window::Closed { .. } | Window::Last { .. } => None,
        };
        Some(Compared { asked_until, meant_to, to, span })
    }

    fn current<'a>(&'a self, from: i64, to: i64, frame: Option<&'a Frame>) -> Current<'a> {
        // To the end of the running minute, also in its first millisecond.
        let now = minute_floor(self.now_ms) + MINUTE;
        Current { window: self.query.window, frame, from, to, now, zone: &self.query.shape.zone }
    }

    /// The readings of what a period is compared with.
    fn previous(&self, before: &Before, frame: Option<&Frame>) -> Result<Period, Unplannable> {
        let Some(frame) = frame else {
            return self.to_the_minute(before.from, before.to, |from, to| self.over(from, to, None));
        };
        let (from, to) = (before.buckets_from, before.whole_to);
        let mut period = self.over(from, to, Some(Frame { from, to, ..frame.clone() }))?;
        if (before.from, before.to) != (from, to) {
            (period.from, period.to) = (before.from, before.to);
            if self.query.shape.include.totals {
                period.totals =
                    self.to_the_minute(before.from, before.to, |from, to| self.reads(&[], from, to, None))?;
            }
        }
        if let Some(RunningBucket { place, at, from, to }) = before.running {
            let reads = self.to_the_minute(from, to, |from, to| self.reads(&self.query.shape.by, from, to, None))?;
            period.running = Some(Running { place, at, reads });
        }
        Ok(period)
    }

    /// What can be read to the minute, or, where minutes are no longer kept, a little farther on both sides.
    fn to_the_minute<T>(
        &self,
        from: i64,
        to: i64,
        read: impl Fn(i64, i64) -> Result<T, Unplannable>,
    ) -> Result<T, Unplannable> {
        let exact = read(from, to);
        if !matches!(exact, Err(Unplannable::TooFineForItsAge { .. })) {
            return exact;
        }
        let farther = [QUARTER, 2 * QUARTER, 4 * QUARTER]
            .map(|width| (from - from.rem_euclid(width), to + (-to).rem_euclid(width)));
        farther.into_iter().find_map(|(from, to)| read(from, to).ok()).map_or(exact, Ok)
    }

    fn period(&self, window: Window) -> Result<Period, Unplannable> {
        match self.frame(window)? {
            Some(frame) => self.framed(frame),
            None => {
                let (from, to) = self.whole(window);
                self.over(from, to, None)
            }
        }
    }

    fn framed(&self, frame: Frame) -> Result<Period, Unplannable> {
        self.over(frame.from, frame.to, Some(frame))
    }

    fn over(&self, from: i64, to: i64, frame: Option<Frame>) -> Result<Period, Unplannable> {
        let totals = if self.query.shape.include.totals { self.reads(&[], from, to, None)? } else { Vec::new() };
        let mut reads = self.reads(&self.query.shape.by, from, to, frame.as_ref())?;
        if let Ranked::ByClickHouse(most) = self.ranked() {
            reads.iter_mut().for_each(|read| read.top = Some(most));
        }
        Ok(Period { from, to, reads, totals, frame, running: None })
    }

    fn reads(&self, by: &[Field], from: i64, to: i64, frame: Option<&Frame>) -> Result<Vec<Read>, Unplannable> {
        let read = |(condition, measures): &(Condition, Vec<Measure>)| {
            Ok(Read {
                source: self.source(condition, by, from, to, frame)?,
                condition: condition.clone(),
                from,
                to,
                buckets: frame.cloned(),
                by: by.to_vec(),
                measures: measures.clone(),
                top: None,
            })
        };
        self.readings.iter().map(read).collect()
    }

    /// How the greatest groups are found.
    fn ranked(&self) -> Ranked {
        match (self.query.shape.form, self.query.shape.metrics.as_slice()) {
            (Form::Series(most), [metric]) if !self.query.shape.by.is_empty() => match metric.expression {
                Expression::Part(_) => Ranked::ByClickHouse(most),
                Expression::Number(_) | Expression::Of(..) => Ranked::First,
            },
            _ => Ranked::Not,
        }
    }

    fn frame(&self, window: Window) -> Result<Option<Frame>, Unplannable> {
        let (zone, now_ms) = (&self.query.shape.zone, self.now_ms);
        match self.query.time {
            None => Ok(None),
            Some(Time::Of(granularity)) => frame::asked_for(window, granularity, zone, now_ms).map(Some),
            Some(Time::Readable) => self.open(window).frame().map(Some),
        }
    }

    fn open(&self, window: Window) -> frame::Open<'_> {
        frame::Open { window, zone: &self.query.shape.zone, now_ms: self.now_ms, raw: self.query.raw }
    }

    /// A range that is not cut into buckets. One that reaches until now ends with the UTC day: nothing comes after now, and
    /// a whole day can be read from the daily rollup.
    fn whole(&self, window: Window) -> (i64, i64) {
        let now = minute_ceil(self.now_ms);
        let end_of_day = now + (-now).rem_euclid(DAY);
        match window {
            Window::Closed { from, to } => (from, to),
            Window::Open { from, .. } => (from, end_of_day),
            Window::Last { seconds } => (minute_floor(self.now_ms) - seconds, end_of_day),
        }
    }

    /// The cheapest rollup that answers exactly, else raw events where the caller allows it.
    fn source(
        &self,
        condition: &Condition,
        by: &[Field],
        from: i64,
        to: i64,
        frame: Option<&Frame>,
    ) -> Result<Source, Unplannable> {
        let grid = frame.map_or(Grid::Even { origin: from, width: (to - from).max(1), count: 1 }, Frame::grid);
        let dimension = |field: &Field| match field {
            Field::EventType => None,
            Field::Dimension(name) => Some(name.clone()),
        };
        let asked = condition.dimensions().into_iter().map(str::to_owned).chain(by.iter().filter_map(dimension));
        let types = condition.event_types();
        let set = dimensions::choose(types.as_ref(), &DimSet::of(asked), self.catalogue, from);
        let rollup = source::choose(from, to, &grid, self.now_ms);
        match (set, rollup) {
            // What came before the dimension was declared is in the raw events alone.
            (Ok(Chosen { is_complete: false, .. }), _) if self.query.raw => Ok(Source::Raw),
            (Ok(Chosen { set, .. }), Ok(rollup)) => Ok(Source::Rollup { rollup, set }),
            _ if self.query.raw => Ok(Source::Raw),
            (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        }
    }
}

impl StructuredPlan {
    /// Everything that is read.
    pub fn readings(&self) -> impl Iterator<Item = &Read> {
        self.period.all().chain(&self.ranking).chain(self.previous.iter().flat_map(Period::all))
    }

    /// All tables that are read, each once.
    pub fn tables(&self) -> Vec<&'static str> {
        let mut tables: Vec<_> = self.readings().map(|read| read.source.table()).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    /// Whether raw events are read.
    pub fn reads_raw(&self) -> bool {
        let previous = self.previous.iter().flat_map(Period::all);
        self.period.all().chain(previous).any(|read| read.source == Source::Raw)
    }
}

impl Period {
    /// All readings.
    pub fn all(&self) -> impl Iterator<Item = &Read> {
        self.reads.iter().chain(&self.totals).chain(self.running.iter().flat_map(|running| &running.reads))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metric_definitions::{Definition, Metric};
    use crate::request::body::{self, JsonPart};
    use crate::time::Granularity;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn planned(text: &str) -> Result<StructuredPlan, Unplannable> {
        let catalogue = Catalogue::from_documents([
            r#"{"eventType":"flight","dimensions":["origin"],"combinations":[["origin","carrier"]]}"#,
        ])
        .unwrap();
        let value = body::parse(text.as_bytes()).unwrap();
        let metric = |name: &str| Metric::named(name).map(Definition::built_in).map(Arc::new);
        let query = StructuredQuery::parse(&JsonPart::root(&value), &metric, &Vec::new, NOW).unwrap();
        plan(&query, &catalogue, NOW)
    }

    fn sources(text: &str) -> Vec<String> {
        let describe = |read: &Read| match &read.source {
            Source::Rollup { rollup, set } => format!("{}{}/{}", rollup.mark(), rollup.table(), set.key()),
            Source::Raw => "raw".to_owned(),
        };
        planned(text).unwrap().period.reads.iter().map(describe).collect()
    }

    #[test]
    fn metrics_of_the_same_events_are_one_reading() {
        let plan = planned(r#"{"metrics":["events","users","revenue","value_sum"],"date_range":"7d"}"#).unwrap();
        assert_eq!(plan.period.reads.len(), 2);
        assert_eq!(plan.places, [vec![(0, 0)], vec![(0, 1)], vec![(1, 0)], vec![(0, 2)]]);
    }

    #[test]
    fn the_cheapest_exact_table_is_taken() {
        for (text, expected) in [
            (r#"{"metrics":["users"],"date_range":"7d"}"#, "rollup_1d/"),
            (r#"{"metrics":["users"],"date_range":"7d","timezone":"Europe/Berlin"}"#, "rollup_1h/"),
            (r#"{"metrics":["users"],"date_range":"7d","timezone":"Asia/Kolkata"}"#, ":rollup_1h/"),
            (r#"{"metrics":["users"],"date_range":"24h"}"#, "rollup_1m/"),
            (r#"{"metrics":["events"],"date_range":"7d","dimensions":["time:hour","country"]}"#, "rollup_1h/country"),
            (r#"{"metrics":["events"],"date_range":"7d","dimensions":["event_type"]}"#, "rollup_1d/"),
            (
                r#"{"metrics":["events"],"date_range":"7d","filters":[["is","event_type",["flight"]],["is","carrier",["AA"]]]}"#,
                "rollup_1d/carrier,origin",
            ),
            (r#"{"metrics":["events"],"date_range":["2026-11-01T00:01:00Z","2026-11-02T00:00:00Z"]}"#, "rollup_1m/"),
            (r#"{"metrics":["events"],"date_range":"7d","dimensions":["origin"],"raw":true}"#, "raw"),
            (r#"{"metrics":["events"],"date_range":"7d","raw":true}"#, "rollup_1d/"),
        ] {
            assert_eq!(sources(text), [expected], "{text}");
        }
    }

    #[test]
    fn what_no_rollup_answers_is_refused_unless_raw_is_allowed() {
        let refused = planned(r#"{"metrics":["events"],"date_range":"7d","dimensions":["origin"]}"#).unwrap_err();
        assert!(matches!(refused, Unplannable::NotRolledUp { .. }), "{refused}");
    }

    #[test]
    fn raw_events_are_read_as_finely_as_is_readable_where_no_rollup_is_left() {
        let text = |rest: &str| {
            format!(
                r#"{{"metrics":["events"],"dimensions":["time"],
                    "date_range":["2026-06-01T10:20:00Z","2026-06-01T11:40:00Z"]{rest}}}"#
            )
        };
        assert!(matches!(planned(&text("")), Err(Unplannable::TooFineForItsAge { .. })));
        for rest in [r#","raw":true"#, r#","raw":true,"include":{"comparisons":"previous_period"}"#] {
            let plan = planned(&text(rest)).unwrap();
            assert_eq!((plan.tables(), plan.period.frame.unwrap().granularity), (vec!["events"], Granularity::Minute));
        }
        // Whole quarters are kept: nothing raw is read for the sake of minutes.
        let text =
            r#"{"metrics":["events"],"dimensions":["time"],"raw":true,"date_range":["2026-06-01","2026-06-01"]}"#;
        let plan = planned(text).unwrap();
        assert_eq!(
            (plan.tables(), plan.period.frame.unwrap().granularity),
            (vec!["rollup_1h"], Granularity::QuarterHour)
        );
    }

    #[test]
    fn the_period_before_has_the_same_length_and_whole_days_stay_whole() {
        let text = r#"{"metrics":["events"],"date_range":["2026-10-30","2026-11-02"],"timezone":"America/New_York",
                       "dimensions":["time:day"],"include":{"comparisons":"previous_period","totals":true}}"#;
        let plan = planned(text).unwrap();
        let (zone, previous) = (&plan.shape.zone, plan.previous.unwrap());
        // The clocks go back on 1 November: 97 hours, and 96 before them.
        assert_eq!(
            (zone.rfc3339(previous.from), previous.to),
            ("2026-10-26T00:00:00-04:00".to_owned(), plan.period.from)
        );
        assert_eq!(previous.frame.unwrap().grid().starts().len(), 4);
        assert_eq!((plan.period.totals.len(), previous.totals.len()), (1, 1));
        for (range, dimensions, zone, expected) in [
            (r#""30m""#, "[]", "UTC", "2026-11-20T11:33:00Z"),
            (r#""24h""#, "[]", "UTC", "2026-11-18T12:33:00Z"),
            (r#""7d""#, "[]", "Europe/Berlin", "2026-11-07T00:00:00+01:00"),
            (r#"["2026-03-01","2026-03-31"]"#, r#"["time:month"]"#, "UTC", "2026-02-01T00:00:00Z"),
            (r#"["2026-02-27","2026-03-31"]"#, r#"["time:day"]"#, "UTC", "2026-01-25T00:00:00Z"),
        ] {
            let text = format!(
                r#"{{"metrics":["events"],"date_range":{range},"dimensions":{dimensions},"timezone":"{zone}",
                    "include":{{"comparisons":"previous_period"}}}}"#
            );
            let plan = planned(&text).unwrap();
            let previous = plan.previous.unwrap();
            assert_eq!(
                (plan.shape.zone.rfc3339(previous.from).as_str(), previous.to <= plan.period.from),
                (expected, true),
                "{range}"
            );
        }
        assert!(plan.period.totals[0].buckets.is_none());
    }

    #[test]
    fn buckets_that_are_compared_are_equally_wide() {
        for (range, zone, granularity) in [
            // 1,416 hours, of which there are 1,488 before.
            (r#"["2026-02-01","2026-03-31"]"#, "UTC", Granularity::Hour),
            // The minutes of the day before are no longer kept.
            (r#"["2026-08-23","2026-08-23"]"#, "UTC", Granularity::QuarterHour),
            (r#"["2026-08-24","2026-08-24"]"#, "UTC", Granularity::Minute),
            (r#"["2026-09-20","2026-10-25"]"#, "Europe/Berlin", Granularity::Hour),
            (r#""year""#, "Europe/Berlin", Granularity::Day),
            (r#""7d""#, "Asia/Kolkata", Granularity::QuarterHour),
        ] {
            let text = format!(
                r#"{{"metrics":["events"],"date_range":{range},"dimensions":["time"],"timezone":"{zone}",
                    "include":{{"comparisons":"previous_period"}}}}"#
            );
            let plan = planned(&text).unwrap();
            let [frame, previous] = [Some(plan.period), plan.previous].map(|period| period.unwrap().frame.unwrap());
            assert_eq!((frame.granularity, previous.granularity), (granularity, granularity), "{range}");
            assert!(previous.to <= frame.from, "{range}");
        }
    }
}
