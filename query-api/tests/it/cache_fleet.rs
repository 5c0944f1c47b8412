//! Two instances and one Redis: one query for a crowd, also when the leader dies, and every instance learns what changed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::json;
use tallyhouse_control::{Control, FixedKey, FixedKeys};
use tallyhouse_query_api::authorize::Scope;
use tallyhouse_query_api::cache::parts::{ComputedPart, PartsDeps, Reach};
use tallyhouse_query_api::cache::ttl::Policy;
use tallyhouse_query_api::cache::{
    DaysStamp, Generation, Life, PartKey, Parts, RedisTimeBudget, SharedCache, VersionStamp, Versions,
};
use tallyhouse_query_api::telemetry::Metrics;
use tallyhouse_service::access::Scope as KeyScope;
use tallyhouse_service::changed_days::invalidate;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::{DayChange, Span};
use tallyhouse_service::metrics::Registry;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, Redis, a_day, eventually, insert_events, new_project, ten_days_ago};

/// Longer than any answer is kept.
const GONE: Duration = Duration::from_secs(86_401);

/// As the ingester does after an insert.
async fn raise(redis: &Redis, project: &str, from: i64) {
    let day = from / 86_400;
    redis.command(&format!("HINCRBY tallyhouse:{{versions}}:days:{project} {day} 1")).await.unwrap();
    redis.command(&format!("PUBLISH tallyhouse:{{versions}}:touched \"{project} {day}\"")).await.unwrap();
}

/// `readers` on each of the services ask `times` in a row; gives how many answers had which `X-Cache`.
async fn crowd(services: [&Arc<Service>; 2], project: &str, path: &str, value: i64, readers: usize) -> [usize; 4] {
    let asking: Vec<_> = (0..readers)
        .flat_map(|_| services)
        .map(|service| {
            let (service, project, path) = (Arc::clone(service), project.to_owned(), path.to_owned());
            tokio::spawn(async move {
                let (mut seen, mut took) = ([0; 4], Vec::new());
                for _ in 0..10 {
                    let sent = Instant::now();
                    let reply = service.get(&project, &path).await;
                    took.push(sent.elapsed());
                    assert_eq!(reply.values(), [json!(value)], "{reply:?}");
                    let place =
                        ["HIT", "MISS", "STALE", "COALESCED"].iter().position(|s| *s == reply.header("x-cache"));
                    seen[place.unwrap()] += 1;
                }
                (seen, took)
            })
        })
        .collect();
    let (mut seen, mut took) = ([0; 4], Vec::new());
    for reader in asking {
        let (counts, times) = reader.await.unwrap();
        seen.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        took.extend(times);
    }
    took.sort();
    let [p50, p99] = [50, 99].map(|percent| took[(took.len() - 1) * percent / 100]);
    eprintln!("crowd: {} answers, HIT MISS STALE COALESCED {seen:?}, p50 {p50:?}, p99 {p99:?}", took.len());
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_readers_of_two_instances_cost_one_query() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 5).await;
    let redis = Redis::start().await;
    let one = Arc::new(Service::start(engine.reader(), &[&project], Some(&redis.url)).await);
    let other = Arc::new(Service::start(engine.reader(), &[&project], Some(&redis.url)).await);
    for service in [&one, &other] {
        service.get(&project, &a_day(from)).await;
    }
    let queries = || one.queries() + other.queries();
    assert_eq!(queries(), 1);

    // Gone: everybody waits for the one.
    [&one, &other].iter().for_each(|service| service.pass(GONE));
    let [hit, miss, stale, coalesced] = crowd([&one, &other], &project, &a_day(from), 15, 500).await;
    assert_eq!((queries(), miss, stale, hit + coalesced), (2, 1, 0, 9_999));

    // Its time is about to end: nobody waits.
    let ttl_s = async |service: &Service| {
        service.get(&project, &a_day(from)).await.body["meta"]["cache"]["ttl_s"].as_u64().unwrap()
    };
    let about_to_end = Duration::from_secs(ttl_s(&one).await - 60);
    [&one, &other].iter().for_each(|service| service.pass(about_to_end));
    let seen = crowd([&one, &other], &project, &a_day(from), 15, 500).await;
    assert_eq!(seen, [10_000, 0, 0, 0]);
    eventually("the answer is refreshed on both", async || ttl_s(&one).await > 60 && ttl_s(&other).await > 60).await;
    // Its part may have outlived it.
    assert!((2..=3).contains(&queries()), "{}", queries());
}

