//! Projects: create, list, show, set.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tallyhouse_schema::project::{MAX_DIMENSION_VALUES, ProjectName, retention_weeks};
use tallyhouse_sql::migrations::{MAX_PARTITIONS_PER_BATCH, MAX_RETENTION_DAYS};

use super::{Actor, Audited, OperationError, Operations};
use crate::kind::{CANARY_PROJECT, Kind};
use crate::privacy::deletion;
use crate::records::ProjectDocument;
use crate::snapshot::{Project, Snapshot};
use crate::store::{ControlError, New};
use crate::time;

/// Projects of an installation at most: every process holds all of them.
const MAX_PROJECTS: usize = 10_000;

/// The default of `RETENTION_DAYS`, which projects without one of their own have.
const USUAL_RETENTION: u16 = 730;

/// What can be set, and whether only operators can: what others would pay for is theirs.
const SETTINGS: [(&str, bool); 9] = [
    ("tier", true),
    ("priority", true),
    ("eventsPerDay", true),
    ("eventsBurst", true),
    ("queriesPerMinute", true),
    ("dimensionValues", true),
    ("lateWindowDays", false),
    ("retentionDays", false),
    ("deadLetters", false),
];

/// A project as callers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectView {
    pub name: ProjectName,
    /// Rises with each change.
    pub version: u32,
    /// When this version was written: RFC 3339, UTC.
    pub changed: String,
    /// What it has of its own; what is missing is as the installation says.
    pub settings: ProjectDocument,
}

/// New values of settings by name; `null` takes one away.
pub type Changes = Map<String, Value>;

impl Operations {
    /// Creates a project. Only operators can.
    pub async fn create_project(
        &self,
        actor: &Actor,
        name: &str,
        changes: &Changes,
    ) -> Result<ProjectView, OperationError> {
        let outcome = self.create(actor, name, changes).await;
        let what = Audited { action: "projects.create", project: name, object: name, details: json!(changes) };
        self.audited(actor, what, outcome).await
    }

    async fn create(&self, actor: &Actor, name: &str, changes: &Changes) -> Result<ProjectView, OperationError> {
        actor.operates()?;
        let name: ProjectName = name.parse().map_err(OperationError::BadName)?;
        let snapshot = self.control.snapshot();
        if snapshot.projects().count() >= MAX_PROJECTS {
            let instead = "delete some first";
            return Err(OperationError::Full { what: "projects", limit: MAX_PROJECTS, instead });
        }
        let is_taken = snapshot.record(Kind::Project, name.as_str(), name.as_str()).is_some();
        if is_taken || name.as_str() == CANARY_PROJECT {
            return Err(exists(&name));
        }
        let new =
            ProjectDocument { hash_key_part: Some(ProjectDocument::new_hash_key_part()), ..ProjectDocument::default() };
        let settings = changed(actor, &new, changes)?;
        fits(&snapshot, &name, &settings)?;
        match self.write(actor, &name, 0, &settings).await {
            // Somebody was faster, or this process did not know of it yet.
            Err(OperationError::Control(ControlError::Conflict { .. })) => Err(exists(&name)),
            written => written,
        }
    }

