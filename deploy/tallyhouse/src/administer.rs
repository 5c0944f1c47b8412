//! Runs `tallyhouse projects`, `keys` and `audit`, and prints the result.

#![allow(clippy::print_stdout, reason = "the answer to a command")]

use std::error::Error;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;
use tallyhouse::administration::{Administration, AdministrationError};
use tallyhouse_control::audit::AuditLine;
use tallyhouse_control::operations::keys::{KeyView, MadeKey, NewKey, OVERLAP_MS};
use tallyhouse_control::operations::projects::{Changes, ProjectView};
use tallyhouse_service::env::Env;

use crate::cli::{Audit, Keys, Projects};
use crate::table::{printable, table};

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Opens, works, and stops what was started whatever came of it.
async fn administer(
    env: &dyn Env,
    work: impl AsyncFnOnce(&Administration) -> Result<(), AdministrationError>,
) -> Outcome {
    let administration = Box::pin(Administration::open(env)).await?;
    let outcome = work(&administration).await;
    administration.close().await;
    outcome?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn projects(env: &dyn Env, what: Projects) -> Outcome {
    administer(env, async |administration| {
        match what {
            Projects::Create { name, settings, json } => {
                show_project(&administration.create_project(&name, &changes(settings)).await?, json);
            }
            Projects::List { json } => list(&administration.projects().await?, json, &PROJECTS, project_row),
            Projects::Show { name, json } => show_project(&administration.project(&name).await?, json),
            Projects::Delete { name, confirm } => {
                administration.delete_project(&name, &confirm).await?;
                println!(
                    "{} is deleted: nobody is let in any more, and a running query API removes what it has",
                    printable(&name)
                );
            }
            Projects::Set { name, settings, json } => {
                show_project(&administration.set_project(&name, &changes(settings)).await?, json);
            }
        }
        Ok(())
    })
    .await
}

pub(crate) async fn keys(env: &dyn Env, what: Keys) -> Outcome {
    administer(env, async |administration| {
        match what {
            Keys::Create { project, operator, scopes, origins, expires, note, json } => {
                let new =
                    NewKey { project: project.map(String::from), operator, scopes, origins, expires_ms: expires, note };
                show_made(&administration.create_key(new).await?, json);
            }
            Keys::List { project, json } => {
                list(&administration.keys(project.as_deref()).await?, json, &KEYS, key_row);
            }
            Keys::Rotate { id, overlap, json } => {
                show_made(&administration.rotate_key(&id, overlap.unwrap_or(OVERLAP_MS)).await?, json);
            }
            Keys::Revoke { id, json } => {
                let key = administration.revoke_key(&id).await?;
                if json {
                    print_json(&key);
                } else {
                    println!("{} is revoked: every process refuses it within 5 s", printable(&key.id));
                }
            }
        }
        Ok(())
    })
    .await
}

pub(crate) async fn audit(env: &dyn Env, what: Audit) -> Outcome {
    administer(env, async |administration| {
        let Audit::List { project, limit, json } = what;
        list(&administration.audit(project.as_deref(), limit).await?, json, &AUDIT, audit_row);
        Ok(())
    })
    .await
}

/// `name=value` as JSON has it: a value that is no JSON is a text, none takes the setting away.
fn changes(settings: Vec<(String, String)>) -> Changes {
    let value = |text: String| match text.as_str() {
        "" => Value::Null,
        _ => serde_json::from_str(&text).unwrap_or(Value::String(text)),
    };
    settings.into_iter().map(|(name, text)| (name, value(text))).collect()
}

fn show_project(project: &ProjectView, json: bool) {
    if json {
        return print_json(project);
    }
    println!("project   {}\nversion   {} of {}", project.name, project.version, project.changed);
    if let Value::Object(settings) = serde_json::to_value(&project.settings).unwrap_or_default() {
        settings.iter().for_each(|(name, value)| println!("{name:<9} {}", printable(&value.to_string())));
    }
}

fn show_made(made: &MadeKey, json: bool) {
    if json {
        return print_json(made);
    }
    let scopes = scopes(&made.scopes);
    let project = made.project.as_deref().unwrap_or("(operator)");
    println!("id        {}\nproject   {project}\nscopes    {scopes}", printable(&made.id));
    println!("expires   {}", made.expires.as_deref().unwrap_or("never"));
    if let Some(until) = &made.previous_until {
        println!("old text  good until {until}");
    }
    println!("key       {}   (shown once)", made.key);
}

fn scopes(scopes: &[tallyhouse_service::access::Scope]) -> String {
    scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(",")
}

const PROJECTS: [&str; 4] = ["PROJECT", "TIER", "VERSION", "CHANGED"];

fn project_row(project: &ProjectView) -> Vec<String> {
    let tier = serde_json::to_value(project.settings.tier).unwrap_or_default();
    let tier = tier.as_str().unwrap_or_default().to_owned();
    vec![project.name.to_string(), tier, project.version.to_string(), project.changed.clone()]
}

const KEYS: [&str; 7] = ["ID", "PROJECT", "SCOPES", "STATE", "EXPIRES", "LAST USED", "NOTE"];

fn key_row(key: &KeyView) -> Vec<String> {
    let state = serde_json::to_value(key.state).unwrap_or_default().as_str().unwrap_or_default().to_owned();
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let project = or(&key.project, "(operator)");
    let (expires, used) = (or(&key.expires, "never"), or(&key.last_used, "never"));
    vec![key.id.clone(), project, scopes(&key.scopes), state, expires, used, key.note.clone()]
}

const AUDIT: [&str; 6] = ["AT", "PROJECT", "ACTOR", "ACTION", "OBJECT", "RESULT"];

fn audit_row(line: &AuditLine) -> Vec<String> {
    let AuditLine { at, project, actor, action, object, result, .. } = line.clone();
    vec![at, project, actor, action, object, result]
}

fn list<T: Serialize>(entries: &[T], json: bool, head: &[&str], row: fn(&T) -> Vec<String>) {
    if json {
        return print_json(entries);
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    print!("{}", table(head, &rows));
}

fn print_json<T: Serialize + ?Sized>(value: &T) {
    println!("{}", serde_json::to_string(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_json_or_text_or_nothing() {
        let given = ["tier=free", "retentionDays=30", "deadLetters=true", "priority=", "x=\"30\""];
        let pairs = given.iter().map(|text| text.split_once('=').unwrap());
        let changes = changes(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
        let expected = r#"{"tier":"free","retentionDays":30,"deadLetters":true,"priority":null,"x":"30"}"#;
        assert_eq!(Value::Object(changes), serde_json::from_str::<Value>(expected).unwrap());
    }
}
