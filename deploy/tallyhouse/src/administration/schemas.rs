//! Declarations of event types over the admin API: those of the project of `TALLYHOUSE_KEY`.

use serde::Deserialize;
use serde_json::{Value, json};
use tallyhouse_control::schemas::{InForce, Level, Registered};
use tallyhouse_schema::catalogue::EventTypeDeclaration;
use tallyhouse_schema::json_schema::compatibility::Break;
use tallyhouse_service::env::Env;

use super::AdministrationError;
use super::remote::{Remote, RemoteError};
use crate::config;

/// A query service that keeps declarations.
pub struct RemoteSchemas(Remote);

#[derive(Deserialize)]
struct Summary {
    event_type: String,
}

#[derive(Deserialize)]
struct Summaries {
    data: Vec<Summary>,
}

#[derive(Deserialize)]
struct Made {
    version: u32,
    unchanged: bool,
    notes: Vec<Break>,
}

#[derive(Deserialize)]
struct Compared {
    notes: Vec<Break>,
}

#[derive(Deserialize)]
struct Taken {
    version: u32,
}

impl RemoteSchemas {
    /// `None` without `TALLYHOUSE_URL`.
    pub async fn open(env: &dyn Env, project: &str) -> Result<Option<Self>, AdministrationError> {
        let Some(access) = config::remote(env)? else { return Ok(None) };
        let remote = Remote::new(&access)?;
        // A key works on its own project, whatever is asked for: another name is an error.
        remote.get::<Value>(&["projects", project], &[]).await?;
        Ok(Some(Self(remote)))
    }

    pub async fn list(&self) -> Result<Vec<InForce>, AdministrationError> {
        let Summaries { data } = self.0.get(&["schemas"], &[]).await?;
        let mut all = Vec::new();
        for Summary { event_type } in data {
            all.extend(self.show(&event_type).await?);
        }
        Ok(all)
    }

    /// `None`: nothing is declared.
    pub async fn show(&self, name: &str) -> Result<Option<InForce>, AdministrationError> {
        match self.0.get(&["schemas", name], &[]).await {
            Err(RemoteError::Refused { code, .. }) if code == "not_declared" => Ok(None),
            shown => Ok(Some(shown?)),
        }
    }

    /// Registers what takes the place of the project's own declaration that is known, if there is one.
    pub async fn register(&self, declaration: &EventTypeDeclaration) -> Result<Registered, AdministrationError> {
        let known = self.version(&declaration.event_type).await?;
        let made = match self.post(declaration, known).await {
            // One that was taken away is not shown, and has a version.
            Err(RemoteError::Refused { version: Some(taken_away), .. }) if known == 0 => {
                self.post(declaration, taken_away).await
            }
            made => made,
        };
        let Made { version, unchanged, notes } = made?;
        Ok(Registered { version, is_unchanged: unchanged, notes })
    }

    async fn post(&self, declaration: &EventTypeDeclaration, replaces: u32) -> Result<Made, RemoteError> {
        self.0.post("/v1/admin/schemas", &body(declaration, replaces)).await
    }

    /// Of the project's own; 0 when there is none.
    async fn version(&self, name: &str) -> Result<u32, AdministrationError> {
        let own = self.show(name).await?.filter(|shown| shown.level == Level::Project);
        Ok(own.map_or(0, |own| own.version))
    }

    pub async fn propose(&self, declaration: &EventTypeDeclaration) -> Result<Vec<Break>, AdministrationError> {
        let Compared { notes } = self.0.post("/v1/admin/schemas?dry_run=true", &body(declaration, 0)).await?;
        Ok(notes)
    }

    pub async fn delete(&self, name: &str) -> Result<u32, AdministrationError> {
        let replaces = self.version(name).await?.to_string();
        let Taken { version } = self.0.delete_version(&["schemas", name], &[("replaces", &replaces)]).await?;
        Ok(version)
    }
}

fn body(declaration: &EventTypeDeclaration, replaces: u32) -> Value {
    let mut body = json!(declaration);
    if let Some(fields) = body.as_object_mut() {
        fields.insert("replaces".to_owned(), replaces.into());
    }
    body
}