/// Else a crowd after a quiet time would wait for an answer that is there and right: versions count as unknown a second after the
/// last heartbeat was read.
#[tokio::test]
async fn an_instance_that_is_busy_goes_on_hearing_what_changes() {
    let redis = Redis::start().await;
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let shared = SharedCache::new(&redis.url.parse().unwrap(), metrics.clone(), Arc::new(now_ms)).unwrap();
    let versions = Versions::new(Some(Arc::new(shared)), None, Arc::new(now_ms), metrics);
    let (following, from, budget) = (versions.clone(), ten_days_ago(), RedisTimeBudget::default());
    let following = tokio::spawn(async move { following.follow(|_| {}, CancellationToken::new()).await });
    let span = Span::between(from, from + 86_400, i32::try_from(now_ms() / 86_400_000).unwrap());
    eventually("what is known needs no reading after a busy time", async || {
        versions.stamp("p", &span, &budget).await;
        // Everything else in this runtime waits for it.
        std::thread::sleep(Duration::from_millis(1_500));
        let stamp = versions.stamp("p", &span, &budget).now_or_never();
        stamp.is_some_and(|stamp| stamp.days != DaysStamp::Unknown)
    })
    .await;
    following.abort();
}

#[test]
fn a_dead_leader_strands_nobody_and_costs_one_query_more() {
    let (doomed, living) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let (project, from) = (new_project(), ten_days_ago());
    let (engine, redis, other) = living.block_on(async {
        let engine = support::engine().await;
        insert_events(&engine.writer(), &project, from, 5).await;
        let redis = Redis::start().await;
        let other = Arc::new(Service::start(engine.reader(), &[&project], Some(&redis.url)).await);
        (engine, redis, other)
    });
    // The leader's query is sent, and its answer never comes.
    let (service, key, url) = (doomed.handle().clone(), project.clone(), redis.url.clone());
    let proxy = doomed.block_on(async {
        let proxy = Proxy::start(engine.reader()).await;
        let leader = Service::start(proxy.connection.clone(), &[&key], Some(&url)).await;
        eventually("the leader answers", async || leader.get(&key, "/v1/dashboards/realtime").await.status == 200)
            .await;
        proxy.set(Mode::HoldAnswers);
        service.spawn(async move { leader.get(&key, &a_day(from)).await });
        proxy
    });
    living.block_on(async {
        eventually("the leader holds the lock", async || redis.keys("tallyhouse:lock:").await == 1).await;
        let waiting: Vec<_> = (0..200)
            .map(|_| {
                let (other, project) = (Arc::clone(&other), project.clone());
                tokio::spawn(async move { other.get(&project, &a_day(from)).await })
            })
            .collect();
        let waits = async || other.counted("tallyhouse_query_cache_locks_total", "waited") == 1;
        eventually("the followers wait", waits).await;
        assert_eq!(other.queries(), 0);
        // As a kill: nothing that the leader would do at its end is done.
        drop(proxy);
        doomed.shutdown_background();
        for reader in waiting {
            assert_eq!(reader.await.unwrap().values(), [json!(15)]);
        }
        assert_eq!((other.queries(), other.counted("tallyhouse_query_cache_locks_total", "took_over")), (1, 1));
    });
}

