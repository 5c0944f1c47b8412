//! Declarations of event types, as commands need them.

use std::error::Error;
use std::sync::Arc;

use tallyhouse_control::schemas::{self, Level, SchemaError, Seeds, Who};
use tallyhouse_control::{Control, ControlOptions, ControlStore, LiveCatalogue};
use tallyhouse_schema::DimSet;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::Env;
use tallyhouse_sql::Connection;

/// Those that are in force, as ClickHouse has them now. They can be changed with it.
pub async fn in_force(env: &dyn Env, writer: &Connection) -> Result<LiveCatalogue, Box<dyn Error>> {
    let store = ControlStore::new(writer, Some(writer));
    let control = Control::open(ControlOptions {
        service: "command",
        data: None,
        store: Some(store),
        fixed: tallyhouse_control::FixedKeys::default(),
        clock: Arc::new(now_ms),
    });
    control.refresh().await?;
    Ok(LiveCatalogue::new(control, Seeds::from_env(env)?))
}

/// Whoever changes something here, as the audit log names it.
pub const COMMAND_LINE: &str = "command line";

/// Notes what a backfill of all events, of a project or of all, has counted since `began_ms`: under one set, or under all that are declared.
pub async fn counted(
    catalogue: &LiveCatalogue,
    project: Option<&str>,
    set: Option<&DimSet>,
    began_ms: i64,
) -> Result<(), SchemaError> {
    let projects: Vec<String> = match project {
        Some(project) => vec![project.to_owned()],
        None => catalogue.all().own.into_keys().chain([String::new()]).collect(),
    };
    for project in &projects {
        let level = if project.is_empty() { Level::Installation } else { Level::Project };
        let declared = catalogue.declarations(project).into_iter();
        for (name, in_force) in declared.filter(|(_, in_force)| in_force.level == level && !in_force.since.is_empty()) {
            let who = Who { project, by: COMMAND_LINE };
            let is_counted = |key: &str| set.is_none_or(|set| set.key() == key);
            schemas::counted(catalogue, who, &name, is_counted, began_ms).await?;
            let known = catalogue.declaration(project, &name).map(|known| known.since).unwrap_or_default();
            for key in in_force.since.keys().filter(|key| is_counted(key.as_str()) && known.contains_key(*key)) {
                tracing::warn!(
                    project,
                    event_type = name,
                    set = key,
                    "declared within the last minute: run it once more, then"
                );
            }
        }
    }
    Ok(())
}
