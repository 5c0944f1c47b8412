//! The life of an answer in one process: fresh, stale, given when ClickHouse cannot answer; and what shortens it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tallyhouse_service::day_versions::{DayChange, DayVersions};

use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, a_day, eventually, insert_events, new_project, ten_days_ago};

const HOUR: Duration = Duration::from_secs(3_600);

fn changed(project: &str, from: i64) -> [DayChange; 1] {
    [DayChange::day(project, (from / 86_400) as i32)]
}

#[tokio::test]
async fn a_late_event_shows_at_once_when_the_ingester_is_in_the_process() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let days = DayVersions::default();
    let settings = Settings { days: Some(days.clone()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(3)]);
    insert_events(&engine.writer(), &project, from, 1).await;
    // Nobody said so yet, and another day does not matter.
    days.raise(&changed(&project, from + 86_400));
    service.pass(HOUR / 2);
    let known = service.get(&project, &a_day(from)).await;
    assert_eq!((known.header("x-cache"), known.values()), ("HIT", vec![json!(3)]));
    days.raise(&changed(&project, from));
    let late = service.get(&project, &a_day(from)).await;
    assert_eq!((late.header("x-cache"), late.values()), ("MISS", vec![json!(6)]));
    service.stop().await;
}

#[tokio::test]
async fn an_insert_that_overtakes_a_computation_is_not_hidden_by_it() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let (days, proxy) = (DayVersions::default(), Proxy::start(engine.reader()).await);
    let settings = Settings { days: Some(days.clone()), ..Settings::of(proxy.connection.clone()) };
    let service = Arc::new(Service::start_with(settings, &[&project]).await);
    proxy.set(Mode::HoldAnswers);
    let (asking, key) = (Arc::clone(&service), project.clone());
    let early = tokio::spawn(async move { asking.get(&key, &a_day(from)).await });
    let is_sent = async || service.gauge("tallyhouse_query_clickhouse_in_flight") == 1;
    eventually("the early reader's query is sent", is_sent).await;
    insert_events(&engine.writer(), &project, from, 1).await;
    days.raise(&changed(&project, from));
    let (asking, key) = (Arc::clone(&service), project.clone());
    let late = tokio::spawn(async move { asking.get(&key, &a_day(from)).await });
    let are_sent = async || service.gauge("tallyhouse_query_clickhouse_in_flight") == 2;
    eventually("the late reader does not wait for it", are_sent).await;
    proxy.set(Mode::Pass);
    early.await.unwrap();
    assert_eq!(late.await.unwrap().values(), [json!(6)]);
    assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(6)]);
}

#[tokio::test]
async fn with_clickhouse_away_older_answers_are_given_and_marked() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let (days, proxy) = (DayVersions::default(), Proxy::start(engine.reader()).await);
    let settings = Settings { days: Some(days.clone()), ..Settings::of(proxy.connection.clone()) };
    let service = Service::start_with(settings, &[&project]).await;
    let sliding = format!("/v1/metrics/events?granularity=minute&startTime={}", (from + 9 * 86_400) * 1_000);
    for path in [&a_day(from), &sliding] {
        assert_eq!(service.get(&project, path).await.header("x-cache"), "MISS");
    }
    proxy.set(Mode::Away);
    let reason = async |path: &str| {
        let reply = service.get(&project, path).await;
        let cache = &reply.body["meta"]["cache"];
        (reply.header("x-cache").to_owned(), cache["stale_reason"].as_str().unwrap_or_default().to_owned())
    };
    let unavailable = ("STALE".to_owned(), "unavailable".to_owned());
    // Its next minute is another plan, and the same question.
    service.pass(Duration::from_secs(120));
    assert_eq!(reason(&sliding).await, unavailable);
    // Its time is over, then long over, then it is of older data.
    service.pass(2 * HOUR);
    eventually("the refresh has failed", async || reason(&a_day(from)).await == unavailable).await;
    service.pass(21 * HOUR + HOUR / 2);
    assert_eq!(reason(&a_day(from)).await, unavailable);
    days.raise(&changed(&project, from));
    assert_eq!(reason(&a_day(from)).await, unavailable);
    assert_eq!(service.get(&project, &format!("{}&eventType=view", a_day(from))).await.status, 503, "nothing is kept");
    service.pass(24 * HOUR);
    assert_eq!(service.get(&project, &a_day(from)).await.status, 503, "too old to be given instead");
    proxy.set(Mode::Pass);
    eventually("it is answered again", async || service.get(&project, &a_day(from)).await.status == 200).await;
    service.stop().await;
}

