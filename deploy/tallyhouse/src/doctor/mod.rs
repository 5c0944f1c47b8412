//! `tallyhouse doctor`: checks everything that `up` needs, one line per check, without starting or leaving anything.
//!
//! `machine` checks this machine: data folder, engine, ports, limits. `services` checks ClickHouse, Kafka and Redis. [`running`] checks what runs
//! (`--running`).

mod machine;
pub mod running;
mod services;

use std::fmt;

use tallyhouse_control::schemas::Seeds;
use tallyhouse_ingest::config as ingest;
use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::projects::OwnTopics;
use tallyhouse_query_api::config as query;
use tallyhouse_service::config::{Redis, tls_variable};
use tallyhouse_service::env::{Env, read, unknown};
use tallyhouse_service::tls::ServerFiles;

use crate::config::{Config, ports_apart, without_effect};
use crate::credentials::Credentials;

/// One look at one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub outcome: Outcome,
}

/// How a thing is: what was found, or what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok(String),
    /// A start would succeed, and this may be unintended.
    Warning(String),
    /// A start would fail, or nothing would work.
    Failed(String),
}

impl Finding {
    /// Whether a start would fail.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.outcome {
            Outcome::Ok(text) => ("ok", text),
            Outcome::Warning(text) => ("warning", text),
            Outcome::Failed(text) => ("failed", text),
        };
        write!(f, "{word:<8} {:<11} {text}", self.what)
    }
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: &'static str, outcome: impl Into<Outcome>) {
        self.0.push(Finding { what, outcome: outcome.into() });
    }
}

impl<T: Into<String>, E: Into<String>> From<Result<T, E>> for Outcome {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(found) => Self::Ok(found.into()),
            Err(problem) => Self::Failed(problem.into()),
        }
    }
}

/// Looks at everything that `tallyhouse up` would need.
pub async fn examine(env: &dyn Env) -> Vec<Finding> {
    let mut findings = Findings::default();
    for warning in unknown(env).into_iter().chain(without_effect(env)) {
        findings.add("variables", Outcome::Warning(warning));
    }
    let text = |error: &dyn fmt::Display| error.to_string();
    let own = Config::from_env(env).map_err(|error| findings.add("variables", Outcome::Failed(text(&error)))).ok();
    let ingest =
        ingest::Config::from_env(env).map_err(|error| findings.add("ingest", Outcome::Failed(text(&error)))).ok();
    let query =
        query::Config::from_env(env).map_err(|error| findings.add("query-api", Outcome::Failed(text(&error)))).ok();
    findings.add("schemas", schemas(env));
    if let Some(files) = ingest.as_ref().and_then(|ingest| ingest.tls.as_ref()) {
        findings.add("tls", certificate(files));
    }
    if let Some(config) = &own {
        machine::examine(config, ingest.as_ref(), query.as_ref(), &mut findings).await;
        findings.add("keys", keys(config));
        findings.add("hash key", hash_key(config, env));
        findings.add("fsync", Outcome::Ok(format!("{} (CLICKHOUSE_FSYNC)", config.tables.fsync)));
        if config.engine.is_none() {
            services::clickhouse(env, &mut findings).await;
        }
    }
    if let (Some(config), Some(ingest), Some(query)) = (&own, &ingest, &query)
        && let Err(error) = ports_apart(config, ingest, query)
    {
        findings.add("port", Outcome::Failed(error.to_string()));
    }
    // Apart from the rest, so that a mistake there does not hide these. What is wrong with them is told above.
    if let Ok(kafka) = KafkaConfig::from_env(env, OwnTopics::default()) {
        services::kafka(kafka.as_ref(), &mut findings).await;
    }
    if let Ok(url) = read::<Redis>(env).and_then(Redis::url) {
        findings.add("redis", services::redis(url.as_ref()).await);
    }
    findings.0
}

