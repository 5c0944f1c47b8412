//! TLS everywhere at once: listeners, admin ports with client certificates, ClickHouse and Redis, and every secret in a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tallyhouse::invalidation::Invalidator;
use tallyhouse_loadtest::daemon::{Daemon, Launch, log_tail};
use tallyhouse_loadtest::redis::Redis;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_service::tls::{ClientTls, OwnCertificate};
use tallyhouse_testkit::secure::{Authority, Files, TlsProxy};
use tallyhouse_testkit::{Folder, eventually, free_ports, programs, shared};

const WITHIN: Duration = Duration::from_secs(10);

/// Both services over TLS. They end with the value.
struct Place {
    folder: Folder,
    env: Vec<(String, String)>,
    /// By their variables.
    ports: [(&'static str, u16); 4],
    server: Files,
    client: Files,
    _proxy: TlsProxy,
    _redis: Redis,
    programs: Vec<Daemon>,
}

impl Place {
    async fn start() -> Self {
        let (folder, authority) = (Folder::create(), Authority::new().unwrap());
        let at = folder.path().to_owned();
        let ca = authority.write(&at).unwrap();
        let [server, client] = ["server", "client"].map(|name| authority.issue(&at, name).unwrap());
        let writer = shared().await.engine.writer();
        let proxy = TlsProxy::start(writer.url.trim_start_matches("http://"), &server).await;
        let (redis, redis_port) = Redis::start_secure(&at, &server, &ca).await.unwrap();
        let [a, b, c, d] = free_ports();
        let ports = [("INGEST_ADDR", a), ("INGEST_ADMIN_ADDR", b), ("QUERY_ADDR", c), ("QUERY_ADMIN_ADDR", d)];
        let path = |path: &Path| path.display().to_string();
        let secret = |name: &str, value: &str| {
            let file = at.join(name);
            std::fs::write(&file, format!("{value}\n")).unwrap();
            (format!("{name}_FILE"), path(&file))
        };
        let mut env: Vec<(String, String)> = [
            ("TALLYHOUSE_DEV", "1".to_owned()),
            ("TALLYHOUSE_DATA", path(&at.join("data"))),
            ("QUERY_CACHE_TTL_MS", "1000".to_owned()),
            ("TLS_CERT", path(&server.certificate)),
            ("TLS_KEY", path(&server.key)),
            ("ADMIN_CLIENT_CA", path(&ca)),
            ("CLICKHOUSE_URL", format!("https://localhost:{}", proxy.address.port())),
            ("CLICKHOUSE_CA", path(&ca)),
            ("CLICKHOUSE_USER", "writer".to_owned()),
            ("REDIS_CA", path(&ca)),
            ("REDIS_CLIENT_CERT", path(&client.certificate)),
            ("REDIS_CLIENT_KEY", path(&client.key)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(ports.map(|(name, port)| (name.to_owned(), format!("127.0.0.1:{port}"))));
        env.extend([
            secret("CLICKHOUSE_PASSWORD", &writer.password),
            secret("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f"),
            secret("REDIS_URL", &format!("rediss://localhost:{redis_port}")),
        ]);
        let programs = vec![];
        let mut place = Self { folder, env, ports, server, client, _proxy: proxy, _redis: redis, programs };
        place.programs = vec![place.run(programs::ingest()), place.run(programs::query_api())];
        place
    }

    fn run(&self, program: PathBuf) -> Daemon {
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        let log = self.log(&name);
        let launch = Launch { name, program, arguments: vec![], env: self.env.clone(), without: vec![], log };
        Daemon::start(&launch).unwrap()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn logs(&self) -> String {
        ["ingest", "query-api"].map(|name| log_tail(&self.log(name))).join("\n\n")
    }

    fn tls(&self, own: bool) -> ClientTls {
        let Files { certificate, key } = self.client.clone();
        let own = own.then_some(OwnCertificate { certificate, key });
        ClientTls::of_own_server(&self.server.certificate, own.as_ref()).unwrap()
    }

    fn url(&self, variable: &str) -> String {
        let (_, port) = self.ports.iter().find(|(name, _)| *name == variable).unwrap();
        format!("https://localhost:{port}")
    }

    async fn health(&self, variable: &str) -> Option<serde_json::Value> {
        let admin = Endpoint::over(&self.tls(true), &self.url(variable), WITHIN).unwrap();
        serde_json::from_slice(&admin.get("/health").await.ok()?.body).ok()
    }
}

#[tokio::test]
async fn events_go_in_and_answers_come_out_over_tls_alone() {
    let place = Place::start().await;
    let up = async |variable: &str| {
        let Some(health) = place.health(variable).await else { return false };
        let is_up = |name: &str| health["components"][name]["status"] == "up";
        health["ready"] == true && ["tls", "redis", "clickhouse"].into_iter().all(is_up)
    };
    for variable in ["INGEST_ADMIN_ADDR", "QUERY_ADMIN_ADDR"] {
        let mut tried = 0;
        while !up(variable).await {
            tried += 1;
            assert!(tried < 150, "{variable}: {:?}\n{}", place.health(variable).await, place.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let stranger = Endpoint::over(&place.tls(false), &place.url(variable), WITHIN).unwrap();
        assert!(stranger.get("/health/live").await.is_err(), "the admin port asks for a certificate");
    }

    let kind = format!("over_tls_{}", free_ports::<1>()[0]);
    let ca = place.folder.path().join("ca.pem");
    let believing = ClientTls::of_authorities(&ca).unwrap();
    let ingest = Endpoint::over(&believing, &format!("{}/v1/events", place.url("INGEST_ADDR")), WITHIN).unwrap();
    let taken =
        ingest.api_key("demo-ingest-key").unwrap().post(format!("{{\"eventType\":\"{kind}\"}}").into()).await.unwrap();
    assert_eq!(taken.status, 202, "{}", taken.excerpt());
    let query =
        Endpoint::over(&believing, &place.url("QUERY_ADDR"), WITHIN).unwrap().api_key("demo-query-key").unwrap();
    let question = format!("/v1/metrics/events?startTime={}&eventType={kind}", now_ms() - 600_000);
    let answer = async || query.get(&question).await.unwrap();
    let first = answer().await;
    assert_eq!(first.status, 200, "{}", first.excerpt());
    assert_eq!(first.headers["strict-transport-security"], "max-age=31536000; includeSubDomains");
    eventually("the event is counted", async || String::from_utf8_lossy(&answer().await.body).contains("\"value\":1"))
        .await;

    // As `tallyhouse rollups rebuild` does when there is no Redis.
    let own = [("ADMIN_CLIENT_CERT", &place.client.certificate), ("ADMIN_CLIENT_KEY", &place.client.key)];
    let mut env: std::collections::BTreeMap<String, String> = place.env.iter().cloned().collect();
    env.retain(|name, _| !name.starts_with("REDIS"));
    env.extend(own.map(|(name, path)| (name.to_owned(), path.display().to_string())));
    let mut invalidator = Invalidator::from_env(&env).unwrap();
    invalidator.invalidate("demo", [20_000]).await;
    assert_eq!(invalidator.finish().await.map(|pending| pending.to_string()), None);
    env.remove("ADMIN_CLIENT_CERT");
    env.remove("ADMIN_CLIENT_KEY");
    let mut without = Invalidator::from_env(&env).unwrap();
    without.invalidate("demo", [20_000]).await;
    assert!(without.finish().await.is_some());
}
