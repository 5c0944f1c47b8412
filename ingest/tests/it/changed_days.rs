//! Changed days reach Redis, whatever becomes of it or of the ingester: a cached answer about what was inserted is not served again.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use tallyhouse_ingest::changed_days::Publisher;
use tallyhouse_ingest::telemetry::Metrics;
use tallyhouse_ingest::unclean_shutdown::ShutdownMarker;
use tallyhouse_service::changed_days::{
    ALL, CONNECTIONS, DAYS_KEY, GENERATIONS, InvalidateError, WRITERS, beat, invalidate, invalidate_everything,
};
use tallyhouse_service::day_versions::{DayChange, DayVersions};
use tallyhouse_service::health::Health;
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::redis::Pool;
use tokio_util::sync::CancellationToken;

use tallyhouse_testkit::ingest_service::{Service as Ingester, is_inserting, markers};
use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{
    Folder, Redis, a_day, engine, eventually, free_ports, insert_events, new_project, ten_days_ago,
};

/// Nobody listens there.
const AWAY: &str = "redis://127.0.0.1:1";

const INVALIDATED: &str = "tallyhouse_ingest_invalidated_everything_total";
const FAILED: &str = "tallyhouse_ingest_invalidation_failures_total";

/// What can wait for Redis.
const MOST: i32 = 100_000;

fn days(project: &str, days: std::ops::Range<i32>) -> Vec<DayChange> {
    days.map(|day| DayChange::day(project, day)).collect()
}

/// A publisher to Redis, without an ingester around it.
struct Publishing {
    metrics: Arc<Metrics>,
    publisher: Publisher,
    data: Folder,
}

