//! What can be set; of the Kafka way see `kafka/config.rs`. The only files of this crate that read variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tallyhouse_schema::Catalogue;
use tallyhouse_schema::project::{MAX_DIMENSION_VALUES, Priority, ProjectSettings};
use tallyhouse_service::documents;
use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::Connection;
use tallyhouse_sql::migrations::MAX_RETENTION_DAYS;

use crate::kafka::config::KafkaConfig;
use crate::log::local::{Limits, Sync};
use crate::projects::Projects;
use crate::worker::pace::Pace;

/// Everything that can be set. Defaults suit one instance on a small machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// `INGEST_ADDR`: where events come in.
    pub address: SocketAddr,
    /// `INGEST_ADMIN_ADDR`: metrics and health.
    pub admin_address: SocketAddr,
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
    /// `REDIS_URL`: is told which days were touched.
    pub redis: Option<Secret>,
    /// Kafka, when events go through it.
    pub kafka: Option<KafkaConfig>,
    /// `TALLYHOUSE_PROJECTS`: a folder of settings, a JSON file a project. Without it, and for what a file leaves out:
    /// `LATE_WINDOW_DAYS`, `RETENTION_DAYS` (at most [`MAX_RETENTION_DAYS`]; written into each row), `DIMENSION_VALUES`,
    /// `KAFKA_TOPIC_PER_PROJECT`.
    pub projects: Projects,
    /// `INGEST_DRAIN_MS`: at shutdown, how long open requests and batches may take.
    pub drain: Duration,
}

/// What one request may hold, and all of them together.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// `INGEST_BODY_BYTES`: a body as sent.
    pub body_bytes: usize,
    /// `INGEST_DECODED_BYTES`: a body after decompression.
    pub decoded_bytes: usize,
    /// `INGEST_OPEN_BYTES`: bodies being worked on at a time; a request that does not fit is refused.
    pub open_bytes: usize,
    /// `INGEST_ACK_TIMEOUT_MS`: how long a request waits for its events to be durable, or stored with `?wait=stored`.
    pub ack_timeout: Duration,
    /// Reading a body may take this long: a client that trickles must not hold memory. Not configurable.
    pub read_timeout: Duration,
}

/// When a batch is closed, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// `INGEST_BATCH_ROWS`
    pub rows: usize,
    /// `INGEST_BATCH_BYTES`: encoded.
    pub bytes: usize,
    /// `INGEST_LINGER_MS`: how long a batch waits for company when nothing else holds it back.
    pub linger: Duration,
    /// `INGEST_INSERTS`: inserts at a time, of a consumer's partitions. With one, two cores wait for commits; more cores want more.
    pub inserts: usize,
    /// One attempt of an insert. Not configurable.
    pub insert_timeout: Duration,
    /// `REFUSED_GRACE_MS`: how long batches of which ClickHouse refuses most, but not every event, wait before these are
    /// dead letters; and how long it may refuse every event before the service is not ready.
    pub refused_grace: Duration,
}

/// The window in which a repeated event id is a duplicate.
#[derive(Debug, Clone, Copy)]
pub struct DedupLimits {
    /// `DEDUP_WINDOW_HOURS`
    pub window: Duration,
    /// `DEDUP_WINDOW_IDS`: the bound on memory, 29 bytes an id. When it is reached first, the window is shorter.
    pub ids: usize,
}

