//! A Tallyhouse with the data of several projects.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tallyhouse::credentials::Credentials;
use tallyhouse_control::records::ProjectDocument;
use tallyhouse_control::records::key::{KeyDocument, KeySecret};
use tallyhouse_control::{ControlStore, Kind, New, key_text};
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{
    Folder, Redis, ask as ask_clickhouse, eventually, execute, free_ports, insert_events, ten_days_ago,
};

use super::answers::{ask, markers};
use super::requests::{ADMIN, QUERY, Request, Service};

/// In every text of the projects that nobody else may see.
pub const MARKER: &str = "zqmarkerzq";

/// The digits of their values.
pub const NUMBER: &str = "918273645";

const OTHER: &str = "iso-b";

/// Accounts of people's tools, one each of the first projects.
const ACCOUNTS: usize = 2;

/// A project, and its keys: of `requests::QUERY`, `INGEST` and `ADMIN`.
pub struct Tenant {
    pub keys: [String; 3],
}

pub struct Account {
    pub name: String,
    pub password: String,
}

pub struct World {
    pub tenants: Vec<Tenant>,
    /// With the markers, and known by name.
    pub other: Tenant,
    pub accounts: Vec<Account>,
    query: String,
    ingest: String,
    pub clickhouse_http: String,
    pub clickhouse_native: String,
    _running: Running,
    _redis: Redis,
    _folder: Folder,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl World {
    pub async fn start(tenants: usize) -> Self {
        let (folder, redis) = (Folder::create(), Redis::start().await);
        let [ingest, ingest_admin, query, query_admin, http, native] = free_ports::<6>();
        let data = folder.path().join("data");
        let env = [
            ("TALLYHOUSE_DEV", "1".to_owned()),
            ("TALLYHOUSE_DATA", data.display().to_string()),
            ("INGEST_ADDR", format!("127.0.0.1:{ingest}")),
            ("INGEST_ADMIN_ADDR", format!("127.0.0.1:{ingest_admin}")),
            ("QUERY_ADDR", format!("127.0.0.1:{query}")),
            ("QUERY_ADMIN_ADDR", format!("127.0.0.1:{query_admin}")),
            ("CLICKHOUSE_HTTP_PORT", http.to_string()),
            ("CLICKHOUSE_TCP_PORT", native.to_string()),
            ("REDIS_URL", redis.url.clone()),
        ];
        let command = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
            command.args(arguments).envs(env.iter().map(|(name, value)| (*name, value.as_str())));
            command
        };
        let running = Running(command(&["up"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let writer = writer(&data, http).await;
        eventually("there are tables", async || {
            ask_clickhouse(&writer, "SELECT count() FROM tallyhouse.control").await.is_ok()
        })
        .await;
        let store = ControlStore::new(&writer, Some(&writer));
        let mut of = Vec::new();
        for number in 0..tenants {
            let name = format!("iso-a{number}");
            of.push(tenant(&store, &name, "").await);
            if number < 8 {
                insert_events(&writer, &name, ten_days_ago(), 24).await;
            }
        }
        let other = tenant(&store, OTHER, MARKER).await;
        tenant(&store, &format!("{MARKER}-c"), MARKER).await;
        for project in [OTHER, &format!("{MARKER}-c")] {
            mark(&writer, project).await;
        }
        let accounts = (0..ACCOUNTS.min(tenants)).map(|number| format!("iso-a{number}")).map(|project| {
            let output =
                command(&["users", "create", "--json", "--for", "bi", "--project", &project]).output().unwrap();
            let made: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
            let text = |field: &str| made[field].as_str().unwrap().to_owned();
            Account { name: text("account"), password: text("password") }
        });
        let accounts = accounts.collect();
        let local = |port| format!("127.0.0.1:{port}");
        let world = Self {
            tenants: of,
            other,
            accounts,
            query: local(query),
            ingest: local(ingest),
            clickhouse_http: local(http),
            clickhouse_native: local(native),
            _running: running,
            _redis: redis,
            _folder: folder,
        };
        world.name_things().await;
        world
    }

    pub fn url(&self, service: Service) -> &str {
        match service {
            Service::Query => &self.query,
            Service::Ingest => &self.ingest,
        }
    }

    /// Metrics of the other project, one with a name that everybody may guess. Waits until its keys are known, and its rows are seen.
    async fn name_things(&self) {
        for name in ["theirs", "zqmarkerzq_metric"] {
            let document = json!({"name": name, "description": MARKER, "measure": "count", "event_type": MARKER});
            let request = Request {
                service: Service::Query,
                method: "POST".to_owned(),
                target: "/v1/metrics".to_owned(),
                headers: vec![("Content-Type", "application/json".to_owned())],
                body: document.to_string(),
                key: ADMIN,
            };
            let registered = async || ask(&self.query, &request, &self.other).await.status;
            eventually("a metric is registered", async || matches!(registered().await, 201 | 409)).await;
        }
        let types = Request { target: "/v1/event-types".to_owned(), ..request_of_nothing() };
        eventually("the markers are seen by their owner", async || {
            !markers(&ask(&self.query, &types, &self.other).await).is_empty()
        })
        .await;
    }
}

fn request_of_nothing() -> Request {
    Request {
        service: Service::Query,
        method: "GET".to_owned(),
        target: "/".to_owned(),
        headers: Vec::new(),
        body: String::new(),
        key: QUERY,
    }
}

async fn writer(data: &Path, http: u16) -> Connection {
    let password = || Credentials::load(data).ok().flatten().map(|(known, _)| known.writer.expose().to_owned());
    eventually("there are credentials", async || password().is_some()).await;
    Connection {
        url: format!("http://127.0.0.1:{http}"),
        user: "writer".to_owned(),
        password: password().unwrap(),
        tls: None,
    }
}

async fn create(store: &ControlStore, kind: Kind, project: &str, name: &str, document: &Value) {
    let document = document.to_string();
    let new = New { kind, project, name, replaces: 0, document: &document, by: "test" };
    store.create(&new).await.unwrap();
}

/// A project with keys, whose ids and notes have the marker.
async fn tenant(store: &ControlStore, project: &str, marker: &str) -> Tenant {
    create(store, Kind::Project, project, project, &json!(ProjectDocument::default())).await;
    let scopes = [
        vec![Scope::Query, Scope::Export, Scope::Sql],
        vec![Scope::Ingest, Scope::Import],
        vec![Scope::Query, Scope::Admin],
    ];
    let mut keys = Vec::new();
    for (number, scopes) in scopes.into_iter().enumerate() {
        let text = key_text::generate(&scopes);
        let document = KeyDocument {
            scopes,
            origins: Vec::new(),
            secrets: vec![KeySecret { sha256: key_text::digest(text.expose()), until_ms: None }],
            created_ms: now_ms(),
            expires_ms: None,
            revoked_ms: None,
            note: marker.to_owned(),
        };
        create(store, Kind::Key, project, &format!("{marker}key{number}{project}"), &json!(document)).await;
        keys.push(text.expose().to_owned());
    }
    if !marker.is_empty() {
        for kind in [Kind::Schema, Kind::Grant, Kind::Job, Kind::Suppression] {
            create(store, kind, project, "theirs", &json!({ "note": marker })).await;
        }
    }
    Tenant { keys: keys.try_into().unwrap() }
}

/// Events and dead letters with the marker in every text.
async fn mark(writer: &Connection, project: &str) {
    let dims = format!(
        "[('country', '{MARKER}'), ('device', '{MARKER}'), ('country,device', concat('{MARKER}', char(31), '{MARKER}'))]"
    );
    for event_type in ["purchase", "view", "theirs", MARKER] {
        for age in ["toIntervalDay(10)", "toIntervalDay(1)", "toIntervalMinute(2)"] {
            let insert = format!(
                "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_id, anonymous_id, session_id, country, device, os, \
                 browser, locale, page, ip, props, num_props, dims, user_hash, received_at, retention_days) \
                 SELECT '{project}', concat('{MARKER}', toString(number)), '{event_type}', now64(3) - {age}, {NUMBER}.5, '{MARKER}', '{MARKER}', '{MARKER}', \
                 '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', map('{MARKER}', '{MARKER}', 'theirs', '{MARKER}', 'plan', '{MARKER}'), \
                 map('{MARKER}', {NUMBER}.5), {dims}, number, now64(3), 730 FROM numbers(30)"
            );
            execute(writer, &insert).await.unwrap();
        }
    }
    let letter = format!(
        "INSERT INTO tallyhouse.dead_letters (project_id, id, kind, code, reason, payload, event_id, source_topic, key_id, received_at, failed_at, updated_at) \
         SELECT '{project}', '{MARKER}', 'json', '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', '{MARKER}', now64(3), now64(3), now64(3)"
    );
    execute(writer, &letter).await.unwrap();
}
