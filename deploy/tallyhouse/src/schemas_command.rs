//! Runs `tallyhouse schemas`, and prints the result.

#![allow(clippy::print_stdout, reason = "the answer to a command")]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use tallyhouse::administration::RemoteSchemas;
use tallyhouse::attach::attach;
use tallyhouse::config::{self, Config};
use tallyhouse::schemas::{COMMAND_LINE, in_force};
use tallyhouse_control::Kind;
use tallyhouse_control::schemas::{self, InForce, Level, LiveCatalogue, Registered, Who};
use tallyhouse_schema::catalogue::EventTypeDeclaration;
use tallyhouse_schema::json_schema::compatibility::Break;
use tallyhouse_service::env::Env;

use crate::cli::{SchemaScope, Schemas};
use crate::table::{printable, table};

type Failure = Box<dyn Error>;
type Outcome = Result<ExitCode, Failure>;

/// Carries a command out.
pub(crate) async fn schemas_command(env: &dyn Env, what: Schemas) -> Outcome {
    let scope = scope(&what);
    // Files first: a wrong one is told without ClickHouse.
    let files = match &what {
        Schemas::Apply { files, .. } | Schemas::Diff { files, .. } => match read(files) {
            Ok(files) => files,
            Err(wrong) => return Ok(refused(scope.json, wrong)),
        },
        Schemas::List { .. } | Schemas::Show { .. } | Schemas::Delete { .. } => Vec::new(),
    };
    if config::remote(env)?.is_some() {
        let project = scope.project.as_deref();
        let project = project.ok_or("with TALLYHOUSE_URL, name the project with --project: a key has one project")?;
        let remote = RemoteSchemas::open(env, project).await?.ok_or("TALLYHOUSE_URL is not set")?;
        return Box::pin(carried_out(&Declarations::There(remote), &what, &files)).await;
    }
    let config = Config::from_env(env)?;
    let attached = Box::pin(attach(&config, env)).await?;
    let outcome = async {
        let catalogue = in_force(env, &attached.writer).await?;
        let project = scope.project.as_deref().unwrap_or_default().to_owned();
        if !project.is_empty() && catalogue.control().snapshot().project(&project).is_none() {
            let hint = "`tallyhouse projects list` lists those that there are";
            return Err(format!("there is no project `{project}`: {hint}").into());
        }
        Box::pin(carried_out(&Declarations::Here { catalogue, project }, &what, &files)).await
    };
    let outcome = outcome.await;
    attached.detach().await;
    outcome
}

const fn scope(what: &Schemas) -> &SchemaScope {
    match what {
        Schemas::Apply { scope, .. }
        | Schemas::Diff { scope, .. }
        | Schemas::List { scope }
        | Schemas::Show { scope, .. }
        | Schemas::Delete { scope, .. } => scope,
    }
}

/// Where declarations are kept.
#[allow(clippy::large_enum_variant, reason = "a command has one")]
enum Declarations {
    /// `project`: empty for what all projects have.
    Here {
        catalogue: LiveCatalogue,
        project: String,
    },
    There(RemoteSchemas),
}

impl Declarations {
    async fn all(&self) -> Result<Vec<InForce>, Failure> {
        match self {
            Self::Here { catalogue, project } => Ok(catalogue.declarations(project).into_values().collect()),
            Self::There(remote) => Ok(remote.list().await?),
        }
    }

    async fn one(&self, name: &str) -> Result<Option<InForce>, Failure> {
        match self {
            Self::Here { catalogue, project } => Ok(catalogue.declaration(project, name)),
            Self::There(remote) => Ok(remote.show(name).await?),
        }
    }

    async fn register(&self, declaration: &EventTypeDeclaration) -> Result<Registered, Failure> {
        match self {
            Self::Here { catalogue, project } => {
                let replaces = version(catalogue, project, &declaration.event_type);
                let who = Who { project, by: COMMAND_LINE };
                Ok(schemas::register(catalogue, who, declaration, replaces).await?)
            }
            Self::There(remote) => Ok(remote.register(declaration).await?),
        }
    }

    async fn propose(&self, declaration: &EventTypeDeclaration) -> Result<Vec<Break>, Failure> {
        match self {
            Self::Here { catalogue, project } => Ok(schemas::propose(catalogue, project, declaration).await?.notes),
            Self::There(remote) => Ok(remote.propose(declaration).await?),
        }
    }

    async fn delete(&self, name: &str) -> Result<u32, Failure> {
        match self {
            Self::Here { catalogue, project } => {
                let replaces = version(catalogue, project, name);
                Ok(schemas::delete(catalogue, Who { project, by: COMMAND_LINE }, name, replaces).await?)
            }
            Self::There(remote) => Ok(remote.delete(name).await?),
        }
    }
}

/// Of the level that is worked on; 0 when nothing is recorded there.
fn version(catalogue: &LiveCatalogue, project: &str, name: &str) -> u32 {
    catalogue.control().snapshot().record(Kind::Schema, project, name).map_or(0, |record| record.version)
}

