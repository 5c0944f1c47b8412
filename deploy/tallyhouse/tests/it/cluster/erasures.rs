//! A person, and then a project, leave a cluster: while a shard is away, another rebuild holds one up, and the service is restarted.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::privacy::report;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::rollups::Selection;
use tallyhouse_sql::rollups::gate::Lock;
use tallyhouse_sql::rollups::verify::verify;
use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{ShardEngines, ask, eventually, execute, files_with, remove_replaced_files_soon};

const SHOP: &str = "shop";
const LEAVING: &str = "leaving";
const ANN: &str = "ann-5c81d7e2-person";
const SHARDS: [usize; 2] = [1, 2];

/// Events of a project on each shard, over five days; every eleventh is Ann's, on each day.
const EVENTS: u64 = 500;
const OF_ANN: u64 = 45;
const LEFT: u64 = 2 * (EVENTS - OF_ANN);

/// Ann is on both shards; her dead letters are where nothing else of the control plane is.
async fn insert(cluster: &ShardEngines, project: &str) {
    for shard in SHARDS {
        let events = format!(
            "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_id, user_hash, country, dims, received_at, retention_days) \
             SELECT '{project}', concat('{shard}-', toString(number)), 'view', \
               toDateTime64(toStartOfDay(now('UTC')), 3, 'UTC') - toIntervalDay(1 + number % 5) + toIntervalSecond(number) AS ts, \
               if(number % 11 = 7, '{ANN}', concat('u', toString(number % 40))) AS user, cityHash64(user) + 1, 'DE', [('country', 'DE')], ts, 730 \
             FROM numbers({EVENTS}) SETTINGS async_insert = 0, max_partitions_per_insert_block = 0"
        );
        execute(&cluster.writer(shard), &events).await.unwrap();
    }
    let dead_letter = format!(
        "INSERT INTO tallyhouse.dead_letters (project_id, id, kind, payload, received_at, failed_at) \
         SELECT '{project}', '{ANN}', 'json', '{{\"userId\":\"{ANN}\"}}', now64(3) - 5, now64(3) SETTINGS async_insert = 0"
    );
    execute(&cluster.writer(2), &dead_letter).await.unwrap();
}

/// Raw rows, rows of rollups and dead letters of a project on both, as far as a condition goes.
async fn left(cluster: &ShardEngines, project: &str, condition: &str) -> [u64; 4] {
    let mut found = [0; 4];
    for shard in SHARDS {
        for (table, found) in ["events", "rollup_1h", "rollup_1d", "dead_letters"].into_iter().zip(&mut found) {
            let condition = if table.starts_with("rollup") { "1" } else { condition };
            let sql = format!("SELECT count() FROM tallyhouse.{table} WHERE project_id = '{project}' AND {condition}");
            *found += ask(&cluster.writer(shard), &sql).await.unwrap().parse::<u64>().unwrap();
        }
    }
    found
}

async fn service(cluster: &ShardEngines) -> Service {
    let settings = Settings { writer: Some(cluster.writer(1)), ..Settings::of(cluster.readers()) };
    Service::start_with(settings.with("USER_HASH_KEY", &"07".repeat(16)), &[SHOP]).await
}

async fn asked(service: &Service, metric: &str) -> u64 {
    let (from, to) = (now_ms() - 8 * 86_400_000, now_ms());
    let path = format!("/v1/metrics/{metric}?granularity=day&startTime={from}&endTime={to}");
    service.get(SHOP, &path).await.values().iter().filter_map(Value::as_u64).sum()
}

