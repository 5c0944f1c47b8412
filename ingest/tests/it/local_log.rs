//! The local log: what was acknowledged outlives the process whatever ClickHouse does, and damage costs only what is damaged.

use std::ops::Range;
use std::path::Path;

use serde_json::{Value, json};
use tallyhouse_ingest::log::local::commit::{COMMIT, Commits};
use tallyhouse_ingest::log::local::disk::Folder as LogFolder;
use tallyhouse_service::health::Status;
use tokio_util::sync::CancellationToken;

use crate::store_away::Place;
use tallyhouse_testkit::ingest_service::{Service, everywhere, is_inserting, json, log_files};
use tallyhouse_testkit::proxy::Mode;
use tallyhouse_testkit::{Folder, SmallDisk, eventually};

const LOST: &str = "tallyhouse_ingest_log_lost_records_total";
const TORN: &str = "tallyhouse_ingest_log_torn_bytes_total";

/// What a group of records begins with.
const GROUP: &[u8] = b"\xa7grp";

/// Events whose ids are easily found in a file.
fn events(numbers: Range<u32>) -> String {
    Value::from_iter(numbers.map(|n| json!({"eventId": id(n), "eventType": "a", "value": 1}))).to_string()
}

fn id(number: u32) -> String {
    format!("event-{number:06}")
}

/// Sends them again: how many are new, and how many are known.
async fn again(service: &Service, numbers: Range<u32>) -> (u64, u64) {
    let reply = service.send(events(numbers)).await;
    let answer = json(&reply);
    assert_eq!(reply.status, 202, "{answer}");
    (answer["accepted"].as_u64().unwrap(), answer["duplicates"].as_u64().unwrap())
}

/// Ten events are stored, then ClickHouse goes away, ten more are acknowledged at each of these numbers, and the process is killed.
async fn killed_while_away(place: &Place, settings: &[(&str, &str)], from: &[u32]) {
    let service = place.service(settings).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    place.proxy.set(Mode::Away);
    for from in from {
        assert_eq!(again(&service, *from..from + 10).await, (10, 0));
    }
    service.kill(&place.data).await;
}

/// A start without ClickHouse takes the last ten of the events that are sent now and knows the others; then ClickHouse comes back.
async fn restart_while_away(place: &Place, sent: u32) {
    place.proxy.set(Mode::Away);
    let service = place.service(&[]).await;
    assert_eq!(again(&service, 0..sent).await, (10, u64::from(sent) - 10));
    place.finish(service, sent.into()).await;
}

/// Changes the bytes of the only segment.
fn change_segment(data: &Folder, change: impl FnOnce(&mut Vec<u8>)) {
    let segments = log_files(data, "log");
    assert_eq!(segments.len(), 1);
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    change(&mut bytes);
    std::fs::write(&segments[0], bytes).unwrap();
}

