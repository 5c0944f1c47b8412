//! `tallyhouse store`: the embedded ClickHouse alone, for services in processes of their own on the same machine.
//!
//! ```text
//! ClickHouse -> tables … signal -> stop ClickHouse
//! ```
//!
//! A ClickHouse that ends unasked is started again, and its tables are kept open, as in [`crate::up`].

use tallyhouse_service::env::ConfigError;
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::migrations::Topology;
use tokio_util::sync::CancellationToken;

use crate::accounts::keeper::Keeper;
use crate::config::Config;
use crate::data_folder::{DataFolder, Part};
use crate::engine::Engine;
use crate::tables;
use crate::telemetry::Metrics;
use crate::up::{STOP_WITHIN, UpError, engine_options};

/// Starts ClickHouse, prepares its tables, and keeps it running until `stop`.
pub async fn store(config: Config, stop: CancellationToken) -> Result<(), UpError> {
    let Some(embedded) = &config.engine else {
        return Err(ConfigError::new("CLICKHOUSE_URL", "must not be set: the store is the embedded ClickHouse").into());
    };
    // Until ClickHouse has ended.
    let _data = DataFolder::open(&config.data, &[Part::Engine]).await?;
    let mut options = engine_options(&config, embedded, Metrics::register(&Registry::new())?)?;
    let accounts = Keeper::open(&config.data, &options.writer());
    options.accounts = accounts.accounts();
    let engine = tokio::select! {
        engine = Engine::start(options) => engine?,
        () = stop.cancelled() => return Ok(()),
    };
    let writer = engine.writer();
    let kept = async {
        tables::migrate(&writer, &Topology::Single).await?;
        tables::configure(&writer, config.tables).await?;
        tracing::info!(url = engine.http_url(), "the store is ready");
        tokio::select! {
            never = tables::keep_open(&writer) => match never {},
            never = accounts.keep(&engine) => match never {},
        }
    };
    let ended = tokio::select! {
        ended = kept => ended,
        () = stop.cancelled() => Ok(()),
    };
    engine.stop(STOP_WITHIN).await;
    ended
}