/// The leader of another instance computes for as long as its own deadline is: whoever waits for it does so within theirs.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_instance_is_answered_within_its_own_deadline() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    let (redis, proxy) = (Redis::start().await, Proxy::start(engine.reader()).await);
    let with_deadline = |millis: &str| {
        let settings = Settings::of(proxy.connection.clone()).with("REDIS_URL", &redis.url);
        settings.with("QUERY_DEADLINE_DASHBOARD_MS", millis).with("QUERY_LOOK_UP_MS", "30000")
    };
    let leader = Arc::new(Service::start_with(with_deadline("30000"), &[&project]).await);
    let follower = Service::start_with(with_deadline("2000"), &[&project]).await;
    proxy.set(Mode::HoldAnswers);
    let (asking, key) = (Arc::clone(&leader), project.clone());
    let leading = tokio::spawn(async move { asking.get(&key, &a_day(from)).await });
    eventually("the leader holds the lock", async || redis.keys("tallyhouse:lock:").await == 1).await;
    let began = Instant::now();
    let late = follower.get(&project, &a_day(from)).await;
    eprintln!("a follower was answered after {:?}", began.elapsed());
    assert_eq!((late.status.as_u16(), &late.body["code"]), (504, &json!("timed_out")), "{late:?}");
    assert_eq!(late.header("retry-after"), "1");
    assert!(began.elapsed() < Duration::from_millis(3_500), "{:?}", began.elapsed());
    leading.abort();
    proxy.set(Mode::Pass);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_answer_is_computed_once_for_all_who_ask_and_once_in_a_while_for_one_of_them() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let (mut redis, proxy) = (Redis::start().await, Proxy::start(engine.reader()).await);
    let settings = || Settings::of(proxy.connection.clone()).with("REDIS_URL", &redis.url);
    let one = Arc::new(Service::start_with(settings(), &[&project]).await);
    let other = Service::start_with(settings(), &[&project]).await;
    let path = format!("{}&fresh=true", a_day(from));
    for service in [&*one, &other] {
        assert_eq!(service.get(&project, &a_day(from)).await.status, 200);
    }
    let before = one.queries();
    proxy.set(Mode::HoldAnswers);
    // Two keys of one project.
    let herd: Vec<_> = [project.clone(), format!("admin-{project}")]
        .into_iter()
        .map(|key| {
            let (service, path) = (Arc::clone(&one), path.clone());
            tokio::spawn(async move { service.get(&key, &path).await })
        })
        .collect();
    eventually("both ask", async || one.gauge("tallyhouse_query_requests_in_flight") == 2).await;
    eventually("one is asked", async || one.gauge("tallyhouse_query_clickhouse_in_flight") >= 1).await;
    eventually("both are counted", async || redis.keys("tallyhouse:fresh:").await == 2).await;
    proxy.set(Mode::Pass);
    let mut statuses = Vec::new();
    for reply in herd {
        statuses.push(reply.await.unwrap().header("x-cache").to_owned());
    }
    statuses.sort();
    assert_eq!((statuses, one.queries() - before), (vec!["COALESCED".to_owned(), "MISS".to_owned()], 1));
    // The other instance knows that this caller has just had one.
    assert_ne!(other.get(&project, &path).await.header("x-cache"), "MISS");
    redis.kill().await;
    assert_eq!(other.get(&project, &path).await.header("x-cache"), "MISS", "without Redis each counts for itself");
    assert_ne!(other.get(&project, &path).await.header("x-cache"), "MISS");
    other.stop().await;
}

