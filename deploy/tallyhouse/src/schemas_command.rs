//! Runs `tallyhouse schemas`, and prints the result.

#![allow(clippy::print_stdout, reason = "the answer to a command")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use tallyhouse::attach::attach;
use tallyhouse::config::Config;
use tallyhouse::schemas::in_force;
use tallyhouse_control::schemas::{self, InForce, Level, LiveCatalogue, Registered, Who};
use tallyhouse_control::{ControlError, Kind};
use tallyhouse_schema::catalogue::EventTypeDeclaration;
use tallyhouse_schema::json_schema::compatibility::Break;
use tallyhouse_service::env::Env;

use crate::cli::{Schemas, Whose};

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// As the audit log names it.
const COMMAND_LINE: &str = "command line";

/// Carries a command out.
pub(crate) async fn schemas_command(env: &dyn Env, what: Schemas) -> Outcome {
    // Files first: a wrong one is told without ClickHouse.
    let files = match &what {
        Schemas::Apply { files, .. } | Schemas::Diff { files, .. } => read(files)?,
        Schemas::List { .. } | Schemas::Show { .. } | Schemas::Delete { .. } => Vec::new(),
    };
    let config = Config::from_env(env)?;
    let attached = Box::pin(attach(&config, env)).await?;
    let outcome = async {
        let catalogue = in_force(env, &attached.writer).await?;
        carried_out(&catalogue, what, &files).await
    };
    let outcome = outcome.await;
    attached.detach().await;
    outcome
}

/// A file and what it declares.
struct File {
    path: PathBuf,
    declaration: EventTypeDeclaration,
}

fn read(paths: &[PathBuf]) -> Result<Vec<File>, Box<dyn Error>> {
    let one = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| of(path, &error))?;
        let declaration = EventTypeDeclaration::read(&text).map_err(|error| of(path, &error))?;
        Ok(File { path: path.clone(), declaration })
    };
    paths.iter().map(one).collect()
}

fn of(path: &Path, error: &dyn Error) -> Box<dyn Error> {
    format!("{}: {error}", path.display()).into()
}

async fn carried_out(catalogue: &LiveCatalogue, what: Schemas, files: &[File]) -> Outcome {
    match what {
        Schemas::Apply { whose, .. } => apply(catalogue, &whose, files).await,
        Schemas::Diff { whose, .. } => diff(catalogue, &whose, files).await,
        Schemas::List { whose } => {
            list(&catalogue.declarations(project(&whose)).into_values().collect::<Vec<_>>(), whose.json);
            Ok(ExitCode::SUCCESS)
        }
        Schemas::Show { whose, event_type } => {
            let found = catalogue.declaration(project(&whose), &event_type);
            let found = found.ok_or_else(|| format!("`{event_type}` is not declared"))?;
            let text =
                if whose.json { json!(found).to_string() } else { serde_json::to_string_pretty(&found.declaration)? };
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Schemas::Delete { whose, event_type } => {
            let project = project(&whose);
            let replaces = version(catalogue, project, &event_type);
            let version = schemas::delete(catalogue, who(project), &event_type, replaces).await?;
            told(
                whose.json,
                &json!({"eventType": event_type, "version": version}),
                &format!("{event_type}  taken away (version {version})"),
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Each by itself: one that is refused does not keep the others back.
async fn apply(catalogue: &LiveCatalogue, whose: &Whose, files: &[File]) -> Outcome {
    let project = project(whose);
    let (mut results, mut refused) = (Vec::new(), 0);
    for File { path, declaration } in files {
        let event_type = declaration.event_type.as_str();
        let replaces = version(catalogue, project, event_type);
        match schemas::register(catalogue, who(project), declaration, replaces).await {
            Ok(Registered { version, is_unchanged, notes }) => {
                let what = if is_unchanged { "unchanged" } else { "registered" };
                if !whose.json {
                    println!("{event_type}  {what} (version {version})");
                    print!("{}", lines(&notes));
                }
                results.push(
                    json!({"eventType": event_type, "version": version, "unchanged": is_unchanged, "notes": notes}),
                );
            }
            Err(error) => {
                refused += 1;
                if !whose.json {
                    println!("{event_type}  refused: {}: {error}", path.display());
                }
                results.push(json!({"eventType": event_type, "error": error.to_string()}));
                if matches!(error, schemas::SchemaError::Control(ControlError::Unavailable)) {
                    return Err(error.into());
                }
            }
        }
    }
    if whose.json {
        println!("{}", Value::Array(results));
    }
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn diff(catalogue: &LiveCatalogue, whose: &Whose, files: &[File]) -> Outcome {
    let project = project(whose);
    let declared = catalogue.declarations(project);
    let (mut results, mut refused) = (Vec::new(), 0);
    for File { declaration, .. } in files {
        let event_type = declaration.event_type.as_str();
        let in_force = declared.get(event_type);
        let is_same = in_force.is_some_and(|in_force| in_force.declaration == *declaration);
        let (what, notes, error) = match schemas::propose(catalogue, project, declaration).await {
            Ok(_) if is_same => ("unchanged", Vec::new(), None),
            Ok(proposal) => (if in_force.is_some() { "changed" } else { "new" }, proposal.notes, None),
            Err(error) => {
                refused += 1;
                ("refused", Vec::new(), Some(error.to_string()))
            }
        };
        if !whose.json {
            println!("{event_type}  {what}{}", error.as_ref().map_or_else(String::new, |error| format!(": {error}")));
            print!("{}", lines(&notes));
        }
        results.push(json!({"eventType": event_type, "change": what, "notes": notes, "error": error}));
    }
    if whose.json {
        println!("{}", Value::Array(results));
    }
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The empty name is that of what all projects have.
fn project(whose: &Whose) -> &str {
    whose.project.as_deref().unwrap_or_default()
}

fn who(project: &str) -> Who<'_> {
    Who { project, by: COMMAND_LINE }
}

/// Of the level that is worked on; 0 when nothing is recorded there.
fn version(catalogue: &LiveCatalogue, project: &str, name: &str) -> u32 {
    catalogue.control().snapshot().record(Kind::Schema, project, name).map_or(0, |record| record.version)
}

fn lines(notes: &[Break]) -> String {
    notes.iter().map(|note| format!("  {note}\n")).collect()
}

fn told(is_json: bool, value: &Value, text: &str) {
    println!("{}", if is_json { value.to_string() } else { text.to_owned() });
}

fn list(declared: &[InForce], json: bool) {
    if json {
        println!("{}", json!(declared));
        return;
    }
    println!("{:<32} {:>7} {:<12} {:<8} {:<20} dimensions", "event type", "version", "of", "schema", "value");
    for InForce { version, level, declaration, .. } in declared {
        let level = match level {
            Level::Project => "project",
            Level::Installation => "installation",
            Level::Seed => "seed",
        };
        let mode = declaration.schema.as_ref().map_or("", |_| match declaration.mode {
            tallyhouse_schema::json_schema::Mode::Enforce => "enforce",
            tallyhouse_schema::json_schema::Mode::Report => "report",
            tallyhouse_schema::json_schema::Mode::Off => "off",
        });
        let combinations = declaration.combinations.iter().map(|names| names.join("+"));
        let dimensions = declaration.dimensions.iter().cloned().chain(combinations).collect::<Vec<_>>().join(", ");
        let value = declaration.value.as_deref().unwrap_or_default();
        println!("{:<32} {version:>7} {level:<12} {mode:<8} {value:<20} {dimensions}", declaration.event_type);
    }
}
