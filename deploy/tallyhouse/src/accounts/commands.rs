//! What `tallyhouse users` does.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tallyhouse_control::audit::{self, Done};
use tallyhouse_control::records::Record;
use tallyhouse_control::records::grant::{GrantDocument, Tool};
use tallyhouse_control::{Control, ControlError, Kind, New, time};
use tallyhouse_schema::project::{BadProjectName, ProjectName};
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::{Connection, StoreError, within};
use tokio::time::{Instant, sleep};

use super::keeper;
use super::password;
use super::statements::{OnServer, ServerKind, database};
use crate::engine::accounts::{AccountName, NotPlain, PasswordHash};
use crate::engine::{Engine, EngineError};

/// Of one project, in force.
const MOST: usize = 32;

/// How long the process with the engine may take to let an account in, or out: it looks every 2 s, and the engine starts again.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(60);
/// One that takes statements and does not answer must not keep those after it from theirs.
const STATEMENT_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);

/// ClickHouse's code for a statement that a user may not run.
const ACCESS_DENIED: u32 = 497;

/// The command line.
const ACTOR: &str = "command line";

/// Why an account is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error("there is no project `{0}`; `tallyhouse projects create` makes one")]
    NoProject(String),
    #[error("there is no account `{0}`; `tallyhouse users list` shows those that there are")]
    Unknown(String),
    #[error("project `{0}` was deleted, and its accounts with it: nobody comes in with this one")]
    Deleted(String),
    #[error("project `{project}` has {MOST} accounts, which is the most; delete one first")]
    TooMany { project: String },
    #[error(
        "dbt needs a ClickHouse server (CLICKHOUSE_URL): with the right to make tables, SQL could read every file of the embedded one"
    )]
    EmbeddedDbt,
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Name(#[from] NotPlain),
    #[error(transparent)]
    Project(#[from] BadProjectName),
    #[error("ClickHouse: {0}")]
    Server(#[from] StoreError),
    #[error(
        "it is written down, and not in force after {} s: see the log of the process that runs the embedded ClickHouse",
        IN_FORCE_WITHIN.as_secs()
    )]
    NotInForce,
}

/// What is said once after an account was made or got another password.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    pub account: String,
    pub project: String,
    #[serde(rename = "for")]
    pub tool: &'static str,
    #[serde(serialize_with = "expose")]
    pub password: Secret,
    /// Where its statements begin.
    pub database: String,
    /// `http://127.0.0.1:8123`
    pub http: String,
    /// `127.0.0.1:9000`, where ClickHouse's own protocol is spoken.
    pub native: Option<String>,
    #[serde(flatten)]
    pub to_run: ToRun,
}

/// What an administrator of given servers has yet to run; it is not in force there before.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToRun {
    /// Each can be run twice.
    pub statements: Vec<String>,
    /// Where: those that refuse them to this user, or that are away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

#[allow(clippy::ref_option, reason = "as serde calls it")]
fn expose<S: serde::Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// An account, as `list` shows it, and `/v1/admin/grants`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub account: String,
    pub project: String,
    #[serde(rename = "for")]
    pub tool: String,
    pub note: String,
    pub created_at: String,
    pub rotated_at: Option<String>,
}

/// Accounts of a ClickHouse.
pub struct Accounts<'a> {
    place: Place<'a>,
    control: Control,
}

/// Which ClickHouse.
#[derive(Debug)]
pub struct Place<'a> {
    pub writer: &'a Connection,
    /// A given one, or all of a cluster.
    pub servers: Vec<Connection>,
    pub is_embedded: bool,
    /// The embedded one, when this process runs it.
    pub engine: Option<&'a Engine>,
    /// Host and port of ClickHouse's own protocol.
    pub native: Option<String>,
}

impl<'a> Accounts<'a> {
    /// With everything that ClickHouse has.
    pub async fn open(place: Place<'a>) -> Result<Self, AccountsError> {
        let control = keeper::control(None, place.writer, Some(place.writer));
        control.refresh().await?;
        Ok(Self { place, control })
    }

