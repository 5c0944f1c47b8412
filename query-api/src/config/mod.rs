//! Configuration: [`settings`] defines the variables. No other module of this crate reads the environment.

mod checks;
pub mod settings;

use std::net::SocketAddr;
use std::time::Duration;

use tallyhouse_control::LiveCatalogue;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::schemas::Seeds;
use tallyhouse_service::access::tokens::TokenSettings;
use tallyhouse_service::admin_guard::AdminGuard;
use tallyhouse_service::config::{AdminAccess, GivenClickHouse, Redis};
use tallyhouse_service::cors::{Origin, Origins};
use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::rate_limit::RateLimitSettings;
use tallyhouse_service::redis::RedisUrl;
use tallyhouse_service::secret::Secret;
use tallyhouse_service::tls::{ClientTls, ServerFiles};
use tallyhouse_service::trace_export::TraceSettings;
use tallyhouse_sql::Connection;
use tallyhouse_sql::shards::{Login, Shards};

use crate::adhoc::analyst::PROJECT;
use crate::admission::{Limits, Policy, SendPermits};
use crate::canary::CanarySettings;
use crate::deps::Deps;
use crate::live;
use crate::store::Partial;
pub use checks::without_effect;
use settings::{AdminAddress, AnalystUser, CanaryVariables, ClassSettings, QuerySettings, WriterUser};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `QUERY_ADDR`: where questions come in.
    pub address: SocketAddr,
    /// `QUERY_ADMIN_ADDR`: metrics and health.
    pub admin_address: SocketAddr,
    /// `ADMIN_TOKEN` and `ADMIN_HOSTS`: who may ask there.
    pub admin_guard: AdminGuard,
    /// `QUERY_ORIGINS`: web pages that may ask. Without any, in development: those of this machine.
    pub origins: Origins,
    /// `REDIS_URL`: shares answers between instances; without it each has its own. May hold a password.
    pub redis_url: Option<RedisUrl>,
    /// How many requests and questions are answered, of whom.
    pub rate_limits: RateLimitSettings,
    /// `QUERY_CACHE_BYTES`: answers held in this process, and their parts; half each.
    pub cache_bytes: u64,
    /// `QUERY_CACHE_TTL_MS`: how long an answer that touches today is fresh, +- a sixth. For all other times see
    /// `cache/ttl.rs`.
    pub cache_ttl: Duration,
    /// `QUERY_CACHE_WARM`: whether the hottest answers are refreshed before they are stale. On unless switched off.
    pub cache_warm: bool,
    /// Who may ask ClickHouse. `QUERY_CLICKHOUSE_CONCURRENCY`: queries at once, split between the classes as
    /// [`Policy::for_total`] says. `QUERY_CONCURRENCY_<CLASS>` sets a class by itself, `QUERY_QUEUE_<CLASS>` how many
    /// questions of it may wait (half of them of one project), and `QUERY_DEADLINE_<CLASS>_MS` how long an answer may take,
    /// waiting included; `<CLASS>` is `REALTIME`, `DASHBOARD`, `STREAM` or `ADHOC`.
    pub admission: Policy,
    /// `QUERY_STREAM_LISTENERS` and, of one project, `QUERY_STREAM_LISTENERS_PER_PROJECT`: open streams. Each takes a
    /// connection. `QUERY_STREAM_QUESTIONS` and `QUERY_STREAM_QUESTIONS_PER_PROJECT`: different ones, each of which asks
    /// ClickHouse up to once a second.
    pub streams: live::Limits,
    /// `QUERY_EXPORT_CONCURRENCY`: exports at once.
    pub export_concurrency: usize,
    /// `QUERY_EXPORT_MAX_BYTES`: the longest export; a longer one is broken off.
    pub export_max_bytes: u64,
    /// `QUERY_EXPORT_STALL_MS`: how long the reader of an export may stand still.
    pub export_stall: Duration,
    /// `QUERY_LOOK_UP_MS`: how long an answer waits for what is only said beside it, its warnings and the instant of the newest event.
    pub look_up: Duration,
    /// Whose tokens people sign in with.
    pub tokens: Option<TokenSettings>,
    /// What the public listener may hold.
    pub connections: tallyhouse_service::server::Limits,
    /// `TLS_CERT` and what belongs to it; without it the listeners speak plain HTTP.
    pub tls: Option<ServerFiles>,
    /// `QUERY_PARTIAL`: what is done while a shard of the cluster is away.
    pub partial: Partial,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` and what belongs to it: where traces go.
    pub traces: Option<TraceSettings>,
    /// `CANARY_KEY`, `CANARY_INGEST_URL` and what belongs to them: the canary, where one is sent.
    pub canary: Option<CanarySettings>,
    /// `DRIFT_CHECK_MINUTES`: how often rollups are compared with raw events.
    pub drift_check: Option<Duration>,
    /// `QUERY_DRAIN_MS`: at shutdown, how long open requests may take.
    pub drain: Duration,
}

impl Config {
    /// Reads the configuration, and refuses what contradicts itself.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let settings: QuerySettings = env::read(env)?;
        let config = Self {
            address: settings.query_addr,
            admin_address: admin_address(env)?,
            admin_guard: env::read::<AdminAccess>(env)?.guard("QUERY_ADMIN_ADDR", admin_address(env)?)?,
            origins: origins(env, settings.query_origins)?,
            redis_url: env::read::<Redis>(env)?.url()?,
            rate_limits: tallyhouse_service::config::rate_limits(env)?,
            cache_bytes: settings.query_cache_bytes,
            cache_ttl: settings.query_cache_ttl_ms,
            cache_warm: settings.query_cache_warm,
            admission: admission(&env::read(env)?),
            streams: live::Limits {
                listeners: settings.query_stream_listeners,
                listeners_per_project: settings.query_stream_listeners_per_project,
                questions: settings.query_stream_questions,
                questions_per_project: settings.query_stream_questions_per_project,
            },
            export_concurrency: settings.query_export_concurrency,
            export_max_bytes: settings.query_export_max_bytes,
            export_stall: settings.query_export_stall_ms,
            look_up: settings.query_look_up_ms,
            tokens: tallyhouse_service::config::tokens(env)?,
            connections: tallyhouse_service::config::connections(env)?,
            tls: tallyhouse_service::config::listener_tls(env)?,
            partial: settings.query_partial,
            traces: tallyhouse_service::config::traces(env)?,
            canary: canary(env)?,
            drift_check: drift_check(env)?,
            drain: settings.query_drain_ms,
        };
        checks::check(env, &config)?;
        Ok(config)
    }
}

fn origins(env: &dyn Env, listed: Vec<Origin>) -> Result<Origins, ConfigError> {
    let is_development = tallyhouse_service::config::is_development(env)?;
    Ok(if listed.is_empty() && is_development { Origins::Loopback } else { Origins::Listed(listed) })
}

/// The canary, where it is known with which key it is sent and where to.
fn canary(env: &dyn Env) -> Result<Option<CanarySettings>, ConfigError> {
    let variables: CanaryVariables = env::read(env)?;
    let (key, is_on) = (tallyhouse_control::config::canary_key(env)?, is_canary_on(env, &variables)?);
    let (Some(key), Some(url), true) = (key, variables.canary_ingest_url, is_on) else { return Ok(None) };
    Ok(Some(CanarySettings { url, key, tls: None, every: variables.canary_every_ms }))
}

/// The canary of a process that takes its events itself: on unless it is switched off, in development off unless it is switched on. `url` and `tls` are
/// those of its ingester.
pub fn own_canary(env: &dyn Env, url: String, tls: Option<ClientTls>) -> Result<Option<CanarySettings>, ConfigError> {
    let variables: CanaryVariables = env::read(env)?;
    let is_on = is_canary_on(env, &variables)?;
    // Nobody else has to know it.
    let key = match tallyhouse_control::config::canary_key(env)? {
        Some(key) => key,
        None => Secret::new(format!("{:032x}", rand::random::<u128>())),
    };
    Ok(is_on.then_some(CanarySettings { url, key, tls, every: variables.canary_every_ms }))
}

fn is_canary_on(env: &dyn Env, variables: &CanaryVariables) -> Result<bool, ConfigError> {
    Ok(variables.canary.unwrap_or(!tallyhouse_service::config::is_development(env)?))
}

fn drift_check(env: &dyn Env) -> Result<Option<Duration>, ConfigError> {
    let minutes = env::read::<CanaryVariables>(env)?.drift_check_minutes;
    Ok((minutes > 0).then(|| Duration::from_secs(60 * minutes)))
}

/// `QUERY_ADMIN_ADDR`: metrics and health, and where commands send the days that they changed.
pub fn admin_address(env: &dyn Env) -> Result<SocketAddr, ConfigError> {
    env::read(env).map(|AdminAddress { query_admin_addr }| query_admin_addr)
}

/// Statements of analysts that one process has in ClickHouse at most, for the engine's own limit.
pub fn analyst_statements(env: &dyn Env) -> Result<usize, ConfigError> {
    env::read(env).map(|settings| SendPermits::listed_statements(admission(&settings).ad_hoc.concurrency))
}

fn admission(settings: &ClassSettings) -> Policy {
    let default = Policy::for_total(settings.query_clickhouse_concurrency);
    let limits = |default: Limits, concurrency: Option<usize>, queue, deadline| Limits {
        concurrency: concurrency.unwrap_or(default.concurrency),
        queue,
        deadline,
    };
    Policy {
        realtime: limits(
            default.realtime,
            settings.query_concurrency_realtime,
            settings.query_queue_realtime,
            settings.query_deadline_realtime_ms,
        ),
        dashboard: limits(
            default.dashboard,
            settings.query_concurrency_dashboard,
            settings.query_queue_dashboard,
            settings.query_deadline_dashboard_ms,
        ),
        stream: limits(
            default.stream,
            settings.query_concurrency_stream,
            settings.query_queue_stream,
            settings.query_deadline_stream_ms,
        ),
        ad_hoc: limits(
            default.ad_hoc,
            settings.query_concurrency_adhoc,
            settings.query_queue_adhoc,
            settings.query_deadline_adhoc_ms,
        ),
    }
}

/// Where ClickHouse is, for a service that runs without the embedded engine.
pub fn shards(env: &dyn Env) -> Result<Shards, ConfigError> {
    let given: GivenClickHouse = env::read(env)?;
    let (tls, password) = (given.tls()?, given.password());
    let list = given.urls()?;
    let login = Login { user: given.clickhouse_user.unwrap_or_else(|| "reader".to_owned()), password, tls };
    Ok(Shards::of(&list, &login))
}

/// The same ClickHouse as a user that can write metric definitions: `CLICKHOUSE_WRITER_USER` and
/// `CLICKHOUSE_WRITER_PASSWORD`. Without one, metrics cannot be registered here.
fn clickhouse_writer(env: &dyn Env, reader: &Connection) -> Result<Option<Connection>, ConfigError> {
    let users: WriterUser = env::read(env)?;
    let password = users.clickhouse_writer_password.map(|password| password.expose().to_owned()).unwrap_or_default();
    Ok(users.clickhouse_writer_user.map(|user| Connection { user, password, ..reader.clone() }))
}

/// The user for analysts' SQL on a given ClickHouse: `CLICKHOUSE_ANALYST_PASSWORD`, and `CLICKHOUSE_ANALYST_USER` (default
/// `analyst`; `{project}` in it stands for the project). Without a password there is no `/v1/sql`.
pub fn analyst(env: &dyn Env) -> Result<Option<Connection>, ConfigError> {
    let users: AnalystUser = env::read(env)?;
    let Some(password) = users.clickhouse_analyst_password else { return Ok(None) };
    let (user, password) = (users.clickhouse_analyst_user, password.expose().to_owned());
    let shards = shards(env)?;
    if shards.is_cluster() && !user.contains(PROJECT) {
        let problem = format!(
            "must contain {PROJECT} on a cluster: a shard does not see the header that says the project, and gives nothing (sql/access/analyst.cluster.sql)"
        );
        return Err(ConfigError::new("CLICKHOUSE_ANALYST_USER", problem));
    }
    Ok(Some(Connection { user, password, ..shards.anywhere() }))
}

/// What a service of its own works with, on a given ClickHouse.
pub fn deps(env: &dyn Env) -> Result<Deps, ConfigError> {
    let shards = shards(env)?;
    let writer = clickhouse_writer(env, shards.home())?;
    let control = tallyhouse_control::config::open(env, "query", shards.home(), writer.as_ref())?;
    let user_hash_key = tallyhouse_control::config::user_hash_key(env)?.map(InstallationKey::new);
    let catalogue = LiveCatalogue::new(control.clone(), Seeds::from_env(env)?);
    Ok(Deps { writer, analyst: analyst(env)?, user_hash_key, ..Deps::new(shards, control, catalogue) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn declared_event_types_are_those_of_the_folder() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-schemas-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let env = BTreeMap::from([
            ("CLICKHOUSE_URL".to_owned(), "http://ch:8123".to_owned()),
            ("TALLYHOUSE_DATA".to_owned(), folder.display().to_string()),
            ("TALLYHOUSE_SCHEMAS".to_owned(), folder.display().to_string()),
        ]);
        std::fs::write(folder.join("signup.json"), r#"{"eventType": "signup", "dimensions": ["plan"]}"#).unwrap();
        assert!(deps(&env).unwrap().catalogue.of("any").dimension_names().contains("plan"));
        std::fs::write(folder.join("signup.json"), "{").unwrap();
        let error = deps(&env).err().unwrap().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(error.starts_with("TALLYHOUSE_SCHEMAS: "), "{error}");
    }

    #[test]
    fn defaults_are_usable_and_errors_name_the_variable() {
        let mut env = BTreeMap::new();
        assert_eq!(Config::from_env(&env).unwrap().cache_ttl, Duration::from_secs(60));
        assert!(Config::from_env(&env).unwrap().cache_warm);
        env.insert("QUERY_CACHE_WARM".to_owned(), "off".to_owned());
        assert!(!Config::from_env(&env).unwrap().cache_warm);
        env.insert("QUERY_CACHE_TTL_MS".to_owned(), "5".to_owned());
        assert_eq!(
            Config::from_env(&env).unwrap_err().to_string(),
            "QUERY_CACHE_TTL_MS: 5 is not within 1000 to 3600000"
        );
    }

    #[test]
    fn a_class_is_set_by_itself_or_by_the_total() {
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let set = env(&[
            ("QUERY_CLICKHOUSE_CONCURRENCY", "16"),
            ("QUERY_CONCURRENCY_ADHOC", "5"),
            ("QUERY_DEADLINE_REALTIME_MS", "700"),
            ("QUERY_QUEUE_ADHOC", "3"),
        ]);
        let policy = Config::from_env(&set).unwrap().admission;
        assert_eq!((policy.ad_hoc.concurrency, policy.realtime.concurrency, policy.dashboard.concurrency), (5, 3, 9));
        assert_eq!(policy.realtime.deadline, Duration::from_millis(700));
        assert_eq!((policy.ad_hoc.queue, policy.ad_hoc.share(), policy.realtime.queue), (3, 2, 256));
        assert_eq!(policy.dashboard, Limits { concurrency: 9, ..Policy::for_total(8).dashboard });
        let none = env(&[("QUERY_CONCURRENCY_DASHBOARD", "0")]);
        assert_eq!(
            Config::from_env(&none).unwrap_err().to_string(),
            "QUERY_CONCURRENCY_DASHBOARD: 0 is not within 1 to 1000"
        );
        for (length, wrong) in [("1", "1 is not within 2 to 100000"), ("100001", "100001 is not within 2 to 100000")] {
            let error = Config::from_env(&env(&[("QUERY_QUEUE_REALTIME", length)])).unwrap_err().to_string();
            assert_eq!(error, format!("QUERY_QUEUE_REALTIME: {wrong}"));
        }
    }

    #[test]
    fn a_password_in_the_redis_url_is_not_printed() {
        let env = BTreeMap::from([("REDIS_URL".to_owned(), "redis://:hunter2@h".to_owned())]);
        assert!(!format!("{:?}", Config::from_env(&env).unwrap()).contains("hunter2"));
    }
}
