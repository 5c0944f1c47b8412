//! What the tests share: one ClickHouse for all of them, and ways to have another and to ask either.
//!
//! In the shared ClickHouse a test is alone in a project of its own name. Only what kills or misconfigures a ClickHouse
//! starts another.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test"
)]

mod fixtures;
pub mod ingest_service;
mod janitor;
pub mod programs;
pub mod proxy;
pub mod query_service;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prometheus::Registry;
use tallyhouse::config::Config;
use tallyhouse::credentials::Credentials;
use tallyhouse::engine::{Engine, EngineOptions, Program};
use tallyhouse::metrics::Metrics;
use tallyhouse::migrate;
use tallyhouse_loadtest::brokers::Brokers;
use tallyhouse_service::env::{Env, ProcessEnv};
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::{Connection, runner};
use tokio::sync::OnceCell;

use janitor::Janitor;

pub use fixtures::{insert_events, ten_days_ago};
pub use query_service::{Redis, eventually, new_project};

/// The project that the user `grafana` of the shared ClickHouse sees, besides `demo`.
pub const GRAFANA_PROJECT: &str = "seen-by-grafana";

/// The ClickHouse that all tests of this process share, with all tables.
pub struct Shared {
    pub engine: Engine,
    pub options: EngineOptions,
    _janitor: Janitor,
}

/// Starts the shared ClickHouse, or gives the one that runs. It ends, and its data goes, with this process.
pub async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(async || {
            let folder = new_folder();
            let janitor = Janitor::of(&folder);
            let options = options(&folder);
            let engine = Engine::start(options.clone()).await.unwrap_or_else(|error| panic!("{error}"));
            runner::up(&engine.writer(), &migrate::rendering(true)).await.unwrap();
            Shared { engine, options, _janitor: janitor }
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
    runner::up(&engine.writer(), &migrate::rendering(true)).await.unwrap();
    engine
}

/// What the query API is asked for the events of the day that begins at `from`, seconds since the epoch.
pub fn a_day(from: i64) -> String {
    format!("/v1/metrics/events?granularity=day&startTime={}&endTime={}", from * 1_000, (from + 86_400) * 1_000)
}

/// The one Kafka broker that all tests of this process share; a test is alone in a topic and a group of its own names. It
/// ends, and its data goes, with this process.
pub async fn brokers() -> &'static Brokers {
    static BROKERS: OnceCell<(Brokers, Janitor)> = OnceCell::const_new();
    let started = BROKERS.get_or_init(async || {
        let folder = new_folder();
        let janitor = Janitor::of(&folder);
        (Brokers::start(1, &folder).await.unwrap_or_else(|error| panic!("{error}")), janitor)
    });
    &started.await.0
}

/// Where the shared broker is (`KAFKA_BROKERS`), or `None`, told by the test's name, with `KAFKA_TESTS=off`.
pub async fn kafka_or_skip(test: &str) -> Option<String> {
    if is_kafka_off() {
        skipped(test, "it needs Kafka, and KAFKA_TESTS=off");
        return None;
    }
    Some(brokers().await.bootstrap())
}

/// Says that a test was left out.
#[allow(clippy::explicit_write, reason = "`eprintln!` is shown of tests that fail alone")]
fn skipped(test: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").unwrap();
}

/// Whether the tests that need Kafka are left out.
pub fn is_kafka_off() -> bool {
    ProcessEnv.get("KAFKA_TESTS").is_some_and(|value| value == "off")
}

/// Options of a ClickHouse with its data in a folder, on free ports, with the development passwords.
pub fn options(folder: &Path) -> EngineOptions {
    let [http_port, tcp_port] = free_ports();
    EngineOptions {
        data: folder.join("data"),
        http_port,
        tcp_port,
        program: program(),
        credentials: Credentials::development(),
        grafana_projects: [GRAFANA_PROJECT, "demo"].map(|name| name.parse().unwrap()).into(),
        executable: programs::engine(),
        start_within: Duration::from_secs(60),
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

/// Ports that nobody listens on. All are held while they are chosen, so that they differ.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = programs::temporary().join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A folder that goes when the value goes.
pub struct Folder(PathBuf);

impl Folder {
    pub fn create() -> Self {
        Self(new_folder())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A file system of its own size at a folder, unmounted when the value goes.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None`, told by the test's name, for anybody but root.
    pub fn mount_or_skip(folder: &Path, bytes: u64, test: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder.to_owned()));
        }
        skipped(test, "only root may mount a small file system");
        None
    }

    /// Unmounts it; fails when somebody still has a file open.
    pub fn unmount(self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // For a test that failed: lazily, because its service may still have files open. Otherwise it is unmounted already.
        drop(Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status());
    }
}

/// The one value that a query gives, or what ClickHouse says instead.
pub async fn ask(connection: &Connection, sql: &str) -> Result<String, String> {
    let client =
        Client::default().with_url(&connection.url).with_user(&connection.user).with_password(&connection.password);
    // A scalar subquery is nullable whatever it selects.
    let query = format!("SELECT ifNull(toString(({sql})), '')");
    client.query_raw(&query).fetch_one::<String>().await.map_err(|error| error.to_string())
}

/// Runs a statement without an answer.
pub async fn execute(connection: &Connection, sql: &str) -> Result<(), String> {
    let client =
        Client::default().with_url(&connection.url).with_user(&connection.user).with_password(&connection.password);
    client.query_raw(sql).execute().await.map_err(|error| error.to_string())
}
