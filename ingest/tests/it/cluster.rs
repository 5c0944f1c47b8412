//! A cluster of real engines: every partition on one shard, one shard away and back, one shard added.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::{Value, json};
use tallyhouse::rollups;
use tallyhouse::tables::TableSettings;
use tallyhouse_loadtest::process;
use tallyhouse_loadtest::system::System;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_sql::rollups::verify;
use tallyhouse_sql::shards::{Login, Shards};
use tokio::sync::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use tallyhouse_testkit::ingest_service::{Service, everywhere};
use tallyhouse_testkit::query_service::{self, Settings};
use tallyhouse_testkit::{CLUSTER, Folder, ShardEngines, eventually, kafka_or_skip, new_project, programs, two_shards};

/// Users of all events: each is on every shard.
const USERS: u32 = 40;

/// Every tenth happened three days ago.
fn events(range: Range<u32>) -> String {
    let late = now_ms() - 3 * 86_400_000;
    let event = |n: u32| {
        let mut event =
            json!({"eventId": n.to_string(), "eventType": "a", "userId": format!("u-{}", n % USERS), "value": 1});
        if n.is_multiple_of(10) {
            event["timestamp"] = late.into();
        }
        event
    };
    Value::from_iter(range.map(event)).to_string()
}

/// Rows in `events` and the total of each rollup, of each shard.
async fn by_shard(cluster: &ShardEngines, project: &str) -> Vec<[u64; 4]> {
    let mut counts = Vec::new();
    for shard in cluster.writers().iter() {
        counts.push(everywhere(shard, project).await);
    }
    counts
}

/// Whether that many are stored, in raw and in every rollup alike, on each shard and in all.
async fn is_exact(cluster: &ShardEngines, project: &str, events: u64) -> bool {
    let counts = by_shard(cluster, project).await;
    counts.iter().all(|counts| counts.iter().all(|count| *count == counts[0]))
        && counts.iter().map(|counts| counts[0]).sum::<u64>() == events
}

/// The partitions of which a shard has events.
async fn partitions(cluster: &ShardEngines, number: usize, project: &str) -> BTreeSet<i32> {
    let sql = "SELECT DISTINCT source_partition FROM events WHERE project_id = {project:String}";
    let client = cluster.writer(number).client();
    client.query(sql).param("project", project).fetch_all().await.unwrap().into_iter().collect()
}

/// No rollup of any shard differs from raw, and no id is there twice.
async fn verified(cluster: &ShardEngines, project: &str) {
    let selection = rollups::selection(Some(project.to_owned()), None, None, None);
    for shard in cluster.writers().iter() {
        let report = verify::verify(&shard.client(), &selection, Duration::from_millis(50)).await.unwrap();
        assert!(report.drifts.is_empty() && report.moving == 0, "{report:?}");
    }
    let ids = "SELECT toUInt64(count() - uniqExact(event_id)) FROM events WHERE project_id = {project:String}";
    let repeated: u64 = cluster.all(1).query(ids).param("project", project).fetch_one().await.unwrap();
    assert_eq!(repeated, 0);
}

/// A number for the days of all events, with its `meta`.
async fn asked(service: &query_service::Service, project: &str, metric: &str, by: &str) -> query_service::Reply {
    let (from, to) = (service.now_ms() - 5 * 86_400_000, service.now_ms() + 86_400_000);
    let path = format!("/v1/metrics/{metric}?granularity={by}&startTime={from}&endTime={to}&fresh=true");
    service.get(project, &path).await
}

fn sum(reply: &query_service::Reply) -> u64 {
    reply.values().iter().map(|value| value.as_f64().unwrap_or_default() as u64).sum()
}

/// The shard whose server a client of this process asks first.
fn asked_first() -> usize {
    std::process::id() as usize % 2 + 1
}