/// A file and what it declares.
struct File {
    path: PathBuf,
    declaration: EventTypeDeclaration,
}

/// All files, or what is wrong with each that is.
fn read(paths: &[PathBuf]) -> Result<Vec<File>, Vec<String>> {
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    for path in paths {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        match text.and_then(|text| EventTypeDeclaration::read(&text).map_err(|error| error.to_string())) {
            Ok(declaration) => files.push(File { path: path.clone(), declaration }),
            Err(error) => wrong.push(format!("{}: {error}", path.display())),
        }
    }
    if wrong.is_empty() { Ok(files) } else { Err(wrong) }
}

fn refused(is_json: bool, wrong: Vec<String>) -> ExitCode {
    let results = wrong.into_iter().map(|error| (format!("refused: {}\n", printable(&error)), json!({"error": error})));
    print(is_json, results);
    ExitCode::FAILURE
}

async fn carried_out(declarations: &Declarations, what: &Schemas, files: &[File]) -> Outcome {
    match what {
        Schemas::Apply { scope, .. } => apply(declarations, scope, files).await,
        Schemas::Diff { scope, .. } => diff(declarations, scope, files).await,
        Schemas::List { scope } => {
            list(&declarations.all().await?, scope.json);
            Ok(ExitCode::SUCCESS)
        }
        Schemas::Show { scope, event_type } => {
            let found = declarations.one(event_type).await?;
            let found = found.ok_or_else(|| format!("`{event_type}` is not declared"))?;
            let text =
                if scope.json { json!(found).to_string() } else { serde_json::to_string_pretty(&found.declaration)? };
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Schemas::Delete { scope, event_type } => {
            let version = declarations.delete(event_type).await?;
            let text = format!("{}  taken away (version {version})", printable(event_type));
            println!(
                "{}",
                if scope.json { json!({"eventType": event_type, "version": version}).to_string() } else { text }
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Each by itself: one that is refused does not keep the others back.
async fn apply(declarations: &Declarations, scope: &SchemaScope, files: &[File]) -> Outcome {
    let (mut results, mut is_fine) = (Vec::new(), true);
    for File { path, declaration } in files {
        let event_type = declaration.event_type.as_str();
        results.push(match declarations.register(declaration).await {
            Ok(Registered { version, is_unchanged, notes }) => {
                let what = if is_unchanged { "unchanged" } else { "registered" };
                (
                    format!("{}  {what} (version {version})\n{}", printable(event_type), lines(&notes)),
                    json!({"eventType": event_type, "version": version, "unchanged": is_unchanged, "notes": notes}),
                )
            }
            Err(error) => {
                is_fine = false;
                let error = error.to_string();
                let why = printable(&format!("{}: {error}", path.display()));
                (
                    format!("{}  refused: {why}\n", printable(event_type)),
                    json!({"eventType": event_type, "error": error}),
                )
            }
        });
    }
    print(scope.json, results);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn diff(declarations: &Declarations, scope: &SchemaScope, files: &[File]) -> Outcome {
    let (mut results, mut is_fine) = (Vec::new(), true);
    for File { declaration, .. } in files {
        let event_type = declaration.event_type.as_str();
        let in_force = declarations.one(event_type).await?;
        let is_same = in_force.as_ref().is_some_and(|in_force| in_force.declaration == *declaration);
        let (what, notes, error) = match declarations.propose(declaration).await {
            Ok(_) if is_same => ("unchanged", Vec::new(), None),
            Ok(notes) => (if in_force.is_some() { "changed" } else { "new" }, notes, None),
            Err(error) => ("refused", Vec::new(), Some(error.to_string())),
        };
        is_fine &= error.is_none();
        let why = error.as_ref().map_or_else(String::new, |error| format!(": {}", printable(error)));
        results.push((
            format!("{}  {what}{why}\n{}", printable(event_type), lines(&notes)),
            json!({"eventType": event_type, "change": what, "notes": notes, "error": error}),
        ));
    }
    print(scope.json, results);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints results: as lines, or as one JSON array.
fn print(is_json: bool, results: impl IntoIterator<Item = (String, Value)>) {
    if is_json {
        println!("{}", results.into_iter().map(|(_, value)| value).collect::<Value>());
    } else {
        results.into_iter().for_each(|(text, _)| print!("{text}"));
    }
}

fn lines(notes: &[Break]) -> String {
    notes.iter().map(|note| format!("  {}\n", printable(&note.to_string()))).collect()
}

fn list(declared: &[InForce], json: bool) {
    if json {
        println!("{}", json!(declared));
        return;
    }
    let rows: Vec<Vec<String>> = declared.iter().map(row).collect();
    print!("{}", table(&["event type", "version", "of", "schema", "value", "dimensions"], &rows));
}

fn row(InForce { version, level, declaration, .. }: &InForce) -> Vec<String> {
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
    let value = declaration.value.clone().unwrap_or_default();
    let name = declaration.event_type.clone();
    vec![name, version.to_string(), level.to_owned(), mode.to_owned(), value, dimensions]
}
