//! What `tallyhouse projects`, `keys` and `audit` work on: the operations on ClickHouse, or the API of a running query service.
//!
//! ```text
//! TALLYHOUSE_URL set -> /v1/admin/… with TALLYHOUSE_KEY
//! else               -> CLICKHOUSE_URL, or the embedded ClickHouse of the data folder (that of a running `up`, else started) -> operations
//! ```
//!
//! Both do the same: the API calls the same operations. Whoever can read the data folder needs no key.

pub mod privacy;
mod remote;
mod schemas;

use serde_json::Value;
use tallyhouse_control::audit::{AuditLine, Page};
use tallyhouse_control::operations::keys::{KeyView, MadeKey, NewKey};
use tallyhouse_control::operations::projects::{Changes, ProjectView};
use tallyhouse_control::operations::{Actor, OperationError, Operations};
use tallyhouse_control::{Control, ControlError};
use tallyhouse_service::env::{ConfigError, Env};

use crate::accounts::commands::Listed;
use crate::attach::{Attached, attach};
use crate::config::{self, Config};
use crate::tables::{self, TablesError};
use crate::up::UpError;
use tallyhouse_sql::migrations::Topology;

pub use remote::RemoteError;
pub use schemas::RemoteSchemas;

use remote::Remote;

/// Lines and entries that are read in one call.
const AT_ONCE: usize = 1_000;

/// Where the operations are done.
#[allow(clippy::large_enum_variant, reason = "a command has one")]
pub enum Administration {
    Here { operations: Operations, actor: Actor, attached: Box<Attached> },
    There(Remote),
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdministrationError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Attach(#[from] UpError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl From<ControlError> for AdministrationError {
    fn from(error: ControlError) -> Self {
        Self::Operation(error.into())
    }
}

impl Administration {
    /// As the variables say.
    pub async fn open(env: &dyn Env) -> Result<Self, AdministrationError> {
        if let Some(remote) = config::remote(env)? {
            return Ok(Self::There(Remote::new(&remote)?));
        }
        let config = Config::from_env(env)?;
        let attached = Box::pin(attach(&config, env)).await?;
        match Self::on(&attached).await {
            Ok(operations) => Ok(Self::Here { operations, actor: Actor::command_line(), attached: Box::new(attached) }),
            Err(error) => {
                attached.detach().await;
                Err(error)
            }
        }
    }

    async fn on(attached: &Attached) -> Result<Operations, AdministrationError> {
        if attached.engine.is_some() {
            // Nobody else has prepared the tables, perhaps never.
            tables::migrate(&attached.writer, &Topology::Single).await?;
        }
        let control = Control::for_command(&attached.reader, &attached.writer);
        control.refresh().await?;
        Ok(Operations::new(control))
    }

    /// Stops what was started.
    pub async fn close(self) {
        if let Self::Here { attached, .. } = self {
            attached.detach().await;
        }
    }

    /// Accounts of people's tools, as the query service that is named has them. They are made, rotated and deleted beside ClickHouse alone.
    pub async fn accounts(env: &dyn Env, project: Option<&str>) -> Result<Option<Vec<Listed>>, AdministrationError> {
        let Some(remote) = config::remote(env)? else { return Ok(None) };
        let query: Vec<_> = project.map(|project| ("project", project)).into_iter().collect();
        Ok(Some(Remote::new(&remote)?.list("/v1/admin/grants", &query, "after", usize::MAX).await?))
    }

    pub async fn create_project(&self, name: &str, changes: &Changes) -> Result<ProjectView, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.create_project(actor, name, changes).await?),
            Self::There(remote) => {
                Ok(remote.post("/v1/admin/projects", &serde_json::json!({"name": name, "settings": changes})).await?)
            }
        }
    }

    pub async fn projects(&self) -> Result<Vec<ProjectView>, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.projects(actor)),
            Self::There(remote) => Ok(remote.list("/v1/admin/projects", &[], "after", usize::MAX).await?),
        }
    }

    pub async fn project(&self, name: &str) -> Result<ProjectView, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.show_project(actor, name)?),
            Self::There(remote) => Ok(remote.get(&["projects", name], &[]).await?),
        }
    }

    pub async fn set_project(&self, name: &str, changes: &Changes) -> Result<ProjectView, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.set_project(actor, name, changes, None).await?),
            Self::There(remote) => {
                Ok(remote.patch(&["projects", name], &serde_json::json!({ "settings": changes })).await?)
            }
        }
    }

    /// `confirm`: its name once more.
    pub async fn delete_project(&self, name: &str, confirm: &str) -> Result<(), AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.delete_project(actor, name, confirm).await?),
            Self::There(remote) => {
                let body = serde_json::json!({ "confirm": confirm });
                Ok(remote.delete::<serde_json::Value>(&["projects", name], &body).await.map(drop)?)
            }
        }
    }

    pub async fn create_key(&self, new: NewKey) -> Result<MadeKey, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.create_key(actor, new).await?),
            Self::There(remote) => {
                let NewKey { project, operator, scopes, origins, expires_ms, note } = new;
                let expires = expires_ms.map(tallyhouse_control::time::text);
                let body = serde_json::json!({"project": project, "operator": operator, "scopes": scopes,
                    "origins": origins, "expires": expires, "note": note});
                Ok(remote.post("/v1/admin/keys", &body).await?)
            }
        }
    }

    pub async fn keys(&self, project: Option<&str>) -> Result<Vec<KeyView>, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.keys(actor, project).await?),
            Self::There(remote) => {
                let query: Vec<_> = project.map(|project| ("project", project)).into_iter().collect();
                Ok(remote.list("/v1/admin/keys", &query, "after", usize::MAX).await?)
            }
        }
    }

    pub async fn rotate_key(&self, id: &str, overlap_ms: i64) -> Result<MadeKey, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.rotate_key(actor, id, overlap_ms).await?),
            Self::There(remote) => {
                let body = serde_json::json!({"overlap": format!("{}s", overlap_ms / 1_000)});
                Ok(remote.act(&["keys", id, "rotate"], &body).await?)
            }
        }
    }

    pub async fn revoke_key(&self, id: &str) -> Result<KeyView, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => Ok(operations.revoke_key(actor, id).await?),
            Self::There(remote) => Ok(remote.act(&["keys", id, "revoke"], &Value::Object(Changes::new())).await?),
        }
    }

    /// Lines of the audit log, the newest first.
    pub async fn audit(&self, project: Option<&str>, most: usize) -> Result<Vec<AuditLine>, AdministrationError> {
        match self {
            Self::Here { operations, actor, .. } => {
                let limit = u32::try_from(most).unwrap_or(u32::MAX);
                let page = Page { project: project.map(str::to_owned), before: None, limit };
                Ok(operations.audit(actor, page).await?)
            }
            Self::There(remote) => {
                let query: Vec<_> = project.map(|project| ("project", project)).into_iter().collect();
                Ok(remote.list("/v1/admin/audit", &query, "before", most).await?)
            }
        }
    }
}
