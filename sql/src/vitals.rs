//! How ClickHouse is: memory, parts, merges, mutations, disks, read from its system tables by one statement.
//!
//! A server's own exporter has more; the embedded engine has none (neither `/metrics` nor `system.asynchronous_metrics`), and what alerts
//! need has to have one name everywhere.

use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::deadline::within;
use crate::error::StoreError;

/// Whoever does not answer by then is told as not up.
pub const WITHIN: Duration = Duration::from_secs(5);

/// One figure. What `table`, or `volume` and `disk`, do not apply to is empty.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub struct Vital {
    /// See `STATEMENT`.
    pub name: String,
    /// A table or a volume.
    pub of: String,
    /// A disk of the volume.
    pub disk: String,
    /// In base units.
    pub value: f64,
}

/// Bounded: a row per figure, per table of the database and figure, and per disk. Rebuilds make tables for a while. A bucket has no size.
const STATEMENT: &str = "
SELECT concat('metric:', metric) AS name, '' AS of, '' AS disk, toFloat64(value) AS value FROM system.metrics
WHERE metric IN ('MemoryTracking', 'Query', 'DelayedInserts', 'ReadonlyReplica', 'BackgroundMergesAndMutationsPoolTask', 'BackgroundMergesAndMutationsPoolSize')
UNION ALL SELECT 'memory_limit', '', '', toFloat64(value) FROM system.server_settings WHERE name = 'max_server_memory_usage'
UNION ALL SELECT 'uptime', '', '', toFloat64(uptime())
UNION ALL SELECT f.1, table, '', f.2 FROM (
    SELECT table, arrayJoin([('parts', toFloat64(sum(parts))), ('parts_in_partition', toFloat64(max(parts))),
        ('rows', toFloat64(sum(rows))), ('bytes', toFloat64(sum(bytes)))]) AS f
    FROM (SELECT table, partition_id, count() AS parts, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts
        WHERE database = currentDatabase() AND active GROUP BY table, partition_id)
    GROUP BY table ORDER BY table LIMIT 400)
UNION ALL SELECT f.1, '', '', f.2 FROM (
    SELECT arrayJoin([('merges', toFloat64(count())), ('merge_oldest', toFloat64(max(elapsed)))]) AS f FROM system.merges)
UNION ALL SELECT f.1, table, '', f.2 FROM (
    SELECT table, arrayJoin([('mutations', toFloat64(count())), ('mutations_failing', toFloat64(countIf(latest_fail_reason != ''))),
        ('mutation_oldest', toFloat64(max(greatest(dateDiff('second', create_time, now()), 0))))]) AS f
    FROM system.mutations WHERE database = currentDatabase() AND NOT is_done GROUP BY table ORDER BY table LIMIT 300)
UNION ALL SELECT f.1, volume, disk, f.2 FROM (
    SELECT v.volume AS volume, d.name AS disk,
        arrayJoin([('disk_free', toFloat64(d.unreserved_space)), ('disk_size', toFloat64(d.total_space))]) AS f
    FROM (SELECT name, unreserved_space, total_space FROM system.disks WHERE total_space < toUInt64(-1)) AS d INNER JOIN (
        SELECT DISTINCT volume_name AS volume, arrayJoin(disks) AS disk FROM system.storage_policies
        WHERE policy_name IN (SELECT storage_policy FROM system.tables WHERE database = currentDatabase())) AS v ON v.disk = d.name
    ORDER BY volume, disk LIMIT 100)
";

/// Reads all of them, as a user that may read `system`.
pub async fn read(client: &Client) -> Result<Vec<Vital>, StoreError> {
    let query = client
        .query(STATEMENT)
        .with_setting("max_execution_time", WITHIN.as_secs().to_string())
        .with_setting("max_threads", "1")
        .with_setting("max_result_rows", "2000")
        .with_setting("log_queries", "0");
    within(WITHIN, query.fetch_all::<Vital>()).await
}
