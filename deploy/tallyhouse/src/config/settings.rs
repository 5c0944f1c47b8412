//! The variables of the embedded engine and of commands, each defined once; the services have their own.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args};
use tallyhouse_control::config::UserHashKey;
use tallyhouse_ingest::config::settings as ingest;
use tallyhouse_ingest::kafka::config::KafkaSettings;
use tallyhouse_query_api::config::settings as query;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::config::{
    AdminAccess, AdminClient, Connections, DataFolder, Development, GivenClickHouse, ListenerTlsSettings, Logging,
    RateLimiting, Redis, Schemas, TokenVariables, TraceVariables, secret,
};
use tallyhouse_service::env::{choice, switch, whole};
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::tiers::Tiers;

use crate::engine::{Cage, Choice};

/// The embedded ClickHouse, without `CLICKHOUSE_URL`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Embedded ClickHouse")]
pub struct EngineSettings {
    /// Address that the embedded ClickHouse listens on beside loopback, for people's tools on other machines or in containers
    #[arg(long, env = "CLICKHOUSE_LISTEN", default_value = "127.0.0.1", value_parser = listen)]
    pub clickhouse_listen: IpAddr,
    /// Networks from where accounts of people's tools may come, with commas between, such as `172.17.0.0/16` (default: loopback)
    #[arg(long, env = "CLICKHOUSE_CLIENT_NETWORKS")]
    pub clickhouse_client_networks: Option<String>,
    /// HTTP port of the embedded ClickHouse
    #[arg(long, env = "CLICKHOUSE_HTTP_PORT", default_value = "8123", value_parser = whole::<u16>(1, 65_535, "port"))]
    pub clickhouse_http_port: u16,
    /// Port of its own protocol; without it that protocol is not spoken
    #[arg(long, env = "CLICKHOUSE_TCP_PORT", value_parser = whole::<u16>(1, 65_535, "port"))]
    pub clickhouse_tcp_port: Option<u16>,
    /// What is run: the library, `clickhouse` on PATH (`server`), or whichever is there
    #[arg(long, env = "TALLYHOUSE_ENGINE", default_value = "auto", value_parser = choice::<Choice>(&["auto", "library", "server"]))]
    pub tallyhouse_engine: Choice,
    /// Path of `libchdb.so` (default: set up)
    #[arg(long, env = "TALLYHOUSE_ENGINE_LIBRARY")]
    pub tallyhouse_engine_library: Option<PathBuf>,
    /// Folder of its own backups, which only its tables are written to, best on another disk (default: `$TALLYHOUSE_DATA/backups`)
    #[arg(long, env = "BACKUP_DIR")]
    pub backup_dir: Option<PathBuf>,
    /// What the kernel lets the embedded engine do: only what it needs, or (`off`, to find out whether that is in the way) everything
    #[arg(long, env = "TALLYHOUSE_CAGE", default_value = "on", value_parser = choice::<Cage>(&["on", "off"]))]
    pub tallyhouse_cage: Cage,
    /// Projects that the ClickHouse user `grafana` sees, with commas between (default: demo in development)
    #[arg(long, env = "GRAFANA_PROJECTS")]
    pub grafana_projects: Option<String>,
}

fn listen(text: &str) -> Result<IpAddr, String> {
    let text = text.trim();
    text.parse().map_err(|_| format!("`{text}` is not an address, such as 0.0.0.0"))
}

/// Where backups go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Backups")]
pub struct BackupSettings {
    /// Where backups are brought to: a folder, which has to be there, or `s3://bucket/prefix` (default: `BACKUP_DIR`)
    #[arg(long, env = "BACKUP_TARGET")]
    pub backup_target: Option<String>,
    /// Where a given ClickHouse (`CLICKHOUSE_URL`) writes its tables: `disk:NAME` or `collection:NAME` of its configuration, or `folder:/PATH` on its machine
    #[arg(long, env = "BACKUP_CLICKHOUSE")]
    pub backup_clickhouse: Option<String>,
    /// The URL of an S3 that is not Amazon's (default: Amazon's, of the region)
    #[arg(long, env = "BACKUP_S3_ENDPOINT")]
    pub backup_s3_endpoint: Option<String>,
    /// The region that the bucket is in
    #[arg(long, env = "BACKUP_S3_REGION", default_value = "us-east-1")]
    pub backup_s3_region: String,
    /// The id of the key that is used there
    #[arg(long, env = "BACKUP_S3_KEY_ID")]
    pub backup_s3_key_id: Option<String>,
    /// The key itself
    #[arg(env = "BACKUP_S3_SECRET", value_parser = secret)]
    pub backup_s3_secret: Option<Secret>,
}

/// What `backup` reads.
#[derive(Debug, Args)]
pub struct ForBackup {
    #[command(flatten)]
    rebuild: ForRebuild,
    #[command(flatten)]
    tables: Tables,
    #[command(flatten)]
    user_hash_key: UserHashKey,
    #[command(flatten)]
    backups: BackupSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
    #[command(flatten)]
    projects: ingest::ProjectDefaults,
}

/// How tables keep what they have.
#[derive(Debug, Args)]
#[command(next_help_heading = "ClickHouse")]
pub struct Tables {
    /// Parts are synced before ClickHouse answers an insert; set by whoever makes the tables: `up`, `store`, `migrate up`
    #[arg(long, env = "CLICKHOUSE_FSYNC", default_value = "off", value_parser = switch(), action = ArgAction::Set)]
    pub clickhouse_fsync: bool,
    /// Days after which raw events move to the volume `warm` of the storage policy `tiered`, where ClickHouse has it; set by whoever makes the tables
    #[arg(long, env = "CLICKHOUSE_WARM_DAYS", default_value_t = Tiers::default().warm_days, value_parser = whole::<u32>(1, 3_650, "days"))]
    pub clickhouse_warm_days: u32,
    /// Days after which they move to the volume `cold`
    #[arg(long, env = "CLICKHOUSE_COLD_DAYS", default_value_t = Tiers::default().cold_days, value_parser = whole::<u32>(1, 3_650, "days"))]
    pub clickhouse_cold_days: u32,
}

