//! `tallyhouse`: everything in one process.

use std::error::Error;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::FromArgMatches;
use rustix::fs::Mode;
use rustix::process::umask;
use tallyhouse::attach::{attach, attach_or_make};
use tallyhouse::backfill::{BATCH, Backfill};
use tallyhouse::config::Config;
use tallyhouse::engine::child;
use tallyhouse::invalidation::Invalidator;
use tallyhouse::servers::Servers;
use tallyhouse::{config, doctor, migrate, rollups, schemas, store, up};
use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::kafka::pins;
use tallyhouse_ingest::projects::OwnTopics;
use tallyhouse_schema::DimSet;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::{self, Env};
use tallyhouse_service::lifecycle::{Stop, block_on};
use tallyhouse_service::server::descriptors;
use tallyhouse_service::telemetry::{self, Start};
use tallyhouse_sql::rollups::rebuild;
use tallyhouse_sql::rollups::verify::PAUSE;
use tallyhouse_sql::{Connection, Shards, durability, tiers};

mod administer;
mod backup_command;
mod cli;
mod dead_letters;
mod erase_command;
mod schemas_command;
mod service_command;
mod table;
mod users;

use cli::{Cli, Command, Configuration, Migrate, Rollups, Topics};
use dead_letters::dead_letters;
use erase_command::{erase, erasures};
use schemas_command::schemas_command;
use users::users;

fn main() -> ExitCode {
    // Nothing that is written here is for other users, and files of libraries have no mode of their own.
    umask(Mode::RWXG | Mode::RWXO);
    let (matches, env) = match env::from_command_line(cli::command()) {
        Ok(read) => read,
        Err(error) => {
            telemetry::fatal("tallyhouse", &error);
            return env::exit_code(&error);
        }
    };
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    tallyhouse_service::memory::bound();
    let is_service = matches!(command, Command::Up | Command::Store);
    let outcome = match command {
        // Before there is a second thread: ClickHouse takes the process over.
        Command::Engine(args) => child::run(&args).map(|never| match never {}).map_err(Into::into),
        Command::Up => as_service(&env, run(&env)),
        Command::Store => as_service(&env, keep_store(&env)),
        Command::Migrate(what) => in_runtime(&env, warned(&env, migrations(&env, what))),
        Command::Rollups(what) => in_runtime(&env, warned(&env, rollups_command(&env, what))),
        Command::Topics(what) => topics(&env, what),
        Command::Dlq(what) => in_runtime(&env, warned(&env, dead_letters(&env, what))),
        Command::Schemas(what) => in_runtime(&env, warned(&env, schemas_command(&env, what))),
        Command::Users(what) => in_runtime(&env, warned(&env, users(&env, what))),
        Command::Projects(what) => in_runtime(&env, warned(&env, administer::projects(&env, what))),
        Command::Keys(what) => in_runtime(&env, warned(&env, administer::keys(&env, what))),
        Command::Audit(what) => in_runtime(&env, warned(&env, administer::audit(&env, what))),
        Command::Erase(what) => in_runtime(&env, warned(&env, erase(&env, what))),
        Command::Erasures(what) => in_runtime(&env, warned(&env, erasures(&env, what))),
        Command::Backup(what) => in_runtime(&env, warned(&env, backup_command::backup(&env, what))),
        Command::Config(what) => describe(&what),
        Command::Service(what) => service_command::service(&env, what),
        Command::Doctor { running: false } => examined(doctor::examine(&env)),
        Command::Doctor { running: true } => examined(doctor::running::examine(&env)),
    };
    outcome.unwrap_or_else(|error: Box<dyn Error>| {
        // A service's last line is read by machines, a command's by people.
        if is_service {
            telemetry::fatal("tallyhouse", &error);
        } else {
            eprintln!("tallyhouse: {error}");
        }
        env::exit_code(error.as_ref())
    })
}

