//! `tallyhouse store`: the embedded ClickHouse alone, for services in processes of their own on the same machine.
//!
//! ```text
//! ClickHouse -> migrations … signal -> stop ClickHouse
//! ```
//!
//! A ClickHouse that ends unasked is started again, as in [`crate::up`].

use prometheus::Registry;
use tallyhouse_service::env::ConfigError;
use tallyhouse_sql::runner;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::migrate;
use crate::up::{STOP_WITHIN, UpError, engine_options};

/// Starts ClickHouse, applies what is pending, and keeps it running until `stop`.
pub async fn store(config: Config, stop: CancellationToken) -> Result<(), UpError> {
    let Some(embedded) = &config.engine else {
        return Err(ConfigError::new("CLICKHOUSE_URL", "must not be set: the store is the embedded ClickHouse").into());
    };
    let options = engine_options(&config, embedded, Metrics::register(&Registry::new())?)?;
    let rendering = migrate::rendering(true);
    let engine = tokio::select! {
        engine = Engine::start(options) => engine?,
        () = stop.cancelled() => return Ok(()),
    };
    let writer = engine.writer();
    let migrated = tokio::select! {
        migrated = runner::up(&writer, &rendering) => migrated.map(drop),
        () = stop.cancelled() => Ok(()),
    };
    if migrated.is_ok() && !stop.is_cancelled() {
        tracing::info!(url = engine.http_url(), "the store is ready");
        stop.cancelled().await;
    }
    engine.stop(STOP_WITHIN).await;
    Ok(migrated?)
}
