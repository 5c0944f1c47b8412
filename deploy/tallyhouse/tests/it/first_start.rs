//! Outside development: start, make a key, send an event, read it, revoke the key.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::{Folder, eventually, free_ports};

const EVENT: &str = r#"{"eventId":"order-1","eventType":"purchase","userId":"u-7","properties":{"amount":12.5}}"#;

/// A running `tallyhouse up` that is no development system.
pub(crate) struct Up {
    process: Child,
    env: Vec<(String, String)>,
    pub(crate) ports: [u16; 5],
    folder: Folder,
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Up {
    pub(crate) async fn start() -> Self {
        let (folder, ports) = (Folder::create(), free_ports());
        let names = ["INGEST_ADDR", "INGEST_ADMIN_ADDR", "QUERY_ADDR", "QUERY_ADMIN_ADDR"];
        let mut env: Vec<(String, String)> =
            names.iter().zip(ports).map(|(name, port)| ((*name).to_owned(), format!("127.0.0.1:{port}"))).collect();
        env.push(("CLICKHOUSE_HTTP_PORT".to_owned(), ports[4].to_string()));
        env.push(("TALLYHOUSE_DATA".to_owned(), folder.path().join("data").display().to_string()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.arg("up").envs(env.iter().cloned()).env_remove("TALLYHOUSE_DEV");
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = Self { process, env, ports, folder };
        eventually("both services are ready", async || {
            let ready = async |port: u16| {
                let health = Endpoint::new(&format!("http://127.0.0.1:{port}/"), Duration::from_secs(5)).unwrap();
                health.get("/health/ready").await.is_ok_and(|reply| reply.status == 200)
            };
            ready(up.ports[1]).await && ready(up.ports[3]).await
        })
        .await;
        up
    }

    fn credentials(&self) -> String {
        fs::read_to_string(self.folder.path().join("data").join("credentials")).unwrap()
    }

    /// A command in the same folder; its output as JSON.
    fn run(&self, arguments: &[&str], more: &[(&str, &str)]) -> Result<Value, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.args(arguments).arg("--json").envs(self.env.iter().cloned()).envs(more.iter().copied());
        let output = command.env_remove("TALLYHOUSE_DEV").output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn endpoint(&self, port: usize, path: &str, key: &str) -> Endpoint {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[port]);
        Endpoint::new(&url, Duration::from_secs(20)).unwrap().api_key(key).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_real_event_is_sent_and_read_and_a_revoked_key_is_refused() {
    let up = Up::start().await;
    let path = up.folder.path().join("data").join("credentials");
    eventually("the operator's key is there", async || up.credentials().contains("OPERATOR_KEY=")).await;
    let credentials = up.credentials();
    let operator = credentials.lines().find_map(|line| line.strip_prefix("OPERATOR_KEY=")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(operator.starts_with("th_adm_"));

    let made = up.run(&["keys", "create", "--project", "main", "--scope", "ingest"], &[]).unwrap();
    let fields: Vec<&String> = made.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["expires", "id", "key", "project", "scopes"]);
    let (ingest, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(ingest.starts_with("th_ing_") && made["scopes"] == serde_json::json!(["ingest"]), "{made}");
    // At its first use, by processes that have not heard of it.
    let events = up.endpoint(0, "/v1/events", ingest);
    let sent = events.post_with("wait=stored", EVENT.into()).await.unwrap();
    assert_eq!(sent.status, 200, "{}", sent.excerpt());

    let reading = up.run(&["keys", "create", "--project", "main", "--scope", "query"], &[]).unwrap();
    let query = up.endpoint(2, "/", reading["key"].as_str().unwrap());
    let answer = query.get("/v1/metrics/revenue?granularity=hour").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.excerpt());
    assert!(String::from_utf8_lossy(&answer.body).contains("12.5"), "{}", answer.excerpt());

    up.run(&["keys", "revoke", id], &[]).unwrap();
    let revoked = Instant::now();
    eventually("it is refused", async || events.post(EVENT.into()).await.unwrap().status == 401).await;
    assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());

    let listed = up.run(&["keys", "list", "--project", "main"], &[]).unwrap();
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["active", "revoked"]);
    let log = up.run(&["audit", "list"], &[]).unwrap().to_string();
    assert!(log.contains("keys.create") && log.contains("keys.revoke") && log.contains(id), "{log}");
    for secret in [ingest, operator] {
        assert!(!log.contains(secret) && !listed.to_string().contains(secret));
    }
}
