//! The migration files against a real parser and a real server.

use std::time::Duration;

use tallyhouse::engine::Engine;
use tallyhouse::{migrate, rollups};
use tallyhouse_sql::Connection;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::lock::QueryLock;
use tallyhouse_sql::migrations::{ALL, ClusterTables, DEDUPLICATION_WINDOW, Migration, Rendering, Topology};
use tallyhouse_sql::rollups::verify::verify;
use tallyhouse_sql::runner::{self, LOCK, MigrateError, STEP, Standing};

use tallyhouse_testkit::ingest_service::block_of;
use tallyhouse_testkit::{Folder, ask, eventually, execute, options, shared};

#[tokio::test]
async fn the_cluster_rendering_parses() {
    let writer = shared().await.engine.writer();
    for is_replicated in [false, true] {
        let topology = Topology::Cluster(ClusterTables { name: "main".to_owned(), is_replicated });
        let rendering = Rendering { topology: topology.clone(), tiered_policy: Some("tiered".to_owned()) };
        for migration in ALL.iter().filter(|migration| migration.applies_to(&topology)) {
            let sql = migration.render(&rendering);
            let parsed = execute(&writer, &format!("EXPLAIN AST {sql}")).await;
            assert!(parsed.is_ok(), "{}: {}", migration.name, parsed.unwrap_err());
        }
    }
    let broken = execute(&writer, "EXPLAIN AST CREATE TABLE t (a UInt8 COMMENT) ENGINE = Null").await;
    assert!(broken.is_err(), "the parser must be able to refuse");
}

#[tokio::test]
async fn applying_again_changes_nothing_and_every_target_has_its_window() {
    let writer = shared().await.engine.writer();
    assert_eq!(runner::up(&writer, &migrate::rendering(true)).await.unwrap(), Vec::<&str>::new());
    let windows = format!(
        "SELECT count() FROM system.tables WHERE database = 'tallyhouse' AND name IN ('events', 'rollup_1m', 'rollup_1h', 'rollup_1d', 'dead_letters') \
         AND engine_full LIKE '%non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}%'"
    );
    assert_eq!(ask(&writer, &windows).await.unwrap(), "5");
}

#[tokio::test]
async fn a_file_that_was_changed_or_is_not_known_stops_everything() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let (writer, rendering) = (engine.writer(), migrate::rendering(true));
    let pending = runner::status(&writer, &rendering).await.unwrap();
    assert!(pending.iter().all(|(_, standing)| *standing == Standing::Pending));
    let applied = runner::up(&writer, &rendering).await.unwrap();
    assert_eq!(applied.len(), pending.len());

    let record = async |version: u32, name: &str| {
        let values = format!("({version}, '{name}', 'another', now64(3) + 60)");
        let sql = format!("INSERT INTO tallyhouse.migrations (version, name, checksum, applied_at) VALUES {values}");
        execute(&writer, &sql).await.unwrap();
    };
    record(3, "0003_events").await;
    let changed = runner::up(&writer, &rendering).await.unwrap_err();
    assert!(matches!(&changed, MigrateError::Changed { name } if name == "0003_events"), "{changed}");
    record(999, "0999_future").await;
    let newer = runner::up(&writer, &rendering).await.unwrap_err();
    assert!(matches!(&newer, MigrateError::Newer { version: 999, .. }), "{newer}");
    engine.stop(Duration::from_secs(10)).await;
}

/// Takes a database back to before a migration, as far as the record and the views know.
async fn back_to(writer: &Connection, version: u32) {
    let forget =
        format!("ALTER TABLE tallyhouse.migrations DELETE WHERE version >= {version} SETTINGS mutations_sync = 2");
    execute(writer, &forget).await.unwrap();
    let last_of = |view: &str| {
        let is_before = |m: &&Migration| m.version() < version && m.name.split_once('_').unwrap().1 == view;
        ALL.iter().rev().find(is_before).map(|migration| migration.name)
    };
    for migration in ALL.iter().filter(|m| m.version() < version && m.name.ends_with("_view")) {
        if last_of(migration.name.split_once('_').unwrap().1) != Some(migration.name) {
            continue;
        }
        let (_, select) = migration.text.split_once("AS SELECT").unwrap();
        let view = migration.name.split_once('_').unwrap().1;
        execute(writer, &format!("DROP VIEW tallyhouse.{view} SYNC")).await.unwrap();
        let table = if view == "events_view" { "events" } else { view.strip_suffix("_view").unwrap() };
        let create = format!("CREATE MATERIALIZED VIEW tallyhouse.{view} TO tallyhouse.{table} AS SELECT {select}");
        execute(writer, &create).await.unwrap();
    }
}

