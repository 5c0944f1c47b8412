//! Configuration: the only file of this crate that reads variables.

use std::net::SocketAddr;
use std::time::Duration;

use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::Connection;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `QUERY_ADDR`: where questions come in.
    pub address: SocketAddr,
    /// `QUERY_ADMIN_ADDR`: metrics and health.
    pub admin_address: SocketAddr,
    /// `REDIS_URL`: shares answers between instances; without it each has its own. May hold a password.
    pub redis_url: Option<Secret>,
    /// `QUERY_CACHE_BYTES`: answers held in this process.
    pub cache_bytes: u64,
    /// `QUERY_CACHE_TTL_MS`: how long an answer is remembered, +- a sixth. The real-time dashboard: 1 s, always.
    pub cache_ttl: Duration,
    /// `QUERY_CLICKHOUSE_CONCURRENCY`: queries at once; a machine's cores are shared among them.
    pub clickhouse_concurrency: usize,
    /// `QUERY_ADHOC_CONCURRENCY`: SQL statements and exports at once.
    pub adhoc_concurrency: usize,
    /// `QUERY_EXPORT_MAX_BYTES`: the longest export; a longer one is broken off.
    pub export_max_bytes: u64,
    /// `QUERY_EXPORT_STALL_MS`: how long the reader of an export may stand still.
    pub export_stall: Duration,
    /// `QUERY_DRAIN_MS`: at shutdown, how long open requests may take.
    pub drain: Duration,
}

impl Config {
    /// Reads the configuration.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        Ok(Self {
            address: env::address(env, "QUERY_ADDR", ([127, 0, 0, 1], 8082))?,
            admin_address: env::address(env, "QUERY_ADMIN_ADDR", ([127, 0, 0, 1], 9082))?,
            redis_url: env.get("REDIS_URL").map(Secret::new),
            cache_bytes: env::bounded(env, "QUERY_CACHE_BYTES", (1 << 20, 64 << 30), 128 << 20)?,
            cache_ttl: env::millis(env, "QUERY_CACHE_TTL_MS", (1_000, 3_600_000), 60_000)?,
            clickhouse_concurrency: env::bounded(env, "QUERY_CLICKHOUSE_CONCURRENCY", (1, 1_000), 8)? as usize,
            adhoc_concurrency: env::bounded(env, "QUERY_ADHOC_CONCURRENCY", (1, 1_000), 4)? as usize,
            export_max_bytes: env::bounded(env, "QUERY_EXPORT_MAX_BYTES", (1 << 10, 1 << 40), 100 << 20)?,
            export_stall: env::millis(env, "QUERY_EXPORT_STALL_MS", (100, 600_000), 30_000)?,
            drain: env::millis(env, "QUERY_DRAIN_MS", (0, 300_000), 20_000)?,
        })
    }
}

/// Where ClickHouse is, for a service that runs without the embedded engine.
pub fn clickhouse(env: &dyn Env) -> Result<Connection, ConfigError> {
    Ok(Connection {
        url: env::required(
            env,
            "CLICKHOUSE_URL",
            "the address of ClickHouse's HTTP port, such as http://127.0.0.1:8123",
        )?,
        user: env.get("CLICKHOUSE_USER").unwrap_or_else(|| "reader".to_owned()),
        password: env.get("CLICKHOUSE_PASSWORD").unwrap_or_default(),
    })
}

/// The user for analysts' SQL on a given ClickHouse: `CLICKHOUSE_ANALYST_PASSWORD`, and `CLICKHOUSE_ANALYST_USER` (default
/// `analyst`; `{project}` in it stands for the project). Without a password there is no `/v1/sql`.
pub fn analyst(env: &dyn Env) -> Result<Option<Connection>, ConfigError> {
    let Some(password) = env.get("CLICKHOUSE_ANALYST_PASSWORD") else { return Ok(None) };
    let user = env.get("CLICKHOUSE_ANALYST_USER").unwrap_or_else(|| "analyst".to_owned());
    Ok(Some(Connection { user, password, ..clickhouse(env)? }))
}

/// `TALLYHOUSE_DEV`: whether the well-known development keys are accepted.
pub fn is_development(env: &dyn Env) -> Result<bool, ConfigError> {
    env::switch(env, "TALLYHOUSE_DEV")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn defaults_are_usable_and_errors_name_the_variable() {
        let mut env = BTreeMap::new();
        assert_eq!(Config::from_env(&env).unwrap().cache_ttl, Duration::from_secs(60));
        env.insert("QUERY_CACHE_TTL_MS".to_owned(), "5".to_owned());
        assert_eq!(
            Config::from_env(&env).unwrap_err().to_string(),
            "QUERY_CACHE_TTL_MS: 5 is not within 1000 to 3600000"
        );
    }

    #[test]
    fn a_password_in_the_redis_url_is_not_printed() {
        let env = BTreeMap::from([("REDIS_URL".to_owned(), "redis://:hunter2@h".to_owned())]);
        assert!(!format!("{:?}", Config::from_env(&env).unwrap()).contains("hunter2"));
    }
}
