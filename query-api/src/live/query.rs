//! The parameters of a stream, and the key that listeners of the same question share.

use std::sync::Arc;
use std::time::Duration;

use crate::authorize::Scope;
use crate::cached_query::without_instants;
use crate::metric_definitions::Definition;
use crate::plan::Plan;
use crate::render::json;
use crate::request::error::quoted;
use crate::request::params::FILTER;
use crate::request::{BadRequest, Params, SeriesQuery, Window, values};
use crate::time::{DAY, MINUTE};

/// Parameters of `GET /v1/metrics/{name}/stream`.
pub const STREAM_PARAMS: &[&str] =
    &["window", "interval", "granularity", "groupBy", FILTER, "eventType", "timezone", "limit"];

/// The last so many seconds: without `window`, the least and the most.
const WINDOW: (i64, i64, i64) = (60 * MINUTE, MINUTE, 31 * DAY);

/// Seconds from one question to the next: without `interval`, the least and the most.
const INTERVAL: (u64, u64, u64) = (1, 1, 60);

/// A metric over a window that slides with the present, asked for again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamQuery {
    /// What is asked; its window is always [`Window::Last`].
    pub series: SeriesQuery,
    /// From one question to the next.
    pub interval: Duration,
}

/// Project and canonical question: listeners of equal keys share a ticker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Whose data it is.
    pub project: Arc<str>,
    question: Arc<str>,
}

impl StreamQuery {
    /// Reads the parameters of a stream of a series that they were read into.
    pub fn of(series: SeriesQuery, params: &Params) -> Result<Self, BadRequest> {
        let seconds = window(params)?;
        Ok(Self { series: series.over(Window::Last { seconds }), interval: interval(params)? })
    }

    /// The series as its metric is defined by now: a stream goes on while a registered one is changed.
    pub fn as_defined(&self, find: impl Fn(&str) -> Option<Arc<Definition>>) -> SeriesQuery {
        let mut series = self.series.clone();
        if let SeriesQuery::Registered(query) = &mut series {
            for metric in &mut query.shape.metrics {
                *metric = find(&metric.name).unwrap_or_else(|| Arc::clone(metric));
            }
        }
        series
    }

    /// The key for a caller: the plan without times, as answers are named in the cache, and what warnings are about. Questions that are
    /// planned alike have equal answers, however they were written. The window is in it as a length, so that it does not change with
    /// the time of asking.
    pub fn key(&self, scope: &Scope, plan: &Plan) -> Option<StreamKey> {
        let Window::Last { seconds } = self.series.window() else { return None };
        // Listeners of one version share a ticker, whatever becomes of the metric.
        let versions: Vec<_> = match &self.series {
            SeriesQuery::BuiltIn(_) => Vec::new(),
            SeriesQuery::Registered(query) => {
                query.shape.metrics.iter().map(|metric| (&metric.name, metric.version)).collect()
            }
        };
        let (timeless, _) = without_instants(&json::text(plan));
        let warned = (self.series.event_types(), self.series.numbers_as_texts());
        let question = (timeless, versions, warned, seconds, self.interval.as_secs());
        Some(StreamKey { project: scope.project().into(), question: serde_json::to_string(&question).ok()?.into() })
    }
}

fn window(params: &Params) -> Result<i64, BadRequest> {
    let (default, least, most) = WINDOW;
    let Some(text) = params.get("window") else { return Ok(default) };
    values::seconds(text).filter(|seconds| (least..=most).contains(seconds)).ok_or_else(|| BadRequest::Malformed {
        parameter: "window",
        given: quoted(text),
        expected: "the last minutes, hours or days, such as 30m, 24h or 7d, at most 31d".to_owned(),
    })
}

