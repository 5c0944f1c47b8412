//! Configuration: [`settings`] defines the variables, the services define their own. No other folder of this crate reads variables.

mod checks;
pub mod reference;
pub mod settings;
#[cfg(test)]
mod tables;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tallyhouse_schema::project::{BadProjectName, ProjectName};
use tallyhouse_service::config::{AdminAccess, DataFolder, GivenClickHouse, Redis, own_listener};
use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::redis::RedisUrl;
use tallyhouse_service::secret::Secret;
use tallyhouse_service::tls::ClientTls;
use tallyhouse_sql::durability::Fsync;
use tallyhouse_sql::tiers::Tiers;

use crate::engine::{Cage, Choice, Network, Program, ProgramError};
use crate::tables::TableSettings;
pub use checks::{ports_apart, without_effect};
use settings::{BackupSettings, EngineSettings, FirstStart, RemoteUrl, ReplayKey, Tables};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `TALLYHOUSE_DATA`: everything that is kept.
    pub data: PathBuf,
    /// `TALLYHOUSE_DEV`: well-known keys.
    pub is_development: bool,
    /// What whoever makes the tables sets of them.
    pub tables: TableSettings,
    /// `None` when `CLICKHOUSE_URL` says where another ClickHouse is.
    pub engine: Option<EngineConfig>,
    /// `TALLYHOUSE_PROJECT`: what the first start makes.
    pub first_project: tallyhouse_schema::project::ProjectName,
}

#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `CLICKHOUSE_LISTEN`
    pub listen: IpAddr,
    /// `CLICKHOUSE_CLIENT_NETWORKS`
    pub client_networks: Vec<Network>,
    /// `CLICKHOUSE_HTTP_PORT`
    pub http_port: u16,
    /// `CLICKHOUSE_TCP_PORT`
    pub tcp_port: Option<u16>,
    /// `TALLYHOUSE_ENGINE`: `auto`, `library` or `server`.
    pub choice: Choice,
    /// `TALLYHOUSE_ENGINE_LIBRARY`: where libchdb.so is, when it is not where `make run` puts it.
    pub library: Option<PathBuf>,
    /// `BACKUP_DIR`: where it writes copies of its tables; `backups` in the data folder when it is not set.
    pub backups: Option<PathBuf>,
    /// `TALLYHOUSE_CAGE`
    pub cage: Cage,
    /// `GRAFANA_PROJECTS`: what the ClickHouse user `grafana` sees, with commas between; `demo` in development.
    pub grafana_projects: Vec<ProjectName>,
    /// Statements of analysts that the query API has in ClickHouse at most; follows from `QUERY_CONCURRENCY_ADHOC`.
    pub analyst_statements: usize,
    /// `PATH`, to look for `clickhouse`.
    path: String,
}

impl Config {
    /// What the process is, in a word.
    pub fn mode(&self) -> &'static str {
        if self.engine.is_some() { "all in one" } else { "all but ClickHouse" }
    }

    /// Reads the configuration, and refuses what contradicts itself.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let is_development = tallyhouse_service::config::is_development(env)?;
        let engine = match env::read::<GivenClickHouse>(env)?.clickhouse_url {
            Some(_) => None,
            None => Some(EngineConfig::from_env(env, is_development)?),
        };
        let tables = table_settings(env)?;
        let data = env::read::<DataFolder>(env)?.tallyhouse_data;
        let FirstStart { tallyhouse_project: first_project } = env::read(env)?;
        let config = Self { data, is_development, tables, engine, first_project };
        checks::check(env, &config)?;
        Ok(config)
    }
}

fn table_settings(env: &dyn Env) -> Result<TableSettings, ConfigError> {
    let Tables { clickhouse_fsync, clickhouse_warm_days: warm_days, clickhouse_cold_days: cold_days } = env::read(env)?;
    if warm_days >= cold_days {
        let problem = format!("{warm_days} is not less than CLICKHOUSE_COLD_DAYS, which is {cold_days}");
        return Err(ConfigError::new("CLICKHOUSE_WARM_DAYS", problem));
    }
    let fsync = if clickhouse_fsync { Fsync::On } else { Fsync::Off };
    Ok(TableSettings { fsync, tiers: Tiers { warm_days, cold_days } })
}

