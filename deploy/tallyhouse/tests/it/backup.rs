//! Backups: made while events arrive, verified, and restored so that nothing is lost that the local log still has, and nothing is counted twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tallyhouse::credentials::Credentials;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{Folder, ask, eventually, free_ports};

/// `tallyhouse up` on a data folder, which can be killed and started again.
struct Installation {
    process: Option<Child>,
    ports: [u16; 5],
    data: PathBuf,
    more: Vec<(String, String)>,
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Installation {
    fn on(data: &Path) -> Self {
        Self { process: None, ports: free_ports(), data: data.to_owned(), more: Vec::new() }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let names = ["INGEST_ADDR", "INGEST_ADMIN_ADDR", "QUERY_ADDR", "QUERY_ADMIN_ADDR"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.args(arguments).env("TALLYHOUSE_DEV", "1").env("TALLYHOUSE_DATA", &self.data);
        command.envs(names.iter().zip(self.ports).map(|(name, port)| (*name, format!("127.0.0.1:{port}"))));
        command.env("CLICKHOUSE_HTTP_PORT", self.ports[4].to_string());
        command.envs(self.more.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn start(&mut self) {
        let mut command = self.command(&["up"]);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let url = format!("http://127.0.0.1:{}/", self.ports[1]);
        let health = Endpoint::new(&url, Duration::from_secs(5)).unwrap();
        eventually("it is ready", async || health.get("/health/ready").await.is_ok_and(|reply| reply.status == 200))
            .await;
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that succeeds.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that fails.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Sends events of these numbers, each with an id of its own, and returns when they are acknowledged.
    async fn send(&self, numbers: std::ops::Range<u32>, wait: &str) {
        let url = format!("http://127.0.0.1:{}/v1/events{wait}", self.ports[0]);
        let events = Endpoint::new(&url, Duration::from_secs(20)).unwrap().api_key("demo-ingest-key").unwrap();
        let event =
            |n| format!(r#"{{"eventType":"purchase","eventId":"e{n}","userId":"u{n}","properties":{{"value":{n}}}}}"#);
        let lines: Vec<String> = numbers.map(event).collect();
        let reply = events.post(Bytes::from(format!("[{}]", lines.join(",")))).await.unwrap();
        assert!(reply.status.is_success(), "{}", reply.excerpt());
    }

    fn writer(&self) -> Connection {
        let (known, _) = Credentials::load(&self.data).unwrap().unwrap();
        let url = format!("http://127.0.0.1:{}", self.ports[4]);
        Connection { url, user: "writer".to_owned(), password: known.writer.expose().to_owned(), tls: None }
    }

    /// Events in raw, different ones, and those that the hourly rollup counts.
    async fn counts(&self) -> [String; 3] {
        let writer = self.writer();
        let mut counts = [const { String::new() }; 3];
        let raw = "FROM tallyhouse.events";
        let asked = [
            format!("SELECT count() {raw} FINAL"),
            format!("SELECT uniqExact(event_id) {raw}"),
            "SELECT sum(events) FROM tallyhouse.rollup_1h WHERE dim_set = '' AND event_type = 'purchase'".to_owned(),
        ];
        for (count, sql) in counts.iter_mut().zip(asked) {
            *count = ask(&writer, &sql).await.unwrap_or_else(|error| error);
        }
        counts
    }

    async fn counts_each_once(&self, events: u32) {
        let expected = [events; 3].map(|count| count.to_string());
        let mut found = self.counts().await;
        eventually(&format!("each of {events} events is counted once: {found:?}"), async || {
            found = self.counts().await;
            found == expected
        })
        .await;
        let verified = self.run(&["rollups", "verify"]);
        assert!(verified.status.success(), "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_back_what_was_acknowledged_and_counts_nothing_twice() {
    let folder = Folder::create();
    let data = folder.path().join("data");
    let mut installation = Installation::on(&data);
    installation.start().await;
    installation.send(0..100, "?wait=stored").await;
    installation.done(&["backup", "create"]);
    // Some may not be stored when the backup begins: they are in the log's copy, and may be in the tables as well.
    installation.send(100..200, "").await;
    let made = installation.done(&["backup", "create", "--incremental"]);
    assert!(made.contains("-incremental") && made.contains("goes with"), "{made}");
    installation.send(200..300, "").await;
    let refused = installation.refused(&["backup", "restore", "--replace", "--yes-replace"]);
    assert!(refused.contains("is in use by another Tallyhouse"), "{refused}");
    installation.kill();

    let refused = installation.refused(&["backup", "restore"]);
    assert!(refused.contains("say so twice"), "{refused}");
    installation.refused(&["backup", "restore", "--replace"]);
    // ClickHouse's files are gone, the log is not: nothing is lost.
    fs::remove_dir_all(data.join("clickhouse")).unwrap();
    installation.done(&["backup", "restore", "--replace", "--yes-replace"]);
    installation.start().await;
    installation.counts_each_once(300).await;
    installation.send(0..300, "?wait=stored").await;
    installation.counts_each_once(300).await;
    installation.kill();

    // The whole folder is gone: what came after the backup is, too, until clients send it again.
    let backups = folder.path().join("backups");
    fs::rename(data.join("backups"), &backups).unwrap();
    fs::remove_dir_all(&data).unwrap();
    let mut installation = Installation::on(&data).with("BACKUP_DIR", &backups.display().to_string());
    installation.done(&["backup", "restore"]);
    installation.start().await;
    installation.counts_each_once(200).await;
    installation.send(0..300, "?wait=stored").await;
    installation.counts_each_once(300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_cut_short_and_a_target_that_is_not_there_are_named() {
    let folder = Folder::create();
    let target = folder.path().join("target");
    let installation =
        Installation::on(&folder.path().join("data")).with("BACKUP_TARGET", &target.display().to_string());
    let refused = installation.refused(&["backup", "create"]);
    assert!(refused.contains("BACKUP_TARGET") && refused.contains("is not there"), "{refused}");
    fs::create_dir(&target).unwrap();
    let refused = installation.refused(&["backup", "restore"]);
    assert!(refused.contains("there is no backup"), "{refused}");

    // With nothing that runs.
    installation.done(&["migrate", "up"]);
    let made = installation.done(&["backup", "create"]);
    let name = made.split_whitespace().next().unwrap();
    assert!(installation.done(&["backup", "verify"]).contains("is whole"));
    assert!(installation.done(&["backup", "list"]).contains(name));
    let credentials = target.join(name).join("credentials");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&credentials).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let cut = target.join("clickhouse").join(name).join(".backup");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let verified = installation.run(&["backup", "verify", name]);
    let printed = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(!verified.status.success() && printed.contains(".backup has"), "{verified:?}");
    let refused = installation.refused(&["backup", "restore", name, "--replace", "--yes-replace"]);
    assert!(refused.contains("is damaged"), "{refused}");
    fs::write(&cut, &bytes).unwrap();
    fs::remove_file(credentials).unwrap();
    assert!(installation.run(&["backup", "verify", name]).stdout.ends_with(b"credentials is missing\n"));
    assert!(installation.refused(&["backup", "verify", "../data"]).contains("there is no backup ../data"));
}
