//! A query API that starts with nothing cached asks what was hot before, of itself and of others: a region after a failover.

use serde_json::json;

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, Redis, a_day, ask, eventually, insert_events, new_project, ten_days_ago};

#[tokio::test]
async fn what_was_hot_is_there_before_anybody_asks_though_redis_is_empty() {
    let (engine, project, other, from) = (support::engine().await, new_project(), new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 5).await;
    let (first_redis, second_redis) = (Redis::start().await, Redis::start().await);
    let settings = |redis: &Redis| {
        let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
        settings.with("REDIS_URL", &redis.url)
    };
    let first = Service::start_with(settings(&first_redis), &[&project, &other]).await;
    let document = json!({"metrics": ["events"], "date_range": "7d", "dimensions": ["country"]}).to_string();
    for _ in 0..5 {
        assert_eq!(first.get(&project, &a_day(from)).await.values(), [json!(15)]);
        assert_eq!(first.post(&project, "/v1/query", document.clone()).await.status, 200);
    }
    // Asked once, of raw events, and all the time: not worth it.
    let funnel = json!({"kind": "funnel", "date_range": "7d", "steps": [{"event_type": "a"}, {"event_type": "b"}]});
    for _ in 0..5 {
        first.post(&project, "/v1/query", funnel.to_string()).await;
        first.get(&project, "/v1/dashboards/realtime").await;
    }
    first.get(&project, "/v1/metrics/users?granularity=day").await;
    let kept = format!("SELECT count() FROM tallyhouse.hot_questions FINAL WHERE project_id = '{project}'");
    eventually("both are written down", async || ask(&engine.writer(), &kept).await.unwrap() == "2").await;
    first.stop().await;

    let third_redis = Redis::start().await;
    let third = Service::start_with(settings(&third_redis).with("QUERY_CACHE_WARM", "off"), &[&project]).await;
    let second = Service::start_with(settings(&second_redis), &[&project, &other]).await;
    let asked = || second.counted("tallyhouse_query_cache_refreshes_total", "start");
    eventually("they are asked", async || asked() == 2).await;
    let reply = second.get(&project, &a_day(from)).await;
    assert_eq!((reply.header("x-cache"), reply.values()), ("HIT", vec![json!(15)]));
    assert_eq!(second.post(&project, "/v1/query", document.clone()).await.header("x-cache"), "HIT");
    // Nobody else's, and nothing where it is off.
    assert_eq!(second.get(&other, &a_day(from)).await.header("x-cache"), "MISS");
    second.stop().await;
    // It started before the one that has asked everything.
    assert_eq!(third.get(&project, &a_day(from)).await.header("x-cache"), "MISS");
    third.stop().await;
}