#[tokio::test]
async fn a_slow_leader_does_not_replace_a_newer_answer() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let (redis, proxy) = (Redis::start().await, Proxy::start(engine.reader()).await);
    let slow = Arc::new(Service::start(proxy.connection.clone(), &[&project], Some(&redis.url)).await);
    let quick = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    proxy.set(Mode::HoldAnswers);
    let (asking, key) = (Arc::clone(&slow), project.clone());
    let early = tokio::spawn(async move { asking.get(&key, &a_day(from)).await });
    let is_sent = async || slow.gauge("tallyhouse_query_clickhouse_in_flight") == 1;
    eventually("the slow leader has asked ClickHouse", is_sent).await;
    insert_events(&engine.writer(), &project, from, 1).await;
    assert_eq!(quick.get(&project, &format!("{}&fresh=true", a_day(from))).await.values(), [json!(6)]);
    eventually("it is published", async || redis.keys("tallyhouse:answer:").await == 1).await;
    proxy.set(Mode::Pass);
    assert_eq!(early.await.unwrap().status, 200);
    let is_fenced = async || slow.counted("tallyhouse_query_cache_locks_total", "fenced_out") == 1;
    eventually("the slow leader's answer is refused", is_fenced).await;
    let third = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    let known = third.get(&project, &a_day(from)).await;
    assert_eq!((known.header("x-cache"), known.values()), ("HIT", vec![json!(6)]));
    quick.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_shows_on_every_instance() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let redis = Redis::start().await;
    let one = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    let other = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    let shows = async |value: i64| {
        one.get(&project, &a_day(from)).await.values() == [json!(value)]
            && other.get(&project, &a_day(from)).await.values() == [json!(value)]
    };
    assert!(shows(3).await);
    insert_events(&engine.writer(), &project, from, 1).await;
    raise(&redis, &project, from).await;
    eventually("the event shows", async || shows(6).await).await;
    assert_eq!(one.get(&project, &a_day(from)).await.header("x-cache"), "HIT");

    // Messages are lost: a subscription that ends makes everything be read again.
    insert_events(&engine.writer(), &project, from, 1).await;
    let day = from / 86_400;
    redis.command(&format!("HINCRBY tallyhouse:{{versions}}:days:{project} {day} 1")).await.unwrap();
    redis.command("CLIENT KILL TYPE pubsub").await.unwrap();
    eventually("the event shows without its message", async || shows(9).await).await;
    // A look at Redis that came to nothing costs a query, and is counted; nothing else does.
    let missed = one.counted("tallyhouse_query_redis_errors_total", "")
        + other.counted("tallyhouse_query_redis_errors_total", "");
    let queries = one.queries() + other.queries();
    assert!(
        (3..=3 + missed).contains(&queries),
        "each state of the data was read once: {queries} reads, {missed} misses"
    );

    // Another day does not matter.
    raise(&redis, &project, from + 86_400).await;
    raise(&redis, &new_project(), from).await;
    for service in [&one, &other] {
        assert_eq!(service.get(&project, &a_day(from)).await.header("x-cache"), "HIT");
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn of_a_trickle_of_late_events_readers_wait_for_one_in_half_a_second() {
    let (engine, from) = (support::engine().await, ten_days_ago());
    let (project, other) = (new_project(), new_project());
    let redis = Redis::start().await;
    let settings = Settings { now_ms: Some(now_ms()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings.with("REDIS_URL", &redis.url), &[&project, &other]).await;
    let is_heard =
        async || redis.command("PUBLISH tallyhouse:{versions}:touched nobody").await.as_deref() == Some(":1");
    eventually("the service listens", is_heard).await;
    for project in [&project, &other] {
        insert_events(&engine.writer(), project, from, 1).await;
    }
    let late = async |project: &str| {
        insert_events(&engine.writer(), project, from, 1).await;
        raise(&redis, project, from).await;
    };
    let shows = async |project: &str, value: i64| service.get(project, &a_day(from)).await.values() == [json!(value)];
    assert!(shows(&project, 3).await && shows(&other, 3).await);
    late(&project).await;
    eventually("a late event after quiet shows, while the clock stands still", async || shows(&project, 6).await).await;

    late(&project).await;
    late(&other).await;
    // Messages come in order.
    eventually("the one of another project shows", async || shows(&other, 6).await).await;
    let held = service.get(&project, &a_day(from)).await;
    assert_eq!((held.header("x-cache"), held.values()), ("HIT", vec![json!(6)]));
    service.pass(Duration::from_millis(500));
    let told = service.get(&project, &a_day(from)).await;
    assert_eq!((told.header("x-cache"), told.values()), ("MISS", vec![json!(9)]));
    service.stop().await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_not_taken_for_the_one_before() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let redis = Redis::start().await;
    raise(&redis, &project, from).await;
    let service = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(3)]);
    // The counter is 1 again, and the data is another.
    insert_events(&engine.writer(), &project, from, 1).await;
    redis.command("FLUSHALL").await.unwrap();
    raise(&redis, &project, from).await;
    redis.command("CLIENT KILL TYPE pubsub").await.unwrap();
    let shows = async || service.get(&project, &a_day(from)).await.values() == [json!(6)];
    eventually("the event shows", shows).await;
    service.stop().await;
}

