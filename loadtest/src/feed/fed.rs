//! Up to when flights were fed before, from the query API.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::chart::{ChartConfig, ChartError};
use crate::http::{Endpoint, escape};

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
    let mut newest = None;
    for event_type in ["flight_departed", "flight_cancelled"] {
        let Some(day) = last(&endpoint, event_type, "day", config.from, config.to).await? else { continue };
        let end = day.saturating_add(SignedDuration::from_hours(24)).unwrap_or(day);
        let minute = match last(&endpoint, event_type, "minute", day, end.min(config.to)).await {
            Ok(minute) => minute,
            Err(ChartError::Refused(_)) => Some(end),
            Err(error) => return Err(error),
        };
        newest = newest.max(minute);
    }
    Ok(newest)
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
