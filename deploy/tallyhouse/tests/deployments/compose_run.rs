//! Everything that compose.yaml starts and this machine has, without containers: the same commands, variables, users and configuration
//! files. Only names of hosts become loopback, ports become free ones, and volumes become folders.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hyper::header::HOST;
use rustix::process::Signal;
use serde_json::Value as Json;
use tallyhouse::config::Config;
use tallyhouse::engine::Program as EngineProgram;
use tallyhouse_loadtest::daemon::{Daemon, Launch, log_tail};
use tallyhouse_service::env::ProcessEnv;
use tallyhouse_service::http_client::{Endpoint, escape};
use tallyhouse_testkit::{Folder, eventually, free_ports, is_kafka_off, programs};
use tokio::net::TcpStream;

use crate::compose_file::{Compose, Service, folder, made_env};
use crate::programs::Program;
use crate::tools::skip;

const EVENT: &str = r#"{"eventId":"order-1","eventType":"purchase","userId":"u-7","properties":{"amount":12.5}}"#;

/// What a name and a port of the file are here.
pub struct Addresses {
    of_all: Vec<(String, String)>,
    own: BTreeMap<(&'static str, u16), u16>,
}

impl Addresses {
    fn choose() -> Self {
        let [clickhouse, native, kafka, controller, redis] = free_ports();
        let [events, gateway, consumed, consumer, queries, query] = free_ports();
        let of_all = [
            ("clickhouse:8123", clickhouse),
            ("clickhouse:9000", native),
            ("kafka:9092", kafka),
            ("kafka:9093", controller),
            ("PLAINTEXT://:9092", kafka),
            ("CONTROLLER://:9093", controller),
            ("redis:6379", redis),
            ("gateway:8081", events),
        ];
        let here = |(there, port): (&str, u16)| {
            let scheme = there.strip_suffix(there.rsplit("//").next().unwrap()).unwrap();
            (there.to_owned(), format!("{scheme}127.0.0.1:{port}"))
        };
        let own = [
            (("gateway", 8081), events),
            (("gateway", 9081), gateway),
            (("consumer", 8081), consumed),
            (("consumer", 9081), consumer),
            (("query-api", 8082), queries),
            (("query-api", 9082), query),
        ];
        Self { of_all: of_all.map(here).to_vec(), own: own.into() }
    }

