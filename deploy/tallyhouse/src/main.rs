//! `tallyhouse`: everything in one process.

use std::error::Error;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tallyhouse::attach::attach;
use tallyhouse::backfill::{BATCH, Backfill};
use tallyhouse::config::Config;
use tallyhouse::engine::child;
use tallyhouse::invalidation::Invalidator;
use tallyhouse::{doctor, migrate, rollups, store, tables, up};
use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::kafka::pins;
use tallyhouse_ingest::projects::OwnTopics;
use tallyhouse_schema::DimSet;
use tallyhouse_service::env::ProcessEnv;
use tallyhouse_service::{lifecycle, telemetry};
use tallyhouse_sql::Connection;
use tallyhouse_sql::durability;
use tallyhouse_sql::rollups::rebuild;
use tallyhouse_sql::rollups::verify::PAUSE;
use tokio_util::sync::CancellationToken;

mod cli;
mod dead_letters;

use cli::{Cli, Command, Migrate, Rollups, Topics};
use dead_letters::dead_letters;

fn main() -> ExitCode {
    tallyhouse_service::memory::bound();
    let outcome = match Cli::parse().command {
        // Before there is a second thread: ClickHouse takes the process over.
        Command::Engine(args) => child::run(&args).map(|never| match never {}).map_err(Into::into),
        Command::Up => in_runtime(run()),
        Command::Store => in_runtime(keep_store()),
        Command::Migrate(what) => in_runtime(migrations(what)),
        Command::Rollups(what) => in_runtime(rollups_command(what)),
        Command::Topics(what) => topics(what),
        Command::Dlq(what) => in_runtime(dead_letters(what)),
        Command::Doctor => Ok(examine()),
    };
    outcome.unwrap_or_else(|error: Box<dyn Error>| {
        eprintln!("tallyhouse: {error}");
        ExitCode::FAILURE
    })
}

fn in_runtime(work: impl Future<Output = Result<ExitCode, Box<dyn Error>>>) -> Result<ExitCode, Box<dyn Error>> {
    telemetry::init(&ProcessEnv)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

async fn run() -> Result<ExitCode, Box<dyn Error>> {
    Box::pin(up::up(Config::from_env(&ProcessEnv)?, &ProcessEnv, stopped_by_signal())).await?;
    Ok(ExitCode::SUCCESS)
}

async fn keep_store() -> Result<ExitCode, Box<dyn Error>> {
    Box::pin(store::store(Config::from_env(&ProcessEnv)?, stopped_by_signal())).await?;
    Ok(ExitCode::SUCCESS)
}

fn stopped_by_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        lifecycle::stop_signal().await;
        signal.cancel();
    });
    stop
}

async fn migrations(what: Migrate) -> Result<ExitCode, Box<dyn Error>> {
    on_clickhouse(async |connection, is_embedded| migrations_on(connection, is_embedded, what).await).await
}

/// Works on the given ClickHouse; else on the embedded one, which is started for it when it does not run.
async fn on_clickhouse(
    work: impl AsyncFnOnce(&Connection, bool) -> Result<ExitCode, Box<dyn Error>>,
) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::from_env(&ProcessEnv)?;
    let attached = attach(&config, &ProcessEnv).await?;
    let outcome = work(&attached.writer, config.engine.is_some()).await;
    attached.detach().await;
    outcome
}

