//! Warms the cardinality limiter at start, from the hourly rollup.

use std::time::Duration;

use serde::Deserialize;
use tallyhouse_schema::rollup::QUARTER;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};

use super::{CardinalityLimiter, MAX_ENTRIES};

/// Reading them may take this long.
const WARM_WITHIN: Duration = Duration::from_secs(30);

#[derive(Row, Deserialize)]
struct CountedValue {
    project: String,
    set: String,
    value: String,
    hour: i64,
}

/// Loads the values of the current hour and two before, so that a start does not double the bound. When ClickHouse does not answer, the
/// bounds of these hours start anew.
pub async fn load(client: &Client, limiter: &CardinalityLimiter) {
    match read(client, limiter).await {
        Ok(values) => tracing::info!(values, "the cardinality limiter is warm"),
        Err(error) => tracing::warn!(%error, "dimension values could not be read: this hour's bounds start anew"),
    }
}

async fn read(client: &Client, limiter: &CardinalityLimiter) -> Result<usize, StoreError> {
    let read = async {
        let mut rows = client
            .query(
                "SELECT toString(project_id) AS project, toString(dim_set) AS set, \
                 if(dim_set = '', toString(event_type), dim_value) AS value, \
                 intDiv(toInt64(toUnixTimestamp(bucket)), 3600) AS hour FROM rollup_1h \
                 WHERE bucket >= toStartOfHour(now('UTC')) - toIntervalHour(2) AND event_type != '' \
                 AND NOT startsWith(dim_set, {quarter:String}) \
                 GROUP BY project, set, value, hour LIMIT {most:UInt64}",
            )
            .param("quarter", QUARTER)
            .param("most", MAX_ENTRIES as u64)
            .fetch::<CountedValue>()?;
        let mut known = 0;
        while let Some(row) = rows.next().await? {
            limiter.remember(&row.project, &row.set, &row.value, row.hour);
            known += 1;
        }
        Ok::<_, clickhouse::error::Error>(known)
    };
    tallyhouse_sql::within(WARM_WITHIN, read).await
}