#[tokio::test]
async fn rows_of_every_type_are_made_of_what_was_counted_before_and_once() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let (writer, rendering) = (engine.writer(), migrate::rendering(true));
    runner::up(&writer, &rendering).await.unwrap();
    back_to(&writer, 20).await;
    let drifts = async || {
        let selection = rollups::selection(None, None, None, None);
        verify(&writer.client(), &selection, Duration::from_millis(20)).await.unwrap().drifts
    };
    let every = "SELECT sum(events) FROM tallyhouse.rollup_1d WHERE dim_set = '*'";
    let block = async |token: &str| insert(&writer, token).await;
    assert!(block("before").await);
    assert_eq!(ask(&writer, every).await.unwrap(), "0");
    let tables: std::collections::BTreeSet<_> = drifts().await.into_iter().map(|drift| drift.table).collect();
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), ["rollup_1d", "rollup_1h", "rollup_1m"]);

    // An insert that is under way when the migration comes is counted too: it is waited for.
    let slow = "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, received_at, retention_days) \
        SELECT 'slow', toString(number), 'a', now64(3), now64(3), 365 + sleepEachRow(0.1) FROM numbers(10) \
        SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1, max_threads = 1";
    let (client, slow) = (writer.clone(), slow.to_owned());
    let under_way = tokio::spawn(async move { execute(&client, &slow).await });
    let listed = "SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND query LIKE '%sleepEachRow%'";
    eventually("the insert has begun", async || ask(&writer, listed).await.unwrap() == "1").await;
    let applied = runner::up(&writer, &rendering).await.unwrap();
    assert!(under_way.is_finished(), "the insert was not waited for");
    under_way.await.unwrap().unwrap();
    let taken_back =
        tallyhouse_sql::migrations::ALL.iter().filter(|m| m.version() >= 20 && m.applies_to(&Topology::Single)).count();
    assert_eq!((applied.len(), drifts().await), (taken_back, Vec::new()));
    assert_eq!(ask(&writer, every).await.unwrap(), "12");

    // A fill that was interrupted, or not recorded, adds nothing the second time; and inserts go on.
    for version in [26, 27, 35, 55] {
        let forget =
            format!("ALTER TABLE tallyhouse.migrations DELETE WHERE version = {version} SETTINGS mutations_sync = 2");
        execute(&writer, &forget).await.unwrap();
    }
    assert_eq!(runner::up(&writer, &rendering).await.unwrap().len(), 4);
    // What was inserted before is still known: repeated it counts nothing, also when ClickHouse was restarted.
    assert!(block("before").await);
    assert!(block("after").await);
    assert_eq!((ask(&writer, every).await.unwrap().as_str(), drifts().await), ("14", Vec::new()));
    engine.stop(Duration::from_secs(10)).await;
    let engine = Engine::start(options(folder.path())).await.unwrap();
    assert!(insert(&engine.writer(), "before").await && insert(&engine.writer(), "after").await);
    assert_eq!(ask(&engine.writer(), every).await.unwrap(), "14");
    engine.stop(Duration::from_secs(10)).await;
}

const ROUNDS: usize = 2;
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_migrate_at_once_one_applies_each_file() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let (writer, rendering) = (engine.writer(), migrate::rendering(true));
    for round in 0..ROUNDS {
        execute(&writer, "DROP DATABASE IF EXISTS tallyhouse SYNC").await.unwrap();
        at_once(&writer, &rendering).await;
        back_to(&writer, 20).await;
        assert!(insert(&writer, "before").await);
        at_once(&writer, &rendering).await;
        let selection = rollups::selection(None, None, None, None);
        let verified = verify(&writer.client(), &selection, Duration::from_millis(20)).await.unwrap();
        assert_eq!(verified.drifts, Vec::new(), "round {round}");
    }
    engine.stop(Duration::from_secs(10)).await;
}