impl EngineConfig {
    fn from_env(env: &dyn Env, is_development: bool) -> Result<Self, ConfigError> {
        let settings: EngineSettings = env::read(env)?;
        let default = if is_development { "demo" } else { "" };
        Ok(Self {
            listen: settings.clickhouse_listen,
            client_networks: networks(settings.clickhouse_client_networks.as_deref().unwrap_or_default())?,
            http_port: settings.clickhouse_http_port,
            tcp_port: settings.clickhouse_tcp_port,
            choice: settings.tallyhouse_engine,
            library: settings.tallyhouse_engine_library,
            backups: settings.backup_dir,
            cage: settings.tallyhouse_cage,
            grafana_projects: projects(settings.grafana_projects.as_deref().unwrap_or(default))?,
            analyst_statements: tallyhouse_query_api::config::analyst_statements(env)?,
            path: env.get("PATH").unwrap_or_default(),
        })
    }

    /// What is to be run.
    pub fn program(&self) -> Result<Program, ProgramError> {
        Program::find(self.choice, self.library.clone(), &self.path)
    }
}

/// `BACKUP_DIR`, or what it is when it is not set.
pub fn backup_dir(config: &Config) -> PathBuf {
    let configured = config.engine.as_ref().and_then(|engine| engine.backups.clone());
    configured.unwrap_or_else(|| config.data.join("backups"))
}

/// `BACKUP_TARGET`, and how a bucket is reached.
pub fn backup_target(env: &dyn Env) -> Result<(Option<String>, BucketAccess), ConfigError> {
    let settings: BackupSettings = env::read(env)?;
    let access = BucketAccess {
        endpoint: settings.backup_s3_endpoint,
        region: settings.backup_s3_region,
        key_id: settings.backup_s3_key_id,
        secret: settings.backup_s3_secret,
    };
    Ok((settings.backup_target, access))
}

/// `BACKUP_CLICKHOUSE`, which a given ClickHouse needs.
pub fn given_destination(env: &dyn Env) -> Result<String, ConfigError> {
    let missing = || {
        let problem = "is not set: say where the given ClickHouse writes its tables to, such as disk:backups";
        ConfigError::new("BACKUP_CLICKHOUSE", problem)
    };
    env::read::<BackupSettings>(env)?.backup_clickhouse.ok_or_else(missing)
}

/// Where a bucket is, and who we are there.
#[derive(Debug, Clone)]
pub struct BucketAccess {
    /// `BACKUP_S3_ENDPOINT`; `None`: Amazon's own.
    pub endpoint: Option<String>,
    /// `BACKUP_S3_REGION`
    pub region: String,
    /// `BACKUP_S3_KEY_ID`
    pub key_id: Option<String>,
    /// `BACKUP_S3_SECRET`
    pub secret: Option<Secret>,
}

/// A query service that commands ask.
#[derive(Debug, Clone)]
pub struct RemoteAccess {
    /// `TALLYHOUSE_URL`
    pub url: String,
    /// `TALLYHOUSE_KEY`
    pub key: Secret,
}

/// `TALLYHOUSE_URL` and `TALLYHOUSE_KEY`: a query service to ask, instead of working on ClickHouse.
pub fn remote(env: &dyn Env) -> Result<Option<RemoteAccess>, ConfigError> {
    let RemoteUrl { tallyhouse_url } = env::read(env)?;
    let Some(url) = tallyhouse_url else { return Ok(None) };
    let missing = || ConfigError::new("TALLYHOUSE_KEY", "is not set; TALLYHOUSE_URL needs an admin or operator key");
    Ok(Some(RemoteAccess { url, key: replay_key(env)?.ok_or_else(missing)? }))
}

/// `TALLYHOUSE_KEY`: the key with which `dlq replay` sends.
pub fn replay_key(env: &dyn Env) -> Result<Option<Secret>, ConfigError> {
    env::read(env).map(|ReplayKey { tallyhouse_key }| tallyhouse_key)
}

