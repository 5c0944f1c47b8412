//! Breaks a system on purpose, once for each runbook, and follows it. `RUNBOOKS=all` (`make runbooks`) breaks everything; otherwise what needs no
//! Kafka and no second system.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tallyhouse_loadtest::brokers::Brokers;
use tallyhouse_loadtest::system::System;
use tallyhouse_service::env::{Env, ProcessEnv};
use tallyhouse_testkit::{Folder, Redis, SmallDisk, eventually, is_kafka_off, skipped};

use super::files::{alerts, repository};
use super::runbook::{PARTS, Shell, all};

/// Runbooks whose commands are run on a system that is well but for load: they look, and change a setting and back.
const LOOKED_AT: [&str; 13] = [
    "freshness",
    "error-budget",
    "query-errors",
    "query-slow",
    "ingest-errors",
    "ingest-slow",
    "cache-hits-low",
    "rejected-events",
    "events-lost",
    "key-leaked",
    "resources",
    "pool-busy",
    "redis-memory",
];

/// Those that a system is broken for, in the tests below.
const BROKEN: [&str; 15] = [
    "redis-down",
    "clickhouse-down",
    "local-log-growing",
    "too-many-parts",
    "stuck-mutation",
    "drift",
    "poison-record",
    "stampede",
    "instance-down",
    "region-lost",
    "kafka-down",
    "lag",
    "hot-partition",
    "disk-full",
    "certificate-expired",
];

fn is_long() -> bool {
    ProcessEnv.get("RUNBOOKS").is_some_and(|value| value == "all")
}

#[test]
fn each_runbook_has_its_parts_and_is_run() {
    let run: BTreeSet<&str> = LOOKED_AT.into_iter().chain(BROKEN).collect();
    let linked: BTreeSet<String> = alerts().into_values().map(|alert| alert.runbook).collect();
    let there = all();
    for runbook in &there {
        let name = &runbook.name;
        assert!(run.contains(name.as_str()), "{name} is run by no test");
        let headings: Vec<&str> = runbook.text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, PARTS, "{name}");
        assert!(!runbook.blocks("Check").is_empty(), "{name}: nothing to look at");
        let file = format!("deploy/runbooks/{name}.md");
        assert!(linked.contains(&file) || runbook.text.contains("Alerts: none"), "no alert leads to {name}");
        for link in runbook.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            assert!(repository().join("deploy/runbooks").join(file).exists(), "{name} links to {link}");
        }
    }
    assert_eq!(there.len(), run.len());
}

/// A system that somebody is on call for.
struct Place {
    system: System,
    redis: Redis,
    shell: Shell,
}

fn shell_of(system: &System, more: &[(&str, &str)]) -> Shell {
    let ports = system.ports();
    let address = |port: u16| format!("127.0.0.1:{port}");
    let binaries = Path::new(env!("CARGO_BIN_EXE_tallyhouse")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), ProcessEnv.get("PATH").unwrap_or_default());
    let mut env: Vec<(String, String)> = [
        ("PATH", path),
        ("TALLYHOUSE_DEV", "1".to_owned()),
        ("TALLYHOUSE_DATA", system.data().display().to_string()),
        ("INGEST_ADDR", address(ports.ingest)),
        ("INGEST_ADMIN_ADDR", address(ports.ingest_admin)),
        ("QUERY_ADDR", address(ports.query)),
        ("QUERY_ADMIN_ADDR", address(ports.query_admin)),
        ("CLICKHOUSE_HTTP_PORT", ports.clickhouse_http.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Shell { env }
}

impl Place {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let redis = Redis::start().await;
        let all = [&[("REDIS_URL", redis.url.as_str())], settings].concat();
        let system = System::start_with(env!("CARGO_BIN_EXE_tallyhouse").as_ref(), &all).await.unwrap();
        let shell = shell_of(&system, &all);
        let place = Self { system, redis, shell };
        place.send("order", 50).await;
        let ask = "curl -sS --fail-with-body \"http://$QUERY_ADDR/v1/metrics/events\" -H 'X-API-Key: demo-query-key'";
        let (answered, output) = place.shell.paste(ask).await;
        assert!(answered, "{output}");
        place.says("ok").await;
        place
    }

    /// Sends events, and waits until they are stored.
    async fn send(&self, event_type: &str, events: usize) {
        let event = format!(
            r#"{{"eventType":"{event_type}","userId":"u-1","properties":{{"amount":1}},"context":{{"country":"DE"}}}}"#
        );
        let body = vec![event; events].join("\n");
        let send = format!(
            "curl -sS --fail-with-body \"http://$INGEST_ADDR/v1/events?wait=stored\" -H 'X-API-Key: demo-ingest-key' -H 'Content-Type: application/x-ndjson' --data-binary '{body}'"
        );
        let (sent, output) = self.shell.paste(&send).await;
        assert!(sent, "{output}");
    }

    /// Waits until the doctor says this.
    async fn says(&self, text: &str) {
        says(&self.shell, text).await;
    }

    /// A statement as the user that writes.
    async fn sql(&self, statement: &str) -> String {
        let (done, output) = self.shell.paste(&format!("sql \"{statement}\"")).await;
        assert!(done, "{statement}: {output}");
        output
    }

    fn clickhouse(&self) -> Pid {
        Pid::from_raw(self.system.clickhouse_pid().unwrap()).unwrap()
    }

    /// The id of a key that somebody should not have.
    async fn leaked_key(&self) -> String {
        let (made, output) = self.shell.paste("tallyhouse keys create --project demo --scope ingest --json").await;
        assert!(made, "{output}");
        let id = output.split_once("\"id\":\"").and_then(|(_, rest)| rest.split_once('"')).map(|(id, _)| id);
        id.unwrap_or_else(|| panic!("{output}")).to_owned()
    }

    async fn check(&self, runbook: &str) {
        self.shell.run(runbook, "Check").await;
    }

    async fn act(&self, runbook: &str) {
        self.shell.run(runbook, "Act").await;
    }
}

