//! The write path inside this process, on a port and a data folder of its own.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::privacy::suppressions::Suppressions;
use tallyhouse_control::schemas::Seeds;
use tallyhouse_control::{Control, ControlOptions, ControlStore, FixedKey, FixedKeys, LiveCatalogue};
use tallyhouse_ingest::batch::Builder;
use tallyhouse_ingest::config::Config;
use tallyhouse_ingest::direct::checkpoint::LocalStore;
use tallyhouse_ingest::log::local::commit::{COMMIT, Commits};
use tallyhouse_ingest::log::local::disk;
use tallyhouse_ingest::{Deps, Ingest, RunError};
use tallyhouse_schema::normalise::{Agent, Context, ProjectRules, normalise};
use tallyhouse_schema::raw::read;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::{Catalogue, Event, wire};
use tallyhouse_service::access::Scope;
use tallyhouse_service::admin::Admin;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::config::open_tls;
use tallyhouse_service::cors::{Origin, Origins};
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::health::Health;
use tallyhouse_service::http_client::{Endpoint, Reply};
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::rate_limit::LimitsOf;
use tallyhouse_sql::{Connection, Shards};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::folder::Folder;
use crate::wait::eventually;

/// Files of the log with this extension.
pub fn log_files(data: &Folder, extension: &str) -> Vec<PathBuf> {
    let mut files = files_in(data, "log", extension);
    files.sort();
    files
}

/// Whether a batch of the log is being inserted: it would be inserted again after a kill.
pub fn is_inserting(data: &Folder) -> bool {
    let disk = disk::Folder::open(&data.path().join("ingest").join("log")).unwrap();
    let (_, committed, _) = Commits::open(&disk, COMMIT).unwrap();
    committed.is_some_and(|committed| !committed.metadata.is_empty())
}

/// Files with this extension of the journal, which a version before the log had.
pub fn journaled(data: &Folder, extension: &str) -> Vec<PathBuf> {
    files_in(data, "journal", extension)
}

/// Files with this extension in a folder of the write path.
pub fn files_in(data: &Folder, folder: &str, extension: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.path().join("ingest").join(folder)).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Files that say that a write path runs, or ran until it was killed.
pub fn markers(data: &Folder) -> Vec<PathBuf> {
    files_in(data, "running", "running")
}

/// Markers and folders of a data folder that somebody holds a lock on.
fn held_files(data: &Folder) -> Vec<PathBuf> {
    let locks = ["journal", "records"].map(|folder| data.path().join("ingest").join(folder).join("lock"));
    // There is a marker only with Redis.
    let has_markers = data.path().join("ingest").join("running").exists();
    let mut files = if has_markers { markers(data) } else { Vec::new() };
    files.extend(locks.into_iter().filter(|lock| lock.exists()));
    files.retain(|path| File::open(path).unwrap().try_lock().is_err());
    files
}

/// A variable for tests: which start of the machine it is, and that ClickHouse is on it.
pub const BOOT: &str = "TEST_BOOT";

/// The page that may use the keys `only-SCOPE-…`.
pub const PAGE: &str = "https://app.example";

/// A variable for tests: it follows the control plane of its ClickHouse.
pub const FOLLOWS: &str = "TEST_FOLLOWS";

/// A variable for tests: how many events each key may send; none come after these.
pub const EVENTS: &str = "TEST_EVENTS";

/// A running write path.
pub struct Service {
    pub url: String,
    pub project: String,
    pub health: Health,
    pub days: DayVersions,
    registry: Registry,
    /// Whose events it does not store.
    pub suppressions: Suppressions,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    locks: [PathBuf; 2],
}

impl Service {
    /// Starts one whose keys are the project's name (ingest), `import-…`, `query-…` and `only-SCOPE-…` (of pages of [`PAGE`]), `other-…` of another
    /// project, and `operator`; and waits until it is ready.
    pub async fn start(shards: impl Into<Shards>, data: &Folder, project: &str) -> Self {
        Self::start_with(shards, data, project, &[]).await
    }

    /// The same with more variables.
    pub async fn start_with(shards: impl Into<Shards>, data: &Folder, project: &str, env: &[(&str, &str)]) -> Self {
        let service = Self::start_unready(shards, data, project, env).await;
        eventually("ingest is ready", async || service.health.is_ready()).await;
        service
    }

    /// The same without waiting.
    pub async fn start_unready(
        shards: impl Into<Shards>,
        data: &Folder,
        project: &str,
        overrides: &[(&str, &str)],
    ) -> Self {
        let ready = CancellationToken::new();
        ready.cancel();
        Self::start_before(ready, shards, data, project, overrides).await
    }

