//! Configuration: [`settings`] defines the variables; for Kafka delivery see `kafka/config.rs`. No other file of this crate reads
//! variables.

mod checks;
pub mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tallyhouse_control::config::UserHashKey;
pub use tallyhouse_control::config::parse_key;
use tallyhouse_schema::project::{Priority, ProjectSettings};
use tallyhouse_service::access::tokens::TokenSettings;
use tallyhouse_service::admin_guard::AdminGuard;
use tallyhouse_service::config::{AdminAccess, DataFolder, GivenClickHouse, Redis};
use tallyhouse_service::documents;
use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::rate_limit::RateLimitSettings;
use tallyhouse_service::redis::RedisUrl;
use tallyhouse_service::tls::ServerFiles;
use tallyhouse_service::trace_export::TraceSettings;
use tallyhouse_sql::shards::{Login, Shards};

use crate::kafka::config::KafkaConfig;
use crate::limits::{BatchLimits, DedupLimits, RequestLimits};
use crate::log::local::{Limits, Sync};
use crate::projects::Projects;
use crate::worker::pace::Pace;
pub use checks::without_effect;
use settings::{Address, IngestSettings, ProjectDefaults};

/// Everything that can be set. Defaults suit one instance on a small machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// `INGEST_ADDR`: where events come in.
    pub address: SocketAddr,
    /// `INGEST_ADMIN_ADDR`: metrics and health.
    pub admin_address: SocketAddr,
    /// `ADMIN_TOKEN` and `ADMIN_HOSTS`: who may ask there.
    pub admin_guard: AdminGuard,
    /// `TALLYHOUSE_DATA`: the local log is in `ingest/` below it.
    pub data: PathBuf,
    /// Sizes of requests.
    pub request: RequestLimits,
    /// Sizes and ages of batches.
    pub batch: BatchLimits,
    /// How long ids are remembered.
    pub dedup: DedupLimits,
    /// How often one inserts.
    pub pace: Pace,
    /// `LOG_SYNC`: what an acknowledgement of the local log waits for.
    pub log_sync: Sync,
    /// `SPOOL_BYTES` and `SPOOL_MAX_AGE_HOURS`: what may wait in the local log, for ClickHouse or for Kafka. While something older
    /// waits, nothing new is taken; less than the window of ids.
    pub log: Limits,
    /// `REDIS_URL`: changed days are published to it.
    pub redis: Option<RedisUrl>,
    /// How many requests and events are taken, of whom.
    pub rate_limits: RateLimitSettings,
    /// Kafka, when events go through it.
    pub kafka: Option<KafkaConfig>,
    /// `TALLYHOUSE_PROJECTS`: a folder of settings, one JSON file per project. Without it, and for what a file leaves out:
    /// `LATE_WINDOW_DAYS`, `RETENTION_DAYS` (written into each row), `DIMENSION_VALUES`,
    /// `KAFKA_TOPIC_PER_PROJECT`.
    pub projects: Projects,
    /// Whose tokens people sign in with.
    pub tokens: Option<TokenSettings>,
    /// What the public listener may hold.
    pub connections: tallyhouse_service::server::Limits,
    /// `TLS_CERT` and what belongs to it; without it the listeners speak plain HTTP.
    pub tls: Option<ServerFiles>,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` and what belongs to it: where traces go.
    pub traces: Option<TraceSettings>,
    /// `INGEST_DRAIN_MS`: at shutdown, how long open requests and batches may take.
    pub drain: Duration,
}

impl Config {
    /// What the process does, in a word: `direct`, or its role with Kafka.
    pub fn mode(&self) -> &'static str {
        self.kafka.as_ref().map_or("direct", |kafka| kafka.role.name())
    }

    /// Reads the configuration, and refuses what contradicts itself.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let settings: IngestSettings = env::read(env)?;
        let projects = projects(env)?;
        let kafka = KafkaConfig::from_env(env, projects.own_topics())?;
        let config = Self {
            address: address(env)?,
            admin_address: settings.ingest_admin_addr,
            admin_guard: env::read::<AdminAccess>(env)?.guard("INGEST_ADMIN_ADDR", settings.ingest_admin_addr)?,
            data: env::read::<DataFolder>(env)?.tallyhouse_data,
            request: RequestLimits {
                body_bytes: settings.ingest_body_bytes,
                decoded_bytes: settings.ingest_decoded_bytes,
                open_bytes: settings.ingest_open_bytes,
                ack_timeout: settings.ingest_ack_timeout_ms,
                read_timeout: Duration::from_secs(30),
            },
            batch: BatchLimits {
                rows: settings.ingest_batch_rows,
                bytes: settings.ingest_batch_bytes,
                linger: settings.ingest_linger_ms,
                inserts: settings.ingest_inserts,
                insert_timeout: Duration::from_secs(30),
                refused_grace: settings.refused_grace_ms,
            },
            dedup: DedupLimits {
                window: Duration::from_secs(3_600 * settings.dedup_window_hours),
                ids: settings.dedup_window_ids,
            },
            pace: Pace {
                least: settings.ingest_pace_ms,
                most: settings.ingest_pace_most_ms,
                share: f64::from(settings.ingest_insert_percent) / 100.0,
            },
            log_sync: settings.log_sync,
            log: Limits { bytes: settings.spool_bytes, age: Duration::from_secs(3_600 * settings.spool_max_age_hours) },
            redis: env::read::<Redis>(env)?.url()?,
            rate_limits: tallyhouse_service::config::rate_limits(env)?,
            kafka,
            projects,
            tokens: tallyhouse_service::config::tokens(env)?,
            connections: tallyhouse_service::config::connections(env)?,
            tls: tallyhouse_service::config::listener_tls(env)?,
            traces: tallyhouse_service::config::traces(env)?,
            drain: settings.ingest_drain_ms,
        };
        checks::check(&config)?;
        Ok(config)
    }
}

/// `INGEST_ADDR`: where events come in.
pub fn address(env: &dyn Env) -> Result<SocketAddr, ConfigError> {
    env::read(env).map(|Address { ingest_addr }| ingest_addr)
}

/// `INGEST_ADMIN_ADDR`: metrics and health.
pub fn admin_address(env: &dyn Env) -> Result<SocketAddr, ConfigError> {
    env::read::<IngestSettings>(env).map(|settings| settings.ingest_admin_addr)
}

/// `TALLYHOUSE_PROJECTS`: a folder of settings of projects, and what the others have.
pub fn projects(env: &dyn Env) -> Result<Projects, ConfigError> {
    let defaults: ProjectDefaults = env::read(env)?;
    checks::late_within_retention(&defaults)?;
    let default = ProjectSettings {
        late_window_days: defaults.late_window_days,
        retention_days: defaults.retention_days,
        dimension_values: defaults.dimension_values,
        priority: Priority::Normal,
        dead_letters: false,
        own_topic: defaults.kafka_topic_per_project,
    };
    let documents = documents::json_documents(env, "TALLYHOUSE_PROJECTS")?.unwrap_or_default();
    let texts = documents.iter().map(|document| (document.path.as_str(), document.text.as_str()));
    Projects::from_documents(default, texts).map_err(|error| ConfigError::new("TALLYHOUSE_PROJECTS", error.to_string()))
}

/// Where ClickHouse is, for a service that runs without the embedded engine.
pub fn shards(env: &dyn Env) -> Result<Shards, ConfigError> {
    let given: GivenClickHouse = env::read(env)?;
    let (tls, password) = (given.tls()?, given.password());
    let list = given.urls()?;
    let login = Login { user: given.clickhouse_user.unwrap_or_else(|| "writer".to_owned()), password, tls };
    Ok(Shards::of(&list, &login))
}

/// `USER_HASH_KEY`: 32 hexadecimal digits, the same on every instance that writes to one ClickHouse.
pub fn user_hash_key(env: &dyn Env) -> Result<[u8; 16], ConfigError> {
    let problem = "is not set; it must be 32 hexadecimal digits, the same on every instance";
    env::read::<UserHashKey>(env)?.user_hash_key.ok_or_else(|| ConfigError::new("USER_HASH_KEY", problem))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn defaults_are_usable_and_bounds_are_kept() {
        let mut env = BTreeMap::new();
        assert!(Config::from_env(&env).is_ok());
        env.insert("INGEST_BATCH_ROWS".to_owned(), "1000000".to_owned());
        let error = Config::from_env(&env).unwrap_err().to_string();
        assert_eq!(error, "INGEST_BATCH_ROWS: 1000000 is not within 1 to 131072");
    }

    #[test]
    fn kafka_leaves_time_for_the_local_log() {
        let env = |kafka: &str, role: &str| {
            let pairs = [("KAFKA_BROKERS", "b"), ("INGEST_ROLE", role), ("KAFKA_TIMEOUT_MS", kafka)];
            let env: BTreeMap<_, _> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            Config::from_env(&env).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!((env("5000", "all"), env("60000", "consumer")), (Ok(()), Ok(())));
        assert!(env("5001", "gateway").unwrap_err().starts_with("KAFKA_TIMEOUT_MS: may be at most 5000, half of"));
    }

    #[test]
    fn topics_follow_the_settings_of_projects() {
        let mut env = BTreeMap::from([("KAFKA_BROKERS".to_owned(), "b:9092".to_owned())]);
        let own = |env: &BTreeMap<String, String>| Config::from_env(env).unwrap().kafka.unwrap().topics.own.is_default;
        assert!(!own(&env));
        env.insert("KAFKA_TOPIC_PER_PROJECT".to_owned(), "1".to_owned());
        assert!(own(&env));
    }

    #[test]
    fn a_bad_hash_key_is_not_printed() {
        let env = BTreeMap::from([("USER_HASH_KEY".to_owned(), "secret".to_owned())]);
        assert!(!user_hash_key(&env).unwrap_err().to_string().contains("secret"));
        assert_eq!(parse_key("000102030405060708090a0b0c0d0e0f").unwrap()[15], 15);
    }
}
