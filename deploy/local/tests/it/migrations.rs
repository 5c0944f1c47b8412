//! The migration files against a real parser and a real server.

use std::time::Duration;

use tallyhouse::engine::Engine;
use tallyhouse::migrate;
use tallyhouse_sql::migrations::{ALL, DEDUPLICATION_WINDOW, Rendering, Topology};
use tallyhouse_sql::runner::{self, MigrateError, Standing};

use crate::support::{Folder, ask, execute, options, shared};

#[tokio::test]
async fn the_cluster_rendering_parses() {
    let writer = shared().await.engine.writer();
    let topology = Topology::Cluster("main".to_owned());
    let rendering = Rendering { topology: topology.clone(), tiered_policy: Some("tiered".to_owned()) };
    for migration in ALL.iter().filter(|migration| migration.applies_to(&topology)) {
        let sql = migration.render(&rendering);
        assert!(sql.contains("ON CLUSTER 'main'"), "{}", migration.name);
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
