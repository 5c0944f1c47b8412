//! An insert that a crash interrupted between the deduplication log and its part is stored by its retry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tallyhouse::engine::Engine;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::runner;

use tallyhouse_testkit::ingest_service::{block_of, everywhere};
use tallyhouse_testkit::{Folder, options};

/// Parts of a table, wherever its folder is.
fn parts(data: &Path, table: &str) -> Vec<PathBuf> {
    let folder = data.join("clickhouse/data/tallyhouse").join(table);
    let is_part = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .split('_')
            .skip(1)
            .take(3)
            .filter(|n| n.parse::<u64>().is_ok())
            .count()
            == 3
    };
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_part).collect()
}

#[tokio::test]
async fn a_token_without_its_rows_is_revoked_before_the_next_start() {
    let folder = Folder::create();
    let options = options(folder.path());
    let chunks = block_of("interrupted", &["1", "2", "3"]);
    let insert = async |engine: &Engine| {
        let client = engine.writer().client();
        insert_block(&client, "events_in", "interrupted-token", &chunks, Duration::from_secs(10)).await.unwrap();
    };
    let engine = Engine::start(options.clone()).await.unwrap();
    runner::up(&engine.writer(), &Topology::Single).await.unwrap();
    insert(&engine).await;
    assert_eq!(everywhere(&engine.writer(), "interrupted").await, [3; 4]);
    engine.stop(Duration::from_secs(10)).await;

    // As a kill between the two steps leaves it: the log knows the insert, the part was never renamed into place.
    for table in ["events", "rollup_1h"] {
        let parts = parts(&options.data, table);
        assert_eq!(parts.len(), 1, "{table}");
        for part in parts {
            let name = format!("tmp_insert_{}", part.file_name().unwrap().to_str().unwrap());
            std::fs::rename(&part, part.with_file_name(name)).unwrap();
        }
    }
    let engine = Engine::start(options).await.unwrap();
    assert_eq!(everywhere(&engine.writer(), "interrupted").await, [0, 3, 0, 3]);
    insert(&engine).await;
    assert_eq!(everywhere(&engine.writer(), "interrupted").await, [3; 4]);
    engine.stop(Duration::from_secs(10)).await;
}
