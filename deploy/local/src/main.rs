//! `tallyhouse`: everything in one process.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use prometheus::Registry;
use tallyhouse::config::Config;
use tallyhouse::engine::{Engine, child};
use tallyhouse::metrics::Metrics;
use tallyhouse::{doctor, migrate, store, up};
use tallyhouse_service::env::ProcessEnv;
use tallyhouse_service::{lifecycle, telemetry};
use tallyhouse_sql::Connection;
use tallyhouse_sql::runner;
use tokio_util::sync::CancellationToken;

mod cli;

use cli::{Cli, Command, Migrate};

const STOP_WITHIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        // Before there is a second thread: ClickHouse takes the process over.
        Command::Engine(args) => child::run(&args).map(|never| match never {}).map_err(Into::into),
        Command::Up => in_runtime(run()),
        Command::Store => in_runtime(keep_store()),
        Command::Migrate(what) => in_runtime(migrations(what)),
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

/// On the given ClickHouse; else on the embedded one, which is started for it.
async fn migrations(what: Migrate) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::from_env(&ProcessEnv)?;
    match &config.engine {
        None => migrations_on(&tallyhouse_ingest::config::clickhouse(&ProcessEnv)?, false, what).await,
        Some(embedded) => {
            let options = up::engine_options(&config, embedded, Metrics::register(&Registry::new())?)?;
            let engine = Engine::start(options).await?;
            let outcome = migrations_on(&engine.writer(), true, what).await;
            engine.stop(STOP_WITHIN).await;
            outcome
        }
    }
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
async fn migrations_on(connection: &Connection, is_embedded: bool, what: Migrate) -> Result<ExitCode, Box<dyn Error>> {
    let rendering = migrate::rendering(is_embedded);
    if matches!(what, Migrate::Up) {
        runner::up(connection, &rendering).await?;
    }
    let report = migrate::Report::read(connection, &rendering).await?;
    print!("{report}");
    let is_fine = report.is_current() || matches!(what, Migrate::Status);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
