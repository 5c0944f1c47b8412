//! The variables of the write path, each defined once; those of Kafka delivery are in `kafka/config.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use tallyhouse_control::config::{CanaryKey, UserHashKey};
use tallyhouse_schema::project::MAX_DIMENSION_VALUES;
use tallyhouse_service::config::{
    AdminAccess, Connections, DataFolder, Development, GivenClickHouse, ListenerTlsSettings, Logging, RateLimiting,
    Redis, Schemas, TokenVariables, TraceVariables,
};
use tallyhouse_service::env::{address, choice, millis, switch, whole};
use tallyhouse_sql::migrations::MAX_RETENTION_DAYS;

use crate::kafka::config::KafkaSettings;
use crate::log::local::Sync;

/// Everything that the program `ingest` reads.
#[derive(Debug, Args)]
pub struct Variables {
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    development: Development,
    #[command(flatten)]
    access: AdminAccess,
    #[command(flatten)]
    data: DataFolder,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    tls: ListenerTlsSettings,
    #[command(flatten)]
    schemas: Schemas,
    #[command(flatten)]
    tokens: TokenVariables,
    #[command(flatten)]
    traces: TraceVariables,
    #[command(flatten)]
    rate_limits: RateLimiting,
    #[command(flatten)]
    redis: Redis,
    #[command(flatten)]
    clickhouse: GivenClickHouse,
    #[command(flatten)]
    own: Own,
}

/// What only the write path reads.
#[derive(Debug, Args)]
pub struct Own {
    #[command(flatten)]
    address: Address,
    #[command(flatten)]
    settings: IngestSettings,
    #[command(flatten)]
    projects: ProjectDefaults,
    #[command(flatten)]
    user_hash_key: UserHashKey,
    #[command(flatten)]
    canary_key: CanaryKey,
    #[command(flatten)]
    kafka: KafkaSettings,
}

/// Where events come in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ingest")]
pub struct Address {
    /// Address where events come in
    #[arg(long, env = "INGEST_ADDR", default_value = "127.0.0.1:8081", value_parser = address)]
    pub ingest_addr: SocketAddr,
}

/// What projects have whose settings say nothing else.
#[derive(Debug, Args)]
#[command(next_help_heading = "Projects")]
pub struct ProjectDefaults {
    /// Folder of settings, one JSON file per project
    #[arg(long, env = "TALLYHOUSE_PROJECTS")]
    pub tallyhouse_projects: Option<PathBuf>,
    /// Older events are `too_old` without the scope `import`; at most `RETENTION_DAYS`
    #[arg(long, env = "LATE_WINDOW_DAYS", default_value = "7", value_parser = whole::<u16>(1, MAX_RETENTION_DAYS.into(), "days"))]
    pub late_window_days: u16,
    /// Raw events are kept so long
    #[arg(long, env = "RETENTION_DAYS", default_value = "730", value_parser = whole::<u16>(1, MAX_RETENTION_DAYS.into(), "days"))]
    pub retention_days: u16,
    /// Distinct values per project, dimension and hour, and event types per project and hour
    #[arg(long, env = "DIMENSION_VALUES", default_value = "1000", value_parser = whole::<u32>(1, MAX_DIMENSION_VALUES.into(), "values"))]
    pub dimension_values: u32,
    /// Each project has a topic of its own, `events.{project}`; `ownTopic` in a project's settings overrides this
    #[arg(long, env = "KAFKA_TOPIC_PER_PROJECT", default_value = "off", value_parser = switch(), action = ArgAction::Set)]
    pub kafka_topic_per_project: bool,
}

