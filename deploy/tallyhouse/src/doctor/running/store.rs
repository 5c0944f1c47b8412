//! What ClickHouse says of itself: parts, mutations, room on its disks. Asked as the user that writes.

use std::time::Duration;

use tallyhouse_service::env::Env;
use tallyhouse_sql::Connection;
use tallyhouse_sql::clickhouse::{self, Row};

use super::Runbook;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::doctor::{Findings, Outcome};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Parts of a partition: at 1,000 ClickHouse slows inserts down, at 3,000 it refuses them.
const PARTS: u64 = 300;

/// A mutation that is not done after so many seconds is stuck, unless the table is huge.
const MUTATION_S: u64 = 900;

/// The share of a disk that is free. The local log says itself when its reserve is reached.
const FREE: (f64, f64) = (0.02, 0.1);

#[derive(Debug, serde::Deserialize, Row)]
struct State {
    /// Of the fullest partition.
    parts: u64,
    mutations: u64,
    oldest_mutation_s: u64,
    failure: String,
    /// Of the fullest disk.
    free: f64,
}

/// A scalar subquery is nullable, whatever it selects.
const STATE: &str = "SELECT \
    toUInt64(ifNull((SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts \
        WHERE active AND database = 'tallyhouse' GROUP BY table, partition_id)), 0)) AS parts, \
    toUInt64(ifNull((SELECT count() FROM system.mutations WHERE database = 'tallyhouse' AND NOT is_done), 0)) AS mutations, \
    toUInt64(ifNull((SELECT max(greatest(0, dateDiff('second', create_time, now()))) FROM system.mutations \
        WHERE database = 'tallyhouse' AND NOT is_done), 0)) AS oldest_mutation_s, \
    ifNull((SELECT max(latest_fail_reason) FROM system.mutations WHERE database = 'tallyhouse' AND NOT is_done), '') AS failure, \
    toFloat64(ifNull((SELECT min(free_space / total_space) FROM system.disks WHERE total_space > 0), 1)) AS free";

pub(super) async fn examine(env: &dyn Env, findings: &mut Findings) {
    let servers = match servers(env) {
        Ok(servers) => servers,
        Err(problem) => return findings.add("store", Outcome::Warning(problem)),
    };
    for connection in servers {
        let client = connection.client().with_database("default");
        let asked = client.query(STATE).fetch_one::<State>();
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(state)) => judge(&state).into_iter().for_each(|outcome| findings.add("store", outcome)),
            Ok(Err(error)) => findings.add("store", away(&connection, &error.to_string())),
            Err(_) => findings.add("store", away(&connection, &format!("no answer within {ANSWER_WITHIN:?}"))),
        }
    }
}

fn away(connection: &Connection, problem: &str) -> Outcome {
    let first = problem.lines().next().unwrap_or_default();
    Outcome::Failed(Runbook("clickhouse-down").told(&format!("{} does not answer, {first}", connection.url)))
}

/// Where it is: `CLICKHOUSE_URL`, each of several, else the embedded one of this data folder, whether it runs or not.
fn servers(env: &dyn Env) -> Result<Vec<Connection>, String> {
    let config = Config::from_env(env).map_err(|error| error.to_string())?;
    let Some(engine) = &config.engine else {
        let shards = tallyhouse_ingest::config::shards(env).map_err(|error| error.to_string())?;
        return Ok(shards.servers().into_iter().map(|(_, server)| server).collect());
    };
    let Some((credentials, _)) = Credentials::load(&config.data).map_err(|error| error.to_string())? else {
        return Err(format!("there are no credentials in {}: ClickHouse is not asked", config.data.display()));
    };
    Ok(vec![Connection {
        url: format!("http://127.0.0.1:{}", engine.http_port),
        user: "writer".to_owned(),
        password: credentials.writer.expose().to_owned(),
        tls: None,
    }])
}

fn judge(state: &State) -> Vec<Outcome> {
    let mut found = Vec::new();
    if state.parts > PARTS {
        let told = format!("a partition has {} parts, more than {PARTS}", state.parts);
        found.push(Outcome::Failed(Runbook("too-many-parts").told(&told)));
    }
    if !state.failure.is_empty() {
        let first: String = state.failure.chars().take(120).collect();
        found.push(Outcome::Failed(
            Runbook("stuck-mutation").told(&format!("a mutation fails again and again, {first}")),
        ));
    } else if state.oldest_mutation_s > MUTATION_S {
        let told = format!("a mutation is not done for {} s", state.oldest_mutation_s);
        found.push(Outcome::Warning(Runbook("stuck-mutation").told(&told)));
    }
    let told = Runbook("disk-full").told(&format!("{:.0} % of a disk of ClickHouse are free", state.free * 100.0));
    let (page, ticket) = FREE;
    if state.free < page {
        found.push(Outcome::Failed(told));
    } else if state.free < ticket {
        found.push(Outcome::Warning(told));
    }
    if found.is_empty() {
        let (parts, mutations) = (state.parts, state.mutations);
        found.push(Outcome::Ok(format!(
            "ClickHouse answers; at most {parts} parts in a partition, {mutations} mutations to do"
        )));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State { parts: 12, mutations: 0, oldest_mutation_s: 0, failure: String::new(), free: 0.5 }
    }

    #[test]
    fn what_is_wrong_with_the_store_names_the_runbook() {
        let runbooks = |state: State| -> String {
            judge(&state)
                .iter()
                .map(|outcome| match outcome {
                    Outcome::Ok(_) => "ok".to_owned(),
                    Outcome::Warning(text) => format!("warning {}", text.rsplit('/').next().unwrap_or_default()),
                    Outcome::Failed(text) => format!("failed {}", text.rsplit('/').next().unwrap_or_default()),
                })
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert_eq!(runbooks(state()), "ok");
        assert_eq!(
            runbooks(State { parts: 301, free: 0.05, ..state() }),
            "failed too-many-parts.md, warning disk-full.md"
        );
        assert_eq!(runbooks(State { failure: "Code: 395".to_owned(), ..state() }), "failed stuck-mutation.md");
        assert_eq!(
            runbooks(State { oldest_mutation_s: 901, free: 0.01, ..state() }),
            "warning stuck-mutation.md, failed disk-full.md"
        );
    }
}
