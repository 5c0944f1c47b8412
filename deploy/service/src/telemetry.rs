//! Logs: one JSON object per line on standard error, filtered by `TALLYHOUSE_LOG` (default `info`).

use crate::config;
use crate::env::{ConfigError, Env};

/// Starts logging. Call once, from `main`; a second call leaves the first in force.
pub fn init(env: &dyn Env) -> Result<(), ConfigError> {
    let filter = config::log_filter(env)?;
    let started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}
