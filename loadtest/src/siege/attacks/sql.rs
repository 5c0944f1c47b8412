//! Statements that read what is not the asker's: files, the environment, other servers, other tenants. Through `/v1/sql`, and as the
//! user that Grafana is given. Refused, or without a byte of it.

use std::time::Duration;

use serde_json::json;

use super::Findings;
use crate::clickhouse::ClickHouse;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{Answer, ask, request};

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// Nobody gets an answer to these.
const REFUSED: &[&str] = &[
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM file('/proc/self/environ', 'RawBLOB')",
    "SELECT * FROM file('credentials', 'LineAsString')",
    "SELECT * FROM file('../credentials', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:1/a', 'LineAsString')",
    "SELECT * FROM remote('127.0.0.1:1', 'system', 'one')",
    "SELECT * FROM executable('id', 'LineAsString')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM sqlite('/etc/passwd', 'a')",
    "SELECT * FROM mergeTreeIndex('tallyhouse', 'events')",
    "SELECT * FROM system.query_log LIMIT 1",
    "SELECT name FROM system.users",
    "SELECT * FROM tallyhouse.dead_letters LIMIT 1",
    "INSERT INTO FUNCTION file('siege', 'CSV') SELECT 1",
    "SELECT 1 SETTINGS max_memory_usage = 0",
    "DROP TABLE tallyhouse.events",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
];

/// Customers do not get an answer to these; they tell of the machine.
const REFUSED_TO_CUSTOMERS: &[&str] = &[
    "SELECT name, value FROM system.server_settings",
    "SELECT * FROM system.processes",
    "SELECT getServerPort('tcp_port')",
    "SELECT filesystemAvailable()",
    "SELECT showCertificate()",
    "SELECT dumpColumnStructure(1)",
    "SELECT 1 INTO OUTFILE '/tmp/siege'",
    "SELECT 1 SETTINGS readonly = 0",
    "SET max_execution_time = 0",
    "SELECT 1; SELECT 2",
];

/// Whatever is answered, it is the asker's own.
const OWN_ONLY: &[&str] = &[
    "SELECT DISTINCT project_id FROM events",
    "SELECT * FROM merge('system', '.*') LIMIT 1",
    "SELECT DISTINCT project_id FROM merge('tallyhouse', 'events.*')",
];

/// Of files, of the environment, and the other project's name: the attacker has `guest`, Grafana `demo`.
const OF_OTHERS: [&str; 4] = ["root:", "PATH=", "user_hash_key", "\"demo\""];
const OF_OTHERS_TO_GRAFANA: [&str; 4] = ["root:", "PATH=", "user_hash_key", "guest"];

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let mut findings = Findings::default();
    let grafana = ClickHouse::with_timeout(&target.grafana, ANSWERED_WITHIN)?;
    let mut told = Vec::new();
    for sql in [REFUSED, REFUSED_TO_CUSTOMERS, OWN_ONLY].concat() {
        match customer(target, sql).await {
            None => findings.broken.push(format!("/v1/sql: no answer to {sql}")),
            // A busy place refuses before it has read the statement.
            Some(Answer { status, .. }) if status >= 500 && status != 503 => {
                findings.broken.push(format!("/v1/sql: {status} to {sql}"));
            }
            Some(Answer { status: 400.., .. }) => {}
            Some(answer) => {
                if !OWN_ONLY.contains(&sql) || OF_OTHERS.iter().any(|secret| answer.text.contains(secret)) {
                    told.push(format!("/v1/sql: {sql}"));
                }
            }
        }
        if let Ok(body) = grafana.raw(sql).await {
            let text = String::from_utf8_lossy(&body);
            if REFUSED.contains(&sql) || OF_OTHERS_TO_GRAFANA.iter().any(|secret| text.contains(secret)) {
                told.push(format!("grafana: {sql}"));
            }
        }
    }
    let all = REFUSED.len() + REFUSED_TO_CUSTOMERS.len() + OWN_ONLY.len();
    findings.note(format!("{} statements, {} told too much", 2 * all, told.len()));
    findings.expect(told.is_empty(), || format!("told: {}", told.join("; ")));
    Ok(findings)
}

async fn customer(target: &Target, sql: &str) -> Option<Answer> {
    let headers = [("x-api-key", target.attacker.query_key.as_str()), ("content-type", "application/json")];
    let body = json!({ "sql": sql }).to_string();
    ask(target.ports.query, &request("POST /v1/sql", &headers, body.as_bytes()), ANSWERED_WITHIN).await
}
