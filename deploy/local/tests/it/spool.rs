//! ClickHouse away: events are acknowledged from the disk, and counted once when it is back.

use std::sync::Arc;

use prometheus::Registry;
use serde_json::json;
use tallyhouse_ingest::marker::Marker;
use tallyhouse_ingest::metrics::Metrics;
use tallyhouse_ingest::touched::Publisher;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::{DayVersions, Span, Touched};
use tallyhouse_sql::Connection;
use tokio_util::sync::CancellationToken;

use crate::ingest_service::{Service, body, everywhere, journaled, json};
use crate::query_service::{Redis, eventually, new_project};
use crate::support::proxy::{Mode, Proxy};
use crate::support::{Folder, SmallDisk, engine, execute};

struct Place {
    connection: Connection,
    proxy: Proxy,
    data: Folder,
    project: String,
}

impl Place {
    async fn new() -> Self {
        let connection = engine().await.writer();
        let proxy = Proxy::start(connection.clone()).await;
        Self { connection, proxy, data: Folder::create(), project: new_project() }
    }

    async fn service(&self, settings: &[(&str, &str)]) -> Service {
        Service::start_with(self.proxy.connection.clone(), &self.data, &self.project, settings).await
    }

    async fn counted(&self, events: u64) {
        eventually("all are counted", async || everywhere(&self.connection, &self.project).await == [events; 4]).await;
        eventually("nothing waits", async || journaled(&self.data, "batch").is_empty()).await;
        assert_eq!(everywhere(&self.connection, &self.project).await, [events; 4]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_acknowledged_while_clickhouse_is_away() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send(body(0..10)).await.status, 202);
    let stored = || service.counted("tallyhouse_ingest_events_total", "stored");
    eventually("the first are stored", async || stored() == 10).await;
    place.proxy.set(Mode::Away);
    for from in [10, 20, 30] {
        let reply = service.send(body(from..from + 10)).await;
        assert_eq!((reply.status.as_u16(), json(&reply)["accepted"].as_u64()), (202, Some(10)), "{}", reply.excerpt());
    }
    let again = json(&service.send(body(5..25)).await);
    assert_eq!((again["accepted"].as_u64(), again["duplicates"].as_u64()), (Some(0), Some(20)));
    let waiting = service.endpoint().post_with("wait=stored", body(40..41).into()).await.unwrap();
    assert_eq!((waiting.status.as_u16(), json(&waiting)["code"].as_str()), (503, Some("not_confirmed")));
    assert!(service.health.is_ready(), "the disk stands in front of ClickHouse");
    assert!(service.metric("tallyhouse_ingest_spool_sealed_total") >= 31);
    assert_eq!(stored(), 10, "the others are only sealed");
    place.proxy.set(Mode::Pass);
    place.counted(41).await;
    assert_eq!(stored(), 41);
    assert_eq!(json(&service.send(body(0..41)).await)["duplicates"].as_u64(), Some(41));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_its_process_and_a_damaged_file_holds_up_nobody() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send(body(0..10)).await.status, 202);
    place.proxy.set(Mode::Away);
    for from in [10, 20, 30] {
        assert_eq!(service.send(body(from..from + 10)).await.status, 202);
    }
    service.stop().await;
    let mut files = journaled(&place.data, "batch");
    files.sort();
    assert_eq!(files.len(), 3);
    let mut bytes = std::fs::read(&files[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[1], bytes).unwrap();

    let service = Service::start_unready(place.proxy.connection.clone(), &place.data, &place.project, &[]).await;
    eventually("it waits for ClickHouse", async || {
        let reply = service.endpoint().post(body(50..51).into()).await;
        reply.is_ok_and(|reply| json(&reply)["code"] == "starting")
    })
    .await;
    place.proxy.set(Mode::Pass);
    eventually("it is ready", async || service.health.is_ready()).await;
    place.counted(30).await;
    assert_eq!(service.metric("tallyhouse_ingest_journal_damaged_total"), 1);
    assert_eq!(journaled(&place.data, "damaged").len(), 1);
    // Who sends the lost ones again is not told that they are known.
    assert_eq!(json(&service.send(body(0..40)).await)["accepted"].as_u64(), Some(10));
    place.counted(40).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_was_applied_but_not_answered_is_counted_once() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send(body(0..10)).await.status, 202);
    place.proxy.set(Mode::HoldAnswers);
    assert_eq!(service.send(body(10..20)).await.status, 202, "acknowledged from the disk");
    eventually("the insert was applied", async || everywhere(&place.connection, &place.project).await == [20; 4]).await;
    place.proxy.set(Mode::Away);
    assert_eq!(service.send(body(20..30)).await.status, 202);
    place.proxy.set(Mode::Pass);
    place.counted(30).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_throws_loses_nothing_and_counts_nothing_twice() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send(body(0..10)).await.status, 202);
    let view = format!("tallyhouse.`throws-{}`", place.project);
    let sql = format!(
        "CREATE MATERIALIZED VIEW {view} ENGINE = Null AS SELECT throwIf(CAST(project_id, 'String') = '{}') AS x FROM tallyhouse.events_in",
        place.project
    );
    execute(&place.connection, &sql).await.unwrap();
    for from in [10, 20] {
        assert_eq!(service.send(body(from..from + 10)).await.status, 202);
    }
    assert!(!journaled(&place.data, "batch").is_empty());
    execute(&place.connection, &format!("DROP VIEW {view}")).await.unwrap();
    place.counted(30).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_out_loud_and_loses_nothing() {
    let place = Place::new().await;
    let service = place.service(&[("SPOOL_BYTES", "1048576")]).await;
    assert_eq!(service.send(body(0..10)).await.status, 202);
    place.proxy.set(Mode::Away);
    let (taken, refused) = service.fill(10).await;
    assert_eq!(refused.status, 503, "{}", refused.excerpt());
    assert!(refused.retry_after().is_some());
    place.proxy.set(Mode::Pass);
    place.counted(u64::from(taken)).await;
    eventually("it takes events again", async || service.send(body(taken..taken + 1)).await.status == 202).await;
    place.counted(u64::from(taken) + 1).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_hands_events_back() {
    let place = Place::new().await;
    let Some(disk) = SmallDisk::mount_or_skip(&place.data.path().join("ingest"), "a_full_disk_hands_events_back")
    else {
        return;
    };
    let service = place.service(&[]).await;
    assert_eq!(service.send(body(0..10)).await.status, 202);
    let reply = service.send(body(10..400)).await;
    assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (503, Some("not_confirmed")));
    assert!(journaled(&place.data, "part").is_empty());
    assert_eq!(service.send(body(10..20)).await.status, 202, "what fits goes on");
    place.counted(20).await;
    service.stop().await;
    disk.unmount();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_days_that_an_insert_touched_are_told_here_and_in_redis() {
    let place = Place::new().await;
    let mut redis = Redis::start().await;
    let service = place.service(&[("REDIS_URL", &redis.url)]).await;
    let today = i32::try_from(now_ms() / 86_400_000).unwrap();
    let day = |day: i32| Span::between(i64::from(day) * 86_400, i64::from(day + 1) * 86_400, today);
    let before = service.days.of(&place.project, &day(today - 2), 0);
    let at = |day: i32| json!({"eventType": "a", "timestamp": i64::from(day) * 86_400_000 + 1});
    let body = json!([at(today), at(today - 2), at(today - 2)]).to_string();
    assert_eq!(service.send(body.clone()).await.status, 202);
    assert_ne!(service.days.of(&place.project, &day(today - 2), 0), before, "told before the sender is");
    assert_eq!(service.days.of(&place.project, &day(today - 1), 0), before);
    let field = format!("HGET tallyhouse:days:{} {}", place.project, today - 2);
    eventually("Redis knows", async || redis.command(&field).await.as_deref() == Some("$1")).await;
    // Without Redis ingestion goes on, and this process knows.
    redis.kill().await;
    let known = service.days.of(&place.project, &day(today - 2), 1);
    assert_eq!(service.send(body).await.status, 202);
    assert_ne!(service.days.of(&place.project, &day(today - 2), 2), known);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_that_wait_at_the_end_are_told_once_more_or_counted() {
    let (mut redis, data) = (Redis::start().await, Folder::create());
    let project = new_project();
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let publisher = Publisher::new(DayVersions::default(), true, Arc::clone(&metrics));
    let (pool, stopped) = (tallyhouse_service::touched::pool(&redis.url, 2).unwrap(), CancellationToken::new());
    stopped.cancel();
    let days = |days: [i32; 2]| days.map(|day| Touched::day(&project, day));
    eventually("Redis is told by a sender that was stopped", async || {
        publisher.publish(&days([1, 2]));
        publisher.clone().send(pool.clone(), Marker::set(data.path()), stopped.clone()).await;
        // Two days, and since when.
        redis.command(&format!("HLEN tallyhouse:days:{project}")).await.as_deref() == Some(":3")
    })
    .await;

    redis.kill().await;
    let dropped = metrics.touched_dropped.get();
    publisher.publish(&days([3, 4]));
    publisher.send(pool, Marker::set(data.path()), stopped).await;
    assert_eq!(metrics.touched_dropped.get() - dropped, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_without_redis_counts_the_days_it_could_not_tell() {
    let place = Place::new().await;
    let mut redis = Redis::start().await;
    let service = place.service(&[("REDIS_URL", &redis.url)]).await;
    redis.kill().await;
    assert_eq!(service.send(r#"{"eventType":"a"}"#).await.status, 202);
    assert_eq!(service.stop_and_measure("tallyhouse_ingest_touched_days_dropped_total").await, 1);
}