async fn rollups_command(what: Rollups) -> Result<ExitCode, Box<dyn Error>> {
    let work = async |connection: &Connection, _| {
        // Its type is hidden: with it, that of the whole command is too deep for the compiler.
        let work: Pin<Box<dyn Future<Output = _>>> = Box::pin(rollups_on(connection, what));
        work.await
    };
    on_clickhouse(work).await
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
async fn rollups_on(connection: &Connection, what: Rollups) -> Result<ExitCode, Box<dyn Error>> {
    let client = connection.client();
    let selection =
        |range: cli::Range, table: Option<&str>| rollups::selection(range.project, range.from, range.to, table);
    match what {
        Rollups::Verify { range, json, limit } => {
            let catalogue = tallyhouse_ingest::config::catalogue(&ProcessEnv)?;
            let found = rollups::verify(&client, &catalogue, &selection(range, None), limit).await?;
            print!("{}", if json { found.json() } else { found.to_string() });
            Ok(if found.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Rollups::Stats { project, json } => {
            let found = rollups::stats(&client, project.as_deref()).await?;
            print!("{}", if json { found.json() } else { found.to_string() });
            Ok(ExitCode::SUCCESS)
        }
        Rollups::Rebuild { range, table, all, gate_seconds } => {
            let options = rebuild::Options {
                selection: selection(range, table.as_deref()),
                is_everything: all,
                gate: Duration::from_secs(gate_seconds),
                pause: PAUSE,
            };
            let mut invalidator = Invalidator::from_env(&ProcessEnv)?;
            let done =
                rebuild::rebuild(&client, &options, async |days| rollups::invalidate(&mut invalidator, days).await)
                    .await;
            if let Some(pending) = invalidator.finish().await {
                eprintln!("tallyhouse: {pending}");
            }
            let done = done?;
            println!(
                "{} partitions rebuilt, {} hours and days recomputed; inserts were kept away for at most {} ms",
                done.partitions,
                done.cells,
                done.longest_gate.as_millis()
            );
            Ok(ExitCode::SUCCESS)
        }
        Rollups::Backfill { range, dimension, gate_seconds } => {
            let catalogue = tallyhouse_ingest::config::catalogue(&ProcessEnv)?;
            let projects = tallyhouse_ingest::config::projects(&ProcessEnv)?;
            let everything = cli::Range { from: range.from.or(Some(0)), ..range };
            let backfill = Backfill {
                client: &client,
                catalogue: &catalogue,
                most_values: &|project| projects.of(project).dimension_values,
                selection: selection(everything, None),
                set: dimension.map(|names| DimSet::of(names.split(','))),
                batch: BATCH,
                gate: Duration::from_secs(gate_seconds),
                pause: PAUSE,
            };
            let mut invalidator = Invalidator::from_env(&ProcessEnv)?;
            let done = backfill.run(async |days| rollups::invalidate(&mut invalidator, days).await).await;
            if let Some(pending) = invalidator.finish().await {
                eprintln!("tallyhouse: {pending}");
            }
            let done = done?;
            println!(
                "{} events are counted under more dimensions, {} days of projects were rebuilt",
                done.events, done.days
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
async fn migrations_on(connection: &Connection, is_embedded: bool, what: Migrate) -> Result<ExitCode, Box<dyn Error>> {
    let rendering = migrate::rendering(is_embedded);
    if matches!(what, Migrate::Up) {
        tables::prepare(connection, &rendering, Config::from_env(&ProcessEnv)?.fsync).await?;
    }
    let report = migrate::Report::read(connection, &rendering).await?;
    print!("{report}");
    println!("{:<32} {}", "fsync of inserts", durability::status(connection).await?);
    let is_fine = report.is_current() || matches!(what, Migrate::Status);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn topics(what: Topics) -> Result<ExitCode, Box<dyn Error>> {
    let Topics::Widen { topic } = what;
    let kafka = KafkaConfig::from_env(&ProcessEnv, OwnTopics::default())?.ok_or("KAFKA_BROKERS is not set")?;
    let topic = topic.unwrap_or(kafka.topics.shared);
    let (before, now) = pins::widen(&kafka.brokers, &kafka.group, &topic)?;
    println!("events of {topic} were spread over {before} partitions, and are now over {now}");
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn examine() -> ExitCode {
    let findings = doctor::examine(&ProcessEnv);
    for finding in &findings {
        println!("{finding}");
    }
    let is_fine = findings.iter().all(|finding| finding.outcome.is_ok());
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
