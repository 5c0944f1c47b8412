//! Finds where an earlier feed stopped, from the query API.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::chart::{ChartConfig, ChartError};
use tallyhouse_service::http_client::{Endpoint, escape};

#[derive(Debug, Deserialize)]
struct Answer {
    data: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    timestamp: Timestamp,
    value: Option<f64>,
}

/// The newest minute within the range that has a flight; of a day whose minutes are no longer kept, its end.
pub async fn newest(config: &ChartConfig) -> Result<Option<Timestamp>, ChartError> {
    let endpoint = Endpoint::new(&config.url, Duration::from_secs(30))?.api_key(&config.key)?;
    // Whole days, which are kept for years.
    let (from, to) = (start_of_day(config.from), day_after(start_of_day(config.to)));
    let mut newest = None;
    for event_type in ["flight_departed", "flight_cancelled"] {
        let Some(day) = last(&endpoint, event_type, "day", from, to).await? else { continue };
        let minute = match last(&endpoint, event_type, "minute", day, day_after(day)).await {
            Ok(minute) => minute,
            Err(ChartError::Refused(_)) => Some(day_after(day)),
            Err(error) => return Err(error),
        };
        newest = newest.max(minute);
    }
    Ok(newest)
}

fn start_of_day(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second().div_euclid(86_400) * 86_400).unwrap_or(at)
}

fn day_after(at: Timestamp) -> Timestamp {
    at.saturating_add(SignedDuration::from_hours(24)).unwrap_or(at)
}

/// The last bucket that is not empty.
async fn last(
    endpoint: &Endpoint,
    event_type: &str,
    granularity: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Option<Timestamp>, ChartError> {
    let (from, to) = (escape(&from.to_string()), escape(&to.to_string()));
    let path = format!(
        "/v1/metrics/events?eventType={event_type}&granularity={granularity}&startTime={from}&endTime={to}&fresh=true"
    );
    let reply = endpoint.get(&path).await?;
    let refused = |why: &dyn std::fmt::Display| ChartError::Refused(format!("{why}: {}", reply.excerpt()));
    if !reply.status.is_success() {
        return Err(refused(&reply.status));
    }
    let answer: Answer = serde_json::from_slice(&reply.body).map_err(|error| refused(&error))?;
    let with_events = |point: &&Point| point.value.is_some_and(|value| value > 0.0);
    Ok(answer.data.iter().rfind(with_events).map(|point| point.timestamp))
}
