//! Rollups against raw: what verification finds, and rebuilding while events arrive, are retried and tools are killed.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse::rollups;
use tallyhouse_sql::Connection;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::durability::{self, Fsync};
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options, Rebuilt};
use tallyhouse_sql::rollups::verify::{Report, audit, verify};
use tallyhouse_sql::rollups::{RollupsError, gate};
use tokio::task::JoinHandle;

use tallyhouse_testkit::ingest_service::{block_of, everywhere};
use tallyhouse_testkit::{Folder, ask, engine_in, execute, new_project, programs, shared};

const PAUSE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(10);

async fn insert(writer: &Connection, project: &str, token: &str, ids: &[&str]) -> bool {
    insert_block(&writer.client(), "events_in", token, &block_of(project, ids), DEADLINE).await.is_ok()
}

async fn look(writer: &Connection, project: &str) -> Report {
    let selection = rollups::selection(Some(project.to_owned()), None, None, None);
    verify(&writer.client(), &selection, PAUSE).await.unwrap()
}

fn tables(report: &Report) -> BTreeSet<&'static str> {
    report.drifts.iter().map(|drift| drift.table).collect()
}

fn everything() -> Options {
    let selection = rollups::selection(None, None, None, None);
    Options { selection, is_everything: true, gate: Duration::from_secs(30), pause: PAUSE }
}

fn drifting() -> Options {
    Options { is_everything: false, ..everything() }
}

async fn rebuild(client: &Client, options: &Options) -> Result<Rebuilt, RollupsError> {
    rebuild::rebuild(client, options, async |_: Vec<ChangedDay>| ()).await
}

/// Counts a project's total once more in a rollup.
async fn add(writer: &Connection, project: &str, table: &str) {
    let sql = format!(
        "INSERT INTO tallyhouse.{table} SELECT * FROM tallyhouse.{table} WHERE project_id = '{project}' AND dim_set = ''"
    );
    execute(writer, &sql).await.unwrap();
}

async fn remove(writer: &Connection, project: &str, table: &str) {
    let sql = format!("DELETE FROM tallyhouse.{table} WHERE project_id = '{project}' AND dim_set = 'country'");
    execute(writer, &sql).await.unwrap();
}

/// All that a project's rows say, merged.
pub(crate) async fn merged(writer: &Connection, project: &str) -> String {
    let one = |table: &str, users: &str| {
        format!(
            "(SELECT groupArray(tuple(*)) FROM (SELECT event_type, dim_set, dim_value, bucket, sum(events), {users}(users), \
             sum(value_count), sum(value_sum), min(value_min), max(value_max), \
             quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(value_quantiles) FROM tallyhouse.{table} \
             WHERE project_id = '{project}' GROUP BY ALL ORDER BY 1, 2, 3, 4))"
        )
    };
    let (minute, hour) = ("uniqCombined64Merge(12)", "uniqCombined64Merge(14)");
    let sql = [one("rollup_1m", minute), one("rollup_1h", hour), one("rollup_1d", hour)].join(", ");
    ask(writer, &format!("SELECT tuple({sql})")).await.unwrap()
}

/// A writer as the ingester is one: blocks with tokens, each repeated until it is stored, some once more after that.
struct Stream {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    running: JoinHandle<usize>,
}

