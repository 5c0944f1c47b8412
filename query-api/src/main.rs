//! `query-api`: the read path as a process of its own, against a given ClickHouse.

use std::process::ExitCode;

use tallyhouse_query_api::{Config, Listeners, config, run};
use tallyhouse_service::env::ProcessEnv;
use tallyhouse_service::lifecycle::{bind, stop_signal};
use tallyhouse_service::telemetry;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    tallyhouse_service::memory::bound();
    let served =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(Box::pin(start())));
    match served {
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
    let deps = config::deps(&env)?;
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
    Box::pin(run(config, deps, listeners, shutdown)).await?;
    Ok(())
}
