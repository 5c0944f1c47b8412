//! The control plane of a service, from its variables.

use std::sync::Arc;

use clap::Args;
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::config::{DataFolder, is_development};
use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::Connection;

use crate::handle::{Control, ControlOptions};
use crate::kind::CANARY_PROJECT;
use crate::snapshot::{FixedKey, FixedKeys};
use crate::store::ControlStore;

/// The key under which users are hashed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub struct UserHashKey {
    /// 32 hexadecimal digits, under which users are hashed: only with `CLICKHOUSE_URL`, then the same on every instance; without it the query API
    /// erases nobody (default: generated)
    #[arg(env = "USER_HASH_KEY", value_parser = |text: &str| parse_key(text).ok_or("is not 32 hexadecimal digits"))]
    pub user_hash_key: Option<[u8; 16]>,
}

/// The key of the canary.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watching")]
pub struct CanaryKey {
    /// The key of the canary, at least 16 characters: an ingester takes the canary's events with it, and the query API sends them with it; the same for
    /// all (`tallyhouse up` makes its own)
    #[arg(env = "CANARY_KEY", value_parser = canary_text)]
    pub canary_key: Option<Secret>,
}

/// Short enough to be guessed is no key.
fn canary_text(text: &str) -> Result<Secret, String> {
    const LEAST: usize = 16;
    let text = text.trim();
    if text.len() < LEAST {
        return Err(format!("has fewer than {LEAST} characters"));
    }
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Secret::new(text))
    } else {
        Err("has other than printable ASCII characters".to_owned())
    }
}

/// `CANARY_KEY`, where it is set.
pub fn canary_key(env: &dyn Env) -> Result<Option<Secret>, ConfigError> {
    Ok(env::read::<CanaryKey>(env)?.canary_key)
}

/// Reads 32 hexadecimal digits.
pub fn parse_key(text: &str) -> Option<[u8; 16]> {
    let text = text.trim();
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)).flatten()
}

/// `USER_HASH_KEY`, where it is set.
pub fn user_hash_key(env: &dyn Env) -> Result<Option<[u8; 16]>, ConfigError> {
    Ok(env::read::<UserHashKey>(env)?.user_hash_key)
}

/// What is known at the start: the copy in `TALLYHOUSE_DATA`, and with `TALLYHOUSE_DEV` the keys of development. Without a `writer` nothing
/// can be created here.
pub fn open(
    env: &dyn Env,
    service: &'static str,
    reader: &Connection,
    writer: Option<&Connection>,
) -> Result<Control, ConfigError> {
    open_with(env, service, reader, (writer, canary_key(env)?.as_ref()))
}

/// The same with another key of the canary.
pub fn open_with(
    env: &dyn Env,
    service: &'static str,
    reader: &Connection,
    (writer, canary): (Option<&Connection>, Option<&Secret>),
) -> Result<Control, ConfigError> {
    let mut fixed = fixed_keys(env)?;
    if let Some(key) = canary {
        fixed.add(key.expose(), FixedKey::new(CANARY_PROJECT, "canary", &[Scope::Ingest]));
    }
    Ok(Control::open(ControlOptions {
        service,
        data: Some(env::read::<DataFolder>(env)?.tallyhouse_data),
        store: Some(ControlStore::new(reader, writer)),
        fixed,
        clock: Arc::new(now_ms),
    }))
}

/// The keys that are known without ClickHouse: those of development, else none.
pub fn fixed_keys(env: &dyn Env) -> Result<FixedKeys, ConfigError> {
    Ok(if is_development(env)? { FixedKeys::development() } else { FixedKeys::default() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn nobody_is_known_but_in_development() {
        let env = |value: &str| BTreeMap::from([("TALLYHOUSE_DEV".to_owned(), value.to_owned())]);
        assert!(fixed_keys(&BTreeMap::new()).unwrap().is_empty());
        let control = Control::fixed(fixed_keys(&env("1")).unwrap());
        assert!(control.find("demo-query-key").is_ok() && control.find("demo-query-key ").is_err());
    }
}