#[tokio::test]
async fn with_clickhouse_away_absolute_times_that_move_find_the_last_answer() {
    let (engine, project) = (support::engine().await, new_project());
    let begun_ms = tallyhouse_service::clock::now_ms();
    insert_events(&engine.writer(), &project, begun_ms / 1_000 - 7_200, 1).await;
    let proxy = Proxy::start(engine.reader()).await;
    let service = Service::start(proxy.connection.clone(), &[&project], None).await;
    // As Grafana asks: the last six hours, by the milliseconds of both ends.
    let instant = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
    let ask = async |passed_ms: i64| {
        let (from, to) = (begun_ms + passed_ms - 6 * 3_600_000, begun_ms + passed_ms);
        let path = format!("/v1/metrics/events?granularity=hour&startTime={from}&endTime={to}");
        let pair = json!([instant(from), instant(to)]);
        let document = json!({"metrics": ["events"], "date_range": pair, "dimensions": ["time:hour"]}).to_string();
        [service.get(&project, &path).await, service.post(&project, "/v1/query", document).await]
    };
    let first = ask(0).await;
    assert!(first.iter().all(|reply| reply.header("x-cache") == "MISS"), "{first:?}");
    proxy.set(Mode::Away);
    // The last one begins in another hour, so that the start of its buckets is no help.
    for minutes in [7, 31, 45, 95] {
        let passed_ms = minutes * 60_000 + 12_345;
        service.pass(Duration::from_millis((begun_ms + passed_ms - service.now_ms()) as u64));
        for (reply, first) in ask(passed_ms).await.iter().zip(&first) {
            assert_eq!((reply.status.as_u16(), reply.header("x-cache")), (200, "STALE"), "{minutes}: {reply:?}");
            let meta = &reply.body["meta"];
            assert_eq!(
                (&meta["cache"]["stale_reason"], &meta["range"]),
                (&json!("unavailable"), &first.body["meta"]["range"])
            );
        }
    }
    proxy.set(Mode::Pass);
    let is_back = async || ask(96 * 60_000).await.iter().all(|reply| reply.header("x-cache") != "STALE");
    eventually("they are answered again", is_back).await;
    service.stop().await;
}

#[tokio::test]
async fn fresh_is_past_the_cache_once_and_then_says_that_it_is_not() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let fresh = format!("{}&fresh=true", a_day(from));
    assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(3)]);
    insert_events(&engine.writer(), &project, from, 1).await;
    let first = service.get(&project, &fresh).await;
    assert_eq!((first.header("x-cache"), first.values()), ("MISS", vec![json!(6)]));
    assert_eq!(first.body["meta"]["fromCache"], json!(null));
    insert_events(&engine.writer(), &project, from, 1).await;
    let second = service.get(&project, &fresh).await;
    assert_eq!((second.header("x-cache"), second.values()), ("HIT", vec![json!(6)]), "it replaced the older answer");
    assert_eq!(second.body["meta"]["fromCache"], json!(true));
    service.pass(Duration::from_secs(5));
    assert_eq!(service.get(&project, &fresh).await.values(), [json!(9)]);
    let bad = service.get(&project, "/v1/dashboards/realtime?fresh=maybe").await;
    assert_eq!((bad.status.as_u16(), &bad.body["parameter"]), (400, &json!("fresh")));
    service.stop().await;
}