#[tokio::test]
async fn a_redis_that_comes_back_as_it_was_earlier_gives_no_answer_of_then() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let mut redis = Redis::start().await;
    raise(&redis, &project, from).await;
    let one = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    assert_eq!(one.get(&project, &a_day(from)).await.values(), [json!(3)]);
    eventually("it is published", async || redis.keys("tallyhouse:answer:").await == 1).await;
    assert_eq!(redis.command("SAVE").await.as_deref(), Some("+OK"));
    insert_events(&engine.writer(), &project, from, 1).await;
    raise(&redis, &project, from).await;
    let shows = async || one.get(&project, &a_day(from)).await.values() == [json!(6)];
    eventually("the event shows", shows).await;

    redis.restart().await;
    assert_eq!(redis.keys("tallyhouse:answer:").await, 1, "the answer of then is there again");
    let other = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    let first = other.get(&project, &a_day(from)).await;
    assert_eq!((first.header("x-cache"), first.values()), ("MISS", vec![json!(6)]));
    // The counter is as before the restart, and the data is another.
    insert_events(&engine.writer(), &project, from, 1).await;
    raise(&redis, &project, from).await;
    let shows = async || {
        let values = one.get(&project, &a_day(from)).await.values();
        assert_ne!(values, [json!(3)]);
        values == [json!(9)]
    };
    eventually("the next event shows on who was there before", shows).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_full_redis_still_says_what_it_holds() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let redis = Redis::start().await;
    let one = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    assert_eq!(one.get(&project, &a_day(from)).await.values(), [json!(3)]);
    eventually("it is published", async || redis.keys("tallyhouse:answer:").await == 1).await;
    redis.command("CONFIG SET maxmemory 1").await.unwrap();
    assert!(redis.command("SET something 1").await.unwrap().starts_with("-OOM"), "Redis is full");
    let other = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    let known = other.get(&project, &a_day(from)).await;
    assert_eq!((known.header("x-cache"), known.values()), ("HIT", vec![json!(3)]));
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_redis_that_may_not_be_asked_who_it_is_is_of_use_all_the_same() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let redis = Redis::start().await;
    assert_eq!(redis.command("ACL SETUSER default -info").await.as_deref(), Some("+OK"));
    for expected in ["MISS", "HIT"] {
        let service = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
        assert_eq!(service.get(&project, &a_day(from)).await.header("x-cache"), expected);
        eventually("it is published", async || redis.keys("tallyhouse:answer:").await == 1).await;
        service.stop().await;
    }
}

#[tokio::test]
async fn the_days_of_a_project_that_ended_and_began_again_are_not_taken_for_those_before() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let redis = Redis::start().await;
    let (pool, day) =
        (tallyhouse_service::redis::Pool::new(&redis.url.parse().unwrap(), 1).unwrap(), (from / 86_400) as i32);
    let changed = BTreeSet::from([DayChange::day(&project, day)]);
    let late = async || invalidate(&pool, &changed).await.unwrap();
    late().await;
    let service = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(3)]);
    // As after days in which nothing came: the counter is 1 again, and the data is another.
    insert_events(&engine.writer(), &project, from, 1).await;
    redis.command(&format!("DEL tallyhouse:{{versions}}:days:{project}")).await.unwrap();
    late().await;
    let shows = async || service.get(&project, &a_day(from)).await.values() == [json!(6)];
    eventually("the event shows", shows).await;
    service.stop().await;
}

