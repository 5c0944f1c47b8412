//! The variables of the read path, each defined once.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::Uri;
use clap::{ArgAction, Args};
use tallyhouse_control::config::{CanaryKey, UserHashKey};
use tallyhouse_service::config::{
    AdminAccess, Connections, DataFolder, Development, GivenClickHouse, ListenerTlsSettings, Logging, RateLimiting,
    Redis, Schemas, TokenVariables, TraceVariables, untrimmed_secret,
};
use tallyhouse_service::cors::Origin;
use tallyhouse_service::env::{Whole, address, choice, millis, switch, whole};
use tallyhouse_service::secret::Secret;

use crate::store::Partial;

/// Everything that the program `query-api` reads.
#[derive(Debug, Args)]
pub struct Variables {
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    development: Development,
    #[command(flatten)]
    data: DataFolder,
    #[command(flatten)]
    access: AdminAccess,
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
    writer: WriterUser,
    #[command(flatten)]
    user_hash_key: UserHashKey,
    #[command(flatten)]
    canary_key: CanaryKey,
    #[command(flatten)]
    own: Own,
}

/// What only the read path reads, wherever it runs.
#[derive(Debug, Args)]
pub struct Own {
    #[command(flatten)]
    settings: QuerySettings,
    #[command(flatten)]
    admin: AdminAddress,
    #[command(flatten)]
    classes: ClassSettings,
    #[command(flatten)]
    analyst: AnalystUser,
    #[command(flatten)]
    canary: CanaryVariables,
}

/// Metrics and health.
#[derive(Debug, Args)]
#[command(next_help_heading = "Query API")]
pub struct AdminAddress {
    /// Address of the query API's metrics and health, where commands also say which days they changed
    #[arg(long, env = "QUERY_ADMIN_ADDR", default_value = "127.0.0.1:9082", value_parser = address)]
    pub query_admin_addr: SocketAddr,
}

/// Who writes metric definitions.
#[derive(Debug, Args)]
#[command(next_help_heading = "ClickHouse")]
pub struct WriterUser {
    /// Who may write metric definitions on a given ClickHouse
    #[arg(long, env = "CLICKHOUSE_WRITER_USER")]
    pub clickhouse_writer_user: Option<String>,
    /// That user's password
    #[arg(env = "CLICKHOUSE_WRITER_PASSWORD", value_parser = untrimmed_secret)]
    pub clickhouse_writer_password: Option<Secret>,
}

/// Who runs the SQL of analysts.
#[derive(Debug, Args)]
#[command(next_help_heading = "ClickHouse")]
pub struct AnalystUser {
    /// Who runs `/v1/sql` on a given ClickHouse; `{project}` in it stands for the project
    #[arg(long, env = "CLICKHOUSE_ANALYST_USER", default_value = "analyst")]
    pub clickhouse_analyst_user: String,
    /// That user's password; without it there is no `/v1/sql`
    #[arg(env = "CLICKHOUSE_ANALYST_PASSWORD", value_parser = untrimmed_secret)]
    pub clickhouse_analyst_password: Option<Secret>,
}

/// An event a minute that is sent to an ingester and looked for in the rollups.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watching")]
pub struct CanaryVariables {
    /// Whether an event a minute is sent to an ingester and looked for in the rollups, in a project of its own; services of their own need `CANARY_KEY`
    /// and `CANARY_INGEST_URL` for it (default: on outside development)
    #[arg(long, env = "CANARY", value_parser = switch(), action = ArgAction::Set)]
    pub canary: Option<bool>,
    /// The ingester that it is sent to, such as `https://ingest.internal:8081`
    #[arg(long, env = "CANARY_INGEST_URL", value_parser = http_url)]
    pub canary_ingest_url: Option<String>,
    /// Between two of them, a quarter more or less
    #[arg(long, env = "CANARY_EVERY_MS", default_value = "60000", value_parser = millis(1_000, 3_600_000))]
    pub canary_every_ms: Duration,
    /// Between two comparisons of an hour of a project in the rollups with raw events, by chance; 0: none
    #[arg(long, env = "DRIFT_CHECK_MINUTES", default_value = "10", value_parser = whole::<u64>(0, 1_440, "minutes"))]
    pub drift_check_minutes: u64,
}

