//! What proves that a cached answer is right: an unchanged version does so only while ingesters send heartbeats.

use std::time::{Duration, Instant};

use serde_json::json;
use tallyhouse_service::changed_days::WRITERS;
use tallyhouse_service::day_versions::{DayChange, DayVersions};

use tallyhouse_testkit::ingest_service::{Service as Ingester, is_inserting};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{
    self as support, Folder, Redis, a_day, engine, eventually, insert_events, new_project, ten_days_ago,
};

const UNKNOWN: &str = "tallyhouse_query_cache_unknown_versions_total";

/// The time of an answer that nobody vouches for, in milliseconds; of one that somebody does it is an hour all the same.
const TTL_MS: &str = "2000";

/// A day that is over, an instance that remembers an answer about it, and an ingester that vouches for it.
struct Place {
    redis: Redis,
    api: Service,
    ingester: Ingester,
    data: Folder,
    project: String,
    from: i64,
    events: u64,
}

impl Place {
    async fn new() -> Self {
        let (engine, project, from) = (engine().await, new_project(), ten_days_ago());
        insert_events(&engine.writer(), &project, from, 1).await;
        let (redis, data) = (Redis::start().await, Folder::create());
        let ingester =
            Ingester::start_with(engine.writer(), &data, &project, &[("REDIS_URL", redis.url.as_str())]).await;
        eventually("the ingester beats", async || {
            redis.command("HLEN tallyhouse:{versions}:writers").await.as_deref() == Some(":2")
        })
        .await;
        let api = instance(&project, &redis).await;
        let place = Self { redis, api, ingester, data, project, from, events: 3 };
        place.is_vouched_for().await;
        place
    }

    /// An event of that day, stored.
    async fn late(&mut self) {
        let event = json!({"eventType": "a", "timestamp": (self.from + 60) * 1_000}).to_string();
        let importer = self.ingester.endpoint_with_key(&format!("import-{}", self.project));
        assert_eq!(importer.post_with("wait=stored", event.into()).await.unwrap().status, 200);
        self.events += 1;
    }

    async fn is_right(&self) -> bool {
        self.api.get(&self.project, &a_day(self.from)).await.values() == [json!(self.events)]
    }

    async fn shows(&self, why: &str) {
        eventually(&format!("the late event shows: {why}"), async || self.is_right().await).await;
    }

    /// Answers live for an hour again.
    async fn is_vouched_for(&self) {
        eventually("the answer lives for an hour", async || {
            let reply = self.api.get(&self.project, &a_day(self.from)).await;
            reply.values() == [json!(self.events)] && reply.body["meta"]["cache"]["ttl_s"].as_u64() > Some(2_000)
        })
        .await;
    }
}