impl Stream {
    fn start(writer: Connection, project: &str, name: &str) -> Self {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (project, name) = (project.to_owned(), name.to_owned());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&refused));
        let running = tokio::spawn(async move {
            let mut blocks = 0;
            while !stopped.load(Ordering::Relaxed) {
                let token = format!("{project}-{name}-{blocks}");
                let ids = [0, 1, 2].map(|event| format!("{name}-{blocks}-{event}"));
                let ids = ids.each_ref().map(String::as_str);
                let chunks = block_of(&project, &ids);
                let mut stored = 0;
                while stored < 1 + blocks % 2 {
                    match insert_block(&writer.client(), "events_in", &token, &chunks, DEADLINE).await {
                        Ok(()) => stored += 1,
                        Err(_) => {
                            count.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                blocks += 1;
            }
            blocks
        });
        Self { stop, refused, running }
    }

    /// Ends it. Returns the blocks stored and the attempts refused.
    async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        (self.running.await.unwrap(), self.refused.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn verification_finds_what_differs_and_nothing_else() {
    let writer = shared().await.engine.writer();
    let [fine, extra, missing, sum, repeated] = [(); 5].map(|()| new_project());
    for project in [&fine, &extra, &missing, &sum, &repeated] {
        assert!(insert(&writer, project, &format!("{project}-1"), &["1", "2"]).await);
    }
    add(&writer, &extra, "rollup_1h").await;
    remove(&writer, &missing, "rollup_1m").await;
    let row = format!(
        "INSERT INTO tallyhouse.rollup_1d (project_id, event_type, dim_set, dim_value, bucket, value_sum, value_min, value_max) \
         SELECT '{sum}', 'a', '', '', toStartOfDay(now('UTC')), 0.5, inf, -inf"
    );
    execute(&writer, &row).await.unwrap();
    let copy = format!(
        "INSERT INTO tallyhouse.events SELECT * REPLACE (ts - 1 AS ts) FROM tallyhouse.events \
         WHERE project_id = '{repeated}' AND event_id = '1'"
    );
    execute(&writer, &copy).await.unwrap();

    let clean = look(&writer, &fine).await;
    assert!(clean.drifts.is_empty() && clean.moving == 0, "{clean:?}");
    let found = look(&writer, &extra).await;
    assert_eq!(tables(&found), BTreeSet::from(["rollup_1h"]));
    assert_eq!((found.drifts[0].cell.expected_events, found.drifts[0].cell.found_events), (2, 4));
    let found = look(&writer, &missing).await;
    assert_eq!(tables(&found), BTreeSet::from(["rollup_1m"]));
    assert!(found.drifts.iter().all(|drift| drift.cell.dim_set == "country" && drift.cell.found_events == 0));
    let found = look(&writer, &sum).await;
    assert_eq!(tables(&found), BTreeSet::from(["rollup_1d"]));
    assert_eq!((found.drifts[0].cell.expected_value_sum, found.drifts[0].cell.found_value_sum), (2.0, 2.5));
    let twice = |project: &String| rollups::selection(Some(project.clone()), None, None, None);
    let client = writer.client();
    assert!(audit(&client, &twice(&fine), 10).await.unwrap().is_clean());
    assert_eq!(audit(&client, &twice(&repeated), 10).await.unwrap().repeated_ids, 1);
}

#[tokio::test]
async fn a_rebuild_beside_a_writer_ends_exact_and_leaves_others_as_they_are() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    assert!(insert(&writer, "other", "other-1", &["1", "2", "3"]).await);
    assert!(insert(&writer, "drifted", "drifted-1", &["1", "2"]).await);
    let before = merged(&writer, "other").await;
    assert!(before.contains("country"), "{before}");
    add(&writer, "drifted", "rollup_1h").await;
    remove(&writer, "drifted", "rollup_1m").await;
    add(&writer, "drifted", "rollup_1d").await;
    assert_eq!(tables(&look(&writer, "drifted").await).len(), 3);

    let stream = Stream::start(writer.clone(), "live", "1");
    let done = rebuild(&writer.client(), &drifting()).await.unwrap();
    assert!(done.partitions >= 3, "{done:?}");
    for _ in 0..3 {
        let result = rebuild(&writer.client(), &everything()).await;
        assert!(result.is_ok(), "{result:?}");
    }
    let (blocks, refused) = stream.end().await;
    assert!(blocks > 0 && refused > 0, "{blocks} blocks, {refused} refused: the gate was never felt");

    assert_eq!(everywhere(&writer, "live").await, [blocks as u64 * 3; 4]);
    assert_eq!(everywhere(&writer, "drifted").await, [2; 4]);
    assert_eq!(merged(&writer, "other").await, before);
    // What was stored before the rebuild is still known.
    assert!(insert(&writer, "drifted", "drifted-1", &["1", "2"]).await);
    assert_eq!(everywhere(&writer, "drifted").await, [2; 4]);
    for project in ["live", "drifted", "other"] {
        assert!(look(&writer, project).await.drifts.is_empty());
    }
    engine.stop(DEADLINE).await;
}

#[tokio::test]
async fn what_differs_is_found_while_its_cell_keeps_moving() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    assert!(insert(&writer, "busy", "busy-first", &["a", "b"]).await);
    let streams = ["1", "2", "3"].map(|name| Stream::start(writer.clone(), "busy", name));
    for table in ["rollup_1h", "rollup_1d"] {
        add(&writer, "busy", table).await;
    }
    let done = rebuild(&writer.client(), &drifting()).await.unwrap();
    let mut blocks = 0;
    for stream in streams {
        blocks += stream.end().await.0;
    }
    assert!(done.partitions >= 2, "{done:?}");
    assert_eq!(everywhere(&writer, "busy").await, [2 + blocks as u64 * 3; 4]);
    engine.stop(DEADLINE).await;
}

#[tokio::test]
async fn killed_rebuilds_lose_and_double_nothing() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(programs::tallyhouse());
        command.arg("rollups").args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("CLICKHOUSE_URL", &writer.url).env("CLICKHOUSE_USER", "writer").env("CLICKHOUSE_PASSWORD", "dev");
        command
    };
    let stream = Stream::start(writer.clone(), "live", "1");
    for millis in [60, 110, 160, 230, 310, 450, 700] {
        let mut tool = command(&["rebuild", "--all"]).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        tool.kill().unwrap();
        tool.wait().unwrap();
    }
    // As a kill behind the gate leaves it, for certain.
    gate::open_left_behind(&writer.client()).await.unwrap();
    gate::close(&writer.client()).await.unwrap();
    assert!(!insert(&writer, "shut-out", "1", &["1"]).await);
    // It is carried out to its end, and what was killed left every event in raw once. What the stream is writing at the
    // moment may differ.
    let verified = command(&["verify", "--json"]).stdout(Stdio::piped()).output().unwrap();
    let found: Value = serde_json::from_slice(&verified.stdout).unwrap_or_else(|error| panic!("{error}: {verified:?}"));
    assert_eq!((&found["truncated"], &found["audit"]["repeated_ids"]), (&json!(false), &json!(0)), "{found}");
    assert_eq!(verified.status.success(), found["equal"] == true, "{found}");
    let is_of_the_stream = |drift: &Value| drift["project_id"] == "live";
    assert!(found["drifts"].as_array().unwrap().iter().all(is_of_the_stream), "{found}");
    assert!(insert(&writer, "shut-out", "1", &["1"]).await, "the gate is still closed");

    rebuild(&writer.client(), &everything()).await.unwrap();
    let (blocks, _) = stream.end().await;
    assert_eq!(everywhere(&writer, "live").await, [blocks as u64 * 3; 4]);
    assert_eq!(everywhere(&writer, "shut-out").await, [1; 4]);
    assert_eq!(ask(&writer, "SELECT count() FROM system.tables WHERE name LIKE 'rebuild%'").await.unwrap(), "0");
    assert!(command(&["verify"]).status().unwrap().success());
    add(&writer, "live", "rollup_1h").await;
    assert_eq!(command(&["verify"]).status().unwrap().code(), Some(1));
    engine.stop(DEADLINE).await;
}

