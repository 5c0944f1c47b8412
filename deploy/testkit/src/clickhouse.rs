//! The ClickHouse that all tests of a process share, and functions that start another or query either.

use std::path::Path;
use std::time::Duration;

use tallyhouse::config::Config;
use tallyhouse::credentials::Credentials;
use tallyhouse::engine::{Cage, Engine, EngineOptions, Program};
use tallyhouse::telemetry::Metrics;
use tallyhouse_service::env::ProcessEnv;
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::{Connection, runner};
use tokio::sync::OnceCell;

use crate::folder::{Folder, Janitor, new_folder};
use crate::ports::free_ports;
use crate::programs;

/// The project that the user `grafana` of the shared ClickHouse sees, besides `demo`.
pub const GRAFANA_PROJECT: &str = "seen-by-grafana";

/// The ClickHouse that all tests of this process share, with all tables.
pub struct SharedClickHouse {
    pub engine: Engine,
    pub options: EngineOptions,
    _janitor: Janitor,
}

/// Starts the shared ClickHouse, or gives the one that runs. It ends, and its data goes, with this process.
pub async fn shared() -> &'static SharedClickHouse {
    static SHARED: OnceCell<SharedClickHouse> = OnceCell::const_new();
    SHARED
        .get_or_init(async || {
            let folder = new_folder();
            let janitor = Janitor::of(&folder);
            let [tcp_port] = free_ports();
            // Both protocols: tests try to reach either.
            let options = EngineOptions { tcp_port: Some(tcp_port), ..options(&folder) };
            let engine = Engine::start(options.clone()).await.unwrap_or_else(|error| panic!("{error}"));
            runner::up(&engine.writer(), &Topology::Single).await.unwrap();
            SharedClickHouse { engine, options, _janitor: janitor }
        })
        .await
}

/// The shared ClickHouse.
pub async fn engine() -> &'static Engine {
    &shared().await.engine
}

/// A ClickHouse of one's own with all tables, its data in a folder.
pub async fn engine_in(folder: &Folder) -> Engine {
    let engine = Engine::start(options(folder.path())).await.unwrap();
    runner::up(&engine.writer(), &Topology::Single).await.unwrap();
    engine
}

/// Options of a ClickHouse with its data in a folder, on free ports, with fixed passwords.
pub fn options(folder: &Path) -> EngineOptions {
    let [http_port] = free_ports();
    EngineOptions {
        data: folder.join("data"),
        backups: folder.join("backups"),
        listen: [127, 0, 0, 1].into(),
        client_networks: Vec::new(),
        accounts: Vec::new(),
        cluster: None,
        http_port,
        tcp_port: None,
        program: program(),
        cage: Cage::On,
        credentials: Credentials::fixed(),
        // Of all tests that share it.
        analyst_statements: 64,
        grafana_projects: [GRAFANA_PROJECT, "demo"].map(|name| name.parse().unwrap()).into(),
        executable: programs::engine(),
        start_within: Duration::from_secs(60),
        hung_after: Duration::from_secs(60),
        metrics: Metrics::register(&Registry::new()).unwrap(),
    }
}

/// The ClickHouse that `tallyhouse up` would run here.
fn program() -> Program {
    let program =
        Config::from_env(&ProcessEnv).unwrap().engine.expect("CLICKHOUSE_URL must not be set").program().unwrap();
    program.check().unwrap_or_else(|error| panic!("{error}"));
    program
}

/// The one value that a query gives, or what ClickHouse says instead.
pub async fn ask(connection: &Connection, sql: &str) -> Result<String, String> {
    let client = connection.server();
    // A scalar subquery is nullable whatever it selects.
    let query = format!("SELECT ifNull(toString(({sql})), '')");
    client.query_raw(&query).fetch_one::<String>().await.map_err(|error| error.to_string())
}

/// Runs a statement without an answer.
pub async fn execute(connection: &Connection, sql: &str) -> Result<(), String> {
    let client = connection.server();
    client.query_raw(sql).execute().await.map_err(|error| error.to_string())
}

/// Replaced parts leave the disk within seconds, not minutes.
pub async fn remove_replaced_files_soon(writer: &Connection) {
    for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d", "dead_letters", "privacy_subjects", "control"] {
        let sql = format!(
            "ALTER TABLE tallyhouse.{table} MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1, \
             cleanup_delay_period_random_add = 0, max_cleanup_delay_period = 1"
        );
        execute(writer, &sql).await.unwrap();
    }
}
