//! Where batches go: every partition to one shard, always the same one, because only that one knows the tokens of its batches.
//!
//! ```text
//! partition -> place (topic and number, over as many shards as are listed) -> intent, which names the shard -> insert there
//! ```
//!
//! **The intent decides.** A batch that was begun is repeated on the shard that its intent names, whatever the list has become. So a shard may be added
//! while batches are open: a partition goes over to another shard between two of its batches, and what it stored before stays where it is. Ids of both
//! are known: for as long as a partition may have stored elsewhere, its window is warmed from all shards ([`ShardWriters::ids_of`]).
//!
//! **The list is not believed.** Before the first insert each server is asked which shard it is ([`tallyhouse_sql::shards`]). One that is another one, or
//! none, gets nothing; `/health` says why, and it is asked again.
//!
//! Failure cases: a shard that is away holds up its own partitions only, since inserts are bounded for each shard by itself, and their events wait in Kafka
//! or in the local log; an intent of a shard that is not listed (a list that was cut) blocks its partition until it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Status;
use tallyhouse_service::metrics::pools::PoolStatus;
use tallyhouse_service::retry;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::shards::{last_added, require};
use tallyhouse_sql::{Connection, Shards, StoreError};

use crate::permits::InsertPermits;
use crate::poison::{BatchWriter, Fence};
use crate::store::Store;

/// Beyond the window, a batch may have been begun so long before it was stored, and clocks differ.
const SLACK: Duration = Duration::from_secs(24 * 3_600);

/// How a shard is written to.
#[derive(Debug, Clone, Copy)]
pub struct ShardLimits {
    /// How long batches of which most is refused wait.
    pub refused_grace: Duration,
    /// Inserts at a time, of each shard.
    pub inserts: usize,
}

/// One shard.
pub struct ShardWriter {
    server: Connection,
    number: u32,
    /// How many shards there are.
    listed: usize,
    /// Stores its batches.
    pub writer: BatchWriter,
    /// Bounds its inserts.
    pub permits: InsertPermits,
    /// Whether the server has said that it is this shard. A single server is not asked.
    is_known: AtomicBool,
}

/// All shards, in order. Clones share them.
#[derive(Clone)]
pub struct ShardWriters {
    home: Arc<ShardWriter>,
    others: Arc<[Arc<ShardWriter>]>,
    everything: Client,
}

impl ShardWriters {
    pub fn new(shards: &Shards, store: &Store, limits: ShardLimits) -> Self {
        let is_cluster = shards.is_cluster();
        let first = BatchWriter::new(store.clone(), limits.refused_grace);
        let writer = |(number, server): (u32, &Connection)| {
            let store = Store { client: server.client(), shard: number, ..store.clone() };
            Arc::new(ShardWriter {
                server: server.clone(),
                number,
                listed: shards.count(),
                writer: first.on(store),
                permits: InsertPermits::new(limits.inserts),
                is_known: AtomicBool::new(!is_cluster),
            })
        };
        Self {
            home: writer((1, shards.home())),
            others: (2..).zip(shards.iter().skip(1)).map(writer).collect(),
            everything: store.everything.clone(),
        }
    }

    /// The shard that is not about a partition: what was left by versions that knew one server only is there.
    pub fn home(&self) -> &Arc<ShardWriter> {
        &self.home
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<ShardWriter>> {
        std::iter::once(&self.home).chain(self.others.iter())
    }

    /// Inserts of all of them, for metrics.
    pub fn permits(&self) -> PoolStatus {
        let none = PoolStatus { size: 0, in_use: 0, idle: None, waiting: 0 };
        self.iter().map(|shard| shard.permits.status()).fold(none, |all, one| PoolStatus {
            size: all.size + one.size,
            in_use: all.in_use + one.in_use,
            idle: None,
            waiting: all.waiting + one.waiting,
        })
    }

    /// The shard of new batches of a partition.
    pub fn place(&self, topic: &str, partition: Option<i32>) -> u32 {
        place(topic, partition, 1 + self.others.len())
    }

    /// A shard by its number, if it is listed.
    pub fn get(&self, number: u32) -> Option<&Arc<ShardWriter>> {
        self.iter().find(|shard| shard.number == number)
    }

    /// Where the ids of a partition are that it stored within a window: on its own shard, and on any while one was added not long ago.
    pub async fn ids_of(&self, place: u32, window: Duration) -> Result<Client, StoreError> {
        let own = self.get(place).unwrap_or(&self.home).writer.store.client.clone();
        if self.others.is_empty() {
            return Ok(own);
        }
        let age = now_ms().saturating_sub(last_added(&own).await?);
        let is_settled = i64::try_from((window + SLACK).as_millis()).is_ok_and(|least| age > least);
        Ok(if is_settled { own } else { self.everything.clone() })
    }
}

/// From 1 to `shards`. Partitions of a topic are spread evenly, those of many small topics too. Never to be changed: it would move partitions.
fn place(topic: &str, partition: Option<i32>, shards: usize) -> u32 {
    // FNV-1a.
    let hash = topic
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let number = u64::try_from(partition.unwrap_or_default()).unwrap_or_default();
    let place = hash.wrapping_add(number) % shards.max(1) as u64;
    u32::try_from(place).unwrap_or_default() + 1
}

impl ShardWriter {
    /// From 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Waits until the server has said that it is this shard.
    pub async fn known<F: Fence>(&self, fence: &F) -> Result<(), F::Lost> {
        let mut attempt = 1;
        while !self.is_known.load(Ordering::Relaxed) {
            fence.hold().await?;
            let store = &self.writer.store;
            match tokio::time::timeout(store.timeout, require(&self.server, (self.number, self.listed))).await {
                Ok(Ok(())) => self.is_known.store(true, Ordering::Relaxed),
                Ok(Err(error)) => {
                    tracing::warn!(%error, shard = self.number, "nothing is stored there yet");
                    store.health.set(&store.component(), Status::Degraded, format!("nothing is stored there: {error}"));
                    tokio::time::sleep(retry::WRITE.pause(attempt)).await;
                }
                Err(_) => {
                    tracing::warn!(shard = self.number, "does not say which shard it is; nothing is stored there yet");
                    let detail = "nothing is stored there: it does not say which shard it is";
                    store.health.set(&store.component(), Status::Degraded, detail);
                }
            }
            attempt = attempt.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_spread_evenly_and_stay_where_they_are() {
        for shards in 1..5 {
            let mut counts = vec![0; shards];
            for partition in 0..24 {
                counts[place("events", Some(partition), shards) as usize - 1] += 1;
            }
            assert_eq!(counts, vec![24 / shards; shards]);
        }
        // Written down: another value would be another shard for batches of a running system.
        let places = [("events", Some(0)), ("events", Some(1)), ("events.shop", Some(0)), ("local", None)];
        assert_eq!(places.map(|(topic, partition)| place(topic, partition, 3)), [1, 2, 2, 2]);
    }
}