fn certificate(files: &ServerFiles) -> Outcome {
    match files.examine() {
        Ok((until, None)) => Outcome::Ok(format!("the certificate is valid until {until} (TLS_CERT)")),
        Ok((_, Some(problem))) => Outcome::Warning(format!("{problem} (TLS_CERT)")),
        Err(error) => Outcome::Failed(format!("{}: {error}", tls_variable(files, &error))),
    }
}

fn schemas(env: &dyn Env) -> Outcome {
    let seeds = Seeds::from_env(env).map_err(|error| error.to_string());
    seeds
        .map(|seeds| {
            format!(
                "{} event types are declared at the first start (TALLYHOUSE_SCHEMAS)",
                seeds.catalogue().declared().count()
            )
        })
        .into()
}

fn keys(config: &Config) -> Outcome {
    if config.is_development {
        return Outcome::Warning("the well-known keys of development are let in (TALLYHOUSE_DEV)".to_owned());
    }
    Outcome::Warning(
        "there is no API key, so nobody is let in; TALLYHOUSE_DEV=1 accepts the development keys".to_owned(),
    )
}

fn hash_key(config: &Config, env: &dyn Env) -> Outcome {
    if config.engine.is_none() {
        let key = ingest::user_hash_key(env).map_err(|error| error.to_string());
        return key.map(|_| "32 hexadecimal digits (USER_HASH_KEY)").into();
    }
    match Credentials::load(&config.data) {
        Ok(None) => Outcome::Ok("will be made, in `credentials` below the data folder".to_owned()),
        Ok(Some((known, _))) if ingest::parse_key(known.user_hash_key.expose()).is_some() => {
            Outcome::Ok("in `credentials` below the data folder".to_owned())
        }
        Ok(Some(_)) => Outcome::Failed(
            "USER_HASH_KEY in `credentials` is not 32 hexadecimal digits; put the file back from a backup".to_owned(),
        ),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    async fn failures(pairs: &[(&str, &str)]) -> Vec<String> {
        let env: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let findings = examine(&env).await;
        findings.iter().filter(|finding| finding.is_failure()).map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn what_is_wrong_is_reported_with_the_variable() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let problems = failures(&[
            ("CLICKHOUSE_HTTP_PORT", &port),
            ("TALLYHOUSE_ENGINE", "library"),
            ("TALLYHOUSE_ENGINE_LIBRARY", "/nowhere/libchdb.so"),
            ("TALLYHOUSE_DATA", "/proc/nowhere"),
            ("TALLYHOUSE_SCHEMAS", "/nowhere/schemas"),
            ("REDIS_URL", "redis://:hunter2@127.0.0.1:1"),
        ])
        .await;
        for part in
            ["CLICKHOUSE_HTTP_PORT", "/nowhere/libchdb.so", "TALLYHOUSE_DATA", "TALLYHOUSE_SCHEMAS", "REDIS_URL"]
        {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
        }
        assert!(!problems.iter().any(|problem| problem.contains("hunter2")), "{problems:?}");
    }

    #[tokio::test]
    async fn services_that_are_away_are_reported() {
        let problems = failures(&[
            ("CLICKHOUSE_URL", "http://127.0.0.1:1"),
            ("KAFKA_BROKERS", "127.0.0.1:1"),
            ("INGEST_ADMIN_ADDR", "127.0.0.1:8081"),
        ])
        .await;
        for part in ["CLICKHOUSE_URL", "KAFKA_BROKERS", "USER_HASH_KEY", "INGEST_ADMIN_ADDR"] {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
        }
    }

    #[tokio::test]
    async fn what_may_be_unintended_is_a_warning() {
        let env = BTreeMap::from([("INGEST_BATCH_ROW".to_owned(), "1".to_owned())]);
        let findings = examine(&env).await;
        let found = findings.iter().find(|finding| finding.to_string().contains("did you mean INGEST_BATCH_ROWS?"));
        assert!(found.unwrap().to_string().starts_with("warning "), "{found:?}");
    }
}
