//! The variables that every service and command reads. No other folder of this crate names variables.

mod log_filter;
mod rate_limits;
mod tokens;
mod traces;
mod transport;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use clap::{ArgAction, Args};
use regex::Regex;

use crate::admin_guard::AdminGuard;
use crate::env::{self, ConfigError, Env, millis, whole};
use crate::log_file::{LogFileSettings, MOST_FILES};
use crate::redact::{self, Patterns};
use crate::redis::{BadRedisUrl, RedisUrl};
use crate::secret::Secret;
use crate::server::{HEAD_WITHIN, Limits};

pub use rate_limits::{RateLimiting, rate_limits};
pub use tokens::{TokenVariables, tokens};
pub use traces::{TraceVariables, traces};
pub use transport::{
    AdminClient, ListenerTlsSettings, listener_tls, open_tls, own_listener, tls_variable, without_tls,
};

/// What is logged.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct Logging {
    /// Log filter: a level (off, error, warn, info, debug, trace), or directives such as `tallyhouse_ingest=debug,info`; logs are JSON lines
    /// on standard error
    #[arg(long, env = "TALLYHOUSE_LOG", default_value = "info", value_parser = log_filter::check)]
    pub tallyhouse_log: String,
    /// File that log lines go to instead of standard error: rotated by size, and opened again at SIGHUP. Of services, not of commands; each process
    /// has one of its own
    #[arg(long, env = "LOG_FILE", value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Size at which the log file is rotated
    #[arg(long, env = "LOG_FILE_BYTES", default_value = "67108864", value_parser = whole::<u64>(1 << 16, 1 << 34, "bytes"))]
    pub log_file_bytes: u64,
    /// Rotated log files that are kept (`NAME.1` is the newest)
    #[arg(long, env = "LOG_FILE_COUNT", default_value = "5", value_parser = whole::<u32>(1, u64::from(MOST_FILES), "files"))]
    pub log_file_count: u32,
    /// Regular expressions, one a line, of what log lines must not hold, beside addresses of e-mail, machines and ids of people, which are
    /// always taken out
    #[arg(long, env = "LOG_REDACT", value_parser = redact::patterns)]
    pub log_redact: Option<Patterns>,
}

/// Keys and passwords of development.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct Development {
    /// `1`: the project `demo` with well-known keys and passwords
    #[arg(long, env = "TALLYHOUSE_DEV", default_value = "off", value_parser = env::switch(), action = ArgAction::Set)]
    pub tallyhouse_dev: bool,
}

/// What the public listeners hold, and how they stop.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct Connections {
    /// Open connections of a public listener; beyond it those without a request make room, else 503. Fewer where `ulimit -n` is low
    #[arg(long, env = "TALLYHOUSE_CONNECTIONS", default_value = "4096", value_parser = whole::<usize>(1, 1 << 20, "connections"))]
    pub tallyhouse_connections: usize,
    /// The same of one address (of IPv6: one /64 network); behind a load balancer all come from few addresses: as many as
    /// `TALLYHOUSE_CONNECTIONS` there
    #[arg(long, env = "TALLYHOUSE_CONNECTIONS_PER_ADDRESS", default_value = "1024", value_parser = whole::<usize>(1, 1 << 20, "connections"))]
    pub tallyhouse_connections_per_address: usize,
    /// How long a connection may wait for its next request; longer than a load balancer keeps its own
    #[arg(long, env = "TALLYHOUSE_IDLE_MS", default_value = "75000", value_parser = millis(1_000, 3_600_000))]
    pub tallyhouse_idle_ms: Duration,
    /// How long requests are served after SIGTERM with readiness off, so that load balancers notice, before the drain begins (default: 2,000, in
    /// development 0)
    #[arg(long, env = "TALLYHOUSE_SHUTDOWN_DELAY_MS", value_parser = millis(0, 300_000))]
    pub tallyhouse_shutdown_delay_ms: Option<Duration>,
}

/// Between SIGTERM and the drain, unless it is set.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(2);

/// The data folder.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct DataFolder {
    /// Folder of everything that is kept
    #[arg(long, env = "TALLYHOUSE_DATA", default_value = "./data")]
    pub tallyhouse_data: PathBuf,
}

/// Event types.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct Schemas {
    /// Folder of event type declarations that an installation begins with (default: built in)
    #[arg(long, env = "TALLYHOUSE_SCHEMAS")]
    pub tallyhouse_schemas: Option<PathBuf>,
}

/// The Redis that services and commands share; [`Redis::url`] is where it is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct Redis {
    /// Redis, such as `redis://127.0.0.1:6379`, `redis+sentinel://a:26379,b:26379/mymaster` or `redis+cluster://a:6379,b:6379`: shares answers
    /// between query instances, carries the changed days to them, and counts for the rate limits
    #[arg(env = "REDIS_URL", value_parser = redis_url)]
    redis_url: Option<RedisUrl>,
    /// Authorities that `rediss://` believes, instead of the system's: a PEM file
    #[arg(long, env = "REDIS_CA", value_name = "PATH")]
    redis_ca: Option<PathBuf>,
    /// What is shown to a Redis that asks for certificates: a PEM file
    #[arg(long, env = "REDIS_CLIENT_CERT", value_name = "PATH")]
    redis_client_cert: Option<PathBuf>,
    /// Its private key: a PEM file
    #[arg(long, env = "REDIS_CLIENT_KEY", value_name = "PATH")]
    redis_client_key: Option<PathBuf>,
}

