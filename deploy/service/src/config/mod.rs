//! What every service and command reads: the only file of this crate that names variables.

use crate::env::{self, ConfigError, Env};
use crate::keys::KeyRing;

/// `TALLYHOUSE_DEV`: well-known keys and passwords.
pub fn is_development(env: &dyn Env) -> Result<bool, ConfigError> {
    env::switch(env, "TALLYHOUSE_DEV")
}

/// The keys that are known: those of development mode, else none, which is warned of.
pub fn keys(env: &dyn Env) -> Result<KeyRing, ConfigError> {
    if is_development(env)? {
        return Ok(KeyRing::development());
    }
    tracing::warn!("there is no API key, so nobody is let in; TALLYHOUSE_DEV=1 accepts the development keys");
    Ok(KeyRing::default())
}

/// `TALLYHOUSE_LOG`: which log lines are written.
pub(crate) fn log_filter(env: &dyn Env) -> Result<tracing_subscriber::EnvFilter, ConfigError> {
    let directives = env.get("TALLYHOUSE_LOG").unwrap_or_else(|| "info".to_owned());
    tracing_subscriber::EnvFilter::try_new(&directives)
        .map_err(|error| ConfigError::new("TALLYHOUSE_LOG", format!("`{directives}` is not a log filter: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn nobody_is_known_but_in_development() {
        let known = |env: &BTreeMap<String, String>| keys(env).unwrap().find("demo-query-key").is_some();
        assert!(!known(&BTreeMap::new()));
        assert!(known(&BTreeMap::from([("TALLYHOUSE_DEV".to_owned(), "1".to_owned())])));
    }
}
