//! The disaster drill: an installation behind Kafka loses its data folder, and comes back from a backup and from Kafka.
//!
//! `make drill` runs it with more events, and prints what was lost (RPO) and how long it took (RTO).

use std::fs;
use std::time::{Duration, Instant};

use tallyhouse_service::env::{Env, ProcessEnv};
use tallyhouse_testkit::{Folder, kafka_or_skip, new_project};

use crate::installation::Installation;

/// Of the documents: what may be lost, and how long a region may be away.
const RPO: Duration = Duration::from_secs(5 * 60);
const RTO: Duration = Duration::from_secs(60 * 60);

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_after_the_data_folder_is_gone() {
    let test = "everything_comes_back_after_the_data_folder_is_gone";
    let Some(brokers) = kafka_or_skip(test).await else { return };
    let events: u32 = ProcessEnv.get("TALLYHOUSE_DRILL_EVENTS").map_or(1_500, |text| text.parse().unwrap());
    let (folder, name) = (Folder::create(), new_project());
    let data = folder.path().join("data");
    let mut installation = Installation::on(&data)
        .with("BACKUP_DIR", &folder.path().join("backups").display().to_string())
        .with("KAFKA_BROKERS", &brokers)
        .with("KAFKA_TOPIC", &format!("drill.{name}"))
        .with("KAFKA_GROUP", &format!("drill.{name}"))
        .with("KAFKA_PARTITIONS", "2");
    installation.start().await;

    let third = events / 3;
    installation.send(0..third, "").await;
    installation.counts_each_once(third).await;
    installation.done(&["backup", "create"]);
    erase(&installation, 1);
    installation.counts_each_once(third - 1).await;
    // Not awaited: the backup is of some moment in the middle.
    installation.send(third..2 * third, "").await;
    installation.done(&["backup", "create", "--incremental"]);
    let backed_up = Instant::now();
    installation.send(2 * third..events, "").await;
    erase(&installation, third + 1);
    installation.kill();
    fs::remove_dir_all(&data).unwrap();
    let (destroyed, without_kafka) = (Instant::now(), backed_up.elapsed());

    let restored: serde_json::Value =
        serde_json::from_str(&installation.done(&["backup", "restore", "--json"])).unwrap();
    installation.start().await;
    installation.counts_each_once(events - 1).await;
    // The request came after the backup, so it is gone with the tables; whoever keeps a list of them asks again.
    erase(&installation, third + 1);
    installation.counts_each_once(events - 2).await;
    let rto = destroyed.elapsed();
    installation.send(0..1, "").await;
    installation.send(events - 1..events, "").await;
    installation.counts_each_once(events - 2).await;

    let replayed: i64 =
        restored["kafka"].as_array().unwrap().iter().map(|back| back["replayed"].as_i64().unwrap()).sum();
    assert!(replayed >= i64::from(events - 2 * third), "{restored}");
    eprintln!(
        "drill: {events} events, all but the 2 of erased people are counted once, {replayed} records came again from Kafka\n\
         drill: RPO 0 s (at most {} s); without Kafka it would have been the {:.1} s since the backup\n\
         drill: RTO {:.1} s (at most {} s), of which the restore took {:.1} s",
        RPO.as_secs(),
        without_kafka.as_secs_f64(),
        rto.as_secs_f64(),
        RTO.as_secs(),
        restored["tookMs"].as_f64().unwrap() / 1_000.0
    );
    assert!(without_kafka < RPO && rto < RTO);
}

/// Has the one event of a person removed, by the service that runs.
fn erase(installation: &Installation, person: u32) {
    installation.done(&["erase", "--project", "demo", "--user", &format!("u{person}")]);
}
