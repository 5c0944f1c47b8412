//! Checks external services: a given ClickHouse, Kafka, Redis. Read-only.

use std::time::Duration;

use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::kafka::probe::{self, Topic};
use tallyhouse_service::env::Env;
use tallyhouse_service::redis::{self, Pool, RedisUrl};
use tallyhouse_sql::Connection;

use super::{Findings, Outcome};
use crate::migrate;
use crate::servers::Servers;

/// An answer of ClickHouse.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the user of the services does, as `sql/access/services.sql` grants it.
const WRITER_RIGHTS: [&str; 4] = [
    "SELECT, INSERT, ALTER TABLE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE ON tallyhouse.*",
    "SELECT ON system.parts",
    "SELECT ON system.tables",
    "SELECT ON system.processes",
];

/// The views that accounts read.
const WRITER_RIGHTS_OF_VIEWS: [&str; 2] =
    ["CREATE DATABASE, CREATE VIEW, DROP VIEW ON tallyhouse_views.*", "SET DEFINER ON definer"];

/// Beside them on a cluster, as `sql/access/cluster.sql` grants it.
const WRITER_RIGHTS_OF_CLUSTER: [&str; 6] = [
    "SELECT, CREATE DATABASE, CREATE TABLE, DROP TABLE ON tallyhouse_all.*",
    "SELECT, CREATE DATABASE, CREATE VIEW, CREATE TABLE ON tallyhouse_seen.*",
    "CREATE TABLE ON tallyhouse_views.*",
    "TABLE ENGINE ON Distributed",
    "REMOTE ON *.*",
    "SELECT ON system.clusters",
];
const READER_RIGHTS_OF_CLUSTER: [&str; 1] = ["SELECT ON tallyhouse_all.*"];

/// What questions need.
const READER_RIGHTS: [&str; 2] = ["SELECT ON tallyhouse.*", "SELECT ON system.processes"];

pub(super) async fn clickhouse(env: &dyn Env, findings: &mut Findings) {
    let given = tallyhouse_ingest::config::shards(env).and_then(|writer| Servers::given(writer, env));
    let servers = match given {
        Ok(servers) => servers,
        Err(error) => return findings.add("clickhouse", Outcome::Failed(error.to_string())),
    };
    let mut is_there = true;
    for (number, writer) in servers.shards.servers() {
        let version = ask::<String>(&writer, "SELECT version()").await;
        let answers = version.is_ok();
        is_there &= answers;
        let found = version.map(|version| format!("{} answers, version {version} (CLICKHOUSE_URL)", writer.url));
        findings.add(
            "clickhouse",
            found.map_err(|error| format!("{} does not answer (CLICKHOUSE_URL): {error}", writer.url)),
        );
        if answers {
            let of_cluster = if servers.is_cluster() { &WRITER_RIGHTS_OF_CLUSTER[..] } else { &[] };
            let all = [&WRITER_RIGHTS[..], &WRITER_RIGHTS_OF_VIEWS, of_cluster].concat();
            findings.add("rights", rights(&writer, &all).await);
            findings.add("tables", tables(&servers, number, &writer).await);
        }
    }
    if !is_there {
        return;
    }
    match tallyhouse_query_api::config::shards(env) {
        Ok(readers) => {
            let of_cluster = if servers.is_cluster() { &READER_RIGHTS_OF_CLUSTER[..] } else { &[] };
            for (_, reader) in readers.servers() {
                findings.add("rights", rights(&reader, &[&READER_RIGHTS[..], of_cluster].concat()).await);
            }
        }
        Err(error) => findings.add("rights", Outcome::Failed(error.to_string())),
    }
    match tallyhouse_query_api::config::analyst(env) {
        // Of one with `{project}` in its name there is one for each project.
        Ok(Some(analyst)) if !analyst.user.contains("{project}") => {
            findings.add("rights", rights(&analyst, &["SELECT ON tallyhouse.events"]).await);
        }
        Ok(_) => {}
        Err(error) => findings.add("rights", Outcome::Failed(error.to_string())),
    }
}

