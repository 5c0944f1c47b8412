//! A region is lost, and comes back: `MirrorMaker` 2 copies topics and the group's offsets with the file that is shipped, and consumers of the other
//! region count each event once. It takes minutes and `MirrorMaker`'s jars, so that `make regions` runs it (`REGIONS=on`).
//!
//! ```text
//! active: events, backup, more events -> mirrored -> lost
//!   tables that survived:  consumers go on in the passive region from the translated offsets
//!   tables of the backup:  restore there, the group set back to before the backup                   (failover)
//!   the lost region, emptied: mirrored back, backup, restore there                                  (failback)
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tallyhouse_loadtest::brokers::Brokers;
use tallyhouse_loadtest::chaos::lag::{self, Position};
use tallyhouse_loadtest::daemon::{Daemon, Launch};
use tallyhouse_service::env::{Env, ProcessEnv};
use tallyhouse_testkit::{Folder, eventually, is_kafka_off, skipped};

use crate::installation::Installation;

const TOPIC: &str = "tallyhouse.events";
const GROUP: &str = "tallyhouse";
/// Of the documents: how long a region may be away.
const RTO: Duration = Duration::from_secs(60 * 60);
/// How far the other region may be behind.
const RPO: Duration = Duration::from_secs(5 * 60);
/// `offset.lag.max` of the file, and one: a group that has read everything is at most so far back in each partition.
const LAG: i64 = 101;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_left_out(test: &str) -> bool {
    let is_on = ProcessEnv.get("REGIONS").is_some_and(|value| value == "on");
    if is_kafka_off() || !is_on {
        skipped(test, "`make regions` runs it");
        return true;
    }
    false
}

/// What the jars of Kafka and of `MirrorMaker` are on a class path.
fn class_path() -> String {
    let setup = repository().join(".setup");
    let mirror = setup.join("mirror/libs");
    assert!(mirror.is_dir(), "MirrorMaker is not set up: deploy/tallyhouse/setup.sh --mirror");
    format!("{}/kafka/libs/*:{}/*", setup.display(), mirror.display())
}

/// `MirrorMaker` from one region to another, as `deploy/regions/mirror.properties` says; only the number of copies and the intervals are a test's.
fn mirror(from: &Brokers, to: &Brokers, folder: &Path) -> Daemon {
    let shipped = fs::read_to_string(repository().join("deploy/regions/mirror.properties")).unwrap();
    let rendered: Vec<String> = shipped
        .replace("ACTIVE_BROKERS", &from.bootstrap())
        .replace("PASSIVE_BROKERS", &to.bootstrap())
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((name, _)) if name.ends_with("replication.factor") => format!("{name} = 1"),
            Some((name, _)) if name.ends_with("interval.seconds") => format!("{name} = 1"),
            _ => line.to_owned(),
        })
        .collect();
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("mirror.properties");
    fs::write(&file, rendered.join("\n")).unwrap();
    let arguments =
        ["-Xmx512m", "-XX:+UseSerialGC", "-cp", &class_path(), "org.apache.kafka.connect.mirror.MirrorMaker"];
    let launch = Launch {
        name: "MirrorMaker".to_owned(),
        program: "java".into(),
        arguments: arguments.iter().map(Into::into).chain([file.into_os_string()]).collect(),
        env: Vec::new(),
        without: Vec::new(),
        log: folder.join("mirror.log"),
    };
    Daemon::start(&launch).unwrap()
}

async fn positions(brokers: &Brokers) -> Vec<Position> {
    let positions = lag::positions(&brokers.bootstrap(), TOPIC, GROUP).await.unwrap_or_default();
    positions.into_values().collect()
}

fn ends(positions: &[Position]) -> i64 {
    positions.iter().map(|position| position.end).sum()
}

