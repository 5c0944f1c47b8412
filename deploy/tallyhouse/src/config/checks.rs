//! Checks for variables that contradict each other in one process, and for variables without effect there.

use std::net::SocketAddr;

use tallyhouse_query_api as query_api;
use tallyhouse_service::config::without_tls;
use tallyhouse_service::env::{self, ConfigError, Env, apart, unused};

use super::{Config, EngineConfig};

/// Refuses what contradicts itself, of the engine alone.
pub(super) fn check(env: &dyn Env, config: &Config) -> Result<(), ConfigError> {
    let Some(engine) = &config.engine else { return Ok(()) };
    apart(&ports(engine))?;
    if env::is_set(env, "USER_HASH_KEY") {
        let problem = format!(
            "is only for a given ClickHouse (CLICKHOUSE_URL): the embedded one has a key of its own in {}",
            config.data.join("credentials").display()
        );
        return Err(ConfigError::new("USER_HASH_KEY", problem));
    }
    Ok(())
}

/// Refuses ports of `up` that are the same.
pub fn ports_apart(
    config: &Config,
    ingest: &tallyhouse_ingest::config::Config,
    query: &query_api::Config,
) -> Result<(), ConfigError> {
    let mut all = config.engine.as_ref().map(ports).unwrap_or_default();
    all.extend([
        ("INGEST_ADDR", ingest.address),
        ("INGEST_ADMIN_ADDR", ingest.admin_address),
        ("QUERY_ADDR", query.address),
        ("QUERY_ADMIN_ADDR", query.admin_address),
    ]);
    apart(&all)
}

fn ports(engine: &EngineConfig) -> Vec<(&'static str, SocketAddr)> {
    let local = |port| SocketAddr::from((engine.listen, port));
    let native = engine.tcp_port.map(|port| ("CLICKHOUSE_TCP_PORT", local(port)));
    [("CLICKHOUSE_HTTP_PORT", local(engine.http_port))].into_iter().chain(native).collect()
}

/// Of a given ClickHouse.
const OF_GIVEN: [&str; 8] = [
    "CLICKHOUSE_ANALYST_PASSWORD",
    "CLICKHOUSE_ANALYST_USER",
    "CLICKHOUSE_CA",
    "CLICKHOUSE_CLUSTER",
    "CLICKHOUSE_PASSWORD",
    "CLICKHOUSE_USER",
    "CLICKHOUSE_WRITER_PASSWORD",
    "CLICKHOUSE_WRITER_USER",
];

/// Of the embedded one.
const OF_EMBEDDED: [&str; 8] = [
    "CLICKHOUSE_CLIENT_NETWORKS",
    "CLICKHOUSE_HTTP_PORT",
    "CLICKHOUSE_LISTEN",
    "CLICKHOUSE_TCP_PORT",
    "GRAFANA_PROJECTS",
    "TALLYHOUSE_CAGE",
    "TALLYHOUSE_ENGINE",
    "TALLYHOUSE_ENGINE_LIBRARY",
];

/// A warning for each variable that is set and does nothing.
pub fn without_effect(env: &dyn Env) -> Vec<String> {
    let mut warnings = match env.get("CLICKHOUSE_URL") {
        None => unused(env, &OF_GIVEN, "without CLICKHOUSE_URL"),
        Some(_) => unused(env, &OF_EMBEDDED, "with CLICKHOUSE_URL"),
    };
    if env.get("CLICKHOUSE_URL").is_some() {
        warnings.extend(query_api::config::without_effect(env));
    }
    warnings.extend(tallyhouse_ingest::config::without_effect(env));
    warnings.extend(without_tls(env));
    warnings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refused(pairs: &[(&str, &str)]) -> ConfigError {
        let env = env(pairs);
        let read = || {
            let config = Config::from_env(&env)?;
            let ingest = tallyhouse_ingest::config::Config::from_env(&env)?;
            ports_apart(&config, &ingest, &query_api::Config::from_env(&env)?)
        };
        read().unwrap_err()
    }

    #[test]
    fn contradictions_are_refused_and_name_both() {
        let cases = [
            (("CLICKHOUSE_TCP_PORT", "8123"), "CLICKHOUSE_HTTP_PORT"),
            (("INGEST_ADDR", "0.0.0.0:8123"), "CLICKHOUSE_HTTP_PORT"),
            (("QUERY_ADDR", "127.0.0.1:8081"), "INGEST_ADDR"),
            (("QUERY_ADMIN_ADDR", "127.0.0.1:9081"), "INGEST_ADMIN_ADDR"),
            (("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f"), "CLICKHOUSE_URL"),
        ];
        for ((name, value), other) in cases {
            let error = refused(&[(name, value)]);
            assert_eq!(error.variable, name, "{error}");
            assert!(error.problem.contains(other) && !error.problem.contains("0001020304"), "{error}");
        }
    }

    #[test]
    fn a_given_clickhouse_takes_a_key_and_no_ports() {
        let given = [("CLICKHOUSE_URL", "http://ch:8123"), ("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f")];
        assert!(Config::from_env(&env(&given)).is_ok());
    }

    #[test]
    fn what_does_nothing_is_reported() {
        assert_eq!(without_effect(&BTreeMap::new()), <[String; 0]>::default());
        let embedded = env(&[("CLICKHOUSE_USER", "u"), ("KAFKA_GROUP", "g")]);
        assert_eq!(
            without_effect(&embedded),
            ["CLICKHOUSE_USER has no effect without CLICKHOUSE_URL", "KAFKA_GROUP has no effect without KAFKA_BROKERS"]
        );
        let given = env(&[("CLICKHOUSE_URL", "http://ch:8123"), ("TALLYHOUSE_ENGINE", "server")]);
        assert_eq!(without_effect(&given), ["TALLYHOUSE_ENGINE has no effect with CLICKHOUSE_URL"]);
    }
}