/// Who may ask the admin ports.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct AdminAccess {
    /// What the admin ports ask for, as `Authorization: Bearer`, at least 16 characters; without it they listen on loopback only
    #[arg(env = "ADMIN_TOKEN", value_parser = admin_token)]
    pub admin_token: Option<Secret>,
    /// Names under which the admin ports may be asked, with commas between, beside loopback and the address that they listen on
    #[arg(long, env = "ADMIN_HOSTS", value_delimiter = ',', value_parser = host_name)]
    pub admin_hosts: Vec<String>,
}

impl AdminAccess {
    /// The guard of the admin port at `address`, which `variable` configured. A port that others reach is refused without a token.
    pub fn guard(&self, variable: &'static str, address: SocketAddr) -> Result<AdminGuard, ConfigError> {
        AdminGuard::new(address, self.admin_token.as_ref(), &self.admin_hosts)
            .map_err(|unprotected| ConfigError::new(variable, unprotected.to_string()))
    }
}

/// A given ClickHouse.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "ClickHouse")]
pub struct GivenClickHouse {
    /// The HTTP port of a given ClickHouse, such as `http://127.0.0.1:8123` or `https://clickhouse.internal:8443`; of a cluster, shards with commas
    /// between, in the order in which they were added, and servers of a shard with `|`; `ingest` and `query-api` by themselves need it (default: embedded)
    #[arg(long, env = "CLICKHOUSE_URL", value_parser = clickhouse_url)]
    pub clickhouse_url: Option<String>,
    /// Its name in `remote_servers`, when it is a cluster; whoever makes the tables needs it: `migrate up`, `up`
    #[arg(long = "cluster", env = "CLICKHOUSE_CLUSTER", value_parser = cluster_name)]
    pub clickhouse_cluster: Option<String>,
    /// Authorities that `https://` believes, instead of the system's: a PEM file
    #[arg(long, env = "CLICKHOUSE_CA", value_name = "PATH")]
    pub clickhouse_ca: Option<PathBuf>,
    /// Who works on it (default: writer, of the query API reader)
    #[arg(long, env = "CLICKHOUSE_USER")]
    pub clickhouse_user: Option<String>,
    /// That user's password
    #[arg(env = "CLICKHOUSE_PASSWORD", value_parser = untrimmed_secret)]
    pub clickhouse_password: Option<Secret>,
}

impl GivenClickHouse {
    /// Where it is, which has to be known; of a cluster, its shards and their servers.
    pub fn urls(&self) -> Result<String, ConfigError> {
        let problem = || ConfigError::new("CLICKHOUSE_URL", format!("is not set; it {AN_ADDRESS}"));
        self.clickhouse_url.clone().ok_or_else(problem)
    }

    /// The password, which may be none.
    pub fn password(&self) -> String {
        self.clickhouse_password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default()
    }
}

/// An error tells nothing of the URL, which may hold a password.
fn redis_url(text: &str) -> Result<RedisUrl, BadRedisUrl> {
    text.parse()
}

/// A secret without blanks around it.
pub fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text.trim()))
}

/// A secret as it is: blanks may be part of a password.
pub fn untrimmed_secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text))
}

const AN_ADDRESS: &str = "must be the address of ClickHouse's HTTP port, such as http://127.0.0.1:8123";

/// Addresses that may be printed: the value is not in the errors either, because a password may be in it.
fn clickhouse_url(text: &str) -> Result<String, String> {
    let addresses: Vec<&str> = text.split([',', '|']).map(str::trim).collect();
    for (place, address) in addresses.iter().enumerate() {
        let uri: Uri = address.parse().map_err(|_| AN_ADDRESS.to_owned())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().filter(|_| is_http).ok_or_else(|| AN_ADDRESS.to_owned())?;
        if authority.as_str().contains('@') {
            return Err("names a user: say CLICKHOUSE_USER and CLICKHOUSE_PASSWORD instead".to_owned());
        }
        if addresses.iter().skip(place + 1).any(|other| other == address) {
            return Err("names one server twice".to_owned());
        }
        if addresses.first().is_some_and(|first| first.starts_with("https://") != address.starts_with("https://")) {
            return Err("mixes http:// and https://".to_owned());
        }
    }
    Ok(text.trim().to_owned())
}

/// It stands in DDL.
fn cluster_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !name.is_empty() && name.len() <= 100 && name.chars().all(is_plain) {
        return Ok(name.to_owned());
    }
    Err(format!("`{name}` is not the name of a cluster: letters, digits, `_`, `-` and `.`"))
}