    /// The same before the tables are prepared.
    pub async fn start_before(
        tables_ready: CancellationToken,
        shards: impl Into<Shards>,
        data: &Folder,
        project: &str,
        overrides: &[(&str, &str)],
    ) -> Self {
        let mut env = std::collections::BTreeMap::from([
            ("TALLYHOUSE_DATA".to_owned(), data.path().display().to_string()),
            ("INGEST_ACK_TIMEOUT_MS".to_owned(), "2000".to_owned()),
            ("INGEST_DRAIN_MS".to_owned(), "10000".to_owned()),
            ("INGEST_BODY_BYTES".to_owned(), (1 << 20).to_string()),
            ("INGEST_DECODED_BYTES".to_owned(), (2 << 20).to_string()),
            ("RATE_LIMITS".to_owned(), "off".to_owned()),
        ]);
        env.extend(overrides.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut keys = FixedKeys::default();
        keys.add(project, FixedKey::new(project, "ingest", &[Scope::Ingest]));
        keys.add(&format!("import-{project}"), FixedKey::new(project, "import", &[Scope::Ingest, Scope::Import]));
        keys.add(&format!("query-{project}"), FixedKey::new(project, "query", &[Scope::Query]));
        for scope in Scope::ALL {
            let name = format!("only-{}", scope.name());
            let key = FixedKey::new(project, &name, &[scope]).with_origins(Origins::Listed(vec![page()]));
            keys.add(&format!("{name}-{project}"), key);
        }
        keys.add(&format!("other-{project}"), FixedKey::new(&format!("{project}-other"), "other", &[Scope::Ingest]));
        keys.add("operator", FixedKey::operator("operator"));
        if let Some(events) = env.get(EVENTS) {
            keys = keys.with_limits(LimitsOf::NONE.with_events(Some(1), Some(events.parse().unwrap())));
        }
        let shards = shards.into();
        let (health, registry, days) = (Health::default(), Registry::new(), DayVersions::default());
        let config = Config::from_env(&env).unwrap();
        let tls = open_tls(config.tls.as_ref(), &registry, &health).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let control = match env.contains_key(FOLLOWS) {
            false => Control::fixed(keys),
            true => Control::open(ControlOptions {
                service: "ingest",
                data: None,
                store: Some(ControlStore::new(shards.home(), Some(shards.home()))),
                fixed: keys,
                clock: Arc::new(now_ms),
            }),
        };
        let following = control.clone();
        let deps = Deps {
            shards,
            control: control.clone(),
            catalogue: LiveCatalogue::new(control, Seeds::from_env(&env).unwrap()),
            user_hash_key: InstallationKey::new([7; 16]),
            admin: Admin { registry: registry.clone(), health: health.clone() },
            days: days.clone(),
            tables_ready,
            local_store: env
                .get(BOOT)
                .map(|boot| LocalStore { folders: vec![data.path().to_owned()], boot: boot.clone() }),
            tls,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/v1/events", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(following.run(stop.clone()));
        let ingest = Ingest::new(config, deps).unwrap();
        let suppressions = ingest.suppressions();
        let running = tokio::spawn(ingest.run(Some(listener), stop.clone()));
        let locks = ["journal", "records"].map(|folder| data.path().join("ingest").join(folder).join("lock"));
        Self { url, project: project.to_owned(), health, days, registry, suppressions, stop, running, locks }
    }

    /// An endpoint with the ingest key.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint_with_key(&self.project)
    }

    pub fn endpoint_with_key(&self, key: &str) -> Endpoint {
        Endpoint::new(&self.url, Duration::from_secs(20)).unwrap().api_key(key).unwrap()
    }

    /// Sends a JSON body.
    pub async fn send(&self, body: impl Into<Bytes>) -> Reply {
        self.endpoint().post(body.into()).await.unwrap()
    }

    /// The same; the answer comes when the events are stored, and all that was sent before.
    pub async fn send_stored(&self, body: impl Into<Bytes>) -> Reply {
        self.endpoint().post_with("wait=stored", body.into()).await.unwrap()
    }

    /// Sends a hundred numbered events of 2 KB at a time until a request is refused: the first number that was not taken, and the
    /// refusal.
    pub async fn fill(&self, from: u32) -> (u32, Reply) {
        let mut next = from;
        loop {
            let reply = self.send(body(next..next + 100)).await;
            if reply.status != 202 {
                return (next, reply);
            }
            next += 100;
            assert!(next < 50_000, "it is never full");
        }
    }

    /// The value of a gauge or counter without labels.
    pub fn metric(&self, name: &str) -> u64 {
        metric(&self.registry, name)
    }

    /// The value of a counter with one label, 0 while it was never counted.
    pub fn counted(&self, name: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let has_label = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|l| l.value() == label);
        metrics.filter(has_label).map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<(), RunError> {
        tokio::time::timeout(Duration::from_secs(30), self.running).await.unwrap().unwrap()
    }

    /// Ends it as `kill -9` would: it does nothing at its end.
    pub async fn kill(self, data: &Folder) {
        self.running.abort();
        assert!(self.running.await.is_err_and(|error| error.is_cancelled()), "it ended by itself");
        // A process would take its tasks with it; here they go one after the other, and its locks with them.
        eventually("nobody holds its files", async || held_files(data).is_empty()).await;
    }

    /// Stops it as SIGTERM would.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        // A process would take its last blocking calls with it.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.locks.iter().all(|lock| !lock.exists() || File::open(lock).unwrap().try_lock().is_ok()) {
            assert!(Instant::now() < deadline, "somebody holds its files");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The same; the value of a gauge or counter without labels at the end.
    pub async fn stop_and_measure(self, name: &str) -> u64 {
        let registry = self.registry.clone();
        self.stop().await;
        metric(&registry, name)
    }
}

fn metric(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
    let metric = &family.get_metric()[0];
    (metric.get_gauge().get_value() + metric.get_counter().get_value()) as u64
}

fn page() -> Origin {
    PAGE.parse().unwrap()
}

/// A body of numbered events of 2 KB each.
pub fn body(ids: std::ops::Range<u32>) -> String {
    let long = "x".repeat(2_000);
    let events =
        ids.map(|n| json!({"eventId": n.to_string(), "eventType": "a", "value": 1, "properties": {"long": long}}));
    Value::from_iter(events).to_string()
}

/// Events with these ids as the block that the ingester would send.
pub fn block_of(project: &str, ids: &[&str]) -> Vec<Bytes> {
    let mut builder = Builder::default();
    for id in ids {
        with_event(project, id, |event| builder.push(project, event));
    }
    builder.finish().chunks
}

/// An event as the record that a gateway would write, with any value.
pub fn record_of(project: &str, id: &str, value: f64) -> Vec<u8> {
    let mut record = Vec::new();
    with_event(project, id, |event| {
        wire::encode(project, &Event { value: Some(value), ..event.clone() }, &mut record);
    });
    record
}

/// An event of more than 4 KB as the record that a gateway would write.
pub fn long_record_of(project: &str, id: &str) -> Vec<u8> {
    let mut record = Vec::new();
    let long = "x".repeat(4_000);
    with_event(project, id, |event| {
        wire::encode(project, &Event { session_id: long.as_str().into(), ..event.clone() }, &mut record);
    });
    record
}

/// Shows an event, which borrows from what it is made of.
fn with_event(project: &str, id: &str, look: impl FnOnce(&Event<'_>)) {
    let (catalogue, hasher) = (Catalogue::built_in().unwrap(), UserHasher::new([7; 16]));
    let rules = ProjectRules { project: project.into(), late_window_days: 7, retention_days: 730, may_import: false };
    let context = Context {
        catalogue: &catalogue,
        rules: &rules,
        hasher: &hasher,
        agent: &|_| Agent::default(),
        new_id: &String::new,
        received_at: now_ms(),
    };
    let text = format!(r#"{{"eventId":"{id}","eventType":"a","userId":"u","value":1}}"#);
    look(&normalise(read(&text).unwrap(), None, context).unwrap().event);
}

/// The body as JSON.
pub fn json(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.excerpt()))
}

/// One number from ClickHouse; `{project}` in the SQL is bound to the project.
pub async fn count(connection: &Connection, project: &str, sql: &str) -> u64 {
    connection.client().query(sql).param("project", project).fetch_one::<u64>().await.unwrap()
}

/// Rows in `events` and the total of each rollup: all four must agree.
pub async fn everywhere(connection: &Connection, project: &str) -> [u64; 4] {
    let mut counts =
        [count(connection, project, "SELECT count() FROM events WHERE project_id = {project:String}").await, 0, 0, 0];
    for (slot, table) in counts.iter_mut().skip(1).zip(["rollup_1m", "rollup_1h", "rollup_1d"]) {
        let sql = format!("SELECT sum(events) FROM {table} WHERE project_id = {{project:String}} AND dim_set = ''");
        *slot = count(connection, project, &sql).await;
    }
    counts
}
