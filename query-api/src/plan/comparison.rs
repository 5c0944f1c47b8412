//! The period that a range is compared with: by default one as long as what has passed of the range.
//!
//! ```text
//!    the period before               the period
//! |=========|..................|=========|..................|
//!  compared  its rest: not       passed   now
//! ```
//!
//! Both spans have the same number of seconds, so that a constant rate shows no change at any moment, whatever the clocks do. Where the
//! period before is shorter than what has passed (on 30 March, February), the span right before is taken. Each bucket is compared with
//! the one at the same position, and the running bucket with as much of it as has passed of its own.

use jiff::ToSpan;

use super::frame::Frame;
use crate::request::{ComparedSpan, Window};
use crate::time::{Granularity, Grid, Zone, grid};

/// A period, as far as it matters what came before it.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// As it was asked for.
    pub window: Window,
    /// Its buckets; `None` where the answer has no time dimension.
    pub frame: Option<&'a Frame>,
    /// Its start, in seconds since the epoch.
    pub from: i64,
    /// Its end, not included, in seconds since the epoch.
    pub to: i64,
    /// The end of the running minute, in seconds.
    pub now: i64,
    /// Whose calendar it follows.
    pub zone: &'a Zone,
}

/// What it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Where what is compared starts, in seconds since the epoch.
    pub from: i64,
    /// Where it ends, not included.
    pub to: i64,
    /// Where its buckets begin.
    pub buckets_from: i64,
    /// The end of its buckets that are compared as a whole.
    pub whole_to: i64,
    /// What the running bucket is compared with.
    pub running: Option<RunningBucket>,
}

/// What a bucket that is not over is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningBucket {
    /// Its place in both periods.
    pub place: usize,
    /// Start of the bucket before.
    pub at: i64,
    /// The first second compared: of a bucket that is too short, one before it.
    pub from: i64,
    /// The first second after that.
    pub to: i64,
}

impl Current<'_> {
    /// Whether it is not over.
    fn is_running(&self) -> bool {
        !matches!(self.window, Window::Closed { .. }) && self.now <= self.end()
    }

    /// Its end as it was meant, beyond now perhaps.
    pub fn end(&self) -> i64 {
        match (self.window, self.frame) {
            // A range that was widened to whole buckets is another one.
            (Window::Open { from, until: Some(until) }, Some(frame)) if frame.from == from => until,
            (Window::Open { until: Some(until), .. }, None) => until,
            (_, Some(frame)) => frame.to,
            (Window::Open { until: None, .. } | Window::Last { .. }, None) => self.now,
            (Window::Closed { to, .. }, None) => to,
        }
    }

    /// The span to compare with.
    pub fn before(&self, span: ComparedSpan) -> Before {
        match span {
            ComparedSpan::Equal if self.is_running() => self.equal(),
            ComparedSpan::Equal | ComparedSpan::Whole => {
                let from = self.starts().find(|start| self.lies_alike(*start)).unwrap_or_else(|| self.as_long());
                Before { from, to: self.from, buckets_from: from, whole_to: self.from, running: None }
            }
        }
    }

    fn equal(&self) -> Before {
        let passed = self.now - self.from;
        let from = self.starts().find(|start| start + passed <= self.from).unwrap_or(self.from - passed);
        let has_buckets = |start: &i64| self.has_its_buckets(*start);
        let first = Some(from).filter(has_buckets).or_else(|| self.starts().find(has_buckets));
        let buckets_from = first.unwrap_or_else(|| self.as_long());
        let running = self.frame.and_then(|frame| self.running(frame, buckets_from));
        let whole_to = running.map_or(self.from, |running| running.at);
        Before { from, to: from + passed, buckets_from, whole_to, running }
    }

    /// Where the period before may begin, the most meaningful first.
    fn starts(&self) -> impl Iterator<Item = i64> {
        // To the end of today, which may be far before the end of the period.
        let today = self.is_running().then(|| grid::ceil(Granularity::Day, self.zone, self.now));
        let (from, zone) = (self.from, self.zone);
        let ends = [Some(self.end()), Some(self.to), today];
        ends.into_iter().flatten().filter(move |end| *end > from).map(move |end| before(from, end, zone))
    }

    /// As many seconds before the period as it has.
    fn as_long(&self) -> i64 {
        self.from - (self.to.min(self.end()) - self.from)
    }

    /// Whether buckets begin there as they do at the start of the period.
    fn lies_alike(&self, start: i64) -> bool {
        self.frame.is_none_or(|frame| {
            let is_edge = |at| grid::floor(frame.granularity, self.zone, at) == at;
            is_edge(start) || !is_edge(self.from)
        })
    }

    /// Whether as many buckets follow as the period has begun.
    fn has_its_buckets(&self, start: i64) -> bool {
        let has = |frame| self.lies_alike(start) && self.buckets(frame, start) >= self.begun(frame).len();
        self.frame.is_none_or(has)
    }

    fn buckets(&self, frame: &Frame, start: i64) -> usize {
        Grid::over(frame.granularity, self.zone, start, self.from).starts().len()
    }

    /// Starts of the buckets that have begun.
    fn begun(&self, frame: &Frame) -> Vec<i64> {
        let mut starts = frame.grid().starts();
        starts.retain(|start| *start < self.now);
        starts
    }

    fn running(&self, frame: &Frame, from: i64) -> Option<RunningBucket> {
        let begun = self.begun(frame);
        let place = begun.len().checked_sub(1)?;
        let passed = self.now - begun.last()?;
        let before = Grid::over(frame.granularity, self.zone, from, self.from).starts();
        let at = before.get(place).copied()?;
        let end = before.get(place + 1).copied().unwrap_or(self.from);
        let from = if at + passed <= end { at } else { end - passed };
        Some(RunningBucket { place, at, from, to: from + passed })
    }
}

