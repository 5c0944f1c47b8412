//! The migration files against a real parser and a real server.

use std::time::Duration;

use tallyhouse::engine::Engine;
use tallyhouse::{migrate, rollups};
use tallyhouse_sql::Connection;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::migrations::{ALL, DEDUPLICATION_WINDOW, Migration, Rendering, Topology};
use tallyhouse_sql::rollups::verify::verify;
use tallyhouse_sql::runner::{self, MigrateError, Standing};

use tallyhouse_testkit::ingest_service::block_of;
use tallyhouse_testkit::{Folder, ask, execute, options, shared};

#[tokio::test]
async fn the_cluster_rendering_parses() {
    let writer = shared().await.engine.writer();
    let topology = Topology::Cluster("main".to_owned());
    let rendering = Rendering { topology: topology.clone(), tiered_policy: Some("tiered".to_owned()) };
    for migration in ALL.iter().filter(|migration| migration.applies_to(&topology)) {
        let sql = migration.render(&rendering);
        let is_ddl = ["CREATE ", "ALTER ", "DROP "].iter().any(|word| sql.contains(word));
        assert!(sql.contains("ON CLUSTER 'main'") == is_ddl, "{}", migration.name);
        let parsed = execute(&writer, &format!("EXPLAIN AST {sql}")).await;
        assert!(parsed.is_ok(), "{}: {}", migration.name, parsed.unwrap_err());
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
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), ["rollup_1d", "rollup_1h"]);

    // An insert that is under way when the migration comes is counted too: it is waited for.
    let slow = "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, received_at, retention_days) \
        SELECT 'slow', toString(number), 'a', now64(3), now64(3), 365 + sleepEachRow(0.1) FROM numbers(10) \
        SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1, max_threads = 1";
    let (client, slow) = (writer.clone(), slow.to_owned());
    let under_way = tokio::spawn(async move { execute(&client, &slow).await });
    let listed = "SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND query LIKE '%sleepEachRow%'";
    tallyhouse_testkit::eventually("the insert has begun", async || ask(&writer, listed).await.unwrap() == "1").await;
    let applied = runner::up(&writer, &rendering).await.unwrap();
    assert!(under_way.is_finished(), "the insert was not waited for");
    under_way.await.unwrap().unwrap();
    let taken_back =
        tallyhouse_sql::migrations::ALL.iter().filter(|m| m.version() >= 20 && m.applies_to(&Topology::Single)).count();
    assert_eq!((applied.len(), drifts().await), (taken_back, Vec::new()));
    assert_eq!(ask(&writer, every).await.unwrap(), "12");

    // A fill that was interrupted, or not recorded, adds nothing the second time; and inserts go on.
    for version in [26, 27, 35] {
        let forget =
            format!("ALTER TABLE tallyhouse.migrations DELETE WHERE version = {version} SETTINGS mutations_sync = 2");
        execute(&writer, &forget).await.unwrap();
    }
    assert_eq!(runner::up(&writer, &rendering).await.unwrap().len(), 3);
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

async fn insert(writer: &Connection, token: &str) -> bool {
    let ids = [format!("{token}-1"), format!("{token}-2")];
    let block = block_of("p", &ids.each_ref().map(String::as_str));
    insert_block(&writer.client(), "events_in", token, &block, Duration::from_secs(10)).await.is_ok()
}
