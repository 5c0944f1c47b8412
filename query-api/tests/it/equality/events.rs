//! The events that random questions are asked about: a year of them in each project. Most events of a block are within six
//! hours, somewhere in the year, so that cells of the rollups hold many events; the others span the quarter or the whole
//! year, so that nearly all are late. Every other block, the first among them, is sent twice.
//!
//! Values span the whole range that an event may have, and still every sum of them is exact, in whatever order it is computed, so that
//! sums are compared to the last digit: see [`Values`].

use std::ops::Range;

use futures_util::stream::{StreamExt, TryStreamExt};
use tallyhouse_schema::limits::{MAX_VALUE, MIN_VALUE};
use tallyhouse_sql::Shards;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::clickhouse::error::Result;
use tallyhouse_testkit::unheld;

use super::DAY;

/// Both hemispheres' changes of clocks are within a year, whenever that ends; a quarter is dense, for minutes.
const DAYS: i64 = 360;

/// A row far from the others has a cell of its own in each rollup, whose states are some kilobytes: with more rows a block
/// does not fit into the memory of a small machine.
const BLOCK: u64 = 20_000;

/// Most events of a block are within these many seconds.
const DENSE: i64 = 6 * 3600;

/// How far the dense part of a block is from that of the one before, in seconds: all of a project's are spread over the year.
const STRIDE: i64 = 37 * DAY + 5 * 3600;

/// Blocks that are written at once.
const AT_ONCE: usize = 2;

/// Powers of two in one project. With at most 2^18 events of a project its sums have 52 bits, one less than a double.
const WINDOW: i32 = 34;

/// The values of a project's events. Every seventh event has none.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Values {
    /// Eighths from -100 to 1,150.
    Usual,
    /// Of both signs, 2 to the power of `base` up to `base + WINDOW`.
    Powers { base: i32 },
    /// The smallest and the greatest there are, positive: all small ones together are less than half of the last digit of a
    /// great one, so that sums do not depend on the order here either.
    Extremes,
}

impl Values {
    /// Those that together span all that an event may have.
    fn all() -> Vec<Self> {
        let (least, greatest) = exponents();
        let windows = (least..greatest).step_by(WINDOW as usize);
        let powers = windows.map(|base| Self::Powers { base: base.min(greatest + 1 - WINDOW) });
        [Self::Usual, Self::Extremes].into_iter().chain(powers).collect()
    }

    /// The least exponent, how far apart exponents are, how many there are, and of how many signs.
    fn powers(self) -> Powers {
        let (least, greatest) = exponents();
        match self {
            Self::Usual => Powers { base: 0, step: 0, steps: 0, signs: 1 },
            Self::Powers { base } => Powers { base, step: 1, steps: WINDOW, signs: 2 },
            Self::Extremes => Powers { base: least, step: greatest - least, steps: 2, signs: 1 },
        }
    }
}

/// Powers of two as the statement makes them; without steps there are none.
struct Powers {
    base: i32,
    step: i32,
    steps: i32,
    signs: i32,
}

/// The least and the greatest power of two that a value may be.
fn exponents() -> (i32, i32) {
    (MIN_VALUE.log2().ceil() as i32, MAX_VALUE.log2().floor() as i32)
}

/// How many projects it takes to have all values.
pub fn least_projects() -> u64 {
    Values::all().len() as u64
}

const INSERT: &str = "INSERT INTO events_in
    (project_id, event_id, event_type, ts, value, user_hash, country, device, os, dims, received_at, retention_days)
    WITH cityHash64(number, 1) AS h, cityHash64(number, 2) AS g, cityHash64(number, 3) AS f,
        {base:Int32} + {step:Int32} * toInt32(intDiv(f, 7) % greatest({steps:Int32}, 1)) AS exponent,
        reinterpretAsFloat64(bitShiftLeft(toUInt64(1023 + exponent), 52)) AS power
    SELECT {project:String}, toString(number), ['view', 'purchase', 'flight_departed'][h % 3 + 1] AS type,
        fromUnixTimestamp64Milli({until:Int64} * 1000
            - toInt64(multiIf(g % 10 = 0, g / 10 % {span:UInt64}, g % 10 = 1, g / 10 % 7776000, {dense:UInt64} + g / 10 % {width:UInt64})) * 1000
            - toInt64(f % 1000), 'UTC'),
        multiIf(f % 7 = 0, NULL,
            {steps:Int32} = 0, toFloat64(f % 10007) / 8 - 100,
            intDiv(f, 1024) % {signs:Int32} = 1, -power, power),
        if(f % 11 = 0, 0, 1 + g % 3000),
        ['DE', 'FR', 'US', ''][g % 4 + 1] AS c, ['mobile', 'desktop', ''][f % 3 + 1] AS d, ['linux', 'ios'][h % 2 + 1],
        arrayConcat([('country', c), ('device', d), ('country,device', concat(c, char(31), d))],
            if(type != 'flight_departed', [], [('origin', ['JFK', 'LGA'][f % 2 + 1]), ('carrier', ['AA', 'UA', 'DL'][h % 3 + 1]),
                ('carrier,origin', concat(['AA', 'UA', 'DL'][h % 3 + 1], char(31), ['JFK', 'LGA'][f % 2 + 1]))])),
        now64(3), 730
    FROM numbers({from:UInt64}, {count:UInt64})";

/// Writes `each` events of the year before `until` to every project, its blocks to one shard after the other. No two events of all projects are the
/// same.
pub async fn write(writers: &Shards, projects: &[String], each: u64, until: i64) {
    let shards: Vec<Client> = writers.iter().map(|shard| shard.client()).collect();
    let block_size = BLOCK.min(each.div_ceil(shards.len() as u64));
    let values = Values::all();
    let blocks = projects.iter().zip(values.iter().cycle()).zip(0..).flat_map(|((project, values), place)| {
        let all: Range<u64> = place * each..(place + 1) * each;
        let block = move |from| Block { project, values: *values, from, count: block_size.min(all.end - from) };
        all.clone().step_by(block_size as usize).map(block)
    });
    let written = blocks.map(|block| {
        let number = block.from % each / block_size;
        let times = if number.is_multiple_of(2) { 2 } else { 1 };
        send(&shards[number as usize % shards.len()], block, until, times)
    });
    futures_util::stream::iter(written).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
    for project in projects {
        let mut stored = 0;
        for shard in &shards {
            let count = shard.query("SELECT count() FROM events WHERE project_id = {project:String}");
            let here = count.param("project", project).fetch_one::<u64>().await.unwrap();
            assert!(here > 0, "{project}");
            stored += here;
        }
        assert_eq!(stored, each, "{project}");
    }
}

struct Block<'a> {
    project: &'a str,
    values: Values,
    from: u64,
    count: u64,
}

async fn send(client: &Client, block: Block<'_>, until: i64, times: u32) -> Result<()> {
    let Block { project, values, from, count } = block;
    let Powers { base, step, steps, signs } = values.powers();
    for _ in 0..times {
        let insert = client
            .query(INSERT)
            .param("project", project)
            .param("until", until)
            .param("span", DAYS * DAY)
            .param("dense", from as i64 / BLOCK as i64 * STRIDE % (DAYS * DAY - DENSE))
            .param("width", DENSE)
            .param("from", from)
            .param("count", count)
            .param("base", base)
            .param("step", step)
            .param("steps", steps)
            .param("signs", signs)
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
        unheld(async || insert.clone().execute().await).await?;
    }
    Ok(())
}
