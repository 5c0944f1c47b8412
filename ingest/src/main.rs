//! `ingest`: the write path alone, against a given ClickHouse.

use std::process::ExitCode;

use clap::Command;
use tallyhouse_control::LiveCatalogue;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::schemas::Seeds;
use tallyhouse_ingest::config::settings::Variables;
use tallyhouse_ingest::{Deps, Ingest, config};
use tallyhouse_service::admin::Admin;
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::env::{self, FlagsAndEnv};
use tallyhouse_service::health::Health;
use tallyhouse_service::lifecycle::{self, Stop};
use tallyhouse_service::probe;
use tallyhouse_service::server::telemetry::ListenerMetrics;
use tallyhouse_service::server::{Limits, Server, descriptors};
use tallyhouse_service::telemetry::{self, Start};
use tallyhouse_service::tls::Tls;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let (matches, env) = match env::from_command_line(command()) {
        Ok(read) => read,
        Err(error) => {
            telemetry::fatal("ingest", &error);
            return env::exit_code(&error);
        }
    };
    if matches.get_flag(probe::FLAG) {
        return probe::run(&env, config::Config::from_env(&env).map(|config| config.admin_address));
    }
    tallyhouse_service::memory::bound();
    descriptors::raise();
    let served: Result<(), Box<dyn std::error::Error>> =
        lifecycle::block_on(run(env)).map_err(Into::into).and_then(|served| served);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::fatal("ingest", &error);
            env::exit_code(error.as_ref())
        }
    }
}

fn command() -> Command {
    let about = "Take events over HTTP or from Kafka and store them in a given ClickHouse, until ctrl-C";
    let program = Command::new("ingest").version(env!("CARGO_PKG_VERSION")).about(about);
    env::with::<Variables>(probe::with_flag(program))
}

async fn run(env: FlagsAndEnv) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::init("ingest", &env)?;
    let config = config::Config::from_env(&env).inspect_err(|_| env::warn_of_unknown(&env))?;
    let address = config.address;
    Start {
        program: "ingest",
        version: env!("CARGO_PKG_VERSION"),
        mode: config.mode(),
        addresses: &[("INGEST_ADDR", address.to_string()), ("INGEST_ADMIN_ADDR", config.admin_address.to_string())],
        is_development: tallyhouse_service::config::is_development(&env)?,
    }
    .log();
    env::warn_of_unknown(&env);
    let idle = [config::without_effect(&env), tallyhouse_service::config::without_tls(&env)].concat();
    idle.iter().for_each(|warning| tracing::warn!("{warning}"));
    let shards = config::shards(&env)?;
    let control = tallyhouse_control::config::open(&env, "ingest", shards.home(), Some(shards.home()))?;
    let admin = Admin { registry: tallyhouse_service::metrics::Registry::new(), health: Health::default() };
    let tls = tallyhouse_service::config::open_tls(config.tls.as_ref(), &admin.registry, &admin.health)?;
    // Somebody else makes them.
    let tables_ready = CancellationToken::new();
    tables_ready.cancel();
    let deps = Deps {
        shards,
        control: control.clone(),
        catalogue: LiveCatalogue::new(control.clone(), Seeds::from_env(&env)?),
        user_hash_key: InstallationKey::new(config::user_hash_key(&env)?),
        admin: admin.clone(),
        days: DayVersions::default(),
        tables_ready,
        local_store: None,
        tls: tls.clone(),
    };
    let admin_listener = lifecycle::bind("INGEST_ADMIN_ADDR", config.admin_address).await?;
    let (drain, guard) = (config.drain, config.admin_guard.clone());
    let stop = Stop::on_signal(tallyhouse_service::config::shutdown_delay(&env)?, drain);
    let health = admin.health.clone();
    let ingest = Ingest::new(config, deps)?;
    let listener = match ingest.takes_events() {
        true => Some(lifecycle::bind("INGEST_ADDR", address).await?),
        false => None,
    };

    // The admin port outlives the public one: a drain can be watched.
    let admin_stop = Stop::default();
    let admin_server = Server {
        what: "admin",
        listener: admin_listener,
        router: guard.protect(admin.router()),
        limits: Limits::ADMIN,
        metrics: ListenerMetrics::NONE,
        tls: tls.as_ref().map(Tls::admin),
    };
    let admin_server = tokio::spawn(admin_server.serve(admin_stop.clone(), drain));
    let announced = stop.clone();
    tokio::spawn(async move {
        announced.announced().await;
        health.begin_drain();
    });
    let done = CancellationToken::new();
    let keeping = tokio::spawn(control.run(done.clone()));
    let ended = ingest.run(listener, stop).await;
    done.cancel();
    keeping.await?;
    admin_stop.stop();
    admin_server.await?;
    Ok(ended?)
}
