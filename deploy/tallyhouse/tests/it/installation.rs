//! `tallyhouse up` in a process of its own, which can be killed and started again, and commands on its data folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tallyhouse::credentials::Credentials;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{ask, eventually, free_ports};

/// `tallyhouse up` on a data folder, which can be killed and started again.
pub struct Installation {
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
    pub fn on(data: &Path) -> Self {
        Self { process: None, ports: free_ports(), data: data.to_owned(), more: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let names = ["INGEST_ADDR", "INGEST_ADMIN_ADDR", "QUERY_ADDR", "QUERY_ADMIN_ADDR"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.args(arguments).env("TALLYHOUSE_DEV", "1").env("TALLYHOUSE_DATA", &self.data);
        command.envs(names.iter().zip(self.ports).map(|(name, port)| (*name, format!("127.0.0.1:{port}"))));
        command.env("CLICKHOUSE_HTTP_PORT", self.ports[4].to_string());
        command.envs(self.more.iter().map(|(name, value)| (name, value)));
        command
    }

    pub async fn start(&mut self) {
        let mut command = self.command(&["up"]);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let ready = async |port: u16| {
            let health = Endpoint::new(&format!("http://127.0.0.1:{port}/"), Duration::from_secs(5)).unwrap();
            health.get("/health/ready").await.is_ok_and(|reply| reply.status == 200)
        };
        // The query API is when ClickHouse has answered.
        let are_ready = async || ready(self.ports[1]).await && ready(self.ports[3]).await;
        eventually("both services are ready", are_ready).await;
    }

    /// The embedded ClickHouse alone, for others that are given it.
    pub fn start_store(&mut self) {
        let mut command = self.command(&["store"]);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that succeeds.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that fails.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Sends events of these numbers, each with an id of its own, and returns when they are acknowledged.
    pub async fn send(&self, numbers: std::ops::Range<u32>, wait: &str) {
        let url = format!("http://127.0.0.1:{}/v1/events{wait}", self.ports[0]);
        let events = Endpoint::new(&url, Duration::from_secs(20)).unwrap().api_key("demo-ingest-key").unwrap();
        let event =
            |n| format!(r#"{{"eventType":"purchase","eventId":"e{n}","userId":"u{n}","properties":{{"value":{n}}}}}"#);
        let all: Vec<String> = numbers.map(event).collect();
        for batch in all.chunks(500) {
            let reply = events.post(Bytes::from(format!("[{}]", batch.join(",")))).await.unwrap();
            assert!(reply.status.is_success(), "{}", reply.excerpt());
        }
    }

    pub fn clickhouse_port(&self) -> u16 {
        self.ports[4]
    }

    /// Of the user `writer`, once there is one.
    pub fn password(&self) -> Option<String> {
        let (known, _) = Credentials::load(&self.data).ok()??;
        Some(known.writer.expose().to_owned())
    }

    pub fn writer(&self) -> Connection {
        let url = format!("http://127.0.0.1:{}", self.ports[4]);
        Connection { url, user: "writer".to_owned(), password: self.password().unwrap(), tls: None }
    }

    /// Events in raw, different ones, and those that the hourly rollup counts.
    pub async fn counts(&self) -> [String; 3] {
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

    pub async fn counts_each_once(&self, events: u32) {
        let expected = [events; 3].map(|count| count.to_string());
        let mut found = self.counts().await;
        let counted = async {
            while found != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
                found = self.counts().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), counted).await;
        assert!(waited.is_ok(), "each of {events} events is counted once: {found:?}");
        let verified = self.run(&["rollups", "verify"]);
        assert!(verified.status.success(), "{verified:?}");
    }
}
