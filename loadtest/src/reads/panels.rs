//! The dashboard that is measured: eight panels, each of which can also be made a question that nobody asked before.

use jiff::{SignedDuration, Timestamp};

use crate::http::escape;

/// A panel: path and query without its range.
const PANELS: [&str; 8] = [
    "events?groupBy=device",
    "users?",
    "events?eventType=purchase",
    "value_sum?eventType=purchase",
    "value_avg?",
    "value_p95?eventType=search",
    "users?groupBy=country",
    "events?filter=device:mobile&groupBy=country",
];

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

/// The paths of a dashboard as people ask for it: up to now.
pub fn of(range: Range, now: Timestamp) -> Vec<String> {
    let start = now.saturating_sub(SignedDuration::from_hours(range.days * 24)).unwrap_or(now);
    PANELS.map(|panel| path(panel, range, start, None)).to_vec()
}

/// The same as nobody asked before: with a value in a filter that no event has, so neither an answer nor a part of one is
/// remembered, and just as much is read.
pub fn fresh(range: Range, now: Timestamp, number: u64) -> Vec<String> {
    let start = now.saturating_sub(SignedDuration::from_hours(range.days * 24)).unwrap_or(now);
    PANELS.map(|panel| path(panel, range, start, Some(number))).to_vec()
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
            (0..10).flat_map(|number| fresh(WEEK, now, number)).chain(of(WEEK, now)).collect();
        assert_eq!(asked.len(), 88);
    }
}