#[tokio::test]
async fn one_rebuild_at_a_time_and_no_longer_than_the_gate_may_be_closed() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    let client = writer.client();
    assert!(insert(&writer, "p", "1", &["1"]).await);

    let lock = gate::Lock::take(&client).await.unwrap();
    assert!(matches!(rebuild(&client, &everything()).await, Err(RollupsError::Busy)));
    drop(lock);
    let without_gate = Options { gate: Duration::ZERO, ..everything() };
    let result = rebuild(&client, &without_gate).await;
    assert!(matches!(result, Err(RollupsError::GateTimedOut(_))), "{result:?}");
    assert!(insert(&writer, "p", "2", &["2"]).await, "inserts go on");
    rebuild(&client, &everything()).await.unwrap();
    assert_eq!(everywhere(&writer, "p").await, [2; 4]);

    assert_eq!(durability::status(&writer).await.unwrap(), Fsync::Off);
    for fsync in [Fsync::On, Fsync::On, Fsync::Off] {
        durability::apply(&writer, fsync).await.unwrap();
        assert_eq!(durability::status(&writer).await.unwrap(), fsync);
    }
    engine.stop(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reduction_is_what_each_rollup_counts_by_its_rows() {
    let (writer, project) = (shared().await.engine.writer(), new_project());
    assert!(insert(&writer, &project, &format!("{project}-stats"), &["a", "b", "c", "d"]).await);
    let found = rollups::stats(&writer.client(), Some(&project)).await.unwrap();
    let json: Value = serde_json::from_str(&found.json()).unwrap();
    let sizes: Vec<&Value> = json["rollups"].as_array().unwrap().iter().collect();
    let names: BTreeSet<&str> = sizes.iter().map(|size| size["rollup"].as_str().unwrap()).collect();
    let all =
        ["days", "days of every type", "hours", "hours of every type", "minutes", "minutes of every type", "quarters"];
    assert_eq!(names, all.into());
    for size in sizes {
        let (rows, total_rows) = (size["rows"].as_f64().unwrap(), size["total_rows"].as_f64().unwrap());
        assert_eq!(size["events"], 4, "each event once, whatever its dimensions: {size}");
        // The total and three default sets.
        let sets = if size["rollup"] == "minutes of every type" { 1.0 } else { 4.0 };
        assert!(total_rows >= 1.0 && rows >= sets * total_rows, "{size}");
        assert_eq!(
            (&size["events_by_row"], &size["events_by_total_row"]),
            (&json!(4.0 / rows), &json!(4.0 / total_rows))
        );
    }
    assert!(found.to_string().lines().any(|line| line.starts_with(&project) && line.contains("hours of every type")));
    let nobody = rollups::stats(&writer.client(), Some("nobody's")).await.unwrap().json();
    assert!(nobody.starts_with("{\"rollups\":[],"), "{nobody}");
}
