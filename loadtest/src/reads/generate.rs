//! Events made inside ClickHouse, through `events_in` and its views like all others, but without the network.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::ReadsError;
use crate::clickhouse::ClickHouse;

/// Events of one insert: a block, so that it goes through the views at once.
const BLOCK: u64 = 1_000_000;

/// How far back events reach, in days.
pub const DAYS: u64 = 90;

/// The longest that one insert may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Adds events with the numbers `from..to`, spread evenly over [`DAYS`] days before now: ten event types, four countries,
/// three devices, a million users, a value for half of them.
pub async fn events(
    clickhouse: &ClickHouse,
    project: &str,
    from: u64,
    to: u64,
    mut tell: impl FnMut(u64),
) -> Result<(), ReadsError> {
    let mut next = from;
    while next < to {
        let starts = [next, next + BLOCK].into_iter().filter(|start| *start < to);
        let lanes = starts.map(|start| one(clickhouse, project, start, BLOCK.min(to - start)));
        next += try_join_all(lanes).await?.into_iter().sum::<u64>();
        tell(next);
    }
    Ok(())
}

async fn one(clickhouse: &ClickHouse, project: &str, from: u64, count: u64) -> Result<u64, ReadsError> {
    tokio::time::timeout(PATIENCE, clickhouse.raw(&insert(project, from, count)))
        .await
        .map_err(|_| ReadsError::Worthless(format!("an insert of {count} events took longer than {PATIENCE:?}")))??;
    Ok(count)
}

fn insert(project: &str, from: u64, count: u64) -> String {
    // A block holds two days, as if it had come when they were now: parts are then merged as they would have been.
    let span = 2 * 86_400;
    let first_second =
        format!("toUnixTimestamp(now()) - {DAYS} * 86400 + ({from} / {BLOCK} * {span}) % (({DAYS} - 2) * 86400)");
    format!(
        "INSERT INTO tallyhouse.events_in \
           (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days) \
         WITH cityHash64(number, 1) AS h, cityHash64(number, 2) AS g \
         SELECT '{project}', toString(number), \
           ['view', 'click', 'search', 'purchase', 'login', 'logout', 'share', 'play', 'pause', 'error'][h % 10 + 1], \
           fromUnixTimestamp64Milli(toInt64({first_second}) * 1000 + toInt64(g % ({span} * 1000)), 'UTC'), \
           if(g % 2 = 0, NULL, toFloat64(h % 10007) / 8), 1 + h % 1000000, \
           ['DE', 'FR', 'US', 'GB'][g % 4 + 1] AS c, ['mobile', 'desktop', 'tablet'][h % 3 + 1] AS d, \
           [('country', c), ('device', d), ('country,device', concat(c, char(31), d))], now64(3), 730 \
         FROM numbers({from}, {count}) \
         SETTINGS async_insert = 0, max_insert_block_size = 1048449, max_block_size = 1048449, \
           min_insert_block_size_rows = 1048449, max_threads = 1, max_partitions_per_insert_block = 0, \
           optimize_on_insert = 0, parallel_view_processing = 1, deduplicate_insert = 'disable'"
    )
}