#[tokio::test]
async fn an_operator_clears_a_project_on_every_instance() {
    let (engine, from) = (support::engine().await, ten_days_ago());
    let (mine, theirs) = (new_project(), new_project());
    for project in [&mine, &theirs] {
        insert_events(&engine.writer(), project, from, 1).await;
    }
    let mut redis = Redis::start().await;
    let one = Service::start(engine.reader(), &[&mine, &theirs], Some(&redis.url)).await;
    let other = Service::start(engine.reader(), &[&mine, &theirs], Some(&redis.url)).await;
    for service in [&one, &other] {
        for project in [&mine, &theirs] {
            service.get(project, &a_day(from)).await;
        }
    }
    let queries = || one.queries() + other.queries();
    assert_eq!(queries(), 2);
    insert_events(&engine.writer(), &mine, from, 1).await;
    let reply = one.delete_as_operator(&format!("/v1/cache?project={mine}")).await;
    assert_eq!((reply.status.as_u16(), &reply.body["forgotten"]["answers"]), (200, &json!(1)), "{reply:?}");
    assert_eq!(one.get(&mine, &a_day(from)).await.values(), [json!(6)]);
    let shows = async || other.get(&mine, &a_day(from)).await.values() == [json!(6)];
    eventually("the other instance has heard", shows).await;
    assert_eq!(other.get(&theirs, &a_day(from)).await.header("x-cache"), "HIT");
    assert_eq!(queries(), 3);

    let bad = one.delete_as_operator("/v1/cache?projct=x").await;
    assert_eq!((bad.status.as_u16(), &bad.body["did_you_mean"]), (400, &json!(["project"])), "{bad:?}");
    redis.kill().await;
    let alone = one.delete_as_operator("/v1/cache").await;
    assert_eq!((alone.status.as_u16(), &alone.body["code"]), (503, &json!("redis_unavailable")));
    one.stop().await;
    other.stop().await;
}

/// Parts of an instance of its own.
fn parts(redis_url: &str) -> Parts {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let shared = SharedCache::new(&redis_url.parse().unwrap(), metrics.clone(), Arc::new(now_ms)).unwrap();
    let (clock, random) = (Arc::new(now_ms), Arc::new(|| 0.5));
    let policy = Policy { open: Duration::from_secs(60) };
    Parts::new(PartsDeps { bytes: 1 << 20, shared: Some(Arc::new(shared)), policy, metrics, clock, random })
}

async fn get(parts: &Parts, keys: &[PartKey]) -> Vec<Option<Bytes>> {
    let found = parts.get_many(keys, &RedisTimeBudget::default()).await;
    found.into_iter().map(|part| part.map(|part| part.bytes)).collect()
}

fn scope(project: &str) -> Scope {
    let mut keys = FixedKeys::default();
    keys.add(project, FixedKey::new(project, "query", &[KeyScope::Query]));
    Scope::of(Arc::clone(&Control::fixed(keys).find(project).unwrap().principal)).unwrap()
}

#[tokio::test]
async fn parts_are_shared_and_only_at_their_stamp() {
    let mut redis = Redis::start().await;
    let (one, other) = (parts(&redis.url), parts(&redis.url));
    let key = |project: &str, what: &str, sum| {
        let generation = Generation::Fleet { incarnation: 1, all: 0, project: 0 };
        PartKey::of(&scope(project), &what, VersionStamp { generation, days: DaysStamp::Known { epoch: 0, sum } })
    };
    let (small, large) = (Bytes::from_static(b"[1]"), Bytes::from("[1,2,3]".repeat(5_000)));
    let computed = |what: &str, bytes: &Bytes, life| ComputedPart {
        key: key("p", what, 1),
        bytes: bytes.clone(),
        life,
        reach: Reach::Fleet,
    };
    one.put_many(vec![computed("a", &small, Life::Closed), computed("b", &large, Life::Open)], now_ms()).await;
    eventually("Redis holds both", async || redis.keys("tallyhouse:part:").await == 2).await;
    let used = redis.command("EVAL \"local n = 0 for _, k in ipairs(redis.call('KEYS', 'tallyhouse:part:*')) do n = n + redis.call('STRLEN', k) end return n\" 0").await;
    assert!(used.unwrap().trim_start_matches(':').parse::<usize>().unwrap() < large.len() / 10, "compressed");
    let asked = [key("p", "b", 1), key("p", "c", 1), key("p", "a", 1)];
    assert_eq!(get(&other, &asked).await, [Some(large), None, Some(small)]);
    assert_eq!(get(&other, &[key("p", "a", 2), key("q", "a", 1)]).await, [None, None]);
    redis.kill().await;
    assert!(get(&other, &asked).await[0].is_some(), "from memory");
    assert_eq!(get(&parts(&redis.url), &asked).await, [None, None, None]);
}