    fn here(&self, text: &str) -> String {
        self.of_all.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    pub fn port(&self, name: &str) -> u16 {
        let found = self.of_all.iter().find(|(there, _)| there == name);
        found.unwrap().1.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn env(&self, service: Service<'_>, data: &Path) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = vec![("TALLYHOUSE_DATA".to_owned(), data.display().to_string())];
        for (name, value) in service.env() {
            let own = self.own.iter().filter(|((of, _), _)| *of == service.name);
            let value = own.fold(self.here(&value), |value, ((_, there), here)| {
                value.replace(&format!("0.0.0.0:{there}"), &format!("127.0.0.1:{here}"))
            });
            env.push((name, value));
        }
        env
    }
}

/// What `tiers.yaml` adds.
pub struct Tiers {
    pub storage: String,
    pub env: Vec<(String, String)>,
}

/// What runs.
pub struct Deployment {
    compose: Compose,
    pub addresses: Addresses,
    variables: BTreeMap<String, String>,
    scratch: Folder,
}

impl Deployment {
    pub fn new() -> Self {
        let scratch = Folder::create();
        let mut variables = made_env(scratch.path());
        // As somebody may say in .env; the first canary is sent within that time.
        variables.insert("CANARY_EVERY_MS".to_owned(), "1000".to_owned());
        Self { compose: Compose::read(&variables), addresses: Addresses::choose(), variables, scratch }
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.scratch.path().join(format!("{name}.log"))
    }

    fn start(
        &self,
        name: &str,
        program: impl Into<PathBuf>,
        arguments: Vec<OsString>,
        env: Vec<(String, String)>,
    ) -> Daemon {
        let launch = Launch {
            name: name.to_owned(),
            program: program.into(),
            arguments,
            env,
            without: vec!["TALLYHOUSE_DEV", "JAVA_TOOL_OPTIONS"],
            log: self.log(name),
        };
        Daemon::start(&launch).unwrap()
    }

    pub fn clickhouse(&self) -> Daemon {
        self.clickhouse_with(None)
    }

    /// ClickHouse with the two folders of settings, beside a config.xml that stands for the image's own.
    pub fn clickhouse_with(&self, tiers: Option<&Tiers>) -> Daemon {
        let (etc, data) = (self.folder("clickhouse-server"), self.folder("clickhouse"));
        let service = self.compose.service("clickhouse");
        for (source, target) in service.volumes() {
            let Some(place) = target.strip_prefix("/etc/clickhouse-server/") else { continue };
            fs::create_dir_all(etc.join(place).parent().unwrap()).unwrap();
            fs::copy(folder().join(source), etc.join(place)).unwrap();
        }
        let data = data.display();
        let (http, native) = (self.addresses.port("clickhouse:8123"), self.addresses.port("clickhouse:9000"));
        let config = format!(
            "<clickhouse><path>{data}/</path><tmp_path>{data}/tmp/</tmp_path><listen_host>127.0.0.1</listen_host>\
             <http_port>{http}</http_port><tcp_port>{native}</tcp_port><mysql_port>9004</mysql_port>\
             <users_config>users.xml</users_config><default_profile>default</default_profile>\
             <user_directories><users_xml><path>users.xml</path></users_xml></user_directories></clickhouse>"
        );
        fs::write(etc.join("config.xml"), config).unwrap();
        let users = "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password></password>\
            <networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></default></users></clickhouse>";
        fs::write(etc.join("users.xml"), users).unwrap();
        let mut env: Vec<_> = service.env().into_iter().collect();
        if let Some(tiers) = tiers {
            fs::write(etc.join("config.d/storage.xml"), &tiers.storage).unwrap();
            env.extend(tiers.env.clone());
        }
        let engine = Config::from_env(&ProcessEnv).unwrap().engine.unwrap().program().unwrap();
        let engine = match engine {
            EngineProgram::Server(path) => format!("--server {}", path.display()),
            EngineProgram::Library(path) => {
                // The library runs its endless query as a user of this name.
                let user = "<clickhouse><users><default><no_password/><networks><ip>127.0.0.1</ip></networks>\
                    <profile>default</profile><quota>default</quota></default></users></clickhouse>";
                fs::write(etc.join("users.d/zz-library.xml"), user).unwrap();
                format!("--library {}", path.display())
            }
        };
        let program = programs::tallyhouse();
        let config = etc.join("config.xml");
        let line = format!(
            "exec {} engine --uncaged --parent $PPID --config {} {engine}",
            program.display(),
            config.display()
        );
        // A terminal: see `deploy/tallyhouse/src/engine/pty.rs`.
        let arguments = ["--quiet", "--flush", "--return", "--command", &line, "/dev/null"];
        self.start("clickhouse", "script", arguments.map(Into::into).into(), env)
    }

    fn redis(&self) -> Daemon {
        let service = self.compose.service("redis");
        let [(source, target)] = service.volumes().try_into().unwrap();
        let port = self.addresses.port("redis:6379");
        let settings = fs::read_to_string(folder().join(source)).unwrap();
        let settings = settings.replace("port 6379", &format!("port {port}")).replace("bind * -::*", "bind 127.0.0.1");
        let path = self.folder("redis").join("redis.conf");
        fs::write(&path, settings + &format!("dir {}\n", self.folder("redis").display())).unwrap();
        let mut words = service.command().into_iter();
        let program = words.next().unwrap();
        let arguments = words.map(|word| word.replace(target, path.to_str().unwrap()).into()).collect();
        self.start("redis", program, arguments, service.env().into_iter().collect())
    }

    /// Formats its folder, as the image does at its first start, and starts.
    fn kafka(&self) -> Daemon {
        let service = self.compose.service("kafka");
        let mut properties = String::new();
        for (source, target) in service.volumes() {
            if target.ends_with("/server.properties") {
                properties = fs::read_to_string(folder().join(source)).unwrap();
            }
        }
        let data = self.folder("kafka").join("data");
        let properties = self.addresses.here(&properties).replace("/var/lib/kafka/data", data.to_str().unwrap());
        let path = self.folder("kafka").join("server.properties");
        fs::write(&path, properties).unwrap();
        let jars = crate::tools::root().join(".setup/kafka/libs/*");
        let java = format!("java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '{}'", jars.display());
        let config = path.display();
        let line = format!(
            "{java} kafka.tools.StorageTool format --cluster-id 4L6g3nShT-eMCtK--X86sw --config {config} && exec {java} kafka.Kafka {config}"
        );
        self.start("kafka", "sh", ["-c", &line].map(Into::into).into(), Vec::new())
    }

    /// A service of ours, as its image starts it.
    fn service(&self, name: &'static str) -> Daemon {
        let service = self.compose.service(name);
        let env = self.addresses.env(service, &self.folder(name));
        let arguments = service.command().into_iter().map(Into::into).collect();
        self.start(name, self.program(service), arguments, env)
    }

    fn program(&self, service: Service<'_>) -> PathBuf {
        match service.program().unwrap() {
            Program::Ingest => programs::ingest(),
            Program::QueryApi => programs::query_api(),
            Program::Tallyhouse => programs::tallyhouse(),
            Program::Loadtest => panic!("not run here"),
        }
    }

    /// A command that ends: `docker compose run --rm SERVICE …`.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let service = self.compose.service(name);
        let env = self.addresses.env(service, &self.folder(name));
        let mut command = Command::new(self.program(service));
        let words = service.command().into_iter().chain(arguments.iter().map(|&word| word.to_owned()));
        command.args(words).envs(env).env_remove("TALLYHOUSE_DEV").output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Json {
        let output = self.run("tallyhouse", arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the health check of its image says.
    fn is_healthy(&self, name: &str) -> bool {
        self.run(name, &["--health"]).status.success()
    }

    fn endpoint(&self, service: &'static str, port: u16) -> Endpoint {
        let url = format!("http://127.0.0.1:{}/", self.addresses.own[&(service, port)]);
        Endpoint::new(&url, Duration::from_secs(20)).unwrap()
    }

    /// A question to ClickHouse as one of its users.
    pub async fn ask(&self, user: &str, password: &str, sql: &str) -> Result<String, String> {
        self.call(user, password, |login| (hyper::Method::GET, format!("{login}&query={}", escape(sql)), "")).await
    }

    /// A statement that changes something, which takes another method.
    pub async fn change(&self, sql: &str) -> String {
        let done = self.call("writer", "CLICKHOUSE_WRITER_PASSWORD", |login| (hyper::Method::POST, login, sql));
        done.await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn call<'a>(
        &self,
        user: &str,
        password: &str,
        request: impl FnOnce(String) -> (hyper::Method, String, &'a str),
    ) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}/", self.addresses.port("clickhouse:8123"));
        let endpoint = Endpoint::new(&url, Duration::from_secs(20)).unwrap();
        let (method, path, body) = request(format!("/?user={user}&password={}", escape(&self.variables[password])));
        let reply = endpoint.send(method, &path, body.to_owned().into()).await.map_err(|error| error.to_string())?;
        if reply.status == 200 { Ok(reply.excerpt().trim().to_owned()) } else { Err(reply.excerpt()) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_goes_the_way_of_compose_and_is_read() {
    if is_kafka_off() {
        return skip("an_event_goes_the_way_of_compose_and_is_read", "it needs Kafka, and KAFKA_TESTS=off");
    }
    let deployment = Deployment::new();
    let (_kafka, _clickhouse, _redis) = (deployment.kafka(), deployment.clickhouse(), deployment.redis());
    let clickhouse = ("127.0.0.1", deployment.addresses.port("clickhouse:8123"));
    eventually("ClickHouse listens", async || TcpStream::connect(clickhouse).await.is_ok()).await;
    let migrated = deployment.run("migrate", &[]);
    assert!(migrated.status.success(), "{migrated:?}\n{}", log_tail(&deployment.log("clickhouse")));

    deployment.json(&["projects", "create", "main", "--json"]);
    let scopes = ["keys", "create", "--project", "main", "--scope", "ingest", "--scope", "query", "--json"];
    let key = deployment.json(&scopes)["key"].as_str().unwrap().to_owned();
    assert!(!deployment.is_healthy("gateway"), "nothing listens");
    let kafka = ("127.0.0.1", deployment.addresses.port("kafka:9092"));
    eventually("Kafka listens", async || TcpStream::connect(kafka).await.is_ok()).await;
    let names = ["gateway", "consumer", "query-api"];
    let mut services = names.map(|name| (name, deployment.service(name)));
    for name in names {
        eventually(&format!("{name} is healthy"), async || deployment.is_healthy(name)).await;
    }

    let events = deployment.endpoint("gateway", 8081).api_key(&key).unwrap();
    // The consumer may still be joining its group.
    let sent = events.send(hyper::Method::POST, "/v1/events?wait=stored", EVENT.into()).await.unwrap();
    assert_eq!(sent.status, 200, "{}", sent.excerpt());
    let questions = deployment.endpoint("query-api", 8082).api_key(&key).unwrap();
    let answer = questions.get("/v1/metrics/revenue?granularity=day").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.excerpt());
    assert!(String::from_utf8_lossy(&answer.body).contains("12.5"), "{}", answer.excerpt());
    people_see_what_they_should(&deployment).await;
    prometheus_is_let_in(&deployment).await;
    let seen = "tallyhouse_canary_turns_total{outcome=\"seen\"} ";
    eventually("a canary is seen", async || {
        let metrics = metrics(&deployment, "query-api", 9082).await;
        let turns = metrics.lines().find_map(|line| line.strip_prefix(seen)).unwrap();
        turns.parse::<f64>().unwrap() > 0.0
    })
    .await;

    for (_, service) in &mut services {
        service.signal(Signal::TERM).unwrap();
    }
    let signalled = Instant::now();
    for (name, service) in &mut services {
        let deadline = signalled + deployment.compose.service(name).stop_grace_period();
        // Awaited without a second signal, which would cut the delay short.
        eventually(&format!("{name} ends"), async || service.has_ended()).await;
        assert!(Instant::now() < deadline, "{name}: {}", log_tail(&deployment.log(name)));
        let log = fs::read_to_string(deployment.log(name)).unwrap();
        for complaint in ["is not a variable of Tallyhouse", "has no effect", "did not end within", "gave up draining"]
        {
            assert!(!log.contains(complaint), "{name}: {log}");
        }
    }
}

async fn people_see_what_they_should(deployment: &Deployment) {
    let count = "SELECT count() FROM tallyhouse_views.events";
    let (grafana, analyst) = ("CLICKHOUSE_GRAFANA_PASSWORD", "CLICKHOUSE_ANALYST_PASSWORD");
    assert_eq!(deployment.ask("grafana", grafana, count).await.as_deref(), Ok("1"));
    for (user, password, sql) in [
        ("grafana", grafana, "SELECT count() FROM tallyhouse.events"),
        ("analyst", analyst, "SELECT count() FROM tallyhouse_views.events"),
        ("reader", "CLICKHOUSE_READER_PASSWORD", "TRUNCATE TABLE tallyhouse.events"),
        ("writer", "CLICKHOUSE_WRITER_PASSWORD", "CREATE USER somebody"),
        ("writer", grafana, "SELECT 1"),
        ("definer", "CLICKHOUSE_WRITER_PASSWORD", "SELECT 1"),
    ] {
        let answer = deployment.ask(user, password, sql).await;
        assert!(answer.is_err(), "{user}: {sql}: {answer:?}");
    }
    // Without the header of the query API an analyst has no project.
    let none = deployment.ask("analyst", analyst, "SELECT count() FROM tallyhouse.events").await;
    assert_eq!(none.as_deref(), Ok("0"));
    let users = "SELECT arrayStringConcat(arraySort(groupArray(name)), ',') FROM system.users WHERE name != 'default'";
    let admin = deployment.ask("admin", "CLICKHOUSE_ADMIN_PASSWORD", users).await;
    assert_eq!(admin.as_deref(), Ok("admin,analyst,definer,grafana,reader,writer"));
}

async fn prometheus_is_let_in(deployment: &Deployment) {
    let services = [
        ("gateway", 9081, ["kafka", "rate_limits"]),
        ("consumer", 9081, ["kafka", "clickhouse"]),
        ("query-api", 9082, ["redis", "clickhouse"]),
    ];
    for (service, port, needed) in services {
        let refused = deployment.endpoint(service, port).get("/metrics").await.unwrap();
        assert_eq!(refused.status, 401, "{service}");
        let named = deployment.endpoint(service, port).header(HOST, &format!("{service}:{port}")).unwrap();
        let reply = named.bearer(&deployment.variables["ADMIN_TOKEN"]).unwrap().get("/metrics").await.unwrap();
        assert_eq!(reply.status, 200, "{service}: {}", reply.excerpt());
        let health = deployment.endpoint(service, port).bearer(&deployment.variables["ADMIN_TOKEN"]).unwrap();
        let health: Json = serde_json::from_slice(&health.get("/health").await.unwrap().body).unwrap();
        let components = health["components"].as_object().unwrap();
        assert!(needed.iter().all(|name| components.contains_key(*name)), "{service}: {health}");
        for (name, component) in components {
            assert_eq!(component["status"], "up", "{service}: {name}: {health}");
        }
    }
    // Kafka's client tells it every two seconds.
    let lag = "\ntallyhouse_ingest_kafka_consumer_lag{";
    eventually("lag is told", async || metrics(deployment, "consumer", 9081).await.contains(lag)).await;
}

async fn metrics(deployment: &Deployment, service: &'static str, port: u16) -> String {
    let admin = deployment.endpoint(service, port).bearer(&deployment.variables["ADMIN_TOKEN"]).unwrap();
    let reply = admin.get("/metrics").await.unwrap();
    String::from_utf8_lossy(&reply.body).into_owned()
}
