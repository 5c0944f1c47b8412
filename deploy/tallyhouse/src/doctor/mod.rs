//! `tallyhouse doctor`: what is there and what is not, a line each, without starting anything.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use tallyhouse_service::env::Env;

use crate::config::{Config, EngineConfig};
use crate::engine::{PINNED_VERSION, Program};

/// How long another service may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// One look at one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found, or what to do.
    pub outcome: Result<String, String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(found) => write!(f, "ok    {:<12} {found}", self.what),
            Err(problem) => write!(f, "FAIL  {:<12} {problem}", self.what),
        }
    }
}

/// Looks at everything that `tallyhouse up` would need.
pub fn examine(env: &dyn Env) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what, outcome| findings.push(Finding { what, outcome });
    match Config::from_env(env) {
        Err(error) => add("settings", Err(error.to_string())),
        Ok(config) => {
            add("data", data(&config));
            add("fsync", Ok(format!("{} (CLICKHOUSE_FSYNC)", config.fsync)));
            match &config.engine {
                Some(engine) => {
                    add("engine", program(engine));
                    add("port", free("CLICKHOUSE_HTTP_PORT", engine.http_port));
                    add("port", free("CLICKHOUSE_TCP_PORT", engine.tcp_port));
                }
                None => add("clickhouse", reachable("CLICKHOUSE_URL", env)),
            }
        }
    }
    match tallyhouse_ingest::config::Config::from_env(env) {
        Err(error) => add("ingest", Err(error.to_string())),
        Ok(config) => {
            add("port", listenable("INGEST_ADDR", config.address));
            add("port", listenable("INGEST_ADMIN_ADDR", config.admin_address));
        }
    }
    match tallyhouse_query_api::Config::from_env(env) {
        Err(error) => add("query-api", Err(error.to_string())),
        Ok(config) => {
            add("port", listenable("QUERY_ADDR", config.address));
            add("port", listenable("QUERY_ADMIN_ADDR", config.admin_address));
        }
    }
    match env.get("REDIS_URL") {
        None => add("redis", Ok("REDIS_URL is not set: answers are cached in the process".to_owned())),
        Some(_) => add("redis", reachable("REDIS_URL", env)),
    }
    findings
}

fn data(config: &Config) -> Result<String, String> {
    let path = config.data.display();
    match config.data.metadata() {
        Ok(found) if found.is_dir() && !found.permissions().readonly() => Ok(format!("{path}")),
        Ok(_) => Err(format!("{path} is not a writable folder; choose another with TALLYHOUSE_DATA")),
        Err(_) => Ok(format!("{path} will be created")),
    }
}

fn program(engine: &EngineConfig) -> Result<String, String> {
    let program = engine.program().map_err(|error| error.to_string())?;
    program.check().map_err(|error| error.to_string())?;
    Ok(match program {
        Program::Library(path) => format!("library {PINNED_VERSION}, {}", path.display()),
        Program::Server(path) => format!("server {}", path.display()),
    })
}

fn free(variable: &str, port: u16) -> Result<String, String> {
    listenable(variable, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn listenable(variable: &str, address: SocketAddr) -> Result<String, String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free ({variable})")),
        Err(error) => Err(format!("{address} cannot be listened on: {error}; choose another with {variable}")),
    }
}

/// Whether somebody accepts connections at the host and port of a URL. The URL itself is never shown: it may hold a
/// password.
fn reachable(variable: &str, env: &dyn Env) -> Result<String, String> {
    let url = env.get(variable).unwrap_or_default();
    let address = authority(&url).ok_or_else(|| format!("{variable} is not of the form scheme://host:port"))?;
    let resolved = address.to_socket_addrs().ok().and_then(|mut found| found.next());
    let resolved = resolved.ok_or_else(|| format!("{address} is not a known host and port ({variable})"))?;
    match TcpStream::connect_timeout(&resolved, CONNECT_WITHIN) {
        Ok(_) => Ok(format!("{address} accepts connections ({variable})")),
        Err(error) => Err(format!("{address} does not accept connections: {error} ({variable})")),
    }
}

/// `host:port` of `scheme://user:password@host:port/path`.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let rest = rest.split(['/', '?']).next()?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.contains(':').then_some(host)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_password_in_a_url_is_left_out() {
        assert_eq!(authority("redis://:hunter2@cache:6379/0"), Some("cache:6379"));
        assert_eq!(authority("cache:6379"), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_variable() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let env = BTreeMap::from([
            ("CLICKHOUSE_HTTP_PORT".to_owned(), port.to_string()),
            ("TALLYHOUSE_ENGINE".to_owned(), "library".to_owned()),
            ("TALLYHOUSE_ENGINE_LIBRARY".to_owned(), "/nowhere/libchdb.so".to_owned()),
        ]);
        let problems: Vec<String> = examine(&env).into_iter().filter_map(|finding| finding.outcome.err()).collect();
        assert!(problems.iter().any(|problem| problem.contains("CLICKHOUSE_HTTP_PORT")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("/nowhere/libchdb.so")), "{problems:?}");
    }
}
