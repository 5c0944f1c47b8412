//! The program `query-api`: the read path as a process of its own, against an existing ClickHouse.

use std::process::ExitCode;

use clap::Command;
use tallyhouse_query_api::config::settings::Variables;
use tallyhouse_query_api::{Config, Listeners, config, run};
use tallyhouse_service::env::{self, FlagsAndEnv};
use tallyhouse_service::lifecycle::{Stop, bind, block_on};
use tallyhouse_service::probe;
use tallyhouse_service::server::descriptors;
use tallyhouse_service::telemetry::{self, Start};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let (matches, env) = match env::from_command_line(command()) {
        Ok(read) => read,
        Err(error) => {
            telemetry::fatal("query-api", &error);
            return env::exit_code(&error);
        }
    };
    if matches.get_flag(probe::FLAG) {
        return probe::run(&env, config::admin_address(&env));
    }
    tallyhouse_service::memory::bound();
    descriptors::raise();
    let served: Result<(), Box<dyn std::error::Error>> =
        block_on(Box::pin(start(env))).map_err(Into::into).and_then(|served| served);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::fatal("query-api", &error);
            env::exit_code(error.as_ref())
        }
    }
}

fn command() -> Command {
    let about = "Answer questions over HTTP from a given ClickHouse, until ctrl-C";
    let program = Command::new("query-api").version(env!("CARGO_PKG_VERSION")).about(about);
    env::with::<Variables>(probe::with_flag(program))
}

async fn start(env: FlagsAndEnv) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::init("query-api", &env)?;
    let config = Config::from_env(&env).inspect_err(|_| env::warn_of_unknown(&env))?;
    Start {
        program: "query-api",
        version: env!("CARGO_PKG_VERSION"),
        mode: "query",
        addresses: &[
            ("QUERY_ADDR", config.address.to_string()),
            ("QUERY_ADMIN_ADDR", config.admin_address.to_string()),
        ],
        is_development: tallyhouse_service::config::is_development(&env)?,
    }
    .log();
    env::warn_of_unknown(&env);
    let idle = [config::without_effect(&env), tallyhouse_service::config::without_tls(&env)].concat();
    idle.iter().for_each(|warning| tracing::warn!("{warning}"));
    let deps = config::deps(&env)?;
    let listeners = Listeners {
        public: bind("QUERY_ADDR", config.address).await?,
        admin: bind("QUERY_ADMIN_ADDR", config.admin_address).await?,
    };
    let stop = Stop::on_signal(tallyhouse_service::config::shutdown_delay(&env)?, config.drain);
    let (control, ended) = (deps.control.clone(), CancellationToken::new());
    let keeping = tokio::spawn(control.run(ended.clone()));
    let served = Box::pin(run(config, deps, listeners, stop)).await;
    ended.cancel();
    keeping.await?;
    Ok(served?)
}