fn http_url(text: &str) -> Result<String, String> {
    let wrong = || "must be the address of an ingester, such as http://127.0.0.1:8081".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
    let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@')) && uri.query().is_none();
    match uri.scheme_str() {
        Some("http" | "https") if is_plain => Ok(text.trim().to_owned()),
        _ => Err(wrong()),
    }
}

/// Queries at once.
fn concurrency() -> Whole<usize> {
    whole(1, 1_000, "queries")
}

/// Questions that may wait: of two projects at least one each. Each holds a connection and what it was asked with.
fn queue() -> Whole<usize> {
    whole(2, 100_000, "questions")
}

/// A query itself is given 30 s at most (`admission::class`); twice that leaves as long to wait.
const DEADLINE_MS: (u64, u64) = (100, 60_000);

fn streams(unit: &'static str) -> Whole<usize> {
    whole(1, 1_000_000, unit)
}

/// Who may ask ClickHouse, by class.
#[derive(Debug, Args)]
#[command(next_help_heading = "Admission")]
pub struct ClassSettings {
    /// ClickHouse queries at a time, split between the classes
    #[arg(long, env = "QUERY_CLICKHOUSE_CONCURRENCY", default_value = "10", value_parser = concurrency())]
    pub query_clickhouse_concurrency: usize,
    /// Of what is real time; a fifth of `QUERY_CLICKHOUSE_CONCURRENCY` (default: 2)
    #[arg(long, env = "QUERY_CONCURRENCY_REALTIME", value_parser = concurrency())]
    pub query_concurrency_realtime: Option<usize>,
    /// Of what rollups answer; the rest of `QUERY_CLICKHOUSE_CONCURRENCY` (default: 5)
    #[arg(long, env = "QUERY_CONCURRENCY_DASHBOARD", value_parser = concurrency())]
    pub query_concurrency_dashboard: Option<usize>,
    /// Of ticks of streams; a tenth of `QUERY_CLICKHOUSE_CONCURRENCY` (default: 1)
    #[arg(long, env = "QUERY_CONCURRENCY_STREAM", value_parser = concurrency())]
    pub query_concurrency_stream: Option<usize>,
    /// Of what reads raw events; a fifth of `QUERY_CLICKHOUSE_CONCURRENCY`, two at least (default: 2)
    #[arg(long, env = "QUERY_CONCURRENCY_ADHOC", value_parser = concurrency())]
    pub query_concurrency_adhoc: Option<usize>,
    /// For an answer in real time, waiting included
    #[arg(long, env = "QUERY_DEADLINE_REALTIME_MS", default_value = "2000", value_parser = millis(DEADLINE_MS.0, DEADLINE_MS.1))]
    pub query_deadline_realtime_ms: Duration,
    /// For an answer of rollups, waiting included
    #[arg(long, env = "QUERY_DEADLINE_DASHBOARD_MS", default_value = "10000", value_parser = millis(DEADLINE_MS.0, DEADLINE_MS.1))]
    pub query_deadline_dashboard_ms: Duration,
    /// For a tick of a stream, waiting included
    #[arg(long, env = "QUERY_DEADLINE_STREAM_MS", default_value = "10000", value_parser = millis(DEADLINE_MS.0, DEADLINE_MS.1))]
    pub query_deadline_stream_ms: Duration,
    /// For an answer of raw events, waiting included
    #[arg(long, env = "QUERY_DEADLINE_ADHOC_MS", default_value = "30000", value_parser = millis(DEADLINE_MS.0, DEADLINE_MS.1))]
    pub query_deadline_adhoc_ms: Duration,
    /// Real-time questions that may wait; of one project half of them
    #[arg(long, env = "QUERY_QUEUE_REALTIME", default_value = "256", value_parser = queue())]
    pub query_queue_realtime: usize,
    /// Questions for rollups that may wait; of one project half of them
    #[arg(long, env = "QUERY_QUEUE_DASHBOARD", default_value = "512", value_parser = queue())]
    pub query_queue_dashboard: usize,
    /// Ticks of streams that may wait; of one project half of them
    #[arg(long, env = "QUERY_QUEUE_STREAM", default_value = "256", value_parser = queue())]
    pub query_queue_stream: usize,
    /// Questions for raw events that may wait; of one project half of them
    #[arg(long, env = "QUERY_QUEUE_ADHOC", default_value = "256", value_parser = queue())]
    pub query_queue_adhoc: usize,
}