impl Publishing {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let publisher = Publisher::new(DayVersions::default(), true, Arc::clone(&metrics));
        Self { metrics, publisher, data: Folder::create() }
    }

    /// Tries once. Whether Redis took everything that waited.
    async fn try_once(&self, redis_url: &str) -> bool {
        let stopped = CancellationToken::new();
        stopped.cancel();
        let failures = self.metrics.changed_days_failures.get();
        let marker = ShutdownMarker::place(self.data.path());
        self.publisher
            .clone()
            .send(Pool::new(&redis_url.parse().unwrap(), 1).unwrap(), marker, Health::default(), stopped)
            .await;
        self.metrics.changed_days_failures.get() == failures
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_after_an_outage_is_taken_however_much_it_is() {
    let (redis, project, publishing) = (Redis::start().await, new_project(), Publishing::new());
    let waiting = days(&project, 0..MOST);
    eventually("Redis takes all of them", async || {
        publishing.publisher.publish(&waiting);
        publishing.try_once(&redis.url).await
    })
    .await;
    let known = redis.command(&format!("HLEN {DAYS_KEY}{project}")).await;
    assert_eq!(known, Some(format!(":{}", MOST + 1)), "and since when");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_api_passes_on_a_long_list_of_days() {
    let (redis, project) = (Redis::start().await, new_project());
    let api = Service::start(engine().await.reader(), &[&project], Some(&redis.url)).await;
    let list = json!(days(&project, 0..60_000)).to_string();
    eventually("Redis takes all of them", async || {
        api.post_as_operator("/v1/touched", list.clone()).await.status == 200
    })
    .await;
    assert_eq!(redis.command(&format!("HLEN {DAYS_KEY}{project}")).await.as_deref(), Some(":60001"), "and since when");
    let messages =
        "EVAL \"return tonumber(string.match(redis.call('INFO', 'commandstats'), 'cmdstat_publish:calls=(%d+)'))\" 0";
    let messages = redis.command(messages).await.unwrap();
    assert!(messages.trim_start_matches(':').parse::<u32>().unwrap() >= 12, "{messages}: more than 5,000 at a time");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_invalidated_when_days_found_no_room() {
    let (redis, project, publishing) = (Redis::start().await, new_project(), Publishing::new());
    publishing.publisher.publish(&days(&project, 0..MOST));
    publishing.publisher.publish(&days(&project, 1_000..MOST));
    assert_eq!(publishing.metrics.changed_days_dropped.get(), 0, "they wait already");
    publishing.publisher.publish(&days(&project, MOST - 1..MOST + 2));
    assert_eq!(publishing.metrics.changed_days_dropped.get(), 2);
    eventually("Redis takes what waits", async || publishing.try_once(&redis.url).await).await;
    // More than once where Redis was too slow for the days that follow.
    let invalidated = publishing.metrics.changed_days_everything.get();
    assert!(invalidated >= 1 && redis.number(GENERATIONS, ALL).await >= 1, "{invalidated}");
    publishing.publisher.publish(&days(&project, 0..1));
    eventually("Redis takes what waits", async || publishing.try_once(&redis.url).await).await;
    assert_eq!(publishing.metrics.changed_days_everything.get(), invalidated, "not again");
}

/// A day's answer, cached through Redis, and ingesters that come and go.
struct Place {
    redis: Redis,
    api: Service,
    data: Folder,
    project: String,
    from: i64,
}

impl Place {
    /// With three events on the day, and an answer that says so.
    async fn new() -> Self {
        let (engine, project, from) = (engine().await, new_project(), ten_days_ago());
        insert_events(&engine.writer(), &project, from, 1).await;
        let redis = Redis::start().await;
        let api = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
        let place = Self { redis, api, data: Folder::create(), project, from };
        assert_eq!(place.answer().await, ("MISS".to_owned(), json!([3])));
        assert_eq!(place.answer().await, ("HIT".to_owned(), json!([3])));
        place
    }

    async fn ingester(&self, redis_url: &str) -> Ingester {
        let settings = [("REDIS_URL", redis_url)];
        Ingester::start_with(engine().await.writer(), &self.data, &self.project, &settings).await
    }

    /// Starts an ingester that reaches Redis, stops it, and gives how often it invalidated everything.
    async fn start_and_stop(&self) -> u64 {
        self.ingester(&self.redis.url).await.stop_and_measure(INVALIDATED).await
    }

    /// An event of that day, stored.
    async fn late_event(&self, ingester: &Ingester) {
        let event = json!({"eventType": "a", "timestamp": (self.from + 60) * 1_000}).to_string();
        let importer = ingester.endpoint_with_key(&format!("import-{}", self.project));
        assert_eq!(importer.post_with("wait=stored", event.into()).await.unwrap().status, 200);
        // What an ingester would send again, it would publish again.
        eventually("it is committed", async || !is_inserting(&self.data)).await;
    }

    async fn answer(&self) -> (String, serde_json::Value) {
        let reply = self.api.get(&self.project, &a_day(self.from)).await;
        (reply.header("x-cache").to_owned(), reply.values().into())
    }

    async fn shows(&self, events: u64) {
        eventually("the answer is of now", async || self.answer().await.1 == json!([events])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_ingester_did_not_publish_shows_after_its_restart_and_an_orderly_one_forgets_nothing() {
    let place = Place::new().await;
    let hit = |events: u64| ("HIT".to_owned(), json!([events]));
    assert_eq!([place.start_and_stop().await, place.start_and_stop().await], [0, 0]);
    assert_eq!(place.answer().await, hit(3));

    // Killed before it published to Redis: this one because it never reached it.
    let doomed = place.ingester(AWAY).await;
    place.late_event(&doomed).await;
    doomed.kill(&place.data).await;
    assert_eq!(place.answer().await, hit(3), "nothing was published");
    assert_eq!(place.start_and_stop().await, 1);
    place.shows(4).await;
    assert_eq!(place.start_and_stop().await, 0);
    assert_eq!(place.answer().await, hit(4));

    // Stopped in order, and Redis was away.
    let lonely = place.ingester(AWAY).await;
    place.late_event(&lonely).await;
    assert_eq!(lonely.stop_and_measure("tallyhouse_ingest_invalidations_dropped_total").await, 1);
    assert_eq!(place.answer().await, hit(4), "nothing was published");
    // Nor does this one reach it, which has nothing else to publish.
    let unheard = place.ingester(AWAY).await;
    assert_eq!(unheard.stop_and_measure(INVALIDATED).await, 0);
    assert_eq!(place.start_and_stop().await, 1);
    place.shows(5).await;
    assert!(markers(&place.data).is_empty());
    assert_eq!(place.start_and_stop().await, 0);
    assert_eq!(place.answer().await, hit(5));
    place.api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_after_a_killed_one_tells_redis_as_soon_as_it_is_there() {
    let (data, project, [port]) = (Folder::create(), new_project(), free_ports());
    drop(ShutdownMarker::place(&data.path().join("ingest")));
    let redis_url = format!("redis://127.0.0.1:{port}");
    let settings = [("REDIS_URL", &*redis_url), ("KAFKA_BROKERS", "127.0.0.1:1"), ("INGEST_ROLE", "consumer")];
    let consumer = Ingester::start_unready(engine().await.writer(), &data, &project, &settings).await;
    eventually("it has tried twice", async || consumer.metric(FAILED) >= 2).await;
    assert_eq!((consumer.metric(INVALIDATED), markers(&data).len()), (0, 2));
    let redis = Redis::start_on(port).await;
    eventually("everything is invalidated", async || consumer.metric(INVALIDATED) == 1).await;
    assert!(redis.number(GENERATIONS, ALL).await >= 1);
    eventually("only its own marker is left", async || markers(&data).len() == 1).await;
    assert_eq!(consumer.stop_and_measure(INVALIDATED).await, 1);
    assert!(markers(&data).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_there_is_no_marker() {
    let data = Folder::create();
    let ingester = Ingester::start(engine().await.writer(), &data, &new_project()).await;
    assert!(!data.path().join("ingest").join("running").exists());
    ingester.stop().await;
}

#[tokio::test]
async fn what_redis_refuses_is_an_error_and_nothing_of_it_is_carried_out() {
    let redis = Redis::start().await;
    let pool = Pool::new(&redis.url.parse().unwrap(), CONNECTIONS).unwrap();
    let gone = ["gone".to_owned()];
    let day = BTreeSet::from([DayChange::day("p", 3)]);
    redis.command("HSET tallyhouse:{versions}:writers gone 5").await.unwrap();

    // `HDEL` would be taken by a full Redis, and nobody would doubt what the killed writer did not publish.
    redis.command("CONFIG SET maxmemory 1").await.unwrap();
    for refused in
        [invalidate_everything(&pool, &gone).await, invalidate(&pool, &day).await, beat(&pool, "gone", 6).await]
    {
        assert!(matches!(refused, Err(InvalidateError::Redis(_))), "{refused:?}");
    }
    assert_eq!((redis.number(GENERATIONS, ALL).await, redis.number(WRITERS, "gone").await), (0, 5));
    redis.command("CONFIG SET maxmemory 0").await.unwrap();

    // Refused when it is carried out, not when it is queued.
    let key = format!("{DAYS_KEY}p");
    redis.command(&format!("SET {key} x")).await.unwrap();
    let refused = invalidate(&pool, &day).await;
    assert!(matches!(refused, Err(InvalidateError::Redis(_))), "{refused:?}");
    redis.command(&format!("DEL {key}")).await.unwrap();

    invalidate(&pool, &day).await.unwrap();
    invalidate_everything(&pool, &gone).await.unwrap();
    let found =
        (redis.number(&key, "3").await, redis.number(GENERATIONS, ALL).await, redis.number(WRITERS, "gone").await);
    assert_eq!(found, (1, 1, 0));
}
