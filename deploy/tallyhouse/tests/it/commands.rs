//! The commands besides `up`.

use std::process::{Child, Command, Output, Stdio};

use tallyhouse_sql::Connection;
use tallyhouse_sql::durability::{self, Fsync};

use tallyhouse_testkit::{self as support, Folder, Redis, eventually};

fn tallyhouse(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tallyhouse")).args(arguments).envs(env.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn migrations_of_a_migrated_database_are_applied_and_up_changes_nothing() {
    let engine = support::engine().await;
    let env = [("CLICKHOUSE_URL", engine.http_url()), ("CLICKHOUSE_USER", "writer"), ("CLICKHOUSE_PASSWORD", "dev")];
    for command in ["status", "check", "up"] {
        let output = tallyhouse(&["migrate", command], &env);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = stdout(&output);
        assert!(printed.contains("rollup_1m") && !printed.contains("pending"), "{printed}");
    }
}

#[tokio::test]
async fn the_doctor_sees_redis_come_and_go() {
    let folder = Folder::create();
    let mut redis = Redis::start().await;
    let url = redis.url.clone();
    let data = folder.path().display().to_string();
    let redis_line = || {
        let output = tallyhouse(&["doctor"], &[("REDIS_URL", &url), ("TALLYHOUSE_DATA", &data)]);
        stdout(&output).lines().find(|line| line.contains("redis")).map(str::to_owned).unwrap()
    };
    assert!(redis_line().starts_with("ok"), "{}", redis_line());
    redis.kill().await;
    assert!(redis_line().starts_with("FAIL"), "{}", redis_line());
}

#[test]
fn the_store_refuses_a_clickhouse_of_somebody_else() {
    let output = tallyhouse(&["store"], &[("CLICKHOUSE_URL", "http://127.0.0.1:1")]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("CLICKHOUSE_URL: must not be set"), "{output:?}");
}

/// A process that is killed, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn the_store_syncs_what_it_is_told_to_sync() {
    let (folder, [http, tcp]) = (Folder::create(), support::free_ports());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.arg("store").env("TALLYHOUSE_DEV", "1").env("CLICKHOUSE_FSYNC", "on").stderr(Stdio::null());
    command.env("TALLYHOUSE_DATA", folder.path());
    command.env("CLICKHOUSE_HTTP_PORT", http.to_string()).env("CLICKHOUSE_TCP_PORT", tcp.to_string());
    let _store = Running(command.spawn().unwrap());
    let url = format!("http://127.0.0.1:{http}");
    let writer = Connection { url, user: "writer".to_owned(), password: "dev".to_owned() };
    eventually("parts are synced", async || matches!(durability::status(&writer).await, Ok(Fsync::On))).await;
}
