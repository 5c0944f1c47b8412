//! Measures freshness: from the instant it is sent until a query over the rollup counts it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::BenchError;
use super::quantiles::{Latencies, Quantiles};
use crate::clickhouse::{ClickHouse, ClickHouseConfig};
use crate::client::{Client, ClientConfig, Outgoing};
use crate::development::PROJECT;

/// Between two looks. It bounds the resolution of what is measured, and keeps the looking from being a load.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);

/// Sends one event after the other, each as soon as the one before is visible.
pub async fn measure(ingest: &str, config: &ClickHouseConfig, lasts: Duration) -> Result<Quantiles, BenchError> {
    let client = Client::new(&ClientConfig::development(ingest))?;
    let clickhouse = ClickHouse::new(config)?;
    let event_type = format!("bench_freshness_{}", std::process::id());
    let count = format!(
        "SELECT sum(events) FROM tallyhouse.rollup_1m WHERE project_id = '{PROJECT}' AND event_type = '{event_type}' AND dim_set = ''"
    );
    let mut latencies = Latencies::new();
    let until = Instant::now() + lasts;
    let mut sent = clickhouse.number(&count).await?;
    while Instant::now() < until {
        let started = Instant::now();
        sent += 1;
        let id = format!("{event_type}-{sent}");
        let json = format!(r#"{{"eventId":"{id}","eventType":"{event_type}"}}"#);
        client.deliver(&[Outgoing { id, json }]).await.map_err(|e| BenchError::Worthless(e.to_string()))?;
        while clickhouse.number(&count).await? < sent {
            if started.elapsed() > VISIBLE_WITHIN {
                return Err(BenchError::Worthless(format!("an event was not visible within {VISIBLE_WITHIN:?}")));
            }
            sleep(LOOK_EVERY).await;
        }
        latencies.add(started.elapsed());
    }
    Ok(latencies.quantiles())
}