/// A consumer as a process of its own.
async fn consumer(cluster: &ShardEngines, kafka: &[(&str, &str)]) -> System {
    let url = cluster.url();
    let mut settings = kafka.to_vec();
    settings.extend([
        ("INGEST_ROLE", "consumer"),
        ("CLICKHOUSE_URL", url.as_str()),
        ("CLICKHOUSE_CLUSTER", CLUSTER),
        ("CLICKHOUSE_USER", "writer"),
        ("CLICKHOUSE_PASSWORD", "dev"),
        ("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f"),
    ]);
    System::start_with(&programs::tallyhouse(), &settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_while_a_shard_is_away_and_when_one_is_added() {
    let test = "nothing_is_lost_or_counted_twice_while_a_shard_is_away_and_when_one_is_added";
    let Some(brokers) = kafka_or_skip(test).await else { return };
    let name = format!("topic-{}", ulid::Ulid::generate());
    let mut kafka = vec![("KAFKA_BROKERS", brokers.as_str()), ("KAFKA_TOPIC", &name), ("KAFKA_GROUP", &name)];
    kafka.extend([("KAFKA_PARTITIONS", "6"), ("KAFKA_TIMEOUT_MS", "5000"), ("INGEST_ACK_TIMEOUT_MS", "30000")]);
    let mut cluster = ShardEngines::with_tables(2).await;
    let (data, project) = (Folder::create(), new_project());
    let mut as_gateway = kafka.clone();
    as_gateway.push(("INGEST_ROLE", "gateway"));
    let gateway = Service::start_with(cluster.writers(), &data, &project, &as_gateway).await;
    let first = consumer(&cluster, &kafka).await;

    // Each partition is on one shard, and users on both are one.
    assert_eq!(gateway.send(events(0..120)).await.status, 202);
    eventually("both shards have their events", async || is_exact(&cluster, &project, 120).await).await;
    let (one, two) = (partitions(&cluster, 1, &project).await, partitions(&cluster, 2, &project).await);
    assert!(one.is_disjoint(&two) && !one.is_empty() && !two.is_empty(), "{one:?} {two:?}");
    let answering = Settings::of(cluster.readers()).with("QUERY_PARTIAL", "answer");
    let answering = query_service::Service::start_with(answering, &[&project]).await;
    let refusing = query_service::Service::start(cluster.readers(), &[&project], None).await;
    let whole = asked(&answering, &project, "events", "day").await;
    assert_eq!((sum(&whole), &whole.body["meta"]["partial"], whole.header("x-partial")), (120, &Value::Null, ""));
    let users = asked(&refusing, &project, "daily_active_users", "day").await;
    // Four of them three days ago only.
    assert_eq!(sum(&users), u64::from(USERS), "{users:?}");

    // One is away: its events wait in Kafka, those of the other one are counted, and answers say what they are.
    cluster.kill(2).await;
    let before = everywhere(&cluster.writer(1), &project).await[0];
    assert_eq!(gateway.send(events(120..240)).await.status, 202);
    eventually("the other shard goes on", async || everywhere(&cluster.writer(1), &project).await[0] > before).await;
    // By the hour, which nobody has asked for: what is remembered is given all the same.
    eventually("answers are of the other one, and say so", async || {
        let part = asked(&answering, &project, "events", "hour").await;
        assert_eq!((&part.body["meta"]["partial"], part.header("x-partial")), (&Value::Bool(true), "true"), "{part:?}");
        sum(&part) == everywhere(&cluster.writer(1), &project).await[2]
    })
    .await;
    let refused = asked(&refusing, &project, "events", "hour").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    // Whoever goes on with what it had begun does so on the shard that it had begun it on.
    process::signal(first.pid().unwrap(), Signal::KILL).unwrap();
    drop(first);
    let second = consumer(&cluster, &kafka).await;
    assert_eq!(gateway.send(events(200..260)).await.status, 202, "60 of which 40 are known");
    cluster.bring_back(2).await;
    eventually("it is back: exact", async || is_exact(&cluster, &project, 260).await).await;
    eventually("answers are whole again", async || {
        let whole = asked(&answering, &project, "events", "day").await;
        whole.status == 200 && whole.body["meta"]["partial"].is_null() && sum(&whole) == 260
    })
    .await;

    // One hangs: nobody waits for it for longer than it takes to see that, whoever is asked first.
    let settings = Settings::of(cluster.readers()).with("QUERY_PARTIAL", "answer");
    let (asking, number) = (query_service::Service::start_with(settings, &[&project]).await, asked_first());
    cluster.signal(number, Signal::STOP);
    let part = asked(&asking, &project, "events", "week").await;
    assert_eq!((part.status.as_u16(), &part.body["meta"]["partial"]), (200, &Value::Bool(true)), "{part:?}");
    assert_eq!(gateway.send(events(0..60)).await.status, 202);
    cluster.signal(number, Signal::CONT);
    eventually("it goes on: exact", async || is_exact(&cluster, &project, 260).await).await;
    asking.stop().await;

    // A third one: what was stored stays, and what is new is spread over three.
    second.stop().await.unwrap();
    assert_eq!(gateway.send(events(260..300)).await.status, 202);
    cluster.add().await;
    assert!(cluster.servers().prepare(TableSettings::default()).await.unwrap().is_empty());
    let third = consumer(&cluster, &kafka).await;
    assert_eq!(gateway.send(events(240..400)).await.status, 202, "160 of which 60 are known");
    eventually("all are counted on three shards", async || is_exact(&cluster, &project, 400).await).await;
    assert!(!partitions(&cluster, 3, &project).await.is_empty());
    verified(&cluster, &project).await;
    let service = query_service::Service::start(cluster.readers(), &[&project], None).await;
    assert_eq!(sum(&asked(&service, &project, "events", "day").await), 400);
    third.stop().await.unwrap();
    gateway.stop().await;
    for service in [service, answering, refusing] {
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stored_where_the_list_is_in_another_order() {
    let cluster = two_shards().await;
    let (data, project) = (Folder::create(), new_project());
    let swapped: Vec<_> = cluster.url().split(',').rev().map(str::to_owned).collect();
    let login = Login { user: "writer".to_owned(), password: "dev".to_owned(), tls: None };
    let service = Service::start(Shards::of(&swapped.join(","), &login), &data, &project).await;
    assert_eq!(service.send(events(0..20)).await.status, 202);
    eventually("health says why", async || {
        let told = serde_json::to_string(&service.health.report()).unwrap();
        told.contains("keep the order in which shards were added")
    })
    .await;
    assert!(is_exact(cluster, &project, 0).await);
    service.stop().await;
    // The events are in the log.
    let service = Service::start(cluster.writers(), &data, &project).await;
    eventually("they are stored where they belong", async || is_exact(cluster, &project, 20).await).await;
    let counts = by_shard(cluster, &project).await;
    assert!(counts.contains(&[0; 4]), "a log is one partition: {counts:?}");
    service.stop().await;
}

/// An ingester with its local log, which comes back on the same folder after it was killed.
struct Ingester {
    data: Folder,
    project: String,
    service: Mutex<Option<Service>>,
    endpoint: RwLock<Arc<Endpoint>>,
}

impl Ingester {
    /// One whose log is on this shard. Which one it is follows from the log's random id, so that some are tried.
    async fn of(cluster: &ShardEngines, number: usize, project: &str) -> Arc<Self> {
        for _ in 0..40 {
            let data = Folder::create();
            let service = Service::start(cluster.writers(), &data, project).await;
            let other = format!("{project}-other");
            let before = everywhere(&cluster.writer(number), &other).await[0];
            let tried = service.endpoint_with_key(&format!("other-{project}"));
            assert_eq!(tried.post_with("wait=stored", r#"{"eventType":"a"}"#.into()).await.unwrap().status, 200);
            if everywhere(&cluster.writer(number), &other).await[0] > before {
                let endpoint = RwLock::new(importing(&service));
                return Arc::new(Self {
                    data,
                    project: project.to_owned(),
                    service: Mutex::new(Some(service)),
                    endpoint,
                });
            }
            service.stop().await;
        }
        panic!("no log is on shard {number}");
    }

    /// Sends a hundred events at a time, each until it was accepted, whatever happens meanwhile; how many they were.
    async fn load(self: Arc<Self>, first: u32, stop: CancellationToken) -> u64 {
        let mut next = first;
        while !stop.is_cancelled() {
            let body = Bytes::from(events(next..next + 100));
            // What got no answer may be accepted all the same.
            let taken = async {
                while !self.takes(&body).await {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), taken).await.expect("events are accepted");
            next += 100;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        u64::from(next - first)
    }

    async fn takes(&self, body: &Bytes) -> bool {
        let endpoint = Arc::clone(&*self.endpoint.read().await);
        let Ok(reply) = endpoint.post(body.clone()).await else { return false };
        assert!(matches!(reply.status.as_u16(), 202 | 429 | 503), "{}", reply.excerpt());
        reply.status == 202
    }

    async fn kill(&self, cluster: &ShardEngines) {
        let mut service = self.service.lock().await;
        service.take().unwrap().kill(&self.data).await;
        let next = Service::start_unready(cluster.writers(), &self.data, &self.project, &[]).await;
        *self.endpoint.write().await = importing(&next);
        *service = Some(next);
    }

    async fn stop(&self) {
        self.service.lock().await.take().unwrap().stop().await;
    }
}

fn importing(service: &Service) -> Arc<Endpoint> {
    Arc::new(service.endpoint_with_key(&format!("import-{}", service.project)))
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_stored_exactly_whatever_is_killed() {
    let mut cluster = ShardEngines::with_tables(2).await;
    let project = new_project();
    let shards = [1, 2].map(|number| cluster.writer(number));
    let [one, two] = [Ingester::of(&cluster, 1, &project).await, Ingester::of(&cluster, 2, &project).await];
    let end = CancellationToken::new();
    let loads = [(&one, 0), (&two, 1_000_000)];
    let loads = loads.map(|(to, first)| tokio::spawn(Arc::clone(to).load(first, end.clone())));
    let stored = async |number: usize| everywhere(&shards[number - 1], &project).await[0];
    eventually("both shards have some", async || stored(1).await > 0 && stored(2).await > 0).await;
    one.kill(&cluster).await;
    // A log that starts looks for ids on all shards, for a day after one was added.
    let before = stored(1).await;
    eventually("it goes on with what it had", async || stored(1).await > before).await;
    let had = stored(2).await;
    cluster.kill(2).await;
    // Its ingester accepts into its log, and does so again after a kill.
    two.kill(&cluster).await;
    let before = stored(1).await;
    eventually("the other shard goes on", async || stored(1).await > before).await;
    cluster.bring_back(2).await;
    eventually("it has more again", async || stored(2).await > had).await;
    end.cancel();
    let mut sent = 200;
    for load in loads {
        sent += load.await.unwrap();
    }
    // History, from before the late window, to both.
    let long_ago = now_ms() - 80 * 86_400_000;
    for (name, ingester) in [("one", &one), ("two", &two)] {
        let old = |n: u32| {
            json!({"eventId": format!("{name}-{n}"), "eventType": "a", "userId": format!("u-{}", n % USERS),
                   "timestamp": long_ago})
        };
        let body = Value::from_iter((0..100).map(old)).to_string();
        let reply = ingester.endpoint.read().await.post(body.into()).await.unwrap();
        assert_eq!(reply.status, 202, "{}", reply.excerpt());
    }
    eventually("exact", async || is_exact(&cluster, &project, sent).await).await;
    let service = query_service::Service::start(cluster.readers(), &[&project], None).await;
    let now = service.now_ms();
    let users =
        format!("/v1/metrics/users?granularity=month&startTime={}&endTime={}", now - 95 * 86_400_000, now + 86_400_000);
    let users = service.get(&project, &users).await;
    assert!(
        users.values().iter().all(|users| *users == 0 || *users == USERS),
        "a user of both shards is one: {users:?}"
    );
    service.stop().await;
    one.stop().await;
    two.stop().await;
}
