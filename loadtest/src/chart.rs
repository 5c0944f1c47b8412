//! A bar chart in the terminal of what the query API answers, and the command that asks the same.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use tallyhouse_service::http_client::{Endpoint, HttpError, escape};

const WIDTH: f64 = 48.0;
/// One mark per value of the second dimension, in the order of the legend.
const MARKS: [char; 6] = ['█', '▒', '░', '▓', '=', '-'];

/// What to draw.
#[derive(Debug, Clone)]
pub struct ChartConfig {
    /// The query API, `http://host:port`.
    pub url: String,
    /// A key with the scope `query`.
    pub key: String,
    /// First instant.
    pub from: Timestamp,
    /// First instant that does not count.
    pub to: Timestamp,
}

/// Why there is no chart.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The query API did not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answered, but not with numbers.
    #[error("the query API answered {0}")]
    Refused(String),
}

/// An answer of `GET /v1/metrics/{name}` over flights by origin.
#[derive(Debug, Deserialize)]
struct Answer {
    data: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    timestamp: String,
    value: Option<f64>,
    #[serde(default)]
    origin: String,
}

/// Flights per month and origin as text, followed by the `curl` lines that reproduce it.
pub async fn flights_by_month(config: &ChartConfig) -> Result<String, ChartError> {
    let endpoint = Endpoint::new(&config.url, Duration::from_secs(30))?.api_key(&config.key)?;
    let path = path(config, "events", "granularity=month&groupBy=origin");
    let reply = endpoint.get(&path).await?;
    if !reply.status.is_success() {
        return Err(ChartError::Refused(format!("{}: {}", reply.status, reply.excerpt())));
    }
    let answer: Answer =
        serde_json::from_slice(&reply.body).map_err(|e| ChartError::Refused(format!("{e}: {}", reply.excerpt())))?;
    let mut text = String::from("Flights departed per month, by airport of origin\n\n");
    text.push_str(&draw(&answer.data));
    text.push_str("\nAsk the same, and more:\n\n");
    let delays = self::path(config, "value_avg", "granularity=day&groupBy=carrier&filter=origin:JFK");
    for path in [path, delays, "/v1/dashboards/realtime".to_owned()] {
        text.push_str(&format!("  curl -s -H 'X-API-Key: {}' '{}{path}'\n", config.key, config.url));
    }
    Ok(text)
}

fn path(config: &ChartConfig, metric: &str, rest: &str) -> String {
    let (from, to) = (escape(&config.from.to_string()), escape(&config.to.to_string()));
    format!("/v1/metrics/{metric}?eventType=flight_departed&startTime={from}&endTime={to}&{rest}")
}

/// One line per bucket: a bar whose parts are the origins.
fn draw(points: &[Point]) -> String {
    let mut months: Vec<&str> = points.iter().map(|p| p.timestamp.as_str()).collect();
    let mut origins: Vec<&str> = points.iter().map(|p| p.origin.as_str()).collect();
    for names in [&mut months, &mut origins] {
        names.sort_unstable();
        names.dedup();
    }
    let value = |month: &str, origin: &str| -> f64 {
        points.iter().filter(|p| p.timestamp == month && p.origin == origin).filter_map(|p| p.value).sum()
    };
    let total = |month: &str| -> f64 { origins.iter().map(|origin| value(month, origin)).sum() };
    let most = months.iter().map(|month| total(month)).fold(1.0, f64::max);
    let mut text = String::new();
    for month in &months {
        let bar: String =
            origins.iter().zip(MARKS).map(|(origin, mark)| bar(mark, value(month, origin) / most)).collect();
        let label: String = month.chars().take(7).collect();
        let padding = " ".repeat((WIDTH as usize + 3).saturating_sub(bar.chars().count()));
        text.push_str(&format!("  {label}  {bar}{padding}{:>7}\n", total(month)));
    }
    let legend: Vec<String> = origins.iter().zip(MARKS).map(|(origin, mark)| format!("{mark} {origin}")).collect();
    text + &format!("           {}\n", legend.join("   "))
}

fn bar(mark: char, share: f64) -> String {
    std::iter::repeat_n(mark, (share * WIDTH).round() as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(timestamp: &str, origin: &str, value: f64) -> Point {
        Point { timestamp: timestamp.to_owned(), value: Some(value), origin: origin.to_owned() }
    }

    #[test]
    fn bars_are_in_proportion_and_months_in_order() {
        let chart = draw(&[
            point("2026-02-01T00:00:00Z", "JFK", 50.0),
            point("2026-01-01T00:00:00Z", "JFK", 75.0),
            point("2026-01-01T00:00:00Z", "EWR", 25.0),
        ]);
        let lines: Vec<&str> = chart.lines().collect();
        assert!(lines[0].starts_with("  2026-01  ") && lines[0].ends_with("100"), "{chart}");
        assert_eq!(lines[0].matches('█').count(), 12, "EWR comes first: {chart}");
        assert_eq!(lines[0].matches('▒').count(), 36, "{chart}");
        assert_eq!(lines[1].matches('▒').count(), 24, "{chart}");
        assert_eq!(lines[2].trim(), "█ EWR   ▒ JFK");
    }
}