impl Config {
    /// Reads the configuration.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let size = |name, bounds, default| env::bounded(env, name, bounds, default).map(|n| n as usize);
        let projects = projects(env)?;
        let kafka = KafkaConfig::from_env(env, projects.own_topics())?;
        let limits = Limits {
            bytes: env::bounded(env, "SPOOL_BYTES", (1 << 20, 1 << 44), 1 << 30)?,
            age: Duration::from_secs(3_600 * env::bounded(env, "SPOOL_MAX_AGE_HOURS", (1, 720), 12)?),
        };
        let ack_timeout = env::millis(env, "INGEST_ACK_TIMEOUT_MS", (100, 120_000), 10_000)?;
        let deliver_within = kafka.as_ref().filter(|kafka| kafka.role.has_gateway()).map(|kafka| kafka.deliver_within);
        if deliver_within.is_some_and(|within| 2 * within > ack_timeout) {
            let most = ack_timeout.as_millis() / 2;
            let problem = format!(
                "may be at most {most}, half of INGEST_ACK_TIMEOUT_MS: what Kafka does not take has to reach the local log in time"
            );
            return Err(ConfigError::new("KAFKA_TIMEOUT_MS", problem));
        }
        Ok(Self {
            address: env::address(env, "INGEST_ADDR", ([127, 0, 0, 1], 8081))?,
            admin_address: env::address(env, "INGEST_ADMIN_ADDR", ([127, 0, 0, 1], 9081))?,
            data: env::path(env, "TALLYHOUSE_DATA", "./data"),
            request: RequestLimits {
                body_bytes: size("INGEST_BODY_BYTES", (1_024, 64 << 20), 4 << 20)?,
                decoded_bytes: size("INGEST_DECODED_BYTES", (1_024, 64 << 20), 16 << 20)?,
                open_bytes: size("INGEST_OPEN_BYTES", (64 << 10, 1 << 30), 64 << 20)?,
                ack_timeout,
                read_timeout: Duration::from_secs(30),
            },
            batch: BatchLimits {
                rows: size("INGEST_BATCH_ROWS", (1, 131_072), 131_072)?,
                bytes: size("INGEST_BATCH_BYTES", (1_024, 64 << 20), 32 << 20)?,
                linger: env::millis(env, "INGEST_LINGER_MS", (1, 10_000), 5)?,
                inserts: size("INGEST_INSERTS", (1, 16), 2)?,
                insert_timeout: Duration::from_secs(30),
                refused_grace: env::millis(env, "REFUSED_GRACE_MS", (0, 3_600_000), 30_000)?,
            },
            dedup: DedupLimits {
                window: Duration::from_secs(3_600 * env::bounded(env, "DEDUP_WINDOW_HOURS", (1, 720), 24)?),
                ids: size("DEDUP_WINDOW_IDS", (1_000, 1_000_000_000), 4_000_000)?,
            },
            pace: Pace {
                least: env::millis(env, "INGEST_PACE_MS", (0, 10_000), 25)?,
                most: env::millis(env, "INGEST_PACE_MOST_MS", (0, 60_000), 700)?,
                share: env::bounded(env, "INGEST_INSERT_PERCENT", (1, 100), 8)? as f64 / 100.0,
            },
            log_sync: env::optional(env, "LOG_SYNC", "always, interval or off")?.unwrap_or_default(),
            log: limits,
            redis: env.get("REDIS_URL").map(Secret::new),
            kafka,
            projects,
            drain: env::millis(env, "INGEST_DRAIN_MS", (0, 300_000), 20_000)?,
        })
    }
}

/// `TALLYHOUSE_PROJECTS`: a folder of settings of projects, and what the others have.
pub fn projects(env: &dyn Env) -> Result<Projects, ConfigError> {
    let days = |name, default| env::bounded(env, name, (1, MAX_RETENTION_DAYS.into()), default).map(|n| n as u16);
    let default = ProjectSettings {
        late_window_days: days("LATE_WINDOW_DAYS", 7)?,
        retention_days: days("RETENTION_DAYS", 730)?,
        dimension_values: env::bounded(env, "DIMENSION_VALUES", (1, MAX_DIMENSION_VALUES.into()), 1_000)? as u32,
        priority: Priority::Normal,
        dead_letters: false,
        own_topic: env::switch(env, "KAFKA_TOPIC_PER_PROJECT")?,
    };
    let documents = documents::json_documents(env, "TALLYHOUSE_PROJECTS")?.unwrap_or_default();
    let texts = documents.iter().map(|document| (document.path.as_str(), document.text.as_str()));
    Projects::from_documents(default, texts).map_err(|error| ConfigError::new("TALLYHOUSE_PROJECTS", error.to_string()))
}

/// Where ClickHouse is, for a service that runs without the embedded engine.
pub fn clickhouse(env: &dyn Env) -> Result<Connection, ConfigError> {
    Ok(Connection {
        url: env::required(
            env,
            "CLICKHOUSE_URL",
            "the address of ClickHouse's HTTP port, such as http://127.0.0.1:8123",
        )?,
        user: env.get("CLICKHOUSE_USER").unwrap_or_else(|| "writer".to_owned()),
        password: env.get("CLICKHOUSE_PASSWORD").unwrap_or_default(),
    })
}

/// `TALLYHOUSE_SCHEMAS`: a folder of event type declarations; the built-in ones when it is not set. The query API reads it
/// too.
pub fn catalogue(env: &dyn Env) -> Result<Catalogue, ConfigError> {
    Catalogue::given_or_built_in(documents::json_files(env, "TALLYHOUSE_SCHEMAS")?.as_deref())
        .map_err(|error| ConfigError::new("TALLYHOUSE_SCHEMAS", error.to_string()))
}

/// `USER_HASH_KEY`: 32 hexadecimal digits, the same on every instance that writes to one ClickHouse.
pub fn user_hash_key(env: &dyn Env) -> Result<[u8; 16], ConfigError> {
    let text: String = env::required(env, "USER_HASH_KEY", "32 hexadecimal digits, the same on every instance")?;
    parse_key(&text).ok_or_else(|| ConfigError::new("USER_HASH_KEY", "is not 32 hexadecimal digits"))
}

/// Reads 32 hexadecimal digits.
pub fn parse_key(text: &str) -> Option<[u8; 16]> {
    let text = text.trim();
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)).flatten()
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
