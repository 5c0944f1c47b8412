//! The dashboard that is measured: seven series and a table, as product dashboards have them. The dearest series there is, distinct
//! users of every country at every point, is by itself.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use tallyhouse_service::http_client::escape;

/// Series: path and query without a range.
const SERIES: [&str; 7] = [
    "events?groupBy=device",
    "users?",
    "events?eventType=purchase",
    "value_sum?eventType=purchase",
    "value_avg?",
    "value_p95?eventType=search",
    "events?filter=device:mobile&groupBy=country",
];

/// The dearest: one state of distinct users for each country and point.
const DEAREST: &str = "users?groupBy=country";

/// A range and how finely it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its length.
    pub days: i64,
    /// The width of buckets.
    pub granularity: &'static str,
}

/// A week by hours.
pub const WEEK: Range = Range { days: 7, granularity: "hour" };

/// A quarter by days.
pub const QUARTER: Range = Range { days: 90, granularity: "day" };

/// A panel, ready to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// Path and query.
    pub path: String,
    /// Posted when there is one.
    pub body: Option<Bytes>,
}

/// A dashboard as people ask for it: up to now. The table is of users by country over the whole range.
pub fn dashboard(range: Range, now: Timestamp) -> Vec<Panel> {
    let series = |panel: &str| Panel { path: path(panel, range, start(range, now), None), body: None };
    let table = json!({
        "metrics": ["users"], "date_range": format!("{}d", range.days), "dimensions": ["country"],
        "order_by": [["users", "desc"]]
    });
    let table = Panel { path: "/v1/query".to_owned(), body: Some(Bytes::from(table.to_string())) };
    SERIES.iter().map(|panel| series(panel)).chain([table]).collect()
}

/// The dearest panel.
pub fn dearest(range: Range, now: Timestamp) -> Panel {
    Panel { path: path(DEAREST, range, start(range, now), None), body: None }
}

/// All series up to now, the dearest too.
pub fn series(range: Range, now: Timestamp) -> Vec<String> {
    all().map(|panel| path(panel, range, start(range, now), None)).collect()
}

/// The same as nobody asked before: with a value in a filter that no event has, so neither an answer nor a part of one is
/// remembered, and just as much is read.
pub fn fresh(range: Range, now: Timestamp, number: u64) -> Vec<String> {
    all().map(|panel| path(panel, range, start(range, now), Some(number))).collect()
}

fn all() -> impl Iterator<Item = &'static str> {
    SERIES.into_iter().chain([DEAREST])
}

fn start(range: Range, now: Timestamp) -> Timestamp {
    now.saturating_sub(SignedDuration::from_hours(range.days * 24)).unwrap_or(now)
}

fn path(panel: &str, range: Range, start: Timestamp, number: Option<u64>) -> String {
    let start = escape(&start.to_string());
    let granularity = range.granularity;
    // The filter names every country that there is, and one that there is not.
    let unheard = number.map_or(String::new(), |number| format!("&filter=country:DE,FR,US,GB,none-{number}"));
    format!("/v1/metrics/{panel}&startTime={start}&granularity={granularity}{unheard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fresh_questions_are_the_same() {
        let now = Timestamp::UNIX_EPOCH;
        let asked: std::collections::BTreeSet<String> =
            (0..10).flat_map(|number| fresh(WEEK, now, number)).chain(series(WEEK, now)).collect();
        assert_eq!(asked.len(), 88);
    }
}
