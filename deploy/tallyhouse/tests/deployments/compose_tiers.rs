//! An installation that gets `tiers.yaml` when it has tables already: what is there moves to another disk and to a bucket, is read and deleted
//! there.

use rustix::process::Signal;
use tallyhouse_loadtest::daemon::log_tail;
use tallyhouse_service::env::{Env as _, ProcessEnv};
use tallyhouse_testkit::{S3, eventually};
use tokio::net::TcpStream;

use crate::compose_run::{Deployment, Tiers};
use crate::tools::{read, skip};

const PASSWORD: &str = "CLICKHOUSE_WRITER_PASSWORD";

const INSERT: &str = "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_id, received_at, retention_days) \
    SELECT 'shop', toString(number), 'view', now64(3) - toIntervalDay([1, 10, 40][number % 3 + 1]), toString(intDiv(number, 3) % 4), now64(3), 730 \
    FROM numbers(120)";

/// `migrate up`, and what it prints, once ClickHouse is there.
async fn migrate(deployment: &Deployment) -> String {
    let clickhouse = ("127.0.0.1", deployment.addresses.port("clickhouse:8123"));
    eventually("ClickHouse listens", async || TcpStream::connect(clickhouse).await.is_ok()).await;
    let migrated = deployment.run("migrate", &[]);
    assert!(migrated.status.success(), "{migrated:?}\n{}", log_tail(&deployment.log("clickhouse")));
    String::from_utf8_lossy(&migrated.stdout).into_owned()
}

/// storage.xml with a folder of this test, and what `tiers.yaml` gives it, for a server that is one of several.
fn tiers(deployment: &Deployment, s3: &S3) -> Tiers {
    let macros = "<clickhouse><macros><shard>2</shard><replica>1</replica></macros>";
    let storage = read("clickhouse/storage.xml").replace("<clickhouse>", macros);
    // The disk of the tests may be nearly full.
    let storage = storage.replace("<move_factor>0.1<", "<move_factor>0<");
    let storage = storage.replace("/var/lib/clickhouse-warm", deployment.folder("clickhouse-warm").to_str().unwrap());
    let env = [
        ("URL", format!("{}/cold/clickhouse/{{shard}}-{{replica}}/", s3.url)),
        ("REGION", "us-east-1".to_owned()),
        ("KEY_ID", "key".to_owned()),
        ("SECRET", "secret".to_owned()),
    ];
    Tiers { storage, env: env.map(|(name, value)| (format!("COLD_S3_{name}"), value)).to_vec() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_move_to_a_disk_and_a_bucket_once_there_are_tiers() {
    let test = "old_events_move_to_a_disk_and_a_bucket_once_there_are_tiers";
    if ProcessEnv.get("DEPLOYMENTS").is_none() {
        return skip(test, "`make deployments` runs it");
    }
    let Some(s3) = S3::start(test, "cold").await else { return };
    let deployment = Deployment::new();
    let mut clickhouse = deployment.clickhouse();
    assert!(migrate(&deployment).await.contains("none (storage policy `default`)"));
    deployment.change(INSERT).await;
    clickhouse.signal(Signal::TERM).unwrap();
    eventually("ClickHouse ends", async || clickhouse.has_ended()).await;

    let _clickhouse = deployment.clickhouse_with(Some(&tiers(&deployment, &s3)));
    let printed = migrate(&deployment).await;
    assert!(printed.contains("warm after 7, cold after 30 days (storage policy `tiered`)"), "{printed}");
    let ask = async |sql: &str| deployment.ask("writer", PASSWORD, sql).await.unwrap();
    let parts = "SELECT arrayStringConcat(arraySort(groupArray(concat(disk_name, ' ', toString(rows)))), ', ') FROM system.parts \
                 WHERE database = 'tallyhouse' AND table = 'events' AND active";
    eventually("events have moved", async || ask(parts).await == "cold 40, default 40, warm 40").await;
    assert!(s3.objects("cold", "clickhouse/2-1/").await > 0, "a server has its own path");
    let count = "SELECT concat(toString(count()), ' ', toString(uniqExact(user_id))) FROM tallyhouse.events";
    assert_eq!(ask(count).await, "120 4");
    deployment.change("ALTER TABLE tallyhouse.events DELETE WHERE user_id = '1' SETTINGS mutations_sync = 1").await;
    assert_eq!((ask(count).await, ask(parts).await), ("90 3".to_owned(), "cold 30, default 30, warm 30".to_owned()));
}