/// All of them are content, and each file was applied by one.
async fn at_once(writer: &Connection, rendering: &Rendering) {
    let standings = runner::status(writer, rendering).await.unwrap();
    let pending = standings.iter().filter(|(_, standing)| *standing == Standing::Pending).count();
    let mut migrating = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (writer, rendering) = (writer.clone(), rendering.clone());
        migrating.spawn(async move { runner::up(&writer, &rendering).await.unwrap().len() });
    }
    let applied = migrating.join_all().await;
    assert!(pending > 0 && applied.iter().sum::<usize>() == pending, "{applied:?} of {pending}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_migrates_is_waited_for_and_what_it_left_running() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let (writer, rendering) = (engine.writer(), migrate::rendering(true));
    let client = writer.client().with_database("system");
    let take = async |name| QueryLock::take(&client, name, Duration::from_secs(5)).await.unwrap();
    let mut migrations = take(LOCK).await;
    let rollups = take("tallyhouse-rollups-rebuild").await;
    assert!(migrations.is_some() && rollups.is_some());
    assert!(QueryLock::take(&client, LOCK, Duration::from_millis(200)).await.unwrap().is_none());

    // A statement of somebody who is gone.
    let left = client.query_raw("SELECT sleepEachRow(1) FROM numbers(600) FORMAT Null SETTINGS max_block_size = 1");
    let left = left.with_setting("query_id", STEP).with_setting("function_sleep_max_microseconds_per_block", "0");
    let left = tokio::spawn(async move { left.execute().await });
    let running = format!("SELECT count() FROM system.processes WHERE query_id = '{STEP}'");
    eventually("it runs", async || ask(&writer, &running).await.unwrap() == "1").await;

    let who = format!("SELECT query FROM system.processes WHERE query_id = '{LOCK}'");
    let me = ask(&writer, &who).await.unwrap();
    let refusals = async || -> u64 {
        let of_the_same_id =
            "SELECT sum(value) FROM system.errors WHERE name = 'QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING'";
        ask(&writer, of_the_same_id).await.unwrap().parse().unwrap()
    };
    let is_refused = async |what: &str| {
        let before = refusals().await;
        eventually(what, async || refusals().await > before + 2).await;
    };
    let up = {
        let writer = writer.clone();
        tokio::spawn(async move { runner::up(&writer, &rendering).await })
    };
    let databases = "SELECT count() FROM system.databases WHERE name = 'tallyhouse'";
    let has_nothing = async || ask(&writer, databases).await.unwrap() == "0" && !up.is_finished();
    is_refused("the lock is refused").await;
    assert!(has_nothing().await);
    // As when its process is killed: the connection goes. The lock is the waiter's then.
    drop((migrations.take(), rollups));
    eventually("the waiter has the lock", async || {
        let now = ask(&writer, &who).await.unwrap();
        !now.is_empty() && now != me
    })
    .await;
    is_refused("a file is refused").await;
    assert!(has_nothing().await, "a statement of a migration still runs");
    execute(&writer, &format!("KILL QUERY WHERE query_id = '{STEP}' SYNC")).await.unwrap();
    assert!(left.await.unwrap().is_err());
    assert!(!up.await.unwrap().unwrap().is_empty());
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn who_has_lost_the_lock_learns_it() {
    let writer = shared().await.engine.writer();
    let client = writer.client();
    let (one, other) = ("tallyhouse-test-one", "tallyhouse-test-other");
    let take = async |name| QueryLock::take(&client, name, Duration::from_secs(5)).await.unwrap().unwrap();
    let (one, other) = (take(one).await, take(other).await);
    assert!(one.check_with(&other).await.unwrap());
    execute(&writer, "KILL QUERY WHERE query_id = 'tallyhouse-test-other' SYNC").await.unwrap();
    assert!(!one.check_with(&other).await.unwrap());
}

async fn insert(writer: &Connection, token: &str) -> bool {
    let ids = [format!("{token}-1"), format!("{token}-2")];
    let block = block_of("p", &ids.each_ref().map(String::as_str));
    insert_block(&writer.client(), "events_in", token, &block, Duration::from_secs(10)).await.is_ok()
}