fn as_service(
    env: &dyn Env,
    work: impl Future<Output = Result<ExitCode, Box<dyn Error>>>,
) -> Result<ExitCode, Box<dyn Error>> {
    telemetry::init("tallyhouse", env)?;
    block_on(work)?
}

fn in_runtime(
    env: &dyn Env,
    work: impl Future<Output = Result<ExitCode, Box<dyn Error>>>,
) -> Result<ExitCode, Box<dyn Error>> {
    telemetry::init_command("tallyhouse", env)?;
    block_on(work)?
}

/// Does what a command asks for, after a word on misspelt variables.
async fn warned<T>(env: &dyn Env, work: impl Future<Output = T>) -> T {
    env::warn_of_unknown(env);
    work.await
}

async fn run(env: &dyn Env) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::from_env(env).inspect_err(|_| env::warn_of_unknown(env))?;
    Start {
        program: "tallyhouse",
        version: env!("CARGO_PKG_VERSION"),
        mode: config.mode(),
        addresses: &up::addresses(env)?,
        is_development: config.is_development,
    }
    .log();
    env::warn_of_unknown(env);
    config::without_effect(env).iter().for_each(|warning| tracing::warn!("{warning}"));
    descriptors::raise();
    let stop = Stop::on_signal(tallyhouse_service::config::shutdown_delay(env)?, up::stop_budget(env)?);
    Box::pin(up::up(config, env, stop)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn keep_store(env: &dyn Env) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::from_env(env).inspect_err(|_| env::warn_of_unknown(env))?;
    Start {
        program: "tallyhouse",
        version: env!("CARGO_PKG_VERSION"),
        mode: "store",
        addresses: &[],
        is_development: config.is_development,
    }
    .log();
    env::warn_of_unknown(env);
    // Nobody sends it requests through a load balancer.
    let stop = Stop::on_signal(Duration::ZERO, up::STOP_WITHIN);
    Box::pin(store::store(config, stop.token())).await?;
    Ok(ExitCode::SUCCESS)
}

async fn migrations(env: &dyn Env, what: Migrate) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::from_env(env)?;
    let attached = match what {
        Migrate::Up => attach_or_make(&config, env).await?,
        Migrate::Status | Migrate::Check => attach(&config, env).await?,
    };
    let servers = match config.engine {
        Some(_) => Ok(Servers::embedded(attached.writer.clone())),
        None => Servers::given(attached.shards.clone(), env),
    };
    let outcome = match servers {
        Ok(servers) => migrations_on(&config, &servers, what).await,
        Err(error) => Err(error.into()),
    };
    attached.detach().await;
    outcome
}

/// Works on the given ClickHouse, of a cluster on one shard after the other; else on the embedded one, which is started for it when it does not
/// run.
async fn on_each_shard(
    env: &dyn Env,
    work: impl AsyncFn(&Shards, &Connection) -> Result<ExitCode, Box<dyn Error>>,
) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::from_env(env)?;
    let attached = attach(&config, env).await?;
    let mut outcome = Ok(ExitCode::SUCCESS);
    for (number, shard) in (1..).zip(attached.shards.iter()) {
        if attached.shards.is_cluster() {
            eprintln!("shard {number}, {}", shard.url);
        }
        outcome = match (outcome, work(&attached.shards, shard).await) {
            (Ok(before), Ok(ExitCode::SUCCESS)) => Ok(before),
            (_, now) => now,
        };
        if outcome.is_err() {
            break;
        }
    }
    attached.detach().await;
    outcome
}

