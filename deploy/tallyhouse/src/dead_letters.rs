//! Runs `tallyhouse dlq`, and prints the result.

#![allow(clippy::print_stdout, reason = "the answer to a command")]

use std::error::Error;
use std::process::ExitCode;

use tallyhouse::attach::{Attached, attach};
use tallyhouse::config::{self, Config};
use tallyhouse::dlq::{self, Filters, Sender, Sent};
use tallyhouse_ingest::dead_letters::{DeadLetter, DeadLetterState};
use tallyhouse_service::config::own_listener;
use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_service::secret::Secret;
use tallyhouse_service::tls::ClientTls;
use tallyhouse_sql::Connection;

use crate::cli::Dlq;

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Carries a command out.
pub(crate) async fn dead_letters(env: &dyn Env, what: Dlq) -> Outcome {
    let attached = Box::pin(attach(&Config::from_env(env)?, env)).await?;
    let outcome = carry_out(env, &attached, what).await;
    attached.detach().await;
    outcome
}

async fn carry_out(env: &dyn Env, attached: &Attached, what: Dlq) -> Outcome {
    match what {
        Dlq::List { filters, json } => list(attached, &filters, json).await,
        Dlq::Show { id } => show(attached, id).await,
        Dlq::Replay { filters, url, key, dry_run } => {
            let key = key.map(Secret::new).map_or_else(|| config::replay_key(env), |key| Ok(Some(key)))?;
            let (url, tls) = match url {
                Some(url) => (url, None),
                None => own_ingest(env)?,
            };
            replay(attached, &filters, Target { url, tls, key, dry_run }).await
        }
        Dlq::Discard { filters, dry_run } => discard(attached, &filters, dry_run).await,
    }
}

/// Those of each shard, the oldest of all within the limit: what becomes of a dead letter is noted where it is.
async fn find<'a>(
    attached: &'a Attached,
    filters: &Filters,
) -> Result<Vec<(&'a Connection, Vec<DeadLetter>)>, Box<dyn Error>> {
    let mut found = Vec::new();
    for shard in attached.shards.iter() {
        found.push((shard, dlq::find(shard, filters).await??));
    }
    let mut ages: Vec<_> = found.iter().flat_map(|(_, found)| found).map(age).collect();
    ages.sort_unstable();
    if let Some((failed_at, id)) = ages.get(filters.limit as usize).map(|(at, id)| (*at, (*id).to_owned())) {
        found.iter_mut().for_each(|(_, found)| found.retain(|one| age(one) < (failed_at, &id)));
    }
    Ok(found)
}

fn age(dead_letter: &DeadLetter) -> (i64, &str) {
    (dead_letter.failed_at, &dead_letter.id)
}

/// The same, wherever they are, the oldest first.
async fn find_all(attached: &Attached, filters: &Filters) -> Result<Vec<DeadLetter>, Box<dyn Error>> {
    let found = find(attached, filters).await?;
    let mut all: Vec<_> = found.into_iter().flat_map(|(_, dead_letters)| dead_letters).collect();
    all.sort_by(|one, other| age(one).cmp(&age(other)));
    Ok(all)
}

fn count(found: &[(&Connection, Vec<DeadLetter>)]) -> usize {
    found.iter().map(|(_, dead_letters)| dead_letters.len()).sum()
}

async fn list(attached: &Attached, filters: &Filters, json: bool) -> Outcome {
    let dead_letters = find_all(attached, filters).await?;
    if json {
        dead_letters.iter().for_each(|dead_letter| println!("{}", dlq::json_line(dead_letter)));
    } else {
        print!("{}", dlq::table(&dead_letters));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(attached: &Attached, id: String) -> Outcome {
    let filters = Filters { id: Some(id.clone()), state: "all".to_owned(), limit: 1, ..Filters::default() };
    match find_all(attached, &filters).await?.first() {
        Some(dead_letter) => print!("{}", dlq::details(dead_letter)),
        None => return Err(format!("there is no dead letter `{id}`").into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The ingester whose settings this command shares.
fn own_ingest(env: &dyn Env) -> Result<(String, Option<ClientTls>), ConfigError> {
    let tls = own_listener(env)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    Ok((format!("{scheme}://{}/v1/events", tallyhouse_ingest::config::address(env)?), tls))
}

struct Target {
    url: String,
    /// As the system believes, without.
    tls: Option<ClientTls>,
    key: Option<Secret>,
    dry_run: bool,
}

async fn replay(attached: &Attached, filters: &Filters, target: Target) -> Outcome {
    let Some(project) = &filters.project else {
        return Err(
            "replay needs --project: a key is one project's, and events of others would be counted there".into()
        );
    };
    let found = find(attached, filters).await?;
    if target.dry_run {
        println!("{} dead letters would be sent again", count(&found));
        return Ok(ExitCode::SUCCESS);
    }
    let key = target.key.ok_or("replay needs a key of the project: --key or TALLYHOUSE_KEY")?;
    let url = target.url;
    println!("sending to {url}; the API does not tell whose key it is: it must be one of `{project}`");
    let sender = Sender::new(&url, target.tls.as_ref(), &key)?;
    let (mut replayed, mut open) = (0, 0);
    let each = found.iter().flat_map(|(shard, dead_letters)| dead_letters.iter().map(move |one| (*shard, one)));
    for (shard, dead_letter) in each {
        let why = match dlq::replay(shard, &sender, dead_letter).await? {
            Sent::Replayed => {
                replayed += 1;
                continue;
            }
            Sent::Rejected { code, message } => format!("{code}: {message}"),
            Sent::Kept(why) => why.to_string(),
        };
        open += 1;
        println!("{}", dlq::printable(&format!("{} stays open: {why}", dead_letter.id)));
    }
    println!("{replayed} replayed, {open} still open");
    Ok(if open == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn discard(attached: &Attached, filters: &Filters, dry_run: bool) -> Outcome {
    let found = find(attached, filters).await?;
    if dry_run {
        println!("{} dead letters would be discarded", count(&found));
    } else {
        for (shard, dead_letters) in &found {
            dlq::mark(shard, dead_letters, DeadLetterState::Discarded).await?;
        }
        println!("{} discarded", count(&found));
    }
    Ok(ExitCode::SUCCESS)
}