    /// The projects that the actor manages, by name.
    pub fn projects(&self, actor: &Actor) -> Vec<ProjectView> {
        let snapshot = self.control.snapshot();
        let own = snapshot.projects().filter(|project| actor.manages(project.name.as_str()));
        let mut views: Vec<ProjectView> = own.map(|project| view(&snapshot, project)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// One project.
    pub fn show_project(&self, actor: &Actor, name: &str) -> Result<ProjectView, OperationError> {
        Ok(view(&self.control.snapshot(), &*self.project(actor, name)?))
    }

    /// Deletes a project and everything that it has. Only operators can. `confirmed` is its name once more.
    pub async fn delete_project(&self, actor: &Actor, name: &str, confirmed: &str) -> Result<(), OperationError> {
        let outcome = self.delete(actor, name, confirmed).await;
        let what = Audited { action: "projects.delete", project: name, object: name, details: json!({}) };
        self.audited(actor, what, outcome).await
    }

    async fn delete(&self, actor: &Actor, name: &str, confirmed: &str) -> Result<(), OperationError> {
        actor.operates()?;
        let project = self.project(actor, name)?;
        if confirmed != name {
            return Err(OperationError::invalid(
                "confirm",
                "must be the name of the project: nothing of it can be brought back",
            ));
        }
        // Before it is marked: nobody would take it further.
        if self.store()?.is_replicated().await? {
            return Err(OperationError::Replicated);
        }
        let settings = ProjectDocument { deleted: true, ..ProjectDocument::default() };
        self.write(actor, &project.name, project.version, &settings).await?;
        deletion::request(self.store()?, name, actor.name()).await?;
        self.written().await;
        Ok(())
    }

    /// Changes settings of a project. `version`: only while that one is in force.
    pub async fn set_project(
        &self,
        actor: &Actor,
        name: &str,
        changes: &Changes,
        version: Option<u32>,
    ) -> Result<ProjectView, OperationError> {
        let outcome = self.set(actor, name, changes, version).await;
        let what = Audited { action: "projects.set", project: name, object: name, details: json!(changes) };
        self.audited(actor, what, outcome).await
    }

    async fn set(
        &self,
        actor: &Actor,
        name: &str,
        changes: &Changes,
        version: Option<u32>,
    ) -> Result<ProjectView, OperationError> {
        let mut project = self.project(actor, name)?;
        if version.is_some_and(|version| version != project.version) {
            // The caller may know of a later one than this process, and it must be that one that is changed.
            self.control.refresh().await?;
            project = self.project(actor, name)?;
        }
        if version.is_some_and(|version| version != project.version) {
            return Err(ControlError::Conflict { in_force: project.version }.into());
        }
        let settings = changed(actor, &project.settings, changes)?;
        fits(&self.control.snapshot(), &project.name, &settings)?;
        self.write(actor, &project.name, project.version, &settings).await
    }

    async fn write(
        &self,
        actor: &Actor,
        name: &ProjectName,
        replaces: u32,
        settings: &ProjectDocument,
    ) -> Result<ProjectView, OperationError> {
        // Numbers and words alone: it cannot fail.
        let document = serde_json::to_string(settings).unwrap_or_default();
        let (kind, by) = (Kind::Project, actor.name());
        let (project, document) = (name.as_str(), document.as_str());
        let new = New { kind, project, name: project, replaces, document, by };
        let version = self.store()?.create(&new).await?;
        self.written().await;
        let changed = time::text(self.control.now_ms());
        Ok(ProjectView { name: name.clone(), version, changed, settings: shown(settings) })
    }
}

/// Without what is nobody's business.
fn shown(settings: &ProjectDocument) -> ProjectDocument {
    ProjectDocument { hash_key_part: None, ..settings.clone() }
}

fn exists(name: &ProjectName) -> OperationError {
    OperationError::Exists { what: "project", name: name.to_string() }
}

fn view(snapshot: &Snapshot, project: &Project) -> ProjectView {
    let record = snapshot.record(Kind::Project, project.name.as_str(), project.name.as_str());
    ProjectView {
        name: project.name.clone(),
        version: project.version,
        changed: time::text(record.map_or(0, |record| record.created_ms)),
        settings: shown(&project.settings),
    }
}

/// The settings with changes. Each is checked by itself, so that an error names it.
fn changed(actor: &Actor, settings: &ProjectDocument, changes: &Changes) -> Result<ProjectDocument, OperationError> {
    let mut settings = settings.clone();
    for (name, value) in changes {
        let known = SETTINGS.iter().find(|(known, _)| known == name);
        let (_, is_of_operators) = known.ok_or_else(|| unknown(name))?;
        if *is_of_operators {
            actor.operates()?;
        }
        let mut document = serde_json::to_value(&settings).unwrap_or_default();
        if let Some(fields) = document.as_object_mut() {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        settings =
            serde_json::from_value(document).map_err(|error| OperationError::invalid(name, error.to_string()))?;
    }
    in_bounds(&settings)?;
    Ok(settings)
}

fn unknown(name: &str) -> OperationError {
    let known: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    OperationError::invalid(name, format!("is no setting of a project; there are {}", known.join(", ")))
}

fn in_bounds(settings: &ProjectDocument) -> Result<(), OperationError> {
    let within = |field: &str, found: Option<u64>, most: u64| match found {
        Some(found) if !(1..=most).contains(&found) => {
            Err(OperationError::invalid(field, format!("is {found}, and must be within 1 to {most}")))
        }
        _ => Ok(()),
    };
    let days = u64::from(MAX_RETENTION_DAYS);
    within("lateWindowDays", settings.late_window_days.map(u64::from), days)?;
    within("retentionDays", settings.retention_days.map(u64::from), days)?;
    within("dimensionValues", settings.dimension_values.map(u64::from), MAX_DIMENSION_VALUES.into())?;
    // Beyond, numbers of JSON are not exact everywhere.
    within("eventsPerDay", settings.events_per_day, 1 << 53)?;
    within("eventsBurst", settings.events_burst, 1 << 53)?;
    within("queriesPerMinute", settings.queries_per_minute, 1 << 53)?;
    match (settings.late_window_days, settings.retention_days) {
        (Some(late), Some(retention)) if late > retention => {
            let problem = format!("is {late}, and may be at most `retentionDays`, which is {retention}");
            Err(OperationError::invalid("lateWindowDays", problem))
        }
        _ => Ok(()),
    }
}

/// Raw events are partitioned by week and retention, and a batch holds events of any project: all retentions together have to stay below
/// the partitions that a batch may touch.
fn fits(snapshot: &Snapshot, name: &ProjectName, settings: &ProjectDocument) -> Result<(), OperationError> {
    let others = snapshot.projects().filter(|project| project.name != *name);
    let others = others.filter_map(|project| project.settings.retention_days);
    let retentions: BTreeSet<u16> = others.chain(settings.retention_days).chain([USUAL_RETENTION]).collect();
    let found: u32 = retentions.into_iter().map(retention_weeks).sum();
    if settings.retention_days.is_some() && found > MAX_PARTITIONS_PER_BATCH {
        let problem =
            "makes too many different retentions together with those of the other projects; use one that exists";
        return Err(OperationError::invalid("retentionDays", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tallyhouse_service::access::Scope;
    use tallyhouse_service::rate_limit::{LimitsOf, Tier};

    use super::*;
    use crate::{Control, FixedKey, FixedKeys};

    fn set(actor: &Actor, text: &str) -> Result<ProjectDocument, String> {
        let changes: Changes = serde_json::from_str(text).unwrap();
        changed(actor, &ProjectDocument::default(), &changes).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_set_and_taken_away_and_faults_are_named() {
        let operator = Actor::command_line();
        let some = set(&operator, r#"{"tier":"enterprise","retentionDays":30,"deadLetters":true}"#).unwrap();
        assert_eq!((some.retention_days, some.dead_letters), (Some(30), Some(true)));
        let asks = set(&operator, r#"{"tier":"free","queriesPerMinute":7}"#).unwrap().limits();
        assert_eq!(asks, LimitsOf::tier(Tier::Free).with_queries(Some(7)));
        let less = changed(&operator, &some, &serde_json::from_str(r#"{"retentionDays":null,"tier":null}"#).unwrap());
        assert_eq!(less.unwrap(), ProjectDocument { dead_letters: Some(true), ..ProjectDocument::default() });
        for (text, expected) in [
            (r#"{"tier":"gold"}"#, "`tier` unknown variant `gold`"),
            (r#"{"deleted":true}"#, "`deleted` is no setting"),
            (r#"{"retentionDays":0}"#, "`retentionDays` is 0"),
            (r#"{"queriesPerMinute":0}"#, "`queriesPerMinute` is 0"),
            (r#"{"retentionDays":"30"}"#, "`retentionDays` invalid type"),
            (r#"{"retentionDays":1e99}"#, "`retentionDays` invalid type"),
            (r#"{"retentionDays":5,"lateWindowDays":6}"#, "`lateWindowDays` is 6"),
            (r#"{"a\nb":1}"#, r"`a\nb` is no setting"),
        ] {
            let error = set(&operator, text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_others_would_pay_for_only_operators_set() {
        let mut keys = FixedKeys::default();
        keys.add("k", FixedKey::new("shop", "k", &[Scope::Admin]));
        let key = Control::fixed(keys).find("k").unwrap();
        let admin = Actor::of(&key.principal).unwrap();
        assert!(set(&admin, r#"{"retentionDays":30}"#).is_ok());
        for (name, of_operators) in SETTINGS {
            let error = set(&admin, &format!(r#"{{"{name}":null}}"#)).err();
            assert_eq!(error.is_some(), of_operators, "{name}: {error:?}");
        }
    }
}