/// All others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ingest")]
pub struct IngestSettings {
    /// Address of metrics and health
    #[arg(long, env = "INGEST_ADMIN_ADDR", default_value = "127.0.0.1:9081", value_parser = address)]
    pub ingest_admin_addr: SocketAddr,
    /// A body as sent
    #[arg(long, env = "INGEST_BODY_BYTES", default_value = "4194304", value_parser = whole::<usize>(1_024, 64 << 20, "bytes"))]
    pub ingest_body_bytes: usize,
    /// A body after decompression; at least `INGEST_BODY_BYTES`
    #[arg(long, env = "INGEST_DECODED_BYTES", default_value = "16777216", value_parser = whole::<usize>(1_024, 64 << 20, "bytes"))]
    pub ingest_decoded_bytes: usize,
    /// Bodies being worked on; beyond it 429. At least what the largest body takes
    #[arg(long, env = "INGEST_OPEN_BYTES", default_value = "67108864", value_parser = whole::<usize>(64 << 10, 1 << 30, "bytes"))]
    pub ingest_open_bytes: usize,
    /// How long a request waits to be confirmed before it is handed back
    #[arg(long, env = "INGEST_ACK_TIMEOUT_MS", default_value = "10000", value_parser = millis(100, 120_000))]
    pub ingest_ack_timeout_ms: Duration,
    /// Budget of a graceful stop
    #[arg(long, env = "INGEST_DRAIN_MS", default_value = "20000", value_parser = millis(0, 300_000))]
    pub ingest_drain_ms: Duration,
    /// A batch is full at so many events, or when they make about 300,000 cells of a rollup
    #[arg(long, env = "INGEST_BATCH_ROWS", default_value = "131072", value_parser = whole::<usize>(1, 131_072, "rows"))]
    pub ingest_batch_rows: usize,
    /// A batch is full at this size
    #[arg(long, env = "INGEST_BATCH_BYTES", default_value = "33554432", value_parser = whole::<usize>(1_024, 64 << 20, "bytes"))]
    pub ingest_batch_bytes: usize,
    /// A batch that is not full waits at least this long for company
    #[arg(long, env = "INGEST_LINGER_MS", default_value = "5", value_parser = millis(1, 10_000))]
    pub ingest_linger_ms: Duration,
    /// The shortest time between the starts of two inserts; through Kafka times the number of partitions that the process has
    #[arg(long, env = "INGEST_PACE_MS", default_value = "25", value_parser = millis(0, 10_000))]
    pub ingest_pace_ms: Duration,
    /// Directly: the longest time between the starts of two inserts while events wait; at least `INGEST_PACE_MS`
    #[arg(long, env = "INGEST_PACE_MOST_MS", default_value = "700", value_parser = millis(0, 60_000))]
    pub ingest_pace_most_ms: Duration,
    /// Directly: for which part of the time an insert is under way, until `INGEST_PACE_MOST_MS` is reached
    #[arg(long, env = "INGEST_INSERT_PERCENT", default_value = "8", value_parser = whole::<u8>(1, 100, "percent"))]
    pub ingest_insert_percent: u8,
    /// Through Kafka: inserts at a time; more on more than two cores
    #[arg(long, env = "INGEST_INSERTS", default_value = "2", value_parser = whole::<usize>(1, 16, "inserts"))]
    pub ingest_inserts: usize,
    /// How long batches of which ClickHouse refuses most events wait before these are dead letters, and how long it may refuse every event
    /// before the service is not ready
    #[arg(long, env = "REFUSED_GRACE_MS", default_value = "30000", value_parser = millis(0, 3_600_000))]
    pub refused_grace_ms: Duration,
    /// How long the id of an event is remembered
    #[arg(long, env = "DEDUP_WINDOW_HOURS", default_value = "24", value_parser = whole::<u64>(1, 720, "hours"))]
    pub dedup_window_hours: u64,
    /// How many ids a process remembers, 29 bytes each
    #[arg(long, env = "DEDUP_WINDOW_IDS", default_value = "4000000", value_parser = whole::<usize>(1_000, 1_000_000_000, "ids"))]
    pub dedup_window_ids: usize,
    /// What an acknowledgement of the local log waits for: the sync (`always`), or only the write (`interval`: synced each second; `off`:
    /// before inserts)
    #[arg(long, env = "LOG_SYNC", default_value = "always", value_parser = choice::<Sync>(&["always", "interval", "off"]))]
    pub log_sync: Sync,
    /// What may wait in the local log; beyond it events are refused
    #[arg(long, env = "SPOOL_BYTES", default_value = "1073741824", value_parser = whole::<u64>(1 << 20, 1 << 44, "bytes"))]
    pub spool_bytes: u64,
    /// How long something may wait in the local log; less than `DEDUP_WINDOW_HOURS`
    #[arg(long, env = "SPOOL_MAX_AGE_HOURS", default_value = "12", value_parser = whole::<u64>(1, 720, "hours"))]
    pub spool_max_age_hours: u64,
}