fn places(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    bytes.windows(what.len()).enumerate().filter(|(_, found)| *found == what).map(|(at, _)| at).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_its_process_and_is_known_at_once_without_clickhouse() {
    for sync in ["always", "interval", "off"] {
        let (place, settings) = (Place::new().await, [("LOG_SYNC", sync)]);
        killed_while_away(&place, &settings, &[10, 20, 30]).await;
        // ClickHouse is still away: events are taken at once, and duplicates are known.
        let service = place.service(&settings).await;
        assert_eq!(again(&service, 0..50).await, (10, 40), "{sync}");
        service.kill(&place.data).await;
        let service = place.service(&settings).await;
        assert_eq!(again(&service, 0..50).await, (0, 50), "{sync}");
        assert_eq!(everywhere(&place.connection, &place.project).await, [10; 4]);
        place.proxy.set(Mode::Pass);
        place.counted(50).await;
        assert_eq!(again(&service, 0..50).await, (0, 50), "{sync}");
        assert_eq!([service.metric(LOST), service.metric(TORN)], [0, 0]);
        place.stop(service, 50).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_applied_and_not_answered_before_a_kill_is_counted_once() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    place.proxy.set(Mode::HoldAnswers);
    assert_eq!(again(&service, 10..20).await, (10, 0));
    eventually("the insert was applied", async || everywhere(&place.connection, &place.project).await == [20; 4]).await;
    // Behind it, so that a batch that begins at the same place would be a larger one.
    assert_eq!(again(&service, 20..30).await, (10, 0));
    assert!(is_inserting(&place.data));
    service.kill(&place.data).await;
    restart_while_away(&place, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_middle_costs_only_what_is_damaged_and_is_counted() {
    let place = Place::new().await;
    killed_while_away(&place, &[], &[10, 20, 30, 40]).await;
    change_segment(&place.data, |bytes| {
        let record = places(bytes, id(15).as_bytes())[0];
        bytes[record + 7] ^= 1;
        // And the first offset of the group of 30 to 39.
        let group = places(bytes, GROUP)[3];
        bytes[group + 8] ^= 1;
    });
    let service = place.service(&[]).await;
    assert_eq!((service.metric(LOST), service.metric(TORN)), (11, 0));
    assert_eq!(log_files(&place.data, "damaged").len(), 2);
    place.proxy.set(Mode::Pass);
    place.counted(50 - 11).await;
    // Who sends the lost ones again is not told that they are known.
    assert_eq!(again(&service, 0..50).await, (11, 39));
    place.counted(50).await;
    assert_eq!(service.metric(LOST), 11, "each is counted once, however often it is read over");
    place.stop(service, 50).await;
    // What is read is no loss any more.
    let service = place.service(&[]).await;
    assert_eq!(again(&service, 0..50).await, (0, 50));
    assert_eq!(service.metric(LOST), 0);
    place.stop(service, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_segment_can_be_lost_without_the_rest() {
    let place = Place::new().await;
    killed_while_away(&place, &[], &[10, 20, 30]).await;
    // Of the groups the first is stored.
    change_segment(&place.data, |bytes| {
        let rest = places(bytes, GROUP)[2];
        bytes[..rest].fill(0);
    });
    let service = place.service(&[]).await;
    assert_eq!((service.metric(LOST), service.metric(TORN)), (10, 0));
    assert_eq!(again(&service, 10..40).await, (10, 20));
    place.finish(service, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_what_came_before_it_is_there() {
    let place = Place::new().await;
    killed_while_away(&place, &[], &[10, 20, 30]).await;
    // As a power cut leaves a group that was being written.
    change_segment(&place.data, |bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end - 100..=end].fill(0);
    });
    let service = place.service(&[]).await;
    assert!(service.metric(TORN) > 100, "{}", service.metric(TORN));
    assert_eq!((service.metric(LOST), log_files(&place.data, "torn").len()), (0, 1));
    assert_eq!(again(&service, 0..40).await, (10, 30));
    place.finish(service, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_first_start_of_a_folder_waits_for_clickhouse_and_asks_it_for_ids() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    service.stop().await;
    let place = Place { data: Folder::create(), ..place };
    place.proxy.set(Mode::Away);
    let service = Service::start_unready(place.proxy.connection.clone(), &place.data, &place.project, &[]).await;
    eventually("it says that it waits", async || {
        let reply = service.endpoint().post(events(0..20).into()).await;
        reply.is_ok_and(|reply| reply.status == 503 && json(&reply)["code"] == "starting")
    })
    .await;
    place.proxy.set(Mode::Pass);
    eventually("it is ready", async || service.health.is_ready()).await;
    assert_eq!(again(&service, 0..20).await, (10, 10));
    place.counted(20).await;
    service.kill(&place.data).await;
    restart_while_away(&place, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_events_before_the_tables_are_prepared_and_stores_none() {
    let place = Place::new().await;
    killed_while_away(&place, &[], &[10]).await;
    place.proxy.set(Mode::Pass);
    let (ready, connection) = (CancellationToken::new(), place.proxy.connection.clone());
    let service = Service::start_before(ready.clone(), connection, &place.data, &place.project, &[]).await;
    eventually("ingest is ready", async || service.health.is_ready()).await;
    assert_eq!(again(&service, 0..30).await, (10, 20));
    // Whoever waits for an insert waits for as long as one may.
    assert_eq!(service.send_stored(events(20..30)).await.status, 503);
    assert_eq!(everywhere(&place.connection, &place.project).await, [10; 4]);
    ready.cancel();
    place.finish(service, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_outlive_the_segment_that_they_came_in() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    service.stop().await;
    // A folder that knows these from ClickHouse. A start begins a segment of its own, so the one before goes as soon as it is stored.
    let place = Place { data: Folder::create(), ..place };
    for from in [10, 20] {
        let service = place.service(&[]).await;
        assert_eq!(service.send_stored(events(from..from + 10)).await.status, 200);
        eventually("earlier segments are gone", async || {
            let segments = log_files(&place.data, "log");
            segments.len() == 1 && has(&segments[0], &id(from))
        })
        .await;
        service.stop().await;
    }
    restart_while_away(&place, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_segment_hides_no_ids_of_the_one_that_takes_its_place() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    service.stop().await;
    // As a kill leaves one of which the first group was being written.
    let empty = place.data.path().join("ingest/log/00000000000000000010-0000000099-00000001.log");
    std::fs::write(empty, []).unwrap();
    // Segments of a mebibyte, so that one ends.
    let service = place.service(&[("SPOOL_BYTES", "8388608")]).await;
    let mut sent = 10;
    while !log_files(&place.data, "log").iter().any(|path| path.display().to_string().contains("-0000000101-")) {
        assert_eq!(again(&service, sent..sent + 1_000).await, (1_000, 0));
        sent += 1_000;
    }
    eventually("the first one is gone", async || log_files(&place.data, "log").len() == 1).await;
    service.kill(&place.data).await;
    let service = place.service(&[]).await;
    assert_eq!(again(&service, 10..30).await, (0, 20));
    place.stop(service, sent.into()).await;
}

fn has(path: &Path, text: &str) -> bool {
    std::fs::read(path).is_ok_and(|bytes| !places(&bytes, text.as_bytes()).is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_has_no_room_for_a_log_takes_nothing_and_says_so() {
    let place = Place::new().await;
    let test = "a_disk_that_has_no_room_for_a_log_takes_nothing_and_says_so";
    let Some(disk) = SmallDisk::mount_or_skip(&place.data.path().join("ingest"), 8 << 20, test) else { return };
    // Ids that ClickHouse knows of other tests must find room.
    let settings = [("DEDUP_WINDOW_IDS", "1000")];
    let service = Service::start_unready(place.proxy.connection.clone(), &place.data, &place.project, &settings).await;
    eventually("it says why", async || {
        let components = service.health.report().components;
        let is_full = components.get("log").is_some_and(|log| log.detail.contains("the disk is nearly full"));
        is_full && components["ingest"].status == Status::Up
    })
    .await;
    assert!(!service.health.is_ready());
    let reply = service.send(events(0..10)).await;
    assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (429, Some("overloaded")));
    assert!(reply.retry_after().is_some());
    assert_eq!(service.metric("tallyhouse_ingest_log_refused_total"), 10);
    place.stop(service, 0).await;
    assert!(log_files(&place.data, "log").is_empty());
    disk.unmount();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_refuses_events_before_any_is_lost() {
    let place = Place::new().await;
    let (test, room) = ("a_disk_that_fills_up_refuses_events_before_any_is_lost", 400 << 20);
    let Some(disk) = SmallDisk::mount_or_skip(&place.data.path().join("ingest"), room, test) else { return };
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    place.proxy.set(Mode::Away);
    assert_eq!(again(&service, 10..20).await, (10, 0));
    let others = place.data.path().join("ingest").join("of-others");
    std::fs::write(&others, vec![1; 200 << 20]).unwrap();
    let mut refused = None;
    eventually("it refuses", async || {
        let reply = service.send(events(0..30)).await;
        (reply.status != 202).then(|| refused = Some(reply)).is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert!([429, 503].contains(&refused.status.as_u16()) && refused.retry_after().is_some(), "{}", refused.excerpt());
    assert!(!service.health.is_ready());
    // What it has survives on the full disk, too.
    service.kill(&place.data).await;
    let service = Service::start_unready(place.proxy.connection.clone(), &place.data, &place.project, &[]).await;
    eventually("it is as full as before", async || service.health.report().components.contains_key("log")).await;
    assert!(!service.health.is_ready());
    assert_eq!(service.send(events(40..50)).await.status, 503);
    std::fs::remove_file(&others).unwrap();
    eventually("it takes events again", async || service.send(events(0..40)).await.status == 202).await;
    assert!(service.health.is_ready());
    place.proxy.set(Mode::Pass);
    place.counted(40).await;
    assert_eq!(again(&service, 0..50).await, (10, 40), "what was refused is not there");
    place.stop(service, 50).await;
    // The one that was killed still has its files open.
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_understood_is_reported_with_what_to_do() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(events(0..10)).await.status, 200);
    service.stop().await;
    let disk = LogFolder::open(&place.data.path().join("ingest").join("log")).unwrap();
    let commit = |metadata: &str| {
        let (mut commits, committed, _) = Commits::open(&disk, COMMIT).unwrap();
        commits.commit(committed.unwrap().next, metadata).unwrap();
    };
    commit("of a newer version");
    let service = Service::start_unready(place.proxy.connection.clone(), &place.data, &place.project, &[]).await;
    let worker = || service.health.report().components.get("worker").cloned();
    eventually("it is told", async || worker().is_some_and(|worker| worker.status == Status::Down)).await;
    assert!(!service.health.is_ready());
    let detail = worker().unwrap().detail;
    assert!(detail.contains("start the version that wrote it"), "{detail}");
    service.kill(&place.data).await;
    commit("");
    let service = place.service(&[]).await;
    assert_eq!(again(&service, 0..20).await, (10, 10));
    place.finish(service, 20).await;
}