async fn instance(project: &str, redis: &Redis) -> Service {
    let settings =
        Settings::of(engine().await.reader()).with("REDIS_URL", &redis.url).with("QUERY_CACHE_TTL_MS", TTL_MS);
    Service::start_with(settings, &[project]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_writes_proves_nothing() {
    let mut place = Place::new().await;
    let other = Redis::start().await;
    let replica = format!("REPLICAOF 127.0.0.1 {}", other.url.rsplit(':').next().unwrap());
    let breaks: [(&str, &[&str], &[&str]); 3] = [
        ("full", &["CONFIG SET maxmemory 1"], &["CONFIG SET maxmemory 0"]),
        (
            "a save failed",
            &["CONFIG SET save \"3600 1\"", "BGSAVE"],
            &["CONFIG SET save \"\"", "CONFIG SET stop-writes-on-bgsave-error no"],
        ),
        ("a read-only replica of another", &[&replica], &["REPLICAOF NO ONE"]),
    ];
    for (why, commands, mends) in breaks {
        for command in commands {
            if *command == "BGSAVE" {
                std::fs::remove_dir_all(place.redis.folder()).unwrap();
            }
            assert!(place.redis.command(command).await.is_some(), "{command}");
        }
        let refuses = async || {
            let reply = place.redis.command("SET something 1").await.unwrap_or_default();
            reply.starts_with("-OOM") || reply.starts_with("-MISCONF") || reply.starts_with("-READONLY")
        };
        eventually(&format!("Redis refuses: {why}"), refuses).await;
        place.late().await;
        place.shows(why).await;
        place.late().await;
        place.shows(why).await;
        for command in mends {
            place.redis.command(command).await.unwrap();
        }
        place.is_vouched_for().await;
        place.late().await;
        place.shows("it is mended").await;
        place.is_vouched_for().await;
    }
    assert!(place.api.counted(UNKNOWN, "") > 0);
    place.ingester.stop().await;
    place.api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_versions_that_was_evicted_revives_no_answer() {
    let mut place = Place::new().await;
    // Another instance remembers the first answer, and is not asked until the hash is gone.
    let other = instance(&place.project, &place.redis).await;
    let first = other.get(&place.project, &a_day(place.from)).await;
    assert_eq!(first.values(), [json!(3)]);
    place.late().await;
    place.shows("the change was published").await;
    for evicted in [
        format!("tallyhouse:{{versions}}:days:{}", place.project),
        WRITERS.to_owned(),
        "tallyhouse:{versions}:generations".to_owned(),
    ] {
        assert_eq!(place.redis.command(&format!("DEL {evicted}")).await.as_deref(), Some(":1"));
        place.redis.command("CLIENT KILL TYPE pubsub").await.unwrap();
        let begun = Instant::now();
        // Longer than anything read before is believed without messages.
        while begun.elapsed() < Duration::from_secs(2) {
            for api in [&place.api, &other] {
                assert_eq!(
                    api.get(&place.project, &a_day(place.from)).await.values(),
                    [json!(place.events)],
                    "{evicted}"
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        place.late().await;
        place.shows(&evicted).await;
        let shows = async || other.get(&place.project, &a_day(place.from)).await.values() == [json!(place.events)];
        eventually("on the other instance", shows).await;
    }
    place.is_vouched_for().await;
    other.stop().await;
    place.ingester.stop().await;
    place.api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cleared_is_not_given_again_when_the_count_of_clearings_is_lost() {
    let mut place = Place::new().await;
    // Nobody publishes these changes, which is what clearing is for.
    insert_events(&engine().await.writer(), &place.project, place.from, 1).await;
    assert!(place.is_right().await, "the answer from before is remembered");
    place.events += 3;
    assert_eq!(place.api.delete_as_operator("/v1/cache").await.status, 200);
    place.shows("it was cleared").await;
    assert_eq!(place.redis.command("DEL tallyhouse:{versions}:generations").await.as_deref(), Some(":1"));
    place.redis.command("CLIENT KILL TYPE pubsub").await.unwrap();
    let begun = Instant::now();
    // Longer than anything read before is believed without messages.
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(place.is_right().await, "the answer from before is given again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    place.ingester.stop().await;
    place.api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hung_vouches_for_nothing_until_it_was_told() {
    let mut place = Place::new().await;
    place.redis.hang().await;
    place.late().await;
    place.shows("Redis hangs").await;
    place.late().await;
    place.redis.thaw().await;
    place.shows("it goes on").await;
    place.is_vouched_for().await;
    place.ingester.stop().await;
    eventually("who stops in order leaves the list", async || {
        place.redis.command(&format!("HLEN {WRITERS}")).await.as_deref() == Some(":1")
    })
    .await;
    place.api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingester_that_was_killed_before_it_told_is_missed() {
    let mut place = Place::new().await;
    place.redis.command("CLIENT PAUSE 600000 WRITE").await.unwrap();
    place.late().await;
    // What it sent again, it would publish again.
    eventually("it is committed", async || !is_inserting(&place.data)).await;
    let Place { redis, api, ingester, data, project, from, events } = place;
    ingester.kill(&data).await;
    redis.command("CLIENT UNPAUSE").await.unwrap();
    let is_right = async || api.get(&project, &a_day(from)).await.values() == [json!(events)];
    eventually("the event shows although nobody published it", is_right).await;
    let is_missed = async || api.gauge("tallyhouse_query_cache_silent_writers") == 1;
    eventually("it is missed", is_missed).await;
    // Its successor publishes everything, and takes it off the list.
    let settings = [("REDIS_URL", redis.url.as_str())];
    let successor = Ingester::start_with(engine().await.writer(), &data, &project, &settings).await;
    eventually("nobody is missed", async || api.gauge("tallyhouse_query_cache_silent_writers") == 0).await;
    let place = Place { redis, api, ingester: successor, data, project, from, events };
    place.is_vouched_for().await;
    // One whose folder never comes back is forgotten when an operator clears the cache.
    let Place { redis, api, ingester, data, project, .. } = place;
    ingester.kill(&data).await;
    eventually("it is missed", is_missed_by(&api)).await;
    assert_eq!(api.delete_as_operator("/v1/cache").await.status, 200);
    eventually("nobody is missed", async || api.gauge("tallyhouse_query_cache_silent_writers") == 0).await;
    drop((redis, project));
    api.stop().await;
}

fn is_missed_by(api: &Service) -> impl AsyncFnMut() -> bool + '_ {
    async || api.gauge("tallyhouse_query_cache_silent_writers") == 1
}

/// A zone without changes of its clocks, in which days begin at this hour of UTC.
fn zone_of_midnight(hour: i64) -> String {
    if hour <= 12 { format!("Etc/GMT%2B{hour}") } else { format!("Etc/GMT-{}", 24 - hour) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_today_that_is_over_shows_late_events_at_once() {
    let engine = support::engine().await;
    let hour = tallyhouse_service::clock::now_ms() / 3_600_000 * 3_600;
    let (from, to) = (hour - 7_200, hour - 3_600);
    for is_fleet in [true, false] {
        let project = new_project();
        insert_events(&engine.writer(), &project, from, 1).await;
        let (redis, days, data) = (Redis::start().await, DayVersions::default(), Folder::create());
        let ingester =
            Ingester::start_with(engine.writer(), &data, &project, &[("REDIS_URL", redis.url.as_str())]).await;
        let mut settings = Settings { days: (!is_fleet).then(|| days.clone()), ..Settings::of(engine.reader()) };
        if is_fleet {
            eventually("it beats", async || redis.command(&format!("HLEN {WRITERS}")).await.as_deref() == Some(":2"))
                .await;
            settings = settings.with("REDIS_URL", &redis.url);
        }
        let api = Service::start_with(settings, &[&project]).await;
        let path = format!("/v1/metrics/events?granularity=hour&startTime={}&endTime={}", from * 1_000, to * 1_000);
        // Yesterday where it is midnight at the start of this hour of UTC.
        let (day_before, zone) = ((hour - 86_400) * 1_000, zone_of_midnight(hour / 3_600 % 24));
        let yesterday = format!(
            "/v1/metrics/events?granularity=day&timezone={zone}&startTime={day_before}&endTime={}",
            hour * 1_000
        );
        let send = async |ts: i64| {
            let event = json!({"eventType": "a", "timestamp": ts * 1_000}).to_string();
            let importer = ingester.endpoint_with_key(&format!("import-{project}"));
            assert_eq!(importer.post_with("wait=stored", event.into()).await.unwrap().status, 200);
            // As the ingester of the same process.
            days.raise(&[DayChange::of_event(&project, ts * 1_000, tallyhouse_service::clock::now_ms())]);
        };
        for path in [&path, &yesterday] {
            let first = api.get(&project, path).await;
            assert_eq!(first.values(), [json!(3)], "{first:?}");
        }
        for expected in 4..7 {
            send(from + 60).await;
            let stored = Instant::now();
            // The answer is fresh for an hour by its time.
            for path in [&path, &yesterday] {
                eventually("it shows", async || api.get(&project, path).await.values() == [json!(expected)]).await;
            }
            eprintln!("a late event of this day shows after {:?}", stored.elapsed());
        }
        for path in [&path, &yesterday] {
            eventually("it lives for an hour", async || {
                api.get(&project, path).await.body["meta"]["cache"]["ttl_s"].as_u64() > Some(2_000)
            })
            .await;
        }
        // Of the hour that is not over it does not depend.
        let before = api.queries();
        send(hour + 1).await;
        for path in [&path, &yesterday] {
            assert_eq!(api.get(&project, path).await.header("x-cache"), "HIT");
        }
        // A tool that names no hour changes all of them.
        let told = json!([{"project": project, "day": from / 86_400}]).to_string();
        assert_eq!(api.post_as_operator("/v1/touched", told).await.status, 200);
        eventually("it is read again", async || {
            api.get(&project, &path).await;
            api.queries() > before
        })
        .await;
        let bad = json!([{"project": project, "day": 1, "hour": 24}]).to_string();
        let bad = api.post_as_operator("/v1/touched", bad).await;
        assert_eq!((bad.status.as_u16(), &bad.body["code"]), (400, &json!("bad_hour")));
        ingester.stop().await;
        api.stop().await;
    }
}