/// What the first start makes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub struct FirstStart {
    /// The project that the first start outside development makes, with an operator's key that is shown once on a terminal, or else written to
    /// `$TALLYHOUSE_DATA/credentials`
    #[arg(long, env = "TALLYHOUSE_PROJECT", default_value = "main")]
    pub tallyhouse_project: ProjectName,
}

/// Where commands find a query service.
#[derive(Debug, Args)]
#[command(next_help_heading = "Remote")]
pub struct RemoteUrl {
    /// The query service that `projects`, `keys`, `audit`, `users list`, `erase` and `erasures` ask with `TALLYHOUSE_KEY`, such as
    /// `https://query.example`, instead of working on ClickHouse
    #[arg(long, env = "TALLYHOUSE_URL")]
    pub tallyhouse_url: Option<String>,
}

/// With which commands send.
#[derive(Debug, Args)]
#[command(next_help_heading = "Replay")]
pub struct ReplayKey {
    /// The key that commands send with: `dlq replay` instead of `--key`, and those that `TALLYHOUSE_URL` names
    #[arg(env = "TALLYHOUSE_KEY", value_parser = secret)]
    pub tallyhouse_key: Option<Secret>,
}

/// What a command reads that works on a ClickHouse, whichever it is.
#[derive(Debug, Args)]
pub struct OnClickHouse {
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    development: Development,
    #[command(flatten)]
    data: DataFolder,
    #[command(flatten)]
    given: GivenClickHouse,
    #[command(flatten)]
    engine: EngineSettings,
}

/// What `projects`, `keys`, `audit` and `users` read.
#[derive(Debug, Args)]
pub struct ForAdministration {
    #[command(flatten)]
    clickhouse: OnClickHouse,
    #[command(flatten)]
    remote: RemoteUrl,
    #[command(flatten)]
    key: ReplayKey,
}

/// What `migrate up` reads.
#[derive(Debug, Args)]
pub struct ForMigrateUp {
    #[command(flatten)]
    clickhouse: OnClickHouse,
    #[command(flatten)]
    tables: Tables,
}

/// What `store` reads.
#[derive(Debug, Args)]
pub struct ForStore {
    #[command(flatten)]
    logging: Logging,
    #[command(flatten)]
    development: Development,
    #[command(flatten)]
    data: DataFolder,
    #[command(flatten)]
    engine: EngineSettings,
    #[command(flatten)]
    tables: Tables,
}

/// What `rollups verify` reads.
#[derive(Debug, Args)]
pub struct ForVerify {
    #[command(flatten)]
    clickhouse: OnClickHouse,
    #[command(flatten)]
    schemas: Schemas,
}

/// What `schemas` reads.
#[derive(Debug, Args)]
pub struct ForSchemas {
    #[command(flatten)]
    verify: ForVerify,
    #[command(flatten)]
    remote: RemoteUrl,
    #[command(flatten)]
    key: ReplayKey,
}

/// How commands find out whether listeners speak TLS, and what they show there.
#[derive(Debug, Args)]
pub struct OwnListener {
    #[command(flatten)]
    tls: ListenerTlsSettings,
    #[command(flatten)]
    client: AdminClient,
}

/// What `rollups rebuild` reads: also whom it notifies.
#[derive(Debug, Args)]
pub struct ForRebuild {
    #[command(flatten)]
    clickhouse: OnClickHouse,
    #[command(flatten)]
    redis: Redis,
    #[command(flatten)]
    admin: query::AdminAddress,
    #[command(flatten)]
    access: AdminAccess,
    #[command(flatten)]
    tls: OwnListener,
}

/// What `erase` reads.
#[derive(Debug, Args)]
pub struct ForErase {
    #[command(flatten)]
    rebuild: ForRebuild,
    #[command(flatten)]
    user_hash_key: UserHashKey,
    #[command(flatten)]
    remote: RemoteUrl,
    #[command(flatten)]
    key: ReplayKey,
}

/// What `rollups backfill` reads.
#[derive(Debug, Args)]
pub struct ForBackfill {
    #[command(flatten)]
    rebuild: ForRebuild,
    #[command(flatten)]
    schemas: Schemas,
    #[command(flatten)]
    projects: ingest::ProjectDefaults,
}

/// What `dlq replay` reads.
#[derive(Debug, Args)]
pub struct ForReplay {
    #[command(flatten)]
    clickhouse: OnClickHouse,
    #[command(flatten)]
    address: ingest::Address,
    #[command(flatten)]
    key: ReplayKey,
    #[command(flatten)]
    tls: OwnListener,
}

/// What `topics` reads.
#[derive(Debug, Args)]
pub struct ForTopics {
    #[command(flatten)]
    kafka: KafkaSettings,
}

/// What `up` reads, and `doctor`, which looks at what `up` would find.
#[derive(Debug, Args)]
pub struct ForUp {
    #[command(flatten)]
    clickhouse: OnClickHouse,
    #[command(flatten)]
    first_start: FirstStart,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    tls: ListenerTlsSettings,
    #[command(flatten)]
    tables: Tables,
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
    ingest: ingest::Own,
    #[command(flatten)]
    query: query::Own,
    #[command(flatten)]
    access: AdminAccess,
}
