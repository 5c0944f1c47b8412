//! ClickHouse away: events are acknowledged from the local log, and counted once when it is back.

use std::sync::Arc;

use serde_json::json;
use tallyhouse_ingest::changed_days::Publisher;
use tallyhouse_ingest::telemetry::Metrics;
use tallyhouse_ingest::unclean_shutdown::ShutdownMarker;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::{DayChange, DayVersions, Span};
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::Connection;
use tokio_util::sync::CancellationToken;

use tallyhouse_testkit::ingest_service::{Service, body, everywhere, is_inserting, json};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{Folder, Redis, engine, eventually, execute, new_project};

/// A data folder, and a ClickHouse that can go away.
pub struct Place {
    pub connection: Connection,
    pub proxy: Proxy,
    pub data: Folder,
    pub project: String,
}

impl Place {
    pub async fn new() -> Self {
        let connection = engine().await.writer();
        let proxy = Proxy::start(connection.clone()).await;
        Self { connection, proxy, data: Folder::create(), project: new_project() }
    }

    pub async fn service(&self, settings: &[(&str, &str)]) -> Service {
        Service::start_with(self.proxy.connection.clone(), &self.data, &self.project, settings).await
    }

    /// Waits until so many events are counted, and nothing is being inserted that could be counted, too.
    pub async fn counted(&self, events: u64) {
        eventually("all are counted", async || everywhere(&self.connection, &self.project).await == [events; 4]).await;
        eventually("nothing is being inserted", async || !is_inserting(&self.data)).await;
        assert_eq!(everywhere(&self.connection, &self.project).await, [events; 4]);
    }

    /// ClickHouse is back: so many events are counted, and none is once more when the service stops.
    pub async fn finish(&self, service: Service, events: u64) {
        self.proxy.set(Mode::Pass);
        self.counted(events).await;
        self.stop(service, events).await;
    }

