//! What is listened to, and which listeners share it.

use std::sync::Arc;
use std::time::Duration;

use crate::authorize::Scope;
use crate::metric::Metric;
use crate::request::error::quoted;
use crate::request::params::FILTER;
use crate::request::{BadRequest, MetricQuery, Params, Window};
use crate::time::{DAY, MINUTE};

/// Parameters of `GET /v1/metrics/{name}/stream`.
pub const STREAM_PARAMS: &[&str] =
    &["window", "interval", "granularity", "groupBy", FILTER, "eventType", "timezone", "limit"];

/// The last so many seconds: without `window`, the least and the most.
const WINDOW: (i64, i64, i64) = (60 * MINUTE, MINUTE, 31 * DAY);

/// Seconds from one question to the next: without `interval`, the least and the most.
const INTERVAL: (u64, u64, u64) = (1, 1, 60);

/// A metric over a window that slides with the present, asked for again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamQuery {
    /// What is asked; its window is always [`Window::Last`].
    pub metric: MetricQuery,
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
    /// Reads the parameters of a stream of the metric `name`.
    pub fn parse(
        name: &str,
        params: &Params,
        names: &dyn Fn() -> Vec<String>,
        now_ms: i64,
    ) -> Result<Self, BadRequest> {
        let seconds = window(params)?;
        let metric =
            MetricQuery { window: Window::Last { seconds }, ..MetricQuery::parse(name, params, names, now_ms)? };
        Ok(Self { metric, interval: interval(params)? })
    }

    /// The key for a caller. The window is in it as a length, so that it does not change with the time of asking.
    pub fn key(&self, scope: &Scope) -> Option<StreamKey> {
        // Taken apart without `..`: a field that is added must be thought of here.
        let MetricQuery { metric, event_type, window, granularity, zone, group_by, filters, limit } = &self.metric;
        let Metric { name, measure: _, event_type: _, granularity: _ } = metric;
        let Window::Last { seconds } = window else { return None };
        let interval = self.interval.as_secs();
        let question = (name, event_type, seconds, granularity, zone, group_by, filters, limit, interval);
        let question = serde_json::to_string(&question).ok()?.into();
        Some(StreamKey { project: scope.project().into(), question })
    }
}

fn window(params: &Params) -> Result<i64, BadRequest> {
    let (default, least, most) = WINDOW;
    let Some(text) = params.get("window") else { return Ok(default) };
    seconds(text).filter(|seconds| (least..=most).contains(seconds)).ok_or_else(|| BadRequest::Malformed {
        parameter: "window",
        given: quoted(text),
        expected: "the last minutes, hours or days, such as 30m, 24h or 7d, at most 31d".to_owned(),
    })
}

fn seconds(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        'm' => MINUTE,
        'h' => 60 * MINUTE,
        'd' => DAY,
        _ => return None,
    };
    let count = text.get(..text.len() - 1).filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()))?;
    count.parse::<i64>().ok()?.checked_mul(unit)
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
    use super::*;

    fn query(query: &str, now_ms: i64) -> Result<StreamQuery, BadRequest> {
        StreamQuery::parse("events", &Params::parse(Some(query), STREAM_PARAMS)?, &Vec::new, now_ms)
    }

    #[test]
    fn what_means_the_same_is_listened_to_together_whenever_it_is_asked() {
        let key = |project: &str, text: &str, now_ms| query(text, now_ms).unwrap().key(&Scope::for_test(project));
        let one = key("p", "window=60m&filter=device:a&filter=country:FR,DE", 0);
        assert!(one.is_some());
        assert_eq!(one, key("p", "filter=country:DE,FR&interval=1&filter=device:a", 99_999_999));
        assert_ne!(one, key("q", "filter=country:DE,FR&filter=device:a", 0), "another project");
        for other in ["", "window=2h", "interval=2", "granularity=minute", "groupBy=country", "eventType=a"] {
            let question = format!("filter=country:DE,FR&filter=device:a&{other}");
            assert_eq!(key("p", &question, 0) == one, other.is_empty(), "{other}");
        }
    }

    #[test]
    fn windows_are_lengths() {
        for (text, seconds) in [("window=1m", 60), ("window=24h", 86_400), ("window=31d", 31 * 86_400), ("", 3_600)] {
            assert_eq!(query(text, 0).unwrap().metric.window, Window::Last { seconds }, "{text}");
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