#[tokio::test]
async fn a_hot_answer_is_refreshed_before_it_is_stale() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let days = DayVersions::default();
    let settings = Settings { days: Some(days.clone()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    // Asked for once, it is left alone.
    service.get(&project, &format!("{}&eventType=view", a_day(from))).await;
    let first = service.get(&project, &a_day(from)).await;
    let ttl_s = first.body["meta"]["cache"]["ttl_s"].as_u64().unwrap();
    service.pass(Duration::from_secs(ttl_s - 60));
    let is_refreshed = async || {
        assert_eq!(service.get(&project, &a_day(from)).await.header("x-cache"), "HIT", "nobody waits for it");
        service.counted("tallyhouse_query_cache_refreshes_total", "done") >= 1
    };
    eventually("the hot answer is refreshed", is_refreshed).await;
    let warm = service.get(&project, &a_day(from)).await;
    assert_eq!(warm.header("x-cache"), "HIT");
    assert!(warm.body["meta"]["cache"]["ttl_s"].as_u64().unwrap() > 60, "its time begins anew");
    // From ClickHouse, or from a part that outlived the answer, and then is as old as that.
    let is_of_a_part = warm.header("age") != "0";
    // One of them was about which types there are, as the first question names one.
    assert_eq!(service.queries(), if is_of_a_part { 3 } else { 4 }, "{warm:?}");
    service.stop().await;
}

fn hours(from: i64, days: std::ops::Range<i64>) -> String {
    let [start, end] = [days.start, days.end].map(|day| (from + day * 86_400) * 1_000);
    format!("/v1/metrics/events?granularity=hour&startTime={start}&endTime={end}")
}

#[tokio::test]
async fn an_answer_is_as_old_as_its_oldest_part() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 72).await;
    let settings = Settings { days: Some(DayVersions::default()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    assert_eq!(service.get(&project, &hours(from, 0..2)).await.header("age"), "0");
    service.pass(HOUR / 3);
    let joined = service.get(&project, &hours(from, 1..3)).await;
    assert_eq!((joined.header("x-cache"), service.queries()), ("MISS", 2), "a day of it was known");
    let age: u64 = joined.header("age").parse().unwrap();
    assert!((1_200..1_260).contains(&age), "{joined:?}");
    assert_eq!(joined.body["meta"]["cache"]["age_s"], json!(age));
    let read = service.get(&project, &hours(from, 2..3)).await;
    assert!(read.header("age").parse::<u64>().unwrap() < 60, "it has no part of the first answer: {read:?}");
    // Past the cache all is new.
    let fresh = service.get(&project, &format!("{}&fresh=true", hours(from, 1..3))).await;
    assert_eq!(fresh.header("age"), "0");
    service.stop().await;
}

#[tokio::test]
async fn the_bucket_that_is_not_whole_is_that_of_the_part_which_was_read_first() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let now_ms = tallyhouse_service::clock::now_ms();
    // Three seconds before a minute is over, so that the next question is about one minute more.
    service.pass(Duration::from_millis((60_000 + 57_000 - now_ms.rem_euclid(60_000)) as u64));
    let path = format!("/v1/metrics/events?granularity=minute&startTime={}", now_ms - 7_200_000);
    let first = service.get(&project, &path).await;
    service.pass(Duration::from_secs(5));
    // Another question, which shares the part.
    let second = service.get(&project, &path.replace("/events?", "/value_sum?")).await;
    let (first, second) = (&first.body["meta"], &second.body["meta"]);
    assert_ne!(first["range"], second["range"]);
    assert_eq!(second["cache"]["status"], "MISS");
    for field in ["partial_bucket", "generated_at"] {
        assert_eq!(first[field], second[field], "{first} {second}");
    }
    assert!(second["cache"]["age_s"].as_u64().unwrap() >= 5, "{second}");
    service.stop().await;
}

#[tokio::test]
async fn clearing_a_project_without_redis_leaves_the_others() {
    let (engine, from) = (support::engine().await, ten_days_ago());
    let (mine, theirs) = (new_project(), new_project());
    let service = Service::start(engine.reader(), &[&mine, &theirs], None).await;
    for project in [&mine, &theirs] {
        insert_events(&engine.writer(), project, from, 1).await;
        service.get(project, &a_day(from)).await;
    }
    let reply = service.delete_as_operator(&format!("/v1/cache?project={mine}")).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.body["forgotten"]),
        (200, &json!({"answers": 1, "parts": 3})),
        "{reply:?}"
    );
    assert_eq!(service.get(&theirs, &a_day(from)).await.header("x-cache"), "HIT");
    assert_eq!((service.get(&mine, &a_day(from)).await.header("x-cache"), service.queries()), ("MISS", 3));
    service.delete_as_operator("/v1/cache").await;
    assert_eq!(service.get(&theirs, &a_day(from)).await.header("x-cache"), "MISS");
    service.stop().await;
}

