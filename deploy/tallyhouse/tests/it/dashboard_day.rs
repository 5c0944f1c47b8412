//! Dashboards that are open for hours: nearly every answer is cached.
//!
//! `DASHBOARD_HOURS` makes it longer than a test needs (24: a day).

use std::collections::BTreeMap;
use std::time::Duration;

use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::env::{Env, ProcessEnv};

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project, ten_days_ago};

/// Who looks, each once a minute, at each panel.
const PEOPLE: i64 = 5;

/// A week by hours and by days, and what is happening now.
const PANELS: [&str; 8] = [
    "metrics/events?granularity=hour&startTime=FROM",
    "metrics/users?granularity=day&startTime=FROM",
    "metrics/revenue?granularity=day&startTime=FROM",
    "metrics/value_avg?granularity=hour&startTime=FROM",
    "metrics/value_p95?granularity=day&startTime=FROM",
    "metrics/events?granularity=day&groupBy=country&startTime=FROM",
    "metrics/events?",
    "reports/daily?",
];

#[tokio::test]
async fn dashboards_are_answered_from_the_cache() {
    let hours: i64 = ProcessEnv.get("DASHBOARD_HOURS").map_or(1, |text| text.parse().unwrap());
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 9 * 24).await;
    // As in one process: it gets the days that inserts change.
    let settings = Settings { days: Some(DayVersions::default()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let begun_s = tallyhouse_service::clock::now_ms() / 1_000;
    for look in 0..hours * 60 * PEOPLE {
        // The last seven days: the window slides.
        let start = (begun_s + look * 60 / PEOPLE - 7 * 86_400) * 1_000;
        for panel in PANELS {
            let path = format!("/v1/{}", panel.replace("FROM", &start.to_string()));
            let reply = service.get(&project, &path).await;
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            *seen.entry(reply.header("x-cache").to_owned()).or_default() += 1;
        }
        // A refresh takes no twelve seconds.
        let is_quiet = async || service.gauge("tallyhouse_query_clickhouse_in_flight") == 0;
        eventually("nothing is refreshed", is_quiet).await;
        service.pass(Duration::from_secs(60) / PEOPLE as u32);
    }
    let all: u64 = seen.values().sum();
    let waited = seen.get("MISS").copied().unwrap_or_default() + seen.get("COALESCED").copied().unwrap_or_default();
    eprintln!("dashboards: {hours} h, {all} answers, {seen:?}, {} queries", service.queries());
    assert!(all - waited >= all * 95 / 100, "{seen:?}");
    service.stop().await;
}