async fn says(shell: &Shell, text: &str) {
    eventually(text, async || shell.paste("tallyhouse doctor --running || true").await.1.contains(text)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_is_broken_and_mended_as_its_runbooks_say() {
    let mut place = Place::start(&[]).await;
    let leaked = place.leaked_key().await;
    for runbook in LOOKED_AT {
        place.check(runbook).await;
        place.shell.with(&[("KEY_ID", &leaked)]).run(runbook, "Act").await;
    }
    redis_is_killed(&mut place).await;
    clickhouse_hangs(&place).await;
    merges_are_held_up(&place).await;
    a_mutation_cannot_succeed(&place).await;
    if is_long() {
        rollups_are_written_to(&place).await;
    }
    an_event_is_refused(&place).await;
    many_ask_at_once(&place).await;
    place.system.stop().await.unwrap();
}

async fn redis_is_killed(place: &mut Place) {
    place.redis.kill().await;
    place.says("redis-down.md").await;
    place.check("redis-down").await;
    place.redis.restart().await;
    place.act("redis-down").await;
}

async fn clickhouse_hangs(place: &Place) {
    kill_process(place.clickhouse(), Signal::STOP).unwrap();
    let event = "curl -sS --fail-with-body \"http://$INGEST_ADDR/v1/events\" -H 'X-API-Key: demo-ingest-key' -d '{\"eventType\":\"order\"}'";
    let (taken, output) = place.shell.paste(event).await;
    assert!(taken, "{output}");
    place.says("clickhouse is degraded").await;
    place.check("clickhouse-down").await;
    place.check("local-log-growing").await;
    place.act("clickhouse-down").await;
    place.act("local-log-growing").await;
}

/// More parts than a partition should have, made with one row each.
async fn merges_are_held_up(place: &Place) {
    place.sql("ALTER TABLE tallyhouse.events MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1").await;
    place
        .sql(
            "INSERT INTO tallyhouse.events (project_id, event_id, event_type, ts, original_ts, received_at, retention_days) \
             SELECT 'demo', toString(number), 'order', now64(3), now64(3), now64(3), 730 FROM numbers(320) \
             SETTINGS max_block_size = 1, min_insert_block_size_rows = 0, min_insert_block_size_bytes = 0, max_insert_threads = 1",
        )
        .await;
    place.says("too-many-parts.md").await;
    place.check("too-many-parts").await;
    place.act("too-many-parts").await;
}

async fn a_mutation_cannot_succeed(place: &Place) {
    place
        .sql("ALTER TABLE tallyhouse.events UPDATE page = toString(throwIf(1)) WHERE 1 SETTINGS mutations_sync = 0")
        .await;
    place.says("stuck-mutation.md").await;
    place.check("stuck-mutation").await;
    let failing = "SELECT mutation_id FROM system.mutations WHERE database = 'tallyhouse' AND table = 'events' AND NOT is_done FORMAT TSV";
    let mutation = place.sql(failing).await;
    let settings = [("TABLE", "events"), ("MUTATION", mutation.trim())];
    place.shell.with(&settings).run("stuck-mutation", "Act").await;
}

/// The rows that were written above are in no rollup.
async fn rollups_are_written_to(place: &Place) {
    place.check("drift").await;
    place.act("drift").await;
}

async fn an_event_is_refused(place: &Place) {
    place.sql("ALTER TABLE tallyhouse.events ADD CONSTRAINT no_poison CHECK event_type != 'poison'").await;
    let event = "curl -sS --fail-with-body \"http://$INGEST_ADDR/v1/events\" -H 'X-API-Key: demo-ingest-key' -d '[{\"eventType\":\"poison\"},{\"eventType\":\"order\"}]'";
    let (taken, output) = place.shell.paste(event).await;
    assert!(taken, "{output}");
    place.says("poison-record.md").await;
    place.check("poison-record").await;
    place.act("poison-record").await;
}

/// Different questions at once, more than there are slots.
async fn many_ask_at_once(place: &Place) {
    let ask = "for day in $(seq 1 60); do curl -sS -o /dev/null \"http://$QUERY_ADDR/v1/metrics/events?granularity=hour&startTime=2026-01-01&endTime=2026-03-0$((day % 9 + 1))T00:$((day % 60)):00Z\" -H 'X-API-Key: demo-query-key' & done; wait";
    let (asked, _) = tokio::join!(place.shell.paste(ask), place.check("stampede"));
    assert!(asked.0, "{}", asked.1);
    place.act("stampede").await;
}

/// Whether the long form is asked for; says what is left out otherwise.
fn long_or_skip(test: &str) -> bool {
    if !is_long() {
        skipped(test, "`make runbooks` runs it");
    }
    is_long()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_lost() {
    if !long_or_skip("a_region_is_lost") {
        return;
    }
    let (lost, place) = (Place::start(&[]).await, Place::start(&[]).await);
    let (away, ports) = (lost.shell, lost.system.ports());
    drop(lost.system);
    says(&away, &format!("127.0.0.1:{} does not answer", ports.ingest_admin)).await;
    away.run("instance-down", "Check").await;
    place.check("region-lost").await;
    place.act("region-lost").await;
    place.system.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_full() {
    let test = "a_disk_is_full";
    if !long_or_skip(test) {
        return;
    }
    let folder = Folder::create();
    let data = folder.path().join("small");
    let Some(disk) = SmallDisk::mount_or_skip(&data, 900 << 20, test) else { return };
    let place_of = data.join("data").display().to_string();
    let settings = [("TALLYHOUSE_DATA", place_of.as_str()), ("SPOOL_BYTES", "268435456")];
    let place = Place::start(&settings).await;
    let filler = data.join("core");
    let fill = format!("dd if=/dev/zero of={} bs=1M status=none || true", filler.display());
    assert!(place.shell.paste(&fill).await.0);
    place.says("disk-full.md").await;
    place.check("disk-full").await;
    std::fs::remove_file(filler).unwrap();
    place.act("disk-full").await;
    place.system.stop().await.unwrap();
    disk.unmount();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_ends() {
    if !long_or_skip("a_certificate_ends") {
        return;
    }
    let folder = Folder::create();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
    let [new_cert, new_key] = ["new.pem", "new-key.pem"].map(|name| folder.path().join(name).display().to_string());
    make_certificate(5, &cert, &key).await;
    make_certificate(90, &new_cert, &new_key).await;
    let settings = [("TLS_CERT", cert.as_str()), ("TLS_KEY", key.as_str()), ("SCHEME", "https")];
    let system = System::start_with(env!("CARGO_BIN_EXE_tallyhouse").as_ref(), &settings).await.unwrap();
    let shell = shell_of(&system, &settings);
    says(&shell, "certificate-expired.md").await;
    shell.run("certificate-expired", "Check").await;
    shell.with(&[("NEW_CERT", &new_cert), ("NEW_KEY", &new_key)]).run("certificate-expired", "Act").await;
    let renewed = "ingest_admin /metrics -k | grep '^tallyhouse_tls_certificate_remaining_seconds'";
    let (_, output) = shell.paste(renewed).await;
    assert!(output.contains("tallyhouse_tls_certificate_remaining_seconds 777"), "{output}");
    drop(system);
}

async fn make_certificate(days: u32, cert: &str, key: &str) {
    let make = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {key} -out {cert}"
    );
    let (made, output) = Shell { env: vec![] }.paste(&make).await;
    assert!(made, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_away_and_lags() {
    let test = "kafka_is_away_and_lags";
    if !long_or_skip(test) {
        return;
    }
    if is_kafka_off() {
        return skipped(test, "it needs Kafka, and KAFKA_TESTS=off");
    }
    let folder = Folder::create();
    let mut brokers = Brokers::start(1, folder.path()).await.unwrap();
    let bootstrap = brokers.bootstrap();
    let place = Place::start(&[("KAFKA_BROKERS", &bootstrap)]).await;
    place.check("hot-partition").await;
    place.act("hot-partition").await;
    brokers.kill(0).unwrap();
    place.says("kafka-down.md").await;
    place.check("kafka-down").await;
    brokers.start_again(0).unwrap();
    place.act("kafka-down").await;
    // ClickHouse away is the usual cause of lag.
    kill_process(place.clickhouse(), Signal::STOP).unwrap();
    let event = "curl -sS --fail-with-body \"http://$INGEST_ADDR/v1/events\" -H 'X-API-Key: demo-ingest-key' -d '{\"eventType\":\"order\"}'";
    assert!(place.shell.paste(event).await.0);
    place.says("clickhouse is degraded").await;
    place.check("lag").await;
    place.act("clickhouse-down").await;
    place.act("lag").await;
    place.system.stop().await.unwrap();
}
