//! Runs `tallyhouse users`, and prints the result.

#![allow(clippy::print_stdout, reason = "the answer to a command")]

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;
use tallyhouse::accounts::commands::{Accounts, Listed, Made, Place, ToRun};
use tallyhouse::administration::Administration;
use tallyhouse::attach::attach;
use tallyhouse::config::{Config, remote};
use tallyhouse_service::env::Env;

use crate::cli::Users;
use crate::table::table;

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// The project that development has without a record.
const DEVELOPMENT: &str = "demo";

/// Carries a command out.
pub(crate) async fn users(env: &dyn Env, what: Users) -> Outcome {
    if let Users::List { project, json } = &what
        && let Some(accounts) = Administration::accounts(env, project.as_deref()).await?
    {
        list(&accounts, *json);
        return Ok(ExitCode::SUCCESS);
    }
    if remote(env)?.is_some() {
        return Err(
            "accounts are made where ClickHouse is, which decides who comes in: run this there, without TALLYHOUSE_URL"
                .into(),
        );
    }
    let config = Config::from_env(env)?;
    let attached = Box::pin(attach(&config, env)).await?;
    let native = config.engine.as_ref().and_then(|engine| engine.tcp_port).map(|port| format!("127.0.0.1:{port}"));
    let is_known = |project: &str| config.is_development && project == DEVELOPMENT;
    let outcome = async {
        let (writer, engine) = (&attached.writer, attached.engine.as_ref());
        let servers = attached.shards.servers().into_iter().map(|(_, server)| server).collect();
        let is_embedded = config.engine.is_some();
        let accounts = Accounts::open(Place { writer, servers, is_embedded, engine, native }).await?;
        match what {
            Users::Create { project, tool, name, json } => {
                let made = accounts.create(&project, tool, &name.unwrap_or_default(), is_known(&project)).await?;
                show(&made, json);
            }
            Users::Rotate { account, json } => show(&accounts.rotate(&account).await?, json),
            Users::List { project, json } => list(&accounts.list(project.as_deref()), json),
            Users::Delete { account } => {
                let left = accounts.delete(&account).await?;
                print!("{}", to_be_run(&left));
                println!(
                    "{account} {}",
                    if left.statements.is_empty() { "is deleted" } else { "is deleted once these have run" }
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    let outcome = outcome.await;
    attached.detach().await;
    outcome
}

fn show(made: &Made, json: bool) {
    if json {
        println!("{}", json!(made));
        return;
    }
    let Made { account, project, tool, password, database, http, native, to_run } = made;
    let (password, native) = (password.expose(), native.as_deref().unwrap_or("not spoken (CLICKHOUSE_TCP_PORT)"));
    print!(
        "account   {account}   ({tool}, project {project})
password  {password}   (shown once)
database  {database}
HTTP      {http}
native    {native}

curl --user '{account}:{password}' '{http}' --data-binary 'SHOW TABLES'
"
    );
    print!("{}", to_be_run(to_run));
}

fn to_be_run(ToRun { statements, servers }: &ToRun) -> String {
    if statements.is_empty() {
        return String::new();
    }
    let head = format!("\n-- Not in force yet: run these as an administrator, on {}.\n", servers.join(" and "));
    statements.iter().fold(head, |mut text, statement| {
        // Writing to a `String` cannot fail.
        let _ok = writeln!(text, "{statement};");
        text
    })
}

fn list(accounts: &[Listed], json: bool) {
    if json {
        println!("{}", json!(accounts));
        return;
    }
    let row = |Listed { account, project, tool, note, created_at, .. }: &Listed| {
        [account, project, tool, created_at, note].map(String::clone).to_vec()
    };
    let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
    print!("{}", table(&["ACCOUNT", "PROJECT", "FOR", "CREATED", "NOTE"], &rows));
}
