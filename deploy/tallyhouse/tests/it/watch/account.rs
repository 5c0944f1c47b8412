//! An account of `tallyhouse users create --for grafana`, and questions as it: over HTTP from here, over both protocols by the driver of Grafana's
//! datasource.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::skipped;

use super::files::repository;

pub struct Account {
    name: String,
    password: String,
    http: String,
    native: String,
}

/// What is asked, and by which panel.
pub struct Question {
    pub name: String,
    pub sql: String,
}

impl Account {
    pub fn create(system: &System, native_port: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.args(["users", "create", "--project", "demo", "--for", "grafana", "--name", "panels", "--json"]);
        command.env("TALLYHOUSE_DEV", "1").env("TALLYHOUSE_DATA", system.data());
        command.env("CLICKHOUSE_HTTP_PORT", system.ports().clickhouse_http.to_string());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        let native = format!("127.0.0.1:{native_port}");
        Self { name: text("account"), password: text("password"), http: text("http"), native }
    }

    /// The rows of an answer, with the settings that the datasource's driver sends.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Value>, String> {
        let endpoint = Endpoint::new(&self.http, Duration::from_secs(30))
            .and_then(|it| it.header("x-clickhouse-user".parse().unwrap(), &self.name))
            .and_then(|it| it.header("x-clickhouse-key".parse().unwrap(), &self.password))
            .map_err(|error| error.to_string())?;
        let settings = "default_format=JSON&max_execution_time=65&database=tallyhouse_views";
        let reply = endpoint.post_with(settings, sql.to_owned().into()).await.map_err(|error| error.to_string())?;
        if !reply.status.is_success() {
            return Err(reply.excerpt());
        }
        let answer: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        Ok(answer["data"].as_array().cloned().unwrap_or_default())
    }

    /// The same by the driver, over ClickHouse's own protocol and over HTTP: each answer has rows.
    pub fn asked_by_the_driver(&self, test: &str, questions: &[Question]) {
        let program = repository().join(".setup/panels");
        if !program.exists() {
            return skipped(
                test,
                "in part: Go is not there, which builds what asks as Grafana's datasource does (deploy/tallyhouse/tests/clients/panels)",
            );
        }
        let http = self.http.trim_start_matches("http://").trim_end_matches('/');
        for (protocol, address) in [("native", self.native.as_str()), ("http", http)] {
            let answered = self.drive(&program, protocol, address, questions);
            let rows: Vec<(&str, u64)> = answered
                .lines()
                .filter_map(|line| line.split_once('\t'))
                .map(|(name, rows)| (name, rows.parse().unwrap()))
                .collect();
            assert_eq!(rows.len(), questions.len(), "{protocol}: {answered}");
            assert!(rows.iter().all(|(_, rows)| *rows > 0), "{protocol}: {rows:?}");
        }
    }

    fn drive(&self, program: &Path, protocol: &str, address: &str, questions: &[Question]) -> String {
        let mut command = Command::new(program);
        command.env("PROTOCOL", protocol).env("ADDRESS", address);
        command.env("ACCOUNT", &self.name).env("PASSWORD", &self.password);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines: String = questions
            .iter()
            .map(|asked| format!("{}\n", serde_json::json!({"name": asked.name, "sql": asked.sql})))
            .collect();
        // All of it is smaller than what a pipe holds, or is read while it is written.
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{protocol}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}
