//! The commands besides `up`.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};

use tallyhouse::credentials::Credentials;
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
async fn migrations_of_a_clickhouse_that_is_too_old_or_has_no_users_say_what_to_do() {
    let refused = |url: &str, user: &str, password: &str| {
        let env = [("CLICKHOUSE_URL", url), ("CLICKHOUSE_USER", user), ("CLICKHOUSE_PASSWORD", password)];
        let output = tallyhouse(&["migrate", "up"], &env);
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let engine = support::engine().await;
    let nobody = refused(engine.http_url(), "nobody", "hunter2-hunter2");
    assert!(nobody.contains("`nobody`") && nobody.contains("sql/access/services.sql"), "{nobody}");
    assert!(!nobody.contains("hunter2"), "{nobody}");

    // One that answers every question with its version.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 4096]));
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n25.8.4.1301\n";
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let old = refused(&url, "writer", "dev");
    assert!(
        old.contains("is ClickHouse 25.8.4.1301") && old.contains("26.3 is the oldest") && old.contains("upgrade it"),
        "{old}"
    );
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
    assert!(redis_line().starts_with("failed"), "{}", redis_line());
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
    let data = folder.path();
    let password = async || Credentials::load(data).ok().flatten().map(|(known, _)| known.writer.expose().to_owned());
    eventually("there are credentials", async || password().await.is_some()).await;
    let writer = Connection { url, user: "writer".to_owned(), password: password().await.unwrap(), tls: None };
    assert_ne!(writer.password, "dev");
    eventually("parts are synced", async || matches!(durability::status(&writer).await, Ok(Fsync::On))).await;
}

/// The lines of `tallyhouse doctor` that begin with a word.
fn doctor(env: &[(&str, &str)], word: &str) -> (bool, Vec<String>) {
    let output = tallyhouse(&["doctor"], env);
    let lines = stdout(&output).lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect();
    (output.status.success(), lines)
}

#[tokio::test]
async fn the_doctor_finds_nothing_wrong_and_leaves_nothing_behind() {
    let folder = Folder::create();
    let data = folder.path().join("data").display().to_string();
    let ports = support::free_ports::<6>().map(|port| port.to_string());
    let address = |port: &str| format!("127.0.0.1:{port}");
    let [http, tcp, ingest, ingest_admin, query, query_admin] = &ports;
    let addresses = [ingest, ingest_admin, query, query_admin].map(|port| address(port));
    let env = [
        ("TALLYHOUSE_DATA", data.as_str()),
        ("TALLYHOUSE_DEV", "1"),
        ("CLICKHOUSE_HTTP_PORT", http),
        ("CLICKHOUSE_TCP_PORT", tcp),
        ("INGEST_ADDR", &addresses[0]),
        ("INGEST_ADMIN_ADDR", &addresses[1]),
        ("QUERY_ADDR", &addresses[2]),
        ("QUERY_ADMIN_ADDR", &addresses[3]),
    ];
    assert_eq!(doctor(&env, "failed"), (true, Vec::new()));
    assert!(!folder.path().join("data").exists());
    let twice = [&env[..], &[("QUERY_ADDR", addresses[0].as_str())]].concat();
    let (is_fine, failed) = doctor(&twice, "failed");
    assert!(!is_fine && failed.iter().any(|line| line.contains("QUERY_ADDR: ")), "{failed:?}");
}

#[tokio::test]
async fn the_doctor_asks_a_given_clickhouse_for_rights_and_tables() {
    let engine = support::engine().await;
    let lines = |user: &str, password: &str| {
        let env = [
            ("CLICKHOUSE_URL", engine.http_url()),
            ("CLICKHOUSE_USER", user),
            ("CLICKHOUSE_PASSWORD", password),
            ("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f"),
        ];
        stdout(&tallyhouse(&["doctor"], &env))
    };
    let writer = lines("writer", "dev");
    assert!(writer.contains("user `writer` has all it needs") && writer.contains("ok       clickhouse"), "{writer}");
    let reader = lines("reader", "dev");
    assert!(reader.contains("user `reader` lacks SELECT, INSERT"), "{reader}");
    let nobody = lines("nobody", "hunter2");
    assert!(nobody.contains("failed   clickhouse") && !nobody.contains("hunter2"), "{nobody}");
}

#[tokio::test]
async fn the_doctor_asks_kafka_for_the_topic() {
    let Some(bootstrap) = support::kafka_or_skip("the_doctor_asks_kafka_for_the_topic").await else { return };
    let (_, lines) = doctor(&[("KAFKA_BROKERS", &bootstrap), ("KAFKA_TOPIC", "never-made")], "ok");
    assert!(lines.iter().any(|line| line.contains("1 brokers answer")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("never-made will be made with 4 partitions")), "{lines:?}");
    let copies = [("KAFKA_BROKERS", bootstrap.as_str()), ("KAFKA_TOPIC", "never-made"), ("KAFKA_REPLICATION", "3")];
    let (is_fine, failed) = doctor(&copies, "failed");
    assert!(!is_fine && failed.iter().any(|line| line.contains("KAFKA_REPLICATION")), "{failed:?}");
}

#[test]
fn help_and_version_start_nothing() {
    let folder = Folder::create();
    let beside = std::path::Path::new(env!("CARGO_BIN_EXE_tallyhouse"));
    for (program, arguments, name) in [
        ("tallyhouse", vec!["up", "--help"], "QUERY_CACHE_BYTES"),
        ("tallyhouse", vec!["--version"], env!("CARGO_PKG_VERSION")),
        ("ingest", vec!["--help"], "INGEST_BATCH_ROWS"),
        ("ingest", vec!["--version"], env!("CARGO_PKG_VERSION")),
        ("query-api", vec!["--help"], "QUERY_CACHE_BYTES"),
        ("query-api", vec!["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let mut command = Command::new(beside.with_file_name(program));
        let secret = ("REDIS_URL", "redis://:hunter2@127.0.0.1:1");
        let output = command.args(&arguments).envs([secret]).current_dir(folder.path()).output().unwrap();
        let printed = stdout(&output);
        assert!(output.status.success() && printed.contains(name), "{program} {arguments:?}: {printed}");
        assert!(!printed.contains("hunter2") && std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}

#[test]
fn what_cannot_be_used_or_means_nothing_is_reported_with_its_name() {
    let beside = std::path::Path::new(env!("CARGO_BIN_EXE_tallyhouse"));
    let ingest = |arguments: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(beside.with_file_name("ingest"));
        let output = command.args(arguments).envs(env.iter().copied()).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let last_words = |printed: &str| {
        let last: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        assert_eq!((last["level"].as_str(), last["service"].as_str()), (Some("ERROR"), Some("ingest")), "{printed}");
        last["fields"]["error"].as_str().unwrap().to_owned()
    };
    let error = last_words(&ingest(&[], &[("INGEST_BATCH_ROWS", "1000000")]));
    assert!(error.starts_with("INGEST_BATCH_ROWS: 1000000 is not within 1 to 131072"), "{error}");
    let error = last_words(&ingest(&["--ingest-pace-ms", "701"], &[]));
    assert!(error.starts_with("INGEST_PACE_MS: 701 is more than INGEST_PACE_MOST_MS, which is 700"), "{error}");
    let error = last_words(&ingest(&[], &[("TALLYHOUSE_LOG", "warning")]));
    assert!(error.starts_with("TALLYHOUSE_LOG: `warning` is not a level; say `warn`"), "{error}");
    let error = ingest(&[], &[("INGEST_BATCH_ROW", "1"), ("KAFKA_HOME", "/opt"), ("QUERY_CACHE_WARM", "off")]);
    let warnings = error.lines().filter(|line| line.contains("is not a variable of Tallyhouse")).collect::<Vec<_>>();
    assert_eq!(warnings.len(), 1, "{error}");
    let first: serde_json::Value = serde_json::from_str(error.lines().next().unwrap()).unwrap();
    let told = [&first["message"], &first["fields"]["version"], &first["fields"]["mode"]].map(|said| said.as_str());
    assert_eq!(told, [Some("starting"), Some(env!("CARGO_PKG_VERSION")), Some("direct")], "{error}");
    assert!(warnings[0].contains("INGEST_BATCH_ROW is not") && warnings[0].contains("did you mean INGEST_BATCH_ROWS?"));
}
