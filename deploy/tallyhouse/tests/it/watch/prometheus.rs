//! A real Prometheus with the shipped configuration, on other ports and in more of a hurry.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tallyhouse_loadtest::daemon::{Daemon, Launch, log_tail};
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::{Endpoint, escape};
use tallyhouse_testkit::{Folder, eventually, free_ports};

use super::files::{below, deploy, read};

pub struct Prometheus {
    _daemon: Daemon,
    api: Endpoint,
    folder: Folder,
}

impl Prometheus {
    /// Scrapes the system, and has done so when it returns.
    pub async fn watching(system: &System) -> Self {
        let folder = Folder::create();
        let [port] = free_ports();
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, hurried(&shipped(system))).unwrap();
        for rules in below("prometheus", ".rules.yml") {
            std::fs::write(folder.path().join(rules.file_name().unwrap()), hurried(&read(&rules))).unwrap();
        }
        let argument = |name: &str, value: String| format!("--{name}={value}").into();
        let launch = Launch {
            name: "Prometheus".to_owned(),
            program: "prometheus".into(),
            arguments: vec![
                argument("config.file", path(&config)),
                argument("storage.tsdb.path", path(&folder.path().join("data"))),
                argument("web.listen-address", format!("127.0.0.1:{port}")),
            ],
            env: vec![],
            without: vec![],
            log: folder.path().join("prometheus.log"),
        };
        let daemon = Daemon::start(&launch)
            .unwrap_or_else(|error| panic!("{error}: `deploy/tallyhouse/setup.sh --tests` installs what tests need"));
        let api = Endpoint::new(&format!("http://127.0.0.1:{port}"), Duration::from_secs(10)).unwrap();
        let prometheus = Self { _daemon: daemon, api, folder };
        eventually("both services are scraped twice", async || {
            prometheus
                .values("min(count_over_time(up[1m])) >= 2 and count(up == 1) == 2")
                .await
                .is_ok_and(|it| !it.is_empty())
        })
        .await;
        prometheus
    }

    /// What the API says about this path.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        let log = || log_tail(&self.folder.path().join("prometheus.log"));
        let reply = self.api.get(path).await.map_err(|error| format!("{error}\n{}", log()))?;
        let answer: Value =
            serde_json::from_slice(&reply.body).map_err(|error| format!("{error}: {}", reply.excerpt()))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// The series that an expression gives now.
    pub async fn values(&self, expression: &str) -> Result<Vec<Value>, String> {
        let data = self.get(&format!("/api/v1/query?query={}", escape(expression))).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

fn shipped(system: &System) -> String {
    let ports = system.ports();
    let config = read(deploy("prometheus/prometheus.yml"));
    let config = config.replace(":9081", &format!(":{}", ports.ingest_admin));
    config.replace(":9082", &format!(":{}", ports.query_admin))
}

/// Everything each second.
fn hurried(text: &str) -> String {
    ["scrape_interval: 15s", "evaluation_interval: 15s", "scrape_timeout: 10s", "interval: 30s"].iter().fold(
        text.to_owned(),
        |text, setting| {
            let (name, _) = setting.split_once(": ").unwrap();
            text.replace(setting, &format!("{name}: 1s"))
        },
    )
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