fn interval(params: &Params) -> Result<Duration, BadRequest> {
    let (default, least, most) = INTERVAL;
    let Some(text) = params.get("interval") else { return Ok(Duration::from_secs(default)) };
    let seconds = text.parse::<u64>().ok().filter(|seconds| (least..=most).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| BadRequest::Malformed {
        parameter: "interval",
        given: quoted(text),
        expected: format!("a number of seconds from {least} to {most}"),
    })
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::metric_definitions::Metric;
    use crate::plan::one_series;
    use crate::request::{MetricQuery, StructuredQuery};

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn key_of(query: &StreamQuery, project: &str, now_ms: i64) -> StreamKey {
        let plan = one_series(&query.series, &Catalogue::built_in().unwrap(), now_ms).unwrap();
        query.key(&Scope::for_test(project), &Plan::from(plan)).unwrap()
    }

    fn query(query: &str, now_ms: i64) -> Result<StreamQuery, BadRequest> {
        let params = Params::parse(Some(query), STREAM_PARAMS)?;
        let metric = MetricQuery::parse("events", &params, &Vec::new, now_ms)?;
        StreamQuery::of(SeriesQuery::BuiltIn(metric), &params)
    }

    #[test]
    fn what_means_the_same_is_listened_to_together_whenever_it_is_asked() {
        let key = |project: &str, text: &str, now_ms| key_of(&query(text, now_ms).unwrap(), project, now_ms);
        let one = key("p", "window=60m&filter=device:a&filter=country:FR,DE", NOW);
        assert_eq!(one, key("p", "filter=country:DE,FR&interval=1&filter=device:a", NOW + 17 * 60_000));
        assert_ne!(one, key("q", "filter=country:DE,FR&filter=device:a", NOW), "another project");
        for (other, is_same) in [
            ("", true),
            // Defaults, and what changes nothing without groups.
            ("limit=5", true),
            ("limit=1000&timezone=utc", true),
            ("timezone=Etc/UTC", true),
            ("granularity=minute", true),
            ("window=2h", false),
            ("interval=2", false),
            ("granularity=5m", false),
            ("groupBy=country", false),
            ("eventType=a", false),
            ("timezone=Europe/Berlin", false),
        ] {
            let question = format!("filter=country:DE,FR,DE&filter=device:a&{other}");
            assert_eq!(key("p", &question, NOW) == one, is_same, "{other}");
        }
        let grouped = |limit| key("p", &format!("groupBy=country{limit}"), NOW);
        assert_eq!(grouped(""), grouped("&limit=100"));
        assert_ne!(grouped(""), grouped("&limit=5"));
    }

    #[test]
    fn a_registered_metric_is_shared_by_version_and_asked_for_as_it_is_by_now() {
        let of = |version, text: &str| {
            let metric = of_version(version);
            let params = Params::parse(Some(text), STREAM_PARAMS).unwrap();
            let series = StructuredQuery::series(Arc::new(metric), &params, 0).unwrap();
            StreamQuery::of(SeriesQuery::Registered(Box::new(series)), &params).unwrap()
        };
        let key = |version, text: &str| key_of(&of(version, text), "p", NOW);
        let one = key(1, "filter=country:FR,DE");
        assert_eq!(one, key(1, "filter=country:DE,FR&window=60m&limit=7"));
        assert_ne!(one, key_of(&query("filter=country:FR,DE", NOW).unwrap(), "p", NOW), "a built-in one");
        for other in ["window=2h", "interval=2", "granularity=5m", "groupBy=country", "timezone=Asia/Tokyo"] {
            assert_ne!(one, key(1, &format!("filter=country:FR,DE&{other}")), "{other}");
        }
        assert_ne!(one, key(2, "filter=country:FR,DE"));
        let SeriesQuery::Registered(now) = of(1, "").as_defined(|_| Some(Arc::new(of_version(7)))) else { panic!() };
        assert_eq!(now.shape.metrics.iter().map(|metric| metric.version).collect::<Vec<_>>(), [7]);
    }

    fn of_version(version: u32) -> Definition {
        Definition { version, ..Definition::built_in(Metric::named("events").unwrap()) }
    }

    #[test]
    fn windows_are_lengths() {
        for (text, seconds) in [("window=1m", 60), ("window=24h", 86_400), ("window=31d", 31 * 86_400), ("", 3_600)] {
            assert_eq!(query(text, 0).unwrap().series.window(), Window::Last { seconds }, "{text}");
        }
        for text in ["0m", "32d", "5", "m", "-5m", "1.5h", "99999999999999999999d", "9223372036854775807d", "5M", "5ä"]
        {
            let error = query(&format!("window={text}"), 0).unwrap_err().to_string();
            assert!(error.contains("`window`") && error.contains("such as 30m"), "{text}: {error}");
        }
        for text in ["0", "61", "1s", "-1"] {
            let error = query(&format!("interval={text}"), 0).unwrap_err().to_string();
            assert!(error.contains("`interval`") && error.contains("from 1 to 60"), "{text}: {error}");
        }
        assert!(query("startTime=2026-01-01", 0).unwrap_err().to_string().contains("`startTime` is not a parameter"));
    }
}