    /// Those that are in force, of one project or of all. On a given server those of deleted projects are users until they are deleted as well.
    pub fn list(&self, project: Option<&str>) -> Vec<Listed> {
        let (snapshot, is_embedded) = (self.control.snapshot(), self.place.is_embedded);
        let is_there = |record: &Record| !is_embedded || !snapshot.is_deleted(&record.project);
        let listed =
            self.in_force(project).into_iter().filter(|(record, _)| is_there(record)).map(|(record, document)| {
                Listed {
                    account: record.name.to_string(),
                    project: record.project.to_string(),
                    tool: document.tool.name().to_owned(),
                    note: document.note,
                    created_at: time::text(document.created_ms),
                    rotated_at: document.rotated_ms.map(time::text),
                }
            });
        listed.collect()
    }

    /// Makes an account. `is_known` says that the project needs no record, as in development.
    pub async fn create(&self, project: &str, tool: Tool, note: &str, is_known: bool) -> Result<Made, AccountsError> {
        let snapshot = self.control.snapshot();
        if !is_known && snapshot.project(project).is_none() {
            return Err(AccountsError::NoProject(project.to_owned()));
        }
        if tool == Tool::Dbt && self.place.is_embedded {
            return Err(AccountsError::EmbeddedDbt);
        }
        if self.in_force(Some(project)).len() >= MOST {
            return Err(AccountsError::TooMany { project: project.to_owned() });
        }
        let (name, password) = (password::account_name(tool, project), password::generate());
        let document = GrantDocument {
            tool,
            password_sha256: password::sha256(&password),
            created_ms: self.control.now_ms(),
            rotated_ms: None,
            deleted_ms: None,
            note: note.to_owned(),
        };
        self.write(project, &name, 0, &document, "users.create").await?;
        let hash = document.password_sha256.parse()?;
        let to_run = self.put_in_force(project, &name, tool, Change::Created(&hash), &password).await?;
        Ok(self.made(project, &name, tool, password, to_run))
    }

    /// Gives an account another password; the one before opens nothing from then on.
    pub async fn rotate(&self, name: &str) -> Result<Made, AccountsError> {
        let (record, document) = self.find(name)?;
        if self.control.snapshot().is_deleted(&record.project) {
            return Err(AccountsError::Deleted(record.project.to_string()));
        }
        let password = password::generate();
        let rotated_ms = Some(self.control.now_ms());
        let document = GrantDocument { password_sha256: password::sha256(&password), rotated_ms, ..document };
        let (project, tool) = (record.project.to_string(), document.tool);
        self.write(&project, name, record.version, &document, "users.rotate").await?;
        let hash = document.password_sha256.parse()?;
        let to_run = self.put_in_force(&project, name, tool, Change::Rotated(&hash), &password).await?;
        Ok(self.made(&project, name, tool, password, to_run))
    }

    /// Lets nobody in any more with an account. Gives what an administrator has yet to run.
    pub async fn delete(&self, name: &str) -> Result<ToRun, AccountsError> {
        let (record, document) = self.find(name)?;
        let document = GrantDocument { deleted_ms: Some(self.control.now_ms()), ..document };
        let (project, tool) = (record.project.to_string(), document.tool);
        self.write(&project, name, record.version, &document, "users.delete").await?;
        self.put_in_force(&project, name, tool, Change::Deleted, &Secret::new("")).await
    }

    /// One that cannot be read opens nothing, and stands in nobody's way.
    fn in_force(&self, project: Option<&str>) -> Vec<(Record, GrantDocument)> {
        let snapshot = self.control.snapshot();
        let records = snapshot.records(Kind::Grant);
        let records = records.filter(|record| project.is_none_or(|project| &*record.project == project));
        let read = records.filter_map(|record| match record.read::<GrantDocument>() {
            Ok(document) => Some((Record::clone(record), document)),
            Err(error) => {
                tracing::warn!(%error, "an account is left out");
                None
            }
        });
        read.filter(|(_, document)| document.deleted_ms.is_none()).collect()
    }

    fn find(&self, name: &str) -> Result<(Record, GrantDocument), AccountsError> {
        let found = self.in_force(None).into_iter().find(|(record, _)| &*record.name == name);
        found.ok_or_else(|| AccountsError::Unknown(name.to_owned()))
    }

    async fn write(
        &self,
        project: &str,
        name: &str,
        replaces: u32,
        document: &GrantDocument,
        action: &str,
    ) -> Result<(), AccountsError> {
        let store = self.control.store().ok_or(ControlError::NotConfigured)?;
        let text = json!(document).to_string();
        let new = New { kind: Kind::Grant, project, name, replaces, document: &text, by: ACTOR };
        store.create(&new).await?;
        let details = json!({ "for": document.tool });
        audit::write(store, &Done { project, actor: ACTOR, action, object: name, result: "done", details }).await;
        Ok(self.control.refresh().await?)
    }

