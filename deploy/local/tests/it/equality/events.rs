//! The events that questions are asked about: a year of them in each project, written in blocks that each hold
//! all of the year, so that nearly all are late, and of which every other one, the first among them, is sent twice.

use futures_util::stream::{StreamExt, TryStreamExt};
use tallyhouse_sql::Connection;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::clickhouse::error::Result;

use super::DAY;

/// Both hemispheres' changes of clocks are within a year, whenever that ends; a quarter is dense, for minutes.
const DAYS: i64 = 360;

const BLOCK: u64 = 250_000;

/// Blocks that are written at once.
const AT_ONCE: usize = 2;

const INSERT: &str = "INSERT INTO events_in
    (project_id, event_id, event_type, ts, value, user_hash, country, device, os, dims, received_at, retention_days)
    WITH cityHash64(number, 1) AS h, cityHash64(number, 2) AS g, cityHash64(number, 3) AS f
    SELECT {project:String}, toString(number), ['view', 'purchase', 'flight_departed'][h % 3 + 1] AS type,
        fromUnixTimestamp64Milli({until:Int64} * 1000
            - toInt64(if(g % 10 < 6, g / 10 % 7776000, g / 10 % {span:UInt64})) * 1000 - toInt64(f % 1000), 'UTC'),
        if(f % 7 = 0, NULL, toFloat64(f % 10007) / 8 - 100), if(f % 11 = 0, 0, 1 + g % 3000),
        ['DE', 'FR', 'US', ''][g % 4 + 1] AS c, ['mobile', 'desktop', ''][f % 3 + 1] AS d, ['linux', 'ios'][h % 2 + 1],
        arrayConcat([('country', c), ('device', d), ('country,device', concat(c, char(31), d))],
            if(type != 'flight_departed', [], [('origin', ['JFK', 'LGA'][f % 2 + 1]), ('carrier', ['AA', 'UA', 'DL'][h % 3 + 1]),
                ('carrier,origin', concat(['AA', 'UA', 'DL'][h % 3 + 1], char(31), ['JFK', 'LGA'][f % 2 + 1]))])),
        now64(3), 730
    FROM numbers({from:UInt64}, {count:UInt64})";

/// Writes `each` events of the year before `until` to every project. No two events of all projects are the same.
pub async fn write(writer: &Connection, projects: &[String], each: u64, until: i64) {
    let client = writer.client();
    let blocks = projects.iter().zip(0..).flat_map(|(project, place): (&String, u64)| {
        let all = place * each..(place + 1) * each;
        all.clone().step_by(BLOCK as usize).map(move |from| (project, from, BLOCK.min(all.end - from)))
    });
    let written = blocks.map(|(project, from, count)| {
        let times = if (from % each / BLOCK).is_multiple_of(2) { 2 } else { 1 };
        send(&client, Block { project, from, count }, until, times)
    });
    futures_util::stream::iter(written).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
    for project in projects {
        let stored = client.query("SELECT count() FROM events WHERE project_id = {project:String}");
        assert_eq!(stored.param("project", project).fetch_one::<u64>().await.unwrap(), each, "{project}");
    }
}

struct Block<'a> {
    project: &'a str,
    from: u64,
    count: u64,
}

async fn send(client: &Client, Block { project, from, count }: Block<'_>, until: i64, times: u32) -> Result<()> {
    for _ in 0..times {
        let insert = client
            .query(INSERT)
            .param("project", project)
            .param("until", until)
            .param("span", DAYS * DAY)
            .param("from", from)
            .param("count", count)
            .with_setting("async_insert", "0")
            .with_setting("max_insert_block_size", "1048449")
            .with_setting("max_block_size", "1048449")
            .with_setting("min_insert_block_size_rows", "1048449")
            .with_setting("max_threads", "1")
            .with_setting("max_partitions_per_insert_block", "0")
            .with_setting("optimize_on_insert", "0")
            .with_setting("deduplicate_insert", "enable")
            .with_setting("insert_deduplicate", "1")
            .with_setting("deduplicate_insert_select", "force_enable")
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            .with_setting("insert_deduplication_token", format!("{project}-{from}"));
        insert.execute().await?;
    }
    Ok(())
}
