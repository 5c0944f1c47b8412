//! The migration files against a real parser and a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallyhouse::engine::Engine;
use tallyhouse::rollups;
use tallyhouse_sql::Connection;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::lock::QueryLock;
use tallyhouse_sql::migrations::{
    ALL, BEFORE_BASELINE, ClusterTables, DEDUPLICATION_WINDOW, Migration, Rendering, Topology,
};
use tallyhouse_sql::rollups::verify::{Drift, verify};
use tallyhouse_sql::runner::{self, LOCK, MigrateError, STEP, Standing};

use tallyhouse_testkit::ingest_service::block_of;
use tallyhouse_testkit::{Folder, ask, eventually, execute, options, shared};

#[tokio::test]
async fn the_cluster_rendering_parses() {
    let writer = shared().await.engine.writer();
    for is_replicated in [false, true] {
        let topology = Topology::Cluster(ClusterTables { name: "main".to_owned(), is_replicated });
        let rendering = Rendering { topology: topology.clone(), storage_policy: Some("tiered") };
        for migration in ALL.iter().chain(BEFORE_BASELINE).filter(|migration| migration.applies_to(&topology)) {
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
    assert_eq!(runner::up(&writer, &Topology::Single).await.unwrap(), Vec::<&str>::new());
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
    let writer = engine.writer();
    let pending = runner::status(&writer, &Topology::Single).await.unwrap();
    assert!(pending.iter().all(|(_, standing)| *standing == Standing::Pending));
    let applied = runner::up(&writer, &Topology::Single).await.unwrap();
    assert_eq!(applied.len(), pending.len());

    let record = async |version: u32, name: &str| {
        let values = format!("({version}, '{name}', 'another', now64(3) + 60)");
        let sql = format!("INSERT INTO tallyhouse.migrations (version, name, checksum, applied_at) VALUES {values}");
        execute(&writer, &sql).await.unwrap();
    };
    record(103, "0103_events").await;
    let changed = runner::up(&writer, &Topology::Single).await.unwrap_err();
    assert!(matches!(&changed, MigrateError::Changed { name } if name == "0103_events"), "{changed}");
    record(999, "0999_future").await;
    let newer = runner::up(&writer, &Topology::Single).await.unwrap_err();
    assert!(matches!(&newer, MigrateError::Newer { version: 999, .. }), "{newer}");
    assert!(newer.to_string().contains("run the newer version"), "{newer}");
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn an_installation_of_before_opens_and_is_the_same_as_a_new_one() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    made_before(&engine.writer(), 92).await;
    assert!(insert(&engine.writer(), "before").await);
    engine.stop(Duration::from_secs(10)).await;

    let engine = Engine::start(options(folder.path())).await.unwrap();
    let writer = engine.writer();
    assert_eq!(
        runner::up(&writer, &Topology::Single).await.unwrap(),
        ["0093_metric_definitions_go", "0095_hot_questions"]
    );
    assert!(insert(&writer, "before").await && insert(&writer, "after").await);
    let counted = "SELECT concat(toString((SELECT count() FROM tallyhouse.events)), ' ', toString(sum(events))) \
                   FROM tallyhouse.rollup_1d WHERE dim_set = '*'";
    assert_eq!((ask(&writer, counted).await.unwrap().as_str(), drifts(&writer).await), ("4 4", Vec::new()));
    let upgraded = structure(&writer).await;

    drop_all(&writer).await;
    runner::up(&writer, &Topology::Single).await.unwrap();
    let new = structure(&writer).await;
    assert!(new.len() > 20 && new.iter().any(|table| table.contains("uniqCombined64(14)")), "{new:#?}");
    for (upgraded, new) in upgraded.iter().zip(&new) {
        assert_eq!(upgraded, new);
    }
    assert_eq!(upgraded.len(), new.len());

    // One that was killed while its old version migrated: inserts are held back, and go on.
    drop_all(&writer).await;
    made_before(&writer, 52).await;
    assert!(!insert(&writer, "held back").await);
    runner::up(&writer, &Topology::Single).await.unwrap();
    assert!(insert(&writer, "held back").await);
    assert_eq!(drifts(&writer).await, Vec::new());
    engine.stop(Duration::from_secs(10)).await;
}

/// Makes an installation of before 0.1.0 as its version left it: files up to a number, each recorded.
async fn made_before(writer: &Connection, up_to: u32) {
    for migration in BEFORE_BASELINE.iter().filter(|m| m.version() <= up_to && m.applies_to(&Topology::Single)) {
        let mut text = migration.text.replace("{{storage_policy}}", ", storage_policy = 'tiered'");
        if migration.name == "0003_events" {
            text =
                text.replace("toIntervalDay(30)}}", "toIntervalDay(30) TO VOLUME 'cold',").replace("{{cold_tier:", "");
        }
        if ["0005_rollup_1h", "0006_rollup_1d"].contains(&migration.name) {
            text = text.replace("{{dedup_window}}", "{{dedup_window}}, index_granularity_bytes = 1048576");
        }
        let then = Migration { name: migration.name, text: text.leak() };
        execute(writer, &then.render(&Rendering::default()))
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", migration.name));
        if migration.version() == 2 {
            record(writer, BEFORE_BASELINE[0]).await;
        }
        if migration.version() > 1 {
            record(writer, *migration).await;
        }
    }
}

async fn record(writer: &Connection, migration: Migration) {
    let sql = format!(
        "INSERT INTO tallyhouse.migrations (version, name, checksum) VALUES ({}, '{}', '{}')",
        migration.version(),
        migration.name,
        migration.checksum()
    );
    execute(writer, &sql).await.unwrap();
}

/// As [`made_before`], in a place where an installation was.
async fn drop_all(writer: &Connection) {
    for database in ["tallyhouse", "tallyhouse_views"] {
        execute(writer, &format!("DROP DATABASE IF EXISTS {database} SYNC")).await.unwrap();
    }
}

/// Every table and view as ClickHouse has it, the settings of a table in the order of their names. Where raw events are moved to is no
/// matter of migrations.
async fn structure(writer: &Connection) -> Vec<String> {
    let sql = "SELECT groupArray(t) FROM (SELECT create_table_query AS t FROM system.tables \
               WHERE database IN ('tallyhouse', 'tallyhouse_views') ORDER BY database, name)";
    let all = ask(writer, &format!("SELECT arrayStringConcat(({sql}), '\n\n')")).await.unwrap();
    let ordered = |table: &str| match table.split_once(" SETTINGS ") {
        Some((table, settings)) => {
            let mut settings: Vec<_> = settings.split(", ").collect();
            settings.sort_unstable();
            format!("{table} SETTINGS {}", settings.join(", "))
        }
        None => table.to_owned(),
    };
    all.split("\n\n")
        .map(|table| ordered(table).replace(" toDateTime(ts) + toIntervalDay(30) TO VOLUME 'cold',", ""))
        .collect()
}

async fn drifts(writer: &Connection) -> Vec<Drift> {
    let selection = rollups::selection(None, None, None, None);
    verify(&writer.client(), &selection, Duration::from_millis(20)).await.unwrap().drifts
}

#[tokio::test]
async fn rows_of_every_type_are_made_of_what_was_counted_before_and_once() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let writer = engine.writer();
    made_before(&writer, 18).await;
    let insert_metrics = "INSERT INTO tallyhouse.metric_definitions SELECT 'p', 'm', number + 1, '{}', toString(number), 'key', now64(3) FROM numbers(2)";
    execute(&writer, insert_metrics).await.unwrap();
    let every = "SELECT sum(events) FROM tallyhouse.rollup_1d WHERE dim_set = '*'";
    let block = async |token: &str| insert(&writer, token).await;
    assert!(block("before").await);
    assert_eq!(ask(&writer, every).await.unwrap(), "0");
    let tables: std::collections::BTreeSet<_> = drifts(&writer).await.into_iter().map(|drift| drift.table).collect();
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), ["rollup_1d", "rollup_1h", "rollup_1m"]);

    // An insert that is under way when the migration comes is counted too: it is waited for.
    let slow = "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, received_at, retention_days) \
        SELECT 'slow', toString(number), 'a', now64(3), now64(3), 365 + sleepEachRow(0.1) FROM numbers(10) \
        SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1, max_threads = 1";
    let (client, slow) = (writer.clone(), slow.to_owned());
    let under_way = tokio::spawn(async move { execute(&client, &slow).await });
    let listed = "SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND query LIKE '%sleepEachRow%'";
    eventually("the insert has begun", async || ask(&writer, listed).await.unwrap() == "1").await;
    let applied = runner::up(&writer, &Topology::Single).await.unwrap();
    assert!(under_way.is_finished(), "the insert was not waited for");
    under_way.await.unwrap().unwrap();
    let later = BEFORE_BASELINE.iter().filter(|m| m.version() >= 20 && m.applies_to(&Topology::Single)).count();
    assert_eq!((applied.len(), drifts(&writer).await), (later, Vec::new()));
    assert_eq!(ask(&writer, every).await.unwrap(), "12");

    // A fill that was interrupted, or not recorded, adds nothing the second time; and inserts go on.
    let metrics = "SELECT count() FROM tallyhouse.control WHERE kind = 'metric' AND project_id = 'p'";
    assert_eq!(ask(&writer, metrics).await.unwrap(), "2");
    for version in [26, 27, 35, 55] {
        let forget =
            format!("ALTER TABLE tallyhouse.migrations DELETE WHERE version = {version} SETTINGS mutations_sync = 2");
        execute(&writer, &forget).await.unwrap();
    }
    assert_eq!(runner::up(&writer, &Topology::Single).await.unwrap().len(), 4);
    // What was inserted before is still known: repeated it counts nothing, also when ClickHouse was restarted.
    assert!(block("before").await);
    assert!(block("after").await);
    assert_eq!((ask(&writer, every).await.unwrap().as_str(), drifts(&writer).await), ("14", Vec::new()));
    engine.stop(Duration::from_secs(10)).await;
    let engine = Engine::start(options(folder.path())).await.unwrap();
    assert!(insert(&engine.writer(), "before").await && insert(&engine.writer(), "after").await);
    assert_eq!(ask(&engine.writer(), every).await.unwrap(), "14");
    engine.stop(Duration::from_secs(10)).await;
}

