//! Events made inside ClickHouse, through `events_in` and its views like all others, but without the network.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::ReadsError;
use crate::clickhouse::ClickHouse;

/// Events of one insert at most: a block, so that it goes through the views at once.
const BLOCK: u64 = 1_000_000;

/// Inserts at least, of all days but the last: one a day. Parts follow the time in which events came and not how many there were, and
/// few events of many days each make as many rows of minutes as there are events, which takes ClickHouse's memory.
const LEAST_BLOCKS: u64 = DAYS - 1;

/// How far back events reach, in days.
pub const DAYS: u64 = 90;

/// The longest that one insert may take.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// How many events come, and how the last day's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrivals {
    /// All events.
    pub events: u64,
    /// Inserts that the events of the last day come in, one after another; those of the days before come a day at a time, or,
    /// where a day has more than a million, a million at a time.
    pub of_last_day: u64,
}

/// Adds events, spread evenly over [`DAYS`] days before now, however few they are, in the order of their time: ten event types, four
/// countries, three devices, a million users, a value for half of them.
pub async fn events(
    clickhouse: &ClickHouse,
    project: &str,
    arrivals: Arrivals,
    mut progress: impl FnMut(u64),
) -> Result<(), ReadsError> {
    let (before, last) = blocks(arrivals);
    for pair in before.chunks(2) {
        let inserts = pair.iter().map(|block| one(clickhouse, project, block));
        progress(try_join_all(inserts).await?.into_iter().max().unwrap_or_default());
    }
    for block in &last {
        progress(one(clickhouse, project, block).await?);
    }
    Ok(())
}

/// Events that are inserted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    from: u64,
    count: u64,
    /// Seconds from the first of all days to its first event.
    begins: u64,
    /// Seconds in which its events lie.
    span: u64,
}

/// The blocks of all days but the last, and those of the last. Each holds the events after those of the one before, as if it had come
/// when they were now: parts are then merged as they would have been.
fn blocks(Arrivals { events, of_last_day }: Arrivals) -> (Vec<Block>, Vec<Block>) {
    let last_day = events - events / DAYS;
    let before = cut((0, last_day), (0, (DAYS - 1) * 86_400), last_day.div_ceil(BLOCK).max(LEAST_BLOCKS));
    let least = (events - last_day).div_ceil(BLOCK);
    (before, cut((last_day, events), ((DAYS - 1) * 86_400, DAYS * 86_400), of_last_day.max(least)))
}

/// So many blocks of these events, which lie in these seconds.
fn cut(events: (u64, u64), seconds: (u64, u64), count: u64) -> Vec<Block> {
    let at = |(from, to): (u64, u64), number: u64| from + (to - from) * number / count;
    let block = |number: u64| Block {
        from: at(events, number),
        count: at(events, number + 1) - at(events, number),
        begins: at(seconds, number),
        span: at(seconds, number + 1) - at(seconds, number),
    };
    (0..count).map(block).collect()
}

/// The number after that of its last event.
async fn one(clickhouse: &ClickHouse, project: &str, block: &Block) -> Result<u64, ReadsError> {
    let count = block.count;
    tokio::time::timeout(TIMEOUT, clickhouse.raw(&insert(project, block)))
        .await
        .map_err(|_| ReadsError::Worthless(format!("an insert of {count} events took longer than {TIMEOUT:?}")))??;
    Ok(block.from + count)
}

fn insert(project: &str, Block { from, count, begins, span }: &Block) -> String {
    let first_second = format!("toUnixTimestamp(now()) - {DAYS} * 86400 + {begins}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_few_events_there_are_they_lie_in_all_days() {
        for (events, of_last_day) in [(1_000, 1), (10_000_000, 24), (100_000_000, 1), (2_500_007, 700)] {
            let (before, last) = blocks(Arrivals { events, of_last_day });
            assert_eq!(last.len() as u64, of_last_day.max((events / DAYS).div_ceil(BLOCK)));
            let blocks = [before, last].concat();
            let ends = |block: &Block| (block.from + block.count, block.begins + block.span);
            assert_eq!((blocks[0].from, blocks[0].begins), (0, 0));
            assert!(blocks.windows(2).all(|pair| ends(&pair[0]) == (pair[1].from, pair[1].begins)));
            assert_eq!(ends(blocks.last().unwrap()), (events, DAYS * 86_400));
            assert!(blocks.iter().all(|block| block.count <= BLOCK && block.span <= 86_400));
        }
    }
}
