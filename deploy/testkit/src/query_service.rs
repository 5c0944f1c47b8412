//! The query API inside this process, on ports of its own, with a clock that a test can move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tallyhouse_control::config::user_hash_key;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::schemas::Seeds;
use tallyhouse_control::{Control, ControlOptions, ControlStore, FixedKey, FixedKeys, LiveCatalogue};
use tallyhouse_query_api::{Config, Deps, Listeners, RunError, run};
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::rate_limit::LimitsOf;
use tallyhouse_sql::{Connection, Shards};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A variable for tests: how many questions a minute each key may ask.
pub const QUESTIONS: &str = "TEST_QUESTIONS";

/// What a query API is started with besides its projects.
pub struct Settings {
    /// ClickHouse.
    pub shards: Shards,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// What an ingester of the same process wrote.
    pub days: Option<DayVersions>,
    /// ClickHouse as a user that can register metrics.
    pub writer: Option<Connection>,
    /// ClickHouse as the user for analysts' SQL.
    pub analyst: Option<Connection>,
    /// A present that stands still, in milliseconds since the epoch.
    pub now_ms: Option<i64>,
}

impl Settings {
    /// Nothing but ClickHouse.
    pub fn of(shards: impl Into<Shards>) -> Self {
        // What is said beside an answer is waited for, however busy the machine is.
        let env = [("QUERY_LOOK_UP_MS", "20000"), ("RATE_LIMITS", "off")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { shards: shards.into(), env, days: None, writer: None, analyst: None, now_ms: None }
    }

    /// With a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A running query API.
pub struct Service {
    public: String,
    admin: String,
    client: Client<HttpConnector, Full<Bytes>>,
    registry: Registry,
    shifted_ms: Arc<AtomicI64>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    /// The whole answer.
    pub async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The values of a series, in order.
    pub fn values(&self) -> Vec<Value> {
        let points = self.body["data"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        points.iter().map(|point| point["value"].clone()).collect()
    }
}

impl Service {
    /// Starts one for these projects.
    pub async fn start(shards: impl Into<Shards>, projects: &[&str], redis_url: Option<&str>) -> Self {
        let mut settings = Settings::of(shards);
        settings.env.extend(redis_url.map(|url| ("REDIS_URL".to_owned(), url.to_owned())));
        Self::start_with(settings, projects).await
    }

    /// Starts one for these projects. Of each there are the keys with its name (reads, exports, SQL), `admin-…` (the same and administers),
    /// `ingest-…`, and `only-SCOPE-…`; and there is the key `operator`.
    pub async fn start_with(settings: Settings, projects: &[&str]) -> Self {
        let Settings { shards, env, days, writer, analyst, now_ms: still_ms } = settings;
        let mut keys = FixedKeys::default();
        const READING: [Scope; 3] = [Scope::Query, Scope::Export, Scope::Sql];
        for project in projects {
            keys.add(project, FixedKey::new(project, "query", &READING));
            let admin = [&READING[..], &[Scope::Admin]].concat();
            keys.add(&format!("admin-{project}"), FixedKey::new(project, "admin", &admin));
            keys.add(&format!("ingest-{project}"), FixedKey::new(project, "ingest", &[Scope::Ingest]));
            for scope in Scope::ALL {
                let name = format!("only-{}", scope.name());
                keys.add(&format!("{name}-{project}"), FixedKey::new(project, &name, &[scope]));
            }
        }
        keys.add("operator", FixedKey::operator("operator"));
        if let Some(questions) = env.get(QUESTIONS) {
            keys = keys.with_limits(LimitsOf::NONE.with_queries(Some(questions.parse().unwrap())));
        }
        // Where something can be registered, it is also read.
        let control = match &writer {
            None => Control::fixed(keys),
            Some(writer) => Control::open(ControlOptions {
                service: "query",
                data: None,
                store: Some(ControlStore::new(shards.home(), Some(writer))),
                fixed: keys,
                clock: Arc::new(now_ms),
            }),
        };
        let shifted_ms = Arc::new(AtomicI64::new(0));
        let shift = Arc::clone(&shifted_ms);
        let (catalogue, following) =
            (LiveCatalogue::new(control.clone(), Seeds::from_env(&env).unwrap()), control.clone());
        let mut deps = Deps::new(shards, control, catalogue);
        deps.analyst = analyst;
        deps.clock = Arc::new(move || still_ms.unwrap_or_else(now_ms) + shift.load(Ordering::SeqCst));
        deps.days = days;
        deps.writer = writer;
        deps.user_hash_key = user_hash_key(&env).unwrap().map(InstallationKey::new);
        let registry = deps.registry.clone();
        let listeners = Listeners {
            public: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            admin: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let [public, admin] =
            [&listeners.public, &listeners.admin].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        let shutdown = CancellationToken::new();
        tokio::spawn(following.run(shutdown.clone()));
        let running = tokio::spawn(run(Config::from_env(&env).unwrap(), deps, listeners, shutdown.clone()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { public, admin, client, registry, shifted_ms, shutdown, running }
    }

    /// Where it is, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.public
    }

    /// Where its admin port is, `host:port`.
    pub fn admin_address(&self) -> &str {
        self.admin.trim_start_matches("http://")
    }

    /// The service's clock, where it goes on.
    pub fn now_ms(&self) -> i64 {
        now_ms() + self.shifted_ms.load(Ordering::SeqCst)
    }

    /// Moves the service's clock.
    pub fn pass(&self, time: Duration) {
        self.shifted_ms.fetch_add(time.as_millis() as i64, Ordering::SeqCst);
    }

    /// `GET`, as the holder of a project's key.
    pub async fn get(&self, project: &str, path: &str) -> Reply {
        self.get_with(path, &[("x-api-key", project)]).await
    }

    /// `GET` with these headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask(Request::get(format!("{}{path}", self.public)), headers, Bytes::new()).await
    }

    /// `POST` of a document, as the holder of a project's key.
    pub async fn post(&self, project: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        self.ask(Request::post(format!("{}{path}", self.public)), &[("x-api-key", project)], body.into()).await
    }

    /// `DELETE`, as the holder of a project's key.
    pub async fn delete(&self, project: &str, path: &str) -> Reply {
        let request = Request::delete(format!("{}{path}", self.public));
        self.ask(request, &[("x-api-key", project)], Bytes::new()).await
    }

    async fn ask(&self, mut request: Builder, headers: &[(&str, &str)], body: Bytes) -> Reply {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Reply::of(self.send(request.body(Full::new(body)).unwrap()).await).await
    }

    /// `GET` on the admin port.
    pub async fn get_as_operator(&self, path: &str) -> Reply {
        Reply::of(self.send(Request::get(format!("{}{path}", self.admin)).body(Full::default()).unwrap()).await).await
    }

    /// `POST` of a document on the admin port.
    pub async fn post_as_operator(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        let json = [("content-type", "application/json")];
        self.ask(Request::post(format!("{}{path}", self.admin)), &json, body.into()).await
    }

    /// `DELETE` on the admin port.
    pub async fn delete_as_operator(&self, path: &str) -> Reply {
        Reply::of(self.send(Request::delete(format!("{}{path}", self.admin)).body(Full::default()).unwrap()).await)
            .await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.client.request(request).await.unwrap()
    }

    /// Any request; the body of its answer is not read yet.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.public));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::from(body)).unwrap()).await
    }

    /// `GET` with these headers, the body not read yet.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = Request::get(format!("{}{path}", self.public));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// The value of a gauge without labels.
    pub fn gauge(&self, metric: &str) -> i64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name() == metric).flat_map(|family| family.get_metric());
        series.map(|series| series.get_gauge().get_value() as i64).sum()
    }

    /// The sum of a counter over all series that have the label value, or all when it is empty.
    pub fn counted(&self, metric: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name() == metric).flat_map(|family| family.get_metric());
        series
            .filter(|series| label.is_empty() || series.get_label().iter().any(|pair| pair.value() == label))
            .map(|series| series.get_counter().get_value() as u64)
            .sum()
    }

    /// Queries that ClickHouse was sent and answered, without look-ups of the newest event.
    pub fn queries(&self) -> u64 {
        self.counted("tallyhouse_query_clickhouse_queries_total", "answered") - self.look_ups()
    }

    /// Answered look-ups of the newest event.
    pub fn look_ups(&self) -> u64 {
        self.counted("tallyhouse_query_clickhouse_look_ups_total", "")
    }

    /// Tells it to stop.
    pub fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    /// Stops it and waits for the end.
    pub async fn stop(self) {
        self.shutdown.cancel();
        drop(self.client);
        self.running.await.unwrap().unwrap();
    }
}