/// All others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Query API")]
pub struct QuerySettings {
    /// While a shard of a cluster is away: `refuse`, as when ClickHouse is (stale answers, else 503), or `answer` of the shards that answer, marked
    /// `partial`
    #[arg(long, env = "QUERY_PARTIAL", default_value = "refuse", value_parser = choice::<Partial>(&["refuse", "answer"]))]
    pub query_partial: Partial,
    /// Address where questions come in
    #[arg(long, env = "QUERY_ADDR", default_value = "127.0.0.1:8082", value_parser = address)]
    pub query_addr: SocketAddr,
    /// Origins of web pages that may ask the query API, such as `https://app.example`, with commas between (default: none, in development those of this machine)
    #[arg(long, env = "QUERY_ORIGINS", value_delimiter = ',')]
    pub query_origins: Vec<Origin>,
    /// Answers and their parts that are held in the process; half each
    #[arg(long, env = "QUERY_CACHE_BYTES", default_value = "134217728", value_parser = whole::<u64>(1 << 20, 64 << 30, "bytes"))]
    pub query_cache_bytes: u64,
    /// How long an answer that reaches until now is given, +- a sixth
    #[arg(long, env = "QUERY_CACHE_TTL_MS", default_value = "60000", value_parser = millis(1_000, 3_600_000))]
    pub query_cache_ttl_ms: Duration,
    /// Whether answers that are asked for regularly are refreshed before their time ends, and asked for at the next start
    #[arg(long, env = "QUERY_CACHE_WARM", default_value = "on", value_parser = switch(), action = ArgAction::Set)]
    pub query_cache_warm: bool,
    /// Open streams
    #[arg(long, env = "QUERY_STREAM_LISTENERS", default_value = "5000", value_parser = streams("streams"))]
    pub query_stream_listeners: usize,
    /// Open streams of one project
    #[arg(long, env = "QUERY_STREAM_LISTENERS_PER_PROJECT", default_value = "1000", value_parser = streams("streams"))]
    pub query_stream_listeners_per_project: usize,
    /// Different questions of streams, each asked once per interval
    #[arg(long, env = "QUERY_STREAM_QUESTIONS", default_value = "200", value_parser = streams("questions"))]
    pub query_stream_questions: usize,
    /// Different questions of streams of one project
    #[arg(long, env = "QUERY_STREAM_QUESTIONS_PER_PROJECT", default_value = "50", value_parser = streams("questions"))]
    pub query_stream_questions_per_project: usize,
    /// Exports at a time
    #[arg(long, env = "QUERY_EXPORT_CONCURRENCY", default_value = "4", value_parser = whole::<usize>(1, 1_000, "exports"))]
    pub query_export_concurrency: usize,
    /// The longest export; a longer one is broken off
    #[arg(long, env = "QUERY_EXPORT_MAX_BYTES", default_value = "104857600", value_parser = whole::<u64>(1 << 10, 1 << 40, "bytes"))]
    pub query_export_max_bytes: u64,
    /// How long the reader of an export may stand still
    #[arg(long, env = "QUERY_EXPORT_STALL_MS", default_value = "30000", value_parser = millis(100, 600_000))]
    pub query_export_stall_ms: Duration,
    /// How long an answer waits for what is only said beside it: its warnings, and the instant of the newest event
    #[arg(long, env = "QUERY_LOOK_UP_MS", default_value = "500", value_parser = millis(0, 60_000))]
    pub query_look_up_ms: Duration,
    /// Budget of a graceful stop
    #[arg(long, env = "QUERY_DRAIN_MS", default_value = "20000", value_parser = millis(0, 300_000))]
    pub query_drain_ms: Duration,
}