/// Short enough to be guessed is no token.
fn admin_token(text: &str) -> Result<Secret, String> {
    const LEAST: usize = 16;
    let text = text.trim();
    if text.len() < LEAST {
        return Err(format!("it has fewer than {LEAST} characters"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it has characters that no header holds".to_owned());
    }
    Ok(Secret::new(text))
}

fn host_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_name { Ok(name.to_ascii_lowercase()) } else { Err(format!("`{name}` is not the name of a host")) }
}

/// `TALLYHOUSE_DEV`: well-known keys.
pub fn is_development(env: &dyn Env) -> Result<bool, ConfigError> {
    env::read(env).map(|Development { tallyhouse_dev }| tallyhouse_dev)
}

/// What a public listener may hold.
pub fn connections(env: &dyn Env) -> Result<Limits, ConfigError> {
    let settings: Connections = env::read(env)?;
    Ok(Limits {
        connections: settings.tallyhouse_connections,
        per_address: settings.tallyhouse_connections_per_address,
        head: HEAD_WITHIN,
        idle: settings.tallyhouse_idle_ms,
        is_admin: false,
    })
}

/// `TALLYHOUSE_SHUTDOWN_DELAY_MS`: between SIGTERM and the drain.
pub fn shutdown_delay(env: &dyn Env) -> Result<Duration, ConfigError> {
    let Connections { tallyhouse_shutdown_delay_ms: set, .. } = env::read(env)?;
    Ok(set.unwrap_or(if is_development(env)? { Duration::ZERO } else { SHUTDOWN_DELAY }))
}

/// `LOG_REDACT`: what is taken out of log lines.
pub(crate) fn log_patterns(env: &dyn Env) -> Result<Arc<[Regex]>, ConfigError> {
    let Logging { log_redact, .. } = env::read(env)?;
    Ok(log_redact.map_or_else(|| Arc::from([]), |Patterns(patterns)| patterns))
}

/// `LOG_FILE`: where log lines go instead of standard error.
pub(crate) fn log_file(env: &dyn Env) -> Result<Option<LogFileSettings>, ConfigError> {
    let Logging { log_file, log_file_bytes: bytes, log_file_count: count, .. } = env::read(env)?;
    Ok(log_file.map(|path| LogFileSettings { path, bytes, count }))
}

/// `TALLYHOUSE_LOG`: which log lines are written.
pub(crate) fn log_filter(env: &dyn Env) -> Result<tracing_subscriber::EnvFilter, ConfigError> {
    let Logging { tallyhouse_log, .. } = env::read(env)?;
    tracing_subscriber::EnvFilter::try_new(&tallyhouse_log)
        .map_err(|error| ConfigError::new("TALLYHOUSE_LOG", format!("`{tallyhouse_log}` is not a log filter: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn development_is_asked_for() {
        assert_eq!(is_development(&BTreeMap::new()), Ok(false));
        assert_eq!(is_development(&env("TALLYHOUSE_DEV", "1")), Ok(true));
        assert_eq!(
            is_development(&env("TALLYHOUSE_DEV", "maybe")).unwrap_err().to_string(),
            "TALLYHOUSE_DEV: `maybe` is neither 1 nor 0"
        );
    }

    #[test]
    fn an_address_of_clickhouse_holds_no_password() {
        assert_eq!(clickhouse_url(" http://127.0.0.1:8123 "), Ok("http://127.0.0.1:8123".to_owned()));
        assert!(clickhouse_url("https://[::1]:8443/").is_ok());
        for wrong in ["", "127.0.0.1:8123", "localhost", "tcp://a:9000", "http://", "http://a b"] {
            assert_eq!(clickhouse_url(wrong), Err(AN_ADDRESS.to_owned()), "{wrong}");
        }
        assert!(clickhouse_url("http://a:8123|http://b:8123, http://c:8123").is_ok());
        for wrong in ["http://a,", "http://a|", ",http://a", "http://a,b"] {
            assert_eq!(clickhouse_url(wrong), Err(AN_ADDRESS.to_owned()), "{wrong}");
        }
        assert!(clickhouse_url("http://a,http://b,http://a").unwrap_err().contains("twice"));
        assert!(clickhouse_url("http://a,https://b").unwrap_err().contains("mixes"));
        let error = clickhouse_url("http://b,http://joe:hunter2@a:8123").unwrap_err();
        assert!(error.contains("CLICKHOUSE_PASSWORD") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn nobody_waits_for_load_balancers_in_development() {
        let ms = |pairs: &[(&str, &str)]| {
            let env: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            shutdown_delay(&env).unwrap().as_millis()
        };
        assert_eq!((ms(&[]), ms(&[("TALLYHOUSE_DEV", "1")])), (2_000, 0));
        assert_eq!(ms(&[("TALLYHOUSE_DEV", "1"), ("TALLYHOUSE_SHUTDOWN_DELAY_MS", "5000")]), 5_000);
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        let error = log_filter(&env("TALLYHOUSE_LOG", "warning")).unwrap_err().to_string();
        assert_eq!(error, "TALLYHOUSE_LOG: `warning` is not a level; say `warn`");
    }
}
