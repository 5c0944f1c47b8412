//! Probes whether ClickHouse answers, and its version.

use std::time::Duration;

use tallyhouse_sql::Connection;
use tokio::time::{sleep, timeout};

use super::error::EngineError;

/// The versions that the migrations and the settings were tried on.
const SUPPORTED: &str = "26.";

const ATTEMPT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// Asks until a real user is answered. `/ping` would answer before the tables are loaded, and whoever asks.
pub(super) async fn version(connection: Connection) -> String {
    // Bound to no database: before the first migration there is none.
    let client = connection.server();
    loop {
        match timeout(ATTEMPT, client.query("SELECT version()").fetch_one::<String>()).await {
            Ok(Ok(version)) => return version,
            Ok(Err(error)) => tracing::debug!(%error, "ClickHouse does not answer yet"),
            Err(_) => tracing::debug!("ClickHouse does not answer yet"),
        }
        sleep(LOOK).await;
    }
}

/// Refuses what this version of Tallyhouse was not tried on.
pub(super) fn require_supported(version: String) -> Result<String, EngineError> {
    if version.starts_with(SUPPORTED) {
        Ok(version)
    } else {
        Err(EngineError::Version { found: version, expected: SUPPORTED })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_in_words_that_help() {
        assert!(require_supported("26.7.2.1".to_owned()).is_ok());
        let error = require_supported("18.16.1".to_owned()).unwrap_err().to_string();
        assert!(error.contains("18.16.1") && error.contains("TALLYHOUSE_ENGINE=library"), "{error}");
    }
}