/// Where commands invalidate the days that they change.
pub struct InvalidationTargets {
    /// `REDIS_URL`
    pub redis_url: Option<RedisUrl>,
    /// `QUERY_ADMIN_ADDR`: of the query API that runs.
    pub query_admin: SocketAddr,
    /// `ADMIN_TOKEN`: what that one asks for.
    pub admin_token: Option<Secret>,
    /// How it is spoken to, when it speaks TLS.
    pub tls: Option<ClientTls>,
}

impl InvalidationTargets {
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let redis_url = env::read::<Redis>(env)?.url()?;
        let admin_token = env::read::<AdminAccess>(env)?.admin_token;
        let query_admin = tallyhouse_query_api::config::admin_address(env)?;
        Ok(Self { redis_url, query_admin, admin_token, tls: own_listener(env)? })
    }
}

/// The admin ports of both services, for whoever looks at a deployment that runs.
pub struct AdminPorts {
    /// `INGEST_ADMIN_ADDR`
    pub ingest: SocketAddr,
    /// `QUERY_ADMIN_ADDR`
    pub query: SocketAddr,
    /// `ADMIN_TOKEN`: what they ask for.
    pub token: Option<Secret>,
    /// How they are spoken to, when they speak TLS.
    pub tls: Option<ClientTls>,
}

impl AdminPorts {
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let token = env::read::<AdminAccess>(env)?.admin_token;
        let ingest = tallyhouse_ingest::config::admin_address(env)?;
        let query = tallyhouse_query_api::config::admin_address(env)?;
        Ok(Self { ingest, query, token, tls: own_listener(env)? })
    }
}

fn networks(text: &str) -> Result<Vec<Network>, ConfigError> {
    let bad = |text: &str| {
        let problem = format!("`{text}` is not an address or a network, such as 172.17.0.0/16");
        ConfigError::new("CLICKHOUSE_CLIENT_NETWORKS", problem)
    };
    let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts.map(|text| text.parse().map_err(|()| bad(text))).collect()
}

fn projects(text: &str) -> Result<Vec<ProjectName>, ConfigError> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| {
            name.parse().map_err(|error: BadProjectName| ConfigError::new("GRAFANA_PROJECTS", error.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tallyhouse_testkit::project_names::NO_NAMES;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let env: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::from_env(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_embedded_and_errors_name_the_variable() {
        assert_eq!(read(&[]).unwrap().engine.unwrap().http_port, 8123);
        assert!(read(&[("CLICKHOUSE_URL", "http://ch:8123")]).unwrap().engine.is_none());
        assert_eq!(
            read(&[("TALLYHOUSE_ENGINE", "docker")]).unwrap_err(),
            "TALLYHOUSE_ENGINE: `docker` is not auto, library or server"
        );
        assert_eq!(
            read(&[("GRAFANA_PROJECTS", "a,b' OR 1")]).unwrap_err(),
            "GRAFANA_PROJECTS: `b\\' OR 1` is not the name of a project: 1 to 64 letters, digits, `_`, `.` or `-`, of which the first is a letter or a digit"
        );
        for odd in NO_NAMES {
            // Blanks around a name are the list's.
            let is_list = odd.contains(',') || odd.trim() != odd || odd.is_empty();
            assert!(is_list || read(&[("GRAFANA_PROJECTS", odd)]).is_err(), "{odd:?}");
            // A blank variable is not set.
            assert!(read(&[("TALLYHOUSE_PROJECT", odd)]).is_err() || odd.trim().is_empty(), "{odd:?}");
        }
        assert_eq!(
            read(&[("CLICKHOUSE_CLIENT_NETWORKS", "10.0.0.0/8, 10.0.0.0/99")]).unwrap_err(),
            "CLICKHOUSE_CLIENT_NETWORKS: `10.0.0.0/99` is not an address or a network, such as 172.17.0.0/16"
        );
    }

    #[test]
    fn dashboards_show_the_demo_in_development_and_else_nothing() {
        let projects = |pairs| read(pairs).unwrap().engine.unwrap().grafana_projects.len();
        assert_eq!(projects(&[("TALLYHOUSE_DEV", "1")]), 1);
        assert_eq!(projects(&[]), 0);
    }
}