/// The start of the range of the same length that ends where `[from, to)` begins: of as many months where it has whole
/// months, of as many days where it has whole days.
pub fn before(from: i64, to: i64, zone: &Zone) -> i64 {
    let is_midnight = |at| zone.day_start(zone.date(at)) == at;
    if !is_midnight(from) || !is_midnight(to) {
        return from - (to - from);
    }
    let (first, last) = (zone.date(from), zone.date(to));
    let span = if first.day() == 1 && last.day() == 1 {
        let months = i32::from(last.year() - first.year()) * 12 + i32::from(last.month() - first.month());
        months.months()
    } else {
        first.until(last).map_or(0, |span| span.get_days()).days()
    };
    first.checked_sub(span).map_or(from - (to - from), |date| zone.day_start(date))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::metric_definitions::{Definition, Metric};
    use crate::plan::structured::{StructuredPlan, plan};
    use crate::request::StructuredQuery;
    use crate::request::body::{self, JsonPart};

    const HOUR: i64 = 3_600;

    fn planned(text: &str, now_ms: i64) -> StructuredPlan {
        let value = body::parse(text.as_bytes()).unwrap();
        let metric = |name: &str| Metric::named(name).map(Definition::built_in).map(Arc::new);
        let query = StructuredQuery::parse(&JsonPart::root(&value), &metric, &Vec::new, now_ms).unwrap();
        plan(&query, &Catalogue::default(), now_ms).unwrap_or_else(|refusal| panic!("{text} at {now_ms}: {refusal}"))
    }

    /// Events of an hourly clock that strikes so many seconds after the hour.
    fn strikes(from: i64, to: i64, phase: i64) -> i64 {
        (to - phase + HOUR - 1).div_euclid(HOUR) - (from - phase + HOUR - 1).div_euclid(HOUR)
    }

    /// Of what is read: nothing happens after now.
    fn read(reads: &[crate::plan::read::Read], now_s: i64, phase: i64) -> i64 {
        reads.iter().map(|read| strikes(read.from, read.to.min(now_s + 1).max(read.from), phase)).sum()
    }

    #[test]
    fn something_constant_shows_no_change_at_any_moment_of_a_running_range() {
        let seed = rand::random();
        let mut random = StdRng::seed_from_u64(seed);
        let zones =
            ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland", "America/Santiago", "Africa/Cairo"];
        let ranges = ["day", "week", "month", "year", "24h", "30m", "90m", "7d", "30d", "90d", "6mo", "pair"];
        for _ in 0..4_000 {
            // 2024 to 2028, to the millisecond.
            let now_ms = random.random_range(1_704_067_200_000_i64..1_830_297_600_000);
            let (now_s, zone) = (now_ms.div_euclid(1_000), zones[random.random_range(0..zones.len())]);
            let range = ranges[random.random_range(0..ranges.len())];
            let date_range = if range == "pair" {
                let utc = Zone::utc();
                let minutes = [random.random_range(61..50_000), random.random_range(1..50_000_i64)];
                let bounds = [now_s - minutes[0] * 60, now_s + minutes[1] * 60].map(|at| utc.rfc3339(at));
                serde_json::to_string(&bounds).unwrap()
            } else {
                format!("{range:?}")
            };
            let dimensions = [
                "[]",
                r#"["time:day"]"#,
                r#"["time"]"#,
                r#"["country"]"#,
                r#"["time:month"]"#,
                r#"["time:week","country"]"#,
            ];
            let dimensions = dimensions[random.random_range(0..dimensions.len())];
            let text = format!(
                r#"{{"metrics":["events"],"date_range":{date_range},"dimensions":{dimensions},"timezone":"{zone}",
                    "include":{{"totals":true,"comparisons":"previous_period"}}}}"#
            );
            let plan = planned(&text, now_ms);
            let (previous, shown) = (plan.previous.as_ref().unwrap(), format!("seed {seed}: {text} at {now_ms}"));
            // Where minutes are no longer kept, the span ends with the hour.
            let is_in_minutes = previous.totals[0].from > now_s - 89 * 86_400;
            let phase = if is_in_minutes { random.random_range(0..60) * 60 } else { 0 };
            let (now, then) = (read(&plan.period.totals, now_s, phase), read(&previous.totals, now_s, phase));
            // A clock that strikes every hour strikes as often in equally long spans that begin at the same minute of an hour.
            let begins_alike = (plan.period.totals[0].from - previous.totals[0].from) % HOUR == 0;
            assert!((now - then).abs() <= i64::from(!begins_alike), "{now} {then} {shown}");
            assert!(previous.totals[0].to <= plan.period.from + if is_in_minutes { 0 } else { HOUR }, "{shown}");
            let Some(frame) = &plan.period.frame else {
                assert_eq!(read(&previous.reads, now_s, phase), then, "{shown}");
                continue;
            };
            let Some(running) = &previous.running else {
                // The last bucket ends with the running minute.
                assert!(frame.to <= now_s + 60, "{shown}");
                assert_eq!(read(&previous.reads, now_s, phase), then, "{shown}");
                continue;
            };
            let start = frame.grid().starts().into_iter().rfind(|start| *start <= now_s).unwrap();
            let now = strikes(start, now_s + 1, phase);
            let is_in_minutes = running.reads[0].from > now_s - 89 * 86_400;
            let alike = (start - running.reads[0].from) % HOUR == 0 && (is_in_minutes || phase == 0);
            assert!((now - read(&running.reads, now_s, phase)).abs() <= i64::from(!alike), "{shown}");
            let whole = previous.frame.as_ref().filter(|frame| frame.from < frame.to);
            assert_eq!(whole.map_or(0, |frame| frame.grid().starts().len()), running.place, "{shown}");
        }
    }

    #[test]
    fn the_same_part_of_the_period_before_whatever_dimension_is_asked_for() {
        // 2026-11-20T12:34:56.789Z, a Friday.
        let now_ms = 1_795_178_096_789;
        for (range, zone, expected) in [
            ("day", "UTC", ("2026-11-19T00:00:00Z", "2026-11-19T12:35:00Z")),
            ("week", "UTC", ("2026-11-09T00:00:00Z", "2026-11-13T12:35:00Z")),
            ("month", "UTC", ("2026-10-01T00:00:00Z", "2026-10-20T12:35:00Z")),
            ("month", "Europe/Berlin", ("2026-10-01T00:00:00+02:00", "2026-10-20T13:35:00+02:00")),
            ("year", "UTC", ("2025-01-01T00:00:00Z", "2025-11-20T12:45:00Z")),
            ("7d", "Europe/Berlin", ("2026-11-07T00:00:00+01:00", "2026-11-13T13:35:00+01:00")),
            ("6mo", "UTC", ("2025-12-01T00:00:00Z", "2026-05-22T12:45:00Z")),
        ] {
            for dimensions in ["[]", r#"["time:day"]"#, r#"["country"]"#, r#"["time:day","country"]"#] {
                let text = format!(
                    r#"{{"metrics":["events"],"date_range":"{range}","dimensions":{dimensions},"timezone":"{zone}",
                        "include":{{"totals":true,"comparisons":"previous_period"}}}}"#
                );
                let plan = planned(&text, now_ms);
                let (totals, zone) = (&plan.previous.as_ref().unwrap().totals[0], &plan.shape.zone);
                let shown = (zone.rfc3339(totals.from), zone.rfc3339(totals.to));
                assert_eq!((shown.0.as_str(), shown.1.as_str()), expected, "{text}");
                let whole = text.replace(r#""previous_period""#, r#"{"period":"previous_period","span":"whole"}"#);
                let whole = planned(&whole, now_ms).previous.unwrap();
                assert_eq!((whole.totals[0].from, whole.totals[0].to), (totals.from, plan.period.from), "{text}");
            }
        }
    }

    #[test]
    fn where_the_period_before_is_shorter_the_span_right_before_is_taken() {
        // 2026-03-31T12:00:30Z: 30 days and a half, in February there are 28.
        let plan = planned(
            r#"{"metrics":["events"],"date_range":"month","dimensions":["time:month"],"include":{"totals":true,"comparisons":"previous_period"}}"#,
            1_774_958_430_000,
        );
        let (previous, passed) = (plan.previous.unwrap(), 30 * 86_400 + 12 * HOUR + 60);
        let running = &previous.running.unwrap().reads[0];
        assert_eq!((running.from, running.to), (plan.period.from - passed, plan.period.from));
    }
}