async fn rights(connection: &Connection, rights: &[&str]) -> Outcome {
    let user = &connection.user;
    let mut missing = Vec::new();
    for right in rights {
        match ask::<u8>(connection, &format!("CHECK GRANT {right}")).await {
            Ok(0) => missing.push(*right),
            Ok(_) => {}
            Err(error) => {
                return Outcome::Failed(format!(
                    "user `{user}` (CLICKHOUSE_USER) cannot be asked for its rights: {error}"
                ));
            }
        }
    }
    if missing.is_empty() {
        return Outcome::Ok(format!("user `{user}` has all it needs"));
    }
    Outcome::Failed(format!("user `{user}` lacks {}; grant it as in sql/access/services.sql", missing.join("; ")))
}

async fn tables(servers: &Servers, number: u32, writer: &Connection) -> Outcome {
    let topology = match servers.topology(number, writer).await {
        Ok(topology) => topology,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match migrate::Report::read(writer, &topology).await {
        Ok(report) if report.is_current() => Outcome::Ok("as this version needs them".to_owned()),
        Ok(report) if report.is_changed() => {
            Outcome::Failed("a migration was changed after it was applied: `tallyhouse migrate status`".to_owned())
        }
        Ok(_) => Outcome::Ok("migrations are pending, which `up` applies: `tallyhouse migrate status`".to_owned()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn ask<T>(connection: &Connection, statement: &str) -> Result<T, String>
where
    T: tallyhouse_sql::clickhouse::RowOwned + tallyhouse_sql::clickhouse::RowRead,
{
    // Bound to no database: before the first migration there is none.
    let client = connection.client().with_database("default");
    let answer = client.query(statement).fetch_one::<T>();
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}

pub(super) async fn kafka(config: Option<&KafkaConfig>, findings: &mut Findings) {
    let Some(config) = config else {
        return findings
            .add("kafka", Outcome::Ok("KAFKA_BROKERS is not set: events go through the local log".to_owned()));
    };
    let brokers = &config.brokers.bootstrap;
    let found = match probe::probe(config).await {
        Ok(found) => found,
        Err(error) => {
            let problem = format!("{brokers} does not answer (KAFKA_BROKERS, KAFKA_OPTIONS): {error}");
            return findings.add("kafka", Outcome::Failed(problem));
        }
    };
    findings.add("kafka", Outcome::Ok(format!("{} brokers answer at {brokers} (KAFKA_BROKERS)", found.brokers)));
    let (name, outcome) = (&config.topics.shared, found.topic.as_ref());
    findings.add("topic", outcome.map_or_else(|| unmade(config, found.brokers), |topic| made(name, topic)));
}

fn unmade(config: &KafkaConfig, brokers: usize) -> Outcome {
    let (name, copies) = (&config.topics.shared, config.topics.replication.unwrap_or(1));
    match usize::try_from(copies) {
        Ok(copies) if copies > brokers => Outcome::Failed(format!(
            "{name} cannot be made with {copies} copies (KAFKA_REPLICATION): there are {brokers} brokers"
        )),
        _ => Outcome::Ok(format!("{name} will be made with {} partitions (KAFKA_TOPIC)", config.topics.partitions)),
    }
}

fn made(name: &str, topic: &Topic) -> Outcome {
    let (faults, doubts) = (topic.faults(), topic.doubts());
    let what = format!("{name} has {} partitions in {} copies (KAFKA_TOPIC)", topic.partitions, topic.copies);
    match (faults.is_empty(), doubts.is_empty()) {
        (false, _) => Outcome::Failed(format!("{what}: {}", faults.join("; "))),
        (true, false) => Outcome::Warning(format!("{what}: {}", doubts.join("; "))),
        (true, true) => Outcome::Ok(what),
    }
}

/// The URL is never shown: it may hold a password.
pub(super) async fn redis(url: Option<&RedisUrl>) -> Outcome {
    let Some(url) = url else {
        return Outcome::Ok("REDIS_URL is not set: answers are cached in the process".to_owned());
    };
    let pool = match Pool::new(url, 1) {
        Ok(pool) => pool,
        Err(problem) => return Outcome::Failed(format!("REDIS_URL: {problem}")),
    };
    let pong = async {
        let mut connection = pool.get().await.map_err(|error| error.to_string())?;
        redis::cmd("PING").query_async::<String>(&mut connection).await.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(ANSWER_WITHIN, pong).await {
        Ok(Ok(_)) => Outcome::Ok("answers to PING (REDIS_URL)".to_owned()),
        Ok(Err(error)) => Outcome::Failed(format!("does not answer to PING (REDIS_URL): {error}")),
        Err(_) => Outcome::Failed("does not answer to PING (REDIS_URL)".to_owned()),
    }
}