    /// Returns when it is, with what is left to be run by an administrator.
    async fn put_in_force(
        &self,
        project: &str,
        name: &str,
        tool: Tool,
        change: Change<'_>,
        password: &Secret,
    ) -> Result<ToRun, AccountsError> {
        if self.place.is_embedded {
            if let Some(engine) = self.place.engine {
                engine.set_accounts(super::records::accounts(&self.control.snapshot())).await?;
            }
            self.await_embedded(name, change, password).await?;
            return Ok(ToRun::default());
        }
        let (name, project) = (name.parse::<AccountName>()?, project.parse::<ProjectName>()?);
        let server = kind(self.place.writer).await?;
        let account = OnServer { name: &name, project: &project, tool, server };
        let statements = match change {
            Change::Created(hash) => account.create(hash),
            Change::Rotated(hash) => account.rotate(hash),
            Change::Deleted => account.delete(),
        };
        run_on_all(&self.place.servers, &statements).await
    }

    /// Waits until the engine knows of a change: this process made it start anew, or the one that runs it did.
    async fn await_embedded(&self, name: &str, change: Change<'_>, password: &Secret) -> Result<(), AccountsError> {
        let account =
            Connection { user: name.to_owned(), password: password.expose().to_owned(), ..self.place.writer.clone() };
        let deadline = Instant::now() + IN_FORCE_WITHIN;
        while Instant::now() < deadline {
            // It starts again meanwhile: no answer is no news.
            let is_in_force = match change {
                Change::Created(_) | Change::Rotated(_) => {
                    account.server().query("SELECT toUInt8(1)").fetch_one::<u8>().await.is_ok()
                }
                Change::Deleted => {
                    let left = self.place.writer.client().query("SELECT count() FROM system.users WHERE name = ?");
                    matches!(left.bind(name).fetch_one::<u64>().await, Ok(0))
                }
            };
            if is_in_force {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(AccountsError::NotInForce)
    }

    fn made(&self, project: &str, name: &str, tool: Tool, password: Secret, to_run: ToRun) -> Made {
        let database = match (tool, project.parse()) {
            (Tool::Dbt, Ok(project)) => database(&project),
            _ => "tallyhouse_views".to_owned(),
        };
        Made {
            account: name.to_owned(),
            project: project.to_owned(),
            tool: tool.name(),
            password,
            database,
            http: self.place.writer.url.clone(),
            native: self.place.native.clone(),
            to_run,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Created(&'a PasswordHash),
    Rotated(&'a PasswordHash),
    Deleted,
}

/// A cluster may have one shard so far.
async fn kind(server: &Connection) -> Result<ServerKind, AccountsError> {
    let client = server.server();
    let seen = client.query("SELECT count() FROM system.databases WHERE name = 'tallyhouse_seen'").fetch_one::<u64>();
    Ok(if within(STATEMENT_WITHIN, seen).await? > 0 { ServerKind::OfCluster } else { ServerKind::Single })
}

/// Runs statements on each server. One of several that is away, or cannot take them, does not keep the others from taking them, nor the caller from
/// the password that is in force elsewhere.
async fn run_on_all(servers: &[Connection], statements: &[String]) -> Result<ToRun, AccountsError> {
    let mut to_run = ToRun::default();
    for server in servers {
        let left = match run(server, statements.to_vec()).await {
            Err(AccountsError::Server(error)) if servers.len() > 1 => {
                tracing::warn!(server = server.url, %error, "an account is not in force there yet");
                statements.to_vec()
            }
            other => other?,
        };
        if !left.is_empty() {
            to_run.servers.push(server.url.clone());
        }
        if left.len() > to_run.statements.len() {
            to_run.statements = left;
        }
    }
    Ok(to_run)
}

/// Runs statements, in order. Gives those that this user may not run, from the first such on.
async fn run(writer: &Connection, statements: Vec<String>) -> Result<Vec<String>, AccountsError> {
    for (done, statement) in statements.iter().enumerate() {
        match within(STATEMENT_WITHIN, writer.client().query_raw(statement).execute()).await {
            Ok(()) => {}
            Err(StoreError::Refused { code: ACCESS_DENIED, .. }) => {
                return Ok(statements.into_iter().skip(done).collect());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Vec::new())
}
