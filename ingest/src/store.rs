//! Inserts into ClickHouse: a block is counted once, however often it is sent.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::trace::{self, Kind, Span, Tracer};
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::error::Fault;
use tallyhouse_sql::insert::insert_block;
use tokio::time::Instant;
use ulid::Ulid;

use crate::changed_days::Publisher;
use crate::request::TRACE_HEADER;
use crate::telemetry::Metrics;

/// Where blocks go.
#[derive(Clone)]
pub struct Store {
    /// As the user `writer`; of a cluster, on one shard.
    pub client: Client,
    /// Which shard, from 1.
    pub shard: u32,
    /// Reads what all shards hold.
    pub everything: Client,
    /// One attempt may take this long.
    pub timeout: Duration,
    pub metrics: Arc<Metrics>,
    /// Reports whether inserts succeed.
    pub health: Health,
    /// Publishes the days that inserts change.
    pub changed_days: Publisher,
    /// Records what is done for requests and batches.
    pub tracer: Option<Tracer>,
}

/// A block for `events_in`, and the token under which it is counted at most once.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Never used for other rows.
    pub token: &'a str,
    /// Events in it.
    pub rows: usize,
    /// Native, in order.
    pub chunks: &'a [Bytes],
    /// The days that its events fall on.
    pub days: &'a [DayChange],
}

/// What is inserted into; views fan out from it.
const TABLE: &str = "events_in";

/// How often the days of an insert are published while it is under way.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

impl Store {
    /// The component of `/health` that is about inserts.
    pub fn component(&self) -> Cow<'static, str> {
        match self.shard {
            1 => "inserts".into(),
            number => format!("inserts_shard_{number}").into(),
        }
    }

    /// One attempt. After an error the block may be stored, in part or as a whole: only the same block may follow.
    pub async fn attempt(&self, block: Block<'_>) -> Result<(), StoreError> {
        let (started, query_id) = (Instant::now(), Ulid::generate().to_string());
        let mut span = insert_span(block, &query_id);
        // One can go from a log line or a span to `system.query_log`.
        let mut client = self.client.clone().with_setting("query_id", &query_id);
        if let Some(parent) = span.sampled_parent() {
            client = client.with_header(TRACE_HEADER, parent);
        }
        let insert = insert_block(&client, TABLE, block.token, block.chunks, self.timeout);
        match span.during(self.publishing(block.days, insert)).await {
            Ok(()) => {
                let bytes = block.chunks.iter().map(Bytes::len).sum();
                self.metrics.inserted(block.rows, bytes, started.elapsed());
                self.health.set(&self.component(), Status::Up, "");
                self.changed_days.publish(block.days);
                Ok(())
            }
            Err(error) => {
                // Maybe stored: the next attempt publishes its days again, but may come late.
                self.changed_days.publish(block.days);
                self.metrics.insert_failed(error.class());
                span.fail(error.summary());
                // What is refused for its events is told under `store`. Else something durable stands in front of it: Kafka, or the log.
                if error.fault() == Fault::Operational {
                    self.health.set(
                        &self.component(),
                        Status::Degraded,
                        format!("they fail, and are repeated until they succeed: {error}"),
                    );
                }
                Err(error)
            }
        }
    }

    /// Waits for an insert. One that is long under way may be stored before its answer comes: its days are published meanwhile.
    async fn publishing<T>(&self, days: &[DayChange], insert: impl Future<Output = T>) -> T {
        let mut insert = std::pin::pin!(insert);
        loop {
            match tokio::time::timeout(PUBLISH_EVERY, &mut insert).await {
                Ok(done) => return done,
                Err(_) => self.changed_days.publish(days),
            }
        }
    }
}

fn insert_span(block: Block<'_>, query_id: &str) -> Span {
    let mut span = trace::span("insert", Kind::Client);
    if span.is_recorded() {
        span.set("db.system.name", "clickhouse");
        span.set("db.operation.name", "INSERT");
        span.set("db.collection.name", TABLE);
        span.set("db.operation.batch.size", block.rows);
        span.set("tallyhouse.query_id", query_id.to_owned());
    }
    span
}