async fn rollups_command(env: &dyn Env, what: Rollups) -> Result<ExitCode, Box<dyn Error>> {
    let work = async |shards: &Shards, connection: &Connection| {
        // Its type is hidden: with it, that of the whole command is too deep for the compiler.
        let work: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(rollups_on(env, (shards.home(), connection), what.clone()));
        work.await
    };
    on_each_shard(env, work).await
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
async fn rollups_on(
    env: &dyn Env,
    (home, connection): (&Connection, &Connection),
    what: Rollups,
) -> Result<ExitCode, Box<dyn Error>> {
    let client = connection.client();
    let selection = |range: cli::Range, table: Option<&str>| {
        rollups::selection(range.project.map(String::from), range.from, range.to, table)
    };
    match what {
        Rollups::Verify { range, json, limit } => {
            let catalogues = schemas::in_force(env, home).await?.all();
            let found = rollups::verify(&client, &catalogues, &selection(range, None), limit).await?;
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
            let mut invalidator = Invalidator::from_env(env)?;
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
            let (catalogue, began_ms) = (schemas::in_force(env, connection).await?, now_ms());
            let catalogues = catalogue.all();
            let projects = tallyhouse_ingest::config::projects(env)?;
            let is_everything = range.from.is_none() && range.to.is_none();
            let everything = cli::Range { from: range.from.or(Some(0)), ..range };
            let backfill = Backfill {
                client: &client,
                catalogues: &catalogues,
                most_values: &|project| projects.of(project).dimension_values,
                selection: selection(everything, None),
                set: dimension.map(|names| DimSet::of(names.split(','))),
                batch: BATCH,
                gate: Duration::from_secs(gate_seconds),
                pause: PAUSE,
            };
            let mut invalidator = Invalidator::from_env(env)?;
            let done = backfill.run(async |days| rollups::invalidate(&mut invalidator, days).await).await;
            if let Some(pending) = invalidator.finish().await {
                eprintln!("tallyhouse: {pending}");
            }
            let done = done?;
            if is_everything {
                schemas::counted(&catalogue, backfill.selection.project.as_deref(), backfill.set.as_ref(), began_ms)
                    .await?;
            }
            println!(
                "{} events are counted under more dimensions, {} days of projects were rebuilt",
                done.events, done.days
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
async fn migrations_on(config: &Config, servers: &Servers, what: Migrate) -> Result<ExitCode, Box<dyn Error>> {
    let away = match what {
        Migrate::Up => servers.prepare(config.tables).await?,
        Migrate::Status | Migrate::Check => Vec::new(),
    };
    let all = servers.shards.servers();
    let mut is_current = away.is_empty();
    for (number, server) in all.iter().filter(|(_, server)| away.iter().all(|away| away.url != server.url)) {
        if all.len() > 1 {
            println!("shard {number}, {}", server.url);
        }
        let topology = servers.topology(*number, server).await?;
        let report = migrate::Report::read(server, &topology).await?;
        print!("{report}");
        println!("{:<32} {}", "fsync of inserts", durability::status(server).await?);
        println!("{:<32} {}", "raw events are moved", tiers::status(server).await?);
        is_current &= report.is_current();
    }
    away.iter().for_each(|away| eprintln!("tallyhouse: {away}"));
    let is_fine = is_current || matches!(what, Migrate::Status);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn topics(env: &dyn Env, what: Topics) -> Result<ExitCode, Box<dyn Error>> {
    telemetry::init_command("tallyhouse", env)?;
    env::warn_of_unknown(env);
    let Topics::Widen { topic } = what;
    let kafka = KafkaConfig::from_env(env, OwnTopics::default())?.ok_or("KAFKA_BROKERS is not set")?;
    let topic = topic.unwrap_or(kafka.topics.shared);
    let (before, now) = pins::widen(&kafka.brokers, &kafka.group, &topic)?;
    println!("events of {topic} were spread over {before} partitions, and are now over {now}");
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn examined(findings: impl Future<Output = Vec<doctor::Finding>>) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let findings = runtime.block_on(findings);
    for finding in &findings {
        println!("{finding}");
    }
    let is_fine = findings.iter().all(|finding| !finding.is_failure());
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::print_stdout, reason = "the answer to a command")]
fn describe(what: &Configuration) -> Result<ExitCode, Box<dyn Error>> {
    let Configuration::Reference = what;
    print!("{}", config::reference::markdown());
    Ok(ExitCode::SUCCESS)
}
