//! The embedded ClickHouse as a process: it starts, it comes back, it never outlives us, and it says why it cannot.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tallyhouse::engine::{Engine, EngineError, EngineOptions, PINNED_VERSION, Program};
use tallyhouse_loadtest::system::System;

use tallyhouse_testkit::{self as support, Folder, ask, eventually, execute, options, shared};

#[tokio::test]
async fn it_answers_each_of_its_users() {
    let engine = support::engine().await;
    for connection in [engine.writer(), engine.reader(), engine.grafana()] {
        assert!(ask(&connection, "SELECT version()").await.unwrap().starts_with("26."));
        assert_eq!(ask(&connection, "SELECT currentUser()").await.unwrap(), connection.user);
        assert_eq!(ask(&connection, "SELECT timezone()").await.unwrap(), "UTC");
    }
}

#[tokio::test]
async fn killed_it_comes_back_with_every_acknowledged_row() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let writer = engine.writer();
    execute(&writer, "CREATE DATABASE tallyhouse").await.unwrap();
    execute(&writer, "CREATE TABLE tallyhouse.t (n UInt64) ENGINE = MergeTree ORDER BY n").await.unwrap();
    execute(&writer, "INSERT INTO tallyhouse.t SELECT number FROM numbers(100000)").await.unwrap();

    kill(engine.pid().unwrap());

    eventually("ClickHouse answers again", async || ask(&writer, "SELECT 1").await.is_ok()).await;
    assert_eq!(ask(&writer, "SELECT count() FROM tallyhouse.t").await.unwrap(), "100000");
    assert_eq!(engine.restarts(), 1);
    let pid = std::fs::read_to_string(folder.path().join("data/clickhouse.pid")).unwrap();
    assert_eq!(pid.trim().parse().ok(), engine.pid());
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn one_that_hangs_is_killed_and_started_again() {
    let folder = Folder::create();
    let options = EngineOptions { hung_after: Duration::from_secs(2), ..options(folder.path()) };
    let engine = Engine::start(options).await.unwrap();
    let (writer, hung) = (engine.writer(), engine.pid().unwrap());
    signal(hung, Signal::STOP);
    eventually("ClickHouse is another process", async || engine.pid().is_some_and(|pid| pid != hung)).await;
    eventually("ClickHouse answers again", async || ask(&writer, "SELECT 1").await.is_ok()).await;
    assert_eq!(engine.restarts(), 1);
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn stopped_it_is_gone_and_starts_again_on_the_same_data() {
    let folder = Folder::create();
    let options = options(folder.path());
    for _ in 0..2 {
        let engine = Engine::start(options.clone()).await.unwrap();
        let pid = engine.pid().unwrap();
        engine.stop(Duration::from_secs(10)).await;
        assert!(!is_running(pid));
    }
}

#[tokio::test]
async fn the_system_logs_of_each_process_can_be_read() {
    let folder = Folder::create();
    let options = options(folder.path());
    for run in 0..2 {
        let engine = Engine::start(options.clone()).await.unwrap();
        let writer = engine.writer();
        execute(&writer, "SYSTEM FLUSH LOGS").await.unwrap();
        let rows = ask(&writer, "SELECT count() > 0 FROM system.query_log").await;
        assert_eq!(rows.as_deref(), Ok("1"), "run {run}");
        engine.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test]
async fn dropped_it_is_gone() {
    let folder = Folder::create();
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let pid = engine.pid().unwrap();
    drop(engine);
    assert!(!is_running(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_dies_with_its_parent_even_by_sigkill() {
    let system = System::start(env!("CARGO_BIN_EXE_tallyhouse").as_ref()).await.unwrap();
    let engine = u32::try_from(system.clickhouse_pid().unwrap()).unwrap();
    assert!(is_running(engine));

    kill(u32::try_from(system.pid().unwrap()).unwrap());

    eventually("ClickHouse is gone", async || !is_running(engine)).await;
}

#[test]
fn the_child_refuses_a_parent_that_is_gone() {
    let child = Command::new(env!("CARGO_BIN_EXE_tallyhouse"))
        .args(["engine", "--library", "/nowhere", "--config", "/nowhere", "--parent", "1"])
        .output()
        .unwrap();
    assert!(!child.status.success());
    assert!(String::from_utf8_lossy(&child.stderr).contains("the process that started the engine is gone"));
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_variable() {
    let folder = Folder::create();
    for variable in ["CLICKHOUSE_HTTP_PORT", "CLICKHOUSE_TCP_PORT"] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut options = options(folder.path());
        match variable {
            "CLICKHOUSE_HTTP_PORT" => options.http_port = port,
            _ => options.tcp_port = Some(port),
        }
        let error = refusal(options).await;
        assert!(matches!(error, EngineError::PortTaken { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!("port {port} is taken; end whatever listens there, or choose another port with {variable}")
        );
    }
}

#[tokio::test]
async fn data_that_another_clickhouse_works_on_is_left_alone() {
    let shared = shared().await;
    let second = EngineOptions { data: shared.options.data.clone(), ..options(Path::new("/nowhere")) };
    let before = std::fs::read_to_string(second.data.join("engine/config.xml")).unwrap();
    let error = refusal(second.clone()).await;
    let EngineError::DataLocked { pid, .. } = error else { panic!("{error}") };
    assert_eq!(pid, shared.engine.pid());
    assert!(error.to_string().ends_with("stop it, or choose another folder with TALLYHOUSE_DATA"), "{error}");
    assert_eq!(std::fs::read_to_string(second.data.join("engine/config.xml")).unwrap(), before);
}

#[tokio::test]
async fn a_missing_library_is_reported_with_the_way_out() {
    let folder = Folder::create();
    let path = folder.path().join("libchdb.so");
    let error = refusal(EngineOptions { program: Program::Library(path.clone()), ..options(folder.path()) }).await;
    assert_eq!(
        error.to_string(),
        format!(
            "the ClickHouse library is not at {}; `make run` sets it up, TALLYHOUSE_ENGINE_LIBRARY says where else it is",
            path.display()
        )
    );
}

#[tokio::test]
async fn a_library_of_another_version_is_not_loaded() {
    let folder = Folder::create();
    let error = refusal(with_library(&folder, "25.1.0")).await;
    assert!(error.to_string().contains("is of version 25.1.0, and 26."), "{error}");
}

#[tokio::test]
async fn what_is_not_the_library_is_not_loaded() {
    let folder = Folder::create();
    let error = refusal(with_library(&folder, PINNED_VERSION)).await;
    assert!(error.to_string().contains("its SHA-256 is "), "{error}");
    assert!(!folder.path().join("data/engine/library.verified").exists());
}

/// A library that is none, in a package of some version.
fn with_library(folder: &Folder, version: &str) -> EngineOptions {
    let path = folder.path().join("libchdb.so");
    std::fs::write(&path, "not a library").unwrap();
    std::fs::write(folder.path().join("package.json"), format!(r#"{{"version": "{version}"}}"#)).unwrap();
    EngineOptions { program: Program::Library(path), ..options(folder.path()) }
}

async fn refusal(options: EngineOptions) -> EngineError {
    match Engine::start(options).await {
        Ok(engine) => panic!("started: {engine:?}"),
        Err(error) => error,
    }
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Whether it exists and has not ended: whoever inherits an orphan may take its time to wait for it.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}