/// No rollup differs from the raw rows of its shard.
async fn verified(cluster: &ShardEngines) {
    let (from, to) = (now_ms() / 1_000 - 10 * 86_400, now_ms() / 1_000 + 86_400);
    let selection = Selection { from, to, days: None, ..Selection::of_days(SHOP, Default::default()) };
    for shard in SHARDS {
        let pause = std::time::Duration::from_millis(50);
        let report = verify(&cluster.writer(shard).client(), &selection, pause).await.unwrap();
        assert!(report.drifts.is_empty() && report.moving == 0, "{shard}: {:?}", report.drifts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_and_a_project_leave_every_shard() {
    let mut cluster = ShardEngines::with_tables(2).await;
    for shard in SHARDS {
        let writer = cluster.writer(shard);
        execute(&writer, "ALTER TABLE tallyhouse.events MODIFY COLUMN user_id String CODEC(NONE)").await.unwrap();
        remove_replaced_files_soon(&writer).await;
    }
    insert(&cluster, SHOP).await;
    let first = service(&cluster).await;
    let (admin, ann) = (format!("admin-{SHOP}"), json!({ "userId": ANN }).to_string());
    exports(&first, &admin, &ann).await;
    assert_eq!((asked(&first, "events").await, asked(&first, "daily_active_users").await), (2 * EVENTS, 5 * 9));

    // A shard is away: nobody is exported by halves, and the erasure waits and says for what.
    cluster.kill(2).await;
    let export = first.post(&admin, "/v1/privacy/exports", ann.clone()).await;
    assert_eq!((export.status, &export.body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
    let request = async || first.post(&admin, "/v1/privacy/erasures", ann.clone()).await;
    let (one, other) = tokio::join!(request(), request());
    assert_eq!((one.status, &one.body["id"]), (StatusCode::ACCEPTED, &other.body["id"]), "{one:?} {other:?}");
    let path = one.header("location").to_owned();
    let says = async |service: &Service, state: &str, problem: &str| {
        let job = service.get(&admin, &path).await.body;
        job["state"] == state && job["problem"].as_str().is_some_and(|text| text.contains(problem))
    };
    eventually("it waits for the shard", async || says(&first, "suppressing", "shard 2 does not answer").await).await;
    assert_eq!(left_of_ann(&cluster, 1).await, OF_ANN, "nothing is begun by halves");

    // Another rebuild holds one shard up; the other one is done, and is not done again by the next process.
    cluster.bring_back(2).await;
    let lock = Lock::take(&cluster.writer(2).client()).await.unwrap();
    eventually("it waits for the rebuild", async || {
        says(&first, "rebuilding", "shard 2: another rebuild is running").await
    })
    .await;
    let rebuilt = first.get(&admin, &path).await.body["shards"].clone();
    assert_eq!((&rebuilt[0]["isRebuilt"], &rebuilt[1]["isRebuilt"]), (&json!(true), &json!(false)), "{rebuilt}");
    first.stop().await;
    // A merge keeps the highest number of what it merges; what is put in the place of a partition has a new one.
    let newest = "SELECT groupArray((table, partition_id, newest)) FROM (SELECT table, partition_id, max(max_block_number) AS newest \
        FROM system.parts WHERE database = 'tallyhouse' AND table LIKE 'rollup%' AND active GROUP BY ALL ORDER BY ALL)";
    let before = ask(&cluster.writer(1), newest).await.unwrap();
    drop(lock);
    let second = service(&cluster).await;
    eventually("answers are right", async || second.get(&admin, &path).await.body["answersAreRight"] == true).await;
    assert_eq!(ask(&cluster.writer(1), newest).await.unwrap(), before, "it is rebuilt once");

    assert_eq!((asked(&second, "events").await, asked(&second, "daily_active_users").await), (LEFT, 5 * 8));
    let rows = left(&cluster, SHOP, "1").await;
    assert_eq!((rows[0], rows[3]), (LEFT, 0), "others stay");
    verified(&cluster).await;
    // An idle table is looked at ever more seldom for what may go; one that starts is at once. The job goes on after that, too.
    cluster.kill(1).await;
    cluster.bring_back(1).await;
    eventually("no part of hers is on a disk", async || {
        SHARDS.iter().all(|shard| files_with(cluster.data(*shard), ANN.as_bytes()).is_empty())
    })
    .await;
    assert!(!files_with(cluster.data(2), b"u33").is_empty(), "the search finds what is there");
    deletes(&cluster, &second).await;

    eventually("it is done", async || second.get(&admin, &path).await.body["state"] == "done").await;
    let job = second.get(&admin, &path).await.body;
    let signed = &job["report"];
    assert_eq!(report::verify(&InstallationKey::new([7; 16]), signed), Ok(()));
    assert_eq!((&signed["rawEvents"], &signed["deadLetters"]), (&json!(2 * OF_ANN), &json!(1)), "{signed}");
    let by_shard = |field: &str| [0, 1].map(|shard| signed["shards"][shard][field].clone());
    assert_eq!(by_shard("rawEvents"), [json!(OF_ANN), json!(OF_ANN)]);
    assert_eq!(by_shard("deadLetters"), [json!(0), json!(1)]);
    assert!(!signed.to_string().contains(ANN));
    second.stop().await;
}

async fn left_of_ann(cluster: &ShardEngines, shard: usize) -> u64 {
    let sql = format!("SELECT count() FROM tallyhouse.events WHERE user_id = '{ANN}'");
    ask(&cluster.writer(shard), &sql).await.unwrap().parse().unwrap()
}

async fn exports(service: &Service, admin: &str, ann: &str) {
    let exported = service.post(admin, "/v1/privacy/exports", ann.to_owned()).await;
    let lines: Vec<Value> =
        exported.body.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |table: &str, id: &str| {
        let id = |line: &Value| line["event_id"].as_str().is_some_and(|own| own.starts_with(id));
        lines.iter().filter(|line| line["table"] == table && id(line)).count() as u64
    };
    let found = (of("events", "1-"), of("events", "2-"), of("dead_letters", ""), lines.len() as u64);
    assert_eq!(found, (OF_ANN, OF_ANN, 1, 2 * OF_ANN + 1), "{exported:?}");
}

async fn deletes(cluster: &ShardEngines, service: &Service) {
    let operate = async |method, path: &str, body| {
        let headers = [("x-api-key", "operator"), ("content-type", "application/json")];
        Reply::of(service.request(method, &format!("/v1/admin/projects{path}"), &headers, body).await).await
    };
    let made = operate(Method::POST, "", r#"{"name":"leaving"}"#).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    insert(cluster, LEAVING).await;
    let deleted = operate(Method::DELETE, "/leaving", r#"{"confirm":"leaving"}"#).await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED, "{deleted:?}");
    eventually("nothing is left of the project", async || left(cluster, LEAVING, "1").await == [0; 4]).await;
    assert_eq!(left(cluster, SHOP, "1").await[0], LEFT);
}
