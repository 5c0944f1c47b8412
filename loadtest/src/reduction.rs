//! Measures the reduction of rollups for realistic traffic: 20 types of event, pages and users by Zipf's law, 1,000 events/s, a day.
//!
//! Events are made inside ClickHouse, through `events_in` and its views like all others. The result is the output of
//! `tallyhouse rollups stats` after all merges.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::development::PROJECT;
use crate::system::{System, SystemError};

/// Events of one insert: as the ingester's largest, fifteen at once.
const BLOCK: u64 = 1_000_000;

/// One insert, or the last merge of a table.
const TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub struct ReductionConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// Hours of traffic, the last one ending now.
    pub hours: u64,
    pub rate: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReductionError {
    /// The system did not start or stop.
    #[error(transparent)]
    System(#[from] SystemError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// `tallyhouse rollups stats` did not run.
    #[error("tallyhouse rollups stats: {0}")]
    Stats(String),
}

/// Makes the events in a system of its own, and returns what its rollups come to.
pub async fn run(config: &ReductionConfig, progress: impl Fn(&str)) -> Result<String, ReductionError> {
    let system = System::start(&config.binary).await?;
    let clickhouse = ClickHouse::with_timeout(&system.clickhouse(), TIMEOUT)?;
    let events = config.hours * 3_600 * config.rate;
    let mut from = 0;
    while from < events {
        let count = BLOCK.min(events - from);
        clickhouse.raw(&insert(config, from, count)).await?;
        from += count;
        progress(&format!("{from} of {events} events"));
    }
    for table in ["rollup_1m", "rollup_1h", "rollup_1d"] {
        progress(&format!("merging {table}"));
        clickhouse.raw(&format!("OPTIMIZE TABLE tallyhouse.{table} FINAL")).await?;
    }
    let answer = stats(config, &system).await?;
    system.stop().await?;
    Ok(answer)
}

async fn stats(config: &ReductionConfig, system: &System) -> Result<String, ReductionError> {
    let clickhouse = system.clickhouse();
    let output = Command::new(&config.binary)
        .args(["rollups", "stats", "--project", PROJECT])
        .env("CLICKHOUSE_URL", clickhouse.url)
        .env("CLICKHOUSE_USER", clickhouse.user)
        .env("CLICKHOUSE_PASSWORD", clickhouse.password)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| ReductionError::Stats(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(ReductionError::Stats(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// Ranks by Zipf's law with exponent 1: `n^u` for an even `u`. 60 countries, three devices, 200,000 users, 10,000 pages, a value for one
/// event in four.
fn insert(ReductionConfig { hours, rate, .. }: &ReductionConfig, from: u64, count: u64) -> String {
    let even = |seed: u8| format!("(cityHash64(number, {seed}) / 18446744073709551616)");
    let rank = |most: u32, seed: u8| format!("toUInt64(pow({most} + 1, {}))", even(seed));
    let (kind, country, user, page) = (rank(20, 1), rank(60, 2), rank(200_000, 3), rank(10_000, 4));
    let (device, value) = (even(5), even(6));
    format!(
        "INSERT INTO tallyhouse.events_in \
           (project_id, event_id, event_type, ts, value, user_id, user_hash, country, device, page, dims, received_at, retention_days) \
         SELECT '{PROJECT}', toString(number), concat('type_', toString({kind})), \
           fromUnixTimestamp64Milli(toInt64(toUnixTimestamp(now()) - {hours} * 3600) * 1000 + toInt64(number * 1000 / {rate}), 'UTC') AS t, \
           if({value} < 0.25, round(exp(5 * {value} * 4), 2), NULL), concat('u', toString({user} AS u)), cityHash64(u), \
           concat('C', toString({country})) AS c, multiIf({device} < 0.6, 'mobile', {device} < 0.95, 'desktop', 'tablet') AS d, \
           concat('/', toString({page})), [('country', c), ('device', d), ('country,device', concat(c, char(31), d))], t, 730 \
         FROM numbers({from}, {count}) \
         SETTINGS async_insert = 0, max_insert_block_size = 65536, max_block_size = 65536, min_insert_block_size_rows = 65536, \
           min_insert_block_size_bytes = 0, max_threads = 2, max_insert_threads = 1, max_partitions_per_insert_block = 0, \
           optimize_on_insert = 0, parallel_view_processing = 1, deduplicate_insert = 'disable'"
    )
}
