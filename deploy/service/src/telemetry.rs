//! Logs: one JSON object a line on standard error, filtered by `TALLYHOUSE_LOG` (default `info`).

use tracing_subscriber::EnvFilter;

use crate::env::{ConfigError, Env};

/// Starts logging. Call once, from `main`; a second call leaves the first in force.
pub fn init(env: &dyn Env) -> Result<(), ConfigError> {
    let directives = env.get("TALLYHOUSE_LOG").unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| ConfigError::new("TALLYHOUSE_LOG", format!("`{directives}` is not a log filter: {error}")))?;
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
