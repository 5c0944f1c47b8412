//! A running system with a Redis, some days of flights and some questions, and a Prometheus that scrapes it: what rules and panels name
//! exists, and what they ask is answered.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tallyhouse_loadtest::client::{ClientConfig, Until};
use tallyhouse_loadtest::development::QUERY_KEY;
use tallyhouse_loadtest::feed::{self, Feed, FeedConfig, FeedOrder, FeedPlan, TimeShift};
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::{Folder, Redis};

use super::files::{family, metrics_in, metrics_in_sources, metrics_shown, read, repository};
use super::prometheus::Prometheus;

const WITHIN: Duration = Duration::from_secs(20);

/// The end of the year of flights that `make run` streams: a few days are enough to draw.
const DAYS: &str = "2013,12,3";

const QUESTIONS: [&str; 7] = [
    "/v1/metrics/events?granularity=hour",
    "/v1/metrics/events?granularity=hour",
    "/v1/metrics/daily_active_users",
    "/v1/metrics/value_avg?granularity=day&groupBy=country",
    "/v1/dashboards/realtime",
    "/v1/reports/daily",
    "/v1/metrics/nothing",
];

/// What is watched. Ends with the value.
struct Place {
    system: System,
    redis: Redis,
}

impl Place {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let binary = Path::new(env!("CARGO_BIN_EXE_tallyhouse"));
        let system = System::start_with(binary, &[("REDIS_URL", &redis.url)]).await.unwrap();
        feed(&system).await;
        let query = Endpoint::new(&system.query_url(), WITHIN).unwrap().api_key(QUERY_KEY).unwrap();
        for question in QUESTIONS {
            query.get(question).await.unwrap();
        }
        Self { system, redis }
    }

    /// The families that both services show.
    async fn shown(&self) -> BTreeSet<String> {
        let mut shown = BTreeSet::new();
        for url in [self.system.ingest_admin_url(), self.system.query_admin_url()] {
            let reply = Endpoint::new(&url, WITHIN).unwrap().get("/metrics").await.unwrap();
            shown.extend(metrics_shown(&String::from_utf8_lossy(&reply.body)));
        }
        shown
    }

    async fn stop(self) {
        self.system.stop().await.unwrap();
        drop(self.redis);
    }
}

async fn feed(system: &System) {
    let folder = Folder::create();
    let flights = folder.path().join("flights.csv");
    let all = read(repository().join(".setup/flights.csv"));
    let kept = all.lines().enumerate().filter(|(at, line)| *at == 0 || line.starts_with(DAYS));
    std::fs::write(&flights, kept.map(|(_, line)| format!("{line}\n")).collect::<String>()).unwrap();
    let config = FeedConfig {
        flights,
        time_shift: TimeShift::Shifted { until: Timestamp::now() },
        id_prefix: String::new(),
        plan: FeedPlan { order: FeedOrder::Shuffled { seed: 42 }, batch: 1_000, repeat_percent: 0 },
        concurrency: 4,
        client: ClientConfig {
            until: Until::Stored,
            answer_within: WITHIN,
            ..ClientConfig::development(system.ingest_url())
        },
    };
    let feed = Feed::prepare(&config).unwrap();
    let summary = feed::run(&feed, &config, |_, _| {}).await.unwrap();
    assert!(summary.accepted > 1_000, "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_and_panels_ask_of_a_running_system_exists() {
    let place = Place::start().await;
    let prometheus = Prometheus::watching(&place.system).await;
    let known: BTreeSet<String> = place.shown().await.union(&metrics_in_sources()).cloned().collect();

    let rules = prometheus.get("/api/v1/rules").await.unwrap();
    let rules: Vec<_> =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let recorded: BTreeSet<String> = rules
        .iter()
        .filter(|rule| rule["type"] == "recording")
        .map(|rule| rule["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(rules.len() > recorded.len() && recorded.len() > 10, "{}", rules.len());
    for rule in rules {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        assert_ne!(rule["health"], "err", "{name}: {rule}");
        exists(name, query, &known, &recorded);
        prometheus.values(query).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    place.stop().await;
}

/// Fails when an expression names a metric that nobody shows.
fn exists(what: &str, expression: &str, known: &BTreeSet<String>, recorded: &BTreeSet<String>) {
    for metric in metrics_in(expression) {
        let is_there = metric == "up" || recorded.contains(&metric) || known.contains(family(&metric, known));
        assert!(is_there, "{what}: there is no metric {metric}");
    }
}
