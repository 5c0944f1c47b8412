//! A command that changes rollups invalidates the changed days in the query cache.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{
    Folder, Redis, a_day, engine_in, eventually, execute, insert_events, new_project, programs, ten_days_ago,
};

/// Counts a project's total once more.
async fn spoil(writer: &Connection, project: &str) {
    let sql = format!(
        "INSERT INTO tallyhouse.rollup_1d SELECT * FROM tallyhouse.rollup_1d WHERE project_id = '{project}' AND dim_set IN ('', '*')"
    );
    execute(writer, &sql).await.unwrap();
}

/// `tallyhouse rollups rebuild`, of a day.
fn rebuild(writer: &Connection, project: &str, from: i64, env: &[(&str, &str)]) -> Output {
    let day = |at: i64| jiff::Timestamp::from_second(at).unwrap().to_string();
    let (from, to) = (day(from), day(from + 86_400));
    let mut command = Command::new(programs::tallyhouse());
    command.args(["rollups", "rebuild", "--all", "--project", project, "--from", &from, "--to", &to]);
    command.env("CLICKHOUSE_URL", &writer.url).env("CLICKHOUSE_USER", "writer").env("CLICKHOUSE_PASSWORD", "dev");
    let output = command.envs(env.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_shows_at_once_with_redis_in_one_process_and_on_its_own() {
    let (folder, from) = (Folder::create(), ten_days_ago());
    let engine = engine_in(&folder).await;
    let (writer, redis) = (engine.writer(), Redis::start().await);
    for (redis_url, days) in [(Some(&redis.url), None), (None, Some(DayVersions::default())), (None, None)] {
        let (mine, theirs) = (new_project(), new_project());
        for project in [&mine, &theirs] {
            insert_events(&writer, project, from, 1).await;
        }
        spoil(&writer, &mine).await;
        let mut settings = Settings { days, ..Settings::of(engine.reader()) };
        if let Some(url) = redis_url {
            settings = settings.with("REDIS_URL", url);
        }
        let service = Service::start_with(settings, &[&mine, &theirs]).await;
        assert_eq!(service.get(&mine, &a_day(from)).await.values(), [json!(6)]);
        assert_eq!(service.get(&theirs, &a_day(from)).await.values(), [json!(3)]);
        let admin = service.admin_address();
        let where_to = redis_url.map_or(("QUERY_ADMIN_ADDR", admin), |url| ("REDIS_URL", url.as_str()));
        let output = rebuild(&writer, &mine, from, &[where_to]);
        assert!(!told(&output).contains("no query API was told"), "{output:?}");
        let shows = async || service.get(&mine, &a_day(from)).await.values() == [json!(3)];
        eventually("the rebuilt day shows", shows).await;
        assert_eq!(service.get(&theirs, &a_day(from)).await.header("x-cache"), "HIT", "nobody changed it");
        service.stop().await;
    }
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_told_is_named_and_a_killed_rebuild_is_told_by_the_next() {
    let (folder, project, from) = (Folder::create(), new_project(), ten_days_ago());
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    insert_events(&writer, &project, from, 1).await;
    let mut redis = Redis::start().await;

    // As a rebuild leaves it that is killed right after a swap.
    let cells = "CREATE TABLE tallyhouse.rebuild_cells (project_id String, unit DateTime('UTC')) \
                 ENGINE = MergeTree ORDER BY (project_id, unit)";
    execute(&writer, cells).await.unwrap();
    execute(&writer, &format!("INSERT INTO tallyhouse.rebuild_cells VALUES ('killed', {})", from + 3_600))
        .await
        .unwrap();
    let output = rebuild(&writer, &project, from, &[("REDIS_URL", &redis.url)]);
    assert!(!told(&output).contains("no query API was told"), "{output:?}");
    for (project, times) in [("killed", 1), (project.as_str(), 3)] {
        let day = from / 86_400;
        let version = redis.number(&format!("tallyhouse:{{versions}}:days:{project}"), &day.to_string()).await;
        assert_eq!(version, times, "{project}: once for each swap");
    }

    // A Redis that is away is no help, the query API is.
    redis.kill().await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let env = [("REDIS_URL", redis.url.as_str()), ("QUERY_ADMIN_ADDR", service.admin_address())];
    assert!(!told(&rebuild(&writer, &project, from, &env)).contains("no query API was told"));
    let admin = service.admin_address().to_owned();
    service.stop().await;
    let message = told(&rebuild(&writer, &project, from, &[("REDIS_URL", &redis.url), ("QUERY_ADMIN_ADDR", &admin)]));
    assert!(
        message.contains("no query API was told that 1 days of 1 projects were changed: Redis (REDIS_URL)"),
        "{message}"
    );
    assert!(message.contains(&format!("curl -X DELETE http://{admin}/v1/cache")), "{message}");
    engine.stop(Duration::from_secs(10)).await;
}
