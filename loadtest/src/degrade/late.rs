//! An event of a day that is over and cached: how long until both instances count it, from `?wait=stored`'s 200.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::DegradeError;
use super::instance::Instance;
use super::stage::Stage;
use crate::bench::quantiles::{Latencies, Quantiles};
use crate::development::INGEST_KEY;
use tallyhouse_service::http_client::Endpoint;

const TIMES: u64 = 50;
/// Past every late window; the development key may send history.
const DAYS_AGO: i64 = 20;
/// A type of its own, so that its count starts at nothing.
const EVENT_TYPE: &str = "late_probe";
/// Then it is counted as never shown.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Late {
    /// From the acknowledgement to the later of both instances' new number.
    pub shown: Quantiles,
    /// Events that were not shown within ten seconds.
    pub never: u64,
}

/// Sends one late event after the other.
pub(super) async fn measure(stage: &mut Stage) -> Result<Late, DegradeError> {
    let [one, other] = stage.pair(&[]).await?;
    let ingest = Endpoint::new(&format!("{}/v1/events?wait=stored", stage.ingest_url()), Duration::from_secs(30))?
        .api_key(INGEST_KEY)?;
    let day =
        Timestamp::now().saturating_sub(SignedDuration::from_hours(24 * DAYS_AGO)).unwrap_or(Timestamp::UNIX_EPOCH);
    let (date, noon) = (day.strftime("%Y-%m-%d").to_string(), day.strftime("%Y-%m-%dT12:00:00Z").to_string());
    let next = day.saturating_add(SignedDuration::from_hours(24)).unwrap_or(day).strftime("%Y-%m-%d");
    let path = format!("/v1/metrics/events?eventType={EVENT_TYPE}&granularity=day&startTime={date}&endTime={next}");
    let (mut shown, mut never) = (Latencies::new(), 0);
    for number in 0..TIMES {
        for instance in [&one, &other] {
            remembered(instance, &path, number).await?;
        }
        let event = json!({"eventId": format!("late-{number}"), "eventType": EVENT_TYPE, "timestamp": noon});
        let reply = ingest.post(Bytes::from(event.to_string())).await?;
        if reply.status != hyper::StatusCode::OK {
            return Err(DegradeError::Worthless(format!("a late event: {} {}", reply.status, reply.excerpt())));
        }
        let stored = Instant::now();
        let both = try_join(shows(&one, &path, number + 1), shows(&other, &path, number + 1));
        match timeout(TIMEOUT, both).await {
            Ok(both) => both.map(|_| shown.add(stored.elapsed()))?,
            Err(_) => never += 1,
        }
    }
    Ok(Late { shown: shown.quantiles(), never })
}

/// The answer before is in the cache.
async fn remembered(instance: &Instance, path: &str, count: u64) -> Result<(), DegradeError> {
    shows(instance, path, count).await?;
    let reply = instance.api.get(path).await?;
    let is_hit = reply.headers.get("x-cache").is_some_and(|value| value == "HIT");
    if is_hit { Ok(()) } else { Err(DegradeError::Worthless(format!("not remembered: {}", reply.excerpt()))) }
}

async fn shows(instance: &Instance, path: &str, count: u64) -> Result<(), DegradeError> {
    loop {
        let reply = instance.api.get(path).await?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let points = body.get("data").and_then(Value::as_array);
        let counted: f64 = points.into_iter().flatten().filter_map(|point| point.get("value")?.as_f64()).sum();
        if reply.status.is_success() && counted as u64 == count {
            return Ok(());
        }
    }
}
