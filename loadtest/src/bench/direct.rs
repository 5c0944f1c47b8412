//! Inserts past the ingester, into the same tables: the ceiling, and what ClickHouse does for small inserts by itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::Instant;

use super::BenchError;
use super::quantiles::{Latencies, Quantiles};
use crate::clickhouse::{ClickHouse, ClickHouseConfig, ClickHouseError};
use crate::development::PROJECT;

/// Rows in one block of the ceiling.
const BLOCK: usize = 100_000;
/// Blocks under way: one at a time reaches two thirds on two cores, more gain nothing.
const AT_A_TIME: usize = 2;
/// Distinct blocks; they are sent again and again, each time with a token of its own.
const BLOCKS: usize = 2;

/// What direct inserts came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Direct {
    /// Rows per second.
    pub rows_per_second: f64,
    /// Time of one insert.
    pub inserts: Quantiles,
}

/// The most that these tables and views take here: rows that the ingester stored in this run, prepared in Native format,
/// 100,000 to a block, two blocks at a time.
pub async fn ceiling(config: &ClickHouseConfig, lasts: Duration) -> Result<Direct, BenchError> {
    let clickhouse = ClickHouse::new(config)?;
    let mut blocks = Vec::new();
    for index in 0..BLOCKS {
        blocks.push(stored_rows(&clickhouse, index, "Native").await?);
    }
    let tokens = AtomicU64::new(0);
    let next = || {
        let token = tokens.fetch_add(1, Ordering::Relaxed);
        let body = blocks.get(token as usize % BLOCKS)?.clone();
        // As the ingester inserts.
        let settings = format!(
            "async_insert=0&query_plan_enable_optimizations=0&insert_deduplication_token=ceiling-{}-{token}",
            std::process::id()
        );
        Some(Insert { format: "Native", settings, body })
    };
    direct(config, &Run { connections: AT_A_TIME, rows: BLOCK, lasts }, next).await
}

/// What a user has without an ingester: small JSONEachRow inserts, batched by ClickHouse, each answered when it is stored.
/// The same rows, in the batches and over the connections that the ingester had.
pub async fn async_insert(
    config: &ClickHouseConfig,
    connections: usize,
    batch: usize,
    lasts: Duration,
) -> Result<Direct, BenchError> {
    let clickhouse = ClickHouse::new(config)?;
    let rows = stored_rows(&clickhouse, 0, "JSONEachRow").await?;
    let bodies: Vec<Bytes> = batches_of(&rows, batch);
    let sent = AtomicUsize::new(0);
    let next = || {
        let body = bodies.get(sent.fetch_add(1, Ordering::Relaxed))?.clone();
        Some(Insert { format: "JSONEachRow", settings: "async_insert=1&wait_for_async_insert=1".to_owned(), body })
    };
    direct(config, &Run { connections, rows: batch, lasts }, next).await
}

struct Run {
    connections: usize,
    rows: usize,
    lasts: Duration,
}

struct Insert {
    format: &'static str,
    settings: String,
    body: Bytes,
}

async fn direct(config: &ClickHouseConfig, run: &Run, next: impl Fn() -> Option<Insert>) -> Result<Direct, BenchError> {
    let started = Instant::now();
    let until = started + run.lasts;
    let worker = async || {
        let clickhouse = ClickHouse::new(config)?;
        let mut inserts = Latencies::new();
        while Instant::now() < until {
            let Some(insert) = next() else { break };
            let sent = Instant::now();
            let statement = format!("INSERT INTO tallyhouse.events_in FORMAT {}", insert.format);
            clickhouse.insert(&statement, &insert.settings, insert.body).await?;
            inserts.add(sent.elapsed());
        }
        Ok::<_, ClickHouseError>(inserts)
    };
    let parts = try_join_all((0..run.connections).map(|_| worker())).await?;
    let took = started.elapsed();
    let mut inserts = Latencies::new();
    parts.iter().for_each(|part| inserts.merge(part));
    let inserts = inserts.quantiles();
    Ok(Direct { rows_per_second: (inserts.count * run.rows as u64) as f64 / took.as_secs_f64(), inserts })
}

/// The `share`-th part of the rows that came through the ingester, in no order, as rows come in life: in the order of the
/// table they would be all of one event type, and far cheaper to roll up. They go into a project of their own, so that
/// the demo's numbers stay what they are.
async fn stored_rows(clickhouse: &ClickHouse, share: usize, format: &str) -> Result<Bytes, BenchError> {
    let from = format!("FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND event_type NOT LIKE 'bench_%'");
    let stored = clickhouse.number(&format!("SELECT count() {from}")).await?;
    // A few more than a block in each share, as shares differ a little in size.
    let shares = stored / (BLOCK as u64 + BLOCK as u64 / 20);
    if shares < BLOCKS as u64 {
        return Err(BenchError::Worthless(format!(
            "only {stored} rows are stored, too few to prepare {BLOCKS} blocks from"
        )));
    }
    // The inner SELECT: an alias of the outer one would be what its WHERE compares.
    let select = format!(
        "SELECT * REPLACE('bench_direct' AS project_id) FROM (
            SELECT * {from} AND cityHash64(event_id) % {shares} = {share} ORDER BY cityHash64(event_id) LIMIT {BLOCK}
        ) FORMAT {format} SETTINGS max_block_size = {BLOCK}, preferred_block_size_bytes = 0"
    );
    Ok(clickhouse.raw(&select).await?)
}

fn batches_of(lines: &Bytes, batch: usize) -> Vec<Bytes> {
    let mut ends: Vec<usize> =
        lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    ends.insert(0, 0);
    let cuts: Vec<usize> = ends.into_iter().step_by(batch).collect();
    cuts.iter().zip(cuts.iter().skip(1)).map(|(&from, &to)| lines.slice(from..to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_into_whole_batches() {
        let lines = Bytes::from_static(b"{1}\n{2}\n{3}\n{4}\n{5}\n");
        assert_eq!(batches_of(&lines, 2), [Bytes::from_static(b"{1}\n{2}\n"), Bytes::from_static(b"{3}\n{4}\n")]);
        assert_eq!(batches_of(&lines, 1).len(), 5);
    }
}