/// Waits until the other region has as many records.
async fn are_mirrored(from: &Brokers, to: &Brokers) {
    let sent = ends(&positions(from).await);
    let deadline = Instant::now() + Duration::from_secs(120);
    while ends(&positions(to).await) < sent {
        assert!(Instant::now() < deadline, "{:?} of {sent}", positions(to).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(ends(&positions(to).await), sent, "records were mirrored twice");
}

/// The step of the failover that sets the group back, by Kafka's own tool. It refuses until the group has noticed that a killed member is gone.
fn set_back(brokers: &Brokers, topic: &str) {
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut output = reset_offsets(brokers, topic);
    while String::from_utf8_lossy(&output.stdout).contains("is inactive") && Instant::now() < deadline {
        output = reset_offsets(brokers, topic);
    }
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(topic), "{output:?}");
}

fn reset_offsets(brokers: &Brokers, topic: &str) -> Output {
    Command::new("java")
        .args(["-Xmx256m", "-cp", &class_path(), "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"])
        .args(["--bootstrap-server", &brokers.bootstrap(), "--group", GROUP, "--topic", topic])
        .args(["--reset-offsets", "--to-datetime", "2020-01-01T00:00:00.000", "--execute"])
        .output()
        .unwrap()
}

fn installation(data: &Path, backups: &Path, brokers: &Brokers) -> Installation {
    Installation::on(data)
        .with("BACKUP_DIR", &backups.display().to_string())
        .with("KAFKA_BROKERS", &brokers.bootstrap())
        .with("KAFKA_TOPIC", TOPIC)
        .with("KAFKA_GROUP", GROUP)
        .with("KAFKA_PARTITIONS", "2")
}

/// Steps 3 to 5 of the failover.
async fn fail_over(data: &Path, backups: &Path, to: &Brokers) -> Installation {
    let without_kafka = Installation::on(data).with("BACKUP_DIR", &backups.display().to_string());
    without_kafka.done(&["backup", "restore"]);
    set_back(to, TOPIC);
    let mut there = installation(data, backups, to);
    there.start().await;
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn another_region_goes_on_and_counts_each_event_once() {
    if is_left_out("another_region_goes_on_and_counts_each_event_once") {
        return;
    }
    let events: u32 = ProcessEnv.get("REGIONS_EVENTS").map_or(3_000, |text| text.parse().unwrap());
    let third = events / 3;
    let folder = Folder::create();
    let at = |name: &str| folder.path().join(name);
    let mut active = Brokers::start(1, &at("kafka-active")).await.unwrap();
    let passive = Brokers::start(1, &at("kafka-passive")).await.unwrap();
    let mut mirroring = mirror(&active, &passive, &at("mirror"));
    let mut here = installation(&at("active"), &at("bucket"), &active);
    here.start().await;
    here.send(0..third, "").await;
    here.counts_each_once(third).await;
    here.done(&["backup", "create"]);
    here.send(third..2 * third, "").await;
    here.counts_each_once(2 * third).await;
    are_mirrored(&active, &passive).await;
    let is_near = async || {
        let positions = positions(&passive).await;
        let away = |position: &Position| (0..=LAG).contains(&(position.end - position.committed));
        positions.len() == 2 && positions.iter().all(away)
    };
    eventually("the group's offsets are translated", is_near).await;
    eprintln!("regions: all records are mirrored, and the group goes on there at {:?}", positions(&passive).await);

    here.send(2 * third..events, "").await;
    // What is acknowledged is lost with the region until it is mirrored.
    let acknowledged = Instant::now();
    are_mirrored(&active, &passive).await;
    let rpo = acknowledged.elapsed();
    mirroring.kill();
    // Acknowledged, and in the lost region alone.
    here.send(events..events + 50, "").await;
    let events = events + 50;
    here.counts_each_once(events).await;
    here.kill();
    active.kill(0).unwrap();
    let lost = Instant::now();

    // The tables survived: only the region's Kafka and its services are gone.
    let mut moved = installation(&at("active"), &at("bucket"), &passive);
    moved.start().await;
    let is_read = async || {
        let positions = positions(&passive).await;
        positions.len() == 2 && positions.iter().all(|position| position.committed == position.end)
    };
    eventually("what was mirrored is read", is_read).await;
    assert_eq!(moved.counts().await, [events; 3].map(|count| count.to_string()));
    moved.send(0..50, "").await;
    moved.send(events..events + 100, "").await;
    let events = events + 100;
    // `rollups verify` would name offsets as repeated: the tables have those of both regions.
    let expected = [events; 3].map(|count| count.to_string());
    eventually("new events are counted", async || moved.counts().await == expected).await;
    eventually("all is read", is_read).await;
    assert_eq!(moved.counts().await, expected);
    moved.kill();
    eprintln!("regions: with the tables, consumers counted each of {events} events once from the translated offsets");

    let mut there = fail_over(&at("passive"), &at("bucket"), &passive).await;
    there.counts_each_once(events - 50).await;
    let rto = lost.elapsed();
    // The lost region is reachable again: what it alone has comes over.
    active.start_again(0).unwrap();
    active.ready().await.unwrap();
    let mut fetching = mirror(&active, &passive, &at("mirror-again"));
    eventually("what was not mirrored is", async || there.counts().await[1] == events.to_string()).await;
    fetching.kill();
    there.counts_each_once(events).await;
    there.send(events..events + 100, "").await;
    let events = events + 100;
    there.counts_each_once(events).await;
    eprintln!(
        "regions: from the backup each of {events} events is counted once there, with 50 that were fetched from the lost one; RPO {:.1} s, RTO {:.1} s",
        rpo.as_secs_f64(),
        rto.as_secs_f64()
    );
    assert!(rpo < RPO && rto < RTO, "RPO {rpo:?} (at most {RPO:?}), RTO {rto:?} (at most {RTO:?})");

    // The lost region is whole again, and was emptied.
    let emptied = Brokers::start(1, &at("kafka-again")).await.unwrap();
    let mut mirroring = mirror(&passive, &emptied, &at("mirror-back"));
    there.done(&["backup", "create"]);
    there.send(events..events + 100, "").await;
    let events = events + 100;
    // Fenced: nothing consumes there any more.
    there.kill();
    eventually("the topic is there", async || !positions(&emptied).await.is_empty()).await;
    are_mirrored(&passive, &emptied).await;
    mirroring.kill();
    let back = fail_over(&at("again"), &at("bucket"), &emptied).await;
    back.counts_each_once(events).await;
    back.send(0..50, "").await;
    back.send(events..events + 100, "").await;
    back.counts_each_once(events + 100).await;
    eprintln!("regions: and back: each of {} events is counted once", events + 100);
}

/// An S3 takes the rules for the bucket of backups, as they are shipped.
#[test]
fn the_bucket_of_backups_is_replicated() {
    if is_left_out("the_bucket_of_backups_is_replicated") {
        return;
    }
    let regions = repository().join("deploy/regions");
    let python = repository().join(".setup/s3/bin/python");
    let output = Command::new(python).arg(regions.join("check_replication.py")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
