//! Two shards against one server that has the same events: whatever is asked, the answers are the same.
//!
//! Views of pages are on one shard and purchases on the other, so that whatever is about people has to look at both.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;

use crate::{sql_api, sql_escapes};
use tallyhouse_testkit::ingest_service::{self, count};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{
    self as support, ANALYSTS, CLUSTER, Folder, ShardEngines, insert_events, new_project, programs, ten_days_ago,
    two_shards,
};

const HOUR: i64 = 3_600_000;

const STORED: &str = "SELECT count() FROM events WHERE project_id = {project:String}";

/// Views of 40 people over three days, and purchases of half of them within the hour; the newest are of the last five minutes. Some are older than minutes
/// are kept for.
fn events(event_type: &str, now_ms: i64) -> Vec<Value> {
    let delay = if event_type == "purchase" { 600_000 } else { 0 };
    let people = (0..40).filter(|n| event_type == "page_view" || n % 2 == 0);
    let events = people.flat_map(|n| (0..6).map(move |visit| (n, visit)));
    let event = |(n, visit): (i64, i64)| {
        let before = match visit {
            0 => 200 * 24 * HOUR + n * HOUR,
            1 => 100_000 + n * 2_000,
            days => (days * 13 + n) * HOUR / 2 + HOUR,
        };
        let at = now_ms - before + if visit == 1 { delay / 20 } else { delay };
        let (country, device) = (["DE", "FR", "US"][n as usize % 3], ["mobile", "desktop"][visit as usize % 2]);
        json!({"eventId": format!("{event_type}-{n}-{visit}"), "eventType": event_type, "userId": format!("u-{n}"),
               "timestamp": at, "value": n * 8 + visit, "context": {"country": country, "device": device}})
    };
    events.map(event).collect()
}

/// Stores events on one shard, through an ingester of its own: it has one log, and a log is on one shard.
async fn ingest(cluster: &ShardEngines, project: &str, events: &[Value], number: usize) {
    // Which shard a log is on follows from its random id, so that some are tried.
    for _ in 0..40 {
        let data = Folder::create();
        let service = ingest_service::Service::start(cluster.writers(), &data, project).await;
        let tried = json!([{"eventType": "tried"}]).to_string();
        let other = format!("{project}-other");
        let before = count(&cluster.writer(number), &other, STORED).await;
        let key = service.endpoint_with_key(&format!("other-{project}"));
        assert_eq!(key.post_with("wait=stored", tried.into()).await.unwrap().status, 200);
        let is_there = count(&cluster.writer(number), &other, STORED).await > before;
        if is_there {
            let body = Value::from(events.to_vec()).to_string();
            let endpoint = service.endpoint_with_key(&format!("import-{project}"));
            let reply = endpoint.post_with("wait=stored", body.into()).await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.excerpt());
        }
        service.stop().await;
        if is_there {
            return;
        }
    }
    panic!("no log is on shard {number}");
}

/// Both, with the same events, and what asks them.
struct Pair {
    project: String,
    single: Service,
    shards: Service,
    now_ms: i64,
}

impl Pair {
    async fn start() -> Self {
        let (cluster, engine) = (two_shards().await, support::engine().await);
        let (project, now_ms) = (new_project(), now_ms());
        let (views, purchases) = (events("page_view", now_ms), events("purchase", now_ms));
        ingest(cluster, &project, &views, 1).await;
        ingest(cluster, &project, &purchases, 2).await;
        let data = Folder::create();
        let alone = ingest_service::Service::start(engine.writer(), &data, &project).await;
        let endpoint = alone.endpoint_with_key(&format!("import-{project}"));
        let body = Value::from([views, purchases].concat()).to_string();
        assert_eq!(endpoint.post_with("wait=stored", body.into()).await.unwrap().status, 200);
        alone.stop().await;
        let single = Settings { now_ms: Some(now_ms), ..Settings::of(engine.reader()) };
        let shards = Settings { now_ms: Some(now_ms), ..Settings::of(cluster.readers()) };
        Self {
            single: Service::start_with(single, &[&project]).await,
            shards: Service::start_with(shards, &[&project]).await,
            project,
            now_ms,
        }
    }

    async fn same(&self, path: &str) -> Value {
        let [one, two] = [self.single.get(&self.project, path).await, self.shards.get(&self.project, path).await];
        assert_eq!((one.status.as_u16(), two.status.as_u16()), (200, 200), "{path}: {} {}", two.body, one.body);
        let [one, two] = [one, two].map(|reply| answer(reply.body));
        assert_eq!(one, two, "{path}");
        two
    }

