//! Inserts a prepared block; a repeat under the same token changes nothing.

use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use clickhouse::insert_formatted::InsertFormatted;

use crate::deadline::within;
use crate::error::StoreError;
use crate::migrations::MAX_PARTITIONS_PER_INSERT;

/// Settings that make an insert exact. None is left to a default: several changed in 26.x.
///
/// * `async_insert = 0`: the answer comes after the rows are in the table and in every view.
/// * `deduplicate_insert`, `deduplicate_blocks_in_dependent_materialized_views`: the token is honoured by the source and
///   by every view, so that a repeated insert heals views that were missed and leaves the others alone.
/// * block sizes: one batch is one block. The token is extended per block, so a repeat must be cut as the first attempt was.
/// * `max_partitions_per_insert_block`, below: history touches one partition a week.
///
/// The last three are for speed. What a view hands to its table is grouped already, so merging it once more on the way in
/// (`optimize_on_insert`) is wasted; the views of one insert run side by side, where there is a thread for it
/// ([`threads`]); and there is nothing to optimise in plans over one block. Measured in sql/README.md.
const EXACT: [(&str, &str); 11] = [
    ("async_insert", "0"),
    ("wait_end_of_query", "1"),
    ("insert_deduplicate", "1"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("max_insert_block_size", "1048449"),
    ("min_insert_block_size_rows", "1048449"),
    ("min_insert_block_size_bytes", "268402944"),
    ("optimize_on_insert", "0"),
    ("parallel_view_processing", "1"),
    ("query_plan_enable_optimizations", "0"),
];

/// A block of fewer bytes is inserted by one thread: handing its four tables to several costs more than they are.
const SMALL_BLOCK_BYTES: usize = 256 << 10;

/// Threads for one insert. It has no influence on tokens: one batch is one block either way.
const fn threads(bytes: usize) -> &'static str {
    if bytes < SMALL_BLOCK_BYTES { "1" } else { "2" }
}

/// Inserts one Native block into `table`. `Ok` means that it is in the table and in every view behind it.
///
/// After an error the insert may or may not have been carried out, wholly or in part: repeat it with the same chunks and the
/// same `token` until it is `Ok`.
pub async fn insert_block(
    client: &Client,
    table: &str,
    token: &str,
    chunks: &[Bytes],
    deadline: Duration,
) -> Result<(), StoreError> {
    send(prepared(client, table, chunks).with_setting("insert_deduplication_token", token), chunks, deadline).await
}

/// Inserts one Native block as [`insert_block`] does, but every time that it is called. Only for tables that keep nothing.
pub(crate) async fn insert_again(
    client: &Client,
    table: &str,
    chunks: &[Bytes],
    deadline: Duration,
) -> Result<(), StoreError> {
    let insert = prepared(client, table, chunks)
        .with_setting("deduplicate_insert", "disable")
        .with_setting("insert_deduplicate", "0")
        .with_setting("deduplicate_blocks_in_dependent_materialized_views", "0");
    send(insert, chunks, deadline).await
}

fn prepared(client: &Client, table: &str, chunks: &[Bytes]) -> InsertFormatted {
    let insert = client.insert_formatted_with(format!("INSERT INTO {table} FORMAT Native"));
    EXACT
        .into_iter()
        .fold(insert, |insert, (name, value)| insert.with_setting(name, value))
        .with_setting("max_threads", threads(chunks.iter().map(Bytes::len).sum()))
        .with_setting("max_partitions_per_insert_block", MAX_PARTITIONS_PER_INSERT.to_string())
}

async fn send(mut insert: InsertFormatted, chunks: &[Bytes], deadline: Duration) -> Result<(), StoreError> {
    let send = async {
        for chunk in chunks {
            insert.send(chunk.clone()).await?;
        }
        insert.end().await
    };
    within(deadline, send).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_blocks_take_more_than_a_thread() {
        assert_eq!([0, SMALL_BLOCK_BYTES - 1, SMALL_BLOCK_BYTES, 64 << 20].map(threads), ["1", "1", "2", "2"]);
    }
}
