//! `query-api`: the read path as a process of its own, against a given ClickHouse.

use std::process::ExitCode;

use tallyhouse_query_api::{Config, Deps, Listeners, config, run};
use tallyhouse_schema::Catalogue;
use tallyhouse_service::env::ProcessEnv;
use tallyhouse_service::keys::KeyRing;
use tallyhouse_service::lifecycle::{bind, stop_signal};
use tallyhouse_service::telemetry;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(start()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("query-api: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), Box<dyn std::error::Error>> {
    let env = ProcessEnv;
    telemetry::init(&env)?;
    let config = Config::from_env(&env)?;
    let keys = if config::is_development(&env)? { KeyRing::development() } else { KeyRing::default() };
    if keys.is_empty() {
        tracing::warn!("there is no API key, so nobody is let in; TALLYHOUSE_DEV=1 accepts the development keys");
    }
    let listeners = Listeners {
        public: bind("QUERY_ADDR", config.address).await?,
        admin: bind("QUERY_ADMIN_ADDR", config.admin_address).await?,
    };
    tracing::info!(address = %config.address, admin = %config.admin_address, "query-api is listening");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        stop_signal().await;
        stop.cancel();
    });
    let connection = config::clickhouse(&env)?;
    let mut deps = Deps::new(connection.clone(), keys, Catalogue::built_in()?);
    deps.writer = config::clickhouse_writer(&env, &connection);
    deps.analyst = config::analyst(&env)?;
    Box::pin(run(config, deps, listeners, shutdown)).await?;
    Ok(())
}