    async fn same_query(&self, question: &Value) -> Value {
        let ask = async |service: &Service| service.post(&self.project, "/v1/query", question.to_string()).await;
        let [one, two] = [ask(&self.single).await, ask(&self.shards).await];
        assert_eq!((one.status.as_u16(), two.status.as_u16()), (200, 200), "{question}: {} {}", two.body, one.body);
        let [one, two] = [one, two].map(|reply| answer(reply.body));
        assert_eq!(one, two, "{question}");
        two
    }

    async fn stop(self) {
        self.single.stop().await;
        self.shards.stop().await;
    }
}

/// What is asked for, without how it was found.
fn answer(mut body: Value) -> Value {
    if let Some(body) = body.as_object_mut() {
        body.remove("meta");
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_two_shards_answer_what_one_server_answers() {
    let pair = Pair::start().await;
    let now = pair.now_ms;
    let range = |hours: i64| format!("startTime={}&endTime={}", now - hours * HOUR, now + HOUR);
    let year = range(300 * 24);
    for (metric, by) in [
        ("events", "granularity=day"),
        ("users", "granularity=month&groupBy=country"),
        ("daily_active_users", "granularity=day"),
        ("revenue", "granularity=week&groupBy=device&timezone=Asia/Kolkata"),
        ("value_p95", "granularity=day&eventType=purchase"),
        ("value_avg", "granularity=day&filter=country:DE,FR"),
    ] {
        pair.same(&format!("/v1/metrics/{metric}?{by}&{year}")).await;
    }
    // A person who is on both shards is one.
    let date_range = [now - 300 * 24 * HOUR, now + HOUR]
        .map(|at| jiff::Timestamp::from_millisecond(at / HOUR * HOUR).unwrap().to_string());
    let users = pair.same_query(&json!({"metrics": ["users", "events"], "date_range": date_range})).await;
    assert_eq!(users["results"][0]["metrics"], json!([40, 360]), "{users}");
    let realtime = pair.same("/v1/dashboards/realtime").await;
    assert!(realtime.to_string().contains("purchase"), "{realtime}");
    let day = jiff::Timestamp::from_millisecond(now - 24 * HOUR).unwrap().strftime("%Y-%m-%d").to_string();
    pair.same(&format!("/v1/reports/daily?date={day}")).await;
    pair.same(&format!("/v1/metrics/events/anomalies?granularity=hour&{}", range(72))).await;
    let types = pair.same(&format!("/v1/event-types?{year}")).await;
    assert_eq!(types["event_types"].as_array().map(Vec::len), Some(2), "{types}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_followed_over_shards() {
    let pair = Pair::start().await;
    let retention = json!({"kind": "retention", "date_range": "30d", "unit": "day", "periods": 3,
        "cohort": {"event_type": "page_view"}, "return": {"event_type": "purchase"}});
    pair.same_query(&retention).await;
    let mut funnel = json!({"kind": "funnel", "date_range": "30d", "window": "1d",
        "steps": [{"event_type": "page_view"}, {"event_type": "purchase"}]});
    let plain = pair.same_query(&funnel).await;
    assert!(plain.to_string().contains("\"users\":20"), "steps of one person are on both shards: {plain}");
    funnel["breakdown"] = "country".into();
    pair.same_query(&funnel).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_of_all_shards() {
    let pair = Pair::start().await;
    let year = format!("startTime={}&endTime={}", pair.now_ms - 300 * 24 * HOUR, pair.now_ms + HOUR);
    let export = async |service: &Service, format: &str| {
        let path = format!("/v1/export?format={format}&{year}");
        let reply = service.get(&pair.project, &path).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body.as_str().unwrap().to_owned()
    };
    let lines = |text: String| -> BTreeSet<String> {
        let kept = |line: &str| {
            let mut event: Value = serde_json::from_str(line).unwrap();
            event.as_object_mut().unwrap().retain(|name, _| name != "received_at" && name != "sent_at");
            event.to_string()
        };
        text.lines().map(kept).collect()
    };
    let (one, two) = (export(&pair.single, "ndjson").await, export(&pair.shards, "ndjson").await);
    assert_eq!((one.lines().count(), two.lines().count()), (360, 360));
    assert_eq!(lines(one), lines(two));
    assert_eq!(export(&pair.shards, "csv").await.lines().count(), 361);
    assert!(export(&pair.shards, "parquet").await.ends_with("PAR1"));
    let observed = pair.shards.get(&format!("admin-{}", pair.project), "/v1/schemas/purchase/observed").await;
    assert_eq!(observed.status, 200, "{observed:?}");
    pair.stop().await;
}

/// Attempts that only a cluster has.
const HELD_ON_A_CLUSTER: &[&str] = &[
    "SELECT user_id FROM tallyhouse_all.events WHERE project_id = '{other}'",
    "SELECT DISTINCT project_id FROM tallyhouse_all.rollup_1h",
    "SELECT * FROM tallyhouse_all.dead_letters",
    "SELECT user_id FROM cluster('main', tallyhouse.events)",
    "SELECT user_id FROM clusterAllReplicas('main', tallyhouse, events)",
    "SELECT user_id FROM remote('127.0.0.1:{tcp}', tallyhouse_all.events)",
    "SELECT user_id FROM remote('127.0.0.1:{tcp}', tallyhouse.events, 'analyst_{other}', 'dev')",
    "SELECT b.user_id FROM events AS a JOIN tallyhouse_all.events AS b ON a.event_id != b.event_id AND b.project_id = '{other}'",
    "SELECT user_id FROM events WHERE user_id IN (SELECT user_id FROM tallyhouse_all.events WHERE project_id = '{other}')",
    "SELECT user_id FROM merge('tallyhouse_all', 'events')",
    "SELECT user_id FROM events SETTINGS initial_user = 'analyst_{other}'",
    "SELECT initialQueryID(), currentUser(), user_id FROM events WHERE project_id != '{own}'",
];

#[tokio::test]
async fn analysts_see_their_project_on_all_shards_and_no_other() {
    let (cluster, [own, other]) = (two_shards().await, ANALYSTS);
    let settings = Settings { analyst: Some(cluster.analyst()), ..Settings::of(cluster.readers()) };
    let service = Service::start_with(settings, &[own, other, "without"]).await;
    let writers: Vec<Connection> = cluster.writers().iter().cloned().collect();
    let analyst = cluster.analyst();
    let analyst = Connection { user: format!("analyst_{own}"), ..analyst }.server().with_database("tallyhouse_all");
    let attempts = sql_escapes::Attempts {
        service: &service,
        analyst: analyst.with_header("X-Tallyhouse-Project", own),
        own,
        other,
        writers: &writers,
        tcp_port: cluster.tcp_port(1),
        more: HELD_ON_A_CLUSTER,
    };
    attempts.fail().await;
    // Of both shards, also where a statement reads a table twice.
    for (sql, rows) in [
        ("SELECT count(), sum(value) FROM events", json!([[6, 60]])),
        ("SELECT sum(events) FROM rollup_1h WHERE dim_set = ''", json!([[6]])),
        ("SELECT uniqCombined64Merge(14)(users) FROM rollup_1d WHERE dim_set = ''", json!([[3]])),
        ("SELECT count() FROM events WHERE event_id IN (SELECT event_id FROM events WHERE value > 15)", json!([[2]])),
        ("SELECT count() FROM events AS a JOIN events AS b ON a.event_id = b.event_id", json!([[12]])),
    ] {
        let reply = sql_api::ask(&service, own, &json!({"sql": sql})).await;
        assert_eq!((reply.status.as_u16(), &reply.body["rows"]), (200, &rows), "{sql}: {reply:?}");
    }
    // A project without such a user is told so.
    let nobody = sql_api::ask(&service, "without", &json!({"sql": "SELECT 1"})).await;
    assert!(nobody.status.is_server_error(), "{nobody:?}");
    service.stop().await;
}

/// A command, with the variables of a cluster.
async fn tallyhouse(cluster: &ShardEngines, service: &Service, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(programs::tallyhouse());
    let url = cluster.url();
    let env = [
        ("CLICKHOUSE_URL", url.as_str()),
        ("CLICKHOUSE_CLUSTER", CLUSTER),
        ("CLICKHOUSE_USER", "writer"),
        ("CLICKHOUSE_PASSWORD", "dev"),
        ("QUERY_ADMIN_ADDR", service.admin_address()),
    ];
    let output = command.args(arguments).envs(env).output().await.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

#[tokio::test]
async fn rollups_are_verified_rebuilt_and_told_of_on_each_shard() {
    let (cluster, project, from) = (two_shards().await, new_project(), ten_days_ago());
    for number in [1, 2] {
        insert_events(&cluster.writer(number), &project, from, 2).await;
    }
    let service = Service::start(cluster.readers(), &[&project], None).await;
    let total = async || service.get(&project, &format!("{}&fresh=true", support::a_day(from))).await.values();
    assert_eq!(total().await, [json!(12)]);
    let twice = format!(
        "INSERT INTO tallyhouse.rollup_1h SELECT * FROM tallyhouse.rollup_1h WHERE project_id = '{project}' AND dim_set = ''"
    );
    support::execute(&cluster.writer(2), &twice).await.unwrap();
    let (from, to) = ((from * 1_000).to_string(), ((from + 86_400) * 1_000).to_string());
    let range = ["--project", project.as_str(), "--from", from.as_str(), "--to", to.as_str()];
    let (is_done, told) = tallyhouse(cluster, &service, &[&["rollups", "rebuild"], &range[..]].concat()).await;
    assert!(is_done && told.contains("0 partitions rebuilt") && told.contains("1 partitions rebuilt"), "{told}");
    let (is_equal, told) = tallyhouse(cluster, &service, &[&["rollups", "verify"], &range[..]].concat()).await;
    // Purchases of these tests have no currency, which is said of them.
    assert!(!is_equal && told.matches("0 cells differ").count() == 2, "{told}");
    assert_eq!(total().await, [json!(12)]);
    let (is_done, told) = tallyhouse(cluster, &service, &["rollups", "stats", "--project", &project]).await;
    assert!(is_done && told.matches("rollup_1m").count() == 2, "{told}");
    service.stop().await;
}

#[tokio::test]
async fn dead_letters_of_all_shards_are_listed_replayed_and_discarded() {
    let (cluster, project, data) = (two_shards().await, new_project(), Folder::create());
    let folder = data.path().join("projects");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("project.json"), json!({"project": project, "deadLetters": true}).to_string()).unwrap();
    let folder = folder.display().to_string();
    let env = [("TALLYHOUSE_PROJECTS", folder.as_str())];
    let ingest = ingest_service::Service::start_with(cluster.writers(), &data, &project, &env).await;
    let service = Service::start(cluster.readers(), &[&project], None).await;
    let old = |id: &str| json!({"eventId": id, "eventType": "a", "timestamp": now_ms() - 20 * 24 * HOUR});
    let reply = ingest
        .send(json!([old("one"), old("two"), old("three"), {"eventId": "new", "eventType": "a"}]).to_string())
        .await;
    assert_eq!(reply.status, 202, "{}", reply.excerpt());
    let open = "SELECT count() FROM dead_letters FINAL WHERE project_id = {project:String} AND state = 'open'";
    support::eventually("they are kept", async || count(&cluster.writer(1), &project, open).await == 3).await;
    // As a partition would have that is on the other shard.
    let moved = format!(
        "INSERT INTO tallyhouse.dead_letters SELECT * REPLACE (concat(id, '-2') AS id, concat('2-', event_id) AS event_id, \
         replaceOne(payload, '\"eventId\":\"', '\"eventId\":\"2-') AS payload) FROM cluster('main', tallyhouse.dead_letters) \
         WHERE project_id = '{project}'"
    );
    support::execute(&cluster.writer(2), &moved).await.unwrap();
    let dlq = async |arguments: &[&str]| {
        let all = [&["dlq"], arguments, &["--project", project.as_str()]].concat();
        tallyhouse(cluster, &service, &all).await.1
    };
    for (limit, listed) in [("100", 6), ("4", 4)] {
        let told = dlq(&["list", "--json", "--limit", limit]).await;
        assert_eq!(told.lines().filter(|line| line.starts_with('{')).count(), listed, "{told}");
    }
    let import = format!("import-{project}");
    let replay = ["replay", "--url", ingest.url.as_str(), "--key", import.as_str()];
    for id in ["one", "2-three"] {
        let told = dlq(&[&replay[..], &["--event-id", id]].concat()).await;
        assert!(told.contains("1 replayed, 0 still open"), "{told}");
    }
    assert!(dlq(&["discard", "--event-id", "2-two"]).await.contains("1 discarded"));
    let mut left = Vec::new();
    for number in [1, 2] {
        left.push(count(&cluster.writer(number), &project, open).await);
    }
    assert_eq!(left, [2, 1], "what became of each is noted where it is");
    assert_eq!(ingest.send_stored(json!({"eventType": "last"}).to_string()).await.status, 200);
    let stored: u64 = cluster.all(2).query(STORED).param("project", &project).fetch_one().await.unwrap();
    assert_eq!(stored, 4);
    ingest.stop().await;
    service.stop().await;
}
