//! Statements of an analyst that take seconds, whose sender hangs up: what ClickHouse still does for them must be bounded.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

use super::Findings;
use crate::clickhouse::ClickHouse;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{ask, connect, request};

/// How long each is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

const EVENTS: usize = 500;

/// Statements of the attacker that run at the same time at most.
const RUNNING: u64 = 4;

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    have_events(target).await?;
    let clickhouse = ClickHouse::with_timeout(&target.writer, Duration::from_secs(5))?;
    let until = Instant::now() + target.scale.lasts();
    let (mut sent, mut most) = (0, 0);
    while sent < 10 || Instant::now() < until {
        // One block of rows, which ClickHouse does not leave half-way.
        let fold = "arrayFold((acc, x) -> sipHash64(acc, x), range(40000), sipHash64(event_id))";
        let sql = format!("SELECT max({fold}) AS siege_{sent} FROM events");
        let body = json!({ "sql": sql }).to_string();
        let headers = [("x-api-key", target.attacker.query_key.as_str()), ("content-type", "application/json")];
        if let Ok(mut stream) = connect(target.ports.query).await {
            drop(stream.write_all(&request("POST /v1/sql", &headers, body.as_bytes())).await);
            sleep(PATIENCE).await;
        }
        sent += 1;
        let running = "SELECT count() FROM system.processes WHERE query LIKE '%AS siege\\_%' AND query NOT LIKE '%system.processes%'";
        most = most.max(clickhouse.number(running).await.unwrap_or_default());
    }
    let mut findings = Findings::default();
    findings.note(format!("{sent} statements, {most} at a time in ClickHouse"));
    findings.expect(most <= RUNNING, || format!("{most} statements of people who had gone ran at once"));
    Ok(findings)
}

/// Events of the attacker's own, to be read again and again.
async fn have_events(target: &Target) -> Result<(), SiegeError> {
    let headers = [("x-api-key", target.attacker.ingest_key.as_str()), ("content-type", "application/json")];
    let events = vec![r#"{"eventType":"siege_read"}"#; EVENTS].join(",");
    let body = request("POST /v1/events?wait=stored", &headers, format!("[{events}]").as_bytes());
    ask(target.ports.ingest, &body, Duration::from_secs(20)).await;
    Ok(())
}