const AT_ONCE: usize = 4;
const SENDERS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_migrate_at_once_one_applies_each_file_while_events_arrive() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let writer = engine.writer();
    at_once(&writer).await;
    drop_all(&writer).await;
    made_before(&writer, 18).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut sending = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        sending.spawn(send_until(writer.clone(), sender, Arc::clone(&is_over)));
    }
    at_once(&writer).await;
    is_over.store(true, Ordering::SeqCst);
    let sent: usize = sending.join_all().await.into_iter().sum();
    let counted = "SELECT concat(toString((SELECT count() FROM tallyhouse.events)), ' ', toString(sum(events))) \
                   FROM tallyhouse.rollup_1m WHERE dim_set = '*'";
    assert_eq!((ask(&writer, counted).await.unwrap(), drifts(&writer).await), (format!("{sent} {sent}"), Vec::new()));
    assert!(sent > 2 * SENDERS, "too little was sent meanwhile: {sent}");
    engine.stop(Duration::from_secs(10)).await;
}

/// Sends batches as an ingester does, each until it is accepted, and says how many events these were.
async fn send_until(writer: Connection, sender: usize, is_over: Arc<AtomicBool>) -> usize {
    let mut batches = 0;
    while !is_over.load(Ordering::SeqCst) {
        let token = format!("load-{sender}-{batches}");
        let taken = async {
            while !insert(&writer, &token).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), taken).await.expect("a batch is accepted");
        batches += 1;
    }
    2 * batches
}

/// All of them are content, and each file was applied by one.
async fn at_once(writer: &Connection) {
    let standings = runner::status(writer, &Topology::Single).await.unwrap();
    let pending = standings.iter().filter(|(_, standing)| *standing == Standing::Pending).count();
    let mut migrating = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let writer = writer.clone();
        migrating.spawn(async move { runner::up(&writer, &Topology::Single).await.unwrap().len() });
    }
    let applied = migrating.join_all().await;
    assert!(pending > 0 && applied.iter().sum::<usize>() == pending, "{applied:?} of {pending}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_migrates_is_waited_for_and_what_it_left_running() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let writer = engine.writer();
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
        tokio::spawn(async move { runner::up(&writer, &Topology::Single).await })
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
