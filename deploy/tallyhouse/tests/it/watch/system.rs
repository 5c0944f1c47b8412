//! A running system with a Redis, some days of flights and some questions, and a Prometheus that scrapes it: what rules and panels name
//! exists, and what they ask is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tallyhouse_loadtest::client::{ClientConfig, Until};
use tallyhouse_loadtest::development::QUERY_KEY;
use tallyhouse_loadtest::feed::{self, Feed, FeedConfig, FeedOrder, FeedPlan, TimeShift};
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::{Folder, Redis, free_ports};

use super::account::{Account, Question};
use super::dashboards::{self, Asked, CLICKHOUSE, Dashboard, PROMETHEUS, promql};
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
    native_port: u16,
}

impl Place {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let binary = Path::new(env!("CARGO_BIN_EXE_tallyhouse"));
        let [native_port] = free_ports();
        let settings = [("REDIS_URL", redis.url.as_str()), ("CLICKHOUSE_TCP_PORT", &native_port.to_string())];
        let system = System::start_with(binary, &settings).await.unwrap();
        feed(&system).await;
        let query = Endpoint::new(&system.query_url(), WITHIN).unwrap().api_key(QUERY_KEY).unwrap();
        for question in QUESTIONS {
            query.get(question).await.unwrap();
        }
        Self { system, redis, native_port }
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
    let shown = place.shown().await;
    let known: BTreeSet<String> = shown.union(&metrics_in_sources()).cloned().collect();
    let recorded = rules_work(&prometheus, &known).await;
    let mut without: Vec<String> = Vec::new();
    for dashboard in dashboards::all() {
        for target in dashboard.targets(PROMETHEUS, "expr") {
            exists(&target.name, &target.text, &known, &recorded);
            let query = promql(&target.text);
            let series = prometheus.values(&query).await.unwrap_or_else(|error| panic!("{}: {error}", target.name));
            // Where every metric of it is shown, an empty answer is a label that nobody has.
            let is_shown = |metric: &String| shown.contains(family(metric, &known));
            let is_drawn = !series.is_empty()
                || !metrics_in(&query).iter().all(is_shown)
                || RARE.iter().any(|rare| query.contains(rare));
            if !is_drawn {
                without.push(format!("{}: nothing for {query}", target.name));
            }
        }
        without.extend(panels_without_rows(&place, &dashboard).await);
    }
    assert!(without.is_empty(), "{}", without.join("\n"));
    place.stop().await;
}

/// Label values that this system has no reason for, though the metric has others.
const RARE: [&str; 3] = [r#"status=~"5.."#, r#"outcome!="admitted""#, r#"outcome=~"failed|timed_out""#];

/// Loads each rule, and asks for it. Gives the names that are recorded.
async fn rules_work(prometheus: &Prometheus, known: &BTreeSet<String>) -> BTreeSet<String> {
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
        exists(name, query, known, &recorded);
        prometheus.values(query).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    recorded
}

/// Asks what the panels of a dashboard ask of ClickHouse: with everything chosen, with one value of each variable, and filtered.
async fn panels_without_rows(place: &Place, dashboard: &Dashboard) -> Vec<String> {
    let targets = dashboard.targets(CLICKHOUSE, "rawSql");
    if targets.is_empty() {
        return vec![];
    }
    let account = Account::create(&place.system, place.native_port);
    let (chosen, everything) = variables(&account, dashboard).await;
    let table = dashboard.filtered_table().unwrap();
    let to_s = Timestamp::now().as_second();
    let (mut questions, mut without) = (Vec::new(), Vec::new());
    for target in targets {
        let asked = Asked {
            from_s: to_s - target.hours.unwrap_or(30 * 24) * 3_600,
            to_s,
            interval_s: target.interval_s.unwrap_or(3_600),
            variables: &everything,
            filter: None,
        };
        let filter = Some(("country", "US", table.as_str()));
        for asked in [asked.clone(), Asked { variables: &chosen, ..asked.clone() }, Asked { filter, ..asked }] {
            let sql = asked.sql(&target.text);
            let has_value = |row: &Value| row.as_object().is_some_and(|row| row.values().any(|value| !value.is_null()));
            match account.rows(&sql).await {
                Ok(rows) if rows.iter().any(has_value) => questions.push(Question { name: target.name.clone(), sql }),
                Ok(_) => without.push(format!("{}: no rows for\n{sql}", target.name)),
                Err(error) => without.push(format!("{}: {error}\n{sql}", target.name)),
            }
        }
    }
    filters_find_columns(&account, &table).await;
    account.asked_by_the_driver("what_rules_and_panels_ask_of_a_running_system_exists", &questions);
    without
}

/// The first value of each variable, and the same with "All" where there is one.
async fn variables(
    account: &Account,
    dashboard: &Dashboard,
) -> (BTreeMap<String, Option<String>>, BTreeMap<String, Option<String>>) {
    let mut chosen = BTreeMap::new();
    for (name, query, is_descending) in dashboard.clickhouse_variables() {
        let asked = Asked { from_s: 0, to_s: 0, interval_s: 1, variables: &chosen, filter: None };
        let sql = asked.sql(&query);
        let mut rows = account.rows(&sql).await.unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"));
        if is_descending {
            rows.reverse();
        }
        let first = rows.first().and_then(|row| row.as_object()?.values().next()?.as_str().map(str::to_owned));
        assert!(first.is_some(), "{name}: nothing to choose from:\n{sql}");
        chosen.insert(name, first);
    }
    // Of the flights' types the one whose events have values.
    chosen.insert("event_type".to_owned(), Some("flight_departed".to_owned()));
    let mut everything = chosen.clone();
    everything.insert("event_type".to_owned(), None);
    (chosen, everything)
}

/// What the page asks so that filters can be chosen: columns, and values of one.
async fn filters_find_columns(account: &Account, table: &str) {
    let (database, name) = table.split_once('.').unwrap();
    let columns =
        format!("SELECT name, type, table FROM system.columns WHERE database IN ('{database}') AND table = '{name}'");
    let columns = account.rows(&columns).await.unwrap();
    assert!(columns.iter().any(|column| column["name"] == "country"), "{columns:?}");
    let values = account.rows(&format!("select distinct country from {table} limit 1000")).await.unwrap();
    assert_eq!(values.iter().filter(|row| row["country"] == "US").count(), 1, "{values:?}");
}

/// Fails when an expression names a metric that nobody shows.
fn exists(what: &str, expression: &str, known: &BTreeSet<String>, recorded: &BTreeSet<String>) {
    for metric in metrics_in(expression) {
        let is_there = ["up", "ALERTS"].contains(&metric.as_str())
            || recorded.contains(&metric)
            || known.contains(family(&metric, known));
        assert!(is_there, "{what}: there is no metric {metric}");
    }
}
