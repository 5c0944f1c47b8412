//! Configuration: the only file of this crate that reads variables. The services read their own.

use std::net::SocketAddr;
use std::path::PathBuf;

use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::durability::Fsync;

use crate::engine::{Choice, Program, ProgramError, ProjectName};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `TALLYHOUSE_DATA`: everything that is kept.
    pub data: PathBuf,
    /// `TALLYHOUSE_DEV`: well-known keys and passwords.
    pub is_development: bool,
    /// `CLICKHOUSE_FSYNC`: `on` for inserts that survive a power cut.
    pub fsync: Fsync,
    /// `None` when `CLICKHOUSE_URL` says where another ClickHouse is.
    pub engine: Option<EngineConfig>,
}

/// The embedded ClickHouse.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `CLICKHOUSE_HTTP_PORT`
    pub http_port: u16,
    /// `CLICKHOUSE_TCP_PORT`
    pub tcp_port: u16,
    /// `TALLYHOUSE_ENGINE`: `auto`, `library` or `server`.
    pub choice: Choice,
    /// `TALLYHOUSE_ENGINE_LIBRARY`: where libchdb.so is, when it is not where `make run` puts it.
    pub library: Option<PathBuf>,
    /// `GRAFANA_PROJECTS`: what the ClickHouse user `grafana` sees, with commas between; `demo` in development.
    pub grafana_projects: Vec<ProjectName>,
    /// `PATH`, to look for `clickhouse`.
    path: String,
}

impl Config {
    /// Reads the configuration.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let is_development = tallyhouse_service::config::is_development(env)?;
        let engine = match env.get("CLICKHOUSE_URL") {
            Some(_) => None,
            None => Some(EngineConfig::from_env(env, is_development)?),
        };
        let fsync = if env::switch(env, "CLICKHOUSE_FSYNC")? { Fsync::On } else { Fsync::Off };
        Ok(Self { data: env::path(env, "TALLYHOUSE_DATA", "./data"), is_development, fsync, engine })
    }
}

impl EngineConfig {
    fn from_env(env: &dyn Env, is_development: bool) -> Result<Self, ConfigError> {
        let port = |name, default| env::bounded(env, name, (1, u16::MAX.into()), default).map(|port| port as u16);
        Ok(Self {
            http_port: port("CLICKHOUSE_HTTP_PORT", 8123)?,
            tcp_port: port("CLICKHOUSE_TCP_PORT", 9000)?,
            choice: env::parsed(env, "TALLYHOUSE_ENGINE", "auto, library or server", Choice::Auto)?,
            library: env.get("TALLYHOUSE_ENGINE_LIBRARY").map(PathBuf::from),
            grafana_projects: projects(env, if is_development { "demo" } else { "" })?,
            path: env.get("PATH").unwrap_or_default(),
        })
    }

    /// What is to be run.
    pub fn program(&self) -> Result<Program, ProgramError> {
        Program::find(self.choice, self.library.clone(), &self.path)
    }
}

/// `TALLYHOUSE_KEY`: the key with which `dlq replay` sends.
pub fn replay_key(env: &dyn Env) -> Option<Secret> {
    env.get("TALLYHOUSE_KEY").map(|key| Secret::new(key.trim()))
}

/// Where commands tell which days they changed.
pub struct Telling {
    /// `REDIS_URL`
    pub redis_url: Option<Secret>,
    /// `QUERY_ADMIN_ADDR`: of the query API that runs.
    pub query_admin: SocketAddr,
}

impl Telling {
    /// Reads the configuration.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let redis_url = env.get("REDIS_URL").map(|url| Secret::new(url.trim()));
        Ok(Self { redis_url, query_admin: env::address(env, "QUERY_ADMIN_ADDR", ([127, 0, 0, 1], 9082))? })
    }
}

fn projects(env: &dyn Env, default: &str) -> Result<Vec<ProjectName>, ConfigError> {
    let text = env.get("GRAFANA_PROJECTS").unwrap_or_else(|| default.to_owned());
    let bad = |name: &str| ConfigError::new("GRAFANA_PROJECTS", format!("`{name}` is not the name of a project"));
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| name.parse().map_err(|()| bad(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
            "GRAFANA_PROJECTS: `b' OR 1` is not the name of a project"
        );
    }

    #[test]
    fn dashboards_show_the_demo_in_development_and_else_nothing() {
        let projects = |pairs| read(pairs).unwrap().engine.unwrap().grafana_projects.len();
        assert_eq!(projects(&[("TALLYHOUSE_DEV", "1")]), 1);
        assert_eq!(projects(&[]), 0);
    }
}