    /// Stops the service, which stores what its log has: so many events are counted, once.
    pub async fn stop(&self, service: Service, events: u64) {
        service.stop().await;
        assert!(!is_inserting(&self.data));
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
    assert_eq!(service.metric("tallyhouse_ingest_log_records_total"), 41, "duplicates are not appended");
    assert_eq!(stored(), 10, "the others are only in the log");
    eventually("it is measured", async || service.metric("tallyhouse_ingest_log_bytes") > 31 * 2_000).await;
    let told = |name: &str| service.health.report().components[name].clone();
    assert_eq!(told("inserts").status, Status::Degraded);
    eventually("it is seen without an insert, too", async || told("clickhouse").status == Status::Degraded).await;
    place.proxy.set(Mode::Pass);
    place.counted(41).await;
    let is_up = |name: &str| told(name).status == Status::Up && told(name).detail.is_empty();
    eventually("it is up again", async || is_up("inserts") && is_up("clickhouse")).await;
    eventually("nothing waits", async || service.metric("tallyhouse_ingest_log_bytes") == 0).await;
    assert_eq!(stored(), 41);
    assert_eq!(json(&service.send(body(0..41)).await)["duplicates"].as_u64(), Some(41));
    place.stop(service, 41).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_missed_its_deadline_has_one_fate() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    place.proxy.set(Mode::Away);
    let wait = async || service.endpoint().post_with("wait=stored", body(0..10).into()).await.unwrap();
    assert_eq!(wait().await.status, 503);
    assert_eq!(wait().await.status, 503);
    let fates =
        || ["stored", "duplicate", "handed_back"].map(|fate| service.counted("tallyhouse_ingest_events_total", fate));
    assert_eq!(fates(), [0, 10, 0]);
    place.proxy.set(Mode::Pass);
    eventually("they are stored", async || fates() == [10, 10, 0]).await;
    assert_eq!((wait().await.status.as_u16(), fates()), (200, [10, 20, 0]), "each of thirty has one");
    place.stop(service, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_was_applied_but_not_answered_is_counted_once() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(body(0..10)).await.status, 200);
    place.proxy.set(Mode::HoldAnswers);
    assert_eq!(service.send(body(10..20)).await.status, 202, "acknowledged from the log");
    eventually("the insert was applied", async || everywhere(&place.connection, &place.project).await == [20; 4]).await;
    place.proxy.set(Mode::Away);
    assert_eq!(service.send(body(20..30)).await.status, 202);
    place.finish(service, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_throws_loses_nothing_and_counts_nothing_twice() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(body(0..10)).await.status, 200);
    let view = format!("tallyhouse.`throws-{}`", place.project);
    let sql = format!(
        "CREATE MATERIALIZED VIEW {view} ENGINE = Null AS SELECT throwIf(CAST(project_id, 'String') = '{}') AS x FROM tallyhouse.events_in",
        place.project
    );
    execute(&place.connection, &sql).await.unwrap();
    for from in [10, 20] {
        assert_eq!(service.send(body(from..from + 10)).await.status, 202);
    }
    let thrown = async || service.counted("tallyhouse_ingest_insert_failures_total", "transient") > 0;
    eventually("the view has thrown", thrown).await;
    assert!(is_inserting(&place.data));
    execute(&place.connection, &format!("DROP VIEW {view}")).await.unwrap();
    place.counted(30).await;
    place.stop(service, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_out_loud_and_loses_nothing() {
    // Away, and slower than what comes.
    for (mode, status, code) in [(Mode::Away, 503, "store_unavailable"), (Mode::HoldAnswers, 429, "overloaded")] {
        let place = Place::new().await;
        let service = place.service(&[("SPOOL_BYTES", "1048576")]).await;
        assert_eq!(service.send_stored(body(0..10)).await.status, 200);
        place.proxy.set(mode);
        // Once an insert has failed, or waits for its answer.
        assert_eq!(service.send(body(10..20)).await.status, 202);
        let has_failed = || service.health.report().components["inserts"].status == Status::Degraded;
        eventually("it is tried", async || if mode == Mode::Away { has_failed() } else { is_inserting(&place.data) })
            .await;
        let (taken, refused) = service.fill(20).await;
        assert_eq!((refused.status.as_u16(), json(&refused)["code"].as_str()), (status, Some(code)));
        assert!(refused.retry_after().is_some());
        assert_eq!(service.metric("tallyhouse_ingest_log_refused_total"), 100);
        // What waits is measured now and then.
        let is_down = || service.health.report().components["log"].status == Status::Down;
        eventually("its health says that it is full", async || is_down()).await;
        place.proxy.set(Mode::Pass);
        place.counted(u64::from(taken)).await;
        eventually("it takes events again", async || service.send(body(taken..taken + 1)).await.status == 202).await;
        eventually("it is ready", async || service.health.is_ready()).await;
        place.stop(service, u64::from(taken) + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_days_that_an_insert_changed_are_published_here_and_in_redis() {
    let place = Place::new().await;
    let mut redis = Redis::start().await;
    let service = place.service(&[("REDIS_URL", &redis.url)]).await;
    let today = i32::try_from(now_ms() / 86_400_000).unwrap();
    let day = |day: i32| Span::between(i64::from(day) * 86_400, i64::from(day + 1) * 86_400, today);
    let before = service.days.of(&place.project, &day(today - 2), 0);
    let at = |day: i32| json!({"eventType": "a", "timestamp": i64::from(day) * 86_400_000 + 1});
    let body = json!([at(today), at(today - 2), at(today - 2)]).to_string();
    assert_eq!(service.send_stored(body.clone()).await.status, 200);
    assert_ne!(
        service.days.of(&place.project, &day(today - 2), 0),
        before,
        "published before the sender has its answer"
    );
    assert_eq!(service.days.of(&place.project, &day(today - 1), 0), before);
    let field = format!("HGET tallyhouse:{{versions}}:days:{} {}", place.project, today - 2);
    eventually("Redis knows", async || redis.command(&field).await.as_deref() == Some("$1")).await;
    // Without Redis ingestion goes on, and this process knows.
    redis.kill().await;
    let known = service.days.of(&place.project, &day(today - 2), 1);
    assert_eq!(service.send_stored(body).await.status, 200);
    assert_ne!(service.days.of(&place.project, &day(today - 2), 2), known);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_days_are_published_at_the_end_or_counted() {
    let (mut redis, data) = (Redis::start().await, Folder::create());
    let project = new_project();
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let publisher = Publisher::new(DayVersions::default(), true, Arc::clone(&metrics));
    let (pool, stopped) =
        (tallyhouse_service::redis::Pool::new(&redis.url.parse().unwrap(), 2).unwrap(), CancellationToken::new());
    stopped.cancel();
    let days = |days: [i32; 2]| days.map(|day| DayChange::day(&project, day));
    eventually("Redis has the days of a sender that was stopped", async || {
        publisher.publish(&days([1, 2]));
        publisher
            .clone()
            .send(pool.clone(), ShutdownMarker::place(data.path()), Health::default(), stopped.clone())
            .await;
        // Two days, and since when.
        redis.command(&format!("HLEN tallyhouse:{{versions}}:days:{project}")).await.as_deref() == Some(":3")
    })
    .await;

    redis.kill().await;
    let dropped = metrics.changed_days_dropped.get();
    publisher.publish(&days([3, 4]));
    publisher.send(pool, ShutdownMarker::place(data.path()), Health::default(), stopped).await;
    assert_eq!(metrics.changed_days_dropped.get() - dropped, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_without_redis_counts_the_days_it_could_not_tell() {
    let place = Place::new().await;
    let mut redis = Redis::start().await;
    let service = place.service(&[("REDIS_URL", &redis.url)]).await;
    redis.kill().await;
    assert_eq!(service.send(r#"{"eventType":"a"}"#).await.status, 202);
    assert_eq!(service.stop_and_measure("tallyhouse_ingest_invalidations_dropped_total").await, 1);
}