#[tokio::test]
async fn an_answer_of_an_earlier_definition_does_not_stand_in_for_a_later_one() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let proxy = Proxy::start(engine.reader()).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(proxy.connection.clone()) };
    let service = Service::start_with(settings, &[&project]).await;
    let register = async |definition: serde_json::Value| {
        let reply = service.post(&format!("admin-{project}"), "/v1/metrics", definition.to_string()).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    };
    register(json!({"name": "seen", "measure": "count", "event_type": "view"})).await;
    let series = a_day(from).replace("/events?", "/seen?");
    let document = json!({"metrics": ["seen"], "date_range": "30d"}).to_string();
    let ask = async || {
        let series = service.get(&project, &series).await;
        let document = service.post(&project, "/v1/query", document.clone()).await;
        [series, document].map(|reply| (reply.status.as_u16(), reply.header("x-cache").to_owned()))
    };
    assert_eq!(ask().await, [(200, "MISS".to_owned()), (200, "MISS".to_owned())]);
    register(json!({"name": "seen", "measure": "count", "event_type": "purchase", "replaces": 1})).await;
    proxy.set(Mode::Away);
    assert_eq!(ask().await, [(503, String::new()), (503, String::new())], "nothing is known of the new definition");
    service.stop().await;
}

#[tokio::test]
async fn what_overflowed_is_remembered_with_the_parts() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 48).await;
    // On the first of the days some countries were too many.
    let other = format!(
        "INSERT INTO tallyhouse.rollup_1h SELECT * REPLACE ('__other__' AS dim_value) FROM tallyhouse.rollup_1h \
         WHERE project_id = '{project}' AND dim_set IN ('country', '*country') AND bucket < toDateTime({}, 'UTC')",
        from + 86_400
    );
    support::execute(&engine.writer(), &other).await.unwrap();
    let settings = Settings { days: Some(DayVersions::default()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let (country, none) = (json!(["country"]), json!([]));
    for (path, overflowed, queries) in [
        // The points, and what overflowed.
        (format!("{}&filter=country:DE", hours(from, 0..2)), &country, 2),
        // Other points.
        (format!("{}&filter=country:DE", hours(from, 0..2).replace("/events?", "/users?")), &country, 3),
        (format!("{}&filter=country:FR", hours(from, 0..2)), &country, 4),
        // All of it is known.
        (format!("{}&filter=country:DE", hours(from, 0..1)), &country, 4),
        (format!("{}&filter=country:DE", hours(from, 1..2)), &none, 4),
    ] {
        let reply = service.get(&project, &path).await;
        assert_eq!(reply.header("x-cache"), "MISS");
        assert_eq!((&reply.body["meta"]["overflowed"], service.queries()), (overflowed, queries), "{path}: {reply:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn who_comes_while_clickhouse_is_left_alone_is_told_until_when() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    let proxy = Proxy::start(engine.reader()).await;
    let service = Service::start(proxy.connection.clone(), &[&project], None).await;
    let state = async || {
        let health = service.get_as_operator("/health").await;
        health.body["components"]["clickhouse_breaker"]["detail"].as_str().unwrap_or_default().to_owned()
    };
    eventually("the breaker is shown", async || state().await == "closed").await;
    proxy.set(Mode::Away);
    let mut day = 0;
    let mut left_alone = async || {
        day += 1;
        let reply = service.get(&project, &hours(from, -day..1 - day)).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (503, &json!("unavailable")));
        reply.header("retry-after").parse::<u32>().unwrap()
    };
    assert_eq!(left_alone().await, 2, "nobody knows");
    eventually("ClickHouse is left alone for half a minute", async || (3..=30).contains(&left_alone().await)).await;
    assert_eq!(service.gauge("tallyhouse_query_clickhouse_breaker"), 2);
    eventually("the health page says so", async || state().await.starts_with("open")).await;
    service.stop().await;
}
